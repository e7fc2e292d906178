//! From [`Description`] to text.

use rtc_sdp::SessionDescription;
use rtc_sdp::description::common::{Address, ConnectionInformation};
use rtc_sdp::description::media::{MediaDescription, MediaName, RangedPort};
use rtc_sdp::description::session as raw;

use super::{CodecParameters, Description, Direction, Media, SsrcGroup};

/// The discard port: ICE finds the real one (RFC 8840 §4.1.1).
const DISCARD_PORT: isize = 9;
/// SCTP port where the peer names none (RFC 8841 §5.2).
pub(super) const SCTP_PORT: u16 = 5000;

impl Description {
    /// Writes the description. Candidates go on the first live section, because all are bundled, and on the first that is not
    /// inactive, because some clients do not look at inactive ones.
    pub fn to_sdp(&self) -> String {
        let mut session = SessionDescription {
            origin: raw::Origin {
                username: "-".to_owned(),
                session_id: self.origin.session_id,
                session_version: self.origin.session_version,
                network_type: "IN".to_owned(),
                address_type: "IP4".to_owned(),
                unicast_address: "0.0.0.0".to_owned(),
            },
            session_name: "-".to_owned(),
            time_descriptions: vec![raw::TimeDescription::default()],
            ..SessionDescription::default()
        };
        if self.ice_lite {
            session = session.with_property_attribute("ice-lite".to_owned());
        }
        if !self.bundle.is_empty() {
            let group = format!("BUNDLE {}", self.bundle.join(" "));
            session = session.with_value_attribute("group".to_owned(), group);
        }
        if self.extmap_allow_mixed {
            session = session.with_property_attribute("extmap-allow-mixed".to_owned());
        }
        session = session.with_value_attribute("msid-semantic".to_owned(), " WMS *".to_owned());
        let (mut first_live, mut first_active) = (true, true);
        for media in &self.media {
            let mut section = Section::new(media);
            let live = !media.rejected;
            let active = live && media.direction != Direction::Inactive;
            section.transport(media, (first_live && live) || (first_active && active));
            first_live &= !live;
            first_active &= !active;
            section.content(media);
            session.media_descriptions.push(section.0);
        }
        session.marshal()
    }
}

/// One m-line while it is being written.
struct Section(MediaDescription);

impl Section {
    fn new(media: &Media) -> Self {
        Self(MediaDescription {
            media_name: MediaName {
                media: media.kind.as_str().to_owned(),
                port: RangedPort {
                    value: if media.rejected { 0 } else { DISCARD_PORT },
                    range: None,
                },
                protos: media.protocol.split('/').map(str::to_owned).collect(),
                formats: formats(media),
            },
            connection_information: Some(ConnectionInformation {
                network_type: "IN".to_owned(),
                address_type: "IP4".to_owned(),
                address: Some(Address {
                    address: "0.0.0.0".to_owned(),
                    ttl: None,
                    range: None,
                }),
            }),
            ..MediaDescription::default()
        })
    }

    fn flag(&mut self, key: &str) {
        self.0 = std::mem::take(&mut self.0).with_property_attribute(key.to_owned());
    }

    fn value(&mut self, key: &str, value: impl Into<String>) {
        self.0 = std::mem::take(&mut self.0).with_value_attribute(key.to_owned(), value.into());
    }

    fn transport(&mut self, media: &Media, candidates: bool) {
        self.value("mid", media.mid.as_str());
        if media.rejected {
            return;
        }
        let transport = &media.transport;
        if candidates {
            for candidate in &transport.candidates {
                self.value("candidate", candidate.as_str());
            }
            if transport.end_of_candidates {
                self.flag("end-of-candidates");
            }
        }
        if let Some(ufrag) = &transport.ufrag {
            self.value("ice-ufrag", ufrag.as_str());
        }
        if let Some(pwd) = &transport.pwd {
            self.value("ice-pwd", pwd.as_str());
        }
        for fingerprint in &transport.fingerprints {
            self.value("fingerprint", fingerprint.as_str());
        }
        if let Some(setup) = transport.setup {
            self.value("setup", setup.as_str());
        }
    }

