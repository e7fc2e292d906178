//! Consul.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::process::{Error, Server, failed, find, folder, free_port, give};

/// A private Consul: one server, which is its own agent, with its data on disk.
#[derive(Debug)]
pub struct Consul {
    server: Server,
    http: u16,
    dns: u16,
}

impl Consul {
    /// Starts one that asks for no token, and waits for its leader.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start() -> Result<Self, Error> {
        Self::start_with(&find("consul", "consul", &[])?, json!({}))
    }

    /// Starts one that refuses everything without this token, a UUID.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start_guarded(token: &str) -> Result<Self, Error> {
        let program = find("consul", "consul", &[])?;
        let said = Command::new(&program).arg("version").output();
        let said = said.map_err(failed("consul version"))?.stdout;
        // The token's name changed in 1.11.
        let old = (0..11).any(|minor| said.starts_with(format!("Consul v1.{minor}.").as_bytes()));
        let initial = if old { "master" } else { "initial_management" };
        let acl = json!({"acl": {"enabled": true, "default_policy": "deny",
            "tokens": {initial: token, "agent": token}}});
        Self::start_with(&program, acl)
    }

    fn start_with(program: &Path, more: serde_json::Value) -> Result<Self, Error> {
        let folder = folder("consul")?;
        let (http, dns) = (free_port()?, free_port()?);
        let configuration = json!({
            "server": true,
            "bootstrap_expect": 1,
            "node_name": "lab",
            "data_dir": folder.path().join("data"),
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "ports": {
                "http": http, "dns": dns, "server": free_port()?, "serf_lan": free_port()?,
                "serf_wan": free_port()?, "grpc": -1, "https": -1,
            },
            "performance": { "raft_multiplier": 1 },
            "limits": { "http_max_conns_per_client": 1_000 },
            // What checks say is shown at once, not within five minutes.
            "check_update_interval": "0s",
            "disable_update_check": true,
            "log_level": "warn",
        });
        let mut arguments = vec!["agent".to_owned()];
        for (name, part) in [("base.json", configuration), ("more.json", more)] {
            let file = folder.path().join(name);
            std::fs::write(&file, part.to_string()).map_err(failed(name))?;
            give(&file)?;
            arguments.push(format!("-config-file={}", file.display()));
        }
        let server = Server::new("consul", program, folder, arguments);
        let mut consul = Self { server, http, dns };
        consul.restart()?;
        Ok(consul)
    }

    /// URL of its HTTP API.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    /// Its DNS port on loopback.
    pub fn dns(&self) -> u16 {
        self.dns
    }

    /// Process id of the server while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Starts it again, with the data it had, and waits for its leader.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.server.kill();
        let http = self.http;
        self.server.start(|| leads(http).unwrap_or(false))
    }
}

/// Whether the server at this port has a leader.
fn leads(port: u16) -> std::io::Result<bool> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    connection.set_read_timeout(Some(Duration::from_secs(1)))?;
    let request = "GET /v1/status/leader HTTP/1.0\r\nHost: localhost\r\n\r\n";
    connection.write_all(request.as_bytes())?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    // The leader's address in quotes; nothing in them while there is none.
    Ok(answer.starts_with("HTTP/1.0 200") && answer.contains("\"127.0.0.1:"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::process::listens;

    #[test]
    fn it_leads_and_comes_back() {
        let mut consul = Consul::start().unwrap();
        assert!(consul.url().starts_with("http://127.0.0.1:"));
        assert!(consul.dns() > 0);
        consul.kill();
        assert!(!listens(consul.http));
        consul.restart().unwrap();
        assert!(leads(consul.http).unwrap());
    }
}
