//! What a client may do: its relayed address, permissions and channels.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use rtc_stun::message::TransactionId;

use super::super::{CHANNEL_LIFETIME, PERMISSION_LIFETIME};

/// Permissions and channels that one allocation may have, each: the addresses of an edge, not of the world.
const PEERS_MAX: usize = 32;

/// An allocation.
#[derive(Debug)]
pub(super) struct Allocation<P> {
    /// The user that it belongs to.
    pub(super) username: String,
    /// Of the request that made it.
    pub(super) transaction: TransactionId,
    /// The address that peers see.
    pub(super) relayed: SocketAddr,
    /// When it ends unless it is refreshed.
    pub(super) expires: Instant,
    permissions: Vec<(IpAddr, Instant)>,
    channels: Vec<Channel>,
    indications: u64,
    /// Held for as long as the allocation lasts.
    _place: P,
}

#[derive(Clone, Copy, Debug)]
struct Channel {
    number: u16,
    peer: SocketAddr,
    expires: Instant,
}

impl<P> Allocation<P> {
    pub(super) fn new(
        (username, transaction): (String, TransactionId),
        relayed: SocketAddr,
        expires: Instant,
        place: P,
    ) -> Self {
        Self {
            username,
            transaction,
            relayed,
            expires,
            permissions: Vec::new(),
            channels: Vec::new(),
            indications: 0,
            _place: place,
        }
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.expires <= now
    }

    pub(super) fn permits(&self, now: Instant, peer: IpAddr) -> bool {
        self.permissions
            .iter()
            .any(|(ip, expires)| *ip == peer && now < *expires)
    }

    pub(super) fn permit(&mut self, now: Instant, peer: IpAddr) {
        self.permissions
            .retain(|(ip, expires)| *ip != peer && now < *expires);
        if self.permissions.len() < PEERS_MAX {
            self.permissions.push((peer, now + PERMISSION_LIFETIME));
        }
    }

    /// Binds or refreshes a channel, and permits its peer (RFC 8656 section 12.2). False when number or peer are bound otherwise.
    pub(super) fn bind(&mut self, now: Instant, number: u16, peer: SocketAddr) -> bool {
        self.channels.retain(|channel| now < channel.expires);
        let (same, taken) = self
            .channels
            .iter()
            .fold((None, false), |(same, taken), one| {
                match (one.number == number, one.peer == peer) {
                    (true, true) => (Some(one.number), taken),
                    (false, false) => (same, taken),
                    _ => (same, true),
                }
            });
        if taken || (same.is_none() && self.channels.len() >= PEERS_MAX) {
            return false;
        }
        self.channels.retain(|channel| channel.number != number);
        self.channels.push(Channel {
            number,
            peer,
            expires: now + CHANNEL_LIFETIME,
        });
        self.permit(now, peer.ip());
        true
    }

    pub(super) fn channel_of(&self, now: Instant, peer: SocketAddr) -> Option<u16> {
        let channel = self.channels.iter().find(|channel| channel.peer == peer)?;
        (now < channel.expires).then_some(channel.number)
    }

    pub(super) fn peer_of(&self, now: Instant, number: u16) -> Option<SocketAddr> {
        let mut channels = self.channels.iter();
        let channel = channels.find(|channel| channel.number == number)?;
        (now < channel.expires).then_some(channel.peer)
    }

    /// A number for the next indication, unique within the allocation.
    pub(super) fn next_indication(&mut self) -> u64 {
        self.indications += 1;
        self.indications
    }
}
