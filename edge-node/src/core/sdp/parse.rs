//! From text to [`Description`].

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;

use rtc_sdp::SessionDescription;
use rtc_sdp::description::common::Attribute;
use rtc_sdp::description::media::MediaDescription;

use super::value::{direction, extmap, msid, push_bounded, rid, simulcast};
use super::{
    CodecParameters, Description, Direction, Error, Media, MediaKind, Origin, Setup, SsrcGroup,
    TransportAttributes,
};

/// Longest text that is looked at. A Chromium description takes about 7 kB per video section.
pub const MAX_SDP_BYTES: usize = 1 << 20;
/// Most m-lines in one description: a room of 500 with camera and microphone each.
pub const MAX_MEDIA: usize = 1000;

// Bounds of what one section may list; what is beyond them is dropped. Chromium stays well below each.
const MAX_CANDIDATES: usize = 64;
const MAX_FEEDBACK: usize = 32;
const MAX_FINGERPRINTS: usize = 8;
const MAX_FMTP_BYTES: usize = 2048;
const MAX_MID_BYTES: usize = 32;
const MAX_SSRCS: usize = 64;

/// Reads a description.
///
/// # Errors
/// Text over the limits, text that is not SDP, and sections without a unique `a=mid`.
pub fn parse(text: &str) -> Result<Description, Error> {
    if text.len() > MAX_SDP_BYTES {
        return Err(Error::TooLarge { bytes: text.len() });
    }
    let (known, media_count) = known_lines(text);
    if media_count > MAX_MEDIA {
        return Err(Error::TooManyMedia);
    }
    let raw =
        SessionDescription::unmarshal(&mut Cursor::new(known.as_bytes())).map_err(|error| {
            Error::Syntax {
                reason: error.to_string(),
            }
        })?;
    let mut description = Description {
        origin: Origin {
            session_id: raw.origin.session_id,
            session_version: raw.origin.session_version,
        },
        ..Description::default()
    };
    let session = session_attributes(&raw.attributes, &mut description);
    let mut mids = BTreeSet::new();
    for (index, raw_media) in raw.media_descriptions.iter().enumerate() {
        let media = Section::default().read(raw_media, &session, index)?;
        if !mids.insert(media.mid.clone()) {
            return Err(Error::DuplicateMid { mid: media.mid });
        }
        description.media.push(media);
    }
    Ok(description)
}

/// Keeps the lines that matter here: to `rtc-sdp` an unknown type is fatal, and so is an odd value in a line nobody
/// needs. A lone CR ends a line as well, so that nothing echoed can smuggle one in. Returns the number of m-lines, too.
fn known_lines(text: &str) -> (String, usize) {
    let mut known = String::with_capacity(text.len());
    let mut media_count = 0;
    for line in text.split(['\r', '\n']) {
        let Some(("v" | "o" | "s" | "t" | "a" | "m", _)) = line.split_once('=') else {
            continue;
        };
        media_count += usize::from(line.starts_with("m="));
        known.push_str(line);
        known.push_str("\r\n");
    }
    (known, media_count)
}

/// Fills in what is said once for all sections; returns the transport attributes that sections inherit.
fn session_attributes(
    attributes: &[Attribute],
    description: &mut Description,
) -> TransportAttributes {
    let mut transport = TransportAttributes::default();
    for attribute in attributes {
        let value = attribute.value.as_deref().unwrap_or_default().trim();
        match attribute.key.as_str() {
            "ice-lite" => description.ice_lite = true,
            "extmap-allow-mixed" => description.extmap_allow_mixed = true,
            "group" if description.bundle.is_empty() => {
                if let Some(mids) = value.strip_prefix("BUNDLE ") {
                    description.bundle = mids
                        .split_whitespace()
                        .take(MAX_MEDIA)
                        .map(str::to_owned)
                        .collect();
                }
            }
            key => transport_attribute(&mut transport, key, value),
        }
    }
    transport
}

fn transport_attribute(transport: &mut TransportAttributes, key: &str, value: &str) {
    match key {
        "ice-ufrag" => transport.ufrag = Some(value.to_owned()),
        "ice-pwd" => transport.pwd = Some(value.to_owned()),
        "fingerprint" => push_bounded(&mut transport.fingerprints, value, MAX_FINGERPRINTS),
        "candidate" => push_bounded(&mut transport.candidates, value, MAX_CANDIDATES),
        "end-of-candidates" => transport.end_of_candidates = true,
        "setup" => {
            transport.setup = match value {
                "active" => Some(Setup::Active),
                "passive" => Some(Setup::Passive),
                "actpass" => Some(Setup::ActPass),
                _ => None,
            }
        }
        _ => {}
    }
}

/// A payload type while its lines are being collected.
#[derive(Default)]
struct RawCodec {
    rtpmap: Option<(String, u32, u16)>,
    fmtp: String,
    feedback: Vec<String>,
}

