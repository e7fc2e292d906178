//! What forwarding one packet costs in CPU time: one publisher to N subscribers through the real router,
//! AES-128-GCM on both sides, opening included. Prints one line of JSON last.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use media::packet::Codec;
use media::router::{
    Command, Config, ExtensionIds, Output, ReceiveConfig, ReceiveMedia, ReceivePayload, Router,
    SendPayload, Source, SubscriptionConfig, Target, TrackConfig, TrackKey, TransportKey,
};
use media::rtcp;
use media::rtp::{Form, Header, Writer, low16};
use media::srtp::{OVERHEAD_MAX, Outbound, Profile, SessionKeys};
use nix::time::{ClockId, clock_gettime};

/// Counts allocations on top of the system's allocator.
#[derive(Debug)]
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[expect(
    unsafe_code,
    reason = "an allocator cannot be written without; only this bench has it"
)]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `System` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the pointer came from `System` with this layout.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

const TRACK: TrackKey = TrackKey(1);
const PUBLISHER: TransportKey = TransportKey(0);
const IDS: ExtensionIds = ExtensionIds {
    mid: Some(4),
    rid: Some(10),
    repaired_rid: Some(11),
    transport_cc: Some(3),
    abs_send_time: Some(2),
    abs_capture_time: None,
    audio_level: None,
    orientation: None,
    playout_delay: None,
    dependency_descriptor: None,
};

/// Packets that warm up pool, caches and histories.
const WARM_UP: u64 = 3000;
/// Packets per measured run.
const PACKETS: u64 = 2000;
/// Runs; the median counts.
const RUNS: usize = 7;
/// Packets of a frame: 720p at 30 fps and 2.5 Mbit/s.
const FRAME: u64 = 9;

type Failure = Box<dyn std::error::Error>;

struct Bench {
    router: Router,
    out: Output,
    publisher: Outbound,
    now: Instant,
    index: u64,
}

impl Bench {
    #[expect(
        clippy::disallowed_methods,
        reason = "the clock of the run starts somewhere"
    )]
    fn new(fanout: u32) -> Result<Self, Failure> {
        let now = Instant::now();
        let mut router = Router::new(Config::new(now, 1 << 63));
        let mut out = Output::new();
        let profile = Profile::AeadAes128Gcm;
        let material = vec![7; profile.keying_material_len()];
        for peer in 0..=fanout {
            let keys = SessionKeys::from_keying_material(profile, &material, true)?;
            let transport = TransportKey(peer);
            router.handle_command(now, Command::AddTransport { transport, keys }, &mut out);
        }
        let config = TrackConfig::new(Codec::Vp8, Source::Local(PUBLISHER), 1);
        router.handle_command(
            now,
            Command::AddTrack {
                track: TRACK,
                config,
            },
            &mut out,
        );
        let receive = Box::new(ReceiveConfig {
            extensions: IDS,
            media: vec![receive_media()],
        });
        let command = Command::SetReceive {
            transport: PUBLISHER,
            receive,
        };
        router.handle_command(now, command, &mut out);
        for peer in 1..=fanout {
            let config = Box::new(subscription(peer));
            let command = Command::Subscribe {
                transport: TransportKey(peer),
                track: TRACK,
                config,
            };
            router.handle_command(now, command, &mut out);
        }
        let keys = SessionKeys::from_keying_material(profile, &material, false)?;
        for peer in 1..=fanout {
            let mut offer = offer(&keys)?;
            router.handle_datagram(now, TransportKey(peer), &mut offer, &mut out);
        }
        out.clear();
        Ok(Self {
            router,
            out,
            publisher: Outbound::new(&keys)?,
            now,
            index: 1,
        })
    }

    /// A sealed datagram of 1200 bytes of payload.
    fn datagram(&mut self) -> Result<Vec<u8>, Failure> {
        let index = self.index;
        self.index += 1;
        let frame = index / FRAME;
        let header = Header {
            marker: index % FRAME == FRAME - 1,
            payload_type: 96,
            seq: low16(index),
            timestamp: u32::try_from(frame * 3000)?,
            ssrc: 11,
        };
        let mut packet = vec![0; 1500];
        let mut writer =
            Writer::new(&mut packet, &header, Form::OneByte).ok_or("no room for the header")?;
        writer
            .extension(3, &header.seq.to_be_bytes())
            .ok_or("no room")?;
        writer.extension(4, b"0").ok_or("no room")?;
        let start = writer.finish().ok_or("no room")?;
        let [high, low] = (low16(frame) | 0x8000).to_be_bytes();
        let first = if index.is_multiple_of(FRAME) {
            0x90
        } else {
            0x80
        };
        let delta = u8::from(index > FRAME);
        let descriptor = [first, 0xe0, high, low, low, 0, delta];
        let payload = packet.get_mut(start..start + 1200).ok_or("no room")?;
        for (to, from) in payload.iter_mut().zip(descriptor) {
            *to = from;
        }
        packet.resize(start + 1200 + OVERHEAD_MAX, 0);
        let len = self
            .publisher
            .seal_rtp(&mut packet, start, start + 1200, index)?;
        packet.truncate(len);
        Ok(packet)
    }

    /// Forwards prepared datagrams; returns the time spent in the router and its allocations.
    fn run(&mut self, packets: u64) -> Result<(Duration, u64), Failure> {
        let mut datagrams = (0..packets)
            .map(|_| self.datagram())
            .collect::<Result<Vec<_>, _>>()?;
        let allocations = ALLOCATIONS.load(Ordering::Relaxed);
        let start = cpu_time()?;
        for (datagram, number) in datagrams.iter_mut().zip(0u64..) {
            self.now += Duration::from_micros(3700);
            self.router
                .handle_datagram(self.now, PUBLISHER, datagram, &mut self.out);
            if self.router.poll_timeout().is_some_and(|at| at <= self.now) {
                self.router.handle_timeout(self.now, &mut self.out);
            }
            // A tick's worth of packets goes out together.
            if number % FRAME == FRAME - 1 {
                black_box(&self.out.arena);
                self.out.clear();
            }
        }
        let elapsed = cpu_time()?.saturating_sub(start);
        self.out.clear();
        Ok((elapsed, ALLOCATIONS.load(Ordering::Relaxed) - allocations))
    }
}

