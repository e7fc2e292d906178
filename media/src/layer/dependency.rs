//! The dependency descriptor (AV1 RTP specification, appendix A.8), as far as forwarding needs it.

use crate::packet::LayerMeta;

/// Templates of one structure (section A.8.1: six bits of id).
const TEMPLATES_MAX: usize = 64;

/// The template structure in force for a stream.
#[derive(Debug)]
pub struct Dependencies {
    first_id: u8,
    /// `(spatial, temporal)` per template.
    layers: [(u8, u8); TEMPLATES_MAX],
    count: u8,
}

impl Default for Dependencies {
    fn default() -> Self {
        Self {
            first_id: 0,
            layers: [(0, 0); TEMPLATES_MAX],
            count: 0,
        }
    }
}

impl Dependencies {
    /// Reads a packet's raw descriptor; `None` when there is none.
    pub fn read(&mut self, descriptor: &[u8]) -> Option<LayerMeta> {
        let (&[first, _, _], extended) = descriptor.split_first_chunk::<3>()?;
        // template_dependency_structure_present_flag comes first and only with keyframes.
        let key = extended.first().is_some_and(|flags| flags & 0x80 != 0);
        if key {
            self.learn(extended);
        }
        let index = (first & 0x3f).wrapping_sub(self.first_id) & 0x3f;
        let (spatial, temporal) = if index < self.count {
            self.layers
                .get(usize::from(index))
                .copied()
                .unwrap_or_default()
        } else {
            (0, 0)
        };
        Some(LayerMeta {
            spatial,
            temporal,
            key: key && spatial == 0,
            frame_start: first & 0x80 != 0,
            frame_end: first & 0x40 != 0,
            ..LayerMeta::default()
        })
    }

    /// `template_dependency_structure()`: offset, decode target count and `template_layers()`.
    fn learn(&mut self, extended: &[u8]) {
        // Five flags precede it.
        let mut bits = Bits {
            bytes: extended,
            at: 5,
        };
        let (Some(first_id), Some(_)) = (bits.take(6), bits.take(5)) else {
            return;
        };
        self.first_id = first_id;
        self.count = 0;
        let mut layer = (0u8, 0u8);
        for slot in &mut self.layers {
            *slot = layer;
            self.count += 1;
            match bits.take(2) {
                Some(0) => {}
                Some(1) => layer.1 = (layer.1 + 1) & 7,
                Some(2) => layer = ((layer.0 + 1) & 7, 0),
                _ => break,
            }
        }
    }
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: usize) -> Option<u8> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8)?;
            value = value << 1 | byte >> (7 - self.at % 8) & 1;
            self.at += 1;
        }
        Some(value)
    }
}
