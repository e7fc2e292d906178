//! Projects, API keys and the audit log.

use std::collections::BTreeMap;
use std::sync::Arc;

use control_plane::config::Secret;
use control_plane::store::audit::{Act, By, Verdict};
use control_plane::store::keys::{DEFAULT_PROJECT, KeyRecord, Project};
use control_plane::store::sealed::generate;
use control_plane::store::sql::Sql;
use control_plane::store::{Audit as _, Error, Keys as _};
use serde_json::json;

use crate::twin::Twin;

crate::suite! {
    keys_are_created_rotated_and_revoked,
    projects_are_apart,
    configured_keys_come_and_go,
    secrets_are_sealed,
    every_change_is_in_the_audit_log,
    the_audit_log_shows_meddling,
    appends_at_once_make_one_chain,
}

fn by(who: &str, at_ms: u64) -> By<'_> {
    By { who, at_ms }
}

fn record(project: &str, key: &str, secret: &str) -> KeyRecord {
    KeyRecord {
        key: key.to_owned(),
        project: project.to_owned(),
        label: "for the tests".to_owned(),
        secret: Secret::from(secret),
        configured: false,
        created_at_ms: 5,
        rotated_at_ms: None,
    }
}

async fn keys_are_created_rotated_and_revoked(twin: &Twin<'_>) {
    let store = twin.open().await;
    let me = by("ada", 5);
    let before = store.keys_version().await.expect("reads");
    let key = record(DEFAULT_PROJECT, "API1", "first");
    store.create_key(&key, me).await.expect("creates");
    assert_eq!(store.keys().await.expect("reads"), [key.clone()]);
    let twice = store.create_key(&key, me).await;
    assert!(matches!(twice, Err(Error::Exists(_))), "{twice:?}");

    store
        .rotate_key(DEFAULT_PROJECT, "API1", &"second".into(), by("ada", 9))
        .await
        .expect("rotates");
    let rotated = KeyRecord {
        secret: "second".into(),
        rotated_at_ms: Some(9),
        ..key.clone()
    };
    assert_eq!(store.keys().await.expect("reads"), [rotated]);
    let unknown = store
        .rotate_key(DEFAULT_PROJECT, "API2", &"x".into(), me)
        .await;
    assert!(matches!(unknown, Err(Error::Missing(_))), "{unknown:?}");

    store
        .revoke_key(DEFAULT_PROJECT, "API1", me)
        .await
        .expect("revokes");
    assert_eq!(store.keys().await.expect("reads"), []);
    let again = store.revoke_key(DEFAULT_PROJECT, "API1", me).await;
    assert!(matches!(again, Err(Error::Missing(_))), "{again:?}");
    let dead = store
        .rotate_key(DEFAULT_PROJECT, "API1", &"x".into(), me)
        .await;
    assert!(matches!(dead, Err(Error::Missing(_))), "{dead:?}");
    let reused = store.create_key(&key, me).await;
    assert!(matches!(reused, Err(Error::Exists(_))), "{reused:?}");
    // Another replica sees it by the version.
    let other = twin.open().await;
    assert_eq!(other.keys_version().await.expect("reads"), before + 3);
}

async fn projects_are_apart(twin: &Twin<'_>) {
    let store = twin.open().await;
    let me = by("ada", 5);
    let project = Project {
        id: "acme".to_owned(),
        label: "Acme".to_owned(),
        created_at_ms: 5,
    };
    let early = store.create_key(&record("acme", "API1", "s"), me).await;
    assert!(matches!(early, Err(Error::Missing(_))), "{early:?}");
    store.create_project(&project, me).await.expect("creates");
    let twice = store.create_project(&project, me).await;
    assert!(matches!(twice, Err(Error::Exists(_))), "{twice:?}");
    let projects = store.projects().await.expect("reads");
    assert_eq!(projects[0], project);
    assert_eq!(projects[1].id, DEFAULT_PROJECT);

    store
        .create_key(&record("acme", "API1", "s"), me)
        .await
        .expect("creates");
    // A project's operators have no hold on another one's keys.
    let foreign = store.revoke_key(DEFAULT_PROJECT, "API1", me).await;
    assert!(matches!(foreign, Err(Error::Missing(_))), "{foreign:?}");
    let foreign = store
        .rotate_key(DEFAULT_PROJECT, "API1", &"x".into(), me)
        .await;
    assert!(matches!(foreign, Err(Error::Missing(_))), "{foreign:?}");
    assert_eq!(
        store.keys().await.expect("reads"),
        [record("acme", "API1", "s")]
    );
}

