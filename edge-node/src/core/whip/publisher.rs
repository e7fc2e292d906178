//! A WHIP publisher: a session whose announcements and only offer came in one request.

use std::collections::VecDeque;

use livekit_protocol as lk;
use lk::signal_request::Message as Request;
use lk::signal_response::Message as Response;
use media::router::TrackKey;
use proto::ParticipantSid;

use super::{Error, announce};
use crate::core::sdp::{Description, LocalTransport};
use crate::core::session::{Config, Input, Now, Output, Peer, Session};

/// A WHIP publisher.
#[derive(Debug)]
pub struct Publisher {
    session: Session,
    /// What the session wanted done while it answered.
    first: VecDeque<Output>,
}

impl Publisher {
    /// Answers the only offer of a publisher. Returns the answer as text.
    ///
    /// # Errors
    /// [`Error::NotGranted`], [`Error::Unusable`]
    pub fn new(
        now: Now,
        config: Config,
        mut offer: Box<Description>,
        local: LocalTransport,
        next_key: impl Fn() -> TrackKey,
    ) -> Result<(Self, String), Error> {
        let announcements = announce(&mut offer, &config.permissions)?;
        let mut session = Session::new(config, [(Peer::Publisher, local)].into());
        for announcement in announcements {
            session.reserve_key(next_key());
            let request = Request::AddTrack(announcement);
            session.handle_input(now, Input::Request(Box::new(request)));
        }
        let offer = Input::Offer {
            id: 0,
            description: offer,
        };
        session.handle_input(now, offer);
        let mut publisher = Self {
            session,
            first: VecDeque::new(),
        };
        let mut answer = None;
        while let Some(output) = publisher.session.poll_output() {
            if let Output::Signal(response) = output {
                answer = answer.or_else(|| sdp_of(*response));
            } else {
                publisher.first.push_back(output);
            }
        }
        let answer = answer.ok_or(Error::Unusable("there is no answer to it"))?;
        Ok((publisher, answer))
    }

    /// The participant's session id.
    pub fn sid(&self) -> &ParticipantSid {
        self.session.sid()
    }

    /// Keys of the tracks that the plane knows.
    pub fn published_keys(&self) -> Vec<TrackKey> {
        self.session.published_keys()
    }

    /// Takes one input; its effects are then drained by [`Publisher::poll_output`].
    pub fn handle_input(&mut self, now: Now, input: Input) {
        self.session.handle_input(now, input);
    }

    /// The next effect. What the session says to its client is left out: nobody listens.
    pub fn poll_output(&mut self) -> Option<Output> {
        let mut rest = std::iter::from_fn(|| self.session.poll_output());
        self.first
            .pop_front()
            .or_else(|| rest.find(|output| !matches!(output, Output::Signal(_))))
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the rest of what is said does not matter here"
)]
fn sdp_of(response: Response) -> Option<String> {
    match response {
        Response::Answer(answer) => Some(answer.sdp),
        _ => None,
    }
}
