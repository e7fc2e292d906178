//! Who wants to know what happens to a client.

use livekit_protocol::signal_response::Message as Response;

/// An RTP packet that came in, decrypted.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// Last packet of a frame.
    pub marker: bool,
    /// Number within the stream.
    pub sequence_number: u16,
    /// Media time in the codec's clock.
    pub timestamp: u32,
    /// Its stream.
    pub ssrc: u32,
    /// Without header, extensions and padding; never empty.
    pub payload: &'a [u8],
}

/// Is told what happens to a light client, by the client's own task: it must be quick. Times are
/// [`crate::synthetic::monotonic_ns`].
pub trait Observer: std::fmt::Debug + Send + Sync {
    /// ICE and DTLS are up.
    fn connected(&self, _now_ns: u64) {}

    /// An RTP packet came in.
    fn received(&self, _now_ns: u64, _arrival: &Arrival<'_>) {}

    /// A signalling message came in, the join response included.
    fn told(&self, _now_ns: u64, _message: &Response) {}

    /// The server asked for a keyframe of a stream (0: the lowest layer) of the track with this stamp source.
    fn keyframe_requested(&self, _now_ns: u64, _source: u32, _stream: usize) {}

    /// Payload of this many bytes went out on a stream; a repair is one that was asked for again.
    fn sent(&self, _source: u32, _stream: usize, _bytes: usize, _repair: bool) {}
}
