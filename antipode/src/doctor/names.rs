//! Names that the configuration uses: whether they resolve, and where to; and whether control replicas answer.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::control::ListNodesRequest;

use super::{Finding, clock};
use crate::admin::connect;

/// How long a look-up may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// A host name of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    key: &'static str,
    host: String,
    /// Addresses that it should resolve to; empty: any.
    expected: Vec<IpAddr>,
}

impl Name {
    /// A host; `None` for an address, which needs no looking up.
    pub(super) fn of_host(key: &'static str, host: &str) -> Option<Self> {
        let host = host.trim_matches(['[', ']']);
        let named = !host.is_empty() && host.parse::<IpAddr>().is_err();
        named.then(|| Self {
            key,
            host: host.to_owned(),
            expected: Vec::new(),
        })
    }

    /// The host of a URL. What else the URL says is left alone: it may hold a password.
    pub(super) fn of_url(key: &'static str, url: &str) -> Option<Self> {
        let url = reqwest::Url::parse(url).ok()?;
        Self::of_host(key, url.host_str()?)
    }

    /// With the addresses that it should resolve to.
    pub(super) fn expecting(self, expected: Vec<IpAddr>) -> Self {
        Self { expected, ..self }
    }
}

/// Looks all of them up.
pub(super) async fn look(names: &[Name]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in names {
        let looking = tokio::net::lookup_host((name.host.as_str(), 0));
        let found = match tokio::time::timeout(TIMEOUT, looking).await {
            Ok(Ok(found)) => Ok(found.map(|address| address.ip()).collect()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer".to_owned()),
        };
        findings.push(judge(name, found));
    }
    findings
}

fn judge(name: &Name, found: Result<BTreeSet<IpAddr>, String>) -> Finding {
    const CHECK: &str = "dns";
    let Name {
        key,
        host,
        expected,
    } = name;
    let found = match found {
        Ok(found) if !found.is_empty() => found,
        outcome => {
            let why = outcome.err().unwrap_or_else(|| "no address".to_owned());
            return Finding::error(
                CHECK,
                format!("{key}: {host} does not resolve ({why})"),
                "make the name in DNS or /etc/hosts, or look at /etc/resolv.conf",
            );
        }
    };
    let shown: Vec<String> = found.iter().map(IpAddr::to_string).collect();
    let says = format!("{key}: {host} is {}", shown.join(", "));
    if expected.is_empty() || expected.iter().any(|address| found.contains(address)) {
        return Finding::ok(CHECK, says);
    }
    Finding::warning(
        CHECK,
        format!("{says}, none of which is in external_addresses"),
        "have the name point here, unless a load balancer stands in front",
    )
}

/// Connects to control replicas; how far the clock of one that answers is ahead of ours, in seconds.
pub(super) async fn reach(urls: &[String]) -> (Vec<Finding>, Option<f64>) {
    const CHECK: &str = "control";
    let mut findings = Vec::new();
    let mut ahead = None;
    for url in urls {
        match ask(url).await {
            Ok((nodes, seen)) => {
                ahead = ahead.or(seen);
                findings.push(Finding::ok(
                    CHECK,
                    format!("{url} answers; it knows {nodes} nodes"),
                ));
            }
            Err(error) => findings.push(Finding::error(
                CHECK,
                format!("{error:#}"),
                "start it there, let TCP to its gRPC port through, or correct `control`",
            )),
        }
    }
    if urls.is_empty() {
        return (findings, None);
    }
    // One of several that does not answer is not needed to start.
    if ahead.is_some() {
        for finding in &mut findings {
            finding.level = finding.level.min(super::Level::Warning);
        }
    }
    (findings, ahead)
}

async fn ask(url: &str) -> anyhow::Result<(usize, Option<f64>)> {
    let mut client = connect(url).await?;
    let answer = client.list_nodes(ListNodesRequest {}).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let theirs = answer.metadata().get("date");
    let theirs = theirs.and_then(|date| clock::date(date.to_str().ok()?));
    // `Date` is cut to the second: half of one is added.
    let ahead = theirs.map(|theirs| theirs + 0.5 - now.unwrap_or_default().as_secs_f64());
    Ok((answer.into_inner().nodes.len(), ahead))
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn only_names_are_looked_up() {
        let host = |url| Name::of_url("control", url).map(|name| name.host);
        assert_eq!(
            host("http://control.internal:7801"),
            Some("control.internal".to_owned())
        );
        assert_eq!(
            host("postgres://u:p@db.internal/x"),
            Some("db.internal".to_owned())
        );
        assert_eq!(host("http://127.0.0.1:1"), None);
        assert_eq!(host("http://[::1]:1"), None);
        assert_eq!(host("nonsense"), None);
    }

    #[test]
    fn a_name_that_points_elsewhere_is_noticed() {
        let name = Name::of_host("client_url", "fra.example.org").unwrap();
        let here: IpAddr = "203.0.113.10".parse().unwrap();
        let elsewhere: IpAddr = "203.0.113.11".parse().unwrap();
        let name = name.expecting(vec![here]);
        assert_eq!(judge(&name, Ok([here, elsewhere].into())).level, Level::Ok);
        assert_eq!(judge(&name, Ok([elsewhere].into())).level, Level::Warning);
        assert_eq!(judge(&name, Ok(BTreeSet::new())).level, Level::Error);
        assert_eq!(
            judge(&name, Err("no such host".to_owned())).level,
            Level::Error
        );
    }

    #[tokio::test]
    async fn a_control_plane_that_is_not_there_is_an_error() {
        let (findings, ahead) = reach(&["http://127.0.0.1:1".to_owned()]).await;
        assert_eq!((findings[0].level, ahead), (Level::Error, None));
        assert!(findings[0].says.contains("127.0.0.1:1"), "{findings:?}");
    }
}
