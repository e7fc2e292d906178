//! Putting packets on the wire for one transport: header, extensions, sealing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::report::Traffic;
use super::{DropReason, ExtensionIds, SendArena, SubscriptionConfig, TransportKey};
use crate::packet::{Extensions, Packet, form_for, write_extensions};
use crate::rewrite::Suspended;
use crate::rtcp;
use crate::rtp::{Form, Header, Writer};
use crate::srtp::{OVERHEAD_MAX, Outbound};

/// Room for header, CSRC-free extensions and tag beside the payload in bytes: 12 + 4, a dependency
/// descriptor of 255, and ten small elements.
const HEADROOM: usize = 512;

/// Longest compound RTCP packet in bytes, so that it fits every path.
const RTCP_MAX: usize = 1180;

/// Bytes of retransmission credit that a transport may save up.
const RTX_CREDIT_MAX: u32 = 256 * 1024;

/// Credit at the start in bytes.
const RTX_CREDIT_INITIAL: u32 = 64 * 1024;

/// Ended streams whose packet indices are remembered per transport.
const RETIRED_MAX: usize = 65_536;

/// The wire side of one subscription that stays the same for all its packets.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) ssrc: u32,
    pub(super) ids: ExtensionIds,
    mid: SmallVec<[u8; 16]>,
    /// The receiver knows the SSRC's m-line: mid is not sent any more.
    pub(super) mid_known: bool,
    /// Some id or the mid needs the two-byte form.
    wide: bool,
}

impl Line {
    pub(super) fn new(config: &SubscriptionConfig) -> Self {
        let ids = config.extensions;
        let all = [
            ids.mid,
            ids.transport_cc,
            ids.abs_send_time,
            ids.abs_capture_time,
            ids.audio_level,
            ids.orientation,
            ids.playout_delay,
            ids.dependency_descriptor,
        ];
        let mid: SmallVec<[u8; 16]> = config.mid.as_bytes().iter().copied().take(255).collect();
        let wide = all.into_iter().flatten().any(|id| id > 14) || mid.len() > 16;
        Self {
            ssrc: config.ssrc,
            ids,
            mid_known: mid.is_empty(),
            mid,
            wide,
        }
    }

    fn form(&self, descriptor: Option<&[u8]>) -> Form {
        if self.wide {
            Form::TwoByte
        } else if self.ids.dependency_descriptor.is_some() {
            form_for(descriptor)
        } else {
            Form::OneByte
        }
    }
}

/// One packet to be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outgoing<'a> {
    pub(super) header: Header,
    /// SRTP packet index.
    pub(super) index: u64,
    /// Where the extensions come from.
    pub(super) packet: &'a Packet,
    /// Value of the playout delay extension, which need not be the packet's own.
    pub(super) playout_delay: Option<[u8; 3]>,
    pub(super) payload: &'a [u8],
    /// 24 bits of 6.18 fixed-point seconds.
    pub(super) send_time: u32,
}

/// The sending state of one transport.
#[derive(Debug)]
pub(super) struct Egress {
    pub(super) key: TransportKey,
    slot: usize,
    pub(super) outbound: Outbound,
    transport_seq: u16,
    rtx_credit: u32,
    /// Where SSRCs that ended stand, so that no packet index is used twice with these keys.
    retired: BTreeMap<u32, Retired>,
    /// What the peer says it can receive in bit/s (REMB); congestion control will refine it.
    pub(super) estimate_bps: Option<u64>,
    pub(super) traffic: Traffic,
}

/// Where an SSRC stands that carries nothing now.
#[derive(Debug, Clone, Copy)]
pub(super) enum Retired {
    /// A subscription's: another one may go on where it ended. The time is that of its last packet.
    Media(Suspended, Option<Instant>),
    /// Of retransmissions: the next packet index.
    Repair(u64),
}

impl Egress {
    pub(super) fn new(key: TransportKey, slot: usize, outbound: Outbound) -> Self {
        Self {
            key,
            slot,
            outbound,
            transport_seq: 0,
            rtx_credit: RTX_CREDIT_INITIAL,
            retired: BTreeMap::new(),
            estimate_bps: None,
            traffic: Traffic::default(),
        }
    }

    /// Bit/s that may be sent; `None` while nothing is known about the path.
    pub(super) fn budget_bps(&self) -> Option<u64> {
        self.estimate_bps
    }

