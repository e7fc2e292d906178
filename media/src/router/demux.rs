//! Which track and stream an SSRC carries (RFC 8843 section 9.2, RFC 8852).

use std::collections::BTreeMap;

use super::{ReceiveConfig, ReceiveMedia, ReceivePayload, StreamIndex};

/// SSRCs that are remembered per transport; more are dropped as unknown.
const BINDINGS_MAX: usize = 256;

/// Where a packet belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Binding {
    /// Position in [`ReceiveConfig::media`].
    pub(super) media: usize,
    /// Simulcast stream.
    pub(super) stream: StreamIndex,
}

/// What a packet says about where it belongs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Hints<'a> {
    pub(super) ssrc: u32,
    pub(super) payload_type: u8,
    pub(super) mid: Option<&'a [u8]>,
    pub(super) rid: Option<&'a [u8]>,
    pub(super) repaired_rid: Option<&'a [u8]>,
}

/// Learns SSRCs from extensions and remembers them: libwebrtc stops sending mid and rid once they
/// are acknowledged.
#[derive(Debug, Default)]
pub(super) struct Demux {
    pub(super) receive: ReceiveConfig,
    bindings: BTreeMap<u32, Binding>,
}

impl Demux {
    /// Replaces the configuration; what was learned for m-lines that stay is kept.
    pub(super) fn configure(&mut self, receive: ReceiveConfig) {
        let bindings = std::mem::take(&mut self.bindings);
        for (ssrc, binding) in bindings {
            let Some(old) = self.receive.media.get(binding.media) else {
                continue;
            };
            let stays = |media: &ReceiveMedia| media.mid == old.mid && media.track == old.track;
            if let Some(media) = receive.media.iter().position(stays) {
                self.bindings.insert(ssrc, Binding { media, ..binding });
            }
        }
        self.receive = receive;
    }

    /// Where `ssrc` was last seen to belong.
    pub(super) fn bound(&self, ssrc: u32) -> Option<Binding> {
        self.bindings.get(&ssrc).copied()
    }

    /// Forgets an SSRC that its sender ended.
    pub(super) fn forget(&mut self, ssrc: u32) {
        self.bindings.remove(&ssrc);
    }

    pub(super) fn media(&self, binding: Binding) -> Option<&ReceiveMedia> {
        self.receive.media.get(binding.media)
    }

    /// Finds where a packet belongs and remembers it; `None` for an unknown SSRC.
    pub(super) fn resolve(&mut self, hints: &Hints<'_>) -> Option<Binding> {
        if let Some(&binding) = self.bindings.get(&hints.ssrc)
            && hints.mid.is_none_or(|mid| self.has_mid(binding, mid))
        {
            return Some(binding);
        }
        let binding = self.learn(hints)?;
        if self.bindings.len() >= BINDINGS_MAX {
            return None;
        }
        self.bindings.insert(hints.ssrc, binding);
        Some(binding)
    }

    fn has_mid(&self, binding: Binding, mid: &[u8]) -> bool {
        self.media(binding)
            .is_some_and(|media| media.mid.as_bytes() == mid)
    }

    fn learn(&self, hints: &Hints<'_>) -> Option<Binding> {
        let media = match hints.mid {
            Some(mid) => self
                .receive
                .media
                .iter()
                .position(|media| media.mid.as_bytes() == mid)?,
            None => self
                .by_signalled_ssrc(hints.ssrc)
                .or_else(|| self.by_payload_type(hints))?,
        };
        let config = self.receive.media.get(media)?;
        find_payload(config, hints.payload_type)?;
        let signalled = config
            .ssrcs
            .iter()
            .position(|known| known.ssrc == hints.ssrc || known.rtx == Some(hints.ssrc));
        let rid = hints.rid.or(hints.repaired_rid);
        let stream = match rid {
            Some(rid) if !config.rids.is_empty() => config
                .rids
                .iter()
                .position(|known| known.as_bytes() == rid)?,
            Some(_) | None => match signalled {
                Some(stream) => stream,
                None if config.rids.len() <= 1 => 0,
                None => return None,
            },
        };
        Some(Binding {
            media,
            stream: StreamIndex::try_from(stream).ok()?,
        })
    }

