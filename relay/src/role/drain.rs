//! Drains a relay: the control plane leads rooms around it; it ends when nothing crosses its links any more.

use std::time::Duration;

use proto::control::command::Request;
use proto::control::command_error::Code;
use proto::control::node_message::Message;
use proto::control::{Command, CommandAnswer, CommandError, command_answer};
use runtime::admin::Readiness;
use runtime::shutdown::Shutdown;
use tokio::time::{Instant, MissedTickBehavior};

use crate::control::{Client, Status};
use crate::drain::{Asked, Drain};
use crate::worker::handle::MeshHandle;

/// How long the relay has after SIGTERM: plans lead around it within a second or two.
const WITHIN: Duration = Duration::from_secs(15);
/// It ends when its links have carried nothing for so long.
const QUIET: Duration = Duration::from_secs(3);
/// How often that is looked at.
const TICK: Duration = Duration::from_millis(250);
/// How long the last report has to reach the control plane.
const FAREWELL: Duration = Duration::from_millis(100);

/// Why a node does not stay.
const STOPS: &str = "the node was told to stop (SIGTERM): it does not stay";

/// Does what the control plane orders; answers.
pub(super) fn take(command: Command, client: &Client, drain: &Drain) {
    let mut result = command_answer::Result::Response(Vec::new());
    if let Some(Request::Drain(order)) = &command.request {
        drain.begin(Asked::Operator, Duration::from_millis(order.within_ms), 0);
    } else if matches!(command.request, Some(Request::Undrain(_))) {
        if !drain.cancel() {
            result = command_answer::Result::Error(CommandError {
                code: Code::FailedPrecondition.into(),
                message: STOPS.to_owned(),
                ..CommandError::default()
            });
        }
    } else {
        result = command_answer::Result::Error(CommandError {
            code: Code::InvalidArgument.into(),
            message: "a relay does not know this command".to_owned(),
            ..CommandError::default()
        });
    }
    if command.request_id == 0 {
        return;
    }
    let answer = CommandAnswer {
        request_id: command.request_id,
        result: Some(result),
    };
    // Whoever waits for it hears that the session ended.
    client.send(Message::Answer(answer)).ok();
}

/// Follows orders to drain, and SIGTERM; triggers the shutdown when drained.
pub(super) async fn follow(
    drain: &Drain,
    client: &Client,
    status: impl Fn() -> Status,
    (mesh, readiness): (&MeshHandle, &Readiness),
    shutdown: &Shutdown,
) {
    let mut orders = drain.subscribe();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut by_signal = false;
    let mut busy = Instant::now();
    loop {
        tokio::select! {
            () = shutdown.drain_wanted(), if !by_signal => {
                by_signal = true;
                drain.begin(Asked::Signal, WITHIN, 0);
            }
            _ = orders.changed() => {
                busy = Instant::now();
                let order = *orders.borrow_and_update();
                tracing::info!(draining = order.is_some(), "asked to drain or to stay");
                readiness.set(order.is_none());
                // Without a session the next one begins with a report.
                client.send(Message::Load(status().load)).ok();
            }
            _ = ticks.tick() => {}
        }
        let Some(order) = drain.current() else {
            continue;
        };
        let now = Instant::now();
        if mesh.stats().iter().any(|link| !link.flows.is_empty()) {
            busy = now;
        }
        if now - busy >= QUIET || now >= order.deadline {
            drain.leave();
            client.send(Message::Load(status().load)).ok();
            tokio::time::sleep(FAREWELL).await;
            return shutdown.trigger();
        }
    }
}