/// A section while its lines are being collected.
#[derive(Default)]
struct Section {
    mid: String,
    direction: Option<Direction>,
    bundle_only: bool,
    transport: TransportAttributes,
    codecs: BTreeMap<u8, RawCodec>,
    feedback_for_all: Vec<String>,
    cnames: Vec<(u32, String)>,
    ssrc_msid: Option<(String, String)>,
    repairs: Vec<(u32, u32)>,
    protects: Vec<u32>,
    simulcast_ssrcs: Vec<u32>,
}

impl Section {
    fn read(
        mut self,
        raw: &MediaDescription,
        session: &TransportAttributes,
        index: usize,
    ) -> Result<Media, Error> {
        let mut media = Media::new(String::new(), kind(&raw.media_name.media, index)?);
        media.protocol = raw.media_name.protos.join("/");
        (media.rtcp_mux, media.rtcp_rsize) = (false, false);
        for attribute in &raw.attributes {
            let value = attribute.value.as_deref().unwrap_or_default().trim();
            self.attribute(&mut media, &attribute.key, value);
        }
        if self.mid.is_empty() || self.mid.len() > MAX_MID_BYTES || self.mid.contains(' ') {
            return Err(Error::BadMid { index });
        }
        media.rejected = raw.media_name.port.value == 0 && !self.bundle_only;
        media.direction = self.direction.unwrap_or_default();
        media.ssrcs = self.ssrcs();
        media.msid = media.msid.or_else(|| self.ssrc_msid.take());
        if media.is_data() {
            // Before RFC 8841 the SCTP port was the m-line's format.
            let format = raw.media_name.formats.first();
            media.sctp_port = media.sctp_port.or_else(|| format?.parse().ok());
        } else {
            media.codecs = self.codecs(&raw.media_name.formats);
        }
        media.transport = inherit(self.transport, session);
        media.mid = self.mid;
        Ok(media)
    }

    fn attribute(&mut self, media: &mut Media, key: &str, value: &str) {
        match key {
            "mid" => value.clone_into(&mut self.mid),
            "bundle-only" => self.bundle_only = true,
            "rtcp-mux" => media.rtcp_mux = true,
            "rtcp-rsize" => media.rtcp_rsize = true,
            "sctp-port" => media.sctp_port = value.parse().ok(),
            "max-message-size" => media.max_message_size = value.parse().ok(),
            "msid" => media.msid = msid(value),
            "rtpmap" => self.rtpmap(value),
            "fmtp" => self.fmtp(value),
            "rtcp-fb" => self.feedback(value),
            "extmap" => extmap(&mut media.extensions, value),
            "rid" => rid(media, value),
            "simulcast" => simulcast(media, value),
            "ssrc" => self.ssrc(value),
            "ssrc-group" => self.ssrc_group(value),
            _ => match direction(key) {
                Some(direction) => self.direction = Some(direction),
                None => transport_attribute(&mut self.transport, key, value),
            },
        }
    }

    fn codec(&mut self, pt: &str) -> Option<&mut RawCodec> {
        let pt = pt.parse().ok().filter(|pt: &u8| *pt < 128)?;
        Some(self.codecs.entry(pt).or_default())
    }

    fn rtpmap(&mut self, value: &str) {
        let Some((pt, encoding)) = value.split_once(' ') else {
            return;
        };
        let mut fields = encoding.trim().split('/');
        let (Some(name), Some(rate)) = (fields.next(), fields.next()) else {
            return;
        };
        let Ok(rate) = rate.parse() else { return };
        let channels = fields.next().and_then(|c| c.parse().ok()).unwrap_or(1);
        let name = name.to_owned();
        if let Some(codec) = self.codec(pt) {
            codec.rtpmap = Some((name, rate, channels));
        }
    }

    fn fmtp(&mut self, value: &str) {
        let Some((pt, parameters)) = value.split_once(' ') else {
            return;
        };
        let parameters = parameters.trim();
        if let Some(codec) = self.codec(pt)
            && codec.fmtp.len() + parameters.len() < MAX_FMTP_BYTES
        {
            if !codec.fmtp.is_empty() {
                codec.fmtp.push(';');
            }
            codec.fmtp.push_str(parameters);
        }
    }

    fn feedback(&mut self, value: &str) {
        let Some((pt, feedback)) = value.split_once(' ') else {
            return;
        };
        if pt == "*" {
            push_bounded(&mut self.feedback_for_all, feedback.trim(), MAX_FEEDBACK);
        } else if let Some(codec) = self.codec(pt) {
            push_bounded(&mut codec.feedback, feedback.trim(), MAX_FEEDBACK);
        }
    }

    fn ssrc(&mut self, value: &str) {
        let Some((ssrc, attribute)) = value.split_once(' ') else {
            return;
        };
        let Ok(ssrc) = ssrc.parse::<u32>() else {
            return;
        };
        let (key, value) = attribute.split_once(':').unwrap_or((attribute, ""));
        let known = self.cnames.iter().position(|(known, _)| *known == ssrc);
        let index = match known {
            Some(index) => index,
            None if self.cnames.len() < MAX_SSRCS => {
                self.cnames.push((ssrc, String::new()));
                self.cnames.len() - 1
            }
            None => return,
        };
        match key {
            "cname" => {
                if let Some((_, cname)) = self.cnames.get_mut(index) {
                    value.clone_into(cname);
                }
            }
            "msid" if self.ssrc_msid.is_none() => self.ssrc_msid = msid(value),
            _ => {}
        }
    }

