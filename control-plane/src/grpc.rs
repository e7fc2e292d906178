//! The gRPC services for nodes and operators.

mod admin;
mod drain;
mod incoming;
mod keys;
mod replicas;
mod rooms;
mod session;
pub(crate) mod wire;

use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounterVec;
use proto::control::admin_server::AdminServer;
use proto::control::node_session_server::NodeSessionServer;
use proto::control::replicas_server::ReplicasServer;
use proto::control::rooms_server::RoomsServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::dispatch::Dispatch;
use crate::explain::Explainer;
use crate::replicas::Replicas;
use crate::store::{Durable, Ephemeral};

pub use rooms::Rooms;

/// How often an idle connection is asked whether it lives: a node that vanished is seen within this and the next.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// How long it may take to answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long open sessions may take to end at shutdown.
const DRAIN: Duration = Duration::from_secs(2);

/// What the services need.
#[derive(Clone, Debug)]
pub struct Services {
    /// Does what is asked for, wherever it has to be done.
    pub dispatch: Dispatch,
    /// The other control replicas.
    pub replicas: Replicas,
    /// What outlives the process.
    pub durable: Arc<dyn Durable>,
    /// What is known of the moment.
    pub ephemeral: Arc<dyn Ephemeral>,
    /// Explains rooms and placement.
    pub explainer: Explainer,
    /// Answers edges that ask for plans.
    pub rooms: Arc<Rooms>,
    /// Counts connections that were refused, by reason.
    pub refused: IntCounterVec,
}

/// Serves until `shutdown`.
///
/// # Errors
/// When the transport fails or the services' descriptors cannot be read.
pub async fn serve(
    listener: TcpListener,
    services: Services,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_serving::<NodeSessionServer<session::Sessions>>()
        .await;
    health.set_serving::<RoomsServer<Rooms>>().await;
    health
        .set_serving::<ReplicasServer<replicas::Service>>()
        .await;
    health.set_serving::<AdminServer<admin::Admin>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::control::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let Services {
        dispatch,
        replicas,
        durable,
        ephemeral,
        explainer,
        rooms,
        refused,
    } = services;
    let sessions = session::Sessions::new(dispatch.handle().clone(), explainer.clone());
    let between = replicas::Service::new(replicas, Arc::clone(&ephemeral), explainer.clone());
    let authority: Arc<dyn Authority> = Arc::new(dispatch);
    let admin = admin::Admin::new((durable, ephemeral), authority, explainer);
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(1_024)
        .add_service(health_service)
        .add_service(reflection)
        .add_service(NodeSessionServer::new(sessions))
        .add_service(RoomsServer::from_arc(rooms))
        .add_service(ReplicasServer::new(between))
        .add_service(AdminServer::new(admin));
    let incoming = incoming::incoming(listener, refused);
    let serving = server.serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return Ok(ended?),
        () = shutdown.cancelled() => {}
    }
    match tokio::time::timeout(DRAIN, serving).await {
        Ok(ended) => Ok(ended?),
        // Whoever has not left by now is cut off.
        Err(_) => Ok(()),
    }
}
