//! The dependency descriptor (AV1 RTP specification, appendix A.8), as far as forwarding needs it.

use crate::packet::LayerMeta;

/// Templates of one structure (section A.8.1: six bits of id).
const TEMPLATES_MAX: usize = 64;

/// Frames that one template may refer to; the encoders' structures have at most four.
const REFERENCES_MAX: usize = 8;

/// Frames whose temporal layer is remembered.
const FRAMES: usize = 64;

/// One template of the structure in force.
#[derive(Debug, Clone, Copy, Default)]
struct Template {
    spatial: u8,
    temporal: u8,
    /// For no decode target another frame needs it (section A.8.3: only "not present" and "discardable").
    discardable: bool,
    references: References,
}

/// How far back the frames lie that one frame refers to, in frame numbers.
#[derive(Debug, Clone, Copy, Default)]
struct References {
    diffs: [u16; REFERENCES_MAX],
    count: u8,
    /// There were more: nothing can be said.
    truncated: bool,
}

impl References {
    fn push(&mut self, diff: u16) {
        match self.diffs.get_mut(usize::from(self.count)) {
            Some(slot) => {
                *slot = diff;
                self.count += 1;
            }
            None => self.truncated = true,
        }
    }

    fn all(&self, holds: impl FnMut(u16) -> bool) -> bool {
        let diffs = self.diffs.iter().copied().take(usize::from(self.count));
        !self.truncated && { diffs }.all(holds)
    }
}

/// The template structure in force for a stream, and what its last frames were.
#[derive(Debug)]
pub struct Dependencies {
    first_id: u8,
    templates: [Template; TEMPLATES_MAX],
    count: u8,
    decode_targets: u8,
    /// By frame number modulo 64: the number, and the temporal layer.
    frames: [Option<(u16, u8)>; FRAMES],
    /// The newest picture, and the number of its first frame.
    picture: Option<(u32, u16)>,
}

impl Default for Dependencies {
    fn default() -> Self {
        Self {
            first_id: 0,
            templates: [Template::default(); TEMPLATES_MAX],
            count: 0,
            decode_targets: 0,
            frames: [None; FRAMES],
            picture: None,
        }
    }
}

impl Dependencies {
    /// Reads the raw descriptor of a packet with this RTP timestamp; `None` when there is none.
    pub fn read(&mut self, descriptor: &[u8], timestamp: u32) -> Option<LayerMeta> {
        let (&[first, high, low], extended) = descriptor.split_first_chunk::<3>()?;
        let number = u16::from_be_bytes([high, low]);
        let flags = extended.first().copied().unwrap_or(0);
        let mut bits = Bits {
            bytes: extended,
            at: 5,
        };
        // template_dependency_structure_present_flag: only with keyframes.
        let attached = flags & 0x80 != 0;
        if attached {
            self.count = 0;
            self.learn(&mut bits);
        }
        let mut template = self.template(first & 0x3f);
        self.customise(flags, &mut bits, &mut template);
        let begun = self
            .picture
            .filter(|(picture, _)| !is_newer(timestamp, *picture));
        let (picture, first_number) = *self.picture.insert(begun.unwrap_or((timestamp, number)));
        if let Some(slot) = self.frames.get_mut(usize::from(number) % FRAMES) {
            *slot = Some((number, template.temporal));
        }
        let known = self.count > 0;
        let position = number.wrapping_sub(first_number);
        let within = |diff: u16| picture == timestamp && position < 0x8000 && diff <= position;
        let references = template.references;
        Some(LayerMeta {
            spatial: template.spatial,
            temporal: template.temporal,
            key: attached && template.spatial == 0,
            discardable: template.discardable,
            frame_start: first & 0x80 != 0,
            frame_end: first & 0x40 != 0,
            switch_point: known
                // A lower spatial layer of the same picture is there whenever this frame is.
                && references.all(|diff| self.is_base(number.wrapping_sub(diff)) || within(diff)),
            independent: known && references.all(within),
        })
    }

    fn template(&self, id: u8) -> Template {
        let index = id.wrapping_sub(self.first_id) & 0x3f;
        let known = (index < self.count).then(|| self.templates.get(usize::from(index)));
        known.flatten().copied().unwrap_or_default()
    }

