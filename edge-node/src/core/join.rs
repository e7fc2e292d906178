//! What a client asks for when it opens the signalling WebSocket, on either path.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use flate2::read::GzDecoder;
use livekit_protocol::wrapped_join_request::Compression;
use livekit_protocol::{
    AddTrackRequest, ClientInfo, JoinRequest, ReconnectReason, SessionDescription, SyncState,
    WrappedJoinRequest, client_info,
};
use prost::Message;
use proto::ParticipantSid;

use super::token::Grants;

/// Largest join request after decompression, in bytes.
pub const MAX_JOIN_REQUEST_BYTES: u64 = 1 << 20;
/// Most attributes that a client may bring along.
pub const MAX_ATTRIBUTES: usize = 256;

/// Why the parameters of a connection cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// `/rtc/v1` without the parameter that it is about.
    #[error("query parameter join_request is missing; /rtc/v1 needs it, older clients use /rtc")]
    MissingJoinRequest,
    /// A parameter is not base64.
    #[error("query parameter {parameter} is not base64url")]
    Base64 {
        /// Its name.
        parameter: &'static str,
    },
    /// Not the protobuf message that it should be.
    #[error("join_request is not a protobuf {message}")]
    Protobuf {
        /// Name of the message.
        message: &'static str,
    },
    /// A compression that is not known.
    #[error("join_request uses compression {0}, known are 0 (none) and 1 (gzip)")]
    Compression(i32),
    /// Bytes that are not gzip.
    #[error("join_request is not valid gzip")]
    Gzip,
    /// Over [`MAX_JOIN_REQUEST_BYTES`].
    #[error("join_request is larger than {MAX_JOIN_REQUEST_BYTES} bytes")]
    TooLarge,
    /// The attributes of v0 are not a JSON object of strings, or those of either path are too many.
    #[error("attributes are not a JSON object of at most {MAX_ATTRIBUTES} strings")]
    Attributes,
    /// Metadata or attributes are given but the token does not allow to.
    #[error(
        "access token does not allow to set metadata or attributes; grant canUpdateOwnMetadata"
    )]
    MetadataNotAllowed,
}

/// Which signalling path a client uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignalPath {
    /// `/rtc`: two peer connections, the server offers the subscriber's.
    V0,
    /// `/rtc/v1`: one peer connection, the client always offers.
    V1,
}

/// What a client asks for, the same for both paths.
#[derive(Debug, Clone, PartialEq)]
pub struct JoinParameters {
    /// The path that was used.
    pub path: SignalPath,
    /// SDK, protocol version and device.
    pub client: ClientInfo,
    /// Subscribe to every track without being asked.
    pub auto_subscribe: bool,
    /// The client tells the size at which it shows each video.
    pub adaptive_stream: bool,
    /// Whether the server may pause a video for lack of bandwidth; yes if unset.
    pub subscriber_allow_pause: Option<bool>,
    /// Subscribe to every data track without being asked.
    pub auto_subscribe_data_track: Option<bool>,
    /// Overrides the token's metadata if not empty.
    pub metadata: String,
    /// Set over the token's attributes; an empty value does not delete one.
    pub attributes: BTreeMap<String, String>,
    /// Tracks to publish right away (v1).
    pub add_tracks: Vec<AddTrackRequest>,
    /// The client's first offer (v1; some clients send it after the join).
    pub publisher_offer: Option<SessionDescription>,
    /// Set if the client wants to resume a session.
    pub reconnect: Option<Reconnect>,
}

/// What a resuming client says about the session it had.
#[derive(Debug, Clone, PartialEq)]
pub struct Reconnect {
    /// Its participant's sid; `None` if it did not say.
    pub sid: Option<ParticipantSid>,
    /// Why it reconnects.
    pub reason: ReconnectReason,
    /// State of the client (v1; on v0 it follows as a message).
    pub sync_state: Option<SyncState>,
}

