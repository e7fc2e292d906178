//! What the control plane keeps its state in, and the data that tells where addresses are.

use std::path::Path;
use std::time::{Duration, SystemTime};

use control_plane::Secret;
use control_plane::placement::geo_data::{self, Sources};
use control_plane::store::probe::{self, Postgres, Redis};

use super::Finding;
use super::subject::Stores;

/// How long a store may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses change hands: data older than this misplaces people.
const GEO_DAYS_MAX: u64 = 90;
/// The oldest release of PostgreSQL that is supported by its makers and tried here.
const POSTGRES_MIN: u32 = 13;
/// The oldest release of Redis that has what is used.
const REDIS_MIN: u32 = 6;

/// Looks at all of them.
pub(super) async fn look(stores: &Stores) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(url) = &stores.postgres {
        findings.extend(
            match tokio::time::timeout(TIMEOUT, probe::postgres(url)).await {
                Ok(Ok(facts)) => judge_postgres(&facts),
                Ok(Err(error)) => vec![no_postgres(&error.to_string())],
                Err(_) => vec![no_postgres("no answer")],
            },
        );
    }
    if let Some(folder) = &stores.folder {
        findings.push(embedded(folder));
    }
    if let Some(url) = &stores.redis {
        findings.push(
            match tokio::time::timeout(TIMEOUT, probe::redis(url)).await {
                Ok(Ok(facts)) => judge_redis(&facts),
                Ok(Err(error)) => no_redis(&error.to_string()),
                Err(_) => no_redis("no answer"),
            },
        );
    }
    if let Some((url, token)) = &stores.consul {
        findings.push(match consul(url, token.as_ref()).await {
            Ok(version) => Finding::ok("consul", format!("Consul {version}")),
            Err(error) => Finding::error(
                "consul",
                error.to_string(),
                "start the machine's agent, or correct consul_url and consul_token",
            ),
        });
    }
    findings.extend(stores.geo.as_ref().map(geo));
    findings
}

fn no_postgres(why: &str) -> Finding {
    let fix =
        "start it, let TCP 5432 through, or correct database_url: user, password and database";
    Finding::error("postgresql", why, fix)
}

fn no_redis(why: &str) -> Finding {
    Finding::error(
        "redis",
        why,
        "start it, let TCP 6379 through, or correct redis_url",
    )
}

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

fn judge_postgres(facts: &Postgres) -> Vec<Finding> {
    const CHECK: &str = "postgresql";
    let Postgres {
        version,
        fsync,
        synchronous_commit,
        standby,
        may_create,
        round_trip,
    } = facts;
    let ms = round_trip.as_secs_f64() * 1e3;
    let mut findings = vec![Finding::ok(
        CHECK,
        format!("PostgreSQL {version}, {ms:.1} ms away"),
    )];
    if major(version).is_none_or(|major| major < POSTGRES_MIN) {
        let fix = format!("PostgreSQL {POSTGRES_MIN} or newer");
        findings.push(Finding::warning(
            CHECK,
            format!("version {version} is not tried"),
            fix,
        ));
    }
    if *standby {
        let fix = "name the primary in database_url";
        findings.push(Finding::error(
            CHECK,
            "it is a standby and takes no writes",
            fix,
        ));
    }
    if !may_create {
        let fix = "GRANT CREATE ON SCHEMA public TO the user: the schema is made at the start";
        findings.push(Finding::error(CHECK, "the user may not create tables", fix));
    }
    if !fsync {
        let says = "fsync is off: a power failure may destroy the whole database";
        findings.push(Finding::error(CHECK, says, "fsync = on in postgresql.conf"));
    }
    if synchronous_commit == "off" {
        let says = "synchronous_commit is off: after a crash an epoch may be given out twice";
        findings.push(Finding::warning(CHECK, says, "synchronous_commit = on"));
    }
    findings
}

fn judge_redis(facts: &Redis) -> Finding {
    const CHECK: &str = "redis";
    let Redis {
        version,
        eviction,
        round_trip,
    } = facts;
    let ms = round_trip.as_secs_f64() * 1e3;
    let says = format!("Redis {version}, {ms:.1} ms away, maxmemory-policy {eviction}");
    if major(version).is_none_or(|major| major < REDIS_MIN) {
        return Finding::warning(CHECK, says, format!("Redis {REDIS_MIN} or newer"));
    }
    if eviction.starts_with("allkeys") {
        let fix = "maxmemory-policy noeviction: nodes and rooms must not vanish";
        return Finding::warning(CHECK, says, fix);
    }
    Finding::ok(CHECK, says)
}

/// Whether the embedded database could be written.
fn embedded(folder: &Path) -> Finding {
    const CHECK: &str = "sqlite";
    let shown = folder.display();
    let fix =
        format!("make {shown} writable for the user that the process runs as, or set data_dir");
    // The role makes the folder; what counts is the nearest one that exists.
    let existing = folder.ancestors().find(|path| path.exists());
    let existing = existing.filter(|path| !path.as_os_str().is_empty());
    match tempfile_in(existing.unwrap_or(Path::new("."))) {
        Ok(()) => Finding::ok(
            CHECK,
            format!("embedded database in {shown}: for one control process"),
        ),
        Err(error) => Finding::error(CHECK, format!("{shown}: {error}"), fix),
    }
}

fn tempfile_in(folder: &Path) -> std::io::Result<()> {
    let path = folder.join(format!(".antipode-doctor-{}", std::process::id()));
    let made = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path);
    drop(made?);
    std::fs::remove_file(path)
}

