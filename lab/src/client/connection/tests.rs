//! Two of our connections with each other: what a client sends is what a client counts.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::super::publish::{Counting, Track};
use super::*;
use crate::meter::{Sent, Window};
use crate::synthetic::VideoConfig;

async fn connection(meter: &Arc<Meter>) -> (Connection, mpsc::Receiver<Event>) {
    let (events_tx, events) = mpsc::channel(64);
    let target = livekit::SignalTarget::Publisher;
    let local = Ipv4Addr::LOCALHOST.into();
    let connection = Connection::new(target, local, Arc::clone(meter), events_tx)
        .await
        .unwrap();
    (connection, events)
}

/// Trickles to the other side until both are connected.
async fn connect(
    (a, a_events): (&mut Connection, &mut mpsc::Receiver<Event>),
    (b, b_events): (&mut Connection, &mut mpsc::Receiver<Event>),
) {
    let (mut a_up, mut b_up) = (false, false);
    while !(a_up && b_up) {
        tokio::select! {
            Some(event) = a_events.recv() => match event {
                Event::Candidate(_, json) => b.add_candidate(&json).await.unwrap(),
                Event::Connected(_) => a_up = true,
                Event::Failed(_) => panic!("a failed"),
            },
            Some(event) = b_events.recv() => match event {
                Event::Candidate(_, json) => a.add_candidate(&json).await.unwrap(),
                Event::Connected(_) => b_up = true,
                Event::Failed(_) => panic!("b failed"),
            },
        }
    }
}

#[tokio::test]
async fn two_connections_exchange_video_and_audio_without_loss() {
    let window = Arc::new(Window::closed());
    let meter = Arc::new(Meter::new(Arc::clone(&window)));
    let (mut a, mut a_events) = connection(&meter).await;
    let (mut b, mut b_events) = connection(&meter).await;
    a.create_data_channels().await.unwrap();
    let camera = Track::new(1, Some(VideoConfig::default()));
    let microphone = Track::new(2, None);
    camera.add_to(&a).await.unwrap();
    microphone.add_to(&a).await.unwrap();
    let offer = a.offer().await.unwrap().unwrap();
    assert!(offer.sdp.contains(&camera.cid), "the msid carries the cid");
    assert!(a.offer().await.unwrap().is_none(), "one offer at a time");
    let answer = b.answer(offer).await.unwrap();
    let again = a.answered(answer).await.unwrap();
    assert!(again.is_some(), "the offer that had to wait");
    let answer = b.answer(again.unwrap()).await.unwrap();
    assert!(a.answered(answer).await.unwrap().is_none());
    let connecting = connect((&mut a, &mut a_events), (&mut b, &mut b_events));
    tokio::time::timeout(Duration::from_secs(10), connecting)
        .await
        .unwrap();

    let counting = Counting {
        sent: Arc::new(Sent::default()),
        window: Arc::clone(&window),
    };
    let tasks = [
        camera.start(Arc::clone(&a.keyframe_wanted), counting.clone()),
        microphone.start(Arc::clone(&a.keyframe_wanted), counting.clone()),
    ];
    tokio::time::sleep(Duration::from_millis(500)).await;
    let start = crate::synthetic::monotonic_ns();
    window.set(start, start + 1_000_000_000);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for task in tasks {
        task.abort();
    }
    let received = meter.received();
    let (sent, _) = counting.sent.totals();
    assert!(sent > 200, "{sent} sent");
    assert_eq!(received.packets, sent);
    assert_eq!(
        (received.gaps, received.strangers, received.tracks),
        (0, 0, 2)
    );
    a.pc.close().await.unwrap();
    b.pc.close().await.unwrap();
}
