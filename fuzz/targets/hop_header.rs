//! Datagrams of a link: the hop header, and the core that acts on it.
#![no_main]

use std::time::{Duration, Instant};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use relay::link::Link;
use relay::link::header::Header;

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    if let Some(header) = Header::read(&mut rest) {
        let mut written = Vec::new();
        header.write(&mut written);
        let again = Header::read(&mut written.as_slice());
        assert_eq!(again, Some(header), "a header survives writing");
    }
    // Datagrams with their length in front.
    let mut now = Instant::now();
    let mut link = Link::new(now, None);
    let mut input = data;
    while let Some((&len, rest)) = input.split_first() {
        let (datagram, rest) = rest.split_at(usize::from(len).min(rest.len()));
        input = rest;
        link.handle_datagram(now, Bytes::copy_from_slice(datagram));
        while link.poll_event().is_some() {}
        for _ in 0..64 {
            if link.poll_transmit(now).is_none() {
                break;
            }
        }
        now += Duration::from_millis(u64::from(len));
        link.handle_timeout(now);
    }
});
