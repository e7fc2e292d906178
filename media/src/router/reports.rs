//! RTCP that we send on our own: transport-wide feedback, NACK, reception reports and REMB to
//! publishers, sender reports to subscribers.

use std::time::{Duration, Instant};

use super::downtrack::ticks;
use super::feedback::report_stamp;
use super::{Output, Router, Timer};
use crate::rtcp::{ReportBlock, SenderInfo};

/// Between two reports on or for a stream.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// Between two looks for a publisher's clock that has not come yet.
const CLOCK_INTERVAL: Duration = Duration::from_millis(200);

/// A subscription without packets for this long gets no sender reports.
const IDLE: Duration = Duration::from_secs(2);

/// Report blocks in one packet.
const BLOCKS_MAX: usize = 31;

/// Sequence numbers in one NACK packet.
const NACKS_MAX: usize = 128;

/// Least REMB in bit/s: enough for audio and the lowest video layer.
const REMB_BPS_MIN: u64 = 500_000;

impl Router {
    /// Sends what a transport is due and arms its next deadline.
    pub(super) fn serve_transport(&mut self, now: Instant, slot: usize, out: &mut Output) {
        self.send_transport_feedback(now, slot, out);
        let nack_due = self.send_nacks(now, slot, out);
        self.send_reception_reports(now, slot, out);
        self.send_sender_reports(now, slot, out);
        self.serve_allocation(now, slot, out);
        let Some(transport) = self.transports.get_mut(slot) else {
            return;
        };
        if let Some(at) = transport.next_due().into_iter().chain(nack_due).min() {
            self.timers
                .arm(&mut transport.armed, Timer::Transport(slot), at);
        }
    }

    fn send_transport_feedback(&mut self, now: Instant, slot: usize, out: &mut Output) {
        let sender = self.config.feedback_ssrc;
        let Some(transport) = self.transports.get_mut(slot) else {
            return;
        };
        if transport.feedback_due.is_none_or(|due| due > now) {
            return;
        }
        transport.feedback_due = None;
        let ssrcs = (sender, transport.media_ssrc);
        let Some(twcc) = &mut transport.twcc else {
            return;
        };
        // Bounded: each packet covers at least one of the window's sequence numbers.
        let mut more = twcc.is_due();
        while more {
            transport.egress.send_rtcp(&mut out.arena, |writer| {
                more = twcc.write(writer, ssrcs);
            });
            self.stats.twcc_sent += 1;
        }
    }

    /// Asks for what is missing; returns when to look again.
    fn send_nacks(&mut self, now: Instant, slot: usize, out: &mut Output) -> Option<Instant> {
        let sender = self.config.feedback_ssrc;
        let Self {
            tracks,
            transports,
            stats,
            ..
        } = self;
        let transport = transports.get_mut(slot)?;
        let mut next: Option<Instant> = None;
        for &(track, stream) in &transport.uplinks {
            let Some(track) = tracks.get_mut(track).filter(|t| t.is_wanted() && !t.muted) else {
                continue;
            };
            let Some(uplink) = track.stream_mut(stream).and_then(|s| s.uplink.as_mut()) else {
                continue;
            };
            let Some(nack) = &mut uplink.nack else {
                continue;
            };
            let mut lost = [0; NACKS_MAX];
            let count = nack.collect(now, &mut lost);
            if let Some(lost) = lost.get(..count).filter(|lost| !lost.is_empty()) {
                stats.nacks_sent += count as u64;
                uplink.meter.nacks += count as u64;
                let ssrc = uplink.ssrc;
                transport.egress.send_rtcp(&mut out.arena, |writer| {
                    // At most 128 pairs of four bytes: it fits.
                    let _written = writer.nack(sender, ssrc, lost);
                });
            }
            next = nack.poll_timeout().into_iter().chain(next).min();
        }
        next
    }

