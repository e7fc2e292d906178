//! Registration, health, and watching.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use runtime::discovery::builtin::Builtin;
use runtime::discovery::consul::Consul;
use runtime::discovery::{Error, Health, Index, Registry, Service, announce, watch};
use tokio_util::sync::CancellationToken;
use tonic_health::server::health_reporter;

use crate::eventually;

const PATIENCE: Duration = Duration::from_secs(15);
const TTL: Duration = Duration::from_secs(2);

#[tokio::test]
async fn builtin() {
    suite(&(Arc::new(Builtin::default()) as Arc<dyn Registry>)).await;
}

#[tokio::test]
async fn consul() {
    let server = lab::services::Consul::start().expect("Consul starts");
    let consul = Consul::new(&server.url(), None).expect("a URL");
    suite(&(Arc::new(consul) as Arc<dyn Registry>)).await;
}

/// Cases use names of their own: one registry serves all.
async fn suite(registry: &Arc<dyn Registry>) {
    services_are_listed_with_what_they_say(registry).await;
    a_query_waits_for_a_change(registry).await;
    who_is_silent_is_critical(registry).await;
    what_is_not_registered_cannot_pass(registry).await;
    ids_of_nodes_are_taken_as_they_are(registry).await;
    announced_services_are_watched(registry).await;
}

fn service(name: &str, id: &str) -> Service {
    Service {
        name: name.to_owned(),
        id: id.to_owned(),
        address: "192.0.2.1".to_owned(),
        port: 7_900,
        tags: vec!["role=edge".to_owned(), "region=fra".to_owned()],
        meta: [("region", "fra"), ("version", "0.1.0"), ("load", "3")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        ttl: Duration::from_secs(30),
        grpc: None,
    }
}

async fn services_are_listed_with_what_they_say(registry: &Arc<dyn Registry>) {
    let list = async || {
        let listing = registry.list("listed", Index(0), Duration::ZERO).await;
        listing.expect("answers").instances
    };
    assert!(list().await.is_empty());
    let mut said = service("listed", "edge-1");
    registry.register(&said).await.expect("registers");
    registry
        .register(&service("another", "edge-2"))
        .await
        .expect("registers");
    registry
        .pass("edge-1", "participants=3")
        .await
        .expect("passes");
    eventually("it is listed", PATIENCE, async || list().await.len() == 1).await;
    eventually("its note is there", PATIENCE, async || {
        list().await["edge-1"].note == "participants=3"
    })
    .await;
    let found = list().await["edge-1"].clone();
    assert_eq!((found.address.as_str(), found.port), ("192.0.2.1", 7_900));
    assert_eq!((&found.tags, &found.meta), (&said.tags, &said.meta));
    assert_eq!(found.health, Health::Passing);
    // Registered again it says something else, and passes still.
    said.meta.insert("load".to_owned(), "4".to_owned());
    registry.register(&said).await.expect("registers");
    eventually("its load is there", PATIENCE, async || {
        list().await["edge-1"].meta["load"] == "4"
    })
    .await;
    assert_eq!(list().await["edge-1"].health, Health::Passing);
    registry.deregister("edge-1").await.expect("deregisters");
    eventually("it is gone", PATIENCE, async || list().await.is_empty()).await;
    registry
        .deregister("edge-1")
        .await
        .expect("is gone already");
}

async fn a_query_waits_for_a_change(registry: &Arc<dyn Registry>) {
    registry
        .register(&service("waited", "a"))
        .await
        .expect("registers");
    let wait = Duration::from_millis(300);
    // What was just done may still be on its way through the registry.
    let mut index = Index(0);
    eventually("it comes to rest", PATIENCE, async || {
        let began = Instant::now();
        let listing = registry.list("waited", index, wait).await.expect("answers");
        let rested = listing.index == index && began.elapsed() >= wait;
        index = listing.index;
        rested
    })
    .await;
    let (later, began) = (Arc::clone(registry), Instant::now());
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        later
            .register(&service("waited", "b"))
            .await
            .expect("registers");
    });
    let mut found = registry
        .list("waited", index, PATIENCE)
        .await
        .expect("answers");
    while found.instances.len() < 2 {
        found = registry
            .list("waited", found.index, PATIENCE)
            .await
            .expect("answers");
    }
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(200) && took < Duration::from_secs(3),
        "{took:?}"
    );
    assert!(found.index > index);
}