    fn ssrc_group(&mut self, value: &str) {
        let mut fields = value.split_whitespace();
        let semantics = fields.next().unwrap_or_default();
        let ssrcs: Vec<u32> = fields
            .take(MAX_SSRCS)
            .filter_map(|s| s.parse().ok())
            .collect();
        match (semantics, ssrcs.as_slice()) {
            ("FID", &[primary, repair]) if self.repairs.len() < MAX_SSRCS => {
                self.repairs.push((primary, repair));
            }
            ("FEC-FR", &[_, fec]) if self.protects.len() < MAX_SSRCS => self.protects.push(fec),
            ("SIM", _) => self.simulcast_ssrcs = ssrcs,
            _ => {}
        }
    }

    /// Media streams with their repair streams; repair and FEC streams do not stand for themselves.
    fn ssrcs(&self) -> Vec<SsrcGroup> {
        let secondary = |ssrc: u32| {
            self.protects.contains(&ssrc) || self.repairs.iter().any(|(_, repair)| *repair == ssrc)
        };
        let mut groups: Vec<SsrcGroup> = self
            .cnames
            .iter()
            .filter(|(ssrc, _)| !secondary(*ssrc))
            .map(|(ssrc, cname)| SsrcGroup {
                ssrc: *ssrc,
                rtx: self
                    .repairs
                    .iter()
                    .find(|(primary, _)| primary == ssrc)
                    .map(|(_, rtx)| *rtx),
                cname: cname.clone(),
            })
            .collect();
        let rank = |ssrc: u32| self.simulcast_ssrcs.iter().position(|s| *s == ssrc);
        groups.sort_by_key(|group| rank(group.ssrc).unwrap_or(usize::MAX));
        groups
    }

    /// Codecs in the m-line's order, RTX folded in.
    fn codecs(&mut self, formats: &[String]) -> Vec<CodecParameters> {
        let mut codecs: Vec<CodecParameters> = Vec::new();
        let mut repairs: Vec<(u8, u8)> = Vec::new();
        for format in formats {
            let Some(pt) = format.parse::<u8>().ok().filter(|pt| *pt < 128) else {
                continue;
            };
            if codecs.iter().any(|codec| codec.pt == pt) {
                continue;
            }
            let mut raw = self.codecs.remove(&pt).unwrap_or_default();
            let Some((name, clock_rate, channels)) = raw.rtpmap.or_else(|| static_codec(pt)) else {
                continue;
            };
            if name.eq_ignore_ascii_case("rtx") {
                let apt = raw
                    .fmtp
                    .split(';')
                    .find_map(|p| p.trim().strip_prefix("apt="));
                repairs.extend(
                    apt.and_then(|apt| apt.parse().ok())
                        .map(|apt: u8| (apt, pt)),
                );
                continue;
            }
            raw.feedback.extend(self.feedback_for_all.iter().cloned());
            codecs.push(CodecParameters {
                pt,
                name,
                clock_rate,
                channels,
                fmtp: raw.fmtp,
                feedback: raw.feedback,
                rtx: None,
            });
        }
        for (apt, rtx) in repairs {
            if let Some(codec) = codecs.iter_mut().find(|codec| codec.pt == apt) {
                codec.rtx.get_or_insert(rtx);
            }
        }
        codecs
    }
}

fn kind(token: &str, index: usize) -> Result<MediaKind, Error> {
    Ok(match token {
        "audio" => MediaKind::Audio,
        "video" => MediaKind::Video,
        "application" => MediaKind::Application,
        "text" => MediaKind::Text,
        "message" => MediaKind::Message,
        "image" => MediaKind::Image,
        _ => {
            return Err(Error::Syntax {
                reason: format!("media section {index} is of no known kind"),
            });
        }
    })
}

/// Payload types that need no rtpmap (RFC 3551 §6), as far as browsers offer them.
fn static_codec(pt: u8) -> Option<(String, u32, u16)> {
    let name = match pt {
        0 => "PCMU",
        8 => "PCMA",
        9 => "G722",
        _ => return None,
    };
    Some((name.to_owned(), 8000, 1))
}

fn inherit(own: TransportAttributes, session: &TransportAttributes) -> TransportAttributes {
    TransportAttributes {
        ufrag: own.ufrag.or_else(|| session.ufrag.clone()),
        pwd: own.pwd.or_else(|| session.pwd.clone()),
        fingerprints: if own.fingerprints.is_empty() {
            session.fingerprints.clone()
        } else {
            own.fingerprints
        },
        setup: own.setup.or(session.setup),
        candidates: if own.candidates.is_empty() {
            session.candidates.clone()
        } else {
            own.candidates
        },
        end_of_candidates: own.end_of_candidates || session.end_of_candidates,
    }
}
