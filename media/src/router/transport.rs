//! One peer connection: its keys, what it sends, what it receives.

use std::collections::BTreeMap;
use std::time::Instant;

use super::StreamIndex;
use super::demux::Demux;
use super::egress::Egress;
use super::report::Reported;
use super::timers::Armed;
use crate::allocation::Allocator;
use crate::srtp::Inbound;
use crate::twcc;

/// The router's side of one transport.
#[derive(Debug)]
pub(super) struct Transport {
    pub(super) inbound: Inbound,
    pub(super) egress: Egress,
    pub(super) demux: Demux,
    /// Streams that it publishes, by positions.
    pub(super) uplinks: Vec<(usize, StreamIndex)>,
    /// Subscriptions, by position.
    pub(super) downtracks: Vec<usize>,
    /// Subscriptions by SSRC, of media and of retransmissions.
    pub(super) by_ssrc: BTreeMap<u32, usize>,
    /// Present once it sends transport-wide sequence numbers.
    pub(super) twcc: Option<Box<twcc::Receiver>>,
    /// Some SSRC of what it publishes, for transport-wide feedback.
    pub(super) media_ssrc: u32,
    pub(super) armed: Armed,
    pub(super) armed_pacer: Armed,
    pub(super) feedback_due: Option<Instant>,
    /// Reception reports, while it publishes.
    pub(super) report_due: Option<Instant>,
    /// Sender reports, while it receives.
    pub(super) sender_report_due: Option<Instant>,
    /// The next look at how its budget is split.
    pub(super) allocation_due: Option<Instant>,
    pub(super) allocator: Allocator,
    /// The budget that was split last, and when.
    pub(super) split: (Option<u64>, Instant),
    pub(super) rate: ReceiveRate,
    pub(super) reported: Reported,
}

/// What a transport publishes, for REMB.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReceiveRate {
    pub(super) bytes: u64,
    pub(super) since: Instant,
}

impl Transport {
    pub(super) fn new(inbound: Inbound, egress: Egress, now: Instant) -> Self {
        Self {
            inbound,
            egress,
            demux: Demux::default(),
            uplinks: Vec::new(),
            downtracks: Vec::new(),
            by_ssrc: BTreeMap::new(),
            twcc: None,
            media_ssrc: 0,
            armed: Armed::default(),
            armed_pacer: Armed::default(),
            feedback_due: None,
            report_due: None,
            sender_report_due: None,
            allocation_due: None,
            allocator: Allocator::default(),
            split: (None, now),
            rate: ReceiveRate {
                bytes: 0,
                since: now,
            },
            reported: Reported::new(now),
        }
    }

    /// The earliest of its deadlines, without those of gaps in what it publishes.
    pub(super) fn next_due(&self) -> Option<Instant> {
        [
            self.feedback_due,
            self.report_due,
            self.sender_report_due,
            self.allocation_due,
        ]
        .into_iter()
        .flatten()
        .min()
    }
}
