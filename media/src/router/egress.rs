//! Putting packets on the wire for one transport: header, extensions, sealing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::downtrack::Downtrack;
use super::pacing::Probing;
use super::report::Traffic;
use super::{DropReason, ExtensionIds, SendArena, StreamIndex, SubscriptionConfig, TransportKey};
use crate::congestion::{self, Controller};
use crate::pacer::{Class, Pacer};
use crate::packet::{Extensions, Packet, PacketRef, form_for, write_extensions};
use crate::retransmit::SentRecord;
use crate::rewrite::{Rewritten, Suspended};
use crate::rtcp;
use crate::rtp::{Form, Header, Writer};
use crate::srtp::{OVERHEAD_MAX, Outbound};

/// Room for header, CSRC-free extensions and tag beside the payload in bytes: 12 + 4, a dependency
/// descriptor of 255, and ten small elements.
const HEADROOM: usize = 512;

/// Longest compound RTCP packet in bytes, so that it fits every path.
const RTCP_MAX: usize = 1180;

/// Bytes of retransmission credit that a transport may save up while nothing is known of its path.
const RTX_CREDIT_MAX: u32 = 256 * 1024;

/// Credit at the start in bytes: a keyframe.
const RTX_CREDIT_INITIAL: u32 = 64 * 1024;

/// Retransmissions get one part in this many of the estimate: enough for a fifth lost, and what is left still carries media.
const RTX_SHARE: u64 = 4;

/// How much credit may be saved up, as time at that share.
const RTX_SAVED: Duration = Duration::from_secs(1);

/// What a narrow path may save up in bytes all the same: eight packets. A burst of more would hold the queue that lost the
/// packets full.
const RTX_CREDIT_NARROW: u32 = 8 * 1200;

/// While more than this was sent beyond the estimate or waits, upper temporal layers are left out: they can be without a keyframe.
const EXCESS_TIGHT: Duration = Duration::from_millis(250);

/// A video frame does not begin while more than this does: the subscription goes on with a keyframe, by then of a layer that
/// fits. Encoders' keyframes are at most nine frames' share (libvpx' `rc_max_intra_target` as libwebrtc sets it), 300 ms.
const EXCESS_MAX: Duration = Duration::from_millis(400);

/// The same for the frames that follow a keyframe: to refuse them would cost another keyframe, which takes no less.
const EXCESS_AFTER_KEYFRAME: Duration = Duration::from_millis(600);

/// Round trip assumed before anything tells it.
const RTT_INITIAL: Duration = Duration::from_millis(50);

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

    /// For a subscription that changes between streams. An encoder of several streams counts their frames together: of the same
    /// picture the higher layer has the lower frame number, and a receiver that has seen the lower layer drops the higher one's
    /// keyframe as old, and waits for 3 s before it asks for another.
    pub(super) fn leave_out_dependency_descriptor(&mut self) {
        self.ids.dependency_descriptor = None;
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

/// The time in the forms that packets need.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) now: Instant,
    /// Milliseconds since the router's origin.
    pub(super) ms: u64,
    /// Absolute send time: 24 bits of 6.18 fixed-point seconds.
    pub(super) send_time: u32,
}

impl Moment {
    pub(super) fn new(now: Instant, origin: Instant) -> Self {
        let elapsed = now.saturating_duration_since(origin);
        Self {
            now,
            ms: u64::try_from(elapsed.as_millis()).unwrap_or(0),
            send_time: absolute_send_time(elapsed),
        }
    }
}

/// One packet to be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outgoing<'a> {
    pub(super) header: Header,
    /// SRTP packet index.
    pub(super) index: u64,
    /// Where the extensions come from; `None`: the payload is RTP padding.
    pub(super) packet: Option<&'a Packet>,
    /// Value of the playout delay extension, which need not be the packet's own.
    pub(super) playout_delay: Option<[u8; 3]>,
    pub(super) payload: &'a [u8],
    pub(super) moment: &'a Moment,
}

/// The numbers that a subscription gives a packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamped {
    pub(super) stream: StreamIndex,
    pub(super) sent: Rewritten,
    pub(super) playout_delay: Option<[u8; 3]>,
    pub(super) payload_type: u8,
}

/// What waits in the pacer. The transport-wide number, the absolute send time and the seal come when it goes out.
#[derive(Debug)]
pub(super) enum Held {
    /// A packet of the subscription at `position`.
    Media {
        position: usize,
        stamped: Stamped,
        packet: PacketRef,
    },
    /// A packet that the subscription at `position` asked for again.
    Repair { position: usize, record: SentRecord },
}

impl Held {
    pub(super) fn position(&self) -> usize {
        match self {
            Self::Media { position, .. } | Self::Repair { position, .. } => *position,
        }
    }
}

/// The sending state of one transport.
#[derive(Debug)]
pub(super) struct Egress {
    pub(super) key: TransportKey,
    slot: usize,
    pub(super) outbound: Outbound,
    transport_seq: u16,
    /// Some packet carried a transport-wide number.
    numbered: bool,
    pub(super) controller: Controller,
    pub(super) pacer: Pacer<Held>,
    pub(super) probing: Option<Probing>,
    /// The controller or the pacer became due at once by what was sent.
    pub(super) look: bool,
    rtx_credit: u32,
    rtx_credited: Instant,
    /// Where SSRCs that ended stand, so that no packet index is used twice with these keys.
    retired: BTreeMap<u32, Retired>,
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
    pub(super) fn new(key: TransportKey, slot: usize, outbound: Outbound, now: Instant) -> Self {
        Self {
            key,
            slot,
            outbound,
            transport_seq: 0,
            numbered: false,
            controller: Controller::new(&congestion::Config::default(), now),
            pacer: Pacer::new(now),
            probing: None,
            look: false,
            rtx_credited: now,
            rtx_credit: RTX_CREDIT_INITIAL,
            retired: BTreeMap::new(),
            traffic: Traffic::default(),
        }
    }

