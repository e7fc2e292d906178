//! The few HTTP header fields that the protocols give a meaning.

/// Of offers and answers (RFC 8866 section 8.1).
pub const SDP: &str = "application/sdp";
/// Of `PATCH` bodies (RFC 8840 section 9).
pub const FRAGMENT: &str = "application/trickle-ice-sdpfrag";

/// Whether a `Content-Type` names `media_type`, whatever its parameters (RFC 9110 section 8.3).
pub fn is_type(content_type: &str, media_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case(media_type)
}

/// Whether an `Accept` takes `media_type` (RFC 9110 section 12.5.1); a weight of 0 is a refusal.
pub fn accepts(accept: &str, media_type: &str) -> bool {
    let family = media_type.split('/').next().unwrap_or_default();
    accept.split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default();
        let refused = parts.any(|parameter| {
            parameter.split_once('=').is_some_and(|(name, value)| {
                name.trim().eq_ignore_ascii_case("q")
                    && value
                        .trim()
                        .parse::<f32>()
                        .is_ok_and(|weight| weight <= 0.0)
            })
        });
        let matches = essence == "*/*"
            || essence.eq_ignore_ascii_case(media_type)
            || essence
                .strip_suffix("/*")
                .is_some_and(|prefix| prefix.eq_ignore_ascii_case(family));
        matches && !refused
    })
}

/// What a client says about the ICE session that it means (RFC 9725 section 4.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfMatch {
    /// Not said.
    Missing,
    /// `*`: whichever there is, for ICE restarts.
    Any,
    /// The session that there is.
    Current,
    /// Another one, or a weak tag, which never matches (RFC 9110 section 13.1.1).
    Other,
}

/// Compares an `If-Match` with the current entity tag, both with their quotes.
pub fn if_match(field: Option<&str>, current: &str) -> IfMatch {
    let Some(field) = field.map(str::trim) else {
        return IfMatch::Missing;
    };
    if field == "*" {
        IfMatch::Any
    } else if field.split(',').any(|tag| tag.trim() == current) {
        IfMatch::Current
    } else {
        IfMatch::Other
    }
}

/// The entity tag of an ICE session: our user fragment, which is new with every restart, in quotes.
pub fn entity_tag(ufrag: &str) -> String {
    format!("\"{ufrag}\"")
}
