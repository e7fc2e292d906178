//! `antipode up` with real processes: the ready line, supervision, and that nothing is left behind however it ends.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const ANTIPODE: &str = env!("CARGO_BIN_EXE_antipode");

struct Mesh {
    process: Child,
    _stdin: ChildStdin,
    _stdout: BufReader<ChildStdout>,
    line: Value,
    directory: PathBuf,
}

impl Mesh {
    fn start(name: &str, flags: &[&str]) -> Self {
        let directory =
            std::env::temp_dir().join(format!("antipode-{name}-{}", std::process::id()));
        let mut process = Command::new(ANTIPODE)
            .args(["up", "--base-port", "0", "--exit-with-parent", "--data-dir"])
            .arg(&directory)
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = process.stdin.take().unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let line = serde_json::from_str(&line).unwrap();
        Self {
            process,
            _stdin: stdin,
            _stdout: stdout,
            line,
            directory,
        }
    }

    fn pids(&self) -> Vec<i32> {
        let roles = ["control", "edges", "relays"];
        let processes = roles
            .iter()
            .flat_map(|role| self.line[role].as_array().unwrap());
        processes.map(|process| pid(&process["pid"])).collect()
    }

    fn signal(&self, signal: Signal) {
        kill(
            Pid::from_raw(i32::try_from(self.process.id()).unwrap()),
            signal,
        )
        .unwrap();
    }

    /// The mesh's file, which follows restarts.
    fn file(&self) -> Value {
        let text = std::fs::read_to_string(self.directory.join("mesh.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        // It may be gone already.
        drop(self.process.kill());
        drop(self.process.wait());
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

fn pid(value: &Value) -> i32 {
    i32::try_from(value.as_i64().unwrap()).unwrap()
}

fn lives(pid: i32) -> bool {
    let zombie = std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| rest.starts_with(" Z"))
    });
    kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH) && !zombie
}

