//! The load generator: publishers and subscribers in one process against real edges, and what it
//! cost everybody.

mod keyframes;
mod metrics;
mod report;
mod run;

use std::time::Duration;

use clap::Args;

use crate::client::Stack;
use crate::signal::Version;

pub use report::{Quantiles, Report};
pub use run::{Error, run};

/// What to do to which edge.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Edge (or gateway) that publishers join, http(s):// or ws(s)://
    #[arg(long)]
    pub url: String,
    /// Edge that subscribers join, when it is another one
    #[arg(long)]
    pub subscriber_url: Option<String>,
    /// Clients that publish
    #[arg(long, default_value_t = 1)]
    pub publishers: u32,
    /// Clients that subscribe to all publishers
    #[arg(long, default_value_t = 10)]
    pub subscribers: u32,
    /// Length of the measurement
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// Time between the last join and the measurement
    #[arg(long, default_value_t = 2)]
    pub warm_up_seconds: u64,
    /// Video rate of a publisher in bits per second, with k or M; 0 = no video
    #[arg(long, default_value = "2M", value_parser = parse_bitrate)]
    pub bitrate: u64,
    /// Publish audio too
    #[arg(long)]
    pub audio: bool,
    /// Room; a name of its own unless given
    #[arg(long)]
    pub room: Option<String>,
    /// API key that signs the tokens
    #[arg(long, env = "ANTIPODE_API_KEY", default_value = "devkey")]
    pub api_key: String,
    /// Secret of the API key
    #[arg(
        long,
        env = "ANTIPODE_API_SECRET",
        default_value = "secret",
        hide_env_values = true
    )]
    pub api_secret: String,
    /// Admin address of an edge whose cost is to be measured (repeat for several)
    #[arg(long)]
    pub admin: Vec<String>,
    /// What the clients' media runs on
    #[arg(long, value_enum, default_value_t)]
    pub stack: Stack,
    /// Signalling path
    #[arg(long, value_enum, default_value_t)]
    pub signalling: Version,
    /// Clients that join at the same time
    #[arg(long, default_value_t = 8)]
    pub join_concurrency: usize,
    /// Let all subscribers begin to join within this many seconds, whether or not earlier ones are done
    #[arg(long, conflicts_with = "join_concurrency", value_parser = parse_seconds)]
    pub join_within: Option<Duration>,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_invalid| format!("{text} is no number"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// Reads `2M`, `500k` or `2000000` as bits per second.
///
/// # Errors
/// When it is no number, or too large.
pub fn parse_bitrate(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.trim() {
        text if text.ends_with(['k', 'K']) => (text.trim_end_matches(['k', 'K']), 1_000),
        text if text.ends_with(['m', 'M']) => (text.trim_end_matches(['m', 'M']), 1_000_000),
        text => (text, 1),
    };
    let value: f64 = digits
        .parse()
        .map_err(|_invalid| format!("{text} is no bit rate"))?;
    let bits = value * f64::from(factor);
    // 10 Gbit/s: beyond any stream.
    if !(0.0..=1e10).contains(&bits) {
        return Err(format!("{text} is out of range"));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be within 0..=1e10 above"
    )]
    Ok(bits as u64)
}

#[cfg(test)]
mod tests;
