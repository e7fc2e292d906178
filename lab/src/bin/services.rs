//! `services`: private PostgreSQL, Redis and Consul for the time of a test, killed and started again as it says.

use std::io::BufRead as _;

use anyhow::Context as _;
use clap::Parser;
use lab::services::{Consul, Postgres, Redis};
use serde::Deserialize;
use serde_json::{Value, json};

/// Private PostgreSQL (fsync and synchronous_commit on), Redis and Consul on free ports of loopback, with their data in temporary
/// folders.
///
/// Standard output has JSON lines: first `{"ready":true,"postgres":{"url":…,"pid":…},"redis":{…},"consul":{"url":…,"dns":…,…}}`.
/// Standard input takes `{"kill":"postgres"}`, which ends a server as `kill -9` does, `{"start":"postgres"}`, which starts it again
/// on its port and waits until it serves, and `{"sql":"SELECT 1"}`; each is answered by `{"done":…}` with what came of it, or
/// `{"error":…}`. The end of standard input ends all.
#[derive(Debug, Parser)]
#[command(name = "services", version)]
struct Cli {}

/// A line of standard input.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Request {
    Kill(Name),
    Start(Name),
    Sql(String),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Name {
    Postgres,
    Redis,
    Consul,
}

struct Services {
    postgres: Postgres,
    redis: Redis,
    consul: Consul,
}

/// The database that there is from the start.
const DATABASE: &str = "antipode";

impl Services {
    fn start() -> anyhow::Result<Self> {
        let services = Self {
            postgres: Postgres::start()?,
            redis: Redis::start()?,
            consul: Consul::start()?,
        };
        services.postgres.create(DATABASE)?;
        Ok(services)
    }

    fn describe(&self) -> Value {
        json!({
            "ready": true,
            "postgres": { "url": self.postgres.url(DATABASE), "pid": self.postgres.pid() },
            "redis": { "url": self.redis.url(), "pid": self.redis.pid() },
            "consul": {
                "url": self.consul.url(),
                "dns": format!("127.0.0.1:{}", self.consul.dns()),
                "pid": self.consul.pid(),
            },
        })
    }

    /// Does what a line says; returns what came of it.
    fn take(&mut self, line: &str) -> anyhow::Result<Value> {
        let request = serde_json::from_str(line).context("not a request")?;
        match request {
            Request::Kill(Name::Postgres) => self.postgres.kill(),
            Request::Kill(Name::Redis) => self.redis.kill(),
            Request::Kill(Name::Consul) => self.consul.kill(),
            Request::Start(Name::Postgres) => self.postgres.restart()?,
            Request::Start(Name::Redis) => self.redis.restart()?,
            Request::Start(Name::Consul) => self.consul.restart()?,
            Request::Sql(statement) => {
                return Ok(Value::from(self.postgres.sql(DATABASE, &statement)?));
            }
        }
        Ok(Value::Bool(true))
    }
}

fn main() -> anyhow::Result<()> {
    Cli::parse();
    let mut services = Services::start()?;
    println!("{}", services.describe());
    for line in std::io::stdin().lock().lines() {
        let answer = match services.take(&line?) {
            Ok(done) => json!({ "done": done }),
            Err(error) => json!({ "error": format!("{error:#}") }),
        };
        println!("{answer}");
    }
    Ok(())
}
