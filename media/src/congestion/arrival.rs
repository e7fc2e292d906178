//! Groups packets by the time sent, and compares the spacing of groups at both ends
//! (draft-ietf-rmcat-gcc-02 sections 4.1 and 5.2).

use super::Micros;

/// Packets sent within this time are one group: the draft's `burst_time`, libwebrtc's
/// `kSendTimeGroupLength`.
const GROUP_US: Micros = 5_000;

/// A packet that came at most this long after the one before, earlier than its own spacing says, was
/// held back with it by the path and joins its group: libwebrtc's `kBurstDeltaThreshold`.
const BURST_GAP_US: Micros = 5_000;

/// Such a burst lasts at most this long: libwebrtc's `kMaxBurstDuration`.
const BURST_US: Micros = 100_000;

/// Groups that arrived before their predecessor, until all starts again: libwebrtc's
/// `kReorderedResetThreshold`.
const REORDERED_MAX: u32 = 3;

/// The receiver's clock jumped when it and ours differ by this much between groups: libwebrtc's
/// `kArrivalTimeOffsetThreshold`.
const CLOCK_JUMP_US: Micros = 3_000_000;

/// Spacing of two groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spacing {
    /// Between the last packets when sent.
    pub(super) sent_us: Micros,
    /// Between the last packets when received.
    pub(super) arrived_us: Micros,
    /// When the later group was complete, on the receiver's clock.
    pub(super) arrived_at: Micros,
}

/// One packet in three clocks' times.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// When it was sent.
    pub(super) sent_at: Micros,
    /// When it arrived, on the receiver's clock.
    pub(super) arrived_at: Micros,
    /// When its feedback came.
    pub(super) reported_at: Micros,
}

#[derive(Debug, Clone, Copy)]
struct Group {
    first_sent: Micros,
    last_sent: Micros,
    first_arrived: Micros,
    complete: Micros,
    reported_at: Micros,
}

impl Group {
    fn new(packet: Timing) -> Self {
        Self {
            first_sent: packet.sent_at,
            last_sent: packet.sent_at,
            first_arrived: packet.arrived_at,
            complete: packet.arrived_at,
            reported_at: packet.reported_at,
        }
    }

    /// Whether the path held the packet back together with the group.
    fn is_burst(&self, packet: Timing) -> bool {
        let sent = packet.sent_at - self.last_sent;
        let arrived = packet.arrived_at - self.complete;
        sent == 0
            || arrived < sent
                && arrived <= BURST_GAP_US
                && packet.arrived_at - self.first_arrived < BURST_US
    }
}

/// Builds groups from packets in the order in which they were sent.
#[derive(Debug, Default)]
pub(super) struct Groups {
    current: Option<Group>,
    before: Option<Group>,
    reordered: u32,
}

impl Groups {
    /// Takes a packet; returns the spacing of the two groups before it when it starts another.
    pub(super) fn add(&mut self, packet: Timing) -> Option<Spacing> {
        let Some(group) = &mut self.current else {
            self.current = Some(Group::new(packet));
            return None;
        };
        if packet.sent_at < group.first_sent {
            // Of an earlier group, reported late.
            return None;
        }
        if packet.sent_at - group.first_sent <= GROUP_US || group.is_burst(packet) {
            group.last_sent = group.last_sent.max(packet.sent_at);
            group.complete = group.complete.max(packet.arrived_at);
            group.reported_at = packet.reported_at;
            return None;
        }
        let ended = *group;
        let before = self.before.replace(ended);
        self.current = Some(Group::new(packet));
        self.spacing(before?, ended)
    }

    fn spacing(&mut self, before: Group, ended: Group) -> Option<Spacing> {
        let arrived_us = ended.complete - before.complete;
        let elapsed = ended.reported_at - before.reported_at;
        if (arrived_us - elapsed).abs() >= CLOCK_JUMP_US {
            self.restart();
            return None;
        }
        if arrived_us < 0 {
            self.reordered += 1;
            if self.reordered >= REORDERED_MAX {
                self.restart();
            }
            return None;
        }
        self.reordered = 0;
        Some(Spacing {
            sent_us: ended.last_sent - before.last_sent,
            arrived_us,
            arrived_at: ended.complete,
        })
    }

    /// Starts again with the group under way.
    fn restart(&mut self) {
        self.before = None;
        self.reordered = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(sent_ms: i64, arrived_ms: i64) -> Timing {
        Timing {
            sent_at: sent_ms * 1000,
            arrived_at: arrived_ms * 1000,
            reported_at: sent_ms * 1000 + 100_000,
        }
    }

    fn spacings(packets: &[(i64, i64)]) -> Vec<(i64, i64)> {
        let mut groups = Groups::default();
        packets
            .iter()
            .filter_map(|&(sent, arrived)| groups.add(packet(sent, arrived)))
            .map(|spacing| (spacing.sent_us / 1000, spacing.arrived_us / 1000))
            .collect()
    }

    #[test]
    fn groups_of_five_milliseconds_are_compared_by_their_ends() {
        let packets = [(0, 50), (3, 53), (20, 71), (24, 77), (40, 95), (60, 115)];
        assert_eq!(spacings(&packets), [(21, 24), (16, 18)]);
    }

    #[test]
    fn what_the_path_held_back_is_one_group() {
        // Sent every 10 ms, released together at 100.
        let packets = [
            (0, 50),
            (10, 100),
            (20, 101),
            (30, 102),
            (40, 103),
            (70, 130),
            (90, 150),
        ];
        assert_eq!(spacings(&packets), [(40, 53), (30, 27)]);
    }

    #[test]
    fn a_jump_of_the_receivers_clock_starts_again() {
        let packets = [
            (0, 50),
            (20, 9_000),
            (40, 9_020),
            (60, 9_040),
            (80, 9_060),
            (100, 9_080),
        ];
        assert_eq!(spacings(&packets), [(20, 20), (20, 20)]);
    }
}
