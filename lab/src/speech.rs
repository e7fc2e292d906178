//! People who speak by a script: real Opus with RFC 6464 levels, and what a listener heard of it.

mod hearing;
mod talker;

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Deserialize;

use crate::clip::{self, OpusFile};

pub use hearing::{Hearing, Listened};
pub use talker::Talker;

/// At or below this level, −dBov, a packet of the voice file is background and not speech.
const QUIET_DBOV: u8 = 50;

/// Why a script or a voice cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The voice's sound.
    #[error(transparent)]
    Clip(#[from] clip::Error),
    /// A file cannot be read.
    #[error("{path}: {error}")]
    Io {
        /// Which file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// The voice's levels do not fit.
    #[error("the voice needs one level per packet, and both speech and background")]
    Levels,
    /// The script is not what it should be.
    #[error("script: {0}")]
    Script(#[from] serde_json::Error),
}

/// Somebody speaks for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// Who, from 0.
    pub talker: u32,
    /// Start, milliseconds from the start of the script.
    pub from_ms: u64,
    /// End.
    pub to_ms: u64,
}

/// Who speaks when. One instance is shared by all that play it, so that they start together.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// In any order; turns of one talker do not overlap.
    pub turns: Vec<Turn>,
    #[serde(skip)]
    start: OnceLock<Instant>,
}

impl Script {
    /// Reads `{"turns": [{"talker": 0, "from_ms": 0, "to_ms": 1500}, …]}`.
    ///
    /// # Errors
    /// When the file cannot be read or says something else.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Ok(serde_json::from_slice(&read(path)?)?)
    }

    /// A script of these turns.
    pub fn new(turns: Vec<Turn>) -> Self {
        Self {
            turns,
            start: OnceLock::new(),
        }
    }

    /// Starts it, once; until then everybody is silent.
    pub fn begin(&self, at: Instant) {
        self.start.get_or_init(|| at);
    }

    /// Time from the start to `at`; `None` before the start.
    pub fn position(&self, at: Instant) -> Option<Duration> {
        at.checked_duration_since(*self.start.get()?)
    }

    /// When the last turn ends.
    pub fn length(&self) -> Duration {
        let end = self.turns.iter().map(|turn| turn.to_ms).max();
        Duration::from_millis(end.unwrap_or(0))
    }
}

/// Sound to speak with: packets of 20 ms.
#[derive(Debug)]
pub struct Voice {
    /// Speech with its level in −dBov, in order.
    speech: Vec<(Bytes, u8)>,
    /// Background.
    quiet: Vec<(Bytes, u8)>,
}

impl Voice {
    /// Reads Opus from an Ogg file, and beside it, with the extension `levels`, one byte per packet: its level in −dBov.
    ///
    /// # Errors
    /// When a file cannot be read, or they do not fit together.
    pub fn open(path: &Path) -> Result<Arc<Self>, Error> {
        let levels = read(&path.with_extension("levels"))?;
        Self::new(OpusFile::open(path)?.packets, &levels).map(Arc::new)
    }

    fn new(packets: Vec<Bytes>, levels: &[u8]) -> Result<Self, Error> {
        // The encoder's look-ahead may add a packet at the end.
        if levels.len().abs_diff(packets.len()) > 2 {
            return Err(Error::Levels);
        }
        let (quiet, speech): (Vec<_>, Vec<_>) = packets
            .into_iter()
            .zip(levels.iter().map(|level| level & 0x7f))
            .partition(|(_, level)| *level >= QUIET_DBOV);
        if speech.is_empty() || quiet.is_empty() {
            return Err(Error::Levels);
        }
        Ok(Self { speech, quiet })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|error| Error::Io {
        path: path.display().to_string(),
        error,
    })
}

#[cfg(test)]
mod tests;