    fn content(&mut self, media: &Media) {
        if media.rejected {
            self.flag(Direction::Inactive.as_str());
            return;
        }
        if media.is_data() {
            self.data(media);
            return;
        }
        self.flag(media.direction.as_str());
        if media.rtcp_mux {
            self.flag("rtcp-mux");
        }
        if media.rtcp_rsize {
            self.flag("rtcp-rsize");
        }
        for extension in &media.extensions {
            let mut way = String::new();
            if extension.direction != Direction::SendRecv {
                way = format!("/{}", extension.direction.as_str());
            }
            self.value("extmap", format!("{}{way} {}", extension.id, extension.uri));
        }
        if let Some((stream, track)) = &media.msid {
            self.value("msid", format!("{stream} {track}").trim_end());
        }
        for codec in &media.codecs {
            self.codec(codec);
        }
        self.simulcast(media);
        for group in &media.ssrcs {
            self.ssrc(group, media.msid.as_ref());
        }
    }

    fn data(&mut self, media: &Media) {
        let port = media.sctp_port.unwrap_or(SCTP_PORT);
        if media.protocol == "DTLS/SCTP" {
            self.value("sctpmap", format!("{port} webrtc-datachannel 65535"));
        } else {
            self.value("sctp-port", port.to_string());
        }
        if let Some(bytes) = media.max_message_size {
            self.value("max-message-size", bytes.to_string());
        }
    }

    fn codec(&mut self, codec: &CodecParameters) {
        let CodecParameters {
            pt,
            name,
            clock_rate,
            ..
        } = codec;
        let channels = match codec.channels {
            0 | 1 => String::new(),
            channels => format!("/{channels}"),
        };
        self.value("rtpmap", format!("{pt} {name}/{clock_rate}{channels}"));
        for feedback in &codec.feedback {
            self.value("rtcp-fb", format!("{pt} {feedback}"));
        }
        if !codec.fmtp.is_empty() {
            self.value("fmtp", format!("{pt} {}", codec.fmtp));
        }
        if let Some(rtx) = codec.rtx {
            self.value("rtpmap", format!("{rtx} rtx/{clock_rate}"));
            self.value("fmtp", format!("{rtx} apt={pt}"));
        }
    }

    fn simulcast(&mut self, media: &Media) {
        for rid in &media.rids_send {
            self.value("rid", format!("{rid} send"));
        }
        for rid in &media.rids_recv {
            self.value("rid", format!("{rid} recv"));
        }
        let ways = [
            ("send", &media.simulcast_send),
            ("recv", &media.simulcast_recv),
        ];
        let streams: Vec<String> = ways
            .iter()
            .filter(|(_, streams)| !streams.is_empty())
            .map(|(way, streams)| format!("{way} {}", streams.join(";")))
            .collect();
        if !streams.is_empty() {
            self.value("simulcast", streams.join(" "));
        }
    }

    fn ssrc(&mut self, group: &SsrcGroup, msid: Option<&(String, String)>) {
        if let Some(rtx) = group.rtx {
            self.value("ssrc-group", format!("FID {} {rtx}", group.ssrc));
        }
        for ssrc in std::iter::once(group.ssrc).chain(group.rtx) {
            self.value("ssrc", format!("{ssrc} cname:{}", group.cname));
            if let Some((stream, track)) = msid {
                self.value("ssrc", format!("{ssrc} msid:{stream} {track}").trim_end());
            }
        }
    }
}

/// The m-line's formats; never empty, as the grammar wants one even in a refused section.
fn formats(media: &Media) -> Vec<String> {
    if media.is_data() && media.protocol == "DTLS/SCTP" {
        return vec![media.sctp_port.unwrap_or(SCTP_PORT).to_string()];
    }
    if media.is_data() {
        return vec!["webrtc-datachannel".to_owned()];
    }
    let mut formats: Vec<String> = media
        .codecs
        .iter()
        .flat_map(|codec| std::iter::once(codec.pt).chain(codec.rtx))
        .map(|pt| pt.to_string())
        .collect();
    if formats.is_empty() {
        formats.push("0".to_owned());
    }
    formats
}
