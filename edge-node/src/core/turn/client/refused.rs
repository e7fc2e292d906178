//! What a client is told when it does not get what it asks for.

use rtc_stun::error_code::{
    CODE_ALLOC_MISMATCH, CODE_ALLOC_QUOTA_REACHED, CODE_BAD_REQUEST, CODE_FORBIDDEN,
    CODE_INSUFFICIENT_CAPACITY, CODE_PEER_ADDR_FAMILY_MISMATCH, ErrorCode,
};

use super::super::Refusal;
use super::super::message::Unreadable;

/// A refusal on its way to the client.
pub(super) struct Refused {
    pub(super) code: (ErrorCode, &'static str),
    pub(super) refusal: Refusal,
}

/// A refusal with an error code of its own.
pub(super) fn refused(code: ErrorCode, text: &'static str, refusal: Refusal) -> Refused {
    Refused {
        code: (code, text),
        refusal,
    }
}

impl From<Unreadable> for Refused {
    fn from(Unreadable: Unreadable) -> Self {
        refused(CODE_BAD_REQUEST, "Bad Request", Refusal::Malformed)
    }
}

pub(super) fn mismatch() -> Refused {
    refused(
        CODE_ALLOC_MISMATCH,
        "Allocation Mismatch",
        Refusal::Mismatch,
    )
}

pub(super) fn forbidden() -> Refused {
    refused(CODE_FORBIDDEN, "Forbidden", Refusal::ForbiddenPeer)
}

pub(super) fn family_mismatch() -> Refused {
    let text = "Peer Address Family Mismatch";
    refused(CODE_PEER_ADDR_FAMILY_MISMATCH, text, Refusal::ForbiddenPeer)
}

pub(super) fn no_room(refusal: Refusal) -> Refused {
    match refusal {
        Refusal::ParticipantQuota => refused(
            CODE_ALLOC_QUOTA_REACHED,
            "Allocation Quota Reached",
            refusal,
        ),
        Refusal::EdgeQuota
        | Refusal::Malformed
        | Refusal::WrongCredentials
        | Refusal::Expired
        | Refusal::StaleNonce
        | Refusal::ForbiddenPeer
        | Refusal::Mismatch
        | Refusal::Unsupported
        | Refusal::NoPermission => {
            refused(CODE_INSUFFICIENT_CAPACITY, "Insufficient Capacity", refusal)
        }
    }
}