fn eventually(what: &str, within: Duration, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !check() {
        assert!(Instant::now() < deadline, "{what}: not within {within:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Body of an HTTP answer with status 200.
fn get(base: &str, path: &str) -> Option<String> {
    let authority = base.strip_prefix("http://")?;
    let mut stream = TcpStream::connect(authority).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}

fn antipode(arguments: &[&str]) -> Value {
    let output = Command::new(ANTIPODE).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_mesh_comes_up_restarts_what_dies_and_leaves_nothing_behind() {
    let mut mesh = Mesh::start("whole", &["--regions", "fra,syd"]);
    let line = mesh.line.clone();
    assert_eq!(line["ready"], true);
    assert_eq!(line["edges"].as_array().unwrap().len(), 2);
    assert_eq!(line["relays"][0]["region"], "sin");
    for process in ["/control/0", "/edges/0", "/edges/1", "/relays/0"] {
        let process = line.pointer(process).unwrap();
        let admin = process["admin"].as_str().unwrap();
        assert_eq!(
            get(admin, "/readyz").as_deref(),
            Some("ready\n"),
            "{process}"
        );
        assert!(
            get(admin, "/metrics")
                .unwrap()
                .contains("process_cpu_seconds_total")
        );
    }
    assert!(get(line["http"].as_str().unwrap(), "/").is_some());

    let grpc = line["control"][0]["grpc"].as_str().unwrap();
    let nodes = antipode(&["node", "list", "--json", "--url", grpc]);
    let states = nodes
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["state"].as_str().unwrap());
    assert_eq!(states.collect::<Vec<_>>(), ["ready"; 3]);
    assert_eq!(
        antipode(&["room", "list", "--json", "--url", grpc]),
        Value::Array(Vec::new())
    );

    let first = pid(&line["edges"][0]["pid"]);
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    let url = line["edges"][0]["url"].clone();
    eventually("the edge is back", Duration::from_secs(10), || {
        let edge = mesh.file()["edges"][0].clone();
        assert_eq!(edge["url"], url);
        pid(&edge["pid"]) != first && lives(pid(&edge["pid"]))
    });

    mesh.line = mesh.file();
    mesh.signal(Signal::SIGTERM);
    let stopping = Instant::now();
    assert!(mesh.process.wait().unwrap().success());
    assert!(
        stopping.elapsed() < Duration::from_secs(6),
        "{:?}",
        stopping.elapsed()
    );
    assert!(mesh.pids().into_iter().all(|pid| !lives(pid)));
    assert!(!mesh.directory.join("mesh.json").exists());
}

#[test]
fn keys_come_and_go_at_running_edges() {
    let mesh = Mesh::start(
        "keys",
        &["--regions", "fra", "--relays", "", "--wan", "off"],
    );
    let grpc = mesh.line["control"][0]["grpc"].as_str().unwrap();
    let edge = mesh.line["edges"][0]["url"].as_str().unwrap();
    let edge = edge.replace("ws://", "http://");
    let run = |arguments: &[&str]| {
        let arguments = [arguments, &["--url", grpc]].concat();
        let output = Command::new(ANTIPODE).args(&arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        output.stdout
    };
    run(&["project", "create", "acme"]);
    let made = run(&["key", "create", "--project", "acme", "--json"]);
    let made: Value = serde_json::from_slice(&made).unwrap();
    let (key, secret) = (
        made["key"].as_str().unwrap(),
        made["secret"].as_str().unwrap(),
    );
    let admitted = |secret: &str| {
        let token = Command::new(ANTIPODE)
            .args(["token", "--room", "R", "--identity", "ada"])
            .args(["--api-key", key, "--api-secret", secret])
            .output()
            .unwrap();
        let token = String::from_utf8(token.stdout).unwrap();
        get(
            &edge,
            &format!("/rtc/validate?access_token={}", token.trim()),
        )
        .is_some()
    };
    let within = Duration::from_secs(2);
    eventually("the key is known", within, || admitted(secret));
    let fresh = run(&["key", "rotate", key, "--project", "acme", "--json"]);
    let fresh: Value = serde_json::from_slice(&fresh).unwrap();
    let fresh = fresh["secret"].as_str().unwrap();
    eventually("the secret before is refused", within, || !admitted(secret));
    assert!(admitted(fresh));
    run(&["key", "revoke", key, "--project", "acme"]);
    eventually("the key is refused", within, || !admitted(fresh));
    let log = run(&["audit", "list", "--json"]);
    let log: Value = serde_json::from_slice(&log).unwrap();
    let last = log.as_array().unwrap().last().unwrap();
    assert_eq!(last["action"], "key.revoke");
    assert!(!log.to_string().contains(fresh));
    run(&["audit", "verify"]);
}

#[test]
fn nothing_outlives_a_killed_parent() {
    let mesh = Mesh::start(
        "orphans",
        &["--regions", "fra", "--relays", "", "--wan", "off"],
    );
    let pids = mesh.pids();
    assert_eq!(pids.len(), 2);
    mesh.signal(Signal::SIGKILL);
    eventually("all have stopped", Duration::from_secs(6), || {
        pids.iter().all(|pid| !lives(*pid))
    });
}

#[test]
fn a_dead_process_stays_dead_without_restart() {
    let flags = [
        "--regions",
        "fra",
        "--relays",
        "sin",
        "--wan",
        "off",
        "--restart",
        "off",
    ];
    let mesh = Mesh::start("dead", &flags);
    let relay = pid(&mesh.line["relays"][0]["pid"]);
    kill(Pid::from_raw(relay), Signal::SIGKILL).unwrap();
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(pid(&mesh.file()["relays"][0]["pid"]), relay);
    assert!(!lives(relay));
    assert!(lives(pid(&mesh.line["edges"][0]["pid"])));
}

#[test]
fn bad_configuration_is_one_line_and_code_64() {
    let path = Path::new("no-such-file.toml").display().to_string();
    for arguments in [
        &["up", "--regions", "atlantis"][..],
        &["control", "--check-config", "--set", "grcp=127.0.0.1:1"],
        &[
            "control",
            "--check-config",
            "--set",
            "database_url=postgres://h/d",
        ],
        &["control", "--check-config", "--set", "redis_url=http://h"],
        &["relay", "--check-config"],
        &["edge", "--config", &path],
        &["fly"],
    ] {
        let output = Command::new(ANTIPODE).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?}");
    }
}
