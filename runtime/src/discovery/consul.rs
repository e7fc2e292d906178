//! Consul by its HTTP API: the agent's services and checks, and blocking queries. Only calls that are the same in versions
//! from 1.8 on.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::json;

use super::{BoxFuture, Error, Health, Index, Instance, Listing, Registry, Service};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for an answer, beyond what a blocking query waits. Consul adds up to a sixteenth of the wait to that.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the registry asks a gRPC health service.
const GRPC_INTERVAL: &str = "1s";
/// A process that is critical for so long is taken out. The shortest that Consul takes.
const DEREGISTER_AFTER: &str = "1m";
/// Characters of a refusal that are shown.
const SHOWN: usize = 200;

/// An agent of Consul.
pub struct Consul {
    http: reqwest::Client,
    base: Url,
}

impl fmt::Debug for Consul {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.base.host_str().unwrap_or_default();
        f.debug_struct("Consul")
            .field("host", &host)
            .finish_non_exhaustive()
    }
}

impl Consul {
    /// The agent at a URL, `http://…` or `https://…`; `token` is for its access control.
    ///
    /// # Errors
    /// [`Error::Setting`] when the URL or the token is malformed.
    pub fn new(url: &str, token: Option<&str>) -> Result<Self, Error> {
        let mut base = Url::parse(url).map_err(|_| Error::Setting("URL"))?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(Error::Setting("URL"));
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            let mut token = HeaderValue::from_str(token).map_err(|_| Error::Setting("token"))?;
            token.set_sensitive(true);
            headers.insert("X-Consul-Token", token);
        }
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(|_| Error::Setting("TLS"))?;
        Ok(Self { http, base })
    }

    /// A call of `v1/` and these segments, which may hold any characters.
    fn call(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(path);
        }
        self.http.request(method, url).timeout(ANSWER_TIMEOUT)
    }

    async fn send(request: RequestBuilder) -> Result<Response, Error> {
        // An error's own text may show the URL, which may hold a password.
        let response = request
            .send()
            .await
            .map_err(|error| Error::Unreachable(error.without_url().to_string()))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await.unwrap_or_default();
        Err(Error::Refused {
            status: status.as_u16(),
            text: text.trim().chars().take(SHOWN).collect(),
        })
    }
}

impl Registry for Consul {
    fn register<'a>(&'a self, service: &'a Service) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let request = self
                .call(Method::PUT, &["agent", "service", "register"])
                .query(&[("replace-existing-checks", "true")])
                .json(&definition(service));
            Self::send(request).await.map(drop)
        })
    }

    fn pass<'a>(&'a self, id: &'a str, note: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let request = self
                .call(Method::PUT, &["agent", "check", "update", &ttl_check(id)])
                .json(&json!({"Status": "passing", "Output": note}));
            match Self::send(request).await {
                // Older versions answer 500, current ones 404, when the agent does not know the check.
                Err(Error::Refused { status, text })
                    if status == StatusCode::NOT_FOUND.as_u16()
                        || (status == StatusCode::INTERNAL_SERVER_ERROR.as_u16()
                            && (text.contains("TTL") || text.contains("nknown check"))) =>
                {
                    Err(Error::Unknown(id.to_owned()))
                }
                other => other.map(drop),
            }
        })
    }

    fn deregister<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let request = self.call(Method::PUT, &["agent", "service", "deregister", id]);
            match Self::send(request).await {
                // It is gone, which is what was asked for.
                Err(Error::Refused { status, .. }) if status == StatusCode::NOT_FOUND.as_u16() => {
                    Ok(())
                }
                other => other.map(drop),
            }
        })
    }

    fn list<'a>(
        &'a self,
        name: &'a str,
        after: Index,
        wait: Duration,
    ) -> BoxFuture<'a, Result<Listing, Error>> {
        Box::pin(async move {
            let mut request = self.call(Method::GET, &["health", "service", name]);
            if after.0 > 0 {
                let wait_text = format!("{}ms", wait.as_millis());
                request = request
                    .query(&[("index", after.0.to_string()), ("wait", wait_text)])
                    .timeout(wait + wait / 16 + ANSWER_TIMEOUT);
            }
            let response = Self::send(request).await?;
            let index = response.headers().get("X-Consul-Index");
            let index = index
                .and_then(|value| value.to_str().ok()?.parse().ok())
                .ok_or_else(|| Error::Malformed("no X-Consul-Index".to_owned()))?;
            let entries: Vec<Entry> = response
                .json()
                .await
                .map_err(|error| Error::Malformed(error.without_url().to_string()))?;
            let instances = entries.into_iter().map(Entry::instance);
            Ok(Listing {
                instances: instances.map(|found| (found.id.clone(), found)).collect(),
                // Below 1 an index must not be waited on.
                index: Index(u64::max(index, 1)),
            })
        })
    }
}

