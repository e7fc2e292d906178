//! Who plans a room.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use proto::control::control_message::Message as Down;
use proto::control::{AssignResponse, RoomPlan};
use serde_json::Value;

use crate::plane::{FakeNode, edge};
use crate::replica::{Everywhere, Replica, Stores, eventually, outside, report, together};

/// A room must have another owner within this when its owner dies.
const MOVES_WITHIN: Duration = Duration::from_secs(2);
const ROOMS: usize = 8;

type Heard = Arc<Mutex<Vec<Value>>>;

/// An application that is told of events, and its URL.
async fn application() -> (Heard, String) {
    let heard = Heard::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("binds");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    let hears = Arc::clone(&heard);
    let take = move |body: Bytes| {
        let event = serde_json::from_slice(&body).expect("JSON");
        hears.lock().expect("not poisoned").push(event);
        std::future::ready(())
    };
    let app = Router::new().route("/", post(take));
    tokio::spawn(async move { axum::serve(listener, app).await });
    (heard, url)
}

/// Names of the events about a room, in the order in which they came.
fn told(heard: &Heard, room: &str) -> Vec<String> {
    let events = heard.lock().expect("not poisoned");
    let of_room = events
        .iter()
        .filter(|e| e.pointer("/room/name") == Some(&room.into()));
    of_room
        .map(|e| e["event"].as_str().expect("a name").to_owned())
        .collect()
}

fn plan_of(response: AssignResponse) -> RoomPlan {
    response.plan.expect("a plan")
}

type Plans = BTreeMap<String, RoomPlan>;

/// Rooms with one participant each, asked for at either replica.
async fn served(replicas: [&Replica; 2], fra: &Everywhere) -> Plans {
    let mut plans = Plans::new();
    for number in 0..ROOMS {
        let name = format!("room-{number}");
        let asked = replicas[number % 2];
        let assigned = asked.plane.assign("edge-fra", &name).await;
        plans.insert(name, plan_of(assigned.expect("assigned")));
    }
    for (name, plan) in &plans {
        fra.say(report(name, &plan.room_sid, plan.epoch, "ada"))
            .await;
    }
    plans
}

/// Waits until all these rooms have a later plan.
async fn moved(session: &mut FakeNode, plans: &Plans, rooms: &[String]) {
    let mut missing = rooms.to_vec();
    while !missing.is_empty() {
        let later = |message: Down| match message {
            Down::Plan(plan) if plan.epoch > plans[&plan.room].epoch => Some(plan.room),
            _ => None,
        };
        let moved = session.expect(later).await;
        missing.retain(|name| *name != moved);
    }
}

#[test]
fn rooms_of_a_dead_replica_have_another_owner_within_two_seconds() {
    let stores = Stores::start();
    outside(async {
        let (heard, url) = application().await;
        let start = |id: &'static str| {
            tokio::task::block_in_place(|| Replica::start(&stores, id, Some(&url)))
        };
        let (a, b) = (start("control-a"), start("control-b"));
        let mut fra = Everywhere::connect(&edge("fra", 1), &[&a, &b]).await;
        together(&[&a, &b]).await;
        let plans = served([&a, &b], &fra).await;
        let mut theirs = Vec::new();
        for name in plans.keys() {
            let (by_a, by_b) = (a.owns(name).await, b.owns(name).await);
            assert!(by_a != by_b, "one owner: a {by_a}, b {by_b}");
            theirs.extend(by_b.then(|| name.clone()));
        }
        assert!((1..ROOMS).contains(&theirs.len()), "b owns {theirs:?}");

        // What the owner was about to hear, the other one knows.
        let last = theirs[0].clone();
        let bob = report(&last, &plans[&last].room_sid, plans[&last].epoch, "bob");
        fra.sessions[0].say(bob).await;
        let began = Instant::now();
        b.kill();
        moved(&mut fra.sessions[0], &plans, &theirs).await;
        let took = began.elapsed();
        println!("{} rooms moved in {took:?}", theirs.len());
        assert!(took <= MOVES_WITHIN, "moved after {took:?}");
        for room in [last.as_str(), "another"] {
            let assigned = a.plane.assign("edge-fra", room).await;
            assigned.expect("the one that is left plans");
        }
        eventually("everybody is told of", async || {
            let joined = |name: &String| told(&heard, name).len() >= 2;
            plans.keys().all(joined) && told(&heard, &last).len() >= 3
        })
        .await;
        for name in plans.keys() {
            let first = &told(&heard, name)[..2];
            assert_eq!(first, ["room_started", "participant_joined"]);
        }

        // One that comes back owns the same rooms again, once it knows its nodes.
        let b = start("control-b");
        fra.sessions[1] = b.plane.connect(edge("fra", 1)).await;
        for (name, plan) in &plans {
            fra.say(report(name, &plan.room_sid, plan.epoch, "ada"))
                .await;
        }
        together(&[&a, &b]).await;
        eventually("rooms are back", async || {
            let mut back = true;
            for name in &theirs {
                back &= b.owns(name).await && !a.owns(name).await;
            }
            back
        })
        .await;
    });
}

#[test]
fn a_lost_database_or_registry_moves_nothing() {
    let mut stores = Stores::start();
    outside(async {
        let start =
            |stores: &Stores, id| tokio::task::block_in_place(|| Replica::start(stores, id, None));
        let (a, b) = (start(&stores, "control-a"), start(&stores, "control-b"));
        let _fra = Everywhere::connect(&edge("fra", 1), &[&a, &b]).await;
        together(&[&a, &b]).await;
        let mut owners = BTreeMap::new();
        for number in 0..ROOMS {
            let name = format!("room-{number}");
            a.plane.assign("edge-fra", &name).await.expect("assigned");
            owners.insert(name.clone(), a.owns(&name).await);
        }
        stores.consul.kill();
        tokio::time::sleep(Duration::from_secs(4)).await;
        for (name, by_a) in &owners {
            assert_eq!((a.owns(name).await, b.owns(name).await), (*by_a, !by_a));
        }
        b.plane
            .assign("edge-fra", "without-consul")
            .await
            .expect("new rooms work");
        stores.postgres.kill();
        let refused = b.plane.assign("edge-fra", "without-postgres").await;
        assert_eq!(
            refused.expect_err("cannot be saved").code(),
            tonic::Code::Unavailable
        );
        tokio::task::block_in_place(|| stores.postgres.restart()).expect("starts again");
        eventually("new rooms work again", async || {
            b.plane.assign("edge-fra", "with-postgres").await.is_ok()
        })
        .await;
        for (name, by_a) in &owners {
            assert_eq!((a.owns(name).await, b.owns(name).await), (*by_a, !by_a));
        }
    });
}
