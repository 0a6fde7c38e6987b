//! One worker's session: from its `Join` to its end. Messages become calls to the driver here; nothing is decided.

use std::{path::PathBuf, time::Duration};

use proto::{
    Deadlines, Generation, WorkerId,
    v1::{self, coordinator_message, job_ended, worker_message},
};
use tokio::{
    sync::oneshot,
    time::{error::Elapsed, timeout},
};
use tonic::{Status, Streaming};

use crate::{
    inbox::{Call, Inbox},
    pool::Outbox,
    refusal::{Refusal, RefusalKind},
    run::{Holding, JobEnd, Order, Report, Staged},
};

#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    /// How long a new session may be silent.
    pub join_within: Duration,
    pub deadlines: Deadlines,
}

type Incoming = Streaming<v1::WorkerMessage>;

/// Lives as long as the session does.
pub async fn serve(inbox: Inbox, rhythm: Rhythm, mut incoming: Incoming, outbox: Outbox) {
    let (worker, hung_up) = match welcome(&inbox, rhythm, &mut incoming, &outbox).await {
        Ok(joined) => joined,
        Err(refusal) => {
            let refused = v1::Refused { reason: refusal.message, hint: refusal.hint };
            let message = Some(coordinator_message::Message::Refused(refused));
            // The queue is empty: there is room.
            let _ = outbox.try_send(Ok(v1::CoordinatorMessage { message }));
            return;
        }
    };
    // The pool's is now the only one: when it goes, so does the stream to the worker.
    drop(outbox);
    tokio::select! {
        biased;
        _ = hung_up => {}
        why = listen(&inbox, rhythm, &mut incoming, worker) => inbox.tell(Call::Left { worker, why }).await,
    }
}

async fn welcome(
    inbox: &Inbox,
    rhythm: Rhythm,
    incoming: &mut Incoming,
    outbox: &Outbox,
) -> Result<(WorkerId, oneshot::Receiver<()>), Refusal> {
    let invalid = |message: String| Refusal::new(RefusalKind::Invalid, message, "is this a lockstep worker?");
    let about = match timeout(rhythm.join_within, incoming.message()).await {
        Ok(Ok(Some(v1::WorkerMessage { message: Some(worker_message::Message::Join(join)), .. }))) => join,
        Ok(Ok(_)) => return Err(invalid("the first message of a session must be `Join`".into())),
        Ok(Err(status)) => return Err(invalid(format!("session broke before `Join`: {}", status.message()))),
        Err(Elapsed { .. }) => {
            let seconds = rhythm.join_within.as_secs_f64();
            return Err(invalid(format!("no `Join` came within {seconds} s")));
        }
    };
    let (hang_up, hung_up) = oneshot::channel();
    let outbox = outbox.clone();
    let worker = inbox.ask(|reply| Call::Join { about, outbox, hang_up, reply }).await?;
    Ok((worker, hung_up))
}

/// Until the worker is gone; says why.
async fn listen(inbox: &Inbox, rhythm: Rhythm, incoming: &mut Incoming, worker: WorkerId) -> String {
    let patience = rhythm.deadlines.lost();
    loop {
        match timeout(patience, incoming.message()).await {
            Ok(Ok(Some(message))) => {
                if let Some(call) = understood(worker, message) {
                    inbox.tell(call).await;
                }
            }
            Ok(Ok(None)) => return "session closed".into(),
            Ok(Err(status)) => return broken(&status),
            Err(Elapsed { .. }) => return format!("no heartbeat for {} s", patience.as_secs_f64()),
        }
    }
}

fn broken(status: &Status) -> String {
    match status.message() {
        "" => "session broke".into(),
        words => format!("session broke: {words}"),
    }
}

fn understood(worker: WorkerId, message: v1::WorkerMessage) -> Option<Call> {
    let (run, generation) = (message.run_id, Generation(message.generation));
    let report = match message.message? {
        worker_message::Message::Heartbeat(heartbeat) => {
            return Some(Call::Heartbeat { worker, run, generation, beat: heartbeat });
        }
        worker_message::Message::Drain(drain) => return Some(Call::Drain { worker, why: drain.why }),
        // Said once, at the start.
        worker_message::Message::Join(_) => return None,
        worker_message::Message::Progress(progress) => Report::Progress(progress),
        worker_message::Message::Epoch(epoch) => Report::Epoch(epoch),
        worker_message::Message::Staged(staged) => Report::Staged(Staged {
            path: PathBuf::from(staged.staged_path),
            checkpoint: staged.checkpoint.unwrap_or_default(),
        }),
        worker_message::Message::Warning(warning) => Report::Warning(warning.message),
        worker_message::Message::Ended(ended) => {
            let holding = ended.holding.map(|held| Holding { step: held.step, epoch_closed: held.epoch_closed });
            Report::Ended { step: ended.step, end: job_end(ended.outcome, &ended.lost_worker), holding }
        }
    };
    Some(Call::Report { worker, run, generation, report })
}

fn job_end(outcome: Option<job_ended::Outcome>, lost_worker: &str) -> JobEnd {
    match outcome {
        Some(job_ended::Outcome::Finished(reason)) => JobEnd::Finished(reason),
        Some(job_ended::Outcome::Ordered(kind)) => JobEnd::Ordered(match v1::OrderKind::try_from(kind) {
            Ok(v1::OrderKind::Stop) => Order::Stop,
            Ok(v1::OrderKind::Checkpoint) => Order::Checkpoint,
            Ok(v1::OrderKind::Yield) => Order::Yield,
            _ => Order::Abort,
        }),
        Some(job_ended::Outcome::Failed(failure)) => JobEnd::Failed(failure),
        Some(job_ended::Outcome::PeerLost(words)) => JobEnd::PeerLost { words, peer: lost_worker.parse().ok() },
        None => JobEnd::Failed(v1::Failure {
            message: "the worker's job ended without a word".into(),
            ..v1::Failure::default()
        }),
    }
}
