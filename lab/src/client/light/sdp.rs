//! Offers of a single connection, and what little of the answers matters.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::ice::Credentials;
use crate::client::connection::{OPUS_PAYLOAD_TYPE, VP8_PAYLOAD_TYPE};

/// What a media section is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Section {
    /// Room for a track of somebody else.
    Receive { video: bool },
    /// A track of ours.
    Send { video: bool, cid: String, ssrc: u32 },
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
        let video = match section {
            Section::Receive { video } | Section::Send { video, .. } => *video,
        };
        let Credentials { ufrag, pwd } = &self.credentials;
        let codec = if video { video_codec() } else { audio_codec() };
        let direction = match section {
            Section::Receive { .. } => "a=recvonly\r\n".to_owned(),
            Section::Send { cid, ssrc, .. } => format!(
                "a=sendonly\r\na=msid:lab {cid}\r\na=ssrc:{ssrc} cname:lab\r\n\
                 a=ssrc:{ssrc} msid:lab {cid}\r\n"
            ),
        };
        format!(
            "{codec}c=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\na=ice-ufrag:{ufrag}\r\n\
             a=ice-pwd:{pwd}\r\na=ice-options:trickle\r\na=fingerprint:sha-256 {}\r\n\
             a=setup:actpass\r\na=mid:{mid}\r\na=rtcp-mux\r\na=rtcp-rsize\r\n\
             a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\n{direction}",
            self.fingerprint
        )
    }
}

fn audio_codec() -> String {
    let pt = OPUS_PAYLOAD_TYPE;
    format!(
        "m=audio 9 UDP/TLS/RTP/SAVPF {pt}\r\na=rtpmap:{pt} opus/48000/2\r\n\
         a=fmtp:{pt} minptime=10;useinbandfec=1\r\n"
    )
}

fn video_codec() -> String {
    let pt = VP8_PAYLOAD_TYPE;
    format!(
        "m=video 9 UDP/TLS/RTP/SAVPF {pt}\r\na=rtpmap:{pt} VP8/90000\r\n\
         a=rtcp-fb:{pt} nack\r\na=rtcp-fb:{pt} nack pli\r\na=rtcp-fb:{pt} ccm fir\r\n"
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
                Section::Send {
                    video: true,
                    cid: "cam".to_owned(),
                    ssrc: 5,
                },
            ],
            version: 2,
        };
        let sdp = offer.to_sdp();
        assert!(sdp.contains("a=group:BUNDLE 0 1\r\n"));
        assert!(sdp.contains("m=audio 9") && sdp.contains("a=recvonly"));
        assert!(sdp.contains("a=msid:lab cam\r\na=ssrc:5 cname:lab"));
        assert!(sdp.lines().all(|line| line.get(1..2) == Some("=")));
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
