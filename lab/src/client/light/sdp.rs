//! Offers of a single connection, and what little of the answers matters.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::ice::Credentials;
use crate::client::connection::{OPUS_PAYLOAD_TYPE, VP8_PAYLOAD_TYPE};

/// RFC 6464.
pub(super) const AUDIO_LEVEL_ID: u8 = 1;
/// RFC 9143.
pub(super) const MID_ID: u8 = 4;
/// draft-holmer-rmcat-transport-wide-cc-extensions-01.
pub(super) const TRANSPORT_CC_ID: u8 = 5;
const TRANSPORT_CC: &str =
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
/// RFC 8852, `rtp-stream-id`.
pub(super) const RID_ID: u8 = 10;
/// RFC 8852, `repaired-rtp-stream-id`.
pub(super) const REPAIRED_RID_ID: u8 = 11;
const SDES: &str = "urn:ietf:params:rtp-hdrext:sdes:";

/// What a track of ours is sent as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Opus,
    Vp8,
    Vp9,
    Av1,
}

impl Format {
    /// Repairs have the next one.
    pub(super) fn payload_type(self) -> u8 {
        match self {
            Self::Opus => OPUS_PAYLOAD_TYPE,
            Self::Vp8 => VP8_PAYLOAD_TYPE,
            Self::Vp9 => 98,
            Self::Av1 => 45,
        }
    }

    pub(super) fn is_video(self) -> bool {
        self != Self::Opus
    }

    pub(super) fn clock_rate(self) -> u32 {
        if self.is_video() { 90_000 } else { 48_000 }
    }

    fn rtpmap(self) -> &'static str {
        match self {
            Self::Opus => "opus/48000/2",
            Self::Vp8 => "VP8/90000",
            Self::Vp9 => "VP9/90000",
            Self::Av1 => "AV1/90000",
        }
    }

    /// The section's `m` line, and what describes its payload types.
    fn lines(self, repaired: bool) -> String {
        let pt = self.payload_type();
        let rtpmap = self.rtpmap();
        if !self.is_video() {
            return format!(
                "m=audio 9 UDP/TLS/RTP/SAVPF {pt}\r\na=rtpmap:{pt} {rtpmap}\r\n\
                 a=fmtp:{pt} minptime=10;useinbandfec=1\r\n"
            );
        }
        let rtx = pt + 1;
        let (list, repair) = if repaired {
            let lines = format!("a=rtpmap:{rtx} rtx/90000\r\na=fmtp:{rtx} apt={pt}\r\n");
            (format!("{pt} {rtx}"), lines)
        } else {
            (pt.to_string(), String::new())
        };
        format!(
            "m=video 9 UDP/TLS/RTP/SAVPF {list}\r\na=rtpmap:{pt} {rtpmap}\r\n\
             a=rtcp-fb:{pt} nack\r\na=rtcp-fb:{pt} nack pli\r\na=rtcp-fb:{pt} ccm fir\r\n{repair}"
        )
    }
}

/// A track of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sending {
    pub(super) format: Format,
    pub(super) cid: String,
    /// Of each stream, lowest layer first, and of its repairs.
    pub(super) ssrcs: Vec<(u32, u32)>,
}