async fn who_is_silent_is_critical(registry: &Arc<dyn Registry>) {
    let health = async || {
        let listing = registry.list("silent", Index(0), Duration::ZERO).await;
        let instances = listing.expect("answers").instances;
        instances.get("a").map(|found| found.health)
    };
    let quick = Service {
        ttl: TTL,
        ..service("silent", "a")
    };
    registry.register(&quick).await.expect("registers");
    let began = Instant::now();
    eventually("it passes", PATIENCE, async || {
        health().await == Some(Health::Passing)
    })
    .await;
    eventually("it is critical", PATIENCE, async || {
        health().await == Some(Health::Critical)
    })
    .await;
    let took = began.elapsed();
    assert!(took >= TTL / 2 && took < 4 * TTL, "{took:?}");
    registry.pass("a", "").await.expect("passes");
    eventually("it passes again", PATIENCE, async || {
        health().await == Some(Health::Passing)
    })
    .await;
    registry.deregister("a").await.expect("deregisters");
}

async fn what_is_not_registered_cannot_pass(registry: &Arc<dyn Registry>) {
    let refused = registry.pass("nobody", "").await;
    assert!(
        matches!(&refused, Err(Error::Unknown(id)) if id == "nobody"),
        "{refused:?}"
    );
}

async fn ids_of_nodes_are_taken_as_they_are(registry: &Arc<dyn Registry>) {
    let id = "Edge.fra_0-1";
    registry
        .register(&service("odd", id))
        .await
        .expect("registers");
    registry.pass(id, "here").await.expect("passes");
    let listed = async || {
        let listing = registry.list("odd", Index(0), Duration::ZERO).await;
        listing.expect("answers").instances
    };
    eventually("it is listed", PATIENCE, async || {
        listed()
            .await
            .get(id)
            .is_some_and(|found| found.note == "here")
    })
    .await;
    registry.deregister(id).await.expect("deregisters");
    eventually("it is gone", PATIENCE, async || listed().await.is_empty()).await;
}

