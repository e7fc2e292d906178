//! A node's session against a real gRPC server that comes and goes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use proto::RoomId;
use proto::control::control_message::Message;
use proto::control::node_message::Message as Said;
use proto::control::node_session_server::{NodeSession, NodeSessionServer};
use proto::control::rooms_server::{Rooms, RoomsServer};
use proto::control::{
    AssignRequest, AssignResponse, ControlMessage, Hello, NodeMessage, PlaceRequest, PlaceResponse,
    RoomClosed, RoomPlan, Welcome,
};
use relay::control::{Client, Config, Error, Status};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Streaming};

const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone)]
struct Control {
    heard: mpsc::Sender<Said>,
}

#[tonic::async_trait]
impl NodeSession for Control {
    type OpenStream = Pin<Box<dyn Stream<Item = Result<ControlMessage, tonic::Status>> + Send>>;

    async fn open(
        &self,
        request: Request<Streaming<NodeMessage>>,
    ) -> Result<Response<Self::OpenStream>, tonic::Status> {
        let (messages, queue) = mpsc::channel(16);
        let welcome = Message::Welcome(Welcome {
            control_id: "c".to_owned(),
            mesh: "m".to_owned(),
        });
        messages
            .send(Ok(ControlMessage {
                message: Some(welcome),
            }))
            .await
            .unwrap();
        let heard = self.heard.clone();
        let mut said = request.into_inner();
        tokio::spawn(async move {
            // Holds the answering half open for as long as the node talks.
            let _open = messages;
            while let Some(Ok(message)) = said.next().await {
                heard.send(message.message.unwrap()).await.unwrap();
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }
}

#[tonic::async_trait]
impl Rooms for Control {
    async fn assign(
        &self,
        request: Request<AssignRequest>,
    ) -> Result<Response<AssignResponse>, tonic::Status> {
        let AssignRequest { room, node_id, .. } = request.into_inner();
        let plan = RoomPlan {
            room,
            epoch: 3,
            members: vec![node_id],
            ..RoomPlan::default()
        };
        Ok(Response::new(AssignResponse {
            plan: Some(plan),
            created_at_ms: 1,
        }))
    }

    async fn place(
        &self,
        request: Request<PlaceRequest>,
    ) -> Result<Response<PlaceResponse>, tonic::Status> {
        let PlaceRequest { identity, .. } = request.into_inner();
        Err(tonic::Status::not_found(identity))
    }
}

/// A server with a runtime of its own, so that it can be killed with all its connections.
fn serve(address: SocketAddr) -> (SocketAddr, mpsc::Receiver<Said>, Runtime) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let listener = std::net::TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let (heard, said) = mpsc::channel(64);
    let control = Control { heard };
    runtime.spawn(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        tonic::transport::Server::builder()
            .add_service(NodeSessionServer::new(control.clone()))
            .add_service(RoomsServer::new(control))
            .serve_with_incoming(TcpListenerStream::new(listener))
            .await
            .unwrap();
    });
    (address, said, runtime)
}

async fn welcome(messages: &mut mpsc::Receiver<ControlMessage>) {
    let message = tokio::time::timeout(PATIENCE, messages.recv())
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(message.message, Some(Message::Welcome(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_outlives_its_server() {
    // Nobody listens on the first address: the second replica is taken.
    let unused = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let (address, mut said, server) = serve("127.0.0.1:0".parse().unwrap());
    let config = Config {
        urls: vec![format!("http://{unused}"), format!("http://{address}")],
        srv: None,
        hello: Hello {
            node_id: "edge-a".to_owned(),
            ..Hello::default()
        },
    };
    let shutdown = CancellationToken::new();
    let (client, mut messages) =
        Client::connect(config, Status::default, shutdown.clone()).unwrap();
    welcome(&mut messages).await;
    assert!(matches!(said.recv().await, Some(Said::Hello(hello)) if hello.node_id == "edge-a"));
    assert!(matches!(said.recv().await, Some(Said::Load(_))));
    assert!(matches!(said.recv().await, Some(Said::Links(_))));
    client
        .send(Said::RoomClosed(RoomClosed {
            room: "r".to_owned(),
            room_sid: "RM_r".to_owned(),
        }))
        .unwrap();
    assert!(matches!(said.recv().await, Some(Said::RoomClosed(_))));
    let plan = client
        .assign(&RoomId::from("standup"), &[])
        .await
        .unwrap()
        .plan
        .unwrap();
    assert_eq!(
        (plan.room.as_str(), plan.members),
        ("standup", vec!["edge-a".to_owned()])
    );

    server.shutdown_background();
    tokio::time::timeout(PATIENCE, async {
        while client.is_connected() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    let refused = client.send(Said::RoomClosed(RoomClosed::default()));
    assert!(matches!(refused, Err(Error::Disconnected)));
    assert!(matches!(
        client.assign(&RoomId::from("standup"), &[]).await,
        Err(Error::Disconnected)
    ));

    let (_, mut said, server) = serve(address);
    welcome(&mut messages).await;
    assert!(matches!(said.recv().await, Some(Said::Hello(_))));
    client.assign(&RoomId::from("standup"), &[]).await.unwrap();
    shutdown.cancel();
    assert!(
        tokio::time::timeout(PATIENCE, messages.recv())
            .await
            .unwrap()
            .is_none()
    );
    server.shutdown_background();
}
