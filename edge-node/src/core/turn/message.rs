//! Requests and indications as they come, responses as they go (RFC 8489, RFC 8656).

use std::net::SocketAddr;

use rtc_dtls::crypto_provider::RTCCrypto;
use rtc_stun::attributes::{
    ATTR_CHANNEL_NUMBER, ATTR_DATA, ATTR_DONT_FRAGMENT, ATTR_FINGERPRINT, ATTR_LIFETIME,
    ATTR_MESSAGE_INTEGRITY, ATTR_NONCE, ATTR_REALM, ATTR_REQUESTED_ADDRESS_FAMILY,
    ATTR_REQUESTED_TRANSPORT, ATTR_UNKNOWN_ATTRIBUTES, ATTR_USERNAME, ATTR_XOR_PEER_ADDRESS,
    AttrType, Attributes,
};
use rtc_stun::error_code::{ErrorCode, ErrorCodeAttribute};
use rtc_stun::fingerprint::FINGERPRINT;
use rtc_stun::integrity::MessageIntegrity;
use rtc_stun::message::{
    CLASS_ERROR_RESPONSE, CLASS_INDICATION, CLASS_REQUEST, CLASS_SUCCESS_RESPONSE, Getter,
    MESSAGE_HEADER_SIZE, METHOD_DATA, METHOD_SEND, Message, MessageClass, MessageType, Method,
    Setter, TransactionId,
};
use rtc_stun::textattrs::TextAttribute;
use rtc_turn::proto::data::Data;
use rtc_turn::proto::peeraddr::PeerAddress;

/// A STUN message from a client.
pub(super) enum Parsed {
    /// A request; its integrity is not checked yet.
    Request(Request),
    /// Payload for a peer.
    Send {
        /// The peer.
        peer: SocketAddr,
        /// The payload.
        payload: Vec<u8>,
    },
    /// An indication that asks for nothing, such as a keepalive.
    Nothing,
}

/// A request.
pub(super) struct Request {
    message: Message,
}

/// Reads one STUN message; `None` when it is none, or a response.
pub(super) fn parse(bytes: &[u8]) -> Option<Parsed> {
    let mut message = Message::new();
    message.unmarshal_binary(bytes).ok()?;
    let length = usize::try_from(message.length).ok()?;
    if length + MESSAGE_HEADER_SIZE != bytes.len() {
        return None;
    }
    // FINGERPRINT is optional in TURN; where it is, it is the last attribute and right.
    if message.contains(ATTR_FINGERPRINT) {
        let last = message.attributes.0.last().map(|attribute| attribute.typ);
        if last != Some(ATTR_FINGERPRINT) || FINGERPRINT.check(&message).is_err() {
            return None;
        }
    }
    match message.typ.class {
        CLASS_REQUEST => Some(Parsed::Request(Request { message })),
        CLASS_INDICATION if message.typ.method == METHOD_SEND => {
            let mut data = Data::default();
            data.get_from(&message).ok()?;
            let peer = peers(&message).ok()?.into_iter().next()?;
            Some(Parsed::Send {
                peer,
                payload: data.0,
            })
        }
        CLASS_INDICATION => Some(Parsed::Nothing),
        _ => None,
    }
}

impl Request {
    pub(super) fn method(&self) -> Method {
        self.message.typ.method
    }

    pub(super) fn transaction(&self) -> TransactionId {
        self.message.transaction_id
    }

    /// Whether it carries MESSAGE-INTEGRITY at all.
    pub(super) fn is_signed(&self) -> bool {
        self.message.contains(ATTR_MESSAGE_INTEGRITY)
    }

    /// User name and nonce; `None` when one of them or the realm is missing.
    pub(super) fn identity(&self) -> Option<(String, String)> {
        let text = |kind| String::from_utf8(self.message.get(kind).ok()?).ok();
        text(ATTR_REALM)?;
        Some((text(ATTR_USERNAME)?, text(ATTR_NONCE)?))
    }

    /// Checks MESSAGE-INTEGRITY with the key, and leaves of the attributes only those that it covers (RFC 8489 section 14.5).
    pub(super) fn authenticate(&mut self, key: &[u8], crypto: &dyn RTCCrypto) -> bool {
        let genuine = MessageIntegrity::check(&mut self.message, key, crypto).is_ok();
        let attributes = &mut self.message.attributes.0;
        let covered = attributes
            .iter()
            .position(|attribute| attribute.typ == ATTR_MESSAGE_INTEGRITY);
        attributes.truncate(covered.unwrap_or(0));
        genuine
    }

    /// The attributes that would have to be understood and are not (RFC 8489 section 6.3.1). Relayed datagrams are never
    /// fragmented, which is all that DONT-FRAGMENT asks for.
    pub(super) fn unknown(&self) -> Vec<AttrType> {
        const KNOWN: [AttrType; 10] = [
            ATTR_USERNAME,
            ATTR_REALM,
            ATTR_NONCE,
            ATTR_LIFETIME,
            ATTR_REQUESTED_TRANSPORT,
            ATTR_REQUESTED_ADDRESS_FAMILY,
            ATTR_XOR_PEER_ADDRESS,
            ATTR_CHANNEL_NUMBER,
            ATTR_DATA,
            ATTR_DONT_FRAGMENT,
        ];
        let kinds = self.message.attributes.0.iter().map(|one| one.typ);
        kinds
            .filter(|kind| kind.required() && !KNOWN.contains(kind))
            .collect()
    }