/// The version of the agent.
async fn consul(url: &Secret, token: Option<&Secret>) -> anyhow::Result<String> {
    let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
    let base = url.expose().trim_end_matches('/');
    let mut request = client.get(format!("{base}/v1/agent/self"));
    if let Some(token) = token {
        request = request.header("x-consul-token", token.expose());
    }
    // Its URL may hold a password.
    let answer = request.send().await.map_err(reqwest::Error::without_url)?;
    let answer = answer
        .error_for_status()
        .map_err(reqwest::Error::without_url)?;
    let agent: serde_json::Value = answer.json().await.map_err(reqwest::Error::without_url)?;
    let version = agent
        .pointer("/Config/Version")
        .and_then(serde_json::Value::as_str);
    Ok(version.unwrap_or("of an unknown version").to_owned())
}

fn geo(sources: &Sources) -> Finding {
    const CHECK: &str = "geo data";
    let fix = "antipode geo fetch --dir DIR, and geo_data_dir = DIR";
    if sources.is_empty() {
        let says = "none: clients are placed without knowing where they are";
        return Finding::warning(CHECK, says, fix);
    }
    match geo_data::inspect(sources) {
        Ok(databases) => judge_geo(&databases, SystemTime::now()),
        Err(error) => Finding::error(CHECK, error.to_string(), fix),
    }
}

/// `databases` are kinds and when they were built, Unix seconds.
fn judge_geo(databases: &[(String, u64)], now: SystemTime) -> Finding {
    const CHECK: &str = "geo data";
    let now_s = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let oldest = databases
        .iter()
        .map(|(_, built_s)| *built_s)
        .min()
        .unwrap_or(0);
    let days = now_s.saturating_sub(oldest) / (24 * 3_600);
    let kinds: Vec<_> = databases.iter().map(|(kind, _)| kind.as_str()).collect();
    let says = format!("{}, {days} days old", kinds.join(", "));
    if days > GEO_DAYS_MAX {
        Finding::warning(
            CHECK,
            says,
            "antipode geo fetch: running processes take the new files over",
        )
    } else {
        Finding::ok(CHECK, says)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn postgres() -> Postgres {
        Postgres {
            version: "15.6 (Debian 15.6-0+deb12u1)".to_owned(),
            fsync: true,
            synchronous_commit: "on".to_owned(),
            standby: false,
            may_create: true,
            round_trip: Duration::from_millis(2),
        }
    }

    fn worst(findings: &[Finding]) -> Level {
        findings.iter().map(|finding| finding.level).max().unwrap()
    }

    #[test]
    fn what_may_lose_data_is_told() {
        assert_eq!(worst(&judge_postgres(&postgres())), Level::Ok);
        let unsafe_one = Postgres {
            fsync: false,
            ..postgres()
        };
        assert_eq!(worst(&judge_postgres(&unsafe_one)), Level::Error);
        let hasty = Postgres {
            synchronous_commit: "off".to_owned(),
            ..postgres()
        };
        assert_eq!(worst(&judge_postgres(&hasty)), Level::Warning);
        let old = Postgres {
            version: "9.6.24".to_owned(),
            ..postgres()
        };
        assert_eq!(worst(&judge_postgres(&old)), Level::Warning);
        let standby = Postgres {
            standby: true,
            ..postgres()
        };
        assert_eq!(worst(&judge_postgres(&standby)), Level::Error);

        let redis = |eviction: &str| Redis {
            version: "7.0.15".to_owned(),
            eviction: eviction.to_owned(),
            round_trip: Duration::from_millis(1),
        };
        assert_eq!(judge_redis(&redis("noeviction")).level, Level::Ok);
        assert_eq!(judge_redis(&redis("allkeys-lru")).level, Level::Warning);
    }

    #[test]
    fn old_geo_data_is_told() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 200);
        let built = |days: u64| vec![("DBIP-City".to_owned(), days * 24 * 3_600)];
        assert_eq!(judge_geo(&built(190), now).level, Level::Ok);
        let old = judge_geo(&built(10), now);
        assert_eq!(
            (old.level, old.says.as_str()),
            (Level::Warning, "DBIP-City, 190 days old")
        );
        assert_eq!(geo(&Sources::default()).level, Level::Warning);
        let missing = Sources {
            files: vec!["nowhere.mmdb".into()],
            folder: None,
        };
        assert_eq!(geo(&missing).level, Level::Error);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error() {
        assert_eq!(
            embedded(&std::env::temp_dir().join("a/b/c")).level,
            Level::Ok
        );
        assert_eq!(embedded(Path::new("/proc/nowhere")).level, Level::Error);
    }

    #[tokio::test]
    async fn stores_that_are_not_there_are_errors_without_their_passwords() {
        let stores = Stores {
            postgres: Some("postgres://u:hunter2@127.0.0.1:1/d".into()),
            redis: Some("redis://:hunter2@127.0.0.1:1/".into()),
            consul: Some(("http://127.0.0.1:1".into(), Some("hunter2".into()))),
            ..Stores::default()
        };
        let findings = look(&stores).await;
        assert_eq!(findings.len(), 3);
        for finding in &findings {
            assert_eq!(finding.level, Level::Error, "{finding:?}");
            assert!(!format!("{finding:?}").contains("hunter2"), "{finding:?}");
        }
    }
}
