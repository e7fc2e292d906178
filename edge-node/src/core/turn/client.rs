//! One client of the TURN server: a five-tuple, and its allocation once it has one.

mod allocation;
mod refused;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use rtc_stun::attributes::{
    ATTR_CHANNEL_NUMBER, ATTR_LIFETIME, ATTR_NONCE, ATTR_REALM, ATTR_REQUESTED_ADDRESS_FAMILY,
    ATTR_REQUESTED_TRANSPORT,
};
use rtc_stun::error_code::{
    CODE_ADDR_FAMILY_NOT_SUPPORTED, CODE_BAD_REQUEST, CODE_STALE_NONCE, CODE_UNAUTHORIZED,
    CODE_UNKNOWN_ATTRIBUTE, CODE_UNSUPPORTED_TRANS_PROTO, CODE_WRONG_CREDENTIALS, ErrorCode,
};
use rtc_stun::integrity::MessageIntegrity;
use rtc_stun::message::{
    METHOD_ALLOCATE, METHOD_BINDING, METHOD_CHANNEL_BIND, METHOD_CREATE_PERMISSION, METHOD_REFRESH,
    Setter,
};
use rtc_stun::xoraddr::XorMappedAddress;
use rtc_turn::proto::channum::ChannelNumber;
use rtc_turn::proto::lifetime::Lifetime;
use rtc_turn::proto::relayaddr::RelayedAddress;
use rtc_turn::proto::reqfamily::{REQUESTED_FAMILY_IPV6, RequestedAddressFamily};
use rtc_turn::proto::reqtrans::RequestedTransport;
use rtc_turn::proto::{PROTO_UDP, Protocol};

use super::credentials::Username;
use super::framing::{read_channel_data, write_channel_data};
use super::message::{self, Parsed, Request, UnknownAttributes, Unreadable};
use super::{LIFETIME, Refusal, Server};
use crate::core::session::Now;
use allocation::Allocation;
use refused::{Refused, family_mismatch, forbidden, mismatch, no_room, refused};

/// A place among the edge's allocations.
#[derive(Debug)]
pub struct Admitted<P> {
    /// Port of the relayed address, unique among the edge's allocations.
    pub port: u16,
    /// Gives the place back when it is dropped.
    pub place: P,
}

/// Payload that a client sends to a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Relayed {
    /// The peer, one of [`Server::peers`].
    pub peer: SocketAddr,
    /// The payload.
    pub payload: Vec<u8>,
}

/// What the shell has to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send this to the client.
    Send(Vec<u8>),
    /// Count what was refused.
    Refused(Refusal),
    /// The client has an allocation from now on.
    Allocated,
    /// The allocation is over, and all that was relayed through it.
    Released,
}

/// The server's side of one client. `P` is a place among the edge's allocations.
#[derive(Debug)]
pub struct Client<P> {
    server: Arc<Server>,
    remote: SocketAddr,
    allocation: Option<Allocation<P>>,
    outputs: VecDeque<Output>,
}

/// An authenticated request.
struct Signed {
    request: Request,
    username: String,
    key: Vec<u8>,
}

impl<P> Client<P> {
    /// A client at this address, without an allocation.
    pub fn new(server: Arc<Server>, remote: SocketAddr) -> Self {
        Self {
            server,
            remote,
            allocation: None,
            outputs: VecDeque::new(),
        }
    }

    /// Takes one message; then drain [`Client::poll_output`]. Payload for a peer is returned. `admit` is asked for a place when
    /// the participant of that session id wants an allocation, and may refuse with a quota.
    pub fn handle_message(
        &mut self,
        now: Now,
        bytes: &[u8],
        admit: impl FnOnce(&str) -> Result<Admitted<P>, Refusal>,
    ) -> Option<Relayed> {
        self.expire(now.instant);
        match bytes.first()? >> 6 {
            0b01 => self.channel_data(now.instant, bytes),
            0b00 => match message::parse(bytes) {
                Some(Parsed::Request(request)) => {
                    self.request(now, request, admit);
                    None
                }
                Some(Parsed::Send { peer, payload }) => self.send(now.instant, peer, payload),
                Some(Parsed::Nothing) => None,
                None => self.drop_message(Refusal::Malformed),
            },
            _ => self.drop_message(Refusal::Malformed),
        }
    }

