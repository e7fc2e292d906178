//! `antipode explain …`: why a room crosses the mesh as it does, and why people are sent where they are.

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use control_plane::explain::RoomExplanation;
use control_plane::placement::{Explanation, Placed};
use control_plane::planner::{Candidate, Decision, Pair, PlanExplanation, Replayed};
use geo::measured::Source;
use proto::control::ExplainRequest;

use crate::admin::{Target, row, table};

/// Flags of `antipode explain`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: Option<What>,
    /// Address of a would-be client
    #[arg(long, global = true, value_name = "IP", conflicts_with = "region")]
    address: Option<IpAddr>,
    /// Address of the name server that asks for it
    #[arg(long, global = true, value_name = "IP")]
    resolver: Option<IpAddr>,
    /// The region a would-be client is in, instead of an address
    #[arg(long, global = true, value_name = "CODE")]
    region: Option<String>,
    /// Writes the decision that the room's plan is from into a file
    #[arg(long, global = true, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Solves a decision that was recorded again and compares; needs no mesh. Exit code 1 when the outcome differs
    #[arg(long, value_name = "FILE", conflicts_with_all = ["address", "resolver", "region", "record"])]
    replay: Option<PathBuf>,
    /// Where to ask.
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A room that lives
    Room {
        /// Its name
        room: String,
        /// Where to ask.
        #[command(flatten)]
        target: Target,
    },
}

/// Runs `antipode explain …`.
///
/// # Errors
/// When the control plane does not answer or knows nothing of the room, or a recorded decision is not reproduced.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    if let Some(file) = &options.replay {
        return replay(file);
    }
    let (room, target) = match options.what {
        Some(What::Room { room, target }) => (Some(room), target),
        None => (None, options.target),
    };
    anyhow::ensure!(
        room.is_some() || options.address.is_some() || options.region.is_some(),
        "say what: `antipode explain room NAME`, or a would-be client by --address or --region"
    );
    anyhow::ensure!(
        room.is_some() || options.record.is_none(),
        "--record needs a room"
    );
    let text = |address: Option<IpAddr>| address.map_or_else(String::new, |ip| ip.to_string());
    let request = ExplainRequest {
        room: room.unwrap_or_default(),
        address: text(options.address),
        resolver: text(options.resolver),
        region: options.region.unwrap_or_default(),
        decision: options.record.is_some(),
    };
    let answer = target.connect().await?.explain(request).await;
    let answer = answer.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
    let json = answer.into_inner().json;
    let explanation: RoomExplanation =
        serde_json::from_str(&json).context("the control plane is of another version")?;
    if let Some(file) = &options.record {
        let decision = explanation
            .decision
            .as_ref()
            .context("the room does not live")?;
        let record = serde_json::to_string_pretty(decision)?;
        std::fs::write(file, record).with_context(|| file.display().to_string())?;
    }
    let mut out = std::io::stdout().lock();
    if target.json() {
        writeln!(out, "{json}")?;
    } else {
        out.write_all(shown(&explanation).as_bytes())?;
    }
    Ok(())
}

/// Solves a recorded decision again.
fn replay(file: &Path) -> anyhow::Result<()> {
    let record = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let decision: Decision = serde_json::from_str(&record)
        .with_context(|| format!("{} is not a recorded decision", file.display()))?;
    let replayed = decision
        .replay()
        .with_context(|| file.display().to_string())?;
    let problem = &decision.problem;
    let head = format!(
        "room {}, epoch {}: {} members, {} candidates between, policy {}",
        problem.room,
        decision.epoch,
        problem.members,
        problem.nodes.len().saturating_sub(problem.members),
        problem.policy
    );
    match replayed {
        Replayed::Identical => {
            writeln!(std::io::stdout(), "{head}\nreplayed: identical")?;
            Ok(())
        }
        Replayed::Different(again) => anyhow::bail!(
            "{head}\nreplayed: DIFFERENT\nrecorded: {}\nnow:      {}",
            serde_json::to_string(&decision.solution)?,
            serde_json::to_string(&again)?
        ),
    }
}