impl JoinParameters {
    /// Reads the query string of a signalling request, without the `?`. Parameters that are not known are ignored.
    ///
    /// # Errors
    /// All but [`Error::MetadataNotAllowed`].
    pub fn parse(path: SignalPath, query: &str) -> Result<Self, Error> {
        let query = Query::new(query);
        match path {
            SignalPath::V0 => from_query(&query),
            SignalPath::V1 => {
                let encoded = query.get("join_request").ok_or(Error::MissingJoinRequest)?;
                from_join_request(unwrap_join_request(encoded)?)
            }
        }
    }

    /// Puts metadata and attributes that the client brought over those of its token.
    ///
    /// # Errors
    /// [`Error::MetadataNotAllowed`]
    pub fn apply_to(&self, grants: &mut Grants) -> Result<(), Error> {
        let nothing = self.metadata.is_empty() && self.attributes.values().all(String::is_empty);
        if nothing {
            return Ok(());
        }
        if !grants.permissions.can_update_metadata {
            return Err(Error::MetadataNotAllowed);
        }
        if !self.metadata.is_empty() {
            grants.metadata.clone_from(&self.metadata);
        }
        for (name, value) in self
            .attributes
            .iter()
            .filter(|(_, value)| !value.is_empty())
        {
            grants.attributes.insert(name.clone(), value.clone());
        }
        Ok(())
    }
}

/// The access token of a request: the `Authorization` header's bearer (RFC 6750 §2.1), else `access_token` in the query.
pub fn access_token<'a>(authorization: Option<&'a str>, query: &'a str) -> Option<Cow<'a, str>> {
    let bearer = authorization.and_then(|header| {
        let (scheme, token) = header.trim().split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then(|| Cow::Borrowed(token.trim()))
    });
    let parameter = || {
        let mut pairs = url::form_urlencoded::parse(query.as_bytes());
        pairs
            .find(|(name, _)| name == "access_token")
            .map(|(_, value)| value)
    };
    bearer.or_else(parameter).filter(|token| !token.is_empty())
}

/// Parameters by name; the first of a name counts.
struct Query<'a>(BTreeMap<Cow<'a, str>, Cow<'a, str>>);

impl<'a> Query<'a> {
    fn new(query: &'a str) -> Self {
        let mut parameters = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            parameters.entry(name).or_insert(value);
        }
        Self(parameters)
    }

    /// The value, unless it is missing or empty.
    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(AsRef::as_ref)
            .filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default().to_owned()
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).map(|value| matches!(value, "1" | "true"))
    }

    fn number(&self, name: &str) -> i32 {
        self.get(name)
            .and_then(|value| value.parse().ok())
            .unwrap_or(0)
    }
}

fn from_query(query: &Query<'_>) -> Result<JoinParameters, Error> {
    let reconnect = query.flag("reconnect").unwrap_or(false).then(|| Reconnect {
        sid: query.get("sid").map(ParticipantSid::from),
        reason: reason(query.number("reconnect_reason")),
        sync_state: None,
    });
    Ok(JoinParameters {
        path: SignalPath::V0,
        client: client_info(query),
        auto_subscribe: query.flag("auto_subscribe").unwrap_or(true),
        adaptive_stream: query.flag("adaptive_stream").unwrap_or(false),
        subscriber_allow_pause: query.flag("subscriber_allow_pause"),
        auto_subscribe_data_track: query.flag("auto_subscribe_data_track"),
        metadata: String::new(),
        attributes: query
            .get("attributes")
            .map(attributes)
            .transpose()?
            .unwrap_or_default(),
        add_tracks: Vec::new(),
        publisher_offer: None,
        reconnect,
    })
}

fn client_info(query: &Query<'_>) -> ClientInfo {
    use client_info::Sdk;
    let sdk = query.text("sdk").to_ascii_uppercase();
    let sdk = match sdk.as_str() {
        // Query parameters have names without the underscore.
        "REACTNATIVE" => Sdk::ReactNative,
        "UNITYWEB" => Sdk::UnityWeb,
        name => Sdk::from_str_name(name).unwrap_or(Sdk::Unknown),
    };
    ClientInfo {
        sdk: sdk.into(),
        version: query.text("version"),
        protocol: query.number("protocol"),
        os: query.text("os"),
        os_version: query.text("os_version"),
        device_model: query.text("device_model"),
        browser: query.text("browser"),
        browser_version: query.text("browser_version"),
        network: query.text("network"),
        other_sdks: query.text("other_sdks"),
        client_protocol: query.number("client_protocol"),
        ..ClientInfo::default()
    }
}

