//! Pebble, an ACME authority for tests (RFC 8555).

use std::net::{Ipv4Addr, TcpStream};

use serde_json::json;

use super::process::{Error, Server, failed, find, folder, free_port, give};

/// A private Pebble with a name server of its own, for which every name is this machine.
#[derive(Debug)]
pub struct Pebble {
    // Its own fields end in this order: first who asks.
    _authority: Server,
    _names: Server,
    port: u16,
    management: u16,
}

impl Pebble {
    /// Starts one that shows this certificate, and connects to `tls_port` of loopback for the proof by TLS-ALPN-01.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start((cert_pem, key_pem): (&str, &str), tls_port: u16) -> Result<Self, Error> {
        let program = find("pebble", "pebble", &[])?;
        let (port, management, dns) = (free_port()?, free_port()?, free_port()?);
        let folder = folder("pebble")?;
        let place = |name: &str, text: &str| {
            let file = folder.path().join(name);
            std::fs::write(&file, text).map_err(failed(name))?;
            give(&file)?;
            Ok(file)
        };
        let configuration = json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": place("cert.pem", cert_pem)?,
            "privateKey": place("key.pem", key_pem)?,
            "httpPort": free_port()?,
            "tlsPort": tls_port,
        }});
        let configuration = place("pebble.json", &configuration.to_string())?;
        let names = Self::names(dns)?;
        let arguments = [
            format!("-config={}", configuration.display()),
            format!("-dnsserver=127.0.0.1:{dns}"),
        ];
        // As an authority behaves: it looks at the proof at once, and takes every nonce that is good.
        let quick = [("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_WFE_NONCEREJECT", "0")];
        let mut authority = Server::new("pebble", &program, folder, arguments).with(quick);
        authority.start(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())?;
        Ok(Self {
            _authority: authority,
            _names: names,
            port,
            management,
        })
    }

    fn names(dns: u16) -> Result<Server, Error> {
        let program = find("pebble-challtestsrv", "pebble", &[])?;
        let management = free_port()?;
        let arguments = [
            format!("-dns01=127.0.0.1:{dns}"),
            format!("-management=127.0.0.1:{management}"),
            "-defaultIPv6=".to_owned(),
            "-http01=".to_owned(),
            "-https01=".to_owned(),
            "-tlsalpn01=".to_owned(),
        ];
        let folder = folder("names")?;
        let mut names = Server::new("pebble-challtestsrv", &program, folder, arguments);
        names.start(|| TcpStream::connect((Ipv4Addr::LOCALHOST, dns)).is_ok())?;
        Ok(names)
    }

    /// URL of its directory, at `localhost`.
    pub fn directory(&self) -> String {
        format!("https://localhost:{}/dir", self.port)
    }

    /// URL of the certificate (PEM) that it signs with, at `localhost`.
    pub fn root(&self) -> String {
        format!("https://localhost:{}/roots/0", self.management)
    }
}