/// An explanation for people.
fn shown(explanation: &RoomExplanation) -> String {
    let mut text = String::new();
    if let Some(plan) = &explanation.plan {
        let room = explanation.room.as_deref().unwrap_or_default();
        text.push_str(&format!(
            "room {room}  epoch {}  {}\n",
            explanation.epoch,
            head(plan)
        ));
        for pair in &plan.pairs {
            text.push_str(&shown_pair(pair));
        }
    }
    for Placed {
        identity,
        explanation,
        ..
    } in &explanation.placed
    {
        text.push_str(&format!("\n{identity} was sent to "));
        text.push_str(&shown_placement(explanation));
    }
    if let Some(would_be) = &explanation.would_be {
        text.push_str("\nsomebody who joined now would be sent to ");
        text.push_str(&shown_placement(would_be));
    }
    if let Some(why) = &explanation.no_edge {
        text.push_str(&format!(
            "\nsomebody who joined now would be sent nowhere: {why}\n"
        ));
    }
    let placements = explanation.placed.iter().map(|placed| &placed.explanation);
    let mut told: Vec<_> = placements
        .chain(&explanation.would_be)
        .filter_map(|placement| placement.attribution.as_ref())
        .collect();
    told.sort_unstable();
    told.dedup();
    for attribution in told {
        text.push_str(&format!("\n{attribution}\n"));
    }
    text
}

fn head(plan: &PlanExplanation) -> String {
    let figures = plan.figures;
    let usd = |micro: u64| f64::from(u32::try_from(micro).unwrap_or(u32::MAX)) / 1e6;
    let ms = |us: u32| f64::from(us) / 1e3;
    let mut text = format!("policy {}", plan.policy);
    if plan.policy == control_plane::RoomPolicy::Auto {
        text.push_str(&format!(", may add {} ms", plan.bounds.added_ms));
        if plan.bounds.pair_ms_max > 0 {
            text.push_str(&format!(" up to {} ms", plan.bounds.pair_ms_max));
        }
    }
    if !plan.pairs.is_empty() {
        text.push_str(&format!(
            "\nround trip mean {:.1} ms (straight {:.1}), worst {:.1} ms; links cost {:.3} $ per GB published (straight {:.3})",
            ms(figures.mean_us),
            ms(figures.straight_mean_us),
            ms(figures.worst_us),
            usd(figures.price_micro_usd),
            usd(figures.straight_price_micro_usd),
        ));
    }
    if plan.kept {
        text.push_str("\nkept from before: what would be better is not better by enough");
    }
    text
}

fn shown_pair(pair: &Pair) -> String {
    let backup = pair.backup.as_ref().map_or("none", |node| node.as_str());
    let mut rows = vec![row([
        "", "WAY", "RTT", "REPAIRS", "LOAD", "TOTAL ms", "$/GB", "",
    ])];
    rows.extend(pair.candidates.iter().map(shown_way));
    format!(
        "\n{} to {}, backup {backup}\n{}",
        pair.from,
        pair.to,
        table(&rows)
    )
}

fn shown_way(way: &Candidate) -> Vec<String> {
    let through: Vec<_> = way.through.iter().map(|node| node.as_str()).collect();
    let name = if through.is_empty() {
        "straight".to_owned()
    } else {
        format!("over {}", through.join(", "))
    };
    let note = if way.down {
        "down"
    } else if !way.within_bounds {
        "too slow for its bound"
    } else if way.measured {
        "measured"
    } else {
        "by distance"
    };
    row([
        if way.chosen { "*" } else { "" },
        &name,
        &format!("{:.1}", way.rtt_ms),
        &format!("{:.1}", way.repair_ms),
        &format!("{:.1}", way.load_ms),
        &format!("{:.1}", way.total_ms()),
        &format!("{:.3}", way.usd_per_gb),
        note,
    ])
}

