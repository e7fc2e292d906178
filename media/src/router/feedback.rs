//! RTCP that peers send: reports from publishers, feedback from subscribers.

use std::time::{Duration, Instant};

use super::{DropReason, Event, Output, Router, SenderClock, Timer};
use crate::rtcp::{Packet, Packets, ReportBlock, SenderInfo, ntp_middle};
use crate::twcc;

impl Router {
    pub(super) fn handle_rtcp(
        &mut self,
        now: Instant,
        slot: usize,
        datagram: &mut [u8],
        out: &mut Output,
    ) {
        let Some(transport) = self.transports.get_mut(slot) else {
            return;
        };
        let compound: &[u8] = match transport.inbound.open_rtcp(datagram) {
            Ok(compound) => compound,
            Err(crate::srtp::Error::Replay { .. }) => {
                return self.stats.drop_packet(DropReason::Replay);
            }
            Err(crate::srtp::Error::Authentication) => {
                return self.stats.drop_packet(DropReason::Authentication);
            }
            Err(_) => return self.stats.drop_packet(DropReason::Malformed),
        };
        for packet in Packets::new(compound) {
            self.handle_report(now, slot, packet, out);
        }
    }

    fn handle_report(&mut self, now: Instant, slot: usize, packet: Packet<'_>, out: &mut Output) {
        match packet {
            Packet::SenderReport { info, blocks } => {
                self.handle_clock(now, slot, &info, out);
                self.handle_blocks(now, slot, blocks, out);
            }
            Packet::ReceiverReport { blocks, .. } => self.handle_blocks(now, slot, blocks, out),
            Packet::Bye { ssrcs } => {
                for ssrc in ssrcs {
                    self.handle_bye(slot, ssrc, out);
                }
            }
            Packet::Nack { media_ssrc, lost } => {
                if let Some(position) = self.downtrack_of(slot, media_ssrc) {
                    self.retransmit(&self.moment(now), position, lost, out);
                    self.look_soon(now, slot);
                }
            }
            Packet::Pli { media_ssrc } => self.handle_keyframe_request(now, slot, media_ssrc, out),
            Packet::Fir { entries } => {
                for (ssrc, _) in entries {
                    self.handle_keyframe_request(now, slot, ssrc, out);
                }
            }
            Packet::TransportFeedback { body } => {
                let Some(feedback) = twcc::Feedback::parse(body) else {
                    return self.stats.drop_packet(DropReason::Malformed);
                };
                self.stats.twcc_received += 1;
                if let Some(transport) = self.transports.get_mut(slot) {
                    transport.egress.controller.feedback(now, &feedback);
                    self.follow_estimate(now, slot, out);
                }
            }
            Packet::Remb { bitrate, .. } => {
                self.stats.remb_received += 1;
                if let Some(transport) = self.transports.get_mut(slot) {
                    transport.egress.controller.remb(now, bitrate);
                    self.follow_estimate(now, slot, out);
                }
            }
            Packet::SourceDescription | Packet::Unknown { .. } => {}
        }
    }

    fn downtrack_of(&self, slot: usize, ssrc: u32) -> Option<usize> {
        self.transports.get(slot)?.by_ssrc.get(&ssrc).copied()
    }

    /// A publisher's SR: remembers and announces its clock.
    fn handle_clock(&mut self, now: Instant, slot: usize, info: &SenderInfo, out: &mut Output) {
        let Some(transport) = self.transports.get(slot) else {
            return;
        };
        let Some(binding) = transport.demux.bound(info.ssrc) else {
            return;
        };
        let Some(media) = transport.demux.media(binding) else {
            return;
        };
        let Some(&track_slot) = self.track_slots.get(&media.track) else {
            return;
        };
        let Some(track) = self.tracks.get_mut(track_slot) else {
            return;
        };
        let key = track.key;
        let Some(entry) = track.stream_mut(binding.stream) else {
            return;
        };
        // Retransmission streams report as well, with a clock of no use.
        let Some(uplink) = entry
            .uplink
            .as_mut()
            .filter(|uplink| uplink.ssrc == info.ssrc)
        else {
            return;
        };
        uplink.reception.sender_report(info.ntp, now);
        let clock = SenderClock {
            ntp: info.ntp,
            rtp_timestamp: info.rtp_timestamp,
            received: now,
        };
        let first = entry.clock.replace(clock).is_none();
        out.event(Event::SenderReport {
            track: key,
            stream: binding.stream,
            clock,
        });
        if first {
            self.hasten_reports(now, track_slot);
        }
    }

