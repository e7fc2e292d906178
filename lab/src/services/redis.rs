//! Redis.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use super::process::{Error, Server, find, folder, free_port};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(2);

/// A private Redis that keeps nothing on disk: after a restart it is empty.
#[derive(Debug)]
pub struct Redis {
    server: Server,
    port: u16,
}

impl Redis {
    /// Starts one.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start() -> Result<Self, Error> {
        let program = find("redis-server", "redis-server", &[])?;
        let (folder, port) = (folder("redis")?, free_port()?);
        let arguments = [
            ("--port", port.to_string()),
            ("--bind", "127.0.0.1".to_owned()),
            ("--dir", folder.path().display().to_string()),
            ("--save", String::new()),
            ("--appendonly", "no".to_owned()),
        ];
        let arguments = arguments
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value]);
        let server = Server::new("redis-server", &program, folder, arguments);
        let mut redis = Self { server, port };
        redis.restart()?;
        Ok(redis)
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Process id of the server while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// What it says of itself, a section such as `stats`: lines of `name:value`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn info(&self, section: &str) -> std::io::Result<String> {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        connection.set_read_timeout(Some(ANSWER))?;
        write!(connection, "INFO {section}\r\nQUIT\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Starts it again, empty.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.server.kill();
        let port = self.port;
        self.server.start(|| pings(port).unwrap_or(false))
    }
}

fn pings(port: u16) -> std::io::Result<bool> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    connection.set_read_timeout(Some(Duration::from_millis(200)))?;
    connection.write_all(b"PING\r\n")?;
    let mut answer = [0; 5];
    connection.read_exact(&mut answer)?;
    Ok(&answer == b"+PONG")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::process::listens;

    #[test]
    fn it_comes_back_on_its_port() {
        let mut redis = Redis::start().unwrap();
        assert!(listens(redis.port()));
        redis.kill();
        assert!(!listens(redis.port()));
        redis.restart().unwrap();
        assert!(redis.url().contains(&redis.port().to_string()));
        assert!(pings(redis.port()).unwrap());
    }
}
