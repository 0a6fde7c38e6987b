//! One connection to a coordinator, from the first word to the first answer.

use std::time::Duration;

use proto::v1::{
    self, CoordinatorMessage, WorkerMessage, coordinator_message, worker_message::Message,
    workers_client::WorkersClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Endpoint};

use super::SessionError;

/// Messages between this process and its socket.
const QUEUE: usize = 16;

/// A session that both sides have agreed to.
pub struct Line {
    pub incoming: Streaming<CoordinatorMessage>,
    pub outgoing: mpsc::Sender<WorkerMessage>,
}

/// Joins the coordinator at `address`. `patience`: how long the other machine may be silent, now and later.
pub async fn join(address: String, join: v1::Join, patience: Duration) -> Result<(Line, v1::Welcome), SessionError> {
    let unreachable = |source| SessionError::Unreachable { address: address.clone(), source };
    let channel = Endpoint::from_shared(address.clone())
        .map_err(unreachable)?
        .connect_timeout(patience)
        // A machine that is gone without a word is found out; a closed connection is known at once anyway.
        .http2_keep_alive_interval(patience)
        .keep_alive_timeout(patience)
        .connect()
        .await
        .map_err(unreachable)?;
    let (outgoing, queued) = mpsc::channel(QUEUE);
    let _ = outgoing.send(WorkerMessage { message: Some(Message::Join(join)), ..Default::default() }).await;
    let closed = |status: tonic::Status| SessionError::Closed(status.message().to_owned());
    let mut client = WorkersClient::new(channel).max_decoding_message_size(1 << 28);
    let mut incoming = client.session(ReceiverStream::new(queued)).await.map_err(closed)?.into_inner();
    let first = incoming.message().await.map_err(closed)?.and_then(|message| message.message);
    match first {
        Some(coordinator_message::Message::Welcome(welcome)) => Ok((Line { incoming, outgoing }, welcome)),
        Some(coordinator_message::Message::Refused(v1::Refused { reason, hint })) => {
            Err(SessionError::Refused { reason, hint })
        }
        Some(_) => Err(SessionError::Closed("it answered out of turn".into())),
        None => Err(SessionError::Closed("it ended".into())),
    }
}
