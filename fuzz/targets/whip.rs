//! What WHIP and WHEP read beside session descriptions: fragments (RFC 8840), header fields, and offers as publishers and players.
#![no_main]

use edge_node::core::sdp::LocalTransport;
use edge_node::core::whip::fragment::{parse, restarted};
use edge_node::core::whip::headers::{FRAGMENT, IfMatch, SDP, accepts, if_match, is_type};
use edge_node::core::whip::player::{Config, Player, Selection};
use edge_node::core::whip::read_offer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = accepts(text, SDP) && is_type(text, FRAGMENT);
    let selection = Selection::parse(text);
    if let Ok(fragment) = parse(text) {
        assert!(!fragment.ufrag.contains(['\r', '\n', ' ']) && !fragment.pwd.contains(['\r', '\n', ' ']));
        let local = LocalTransport {
            ufrag: fragment.ufrag.clone(),
            pwd: fragment.pwd.clone(),
            ..LocalTransport::default()
        };
        let ours = parse(&restarted(None, &local)).expect("our fragment can be read");
        assert_eq!((ours.ufrag, ours.pwd), (fragment.ufrag, fragment.pwd));
    }
    if if_match(Some(text), "\"tag\"") == IfMatch::Current {
        assert!(text.contains("\"tag\""));
    }
    let Ok(offer) = read_offer(text) else { return };
    let config = Config {
        sid: "PA_a".into(),
        seed: 1,
        selection,
    };
    if let Ok((_, answer)) = Player::new(config, &offer, &LocalTransport::default()) {
        assert_eq!(answer.media.len(), offer.media.len());
    }
});