    /// Subscribers have waited for the publisher's clock: tell them at once.
    fn hasten_reports(&mut self, now: Instant, track_slot: usize) {
        let Self {
            tracks,
            transports,
            downtracks,
            timers,
            ..
        } = self;
        let Some(track) = tracks.get(track_slot) else {
            return;
        };
        for downtrack in track.downtracks.iter().filter_map(|&at| downtracks.get(at)) {
            if downtrack.reports.last.is_none()
                && let Some(transport) = transports.get_mut(downtrack.transport)
            {
                transport.sender_report_due = Some(now);
                timers.arm(
                    &mut transport.armed,
                    Timer::Transport(downtrack.transport),
                    now,
                );
            }
        }
    }

    /// A subscriber's report blocks: congestion control takes the mean of their losses and the shortest round trip.
    fn handle_blocks(
        &mut self,
        now: Instant,
        slot: usize,
        blocks: impl Iterator<Item = ReportBlock>,
        out: &mut Output,
    ) {
        let (mut lost, mut count) = (0u32, 0u32);
        let mut rtt: Option<Duration> = None;
        for block in blocks {
            let Some(measured) = self.handle_block(now, slot, &block) else {
                continue;
            };
            lost += u32::from(block.fraction_lost);
            count += 1;
            rtt = rtt.into_iter().chain(measured).min();
        }
        let Some(mean) = lost.checked_div(count) else {
            return;
        };
        if let Some(transport) = self.transports.get_mut(slot) {
            let mean = u8::try_from(mean).unwrap_or(u8::MAX);
            let rtt = rtt.unwrap_or_default();
            transport.egress.controller.report(now, mean, rtt);
            self.follow_estimate(now, slot, out);
        }
    }

    /// One of them: the subscriber knows the SSRC, and the round trip follows (RFC 3550 section 6.4.1). `None` when it is about
    /// no stream of ours.
    fn handle_block(
        &mut self,
        now: Instant,
        slot: usize,
        block: &ReportBlock,
    ) -> Option<Option<Duration>> {
        let position = self.downtrack_of(slot, block.ssrc)?;
        let downtrack = self.downtracks.get_mut(position)?;
        if downtrack.line.ssrc != block.ssrc {
            return None;
        }
        downtrack.line.mid_known = true;
        downtrack.meter.fraction_lost = block.fraction_lost;
        let (middle, sent) = downtrack.reports.last.unwrap_or((0, now));
        if middle == 0 || middle != block.last_sr {
            return Some(None);
        }
        let delay_us = u64::from(block.delay_since_last_sr) * 1_000_000 / 65_536;
        let since = now.saturating_duration_since(sent);
        downtrack.rtt = since.saturating_sub(Duration::from_micros(delay_us));
        downtrack.rtt_measured = true;
        Some(Some(downtrack.rtt))
    }

    /// Something may wait in the pacer now.
    fn look_soon(&mut self, now: Instant, slot: usize) {
        if let Some(transport) = self.transports.get_mut(slot)
            && std::mem::take(&mut transport.egress.look)
        {
            let armed = &mut transport.armed_pacer;
            self.timers.arm(armed, Timer::Pacer(slot), now);
        }
    }

    fn handle_keyframe_request(&mut self, now: Instant, slot: usize, ssrc: u32, out: &mut Output) {
        self.stats.plis_received += 1;
        let Some(position) = self.downtrack_of(slot, ssrc) else {
            return;
        };
        let Some(downtrack) = self.downtracks.get_mut(position) else {
            return;
        };
        downtrack.meter.plis += 1;
        let Some(track) = self
            .tracks
            .get(downtrack.track)
            .filter(|track| !track.muted)
        else {
            return;
        };
        let track_slot = downtrack.track;
        if let Some(stream) = downtrack.current.or_else(|| downtrack.desired(track)) {
            self.request_keyframe(now, track_slot, stream, out);
        }
    }

    fn handle_bye(&mut self, slot: usize, ssrc: u32, out: &mut Output) {
        let Some(transport) = self.transports.get_mut(slot) else {
            return;
        };
        if transport.demux.bound(ssrc).is_some() {
            transport.demux.forget(ssrc);
            out.event(Event::ByeReceived {
                transport: transport.egress.key,
                ssrc,
            });
        }
    }
}

/// The middle of an NTP time and the instant, for round trips.
pub(super) fn report_stamp(ntp: u64, now: Instant) -> (u32, Instant) {
    (ntp_middle(ntp), now)
}