async fn announced_services_are_watched(registry: &Arc<dyn Registry>) {
    let (stop, all) = (CancellationToken::new(), CancellationToken::new());
    let views = watch(Arc::clone(registry), "announced", all.clone());
    let said = Arc::new(AtomicU32::new(0));
    let describe = {
        let said = Arc::clone(&said);
        move || {
            let quick = Service {
                ttl: TTL,
                ..service("announced", "a")
            };
            (quick, format!("n={}", said.fetch_add(1, Ordering::Relaxed)))
        }
    };
    let announcing = tokio::spawn(announce(Arc::clone(registry), describe, stop.clone()));
    eventually("it is seen", PATIENCE, async || {
        let view = views.borrow();
        view.current && view.passing().count() == 1
    })
    .await;
    // For longer than it could be silent it stays.
    let until = Instant::now() + 2 * TTL;
    while Instant::now() < until {
        assert_eq!(views.borrow().passing().count(), 1);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eventually("its news is seen", PATIENCE, async || {
        let view = views.borrow();
        view.instances["a"]
            .note
            .strip_prefix("n=")
            .is_some_and(|n| n != "0")
    })
    .await;
    // When the registry loses it, it comes back.
    registry.deregister("a").await.expect("deregisters");
    eventually("it is registered again", PATIENCE, async || {
        views.borrow().passing().count() == 1
    })
    .await;
    stop.cancel();
    announcing.await.expect("ends");
    eventually("it is gone", PATIENCE, async || {
        views.borrow().instances.is_empty()
    })
    .await;
    all.cancel();
}

#[tokio::test]
async fn without_consul_the_last_view_stays() {
    let mut server = lab::services::Consul::start().expect("Consul starts");
    let registry: Arc<dyn Registry> = Arc::new(Consul::new(&server.url(), None).expect("a URL"));
    let stop = CancellationToken::new();
    let views = watch(Arc::clone(&registry), "kept", stop.clone());
    let describe = || {
        let quick = Service {
            ttl: TTL,
            ..service("kept", "a")
        };
        (quick, String::new())
    };
    tokio::spawn(announce(Arc::clone(&registry), describe, stop.clone()));
    let seen = async || {
        let view = views.borrow();
        view.current && view.passing().count() == 1
    };
    eventually("it is seen", PATIENCE, seen).await;
    server.kill();
    eventually("the loss is seen", PATIENCE, async || {
        !views.borrow().current
    })
    .await;
    assert_eq!(views.borrow().passing().count(), 1, "what it said last");
    tokio::time::sleep(2 * TTL).await;
    assert_eq!(
        views.borrow().passing().count(),
        1,
        "for as long as it takes"
    );
    server.restart().expect("Consul starts again");
    eventually("it is seen again", PATIENCE, seen).await;
    stop.cancel();
}

#[tokio::test]
async fn consul_asks_the_grpc_health_service() {
    let server = lab::services::Consul::start().expect("Consul starts");
    let consul = Consul::new(&server.url(), None).expect("a URL");
    let (reporter, health) = health_reporter();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("an address");
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let serving = tonic::transport::Server::builder().add_service(health);
    let serving = tokio::spawn(serving.serve_with_incoming(incoming));
    let asked = Service {
        grpc: Some(address.to_string()),
        ..service("asked", "a")
    };
    consul.register(&asked).await.expect("registers");
    let health = async || {
        let listing = consul.list("asked", Index(0), Duration::ZERO).await;
        let instances = listing.expect("answers").instances;
        instances.get("a").map(|found| found.health)
    };
    // Long enough to be asked.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(health().await, Some(Health::Passing));
    // It says that it does not serve, and then says nothing any more.
    reporter
        .set_service_status("", tonic_health::ServingStatus::NotServing)
        .await;
    eventually("it is critical", PATIENCE, async || {
        health().await == Some(Health::Critical)
    })
    .await;
    reporter
        .set_service_status("", tonic_health::ServingStatus::Serving)
        .await;
    eventually("it passes", PATIENCE, async || {
        health().await == Some(Health::Passing)
    })
    .await;
    serving.abort();
    eventually("it is critical", PATIENCE, async || {
        health().await == Some(Health::Critical)
    })
    .await;
}

#[tokio::test]
async fn consul_wants_its_token() {
    let token = "2b778dd9-f5f1-6f29-b4b4-9a5fa948757a";
    let server = lab::services::Consul::start_guarded(token).expect("Consul starts");
    let with = Consul::new(&server.url(), Some(token)).expect("a URL");
    // The token is known some moments after the leader.
    eventually("it is let in", PATIENCE, async || {
        with.register(&service("guarded", "a")).await.is_ok()
    })
    .await;
    with.pass("a", "here").await.expect("passes");
    let without = Consul::new(&server.url(), None).expect("a URL");
    let refused = without.register(&service("guarded", "b")).await;
    assert!(
        matches!(refused, Err(Error::Refused { status: 403, .. })),
        "{refused:?}"
    );
    let refused = without.pass("a", "").await;
    assert!(
        matches!(refused, Err(Error::Refused { status: 403, .. })),
        "{refused:?}"
    );
    let wrong = Consul::new(&server.url(), Some("00000000-0000-0000-0000-000000000000"));
    let refused = wrong
        .expect("a URL")
        .register(&service("guarded", "c"))
        .await;
    assert!(
        matches!(refused, Err(Error::Refused { status: 403, .. })),
        "{refused:?}"
    );
    eventually("it is listed", PATIENCE, async || {
        let listing = with.list("guarded", Index(0), Duration::ZERO).await;
        listing.expect("answers").instances.keys().eq(["a"])
    })
    .await;
}