/// CPU time of this thread, which other load on the machine does not lengthen much.
fn cpu_time() -> Result<Duration, Failure> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(Duration::from(time))
}

fn receive_media() -> ReceiveMedia {
    ReceiveMedia {
        mid: String::from("0"),
        track: TRACK,
        payloads: vec![ReceivePayload {
            pt: 96,
            codec: Codec::Vp8,
            rtx: Some(97),
            nack: true,
            pli: true,
            clock_rate: 90_000,
        }],
        rids: Vec::new(),
        ssrcs: Vec::new(),
    }
}

/// A sealed REMB of 20 Mbit/s: from then on the peer's path is estimated and what it is sent is paced.
fn offer(keys: &SessionKeys) -> Result<Vec<u8>, Failure> {
    let mut buffer = vec![0; 200];
    let mut writer = rtcp::Writer::new(&mut buffer);
    writer.remb(1, 20_000_000, &[]).ok_or("no room")?;
    let len = writer.len();
    let sealed = Outbound::new(keys)?.seal_rtcp(&mut buffer, len)?;
    buffer.truncate(sealed);
    Ok(buffer)
}

fn subscription(peer: u32) -> SubscriptionConfig {
    SubscriptionConfig {
        mid: String::from("0"),
        ssrc: 1000 + peer,
        rtx_ssrc: Some(100_000 + peer),
        payloads: vec![SendPayload {
            codec: Codec::Vp8,
            pt: 96,
            rtx_pt: Some(97),
        }],
        extensions: IDS,
        target: Some(Target {
            layer: 0,
            temporal: 7,
        }),
        red: false,
    }
}

/// Median nanoseconds of CPU per forwarded packet, and allocations per forwarded packet.
fn measure(fanout: u32) -> Result<(f64, f64), Failure> {
    let mut bench = Bench::new(fanout)?;
    bench.run(WARM_UP)?;
    let mut per_packet = Vec::new();
    let mut allocations = 0;
    let before = bench.router.stats().forwarded_packets;
    for _ in 0..RUNS {
        let (elapsed, count) = bench.run(PACKETS)?;
        #[expect(clippy::cast_precision_loss, reason = "a few millions are exact")]
        let forwarded = (PACKETS * u64::from(fanout)) as f64;
        per_packet.push(elapsed.as_secs_f64() * 1e9 / forwarded);
        allocations += count;
    }
    let forwarded = bench.router.stats().forwarded_packets - before;
    if forwarded != RUNS as u64 * PACKETS * u64::from(fanout) {
        return Err(format!("only {forwarded} packets were forwarded").into());
    }
    per_packet.sort_by(f64::total_cmp);
    let median = per_packet.get(RUNS / 2).copied().ok_or("no run")?;
    #[expect(clippy::cast_precision_loss, reason = "a few millions are exact")]
    Ok((median, allocations as f64 / forwarded as f64))
}

#[expect(clippy::print_stdout, reason = "the result")]
fn main() -> Result<(), Failure> {
    // The fan-out of the budget comes last.
    for fanout in [200, 50] {
        let (ns, allocations) = measure(fanout)?;
        println!(
            "{{\"ns_per_packet\":{ns:.1},\"allocs_per_packet\":{allocations:.6},\"fanout\":{fanout}}}"
        );
    }
    Ok(())
}