    /// Whether a frame is known to be of the lowest temporal layer.
    fn is_base(&self, number: u16) -> bool {
        let slot = self.frames.get(usize::from(number) % FRAMES).copied();
        slot.flatten() == Some((number, 0))
    }

    /// What a frame says instead of its template: `frame_dtis()` and `frame_fdiffs()`.
    fn customise(&self, flags: u8, bits: &mut Bits<'_>, template: &mut Template) -> Option<()> {
        if flags & 0x40 != 0 {
            // active_decode_targets_bitmask: the encoder leaves layers out by itself.
            for _ in 0..self.decode_targets {
                bits.take(1)?;
            }
        }
        if flags & 0x20 != 0 {
            template.discardable = bits.discardable(self.decode_targets)?;
        }
        if flags & 0x10 != 0 {
            let mut references = References::default();
            loop {
                let size = bits.take(2)?;
                if size == 0 {
                    break;
                }
                references.push(bits.take(4 * u32::from(size))? + 1);
            }
            template.references = references;
        }
        Some(())
    }

    /// `template_dependency_structure()`.
    fn learn(&mut self, bits: &mut Bits<'_>) -> Option<()> {
        self.first_id = bits.byte(6)?;
        self.decode_targets = bits.byte(5)? + 1;
        let count = self.learn_layers(bits)?;
        let targets = self.decode_targets;
        let templates = self.templates.get_mut(..usize::from(count))?;
        for template in templates.iter_mut() {
            template.discardable = bits.discardable(targets)?;
        }
        for template in templates.iter_mut() {
            while bits.take(1)? != 0 {
                template.references.push(bits.take(4)? + 1);
            }
        }
        self.count = count;
        let chains = bits.non_symmetric(u16::from(targets) + 1)?;
        if chains > 0 {
            for _ in 0..targets {
                bits.non_symmetric(chains)?;
            }
            for _ in 0..u32::from(count) * u32::from(chains) {
                bits.take(4)?;
            }
        }
        if bits.take(1)? != 0 {
            // render_resolutions(): width and height by spatial layer.
            let top = self.templates.get(usize::from(count) - 1)?.spatial;
            for _ in 0..2 * (u32::from(top) + 1) {
                bits.take(16)?;
            }
        }
        Some(())
    }

    /// `template_layers()`: returns how many templates there are.
    fn learn_layers(&mut self, bits: &mut Bits<'_>) -> Option<u8> {
        let (mut spatial, mut temporal) = (0u8, 0u8);
        for (slot, count) in self.templates.iter_mut().zip(1..) {
            *slot = Template {
                spatial,
                temporal,
                ..Template::default()
            };
            match bits.take(2)? {
                0 => {}
                1 => temporal = (temporal + 1) & 7,
                2 => (spatial, temporal) = ((spatial + 1) & 7, 0),
                _ => return Some(count),
            }
        }
        None
    }
}

/// Whether an RTP timestamp comes after another one.
pub(super) fn is_newer(timestamp: u32, than: u32) -> bool {
    timestamp.wrapping_sub(than).cast_signed() > 0
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    /// Up to 16 bits.
    fn take(&mut self, count: u32) -> Option<u16> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8)?;
            value = value << 1 | u16::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    /// Up to 8 bits.
    fn byte(&mut self, count: u32) -> Option<u8> {
        self.take(count).and_then(|value| u8::try_from(value).ok())
    }

    /// Two bits for each decode target; whether none of them is "switch" (2) or "required" (3).
    fn discardable(&mut self, decode_targets: u8) -> Option<bool> {
        let mut discardable = true;
        for _ in 0..decode_targets {
            discardable &= self.take(2)? < 2;
        }
        Some(discardable)
    }

    /// `ns(n)` (AV1 bitstream specification section 4.10.7): a value below `n`, for `n` >= 1.
    fn non_symmetric(&mut self, n: u16) -> Option<u16> {
        let width = u16::BITS - n.leading_zeros();
        let short = (1u16 << width).checked_sub(n)?;
        let value = self.take(width.checked_sub(1)?)?;
        if value < short {
            return Some(value);
        }
        Some((value << 1) - short + self.take(1)?)
    }
}