fn shown_placement(placement: &Explanation) -> String {
    let mut rows = vec![row([
        "", "EDGE", "REGION", "CLIENT", "ROOM", "LOAD", "PRICE", "TOTAL ms", "",
    ])];
    for (index, edge) in placement.candidates.iter().enumerate() {
        let client = edge.client.map_or_else(
            || "?".to_owned(),
            |client| {
                let mark = match client.source {
                    Source::Model => "",
                    Source::Corrected => "~",
                    Source::Measured => "=",
                };
                format!("{:.1}{mark}", edge.client_ms)
            },
        );
        rows.push(row([
            if index == 0 { "*" } else { "" },
            &edge.node_id,
            &edge.region,
            &client,
            &format!("{:.1}", edge.room_ms),
            &format!("{:.1}", edge.load_ms),
            &format!("{:.1}", edge.price_ms),
            &format!("{:.1}", edge.total_ms),
            edge.excluded.as_deref().unwrap_or(""),
        ]));
    }
    let mut client = placement.client.to_string();
    if let Some(network) = &placement.client.network {
        client.push_str(&format!(" ({network})"));
    }
    if !placement.client.note.is_empty() {
        client.push_str(&format!("; {}", placement.client.note));
    }
    format!(
        "{}: {}\nclient: {client}\n{}",
        placement.node_id,
        placement.reason,
        table(&rows)
    )
}

#[cfg(test)]
mod tests {
    use control_plane::planner::{Problem, solve};

    use super::*;

    fn decision() -> Decision {
        let problem: Problem = serde_json::from_value(serde_json::json!({
            "version": 1, "room": "R", "policy": "auto", "members": 2, "previous": null,
            "bounds": {"added_ms": 0, "pair_ms_max": 0},
            "nodes": [
                {"id": "edge-fra", "region": "fra", "role": "edge", "load_permille": 0, "link_micro_usd": 20_000},
                {"id": "edge-syd", "region": "syd", "role": "edge", "load_permille": 0, "link_micro_usd": 98_000},
                {"id": "relay-sin", "region": "sin", "role": "relay", "load_permille": 0, "link_micro_usd": 90_000},
            ],
            "links": [
                {"rtt_us": 282_000, "loss_ppm": 0, "down": true, "measured": true},
                {"rtt_us": 178_000, "loss_ppm": 0, "down": false, "measured": true},
                {"rtt_us": 91_000, "loss_ppm": 0, "down": false, "measured": false},
            ],
        }))
        .unwrap();
        Decision {
            epoch: 3,
            solution: solve(&problem),
            problem,
        }
    }

    #[test]
    fn plans_are_shown_with_every_way() {
        let decision = decision();
        let plan = control_plane::planner::explain(&decision.problem, &decision.solution);
        let explanation = RoomExplanation {
            room: Some("R".to_owned()),
            epoch: 3,
            plan: Some(plan),
            placed: Vec::new(),
            would_be: None,
            no_edge: Some("no edge is ready".to_owned()),
            decision: None,
        };
        let text = shown(&explanation);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "room R  epoch 3  policy auto, may add 0 ms");
        assert!(
            text.contains("edge-fra to edge-syd, backup none") || text.contains("backup edge-syd"),
            "{text}"
        );
        assert!(text.contains("*  over relay-sin  269.0"), "{text}");
        assert!(
            text.lines()
                .any(|line| line.contains("straight") && line.ends_with("down")),
            "{text}"
        );
        assert!(text.ends_with("nowhere: no edge is ready\n"));
    }

    #[test]
    fn recorded_decisions_are_replayed_or_refused() {
        let file = std::env::temp_dir().join(format!("antipode-replay-{}", std::process::id()));
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        let mut decision = decision();
        write(&serde_json::to_string(&decision).unwrap());
        replay(&file).unwrap();
        decision.solution.figures.mean_us += 1;
        write(&serde_json::to_string(&decision).unwrap());
        assert!(replay(&file).unwrap_err().to_string().contains("DIFFERENT"));
        decision.problem.links.clear();
        write(&serde_json::to_string(&decision).unwrap());
        assert!(format!("{:#}", replay(&file).unwrap_err()).contains("do not fit together"));
        write("{}");
        assert!(format!("{:#}", replay(&file).unwrap_err()).contains("not a recorded decision"));
        std::fs::remove_file(&file).unwrap();
    }
}