impl Sending {
    /// Names of the simulcast streams as LiveKit clients give them; none for a single stream.
    pub(super) fn rids(&self) -> &'static [&'static str] {
        match self.ssrcs.len() {
            0 | 1 => &[],
            2 => &["q", "h"],
            _ => &["q", "h", "f"],
        }
    }

    fn lines(&self) -> String {
        let cid = &self.cid;
        let rids = self.rids();
        let mut out = format!("a=sendonly\r\na=msid:lab {cid}\r\n");
        if rids.is_empty() {
            for &(ssrc, repair) in &self.ssrcs {
                if self.format.is_video() {
                    out.push_str(&format!("a=ssrc-group:FID {ssrc} {repair}\r\n"));
                    out.push_str(&format!("a=ssrc:{repair} cname:lab\r\n"));
                }
                out.push_str(&format!("a=ssrc:{ssrc} cname:lab\r\n"));
                out.push_str(&format!("a=ssrc:{ssrc} msid:lab {cid}\r\n"));
            }
        } else {
            out.push_str(&format!("a=extmap:{RID_ID} {SDES}rtp-stream-id\r\n"));
            out.push_str(&format!(
                "a=extmap:{REPAIRED_RID_ID} {SDES}repaired-rtp-stream-id\r\n"
            ));
            for rid in rids {
                out.push_str(&format!("a=rid:{rid} send\r\n"));
            }
            out.push_str(&format!("a=simulcast:send {}\r\n", rids.join(";")));
        }
        out
    }
}

/// What a media section is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Section {
    /// Room for a track of somebody else.
    Receive { video: bool },
    /// A track of ours.
    Send(Sending),
}

/// Everything our offers say. Sections are only ever added (JSEP keeps their order).
#[derive(Debug, Clone)]
pub(super) struct Offer {
    pub(super) credentials: Credentials,
    /// SHA-256 of our certificate, `AB:CD:…`.
    pub(super) fingerprint: String,
    pub(super) sections: Vec<Section>,
    pub(super) version: u32,
}

impl Offer {
    pub(super) fn to_sdp(&self) -> String {
        let mut out = format!(
            "v=0\r\no=- 4611686018427387904 {} IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n",
            self.version
        );
        out.push_str("a=group:BUNDLE");
        for mid in 0..self.sections.len() {
            // Writing to a string cannot fail.
            let _infallible = write!(out, " {mid}").is_ok();
        }
        out.push_str("\r\na=msid-semantic: WMS *\r\n");
        for (mid, section) in self.sections.iter().enumerate() {
            out.push_str(&self.section(mid, section));
        }
        out
    }

    fn section(&self, mid: usize, section: &Section) -> String {
        let Credentials { ufrag, pwd } = &self.credentials;
        let (codec, direction) = match section {
            Section::Receive { video } => {
                let format = if *video { Format::Vp8 } else { Format::Opus };
                // With repairs, because probes are made of them.
                (format.lines(*video), receiving(format))
            }
            Section::Send(sending) => (sending.format.lines(true), sending.lines()),
        };
        let level = match section {
            Section::Send(sending) if !sending.format.is_video() => {
                format!("a=extmap:{AUDIO_LEVEL_ID} urn:ietf:params:rtp-hdrext:ssrc-audio-level\r\n")
            }
            Section::Send(_) | Section::Receive { .. } => String::new(),
        };
        format!(
            "{codec}c=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\na=ice-ufrag:{ufrag}\r\n\
             a=ice-pwd:{pwd}\r\na=ice-options:trickle\r\na=fingerprint:sha-256 {}\r\n\
             a=setup:actpass\r\na=mid:{mid}\r\na=rtcp-mux\r\na=rtcp-rsize\r\n\
             a=extmap:{MID_ID} {SDES}mid\r\n{level}{direction}",
            self.fingerprint
        )
    }
}

/// What a section that receives says, with feedback about arrivals.
fn receiving(format: Format) -> String {
    let pt = format.payload_type();
    format!(
        "a=recvonly\r\na=rtcp-fb:{pt} transport-cc\r\n\
         a=extmap:{TRANSPORT_CC_ID} {TRANSPORT_CC}\r\n"
    )
}

/// The server's side of the transport, from its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) credentials: Credentials,
    /// SHA-256 of its certificate, upper case, `AB:CD:…`.
    pub(super) fingerprint: String,
    /// UDP candidates, best first.
    pub(super) candidates: Vec<SocketAddr>,
}

