//! Values of single attributes.

use super::{Direction, Extension, Media};

// As in `parse`: what is beyond is dropped.
const MAX_EXTENSIONS: usize = 64;
const MAX_RIDS: usize = 16;

pub(super) fn push_bounded(list: &mut Vec<String>, value: &str, limit: usize) {
    if list.len() < limit {
        list.push(value.to_owned());
    }
}

pub(super) fn direction(key: &str) -> Option<Direction> {
    match key {
        "sendrecv" => Some(Direction::SendRecv),
        "sendonly" => Some(Direction::SendOnly),
        "recvonly" => Some(Direction::RecvOnly),
        "inactive" => Some(Direction::Inactive),
        _ => None,
    }
}

pub(super) fn msid(value: &str) -> Option<(String, String)> {
    let mut fields = value.split_whitespace();
    let stream = fields.next()?.to_owned();
    Some((stream, fields.next().unwrap_or_default().to_owned()))
}

/// `<id>[/<direction>] <uri> [<attributes>]` (RFC 8285 §8).
pub(super) fn extmap(extensions: &mut Vec<Extension>, value: &str) {
    let mut fields = value.split_whitespace();
    let (Some(id), Some(uri)) = (fields.next(), fields.next()) else {
        return;
    };
    let (id, allowed) = match id.split_once('/') {
        Some((id, token)) => (id, direction(token)),
        None => (id, Some(Direction::SendRecv)),
    };
    let (Ok(id @ 1..), Some(direction)) = (id.parse::<u8>(), allowed) else {
        return;
    };
    let taken = extensions
        .iter()
        .any(|known| known.id == id || known.uri == uri);
    if !taken && extensions.len() < MAX_EXTENSIONS {
        extensions.push(Extension {
            id,
            uri: uri.to_owned(),
            direction,
        });
    }
}

/// `<id> send|recv [<restrictions>]` (RFC 8851 §10): an id is 1 to 16 letters, digits, `-` or `_` as it rides in RTP.
pub(super) fn rid(media: &mut Media, value: &str) {
    let mut fields = value.split_whitespace();
    let (Some(id), Some(way)) = (fields.next(), fields.next()) else {
        return;
    };
    if !is_rid(id) {
        return;
    }
    let list = match way {
        "send" => &mut media.rids_send,
        "recv" => &mut media.rids_recv,
        _ => return,
    };
    if !list.iter().any(|known| known == id) {
        push_bounded(list, id, MAX_RIDS);
    }
}

fn is_rid(id: &str) -> bool {
    (1..=16).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// `send a;b,c;~d recv …` (RFC 8853 §5.1); `~` marks a stream that starts paused.
pub(super) fn simulcast(media: &mut Media, value: &str) {
    let mut fields = value.split_whitespace();
    while let (Some(way), Some(streams)) = (fields.next(), fields.next()) {
        let list = match way {
            "send" => &mut media.simulcast_send,
            "recv" => &mut media.simulcast_recv,
            _ => return,
        };
        list.clear();
        for stream in streams.split(';') {
            let first = stream.split(',').next().unwrap_or_default();
            let id = first.strip_prefix('~').unwrap_or(first);
            if is_rid(id) && !list.iter().any(|known| known == id) {
                push_bounded(list, id, MAX_RIDS);
            }
        }
    }
}
