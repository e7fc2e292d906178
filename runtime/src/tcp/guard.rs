//! A stream whose other side must not dawdle: it speaks within some time, and takes what it asked for.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prometheus::IntCounterVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A stream that fails with [`io::ErrorKind::TimedOut`] when the other side is too slow.
#[derive(Debug)]
pub struct Guarded<S> {
    stream: S,
    opening: Option<Opening>,
    stall: Duration,
    /// Since writing began to wait.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Something has been read since the last write.
    unanswered: Arc<AtomicBool>,
    refused: IntCounterVec,
}

/// The first bytes are still to come.
#[derive(Debug)]
struct Opening {
    bytes: usize,
    until: Pin<Box<Sleep>>,
}

impl<S> Guarded<S> {
    /// Whoever takes no byte for `stall` while something waits for it is cut off, and counted as `slow_reader`.
    pub fn new(stream: S, stall: Duration, refused: IntCounterVec) -> Self {
        Self {
            stream,
            opening: None,
            stall,
            stalled: None,
            unanswered: Arc::default(),
            refused,
        }
    }

    /// Whoever has not sent so many bytes by then is cut off too, and counted as `silent`. Must be called within a tokio runtime.
    #[must_use]
    pub fn opened_within(mut self, time: Duration, bytes: usize) -> Self {
        let until = Box::pin(tokio::time::sleep(time));
        self.opening = Some(Opening { bytes, until });
        self
    }

    /// Whether something has been read since the last write, now and later: a request, or a part of one.
    pub fn unanswered(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.unanswered)
    }

    /// The stream itself.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    fn note_written(&self, outcome: &Poll<io::Result<usize>>) {
        if matches!(outcome, Poll::Ready(Ok(1..))) {
            self.unanswered.store(false, Ordering::Relaxed);
        }
    }

    /// An outcome of writing; waiting may be over.
    fn wait<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let stall = self.stall;
        let waiting = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        ready!(waiting.as_mut().poll(cx));
        self.stalled = None;
        self.refused.with_label_values(&["slow_reader"]).inc();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            this.unanswered.store(true, Ordering::Relaxed);
        }
        let Some(opening) = &mut this.opening else {
            return outcome;
        };
        if outcome.is_ready() {
            let read = buffer.filled().len() - before;
            opening.bytes = opening.bytes.saturating_sub(read);
            if opening.bytes == 0 || read == 0 {
                this.opening = None;
            }
            return outcome;
        }
        ready!(opening.until.as_mut().poll(cx));
        this.refused.with_label_values(&["silent"]).inc();
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.note_written(&outcome);
        this.wait(cx, outcome)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_flush(cx);
        this.wait(cx, outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.wait(cx, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write_vectored(cx, buffers);
        this.note_written(&outcome);
        this.wait(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Opts;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(1);

    fn counter() -> IntCounterVec {
        IntCounterVec::new(Opts::new("refused", "Refused."), &["reason"]).expect("a metric")
    }

    #[tokio::test]
    async fn who_takes_nothing_is_cut_off() {
        let (near, mut far) = duplex(16);
        let refused = counter();
        let mut guarded = Guarded::new(near, PATIENCE, refused.clone());
        let writing = tokio::spawn(async move { guarded.write_all(&[7; 64]).await });
        // Slow is not stalled.
        for _ in 0..2 {
            tokio::time::sleep(PATIENCE * 2 / 3).await;
            far.read_exact(&mut [0; 4]).await.expect("reads");
        }
        let error = writing.await.expect("ran").expect_err("cut off");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(refused.with_label_values(&["slow_reader"]).get(), 1);
    }

    #[tokio::test]
    async fn who_does_not_open_is_cut_off() {
        for (sent, good) in [(&b"PRI"[..], false), (&b"PRI *"[..], true)] {
            let (near, mut far) = duplex(16);
            let refused = counter();
            let guarded = Guarded::new(near, PATIENCE, refused.clone());
            let mut guarded = guarded.opened_within(PATIENCE, 5);
            far.write_all(sent).await.expect("writes");
            let mut read = vec![0; sent.len()];
            guarded.read_exact(&mut read).await.expect("reads");
            let next = tokio::time::timeout(PATIENCE * 3, guarded.read_u8()).await;
            assert_eq!(next.is_err(), good, "waits on for who has opened");
            let counted = refused.with_label_values(&["silent"]).get();
            assert_eq!(counted, u64::from(!good));
        }
    }
}
