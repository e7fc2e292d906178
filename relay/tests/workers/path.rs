//! A bad path between two workers.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

/// A path that can be cut, or lose packets at random.
pub(crate) struct Path {
    pub(crate) address: SocketAddr,
    pub(crate) cut: Arc<AtomicBool>,
    /// Packets lost, in percent.
    pub(crate) loss: Arc<AtomicU64>,
    pub(crate) ended: Arc<AtomicBool>,
}

impl Drop for Path {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

impl Path {
    pub(crate) fn to(target: SocketAddr) -> Self {
        let front = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        let back = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        back.connect(target).unwrap();
        let address = front.local_addr().unwrap();
        let (cut, ended) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicBool::new(false)),
        );
        let loss = Arc::new(AtomicU64::new(0));
        let client = Arc::new(std::sync::Mutex::new(None));
        for forward in [true, false] {
            let (front, back, client) =
                (Arc::clone(&front), Arc::clone(&back), Arc::clone(&client));
            let (cut, ended, loss) = (Arc::clone(&cut), Arc::clone(&ended), Arc::clone(&loss));
            let mut random = SmallRng::seed_from_u64(u64::from(forward));
            let from = if forward { &front } else { &back };
            from.set_read_timeout(Some(Duration::from_millis(50)))
                .unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 2048];
                while !ended.load(Ordering::Relaxed) {
                    let from = if forward { &front } else { &back };
                    let Ok((len, source)) = from.recv_from(&mut buffer) else {
                        continue;
                    };
                    let lost = random.random_range(0..100) < loss.load(Ordering::Relaxed);
                    if lost || cut.load(Ordering::Relaxed) {
                        continue;
                    }
                    if forward {
                        *client.lock().unwrap() = Some(source);
                        drop(back.send(&buffer[..len]));
                    } else if let Some(client) = *client.lock().unwrap() {
                        drop(front.send_to(&buffer[..len], client));
                    }
                }
            });
        }
        Self {
            address,
            cut,
            loss,
            ended,
        }
    }
}
