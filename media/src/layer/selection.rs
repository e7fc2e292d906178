//! Which packets of one stream a receiver gets: spatial layers (SVC) and temporal layers, by what
//! [`LayerMeta`] says alone.
//!
//! A receiver gets all spatial layers up to its own, also where only keyframes need the lower ones (`L3T3_KEY`): so it can step
//! down at any picture.

use super::dependency::is_newer;
use crate::packet::LayerMeta;

/// The highest layers that may be forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Spatial layer, 0 to 7; 7 where the stream is not filtered by spatial layers.
    pub spatial: u8,
    /// Temporal layer, 0 to 7.
    pub temporal: u8,
}

/// What is forwarded of one stream.
#[derive(Debug, Clone, Copy)]
pub struct Selection {
    /// Forwarded now: all that these depend on was forwarded, too.
    now: Limits,
    /// RTP timestamp of the newest picture.
    picture: u32,
}

impl Selection {
    /// Begins with a key picture: whatever is allowed can be decoded.
    #[must_use]
    pub fn new(limits: Limits, timestamp: u32) -> Self {
        Self {
            now: limits,
            picture: timestamp,
        }
    }

    /// What is forwarded now.
    #[must_use]
    pub fn now(&self) -> Limits {
        self.now
    }

    /// Whether a packet is forwarded. Layers are left at the next picture. One is taken up at a key picture; a temporal one also
    /// at a switching point, a spatial one also where the frame refers to no earlier picture.
    #[inline]
    pub fn admit(&mut self, limits: Limits, timestamp: u32, layer: LayerMeta) -> bool {
        let whole = layer.frame_start && layer.spatial == 0;
        if is_newer(timestamp, self.picture) {
            self.picture = timestamp;
            self.now.spatial = self.now.spatial.min(limits.spatial);
            self.now.temporal = self.now.temporal.min(limits.temporal);
            if whole && layer.key {
                self.now = limits;
            } else if whole
                && layer.switch_point
                && (self.now.temporal + 1..=limits.temporal).contains(&layer.temporal)
            {
                self.now.temporal = layer.temporal;
            }
        }
        let joins = layer.frame_start && layer.independent && layer.temporal == 0;
        if joins
            && timestamp == self.picture
            && layer.spatial == self.now.spatial + 1
            && layer.spatial <= limits.spatial
        {
            self.now.spatial = layer.spatial;
        }
        layer.spatial <= self.now.spatial && layer.temporal <= self.now.temporal
    }

    /// Whether a forwarded packet is the last one of its picture for the receiver, which then needs the marker bit.
    #[must_use]
    #[inline]
    pub fn ends_picture(&self, layer: LayerMeta) -> bool {
        layer.frame_end && layer.spatial == self.now.spatial
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: Limits = Limits {
        spatial: 0,
        temporal: 0,
    };
    const HIGH: Limits = Limits {
        spatial: 2,
        temporal: 2,
    };

    fn frame(spatial: u8, temporal: u8) -> LayerMeta {
        LayerMeta {
            spatial,
            temporal,
            frame_start: true,
            frame_end: true,
            ..LayerMeta::default()
        }
    }

    /// Frames `(spatial, marker)` that are forwarded of a picture with three spatial layers.
    fn picture(
        selection: &mut Selection,
        limits: Limits,
        timestamp: u32,
        kind: LayerMeta,
    ) -> Vec<(u8, bool)> {
        let mut forwarded = Vec::new();
        for spatial in 0..3 {
            let layer = LayerMeta { spatial, ..kind };
            if selection.admit(limits, timestamp, layer) {
                forwarded.push((spatial, selection.ends_picture(layer)));
            }
        }
        forwarded
    }

    #[test]
    fn spatial_layers_come_with_key_pictures_and_go_at_once() {
        let delta = frame(0, 0);
        let key = LayerMeta { key: true, ..delta };
        let mut selection = Selection::new(LOW, 0);
        assert_eq!(picture(&mut selection, HIGH, 1, delta), [(0, true)]);
        let all = [(0, false), (1, false), (2, true)];
        assert_eq!(picture(&mut selection, HIGH, 2, key), all);
        assert_eq!(picture(&mut selection, HIGH, 3, delta), all);
        let middle = Limits { spatial: 1, ..HIGH };
        // Not in the middle of a picture.
        assert!(selection.admit(HIGH, 4, frame(0, 0)));
        assert!(selection.admit(middle, 4, frame(2, 0)));
        assert_eq!(
            picture(&mut selection, middle, 5, delta),
            [(0, false), (1, true)]
        );
        assert_eq!(
            picture(&mut selection, HIGH, 6, delta),
            [(0, false), (1, true)]
        );
    }

    #[test]
    fn a_spatial_layer_that_begins_anew_is_taken_up() {
        let delta = frame(0, 0);
        let mut selection = Selection::new(LOW, 0);
        assert!(selection.admit(HIGH, 1, delta));
        let begins = LayerMeta {
            independent: true,
            ..frame(1, 0)
        };
        // Not above one that is missing.
        assert!(!selection.admit(
            HIGH,
            1,
            LayerMeta {
                independent: true,
                ..frame(2, 0)
            }
        ));
        assert!(selection.admit(HIGH, 1, begins));
        assert!(selection.ends_picture(begins));
        assert!(!selection.admit(HIGH, 1, frame(2, 0)));
        assert_eq!(
            picture(&mut selection, HIGH, 2, delta),
            [(0, false), (1, true)]
        );
    }

    #[test]
    fn temporal_layers_are_taken_up_at_switching_points() {
        let mut selection = Selection::new(LOW, 0);
        assert!(!selection.admit(HIGH, 1, frame(0, 2)));
        let sync = |temporal| LayerMeta {
            switch_point: true,
            ..frame(0, temporal)
        };
        assert!(selection.admit(HIGH, 2, sync(1)));
        assert!(!selection.admit(HIGH, 3, frame(0, 2)));
        // Late packets change nothing.
        assert!(!selection.admit(HIGH, 1, sync(2)));
        assert!(selection.admit(HIGH, 4, sync(2)));
        assert!(selection.admit(HIGH, 5, frame(0, 2)));
        assert!(!selection.admit(LOW, 6, frame(0, 1)));
        assert!(selection.admit(LOW, 7, frame(0, 0)));
    }
}
