//! The lite agent of all transports of a shard.

use super::check::{self, Parsed, Refusal, Request, Verdict};
use super::{CONSENT_TIMEOUT, Credentials, Event, Input, Output, Path, SessionId, Stats};
use rtc_dtls::crypto_provider::RTCCryptoProvider;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Paths kept per transport: every interface and address family of a client over UDP and TCP, not a scan.
const MAX_PATHS: usize = 8;
/// Credentials kept from before an ICE restart.
const MAX_PREVIOUS: usize = 3;
/// A nominated path without a check for this long gives way to another nominated one. Clients refresh consent every
/// 4 to 6 s at the slowest (RFC 7675 section 5.1).
const STALE: Duration = Duration::from_secs(7);

/// Answers checks, keeps the paths, and says which path each transport uses.
pub struct Server {
    crypto: Arc<dyn RTCCryptoProvider>,
    users: HashMap<String, SessionId>,
    sessions: HashMap<SessionId, Session>,
    paths: HashMap<Path, PathState>,
    expiries: BinaryHeap<Reverse<(Instant, SessionId)>>,
    outputs: VecDeque<Output>,
    stats: Stats,
}

struct Session {
    credentials: Credentials,
    previous: Vec<Credentials>,
    paths: Vec<Path>,
    selected: Option<Path>,
    /// The client nominated `selected`; before that it is only a guess.
    nominated: bool,
    /// An entry of `expiries` is ours.
    armed: bool,
}

struct PathState {
    session: SessionId,
    nominated: bool,
    /// Which credentials the last check used.
    ufrag: String,
    heard: Instant,
    checked: Instant,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("sessions", &self.sessions.len())
            .field("paths", &self.paths.len())
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// An agent without transports. `crypto` computes MESSAGE-INTEGRITY.
    pub fn new(crypto: Arc<dyn RTCCryptoProvider>) -> Self {
        Self {
            crypto,
            users: HashMap::new(),
            sessions: HashMap::new(),
            paths: HashMap::new(),
            expiries: BinaryHeap::new(),
            outputs: VecDeque::new(),
            stats: Stats::default(),
        }
    }

