//! The VP9 payload descriptor (RFC 9628 section 4.2).

use crate::packet::LayerMeta;

/// Pictures that one picture may refer to (section 4.2: at most three `P_DIFF`).
const REFERENCES_MAX: usize = 3;

/// Pictures of a group that are remembered; longer groups go by the U bit.
const GROUP_MAX: usize = 16;

/// `P_DIFF` has seven bits.
const PICTURES: usize = 128;

/// How far back the pictures lie that one picture refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct References {
    diffs: [u8; REFERENCES_MAX],
    count: u8,
}

impl References {
    fn push(&mut self, diff: u8) {
        if let Some(slot) = self.diffs.get_mut(usize::from(self.count)) {
            *slot = diff;
            self.count += 1;
        }
    }

    fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        self.diffs.iter().copied().take(usize::from(self.count))
    }
}

/// A parsed descriptor, as far as forwarding needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vp9 {
    /// Picture id, 7 or 15 bits, and whether it has 15.
    pub picture_id: Option<(u16, bool)>,
    /// Spatial layer.
    pub spatial: u8,
    /// Temporal layer.
    pub temporal: u8,
    /// P: predicted from other pictures.
    pub predicted: bool,
    /// D: predicted from the next lower spatial layer of the same picture.
    pub inter_layer: bool,
    /// F: references are listed in each packet.
    pub flexible: bool,
    /// B: first packet of a layer frame.
    pub start: bool,
    /// E: last packet of a layer frame.
    pub end: bool,
    /// Z: no higher spatial layer refers to it.
    pub not_reference: bool,
    /// U: a receiver may switch up to this temporal layer.
    pub switch_point: bool,
    /// References in flexible mode.
    pub references: References,
    /// Offset of the scalability structure in the payload, when it has one (V).
    structure: Option<usize>,
}

impl Vp9 {
    /// Parses a payload; `None` when the descriptor is truncated.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let (&first, _) = payload.split_first()?;
        let mut vp9 = Self {
            predicted: first & 0x40 != 0,
            flexible: first & 0x10 != 0,
            start: first & 0x08 != 0,
            end: first & 0x04 != 0,
            not_reference: first & 0x01 != 0,
            ..Self::default()
        };
        let mut at = 1;
        if first & 0x80 != 0 {
            let high = *payload.get(at)?;
            let wide = high & 0x80 != 0;
            vp9.picture_id = Some(if wide {
                let low = *payload.get(at + 1)?;
                (u16::from_be_bytes([high & 0x7f, low]), true)
            } else {
                (u16::from(high), false)
            });
            at += if wide { 2 } else { 1 };
        }
        if first & 0x20 != 0 {
            let layer = *payload.get(at)?;
            vp9.temporal = layer >> 5;
            vp9.switch_point = layer & 0x10 != 0;
            vp9.spatial = layer >> 1 & 7;
            vp9.inter_layer = layer & 0x01 != 0;
            at += if vp9.flexible { 1 } else { 2 };
        }
        if vp9.flexible && vp9.predicted {
            loop {
                let diff = *payload.get(at)?;
                at += 1;
                vp9.references.push(diff >> 1);
                if diff & 1 == 0 {
                    break;
                }
            }
        }
        vp9.structure = (first & 0x02 != 0).then_some(at);
        Some(vp9)
    }

    fn meta(&self) -> LayerMeta {
        LayerMeta {
            spatial: self.spatial,
            temporal: self.temporal,
            key: !self.predicted && self.start && self.spatial == 0,
            discardable: self.not_reference && self.spatial > 0,
            frame_start: self.start,
            frame_end: self.end,
            switch_point: self.switch_point,
            independent: !self.predicted,
        }
    }
}

/// One picture of a group (section 4.2.1).
#[derive(Debug, Clone, Copy, Default)]
struct Picture {
    references: References,
}

/// What spans the packets of a VP9 stream: which temporal layers the last pictures had, and the group
/// that non-flexible mode repeats.
#[derive(Debug)]
pub struct Pictures {
    /// By picture id modulo 128: the id, and the temporal layer.
    temporals: [Option<(u16, u8)>; PICTURES],
    group: [Picture; GROUP_MAX],
    group_len: u8,
    /// Picture id at which a group began.
    group_start: u16,
}

impl Default for Pictures {
    fn default() -> Self {
        Self {
            temporals: [None; PICTURES],
            group: [Picture::default(); GROUP_MAX],
            group_len: 0,
            group_start: 0,
        }
    }
}

impl Pictures {
    /// Describes a packet; `None` when the descriptor is truncated.
    pub fn read(&mut self, payload: &[u8]) -> Option<LayerMeta> {
        let vp9 = Vp9::parse(payload)?;
        let mut meta = vp9.meta();
        let Some((id, wide)) = vp9.picture_id else {
            return Some(meta);
        };
        if let Some(structure) = vp9.structure {
            self.learn(id, payload.get(structure..).unwrap_or_default());
        }
        if let Some(slot) = self.temporals.get_mut(usize::from(id) % PICTURES) {
            *slot = Some((id, vp9.temporal));
        }
        let span = if wide { 0x7fff } else { 0x7f };
        let references = if vp9.flexible || !vp9.predicted {
            Some(vp9.references)
        } else {
            self.group_references(id, span)
        };
        if let Some(references) = references {
            meta.switch_point = references
                .iter()
                .all(|diff| self.is_base(id.wrapping_sub(u16::from(diff)) & span));
        }
        Some(meta)
    }

    /// Whether a picture is known to be of the lowest temporal layer.
    fn is_base(&self, id: u16) -> bool {
        let slot = self.temporals.get(usize::from(id) % PICTURES).copied();
        slot.flatten() == Some((id, 0))
    }

    fn group_references(&self, id: u16, span: u16) -> Option<References> {
        let len = u16::from(self.group_len);
        let position = (id.wrapping_sub(self.group_start) & span).checked_rem(len)?;
        let picture = self.group.get(usize::from(position))?;
        Some(picture.references)
    }

    /// The scalability structure: sizes, then the group of pictures.
    fn learn(&mut self, id: u16, structure: &[u8]) -> Option<()> {
        let (&flags, mut rest) = structure.split_first()?;
        if flags & 0x10 != 0 {
            rest = rest.get(4 * (usize::from(flags >> 5) + 1)..)?;
        }
        self.group_len = 0;
        if flags & 0x08 == 0 {
            return Some(());
        }
        let (&len, mut rest) = rest.split_first()?;
        let mut group = [Picture::default(); GROUP_MAX];
        for picture in group.get_mut(..usize::from(len))? {
            let (&head, after) = rest.split_first()?;
            let (diffs, after) = after.split_at_checked(usize::from(head >> 2 & 3))?;
            diffs
                .iter()
                .for_each(|&diff| picture.references.push(diff & 0x7f));
            rest = after;
        }
        self.group = group;
        self.group_len = len;
        self.group_start = id;
        Some(())
    }
}