    /// Bit/s that could be used if the path carried them; 0 when nothing is missing. Drives probing.
    pub(super) fn set_wanted(&mut self, now: Instant, bps: u64) {
        self.controller.set_wanted(now, bps);
    }

    /// Bit/s that may be sent; `None` while nothing is known about the path.
    pub(super) fn budget_bps(&self) -> Option<u64> {
        self.controller.target_bps()
    }

    /// Whether the peer can tell when packets arrive.
    pub(super) fn is_measured(&self) -> bool {
        self.numbered
    }

    /// Whether so much waits that only the lowest temporal layer should go out.
    #[inline]
    pub(super) fn is_tight(&mut self, now: Instant) -> bool {
        self.pacer.excess(now) > EXCESS_TIGHT
    }

    /// Whether so much waits that no frame should begin; more is allowed right behind a keyframe.
    #[inline]
    pub(super) fn is_congested(&mut self, now: Instant, after_keyframe: bool) -> bool {
        let most = if after_keyframe {
            EXCESS_AFTER_KEYFRAME
        } else {
            EXCESS_MAX
        };
        self.pacer.excess(now) > most
    }

    /// Puts a packet of about `bytes` into the pacer; gives it back when that is full.
    pub(super) fn hold(&mut self, class: Class, bytes: usize, held: Held) -> Result<(), Held> {
        self.look |= self.pacer.is_idle();
        self.pacer.push(class, bytes, held)
    }

    /// The best known round trip to the receiver of a subscription.
    pub(super) fn round_trip(&self, downtrack: &Downtrack) -> Duration {
        let measured = self.controller.rtt();
        if downtrack.rtt_measured {
            downtrack.rtt
        } else if measured.is_zero() {
            RTT_INITIAL
        } else {
            measured
        }
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
        self.note_sent(line, outgoing.moment.now, sealed);
        Ok(sealed)
    }

    /// Accounts for a packet of `bytes` on the wire.
    #[inline]
    fn note_sent(&mut self, line: &Line, now: Instant, bytes: usize) {
        self.traffic.sent_bytes += bytes as u64;
        self.pacer.spend(bytes);
        let numbered = line.ids.transport_cc.is_some();
        // Peers without transport-wide feedback are known by what is sent and what their reports say.
        if numbered || !self.numbered {
            self.look |= !self.numbered && numbered;
            self.numbered |= numbered;
            let probe = self.probing.map(|probing| probing.id());
            let seq = self.transport_seq;
            self.controller.packet_sent(now, seq, bytes, probe);
            self.transport_seq = seq.wrapping_add(1);
        }
        if let Some(probing) = &mut self.probing {
            probing.sent(bytes);
            self.pacer.forgive(bytes);
        }
    }

    /// Takes credit for a retransmission; false when there is not enough. Credit grows with the estimate, or with what is sent
    /// while there is none.
    pub(super) fn spend_repair(&mut self, now: Instant, bytes: usize) -> bool {
        if let Some(target_bps) = self.controller.target_bps() {
            let elapsed = now.saturating_duration_since(self.rtx_credited);
            self.rtx_credited = now;
            let most = share(target_bps, RTX_SAVED).max(RTX_CREDIT_NARROW);
            let earned = share(target_bps, elapsed.min(RTX_SAVED));
            self.rtx_credit = self.rtx_credit.saturating_add(earned).min(most);
        }
        let left = u32::try_from(bytes)
            .ok()
            .and_then(|bytes| self.rtx_credit.checked_sub(bytes));
        self.rtx_credit = left.unwrap_or(self.rtx_credit);
        left.is_some()
    }

    /// Earns retransmission credit by what is sent, while nothing is known of the path.
    #[inline]
    pub(super) fn earn(&mut self, bytes: usize) {
        if !self.pacer.is_limited() {
            let earned = u32::try_from(bytes as u64 / RTX_SHARE).unwrap_or(0);
            self.rtx_credit = (self.rtx_credit + earned).min(RTX_CREDIT_MAX);
        }
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
    let descriptor = outgoing.packet.and_then(Packet::dependency_descriptor);
    let ids = &line.ids;
    let mut writer = Writer::new(buffer, &outgoing.header, line.form(descriptor))?;
    if let Some(id) = ids.transport_cc {
        writer.extension(id, &transport_seq.to_be_bytes())?;
    }
    if let Some(id) = ids.abs_send_time {
        let [_, t2, t1, t0] = outgoing.moment.send_time.to_be_bytes();
        writer.extension(id, &[t2, t1, t0])?;
    }
    if let (Some(id), false) = (ids.mid, line.mid_known) {
        writer.extension(id, &line.mid)?;
    }
    let Some(packet) = outgoing.packet else {
        let len = writer.finish()?;
        // The padding bit (RFC 3550 section 5.1).
        *buffer.first_mut()? |= 0x20;
        return Some(len);
    };
    let ext = Extensions {
        playout_delay: outgoing.playout_delay,
        ..packet.ext
    };
    write_extensions(&mut writer, ids, &ext, descriptor)?;
    writer.finish()
}

/// The part of `bps` that retransmissions get in `time`, in bytes.
fn share(bps: u64, time: Duration) -> u32 {
    let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let bytes = (bps / RTX_SHARE).saturating_mul(us) / 8_000_000;
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Absolute send time: 24 bits of 6.18 fixed-point seconds since the router's origin.
fn absolute_send_time(elapsed: Duration) -> u32 {
    let fixed = (elapsed.as_micros() << 18) / 1_000_000;
    (fixed & 0xff_ffff) as u32
}
