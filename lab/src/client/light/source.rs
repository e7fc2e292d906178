//! Where a track's payloads come from.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::sdp::Format;
use crate::client::{Camera, Microphone};
use crate::clip::{Codec, Player, Schedule};
use crate::speech::Talker;
use crate::synthetic::{AUDIO_INTERVAL, Audio, Payload, Video};

/// A payload that is due.
pub(super) struct Due {
    /// Which stream of the track.
    pub(super) stream: usize,
    pub(super) payload: Payload,
    /// Octet of the RFC 6464 extension.
    pub(super) level: Option<u8>,
}

pub(super) enum Source {
    Synthetic(Box<Video>, Schedule),
    Clip { player: Box<Player>, dynacast: bool },
    Tone(Audio, Schedule),
    Talker(Box<Talker>),
}

impl Source {
    pub(super) fn camera(camera: &Camera, now: Instant) -> Self {
        match camera {
            Camera::Synthetic(config) => {
                let video = Video::new(*config);
                let schedule = Schedule::new(now, video.frame_interval());
                Self::Synthetic(Box::new(video), schedule)
            }
            Camera::Clip { clip, dynacast } => Self::Clip {
                player: Box::new(Player::new(Arc::clone(clip), now)),
                dynacast: *dynacast,
            },
        }
    }

    pub(super) fn microphone(microphone: &Microphone, now: Instant) -> Self {
        match microphone {
            Microphone::Synthetic => {
                Self::Tone(Audio::default(), Schedule::new(now, AUDIO_INTERVAL))
            }
            Microphone::Talker {
                script,
                voice,
                number,
                dtx,
            } => {
                // Spread over the interval, as independent clocks are.
                let start = now + Duration::from_millis(u64::from(number % 20));
                let (script, voice) = (Arc::clone(script), Arc::clone(voice));
                Self::Talker(Box::new(Talker::new(script, voice, *number, *dtx, start)))
            }
        }
    }

    pub(super) fn format(&self) -> Format {
        match self {
            Self::Synthetic(..) => Format::Vp8,
            Self::Clip { player, .. } => match player.clip().codec {
                Codec::Vp8 => Format::Vp8,
                Codec::Vp9 => Format::Vp9,
                Codec::Av1 => Format::Av1,
            },
            Self::Tone(..) | Self::Talker(_) => Format::Opus,
        }
    }

    /// Streams of the track.
    pub(super) fn streams(&self) -> usize {
        match self {
            Self::Clip { player, .. } => player.clip().layers.len(),
            Self::Synthetic(..) | Self::Tone(..) | Self::Talker(_) => 1,
        }
    }

    /// Whether its payloads have room for a stamp.
    pub(super) fn is_stamped(&self) -> bool {
        !matches!(self, Self::Clip { .. })
    }

    /// When the next payloads are due.
    pub(super) fn due(&self) -> Instant {
        match self {
            Self::Synthetic(_, schedule) | Self::Tone(_, schedule) => schedule.due(),
            Self::Clip { player, .. } => player.due(),
            Self::Talker(talker) => talker.due(),
        }
    }

    /// Appends the payloads that are due.
    pub(super) fn next(&mut self, now: Instant, out: &mut VecDeque<Due>) {
        let of_first = |payload| Due {
            stream: 0,
            payload,
            level: None,
        };
        match self {
            Self::Synthetic(video, schedule) => {
                schedule.take(now);
                let mut frame = Vec::new();
                video.next_frame(&mut frame);
                out.extend(frame.into_iter().map(of_first));
            }
            Self::Clip { player, .. } => {
                let mut frames = Vec::new();
                player.next_frame(now, &mut frames);
                out.extend(frames.into_iter().map(|(stream, payload)| Due {
                    stream,
                    payload,
                    level: None,
                }));
            }
            Self::Tone(audio, schedule) => {
                schedule.take(now);
                out.push_back(of_first(audio.next_packet()));
            }
            Self::Talker(talker) => {
                out.extend(talker.next_packet(now).map(|(payload, level)| Due {
                    stream: 0,
                    payload,
                    level: Some(level),
                }));
            }
        }
    }

    pub(super) fn request_keyframe(&mut self) {
        match self {
            Self::Synthetic(video, _) => video.request_keyframe(),
            Self::Clip { player, .. } => player.request_keyframe(),
            Self::Tone(..) | Self::Talker(_) => {}
        }
    }

    /// Somebody watches a layer, or nobody does any more.
    pub(super) fn set_watched(&mut self, stream: usize, watched: bool) {
        if let Self::Clip {
            player,
            dynacast: true,
        } = self
        {
            player.set_active(stream, watched);
        }
    }
}
