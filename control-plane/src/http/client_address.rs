//! Which address a request really came from.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, Request};
use axum::http::HeaderMap;
use ipnet::IpNet;

use super::Gateway;

/// Entries of `X-Forwarded-For` that are looked at, from its end. Nobody has that many proxies.
const ENTRIES_MAX: usize = 32;

/// The client's address: the connection's other end, or when that is a trusted proxy, the last address in
/// `X-Forwarded-For` that is not one. What stands before that could be anybody's invention, and so could all of it when the
/// connection does not come from a trusted proxy.
pub(super) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut address = peer.to_canonical();
    let lines = headers.get_all("x-forwarded-for").into_iter().rev();
    let entries = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
    for entry in entries.take(ENTRIES_MAX) {
        if !is_trusted(&address) {
            break;
        }
        // The proxy before it is trusted: what it said is taken, unless it is not an address.
        match parsed(entry.trim()) {
            Some(forwarded) => address = forwarded,
            None => break,
        }
    }
    address
}

/// The address of the client that a request is from.
pub(super) fn of_request(gateway: &Gateway, request: &Request) -> Option<IpAddr> {
    let ConnectInfo(peer) = request.extensions().get::<ConnectInfo<SocketAddr>>()?;
    let trusted = &gateway.trusted_proxies;
    Some(client_address(peer.ip(), request.headers(), trusted))
}

/// An address, perhaps with a port.
fn parsed(entry: &str) -> Option<IpAddr> {
    let bare = entry.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<IpAddr>().ok();
    let address = address.or_else(|| Some(entry.parse::<SocketAddr>().ok()?.ip()));
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn found(peer: &str, forwarded: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in forwarded {
            headers.append("x-forwarded-for", HeaderValue::from_str(line).unwrap());
        }
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "fd00::/8"]
            .iter()
            .map(|network| network.parse().unwrap())
            .collect();
        client_address(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        assert_eq!(found("198.51.100.7", &["192.0.2.1"]), "198.51.100.7");
        assert_eq!(found("10.0.0.1", &["192.0.2.1"]), "192.0.2.1");
        assert_eq!(found("::ffff:10.0.0.1", &["192.0.2.1"]), "192.0.2.1");
        assert_eq!(found("10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn what_a_client_invents_does_not_count() {
        // The client said 203.0.113.9; our proxy added the address it saw.
        assert_eq!(found("10.0.0.1", &["203.0.113.9, 192.0.2.1"]), "192.0.2.1");
        assert_eq!(
            found("10.0.0.1", &["203.0.113.9", "192.0.2.1"]),
            "192.0.2.1"
        );
        // Two of our proxies in a row.
        assert_eq!(
            found("10.0.0.1", &["203.0.113.9, 192.0.2.1, 10.2.0.1"]),
            "192.0.2.1"
        );
    }

    #[test]
    fn forms_and_nonsense() {
        assert_eq!(found("fd00::1", &["[2001:db8::1]:4711"]), "2001:db8::1");
        assert_eq!(found("fd00::1", &["[2001:db8::1]"]), "2001:db8::1");
        assert_eq!(found("10.0.0.1", &["192.0.2.1:80"]), "192.0.2.1");
        for nonsense in ["unknown", "", ",,", "192.0.2.1; drop", "\u{e4}"] {
            assert_eq!(found("10.0.0.1", &[nonsense]), "10.0.0.1", "{nonsense:?}");
        }
        let long = vec!["10.1.1.1"; 1_000].join(",");
        assert_eq!(found("10.0.0.1", &[&long]), "10.1.1.1");
    }
}
