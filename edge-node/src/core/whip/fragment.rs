//! Fragments of session descriptions for trickle ICE, `application/trickle-ice-sdpfrag` (RFC 8840 section 9).

use std::fmt::Write as _;

use crate::core::sdp::{LocalTransport, Media, MediaKind};

/// Longest fragment that is looked at, bytes. A candidate takes about 100.
pub const MAX_FRAGMENT_BYTES: usize = 64 << 10;
/// Longest user fragment or password (RFC 8839 section 5.4), characters.
const MAX_CREDENTIAL: usize = 256;
/// Shortest ones (RFC 8839 section 5.4).
const MIN_UFRAG: usize = 4;
const MIN_PWD: usize = 22;

/// Why a fragment cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Over [`MAX_FRAGMENT_BYTES`].
    #[error("the fragment is longer than {MAX_FRAGMENT_BYTES} bytes")]
    TooLarge,
    /// A line is not `<letter>=<value>`.
    #[error("line {0} of the fragment is not of the form <letter>=<value>")]
    Line(usize),
    /// ICE credentials of the wrong length or alphabet, or several different ones.
    #[error("the fragment's ICE credentials are not valid")]
    Credentials,
    /// Nothing says which ICE session the fragment is about.
    #[error("the fragment has no a=ice-ufrag and a=ice-pwd")]
    NoCredentials,
}

/// What a fragment says. Candidates are only counted: an ICE-lite agent answers checks and sends none (RFC 8445 section 2.5).
#[derive(Clone, PartialEq, Eq)]
pub struct Fragment {
    /// The client's ICE user name fragment.
    pub ufrag: String,
    /// Its password.
    pub pwd: String,
    /// Candidates listed.
    pub candidates: usize,
    /// Whether there will be no more.
    pub end_of_candidates: bool,
}

impl std::fmt::Debug for Fragment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fragment")
            .field("ufrag", &self.ufrag)
            .field("candidates", &self.candidates)
            .field("end_of_candidates", &self.end_of_candidates)
            .finish_non_exhaustive()
    }
}

/// Reads a fragment. Attributes that are not known are skipped.
///
/// # Errors
/// See [`Error`].
pub fn parse(text: &str) -> Result<Fragment, Error> {
    if text.len() > MAX_FRAGMENT_BYTES {
        return Err(Error::TooLarge);
    }
    let (mut ufrag, mut pwd) = (None, None);
    let (mut candidates, mut end_of_candidates) = (0, false);
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_end_matches('\r');
        if line.is_empty() {
            continue;
        }
        let (kind, value) = line.split_once('=').ok_or(Error::Line(index + 1))?;
        if kind.len() != 1 || !kind.bytes().all(|b| b.is_ascii_lowercase()) {
            return Err(Error::Line(index + 1));
        }
        if kind != "a" {
            continue;
        }
        let (name, value) = value.split_once(':').unwrap_or((value, ""));
        match name {
            "ice-ufrag" => keep(&mut ufrag, value, MIN_UFRAG)?,
            "ice-pwd" => keep(&mut pwd, value, MIN_PWD)?,
            "candidate" => candidates += 1,
            "end-of-candidates" => end_of_candidates = true,
            _ => {}
        }
    }
    let (Some(ufrag), Some(pwd)) = (ufrag, pwd) else {
        return Err(Error::NoCredentials);
    };
    Ok(Fragment {
        ufrag,
        pwd,
        candidates,
        end_of_candidates,
    })
}

/// Takes a credential; all sections of a bundle have the same ones.
fn keep(slot: &mut Option<String>, value: &str, min: usize) -> Result<(), Error> {
    let value = value.trim();
    // ice-char of RFC 8839 section 5.4.
    let ice_char = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    let fits = (min..=MAX_CREDENTIAL).contains(&value.len()) && value.bytes().all(ice_char);
    match slot {
        _ if !fits => Err(Error::Credentials),
        Some(known) if known != value => Err(Error::Credentials),
        _ => {
            *slot = Some(value.to_owned());
            Ok(())
        }
    }
}

/// Our side of a restarted ICE session (RFC 9725 section 4.3.3), with candidates for `section`, the first of the bundle, which
/// stands for all of it.
pub fn restarted(section: Option<&Media>, local: &LocalTransport) -> String {
    let mut text = String::from("a=ice-lite\r\n");
    // Writing into a string cannot fail.
    let mut line = |arguments: std::fmt::Arguments<'_>| {
        text.write_fmt(arguments).unwrap_or_default();
        text.push_str("\r\n");
    };
    line(format_args!("a=ice-ufrag:{}", local.ufrag));
    line(format_args!("a=ice-pwd:{}", local.pwd));
    if let Some(section) = section {
        line(format_args!("{}", pseudo_m_line(section)));
        line(format_args!("a=mid:{}", section.mid));
        for candidate in &local.candidates {
            line(format_args!("a=candidate:{candidate}"));
        }
        line(format_args!("a=end-of-candidates"));
    }
    text
}

/// RFC 8840 section 9.2: the m-line of a fragment needs no formats that mean anything.
fn pseudo_m_line(section: &Media) -> String {
    let format = match section.kind {
        MediaKind::Application => "webrtc-datachannel",
        MediaKind::Audio
        | MediaKind::Video
        | MediaKind::Text
        | MediaKind::Message
        | MediaKind::Image => "0",
    };
    format!(
        "m={} 9 {} {format}",
        section.kind.as_str(),
        section.protocol
    )
}