    fn by_signalled_ssrc(&self, ssrc: u32) -> Option<usize> {
        self.receive.media.iter().position(|media| {
            media
                .ssrcs
                .iter()
                .any(|known| known.ssrc == ssrc || known.rtx == Some(ssrc))
        })
    }

    /// Only when a single m-line uses the payload type.
    fn by_payload_type(&self, hints: &Hints<'_>) -> Option<usize> {
        let mut matching = self
            .receive
            .media
            .iter()
            .enumerate()
            .filter(|(_, media)| find_payload(media, hints.payload_type).is_some());
        let (media, _) = matching.next()?;
        matching.next().is_none().then_some(media)
    }
}

/// The payload type's entry and whether it is the entry's RTX.
pub(super) fn find_payload(
    media: &ReceiveMedia,
    payload_type: u8,
) -> Option<(&ReceivePayload, bool)> {
    media.payloads.iter().find_map(|payload| {
        if payload.pt == payload_type {
            Some((payload, false))
        } else {
            (payload.rtx == Some(payload_type)).then_some((payload, true))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Codec;
    use crate::router::{ReceiveSsrc, TrackKey};

    fn video(mid: &str, track: u32) -> ReceiveMedia {
        ReceiveMedia {
            mid: mid.to_owned(),
            track: TrackKey(track),
            payloads: vec![ReceivePayload {
                pt: 96,
                codec: Codec::Vp8,
                rtx: Some(97),
                nack: true,
                pli: true,
                clock_rate: 90_000,
            }],
            rids: vec!["q".to_owned(), "h".to_owned(), "f".to_owned()],
            ssrcs: Vec::new(),
        }
    }

    fn hints(ssrc: u32, payload_type: u8) -> Hints<'static> {
        Hints {
            ssrc,
            payload_type,
            ..Hints::default()
        }
    }

    #[test]
    fn rids_are_remembered_after_they_stop() {
        let mut demux = Demux::default();
        let media = vec![video("0", 1), video("1", 2)];
        demux.configure(ReceiveConfig {
            media,
            ..ReceiveConfig::default()
        });
        assert_eq!(demux.resolve(&hints(5, 96)), None);
        let first = Hints {
            mid: Some(b"1"),
            rid: Some(b"h"),
            ..hints(5, 96)
        };
        let binding = Binding {
            media: 1,
            stream: 1,
        };
        assert_eq!(demux.resolve(&first), Some(binding));
        assert_eq!(demux.resolve(&hints(5, 96)), Some(binding));
        let rtx = Hints {
            mid: Some(b"1"),
            repaired_rid: Some(b"h"),
            ..hints(6, 97)
        };
        assert_eq!(demux.resolve(&rtx), Some(binding));
        // Renegotiation moves the m-line.
        let media = vec![video("1", 2)];
        demux.configure(ReceiveConfig {
            media,
            ..ReceiveConfig::default()
        });
        assert_eq!(
            demux.resolve(&hints(6, 97)),
            Some(Binding {
                media: 0,
                stream: 1
            })
        );
    }

    #[test]
    fn signalled_ssrcs_and_unique_payload_types_stand_in_for_mid() {
        let mut demux = Demux::default();
        let mut media = video("0", 1);
        media.rids.clear();
        media.ssrcs = vec![ReceiveSsrc {
            ssrc: 9,
            rtx: Some(10),
        }];
        demux.configure(ReceiveConfig {
            media: vec![media],
            ..ReceiveConfig::default()
        });
        let binding = Some(Binding {
            media: 0,
            stream: 0,
        });
        assert_eq!(demux.resolve(&hints(9, 96)), binding);
        assert_eq!(demux.resolve(&hints(10, 97)), binding);
        assert_eq!(demux.resolve(&hints(11, 96)), binding);
        assert_eq!(demux.resolve(&hints(12, 100)), None);
    }
}