/// base64url of a JSON object whose values are strings.
fn attributes(encoded: &str) -> Result<BTreeMap<String, String>, Error> {
    let json = base64(encoded).ok_or(Error::Base64 {
        parameter: "attributes",
    })?;
    let attributes: BTreeMap<String, String> =
        serde_json::from_slice(&json).map_err(|_| Error::Attributes)?;
    if attributes.len() > MAX_ATTRIBUTES {
        return Err(Error::Attributes);
    }
    Ok(attributes)
}

fn unwrap_join_request(encoded: &str) -> Result<JoinRequest, Error> {
    if encoded.len() as u64 > 2 * MAX_JOIN_REQUEST_BYTES {
        return Err(Error::TooLarge);
    }
    let bytes = base64(encoded).ok_or(Error::Base64 {
        parameter: "join_request",
    })?;
    let wrapped = WrappedJoinRequest::decode(bytes.as_slice()).map_err(|_| Error::Protobuf {
        message: "WrappedJoinRequest",
    })?;
    let request = match Compression::try_from(wrapped.compression) {
        Ok(Compression::None) => wrapped.join_request,
        Ok(Compression::Gzip) => gunzip(&wrapped.join_request)?,
        Err(_) => return Err(Error::Compression(wrapped.compression)),
    };
    if request.len() as u64 > MAX_JOIN_REQUEST_BYTES {
        return Err(Error::TooLarge);
    }
    JoinRequest::decode(request.as_slice()).map_err(|_| Error::Protobuf {
        message: "JoinRequest",
    })
}

fn gunzip(compressed: &[u8]) -> Result<Vec<u8>, Error> {
    let mut plain = Vec::new();
    // One byte over the limit tells "as large as allowed" from "larger".
    let mut reader = GzDecoder::new(compressed).take(MAX_JOIN_REQUEST_BYTES + 1);
    reader.read_to_end(&mut plain).map_err(|_| Error::Gzip)?;
    Ok(plain)
}

/// Decodes base64 in the URL's or the standard alphabet, padded or not. A `+` that was not percent-encoded arrives as a
/// space.
fn base64(encoded: &str) -> Option<Vec<u8>> {
    let standard: String = encoded
        .trim_end_matches('=')
        .chars()
        .map(|c| match c {
            '-' | ' ' => '+',
            '_' => '/',
            c => c,
        })
        .collect();
    STANDARD_NO_PAD.decode(standard).ok()
}

fn from_join_request(request: JoinRequest) -> Result<JoinParameters, Error> {
    if request.participant_attributes.len() > MAX_ATTRIBUTES {
        return Err(Error::Attributes);
    }
    let settings = request.connection_settings;
    let sid = Some(request.participant_sid).filter(|sid| !sid.is_empty());
    let reconnect = request.reconnect.then(|| Reconnect {
        sid: sid.map(ParticipantSid::from),
        reason: reason(request.reconnect_reason),
        sync_state: request.sync_state,
    });
    Ok(JoinParameters {
        path: SignalPath::V1,
        client: request.client_info.unwrap_or_default(),
        auto_subscribe: settings.as_ref().is_none_or(|s| s.auto_subscribe),
        adaptive_stream: settings.as_ref().is_some_and(|s| s.adaptive_stream),
        subscriber_allow_pause: settings.as_ref().and_then(|s| s.subscriber_allow_pause),
        auto_subscribe_data_track: settings.as_ref().and_then(|s| s.auto_subscribe_data_track),
        metadata: request.metadata,
        attributes: request.participant_attributes.into_iter().collect(),
        add_tracks: request.add_track_requests,
        publisher_offer: request.publisher_offer,
        reconnect,
    })
}

fn reason(number: i32) -> ReconnectReason {
    ReconnectReason::try_from(number).unwrap_or(ReconnectReason::RrUnknown)
}