    /// An attribute; `None` when it is missing, an error when it cannot be read.
    pub(super) fn get<T: Getter + Default>(&self, kind: AttrType) -> Result<Option<T>, Unreadable> {
        if !self.message.contains(kind) {
            return Ok(None);
        }
        let mut value = T::default();
        value.get_from(&self.message).map_err(|_| Unreadable)?;
        Ok(Some(value))
    }

    /// All of XOR-PEER-ADDRESS.
    pub(super) fn peers(&self) -> Result<Vec<SocketAddr>, Unreadable> {
        peers(&self.message)
    }

    /// A success response, signed with the key if there is one.
    pub(super) fn success(
        &self,
        attributes: &[&dyn Setter],
        key: Option<&[u8]>,
        crypto: &dyn RTCCrypto,
    ) -> Option<Vec<u8>> {
        self.respond(CLASS_SUCCESS_RESPONSE, attributes, key, crypto)
    }

    /// An error response, signed with the key if there is one.
    pub(super) fn error(
        &self,
        (code, reason): (ErrorCode, &str),
        attributes: &[&dyn Setter],
        key: Option<&[u8]>,
        crypto: &dyn RTCCrypto,
    ) -> Option<Vec<u8>> {
        let code = ErrorCodeAttribute {
            code,
            reason: reason.as_bytes().to_vec(),
        };
        let all: Vec<&dyn Setter> = std::iter::once(&code as &dyn Setter)
            .chain(attributes.iter().copied())
            .collect();
        self.respond(CLASS_ERROR_RESPONSE, &all, key, crypto)
    }

    fn respond(
        &self,
        class: MessageClass,
        attributes: &[&dyn Setter],
        key: Option<&[u8]>,
        crypto: &dyn RTCCrypto,
    ) -> Option<Vec<u8>> {
        let mut response = Message::new();
        response.write_header();
        response.set_type(MessageType::new(self.method(), class));
        self.message.add_to(&mut response).ok()?;
        for attribute in attributes {
            attribute.add_to(&mut response).ok()?;
        }
        if let Some(key) = key {
            MessageIntegrity::new_raw_integrity_with_provider(key, crypto)
                .add_to(&mut response)
                .ok()?;
        }
        FINGERPRINT.add_to(&mut response).ok()?;
        Some(response.raw)
    }
}

/// An attribute that is there and cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Unreadable;

fn peers(message: &Message) -> Result<Vec<SocketAddr>, Unreadable> {
    let all = message.attributes.0.iter();
    all.filter(|attribute| attribute.typ == ATTR_XOR_PEER_ADDRESS)
        .map(|attribute| {
            // The library reads the first of a kind: give it one at a time.
            let one = Message {
                transaction_id: message.transaction_id,
                attributes: Attributes(vec![attribute.clone()]),
                ..Message::default()
            };
            let mut address = PeerAddress::default();
            address.get_from(&one).map_err(|_| Unreadable)?;
            Ok(SocketAddr::new(address.ip.to_canonical(), address.port))
        })
        .collect()
}

/// Appends a Data indication to `out`: payload from a peer that has no channel.
pub(super) fn write_data(number: u64, peer: SocketAddr, payload: &[u8], out: &mut Vec<u8>) {
    let mut transaction = [0; 12];
    if let Some(last) = transaction.last_chunk_mut::<8>() {
        *last = number.to_be_bytes();
    }
    let mut message = Message::new();
    message.write_header();
    message.set_type(MessageType::new(METHOD_DATA, CLASS_INDICATION));
    let peer = PeerAddress {
        ip: peer.ip(),
        port: peer.port(),
    };
    let parts: [&dyn Setter; 3] = [&TransactionId(transaction), &peer, &Data(payload.to_vec())];
    if parts.iter().all(|part| part.add_to(&mut message).is_ok()) {
        out.extend_from_slice(&message.raw);
    }
}

/// REALM or NONCE.
pub(super) fn text(kind: AttrType, text: &str) -> TextAttribute {
    TextAttribute::new(kind, text.to_owned())
}

/// UNKNOWN-ATTRIBUTES (RFC 8489 section 14.13).
pub(super) struct UnknownAttributes(pub(super) Vec<AttrType>);

impl Setter for UnknownAttributes {
    fn add_to(&self, message: &mut Message) -> rtc_shared::error::Result<()> {
        let value = self.0.iter().flat_map(|kind| kind.value().to_be_bytes());
        message.add(ATTR_UNKNOWN_ATTRIBUTES, &value.collect::<Vec<u8>>());
        Ok(())
    }
}
