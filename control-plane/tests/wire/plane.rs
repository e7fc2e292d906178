//! A control plane on free ports with a temporary folder, and nodes that speak to it.

use std::time::Duration;

use control_plane::{Config, Server};
use proto::control::control_message::Message as Down;
use proto::control::node_message::Message as Up;
use proto::control::node_session_client::NodeSessionClient;
use proto::control::rooms_client::RoomsClient;
use proto::control::{
    AssignRequest, AssignResponse, ControlMessage, Hello, NodeMessage, Role, RoomPlan,
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// Nothing in these tests takes that long.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Plane {
    pub(crate) http: String,
    pub(crate) registry: prometheus::Registry,
    pub(crate) grpc: String,
    server: Server,
    shutdown: CancellationToken,
    folder: TempDir,
}

impl Plane {
    pub(crate) async fn start(adjust: impl FnOnce(&mut Config)) -> Self {
        Self::start_in(tempfile::tempdir().expect("temporary folder"), adjust).await
    }

    pub(crate) async fn restart(folder: TempDir) -> Self {
        Self::start_in(folder, |_| {}).await
    }

    pub(crate) async fn start_in(folder: TempDir, adjust: impl FnOnce(&mut Config)) -> Self {
        let free = ([127, 0, 0, 1], 0).into();
        let mut config = Config {
            grpc: free,
            http: free,
            region: "fra".to_owned(),
            data_dir: folder.path().join("control"),
            keys: [("devkey".to_owned(), "secret".into())].into(),
            development: true,
            ..Config::default()
        };
        adjust(&mut config);
        let registry = prometheus::Registry::new();
        let shutdown = CancellationToken::new();
        let server = Server::start(&config, &registry, shutdown.clone())
            .await
            .expect("starts");
        let http = format!("http://{}", server.http_addr());
        let grpc = format!("http://{}", server.grpc_addr());
        Self {
            http,
            registry,
            grpc,
            server,
            shutdown,
            folder,
        }
    }

    /// Stops it; a restart takes the folder.
    pub(crate) async fn stop(self) -> TempDir {
        self.shutdown.cancel();
        self.server.stopped().await.expect("stops cleanly");
        self.folder
    }

    /// Address of the gRPC services.
    pub(crate) fn grpc_address(&self) -> std::net::SocketAddr {
        self.server.grpc_addr()
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(self.grpc.clone()).expect("a URL");
        endpoint
            .tcp_nodelay(true)
            .connect()
            .await
            .expect("connects")
    }

    pub(crate) async fn connect(&self, hello: Hello) -> FakeNode {
        self.open(Up::Hello(hello)).await.expect("opens")
    }

    pub(crate) async fn open(&self, first: Up) -> Result<FakeNode, Status> {
        let (says, queue) = mpsc::channel(64);
        FakeNode::send(&says, first).await;
        let mut client = NodeSessionClient::new(self.channel().await);
        let hears = client.open(ReceiverStream::new(queue)).await?.into_inner();
        Ok(FakeNode { says, hears })
    }

    pub(crate) async fn assign(&self, node: &str, room: &str) -> Result<AssignResponse, Status> {
        let request = AssignRequest {
            room: room.to_owned(),
            node_id: node.to_owned(),
            room_config: Vec::new(),
        };
        let mut client = RoomsClient::new(self.channel().await);
        client
            .assign(request)
            .await
            .map(tonic::Response::into_inner)
    }
}

/// A node's end of a session.
pub(crate) struct FakeNode {
    says: mpsc::Sender<NodeMessage>,
    hears: Streaming<ControlMessage>,
}

impl FakeNode {
    async fn send(says: &mpsc::Sender<NodeMessage>, message: Up) {
        says.send(NodeMessage {
            message: Some(message),
        })
        .await
        .expect("session is open");
    }

    pub(crate) async fn say(&self, message: Up) {
        Self::send(&self.says, message).await;
    }

    /// Skips messages until one is wanted.
    pub(crate) async fn expect<T>(&mut self, wanted: impl Fn(Down) -> Option<T>) -> T {
        let search = async {
            loop {
                let message = self
                    .hears
                    .message()
                    .await
                    .expect("open")
                    .expect("not ended");
                if let Some(found) = wanted(message.message.expect("a message")) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, search)
            .await
            .expect("heard in time")
    }

    /// Waits for a peer list of this length.
    pub(crate) async fn peers(&mut self, count: usize) {
        self.expect(|m| match m {
            Down::Peers(list) if list.peers.len() == count => Some(()),
            _ => None,
        })
        .await;
    }

    /// Waits for a plan with so many members.
    pub(crate) async fn plan_of(&mut self, members: usize) -> RoomPlan {
        self.expect(|m| match m {
            Down::Plan(plan) if plan.members.len() == members => Some(plan),
            _ => None,
        })
        .await
    }

    /// Waits for the end of the session.
    pub(crate) async fn ended(&mut self) -> Status {
        let search = async {
            loop {
                match self.hears.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Status::ok("ended"),
                    Err(status) => return status,
                }
            }
        };
        tokio::time::timeout(PATIENCE, search)
            .await
            .expect("ends in time")
    }
}

pub(crate) fn edge(region: &str, incarnation: u64) -> Hello {
    Hello {
        node_id: format!("edge-{region}"),
        incarnation,
        role: Role::Edge.into(),
        region: region.to_owned(),
        link_addresses: vec!["127.0.0.1:1".to_owned()],
        client_url: format!("ws://127.0.0.1:7880/{region}"),
        capacity: 100,
        ..Hello::default()
    }
}

pub(crate) fn relay(region: &str, incarnation: u64) -> Hello {
    Hello {
        node_id: format!("relay-{region}"),
        role: Role::Relay.into(),
        client_url: String::new(),
        ..edge(region, incarnation)
    }
}