    /// Appends to `out` what a client is sent when a peer sends it a datagram, padded for a stream if `padded`. False, and nothing,
    /// when the client has no permission for the peer any more.
    pub fn write_datagram(
        &mut self,
        now: Instant,
        peer: SocketAddr,
        payload: &[u8],
        (padded, out): (bool, &mut Vec<u8>),
    ) -> bool {
        let Some(allocation) = &mut self.allocation else {
            return false;
        };
        if let Some(number) = allocation.channel_of(now, peer) {
            write_channel_data(number, payload, padded, out);
            return true;
        }
        let permitted = allocation.permits(now, peer.ip());
        if permitted {
            message::write_data(allocation.next_indication(), peer, payload, out);
        }
        permitted
    }

    /// Time went on: an allocation that was not refreshed is over.
    pub fn expire(&mut self, now: Instant) {
        if self.allocation.as_ref().is_some_and(|one| one.is_over(now)) {
            self.release();
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The relayed address, while there is an allocation.
    pub fn relayed(&self) -> Option<SocketAddr> {
        self.allocation
            .as_ref()
            .map(|allocation| allocation.relayed)
    }

    fn release(&mut self) {
        self.allocation = None;
        self.outputs.push_back(Output::Released);
    }

    fn drop_message<T>(&mut self, refusal: Refusal) -> Option<T> {
        self.outputs.push_back(Output::Refused(refusal));
        None
    }

    fn channel_data(&mut self, now: Instant, bytes: &[u8]) -> Option<Relayed> {
        let Some((number, payload)) = read_channel_data(bytes) else {
            return self.drop_message(Refusal::Malformed);
        };
        let peer = self
            .allocation
            .as_ref()
            .and_then(|allocation| allocation.peer_of(now, number));
        match peer {
            Some(peer) => Some(Relayed {
                peer,
                payload: payload.to_vec(),
            }),
            None => self.drop_message(Refusal::NoPermission),
        }
    }

    fn send(&mut self, now: Instant, peer: SocketAddr, payload: Vec<u8>) -> Option<Relayed> {
        let permitted = self
            .allocation
            .as_ref()
            .is_some_and(|allocation| allocation.permits(now, peer.ip()));
        if !permitted {
            return self.drop_message(Refusal::NoPermission);
        }
        if !self.server.peers.contains(&peer) {
            return self.drop_message(Refusal::ForbiddenPeer);
        }
        Some(Relayed { peer, payload })
    }

    fn request(
        &mut self,
        now: Now,
        request: Request,
        admit: impl FnOnce(&str) -> Result<Admitted<P>, Refusal>,
    ) {
        if request.method() == METHOD_BINDING {
            self.binding(&request);
            return;
        }
        let signed = match self.authenticate(now, request) {
            Ok(signed) => signed,
            Err((request, refused)) => {
                self.challenge(now, &request, refused);
                return;
            }
        };
        let answered = self.authenticated(now, &signed, admit);
        if let Err(refused) = answered {
            self.refuse(&signed, &refused);
        }
    }

    /// Tells the client its own address (RFC 8489 section 12): clients ask TURN servers for that too.
    fn binding(&mut self, request: &Request) {
        let mapped = address(self.remote);
        let response = request.success(&[&mapped], None, self.server.crypto.crypto());
        self.outputs.extend(response.map(Output::Send));
    }

    /// Checks nonce, user name and password (RFC 8489 section 9.2.4). The password of an allocation's own user is taken past its
    /// expiry: a call outlives the credentials that it was begun with.
    fn authenticate(
        &self,
        now: Now,
        mut request: Request,
    ) -> Result<Signed, (Request, Option<Refused>)> {
        if !request.is_signed() {
            return Err((request, None));
        }
        let Some((username, nonce)) = request.identity() else {
            return Err((request, Some(Unreadable.into())));
        };
        let stale = || refused(CODE_STALE_NONCE, "Stale Nonce", Refusal::StaleNonce);
        if !self
            .server
            .secret
            .takes_nonce(unix_s(now), self.remote, &nonce)
        {
            return Err((request, Some(stale())));
        }
        let wrong = |refusal| refused(CODE_UNAUTHORIZED, "Unauthorized", refusal);
        let crypto = self.server.crypto.crypto();
        let key = self.key(&username);
        let genuine = key.filter(|key| request.authenticate(key, crypto));
        let (Some(key), Some(parsed)) = (genuine, Username::parse(&username)) else {
            return Err((request, Some(wrong(Refusal::WrongCredentials))));
        };
        let own = self
            .allocation
            .as_ref()
            .is_some_and(|allocation| allocation.username == username);
        if !own && parsed.expires_s <= unix_s(now) {
            return Err((request, Some(wrong(Refusal::Expired))));
        }
        Ok(Signed {
            request,
            username,
            key,
        })
    }

    /// The long-term key (RFC 8489 section 9.2.2) of a user name.
    fn key(&self, username: &str) -> Option<Vec<u8>> {
        MessageIntegrity::long_term_integrity_key(
            username.to_owned(),
            self.server.realm.clone(),
            self.server.secret.password(username),
            self.server.crypto.crypto(),
        )
        .ok()
    }

    /// Answers a request that is not authenticated, with what the next one needs. The first of a client never is, which is
    /// nothing to count.
    fn challenge(&mut self, now: Now, request: &Request, refusal: Option<Refused>) {
        let code = refusal
            .as_ref()
            .map_or((CODE_UNAUTHORIZED, "Unauthorized"), |r| r.code);
        let nonce = self.server.secret.nonce(unix_s(now), self.remote);
        let realm = message::text(ATTR_REALM, &self.server.realm);
        let nonce = message::text(ATTR_NONCE, &nonce);
        let parts: &[&dyn Setter] = if code.0 == CODE_BAD_REQUEST {
            &[]
        } else {
            &[&realm, &nonce]
        };
        let response = request.error(code, parts, None, self.server.crypto.crypto());
        self.outputs.extend(response.map(Output::Send));
        self.outputs
            .extend(refusal.map(|refused| Output::Refused(refused.refusal)));
    }

    fn authenticated(
        &mut self,
        now: Now,
        signed: &Signed,
        admit: impl FnOnce(&str) -> Result<Admitted<P>, Refusal>,
    ) -> Result<(), Refused> {
        let unknown = signed.request.unknown();
        if !unknown.is_empty() {
            let code = (CODE_UNKNOWN_ATTRIBUTE, "Unknown Attribute");
            let unknown = UnknownAttributes(unknown);
            self.answer_error(signed, code, &[&unknown]);
            self.outputs
                .push_back(Output::Refused(Refusal::Unsupported));
            return Ok(());
        }
        let other = self
            .allocation
            .as_ref()
            .is_some_and(|allocation| allocation.username != signed.username);
        if other {
            return Err(refused(
                CODE_WRONG_CREDENTIALS,
                "Wrong Credentials",
                Refusal::Mismatch,
            ));
        }
        match signed.request.method() {
            METHOD_ALLOCATE => self.allocate(now, signed, admit),
            METHOD_REFRESH => self.refresh(now.instant, signed),
            METHOD_CREATE_PERMISSION => self.create_permission(now.instant, signed),
            METHOD_CHANNEL_BIND => self.bind_channel(now.instant, signed),
            _ => Err(refused(
                CODE_BAD_REQUEST,
                "Bad Request",
                Refusal::Unsupported,
            )),
        }
    }

    fn allocate(
        &mut self,
        now: Now,
        signed: &Signed,
        admit: impl FnOnce(&str) -> Result<Admitted<P>, Refusal>,
    ) -> Result<(), Refused> {
        let request = &signed.request;
        if let Some(allocation) = &self.allocation {
            // A request that is repeated because its answer was lost gets the answer again (RFC 8656 section 7.2).
            if allocation.transaction == request.transaction() {
                self.answer_allocated(now.instant, signed);
                return Ok(());
            }
            return Err(mismatch());
        }
        let transport = request.get::<RequestedTransport>(ATTR_REQUESTED_TRANSPORT)?;
        let Protocol(transport) = transport.ok_or(Unreadable)?.protocol;
        if transport != PROTO_UDP.0 {
            let text = "Unsupported Transport Protocol";
            return Err(refused(
                CODE_UNSUPPORTED_TRANS_PROTO,
                text,
                Refusal::Unsupported,
            ));
        }
        let family = request.get::<RequestedAddressFamily>(ATTR_REQUESTED_ADDRESS_FAMILY)?;
        let six = family == Some(REQUESTED_FAMILY_IPV6);
        let address = self.server.addresses.iter().find(|ip| ip.is_ipv6() == six);
        let address = *address.ok_or_else(|| {
            let text = "Address Family not Supported";
            refused(CODE_ADDR_FAMILY_NOT_SUPPORTED, text, Refusal::Unsupported)
        })?;
        let sid = Username::parse(&signed.username).ok_or(Unreadable)?.sid;
        let Admitted { port, place } = admit(sid).map_err(no_room)?;
        self.allocation = Some(Allocation::new(
            (signed.username.clone(), request.transaction()),
            SocketAddr::new(address, port),
            now.instant + LIFETIME,
            place,
        ));
        self.outputs.push_back(Output::Allocated);
        self.answer_allocated(now.instant, signed);
        Ok(())
    }

    fn answer_allocated(&mut self, now: Instant, signed: &Signed) {
        let Some(allocation) = &self.allocation else {
            return;
        };
        let relayed = RelayedAddress {
            ip: allocation.relayed.ip(),
            port: allocation.relayed.port(),
        };
        let lifetime = Lifetime(allocation.expires.saturating_duration_since(now));
        let mapped = address(self.remote);
        self.answer(signed, &[&relayed, &lifetime, &mapped]);
    }

    fn refresh(&mut self, now: Instant, signed: &Signed) -> Result<(), Refused> {
        let asked = signed.request.get::<Lifetime>(ATTR_LIFETIME)?;
        let family = signed
            .request
            .get::<RequestedAddressFamily>(ATTR_REQUESTED_ADDRESS_FAMILY)?;
        let allocation = self.allocation.as_mut().ok_or_else(mismatch)?;
        let six = family.map(|family| family == REQUESTED_FAMILY_IPV6);
        if six.is_some_and(|six| six != allocation.relayed.is_ipv6()) {
            return Err(family_mismatch());
        }
        let granted = match asked {
            Some(Lifetime(asked)) if asked.is_zero() => asked,
            _ => LIFETIME,
        };
        allocation.expires = now + granted;
        self.answer(signed, &[&Lifetime(granted)]);
        if granted.is_zero() {
            self.release();
        }
        Ok(())
    }

    fn create_permission(&mut self, now: Instant, signed: &Signed) -> Result<(), Refused> {
        let peers = signed.request.peers()?;
        if peers.is_empty() {
            return Err(Unreadable.into());
        }
        let allocation = self.allocation.as_mut().ok_or_else(mismatch)?;
        for peer in &peers {
            if peer.is_ipv6() != allocation.relayed.is_ipv6() {
                return Err(family_mismatch());
            }
            // A permission names no port.
            if !self.server.peers.iter().any(|one| one.ip() == peer.ip()) {
                return Err(forbidden());
            }
        }
        for peer in peers {
            allocation.permit(now, peer.ip());
        }
        self.answer(signed, &[]);
        Ok(())
    }

    fn bind_channel(&mut self, now: Instant, signed: &Signed) -> Result<(), Refused> {
        let number = signed.request.get::<ChannelNumber>(ATTR_CHANNEL_NUMBER)?;
        let number = number.filter(ChannelNumber::valid).ok_or(Unreadable)?;
        let peer = signed
            .request
            .peers()?
            .into_iter()
            .next()
            .ok_or(Unreadable)?;
        let allocation = self.allocation.as_mut().ok_or_else(mismatch)?;
        if peer.is_ipv6() != allocation.relayed.is_ipv6() {
            return Err(family_mismatch());
        }
        if !self.server.peers.contains(&peer) {
            return Err(forbidden());
        }
        if !allocation.bind(now, number.0, peer) {
            return Err(Unreadable.into());
        }
        self.answer(signed, &[]);
        Ok(())
    }

    fn answer(&mut self, signed: &Signed, attributes: &[&dyn Setter]) {
        let crypto = self.server.crypto.crypto();
        let response = signed
            .request
            .success(attributes, Some(&signed.key), crypto);
        self.outputs.extend(response.map(Output::Send));
    }

    fn answer_error(
        &mut self,
        signed: &Signed,
        code: (ErrorCode, &str),
        attributes: &[&dyn Setter],
    ) {
        let crypto = self.server.crypto.crypto();
        let response = signed
            .request
            .error(code, attributes, Some(&signed.key), crypto);
        self.outputs.extend(response.map(Output::Send));
    }

    fn refuse(&mut self, signed: &Signed, refused: &Refused) {
        self.answer_error(signed, refused.code, &[]);
        self.outputs.push_back(Output::Refused(refused.refusal));
    }
}

fn address(address: SocketAddr) -> XorMappedAddress {
    let ip: IpAddr = address.ip().to_canonical();
    XorMappedAddress {
        ip,
        port: address.port(),
    }
}

fn unix_s(now: Now) -> u64 {
    u64::try_from(now.unix_ms / 1000).unwrap_or(0)
}
