//! What clients are told of the edge's TURN server.

use axum::http::{HeaderMap, header};
use livekit_protocol as lk;
use proto::ParticipantSid;

use super::edge::{self, SharedEdge};
use super::media_plane::Turn;
use crate::config::bracketed;
use crate::core::token::Grants;
use crate::core::turn::Participant;

/// The TURN server and where clients reach it.
#[derive(Debug)]
pub struct IceServers {
    turn: Turn,
    /// Told to all, when it is set.
    host: Option<String>,
    /// Told to those who do not say how they reached us.
    fallback: String,
}

impl IceServers {
    /// A server that clients reach at `host`, or else at the name that they reach signalling at, or else at `fallback`.
    pub fn new(turn: Turn, host: Option<String>, fallback: String) -> Self {
        Self {
            turn,
            host,
            fallback,
        }
    }

    /// The server's URLs with credentials for a participant who reached signalling at `reached`. `times` are now and the end of
    /// the participant's token, Unix seconds.
    pub fn servers(
        &self,
        reached: Option<&str>,
        (now_s, token_expires_s): (u64, u64),
        participant: Participant<'_>,
    ) -> Vec<lk::IceServer> {
        let host = self.host.as_deref().or(reached).unwrap_or(&self.fallback);
        let host = bracketed(host);
        let listeners = [
            ("turn", self.turn.udp, "udp"),
            ("turn", self.turn.tcp, "tcp"),
            ("turns", self.turn.tls, "tcp"),
        ];
        let urls = listeners
            .into_iter()
            .filter_map(|(scheme, address, transport)| {
                let port = address?.port();
                Some(format!("{scheme}:{host}:{port}?transport={transport}"))
            });
        let credentials = self.turn.credentials(now_s, token_expires_s, participant);
        vec![lk::IceServer {
            urls: urls.collect(),
            username: credentials.username,
            credential: credentials.password,
        }]
    }
}

/// The servers for a participant who comes in with these grants; none when the edge has no TURN server.
pub(super) fn of(
    edge: &SharedEdge,
    reached: Option<&str>,
    sid: &ParticipantSid,
    grants: &Grants,
) -> Vec<lk::IceServer> {
    let Some(turn) = &edge.turn else {
        return Vec::new();
    };
    let now_s = edge::unix_s();
    let expires_s = grants.claims.exp.unwrap_or(now_s);
    let participant = Participant {
        sid,
        identity: &grants.identity,
        room: &grants.room,
    };
    turn.servers(reached, (now_s, expires_s), participant)
}

/// The same as `Link` fields of a response (RFC 9725 section 4.6).
pub(super) fn links(servers: &[lk::IceServer]) -> Vec<String> {
    let urls = servers
        .iter()
        .flat_map(|server| server.urls.iter().map(move |url| (server, url)));
    urls.map(|(server, url)| {
        format!(
            "<{url}>; rel=\"ice-server\"; username=\"{}\"; credential=\"{}\"; credential-type=\"password\"",
            server.username, server.credential
        )
    })
    .collect()
}

/// Name or address that a request was sent to, without the port.
pub(super) fn host(headers: &HeaderMap) -> Option<String> {
    let authority = headers.get(header::HOST)?.to_str().ok()?;
    let authority: axum::http::uri::Authority = authority.parse().ok()?;
    let host = authority.host();
    // What goes into a URL for the client must be a host and nothing else.
    let host = url::Host::parse(host).ok()?;
    let host = host.to_string();
    Some(host.trim_matches(['[', ']']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_taken_from_the_request_without_its_port() {
        let told = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, value.parse().unwrap());
            host(&headers)
        };
        assert_eq!(
            told("fra.example.org:443").as_deref(),
            Some("fra.example.org")
        );
        assert_eq!(told("10.77.3.1:7880").as_deref(), Some("10.77.3.1"));
        assert_eq!(told("[2001:db8::1]:7880").as_deref(), Some("2001:db8::1"));
        assert_eq!(told("a b"), None);
        assert_eq!(told(""), None);
        assert_eq!(host(&HeaderMap::new()), None);
    }
}
