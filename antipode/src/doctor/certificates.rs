//! Certificates: readable, with their key, and not about to end.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use runtime::tls::listener::{self, Files};

use super::Finding;

const CHECK: &str = "certificates";
const DAY_S: i64 = 24 * 3_600;
/// With fewer days left a certificate that renews itself should have been renewed.
const DAYS_WARNING: i64 = 14;

/// A file that holds a certificate.
#[derive(Debug)]
pub(super) struct Certificate {
    name: &'static str,
    path: PathBuf,
    key: Option<PathBuf>,
}

impl Certificate {
    /// A certificate alone.
    pub(super) fn new(name: &'static str, path: PathBuf) -> Self {
        Self {
            name,
            path,
            key: None,
        }
    }

    /// One that is shown, with its key.
    pub(super) fn with_key(name: &'static str, path: PathBuf, key: PathBuf) -> Self {
        Self {
            key: Some(key),
            ..Self::new(name, path)
        }
    }
}

/// Looks at all of them.
pub(super) fn look(certificates: &[Certificate]) -> Vec<Finding> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_s = i64::try_from(now.unwrap_or_default().as_secs()).unwrap_or(i64::MAX);
    certificates.iter().map(|one| examine(one, now_s)).collect()
}

fn examine(certificate: &Certificate, now_s: i64) -> Finding {
    let Certificate { name, path, key } = certificate;
    let pair = key.as_ref().map(|key| Files {
        cert: path.clone(),
        key: key.clone(),
    });
    let whole = pair.map_or(Ok(()), |files| files.check());
    let expiry = whole.and_then(|()| listener::expiry_s(path));
    match expiry {
        Ok(expires_s) => judge(name, expires_s - now_s),
        Err(error) => Finding::error(
            CHECK,
            format!("{name}: {error}"),
            format!(
                "put a PEM certificate, and its own key, where {name} says; the process must be allowed to read both"
            ),
        ),
    }
}

fn judge(name: &str, left_s: i64) -> Finding {
    let days = left_s.div_euclid(DAY_S);
    let fix = format!(
        "renew {name}; clients' certificates are taken over while the process runs, the mesh's at its next start"
    );
    if left_s <= 0 {
        return Finding::error(CHECK, format!("{name} ended {} days ago", -days), fix);
    }
    let says = format!("{name} is valid for another {days} days");
    if days < DAYS_WARNING {
        Finding::warning(CHECK, says, fix)
    } else {
        Finding::ok(CHECK, says)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use runtime::tls::{Authority, NodeName};

    use super::super::Level;
    use super::*;

    #[test]
    fn certificates_are_judged_by_what_is_left() {
        assert_eq!(judge("tls.cert", 90 * DAY_S).level, Level::Ok);
        assert_eq!(judge("tls.cert", 3 * DAY_S).level, Level::Warning);
        let ended = judge("tls.cert", -3 * DAY_S);
        assert_eq!(
            (ended.level, ended.says.as_str()),
            (Level::Error, "tls.cert ended 3 days ago")
        );
    }

    #[test]
    fn a_certificate_with_another_ones_key_is_no_good() {
        let folder = std::env::temp_dir().join(format!("antipode-doctor-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let validity = Duration::from_hours(24 * 30);
        let authority = Authority::generate("m", validity).unwrap();
        let issue = |node: &str| {
            let name = NodeName {
                mesh: "m".to_owned(),
                region: "fra".to_owned(),
                role: "edge".to_owned(),
                node: node.to_owned(),
            };
            authority.issue_into(&folder, &name, validity).unwrap()
        };
        let (one, other) = (issue("one"), issue("other"));
        let levels: Vec<_> = look(&[
            Certificate::new("tls.ca", one.ca.clone()),
            Certificate::with_key("tls.cert", one.cert.clone(), one.key.clone()),
            Certificate::with_key("tls.cert", one.cert.clone(), other.key.clone()),
            Certificate::new("tls.ca", folder.join("nothing.pem")),
        ])
        .into_iter()
        .map(|finding| finding.level)
        .collect();
        let bad = Level::Error;
        assert_eq!(levels, [Level::Ok, Level::Ok, bad, bad]);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
