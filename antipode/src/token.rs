//! `antipode token`: an access token for one room, signed here with the key's secret.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::Args;
use control_plane::token::{Grants, SigningKey, Subject, mint};
use proto::check_name;
use proto::control::ListKeysRequest;
use serde_json::{Map, Value};

use crate::admin::Target;

/// Grants by the names of the token's `video` claim.
const GRANTS: [&str; 10] = [
    "roomCreate",
    "roomList",
    "roomJoin",
    "roomAdmin",
    "canPublish",
    "canSubscribe",
    "canPublishData",
    "canPublishSources",
    "canUpdateOwnMetadata",
    "hidden",
];

/// Whom the token is for and what it allows.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Room that may be joined
    #[arg(long)]
    room: String,
    /// Participant identity, unique within the room
    #[arg(long)]
    identity: String,
    /// Name shown to the others
    #[arg(long, default_value = "")]
    name: String,
    /// Anything the application wants the others to know
    #[arg(long, default_value = "")]
    metadata: String,
    /// Attribute that the others see; may be repeated
    #[arg(long = "attribute", value_name = "KEY=VALUE", value_parser = attribute)]
    attributes: Vec<(String, String)>,
    /// How long the token is valid, for example 90s, 30m, 6h, 7d
    #[arg(long, default_value = "6h", value_parser = duration)]
    valid_for: Duration,
    /// Changes a grant, for example `room-admin`, `can-publish=false`, `can-publish-sources=microphone,camera`; may be
    /// repeated. Without any: may join, publish, subscribe and send data
    #[arg(long = "grant", value_name = "NAME[=VALUE]", value_parser = grant)]
    grants: Vec<(String, Value)>,
    /// Checks first, at the control plane, that the API key is one of this project's
    #[arg(long)]
    project: Option<String>,
    /// Where to ask for the project's keys.
    #[command(flatten)]
    target: Target,
    /// API key
    #[arg(long, env = "ANTIPODE_API_KEY", default_value = crate::up::API_KEY)]
    api_key: String,
    /// The key's secret
    #[arg(
        long,
        env = "ANTIPODE_API_SECRET",
        default_value = crate::up::API_SECRET,
        hide_env_values = true
    )]
    api_secret: String,
}

/// Prints the token on standard output.
///
/// # Errors
/// When the key is not of the project that was named, or the token cannot be signed or printed.
pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    if let Some(project) = &options.project {
        check_project(options, project).await?;
    }
    writeln!(std::io::stdout(), "{}", sign(options, SystemTime::now())?)?;
    Ok(())
}

/// A token's project is that of its key. One that is signed with another project's key opens another room of the same name.
async fn check_project(options: &Options, project: &str) -> anyhow::Result<()> {
    let asked = ListKeysRequest {
        project: project.to_owned(),
    };
    let listed = options.target.connect().await?.list_keys(asked).await;
    let listed = listed.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
    let keys: Vec<String> = listed
        .into_inner()
        .keys
        .into_iter()
        .map(|k| k.key)
        .collect();
    let (key, known) = (&options.api_key, keys.join(", "));
    anyhow::ensure!(
        keys.contains(key),
        "{key} is not a key of project {project}; its keys are: {known}. Give one by --api-key, with --api-secret"
    );
    Ok(())
}

fn sign(options: &Options, now: SystemTime) -> anyhow::Result<String> {
    for (what, name) in [("room", &options.room), ("identity", &options.identity)] {
        check_name(name).map_err(|reason| anyhow::anyhow!("--{what} {reason}"))?;
    }
    let subject = Subject {
        identity: options.identity.clone(),
        name: options.name.clone(),
        metadata: options.metadata.clone(),
        attributes: options
            .attributes
            .iter()
            .cloned()
            .collect::<BTreeMap<_, _>>(),
        ..Subject::default()
    };
    let mut claim = Map::new();
    claim.insert("room".to_owned(), options.room.as_str().into());
    claim.insert("roomJoin".to_owned(), true.into());
    claim.extend(options.grants.iter().cloned());
    let grants: Grants = serde_json::from_value(claim.into()).context("bad --grant")?;
    let key = SigningKey {
        key: &options.api_key,
        secret: &options.api_secret,
    };
    Ok(mint(key, &subject, &grants, now, options.valid_for)?)
}

fn attribute(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn grant(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').unwrap_or((text, "true"));
    let plain = |name: &str| name.replace(['-', '_'], "").to_ascii_lowercase();
    let known = GRANTS.into_iter().find(|grant| plain(grant) == plain(name));
    let known = known.ok_or_else(|| format!("known grants: {}", GRANTS.join(", ")))?;
    let value = match (known, value) {
        ("canPublishSources", list) => list.split(',').map(str::trim).collect::<Vec<_>>().into(),
        (_, "true") => true.into(),
        (_, "false") => false.into(),
        _ => return Err("expected true or false".to_owned()),
    };
    Ok((known.to_owned(), value))
}

/// Parses a whole number with a unit: `90s`, `30m`, `6h`, `7d`; without one it is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| "expected for example 90s, 30m, 6h or 7d")?;
    let unit = match text.strip_prefix(digits) {
        Some("" | "s") => 1,
        Some("m") => 60,
        Some("h") => 3_600,
        Some("d") => 86_400,
        _ => return Err("the unit is s, m, h or d".to_owned()),
    };
    number
        .checked_mul(unit)
        .map(Duration::from_secs)
        .ok_or_else(|| "too long".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn claims(flags: &[&str]) -> control_plane::token::Claims {
        let base = [
            "token",
            "--room",
            "R",
            "--identity",
            "ada",
            "--api-key",
            "devkey",
        ];
        let args = base
            .iter()
            .chain(["--api-secret", "secret"].iter())
            .chain(flags);
        let options = Cli::try_parse_from(args).map(|cli| cli.options).unwrap();
        let token = sign(&options, SystemTime::now()).unwrap();
        control_plane::token::verify(&token, |_| Some("secret")).unwrap()
    }

    #[test]
    fn a_plain_token_joins_the_room_for_six_hours() {
        let claims = claims(&[]);
        assert_eq!(
            (claims.sub.as_str(), claims.iss.as_str()),
            ("ada", "devkey")
        );
        assert_eq!(claims.exp - claims.nbf, 6 * 3_600);
        assert_eq!(claims.video, Grants::join("R"));
    }

    #[test]
    fn grants_are_changed_by_name() {
        let claims = claims(&[
            "--grant",
            "room_admin",
            "--grant",
            "can-publish=false",
            "--grant",
            "canPublishSources=microphone,camera",
            "--attribute",
            "team=blue",
            "--valid-for",
            "90s",
        ]);
        assert!(claims.video.room_admin && claims.video.room_join);
        assert_eq!(claims.video.can_publish, Some(false));
        assert_eq!(claims.video.can_publish_sources, ["microphone", "camera"]);
        assert_eq!(
            claims.attributes.get("team").map(String::as_str),
            Some("blue")
        );
        assert_eq!(claims.exp - claims.nbf, 90);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(grant("fly").is_err());
        assert!(grant("hidden=perhaps").is_err());
        for bad in [
            "",
            "h",
            "6y",
            "-1h",
            "99999999999999999999s",
            "9999999999999999999d",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert_eq!(duration("2d"), Ok(Duration::from_hours(48)));
    }
}