    fn send_reception_reports(&mut self, now: Instant, slot: usize, out: &mut Output) {
        let sender = self.config.feedback_ssrc;
        let Self {
            tracks,
            transports,
            config,
            ..
        } = self;
        let Some(transport) = transports.get_mut(slot) else {
            return;
        };
        if transport.report_due.is_none_or(|due| due > now) {
            return;
        }
        let mut blocks = [ReportBlock::default(); BLOCKS_MAX];
        let mut ssrcs = [0; BLOCKS_MAX];
        let mut count = 0;
        let mut active = false;
        for &(track, stream) in &transport.uplinks {
            let Some(entry) = tracks.get_mut(track).and_then(|t| t.stream_mut(stream)) else {
                continue;
            };
            active |= entry.last_packet.is_some_and(|last| now < last + IDLE);
            let Some(uplink) = entry.uplink.as_mut().filter(|u| u.transport == slot) else {
                continue;
            };
            let (Some(block), Some(ssrc)) = (blocks.get_mut(count), ssrcs.get_mut(count)) else {
                break;
            };
            if let Some(report) = uplink.reception.report(uplink.ssrc, now) {
                *block = report;
                *ssrc = report.ssrc;
                count += 1;
            }
        }
        // The next packet starts the reports again.
        transport.report_due = active.then(|| now + INTERVAL);
        let blocks = blocks.get(..count).unwrap_or_default();
        let ssrcs = ssrcs.get(..count).unwrap_or_default();
        let remb = transport
            .demux
            .receive
            .extensions
            .transport_cc
            .is_none()
            .then(|| offered_bitrate(&mut transport.rate, blocks, now, config.remb_bps_max));
        transport.egress.send_rtcp(&mut out.arena, |writer| {
            // What does not fit is left out.
            let _written = writer.receiver_report(sender, blocks);
            let _written = writer.source_description(sender, &config.cname);
            if let Some(bitrate) = remb {
                let _written = writer.remb(sender, bitrate, ssrcs);
            }
        });
    }

    fn send_sender_reports(&mut self, now: Instant, slot: usize, out: &mut Output) {
        let Self {
            tracks,
            transports,
            downtracks,
            config,
            ..
        } = self;
        let Some(transport) = transports.get_mut(slot) else {
            return;
        };
        if transport.sender_report_due.is_none_or(|due| due > now) {
            return;
        }
        let mut next: Option<Instant> = None;
        let positions = &transport.downtracks;
        transport.egress.send_rtcp(&mut out.arena, |writer| {
            let mut described = false;
            for &position in positions {
                let Some(downtrack) = downtracks.get_mut(position) else {
                    continue;
                };
                if downtrack.last_sent.is_none_or(|last| now >= last + IDLE) {
                    continue;
                }
                let Some(track) = tracks.get(downtrack.track) else {
                    continue;
                };
                let clock = downtrack.current.and_then(|s| track.stream(s)?.clock);
                let waiting = downtrack.reports.last.is_none();
                if let Some(clock) = clock.filter(|_| waiting || downtrack.reports.due <= now) {
                    let elapsed = now.saturating_duration_since(clock.received);
                    let info = SenderInfo {
                        ssrc: downtrack.line.ssrc,
                        ntp: clock.ntp.wrapping_add(ntp_span(elapsed)),
                        rtp_timestamp: clock
                            .rtp_timestamp
                            .wrapping_add(ticks(elapsed, track.config.codec.clock_rate()))
                            .wrapping_add(downtrack.rewriter.timestamp_offset()),
                        packets: downtrack.packets,
                        octets: downtrack.octets,
                    };
                    if writer.sender_report(&info, &[]).is_some() {
                        described |= described
                            || writer
                                .source_description(info.ssrc, &config.cname)
                                .is_some();
                        downtrack.reports.last = Some(report_stamp(info.ntp, now));
                        downtrack.reports.due = now + INTERVAL;
                    }
                }
                let pending = downtrack.reports.last.is_none() || downtrack.reports.due <= now;
                let again = if pending {
                    now + CLOCK_INTERVAL
                } else {
                    downtrack.reports.due
                };
                next = Some(next.map_or(again, |next| next.min(again)));
            }
        });
        // Without anything active the next packet starts the reports again.
        transport.sender_report_due = next;
    }
}

/// A span as 32.32 seconds.
fn ntp_span(span: Duration) -> u64 {
    let fraction = (u64::from(span.subsec_nanos()) << 32) / 1_000_000_000;
    span.as_secs() << 32 | fraction
}

/// What a publisher without transport-wide feedback is offered: half more than it sends, and less
/// than it sends when more than a tenth is lost.
fn offered_bitrate(
    rate: &mut super::transport::ReceiveRate,
    blocks: &[ReportBlock],
    now: Instant,
    bps_max: u64,
) -> u64 {
    let elapsed_ms = now.saturating_duration_since(rate.since).as_millis().max(1);
    let elapsed_ms = u64::try_from(elapsed_ms).unwrap_or(u64::MAX);
    let bps = rate.bytes.saturating_mul(8000) / elapsed_ms;
    *rate = super::transport::ReceiveRate {
        bytes: 0,
        since: now,
    };
    let lossy = blocks.iter().any(|block| block.fraction_lost > 25);
    let offer = if lossy {
        bps / 20 * 17
    } else {
        bps / 2 * 3 + 300_000
    };
    offer.clamp(REMB_BPS_MIN.min(bps_max), bps_max)
}