fn configured(pairs: &[(&str, &str)]) -> BTreeMap<String, Secret> {
    let pair = |(key, secret): &(&str, &str)| ((*key).to_owned(), Secret::from(*secret));
    pairs.iter().map(pair).collect()
}

async fn known(store: &Sql) -> BTreeMap<String, Secret> {
    let keys = store.keys().await.expect("reads").into_iter();
    keys.map(|key| (key.key, key.secret)).collect()
}

async fn configured_keys_come_and_go(twin: &Twin<'_>) {
    let store = twin.open().await;
    let me = by("control-0", 1);
    let first = configured(&[("a", "1"), ("b", "2")]);
    store.sync_keys(&first, me).await.expect("syncs");
    assert_eq!(known(&store).await, first);
    let version = store.keys_version().await.expect("reads");
    // Another replica with the same configuration changes nothing.
    store.sync_keys(&first, me).await.expect("syncs");
    assert_eq!(store.keys_version().await.expect("reads"), version);
    store
        .create_key(&record(DEFAULT_PROJECT, "made", "3"), me)
        .await
        .expect("creates");
    let second = configured(&[("b", "4")]);
    store.sync_keys(&second, me).await.expect("syncs");
    assert_eq!(
        known(&store).await,
        configured(&[("b", "4"), ("made", "3")])
    );
    // What was done since by hand is later than the configuration.
    store
        .rotate_key(DEFAULT_PROJECT, "b", &"5".into(), me)
        .await
        .expect("rotates");
    store.sync_keys(&second, me).await.expect("syncs");
    assert_eq!(known(&store).await["b"], Secret::from("5"));
    store
        .revoke_key(DEFAULT_PROJECT, "b", me)
        .await
        .expect("revokes");
    store.sync_keys(&second, me).await.expect("syncs");
    assert_eq!(known(&store).await, configured(&[("made", "3")]));
}

async fn secrets_are_sealed(twin: &Twin<'_>) {
    let store = twin.open().await;
    let me = by("ada", 1);
    let secrets = ["quite-a-secret-1", "quite-a-secret-2", "quite-a-secret-3"];
    let key = record(DEFAULT_PROJECT, "API1", secrets[0]);
    store.create_key(&key, me).await.expect("creates");
    store
        .rotate_key(DEFAULT_PROJECT, "API1", &secrets[1].into(), me)
        .await
        .expect("rotates");
    store
        .sync_keys(&configured(&[("b", secrets[2])]), me)
        .await
        .expect("syncs");
    let raw = twin.raw();
    let text = String::from_utf8_lossy(&raw);
    assert!(text.contains("API1"), "the keys themselves are there");
    for secret in secrets {
        assert!(!text.contains(secret), "{secret}");
    }
    // Another master key opens nothing.
    let other = twin.open_with(&generate().expect("random")).await;
    let refused = other.keys().await;
    assert!(matches!(refused, Err(Error::Sealed(_))), "{refused:?}");
    // A sealed secret that was copied to another key opens nothing either.
    twin.meddle(
        "UPDATE api_keys SET secret = (SELECT secret FROM api_keys WHERE api_key = 'b') \
         WHERE api_key = 'API1'",
    )
    .await;
    let moved = store.keys().await;
    assert!(matches!(moved, Err(Error::Sealed(_))), "{moved:?}");
}