impl Answer {
    /// `None` when credentials or a SHA-256 fingerprint are missing.
    pub(super) fn parse(sdp: &str) -> Option<Self> {
        let attribute = |name: &str| {
            sdp.lines()
                .find_map(|line| line.trim_end().strip_prefix(name))
        };
        let fingerprint = attribute("a=fingerprint:sha-256 ")?;
        let mut candidates: Vec<(u32, SocketAddr)> = sdp
            .lines()
            .filter_map(|line| line.trim_end().strip_prefix("a=candidate:"))
            .filter_map(parse_candidate)
            .collect();
        candidates.sort_by_key(|(priority, _)| std::cmp::Reverse(*priority));
        Some(Self {
            credentials: Credentials {
                ufrag: attribute("a=ice-ufrag:")?.to_owned(),
                pwd: attribute("a=ice-pwd:")?.to_owned(),
            },
            fingerprint: fingerprint.trim().to_ascii_uppercase(),
            candidates: candidates.into_iter().map(|(_, address)| address).collect(),
        })
    }
}

/// Priority and address of a UDP candidate of component 1 (RFC 8839, section 5.1), the text after
/// `candidate:`.
pub(super) fn parse_candidate(text: &str) -> Option<(u32, SocketAddr)> {
    let mut fields = text.split_ascii_whitespace().skip(1);
    let component = fields.next()?;
    let transport = fields.next()?;
    let priority = fields.next()?.parse().ok()?;
    let ip = fields.next()?.parse().ok()?;
    let port = fields.next()?.parse().ok()?;
    let udp = component == "1" && transport.eq_ignore_ascii_case("udp");
    udp.then(|| (priority, SocketAddr::new(ip, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_names_its_sections_in_order() {
        let offer = Offer {
            credentials: Credentials {
                ufrag: "u".to_owned(),
                pwd: "p".to_owned(),
            },
            fingerprint: "AA".to_owned(),
            sections: vec![
                Section::Receive { video: false },
                Section::Send(Sending {
                    format: Format::Vp8,
                    cid: "cam".to_owned(),
                    ssrcs: vec![(5, 6)],
                }),
            ],
            version: 2,
        };
        let sdp = offer.to_sdp();
        assert!(sdp.contains("a=group:BUNDLE 0 1\r\n"));
        assert!(sdp.contains("m=audio 9") && sdp.contains("a=recvonly"));
        assert!(sdp.contains("a=msid:lab cam\r\na=ssrc-group:FID 5 6\r\n"));
        assert!(sdp.contains("a=ssrc:5 msid:lab cam\r\n"));
        assert!(sdp.contains("m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\n"));
        assert!(sdp.lines().all(|line| line.get(1..2) == Some("=")));
    }

    #[test]
    fn simulcast_streams_have_names_instead_of_ssrcs() {
        let sending = Sending {
            format: Format::Vp8,
            cid: "cam".to_owned(),
            ssrcs: vec![(1, 2), (3, 4), (5, 6)],
        };
        let lines = sending.lines();
        assert!(lines.ends_with("a=rid:f send\r\na=simulcast:send q;h;f\r\n"));
        assert!(!lines.contains("a=ssrc"));
    }

    #[test]
    fn an_answer_gives_the_transport() {
        let sdp = "v=0\r\na=ice-lite\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=ice-ufrag:abcd\r\n\
                   a=ice-pwd:secret\r\na=fingerprint:sha-256 ab:cd\r\n\
                   a=candidate:1 1 udp 100 10.0.0.1 7882 typ host\r\n\
                   a=candidate:2 1 tcp 300 10.0.0.1 7881 typ host tcptype passive\r\n\
                   a=candidate:3 1 udp 200 127.0.0.1 7883 typ host\r\n";
        let answer = Answer::parse(sdp).unwrap();
        assert_eq!(answer.credentials.ufrag, "abcd");
        assert_eq!(answer.fingerprint, "AB:CD");
        let ports: Vec<u16> = answer.candidates.iter().map(SocketAddr::port).collect();
        assert_eq!(ports, [7883, 7882]);
        assert_eq!(Answer::parse("v=0\r\n"), None);
    }
}
