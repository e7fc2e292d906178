//! A look at servers that hold state, for operators: versions, and settings that decide whether anything may be lost.

use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};

use super::Error;
use crate::config::Secret;

/// What a PostgreSQL server says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Postgres {
    /// Its version, for example `15.6 (Debian …)`.
    pub version: String,
    /// Whether what is written reaches the disk.
    pub fsync: bool,
    /// When a transaction counts as done: `on`, `off`, `local`, `remote_write`, `remote_apply`.
    pub synchronous_commit: String,
    /// It takes no writes.
    pub standby: bool,
    /// The user may make tables.
    pub may_create: bool,
    /// How long an answer takes.
    pub round_trip: Duration,
}

/// What a Redis server says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Redis {
    /// Its version.
    pub version: String,
    /// What it drops when its memory is full: `maxmemory-policy`.
    pub eviction: String,
    /// How long an answer takes.
    pub round_trip: Duration,
}

/// Connects to PostgreSQL and looks.
///
/// # Errors
/// When it cannot be reached or refuses.
pub async fn postgres(url: &Secret) -> Result<Postgres, Error> {
    let mut connection = PgConnection::connect(url.expose()).await?;
    let sent = Instant::now();
    connection.ping().await?;
    let round_trip = sent.elapsed();
    let (version, fsync, synchronous_commit, standby, may_create) =
        sqlx::query_as::<_, (String, String, String, bool, bool)>(
            "SELECT current_setting('server_version'), current_setting('fsync'), \
             current_setting('synchronous_commit'), pg_is_in_recovery(), \
             coalesce(has_schema_privilege(current_schema(), 'CREATE'), FALSE)",
        )
        .fetch_one(&mut connection)
        .await?;
    connection.close().await?;
    Ok(Postgres {
        version,
        fsync: fsync == "on",
        synchronous_commit,
        standby,
        may_create,
        round_trip,
    })
}

/// Connects to Redis and looks.
///
/// # Errors
/// When it cannot be reached or refuses.
pub async fn redis(url: &Secret) -> Result<Redis, Error> {
    let client = ::redis::Client::open(url.expose())?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let sent = Instant::now();
    let () = ::redis::cmd("PING").exec_async(&mut connection).await?;
    let round_trip = sent.elapsed();
    let info: String = ::redis::cmd("INFO").query_async(&mut connection).await?;
    Ok(Redis {
        version: field(&info, "redis_version"),
        eviction: field(&info, "maxmemory_policy"),
        round_trip,
    })
}

/// A line `name:value` of what Redis says.
fn field(info: &str, name: &str) -> String {
    let mut lines = info.lines();
    let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found.unwrap_or("unknown").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_redis_are_found() {
        let info = "# Server\r\nredis_version:7.0.15\r\nredis_git_sha1:0\r\n";
        assert_eq!(field(info, "redis_version"), "7.0.15");
        assert_eq!(field(info, "maxmemory_policy"), "unknown");
    }
}
