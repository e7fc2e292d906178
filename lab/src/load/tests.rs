//! Options and reports.

use super::*;
use clap::Parser;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

#[test]
fn bit_rates_take_suffixes() {
    assert_eq!(parse_bitrate("2M"), Ok(2_000_000));
    assert_eq!(parse_bitrate("1.5m"), Ok(1_500_000));
    assert_eq!(parse_bitrate("500k"), Ok(500_000));
    assert_eq!(parse_bitrate("0"), Ok(0));
    assert!(parse_bitrate("fast").is_err());
    assert!(parse_bitrate("-1M").is_err());
    assert!(parse_bitrate("NaN").is_err());
}

#[test]
fn a_url_is_enough() {
    let cli = Cli::parse_from(["load", "--url", "http://127.0.0.1:7880"]);
    assert_eq!(cli.options.bitrate, 2_000_000);
    assert_eq!(cli.options.stack, Stack::Light);
    assert_eq!(cli.options.signalling, Version::V1);
    assert!(Cli::try_parse_from(["load"]).is_err());
}