    /// Where `ssrc` stands if it was used before.
    pub(super) fn revive(&mut self, ssrc: u32) -> Option<Retired> {
        self.retired.remove(&ssrc)
    }

    /// Remembers where an ended SSRC stands.
    pub(super) fn retire(&mut self, ssrc: u32, at: Retired) {
        if self.retired.len() < RETIRED_MAX {
            self.retired.insert(ssrc, at);
        }
    }

    /// Writes and seals a packet; returns its length in bytes on the wire.
    #[inline]
    pub(super) fn send(
        &mut self,
        line: &Line,
        outgoing: &Outgoing<'_>,
        arena: &mut SendArena,
    ) -> Result<usize, DropReason> {
        let buffer = arena
            .reserve(outgoing.payload.len() + HEADROOM + OVERHEAD_MAX)
            .ok_or(DropReason::ArenaFull)?;
        let transport_seq = self.transport_seq;
        let header_len =
            header(line, outgoing, transport_seq, buffer).ok_or(DropReason::TooLarge)?;
        let sealed = self
            .outbound
            .seal_rtp_from(buffer, header_len, outgoing.payload, outgoing.index)
            .map_err(|_| DropReason::Seal)?;
        arena.commit(self.slot, self.key, sealed);
        self.transport_seq = transport_seq.wrapping_add(1);
        self.traffic.sent_bytes += sealed as u64;
        Ok(sealed)
    }

    /// Earns retransmission credit: a quarter of what is sent.
    #[inline]
    pub(super) fn earn(&mut self, bytes: usize) {
        let earned = u32::try_from(bytes / 4).unwrap_or(0);
        self.rtx_credit = (self.rtx_credit + earned).min(RTX_CREDIT_MAX);
    }

    /// Takes credit for a retransmission; false when there is not enough.
    pub(super) fn spend(&mut self, bytes: usize) -> bool {
        let left = u32::try_from(bytes)
            .ok()
            .and_then(|bytes| self.rtx_credit.checked_sub(bytes));
        self.rtx_credit = left.unwrap_or(self.rtx_credit);
        left.is_some()
    }

    /// Writes and seals a compound RTCP packet; nothing when `fill` writes nothing.
    pub(super) fn send_rtcp(
        &mut self,
        arena: &mut SendArena,
        fill: impl FnOnce(&mut rtcp::Writer<'_>),
    ) {
        let Some(buffer) = arena.reserve(RTCP_MAX + OVERHEAD_MAX) else {
            return;
        };
        let Some(room) = buffer.get_mut(..RTCP_MAX) else {
            return;
        };
        let mut writer = rtcp::Writer::new(room);
        fill(&mut writer);
        let len = writer.len();
        if len == 0 {
            return;
        }
        if let Ok(sealed) = self.outbound.seal_rtcp(buffer, len) {
            arena.commit(self.slot, self.key, sealed);
            self.traffic.sent_bytes += sealed as u64;
        }
    }
}

#[inline]
fn header(
    line: &Line,
    outgoing: &Outgoing<'_>,
    transport_seq: u16,
    buffer: &mut [u8],
) -> Option<usize> {
    let descriptor = outgoing.packet.dependency_descriptor();
    let ids = &line.ids;
    let mut writer = Writer::new(buffer, &outgoing.header, line.form(descriptor))?;
    if let Some(id) = ids.transport_cc {
        writer.extension(id, &transport_seq.to_be_bytes())?;
    }
    if let Some(id) = ids.abs_send_time {
        let [_, t2, t1, t0] = outgoing.send_time.to_be_bytes();
        writer.extension(id, &[t2, t1, t0])?;
    }
    if let (Some(id), false) = (ids.mid, line.mid_known) {
        writer.extension(id, &line.mid)?;
    }
    let ext = Extensions {
        playout_delay: outgoing.playout_delay,
        ..outgoing.packet.ext
    };
    write_extensions(&mut writer, ids, &ext, descriptor)?;
    writer.finish()
}

/// Absolute send time: 24 bits of 6.18 fixed-point seconds since the router's origin.
pub(super) fn absolute_send_time(elapsed: Duration) -> u32 {
    let fixed = (elapsed.as_micros() << 18) / 1_000_000;
    (fixed & 0xff_ffff) as u32
}
