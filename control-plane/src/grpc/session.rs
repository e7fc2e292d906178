//! `NodeSession`: one stream per node for as long as it lives.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use proto::control::node_message::Message;
use proto::control::node_session_server::NodeSession;
use proto::control::{ClientReport, ControlMessage, Hello, NodeMessage};
use tonic::{Request, Response, Status, Streaming};

use crate::actor::Handle;
use crate::explain::Explainer;
use crate::outbox::Outbox;
use crate::registry::SessionId;

/// How long a new session may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// The service.
#[derive(Debug)]
pub(super) struct Sessions {
    handle: Handle,
    explainer: Explainer,
}

impl Sessions {
    pub(super) fn new(handle: Handle, explainer: Explainer) -> Self {
        Self { handle, explainer }
    }
}

#[tonic::async_trait]
impl NodeSession for Sessions {
    type OpenStream = Pin<Box<dyn Stream<Item = Result<ControlMessage, Status>> + Send>>;

    async fn open(
        &self,
        request: Request<Streaming<NodeMessage>>,
    ) -> Result<Response<Self::OpenStream>, Status> {
        let mut said = request.into_inner();
        let hello = tokio::time::timeout(HELLO_TIMEOUT, hello(&mut said)).await;
        let hello = hello.unwrap_or_else(|_| Err(Status::deadline_exceeded("no hello")))?;
        let outbox = Arc::new(Outbox::default());
        let learner = Learner {
            region: hello.region.clone(),
            explainer: self.explainer.clone(),
        };
        // The node learns that its session is open once the core is sure to hear of it before any call it makes.
        let connected = self.handle.connect(hello, Arc::clone(&outbox)).await;
        let session = connected.map_err(|stopped| Status::unavailable(stopped.to_string()))?;
        tokio::spawn(receive(
            self.handle.clone(),
            session,
            (said, learner),
            Arc::clone(&outbox),
        ));
        let hang_up = HangUp(outbox);
        // The closing status is the last item.
        let messages = futures_util::stream::unfold(Some(hang_up), |open| async move {
            let hang_up = open?;
            match hang_up.0.next().await {
                Ok(message) => Some((Ok(message), Some(hang_up))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(messages)))
    }
}

/// Closes the session when the transport drops its sending half.
struct HangUp(Arc<Outbox>);

impl Drop for HangUp {
    fn drop(&mut self) {
        self.0.close(Status::cancelled("the node hung up"));
    }
}

/// Hands what an edge measured of its clients to placement.
struct Learner {
    region: String,
    explainer: Explainer,
}

impl Learner {
    fn learn(&self, report: &ClientReport) {
        self.explainer.placer().learn(&self.region, &report.rtts);
    }
}

/// Takes what one node says until either side ends the session.
async fn receive(
    handle: Handle,
    session: SessionId,
    (mut said, learner): (Streaming<NodeMessage>, Learner),
    outbox: Arc<Outbox>,
) {
    loop {
        let message = tokio::select! {
            message = said.message() => message,
            () = outbox.closed() => break,
        };
        match message {
            Ok(Some(NodeMessage {
                message: Some(Message::Clients(report)),
            })) => learner.learn(&report),
            Ok(Some(NodeMessage {
                message: Some(message),
            })) => {
                if handle.message(session, message).await.is_err() {
                    break;
                }
            }
            // A message of a later version.
            Ok(Some(NodeMessage { message: None })) => {}
            Ok(None) => break,
            Err(status) => {
                tracing::debug!(session = session.0, %status, "session broke");
                break;
            }
        }
    }
    // When the task has ended there is nobody left to tell.
    handle.disconnect(session).await.ok();
    outbox.close(Status::ok("session ended"));
}

async fn hello(said: &mut Streaming<NodeMessage>) -> Result<Hello, Status> {
    match said.message().await? {
        Some(NodeMessage {
            message: Some(Message::Hello(hello)),
        }) => Ok(hello),
        Some(_) => Err(Status::invalid_argument(
            "the first message must be a hello",
        )),
        None => Err(Status::cancelled("session ended before its hello")),
    }
}
