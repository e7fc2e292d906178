//! The line of JSON that a role prints on standard output when it serves, with the addresses it is really bound to.

use std::io::Write;

use serde::{Deserialize, Serialize};

/// What a role says of itself when it is ready. Fields that a role has no use for stay empty and are not printed;
/// unknown ones are skipped when read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Always true in a line that was printed.
    pub ready: bool,
    /// The node's id.
    #[serde(default)]
    pub node: String,
    /// Base URL of the admin listener, for example `http://127.0.0.1:40001`.
    #[serde(default)]
    pub admin: String,
    /// Process id.
    #[serde(default)]
    pub pid: u32,
    /// Where clients reach an edge, for example `ws://127.0.0.1:7880`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Base URL of the control plane's HTTP gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// URL of the control plane's gRPC listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<String>,
    /// UDP address `ip:port` that peers' links reach an edge or relay at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

impl Ready {
    /// A line for this process with the fields that every role has.
    pub fn new(node: impl Into<String>, admin: impl Into<String>) -> Self {
        Self {
            ready: true,
            node: node.into(),
            admin: admin.into(),
            pid: std::process::id(),
            ..Self::default()
        }
    }

    /// Writes the line to standard output and flushes it.
    ///
    /// # Errors
    /// When standard output cannot be written to.
    pub fn print(&self) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&line)?;
        stdout.flush()
    }

    /// Reads a line; `None` when it is anything else than a ready line.
    pub fn parse(line: &str) -> Option<Self> {
        serde_json::from_str::<Self>(line.trim())
            .ok()
            .filter(|ready| ready.ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_back_and_others_are_not_taken_for_one() {
        let mut ready = Ready::new("edge-fra-0", "http://127.0.0.1:1");
        ready.url = Some("ws://127.0.0.1:7880".to_owned());
        let line = serde_json::to_string(&ready).unwrap();
        assert_eq!(Ready::parse(&line), Some(ready));
        assert!(Ready::parse(r#"{"ready":true,"node":"n","new_field":[1]}"#).is_some());
        assert_eq!(Ready::parse(r#"{"ready":false}"#), None);
        assert_eq!(Ready::parse("listening"), None);
    }
}