    /// Takes one input; then drain [`Server::poll_output`].
    pub fn handle_input(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Open {
                session,
                credentials,
            } => self.open(session, credentials),
            Input::Restart {
                session,
                credentials,
            } => self.restart(session, credentials),
            Input::Close { session } => self.close(session),
            Input::Stun { path, message } => self.handle_stun(now, path, message),
            Input::PathClosed { path } => self.close_path(path),
            Input::Timeout => self.handle_timeout(now),
        }
    }

    /// The next thing to do; ends with [`Output::Timeout`].
    pub fn poll_output(&mut self) -> Output {
        self.outputs
            .pop_front()
            .unwrap_or_else(|| Output::Timeout(self.expiries.peek().map(|Reverse((at, _))| *at)))
    }

    /// The transport that a datagram other than STUN belongs to; notes that it is alive. `None`: the path never passed a
    /// check, and the datagram is to be dropped.
    pub fn heard(&mut self, now: Instant, path: Path) -> Option<SessionId> {
        let state = self.paths.get_mut(&path)?;
        state.heard = now;
        Some(state.session)
    }

    /// DTLS came over this path: as long as nothing is nominated it is the one to answer on.
    pub fn prefer(&mut self, path: Path) {
        let Some(state) = self.paths.get(&path) else {
            return;
        };
        if let Some(session) = self.sessions.get_mut(&state.session)
            && !session.nominated
        {
            session.selected = Some(path);
        }
    }

    /// Where to send to a transport: the nominated path, or before that the best guess.
    pub fn path_of(&self, session: SessionId) -> Option<Path> {
        self.sessions.get(&session)?.selected
    }

    /// Whether checks passed over this path.
    pub fn knows(&self, path: Path) -> bool {
        self.paths.contains_key(&path)
    }

    /// What became of the messages received.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    fn open(&mut self, id: SessionId, credentials: Credentials) {
        self.close(id);
        self.users.insert(credentials.ufrag.clone(), id);
        let session = Session {
            credentials,
            previous: Vec::new(),
            paths: Vec::new(),
            selected: None,
            nominated: false,
            armed: false,
        };
        self.sessions.insert(id, session);
    }

    fn restart(&mut self, id: SessionId, credentials: Credentials) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        self.users.insert(credentials.ufrag.clone(), id);
        let before = std::mem::replace(&mut session.credentials, credentials);
        session.previous.push(before);
        if session.previous.len() > MAX_PREVIOUS {
            let oldest = session.previous.remove(0);
            self.users.remove(&oldest.ufrag);
        }
    }

    fn close(&mut self, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        self.users.remove(&session.credentials.ufrag);
        for credentials in &session.previous {
            self.users.remove(&credentials.ufrag);
        }
        for path in &session.paths {
            self.paths.remove(path);
        }
    }

    fn handle_stun(&mut self, now: Instant, path: Path, message: &[u8]) {
        match check::parse(message) {
            Ok(Parsed::Request(request)) => self.handle_request(now, path, request),
            Ok(Parsed::Indication) => {
                // A keepalive of a path that nobody authenticated changes nothing.
                if self.heard(now, path).is_none() {
                    self.stats.malformed += 1;
                }
            }
            Err(refusal) => self.count(refusal),
        }
    }

    fn handle_request(&mut self, now: Instant, path: Path, mut request: Request) {
        let Some(&id) = self.users.get(&request.ufrag) else {
            self.stats.unknown_user += 1;
            return;
        };
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        let Some(pwd) = session.password(&request.ufrag) else {
            return;
        };
        let crypto = self.crypto.crypto();
        let (response, nominate) = match request.authenticate(&pwd, crypto) {
            Err(refusal) => {
                self.count(refusal);
                return;
            }
            Ok(Verdict::Check { nominate }) => {
                (request.success(path.remote, &pwd, crypto), Some(nominate))
            }
            Ok(verdict) => (request.error(verdict, &pwd, crypto), None),
        };
        if let Some(message) = response {
            self.outputs.push_back(Output::Transmit { path, message });
        }
        match nominate {
            Some(nominate) => {
                self.stats.answered += 1;
                self.note_check(now, path, id, &request.ufrag);
                self.nominate(now, path, id, nominate);
            }
            None => self.stats.refused += 1,
        }
    }

    /// Records an authenticated check: the path belongs to this transport from now on.
    fn note_check(&mut self, now: Instant, path: Path, id: SessionId, ufrag: &str) {
        if let Some(state) = self.paths.get_mut(&path)
            && state.session == id
        {
            state.heard = now;
            state.checked = now;
            if state.ufrag != ufrag {
                ufrag.clone_into(&mut state.ufrag);
                state.nominated = false;
            }
            return;
        }
        self.close_path(path);
        self.make_room(id);
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.paths.push(path);
        if session.selected.is_none() {
            session.selected = Some(path);
        }
        if !session.armed {
            session.armed = true;
            self.expiries.push(Reverse((now + CONSENT_TIMEOUT, id)));
        }
        let ufrag = ufrag.to_owned();
        let state = PathState {
            session: id,
            nominated: false,
            ufrag,
            heard: now,
            checked: now,
        };
        self.paths.insert(path, state);
        self.outputs
            .push_back(Output::Event(Event::Authenticated { session: id, path }));
    }

    fn nominate(&mut self, now: Instant, path: Path, id: SessionId, nominate: bool) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let is_selected = session.nominated && session.selected == Some(path);
        let stale = session
            .selected
            .and_then(|selected| self.paths.get(&selected))
            .is_none_or(|selected| now.saturating_duration_since(selected.checked) > STALE);
        let Some(state) = self.paths.get_mut(&path) else {
            return;
        };
        if !nominate {
            // Regular nomination: the client took its mind off this path; it may nominate it again later.
            state.nominated = is_selected && state.nominated;
            return;
        }
        let newly = !std::mem::replace(&mut state.nominated, true);
        if state.ufrag == session.credentials.ufrag {
            // A pair of the restart is nominated: what came before is over (RFC 8445 section 9).
            for credentials in session.previous.drain(..) {
                self.users.remove(&credentials.ufrag);
            }
        } else if session.nominated && !is_selected && !stale {
            return;
        }
        if !is_selected && (newly || stale || !session.nominated) {
            session.selected = Some(path);
            session.nominated = true;
            self.outputs
                .push_back(Output::Event(Event::Nominated { session: id, path }));
        }
    }

    fn close_path(&mut self, path: Path) {
        let Some(state) = self.paths.remove(&path) else {
            return;
        };
        let Some(session) = self.sessions.get_mut(&state.session) else {
            return;
        };
        session.paths.retain(|other| *other != path);
        if session.selected == Some(path) {
            session.nominated = false;
            session.selected = session.paths.iter().copied().max_by_key(|other| {
                self.paths
                    .get(other)
                    .map(|state| (state.nominated, state.heard))
            });
        }
    }

    /// Forgets the path that was silent longest when a transport has as many as it may.
    fn make_room(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else {
            return;
        };
        if session.paths.len() < MAX_PATHS {
            return;
        }
        let oldest = session
            .paths
            .iter()
            .copied()
            .filter(|path| session.selected != Some(*path))
            .min_by_key(|path| self.paths.get(path).map(|state| state.heard));
        if let Some(oldest) = oldest {
            self.close_path(oldest);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some(Reverse((at, id))) = self.expiries.peek().copied() {
            if at > now {
                break;
            }
            self.expiries.pop();
            let Some(session) = self.sessions.get_mut(&id) else {
                continue;
            };
            let heard = session
                .paths
                .iter()
                .filter_map(|path| self.paths.get(path))
                .map(|p| p.heard);
            match heard.max().map(|heard| heard + CONSENT_TIMEOUT) {
                Some(expiry) if expiry > now => self.expiries.push(Reverse((expiry, id))),
                _ => {
                    for path in session.paths.drain(..) {
                        self.paths.remove(&path);
                    }
                    session.selected = None;
                    session.nominated = false;
                    session.armed = false;
                    self.outputs
                        .push_back(Output::Event(Event::Expired { session: id }));
                }
            }
        }
    }

    fn count(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::Malformed => self.stats.malformed += 1,
            Refusal::Unauthenticated => self.stats.unauthenticated += 1,
        }
    }
}

impl Session {
    fn password(&self, ufrag: &str) -> Option<String> {
        std::iter::once(&self.credentials)
            .chain(&self.previous)
            .find(|credentials| credentials.ufrag == ufrag)
            .map(|credentials| credentials.pwd.clone())
    }
}