async fn every_change_is_in_the_audit_log(twin: &Twin<'_>) {
    let store = twin.open().await;
    let key = record(DEFAULT_PROJECT, "API1", "s");
    store.create_key(&key, by("ada", 1)).await.expect("creates");
    // What was refused is not there.
    store
        .create_key(&key, by("eve", 2))
        .await
        .expect_err("exists");
    store
        .rotate_key(DEFAULT_PROJECT, "API1", &"t".into(), by("bob", 3))
        .await
        .expect("rotates");
    store
        .revoke_key(DEFAULT_PROJECT, "API1", by("ada", 4))
        .await
        .expect("revokes");
    let log = store.entries(0, 10).await.expect("reads");
    let said: Vec<_> = log
        .iter()
        .map(|entry| (entry.seq, entry.who.as_str(), entry.act.action.as_str()))
        .collect();
    assert_eq!(
        said,
        [
            (1, "ada", "key.create"),
            (2, "bob", "key.rotate"),
            (3, "ada", "key.revoke")
        ]
    );
    assert_eq!(log[0].act.target, "default/API1");
    assert_eq!(store.entries(1, 1).await.expect("reads"), log[1..2]);
    let sound = store.verify().await.expect("verifies");
    let head = log[2].hash.clone();
    assert_eq!(sound, Verdict::Sound { entries: 3, head });
}

fn act(target: &str) -> Act {
    Act {
        action: "node.drain".to_owned(),
        target: target.to_owned(),
        detail: json!({"deadline_s": 300, "b": [1, null], "a": "ä"}),
    }
}

async fn the_audit_log_shows_meddling(twin: &Twin<'_>) {
    let store = twin.open().await;
    let empty = store.verify().await.expect("verifies");
    assert!(
        matches!(empty, Verdict::Sound { entries: 0, .. }),
        "{empty:?}"
    );
    for node in ["a", "b", "c", "d"] {
        store
            .append(&act(node), by("ada", 1))
            .await
            .expect("appends");
    }
    let sound = store.verify().await.expect("verifies");
    assert!(
        matches!(sound, Verdict::Sound { entries: 4, .. }),
        "{sound:?}"
    );
    let broken_at = async || match store.verify().await.expect("verifies") {
        Verdict::Sound { .. } => None,
        Verdict::Broken { seq, .. } => Some(seq),
    };
    twin.meddle("UPDATE audit_log SET who = 'eve' WHERE seq = 2")
        .await;
    assert_eq!(broken_at().await, Some(2));
    twin.meddle("UPDATE audit_log SET who = 'ada' WHERE seq = 2")
        .await;
    assert_eq!(broken_at().await, None);
    // The last one cut off, with the end moved back to hide it.
    twin.meddle("UPDATE audit_head SET seq = 3").await;
    assert_eq!(broken_at().await, Some(3));
    twin.meddle("UPDATE audit_head SET seq = 4").await;
    twin.meddle("DELETE FROM audit_log WHERE seq = 4").await;
    assert_eq!(broken_at().await, Some(4));
    twin.meddle("DELETE FROM audit_log WHERE seq = 2").await;
    assert_eq!(broken_at().await, Some(2));
    // Who has another master key cannot forge, and sees that the log is not its own.
    let other = twin.open_with(&generate().expect("random")).await;
    let foreign = other.verify().await.expect("verifies");
    assert!(
        matches!(foreign, Verdict::Broken { seq: 1, .. }),
        "{foreign:?}"
    );
}

async fn appends_at_once_make_one_chain(twin: &Twin<'_>) {
    let mut appending = Vec::new();
    for replica in 0..4 {
        let store = Arc::new(twin.open().await);
        appending.push(tokio::spawn(async move {
            for _ in 0..10 {
                let done = store
                    .append(&act("a"), by(&format!("replica {replica}"), 1))
                    .await;
                done.expect("appends");
            }
        }));
    }
    for replica in appending {
        replica.await.expect("ends");
    }
    let verdict = twin.open().await.verify().await.expect("verifies");
    assert!(
        matches!(verdict, Verdict::Sound { entries: 40, .. }),
        "{verdict:?}"
    );
}