fn ttl_check(id: &str) -> String {
    format!("{id}:ttl")
}

/// A service in the agent's words.
fn definition(service: &Service) -> serde_json::Value {
    let mut checks = vec![json!({
        "CheckID": ttl_check(&service.id),
        "Name": "says that it lives",
        "TTL": format!("{}ms", service.ttl.as_millis()),
        "Status": "passing",
        "DeregisterCriticalServiceAfter": DEREGISTER_AFTER,
    })];
    if let Some(target) = &service.grpc {
        checks.push(json!({
            "CheckID": format!("{}:grpc", service.id),
            "Name": "gRPC health",
            "GRPC": target,
            "Interval": GRPC_INTERVAL,
            "Timeout": GRPC_INTERVAL,
            "Status": "passing",
            "DeregisterCriticalServiceAfter": DEREGISTER_AFTER,
        }));
    }
    json!({
        "Name": service.name,
        "ID": service.id,
        "Address": service.address,
        "Port": service.port,
        "Tags": service.tags,
        "Meta": service.meta,
        "Checks": checks,
    })
}

/// An entry of `health/service`: what is needed of it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    node: EntryNode,
    service: EntryService,
    #[serde(default)]
    checks: Vec<Check>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EntryNode {
    #[serde(default)]
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EntryService {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    port: u16,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    meta: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    #[serde(default, rename = "CheckID")]
    id: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    output: String,
}

impl Entry {
    fn instance(self) -> Instance {
        let Self {
            node,
            service,
            checks,
        } = self;
        let of = |status: &str| checks.iter().any(|check| check.status == status);
        let health = match () {
            () if checks.iter().all(|check| check.status == "passing") => Health::Passing,
            () if of("critical") || of("maintenance") => Health::Critical,
            () => Health::Warning,
        };
        let own = ttl_check(&service.id);
        let note = checks.iter().find(|check| check.id == own);
        Instance {
            note: note.map_or_else(String::new, |check| check.output.clone()),
            id: service.id,
            // A service without an address of its own is reached at its agent's.
            address: if service.address.is_empty() {
                node.address
            } else {
                service.address
            },
            port: service.port,
            tags: service.tags.unwrap_or_default(),
            meta: service.meta.unwrap_or_default(),
            health,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_tokens_are_checked_and_not_shown() {
        for bad in ["", "consul:8500", "ftp://h", "http://"] {
            assert!(
                matches!(Consul::new(bad, None), Err(Error::Setting("URL"))),
                "{bad:?}"
            );
        }
        let bad = Consul::new("http://h", Some("a\nb"));
        assert!(matches!(bad, Err(Error::Setting("token"))));
        let consul = Consul::new("http://u:hush@h:8500", Some("hush")).unwrap();
        assert!(!format!("{consul:?}").contains("hush"));
    }

    #[test]
    fn ids_are_one_segment_of_the_path() {
        let consul = Consul::new("http://h:8500/base", None).unwrap();
        let request = consul
            .call(
                Method::PUT,
                &["agent", "check", "update", &ttl_check("a/../b?c")],
            )
            .build()
            .unwrap();
        assert_eq!(
            request.url().as_str(),
            "http://h:8500/base/v1/agent/check/update/a%2F..%2Fb%3Fc:ttl"
        );
    }

    #[test]
    fn the_worst_check_counts() {
        let entry = |statuses: &[&str]| {
            let checks: Vec<_> = statuses
                .iter()
                .map(|status| json!({"CheckID": "x", "Status": status}))
                .collect();
            let text = json!({"Node": {"Address": "10.0.0.1"}, "Checks": checks,
                "Service": {"ID": "a", "Address": "", "Port": 1, "Tags": null, "Meta": null}});
            serde_json::from_value::<Entry>(text).unwrap().instance()
        };
        assert_eq!(entry(&["passing", "passing"]).health, Health::Passing);
        assert_eq!(entry(&["passing", "warning"]).health, Health::Warning);
        assert_eq!(entry(&["warning", "critical"]).health, Health::Critical);
        assert_eq!(entry(&[]).address, "10.0.0.1");
    }
}
