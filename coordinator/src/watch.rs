//! One watcher of one run: first what the journal holds, then what happens. A watcher that cannot keep up is let go with an error that
//! says where to go on; it never holds up the driver.

use std::{pin::Pin, sync::Arc, time::Duration};

use proto::v1::{self, run_event};
use tokio::{
    sync::{broadcast, mpsc},
    time::timeout,
};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::Status;

use crate::{
    journal::Journal,
    refusal::{Refusal, RefusalKind},
};

/// Events between the journal and the wire.
const QUEUE: usize = 64;
/// Events read from the journal at a time.
const CHUNK: usize = 256;
/// How long a watcher may not read.
const PATIENCE: Duration = Duration::from_secs(30);

pub type Events = Pin<Box<dyn Stream<Item = Result<v1::RunEvent, Status>> + Send>>;

pub struct Watch {
    pub journal: Journal,
    pub events: broadcast::Sender<Arc<v1::RunEvent>>,
    pub run: String,
    /// Number of the last event that the watcher has seen.
    pub after: u64,
    /// It had ended already: the journal holds all there will be.
    pub over: bool,
}

/// Why a watch ends before its run does.
enum Broken {
    /// Nobody listens.
    Gone,
    Because(Refusal),
}

impl Watch {
    /// What the watcher reads, and the task that fills it.
    pub fn open(self) -> (Events, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        // The last word has a place of its own: it must get through where the queue is full.
        let (last_word, last_words) = mpsc::channel(1);
        let task = async move {
            if let Err(Broken::Because(refusal)) = self.fill(sender).await {
                let _ = last_word.try_send(Err(Status::from(refusal)));
            }
        };
        (Box::pin(ReceiverStream::new(receiver).chain(ReceiverStream::new(last_words))), task)
    }

    async fn fill(mut self, sender: mpsc::Sender<Result<v1::RunEvent, Status>>) -> Result<(), Broken> {
        // However long the history is, it is read before live events begin to queue; what happens meanwhile is read after.
        if self.replay(&sender).await? || self.over {
            return Ok(());
        }
        let mut live = self.events.subscribe();
        if self.replay(&sender).await? {
            return Ok(());
        }
        loop {
            match live.recv().await {
                Ok(event) if event.run_id == self.run && event.sequence > self.after => {
                    if self.pass_on(&sender, v1::RunEvent::clone(&event)).await? {
                        return Ok(());
                    }
                }
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => return Err(self.too_slow()),
                Err(broadcast::error::RecvError::Closed) => return Err(Broken::Because(Refusal::shutting_down())),
            }
        }
    }

    /// `true`: the run's end was among it.
    async fn replay(&mut self, sender: &mpsc::Sender<Result<v1::RunEvent, Status>>) -> Result<bool, Broken> {
        loop {
            let (journal, run, after) = (self.journal.clone(), self.run.clone(), self.after);
            let read = tokio::task::spawn_blocking(move || journal.events(&run, after, CHUNK)).await;
            let Ok(read) = read else { return Err(Broken::Because(Refusal::shutting_down())) };
            let events = read.map_err(|error| Broken::Because(error.into()))?;
            if events.is_empty() {
                return Ok(false);
            }
            for event in events {
                if self.pass_on(sender, event).await? {
                    return Ok(true);
                }
            }
        }
    }

    /// `true`: it was the last one.
    async fn pass_on(
        &mut self,
        sender: &mpsc::Sender<Result<v1::RunEvent, Status>>,
        event: v1::RunEvent,
    ) -> Result<bool, Broken> {
        let (sequence, last) = (event.sequence, matches!(event.event, Some(run_event::Event::Ended(_))));
        match timeout(PATIENCE, sender.send(Ok(event))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Broken::Gone),
            Err(_) => return Err(self.too_slow()),
        }
        self.after = sequence;
        Ok(last)
    }

    fn too_slow(&self) -> Broken {
        let message = format!("this watcher of run `{}` is too slow: events wait to be read", self.run);
        let hint = format!("watch again with `after_sequence = {}`", self.after);
        Broken::Because(Refusal::new(RefusalKind::Exhausted, message, hint))
    }
}
