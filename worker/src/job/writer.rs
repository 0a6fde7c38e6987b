//! Snapshots that are not published yet, and the thread that writes them. Every rank keeps the newest ones in memory, so that no
//! checkpoint dies with the rank that was to write it; rank 0 writes. What cannot be written is said, kept, and tried again.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use proto::v1::{self, worker_message::Message};
use tokio::sync::mpsc;

use super::{
    shared::Published,
    snapshot::{Buffers, Snapshot},
};

/// Snapshots that wait, to be written or to be published.
const MOST: usize = 2;

/// How long training waits for a disk that is slow before it gives up the oldest snapshot that still waits. Once for a write, however
/// long that one takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// The snapshots of a run on one rank. Lives over generations, as long as the job that they are of.
pub(super) struct Writer {
    shelf: Arc<Shelf>,
    thread: Option<JoinHandle<()>>,
    writes: bool,
    spare: Vec<Buffers>,
}

/// What the training thread and the writing one share.
#[derive(Default)]
struct Shelf {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// By step.
    kept: Vec<Kept>,
    /// Where checkpoints are written; none where this rank writes none.
    staging: Option<Staging>,
    outlet: Option<mpsc::Sender<Message>>,
    /// Words of a generation that was over before they were said.
    untold: Vec<Message>,
    /// The write under way has been waited for long enough.
    hopeless: bool,
    closed: bool,
}

/// The folder, and a name in it that no other process uses.
#[derive(Clone)]
struct Staging {
    folder: PathBuf,
    worker: String,
}

struct Kept {
    snapshot: Arc<Snapshot>,
    best: bool,
    stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// In memory only.
    Held,
    /// Due to be written.
    Queued,
    Writing,
    /// Complete on disk, and announced.
    Staged,
    Failed(String),
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl State {
    fn is_busy(&self) -> bool {
        self.kept.iter().any(|kept| matches!(kept.stage, Stage::Queued | Stage::Writing))
    }

    fn say(&mut self, message: Message) {
        match &self.outlet {
            // A closed channel: nobody is left to publish it.
            Some(outlet) => drop(outlet.blocking_send(message)),
            None => self.untold.push(message),
        }
    }

    /// Which snapshot goes where there is no room: what is on disk already, then the oldest that is not the best.
    fn victim(&self) -> Option<usize> {
        let staged = |kept: &Kept| kept.stage == Stage::Staged;
        let plain = |kept: &Kept| kept.stage != Stage::Writing && !kept.best;
        let any = |kept: &Kept| kept.stage != Stage::Writing;
        let first = |is: &dyn Fn(&Kept) -> bool| self.kept.iter().position(is);
        first(&staged).or_else(|| first(&plain)).or_else(|| first(&any))
    }
}

impl Writer {
    pub fn new() -> Self {
        Self { shelf: Arc::default(), thread: None, writes: false, spare: Vec::new() }
    }

    /// A generation begins. A rank that becomes 0 has all it keeps to write.
    pub fn open(&mut self, seat: &v1::Seat, outlet: mpsc::Sender<Message>) -> io::Result<()> {
        let writes = seat.rank == 0;
        self.writes = writes;
        let me = seat.peers.get(seat.rank as usize);
        let mut state = self.shelf.lock();
        state.staging = writes.then(|| Staging {
            folder: PathBuf::from(&seat.staging),
            worker: me.map_or_else(|| format!("pid-{}", std::process::id()), |me| me.worker.replace(':', ".")),
        });
        state.outlet = Some(outlet);
        for message in std::mem::take(&mut state.untold) {
            if writes {
                state.say(message);
            }
        }
        if !writes {
            state.kept.iter_mut().filter(|kept| kept.stage != Stage::Writing).for_each(|kept| kept.stage = Stage::Held);
        }
        drop(state);
        if writes && self.thread.is_none() {
            let shelf = Arc::clone(&self.shelf);
            self.thread = Some(thread::Builder::new().name("checkpoints".into()).spawn(move || write_all(&shelf))?);
        }
        Ok(())
    }

    /// A generation is over. What is being written goes on; words about it wait for the next one, unless they come within `grace`.
    pub fn close(&mut self, grace: Duration) {
        let until = Instant::now() + grace;
        let mut state = self.shelf.lock();
        while state.is_busy() && Instant::now() < until {
            state = self.shelf.wait(state, until.saturating_duration_since(Instant::now()));
        }
        state.outlet = None;
    }

    pub fn writes(&self) -> bool {
        self.writes
    }

    /// Memory for a snapshot.
    pub fn buffers(&mut self) -> Buffers {
        self.spare.pop().unwrap_or_default()
    }

    /// Keeps a snapshot, in the place of an older one where there is no room. Waits a little for a slow disk, never for one that fails.
    pub fn keep(&mut self, snapshot: Snapshot, best: bool) {
        let until = Instant::now() + PATIENCE;
        let shelf = Arc::clone(&self.shelf);
        let mut state = shelf.lock();
        while state.kept.len() >= MOST {
            let on_disk = state.kept.iter().any(|kept| kept.stage == Stage::Staged);
            if !on_disk && state.is_busy() && !state.hopeless && Instant::now() < until {
                state = shelf.wait(state, until.saturating_duration_since(Instant::now()));
                continue;
            }
            let Some(victim) = state.victim() else { break };
            let gone = state.kept.remove(victim);
            if gone.stage == Stage::Queued {
                state.hopeless = true;
                let step = gone.snapshot.step();
                let message =
                    format!("the checkpoint of step {step} was given up: the one before it is still being written");
                state.say(Message::Warning(v1::Warning { message }));
            }
            self.recycle(gone);
        }
        state.kept.push(Kept { snapshot: Arc::new(snapshot), best, stage: Stage::Held });
    }

    fn recycle(&mut self, gone: Kept) {
        if self.spare.len() < MOST
            && let Some(snapshot) = Arc::into_inner(gone.snapshot)
        {
            self.spare.push(snapshot.buffers);
        }
    }

    /// Drops what is published, and has written what all ranks are known to have reached: with it, what failed before.
    pub fn hand_over(&mut self, confirmed: u64, published: &Published) {
        let shelf = Arc::clone(&self.shelf);
        let mut state = shelf.lock();
        if state.kept.is_empty() {
            return;
        }
        let done = |kept: &Kept| kept.stage != Stage::Writing && published.covers(kept.snapshot.step());
        while let Some(index) = state.kept.iter().position(done) {
            let gone = state.kept.remove(index);
            self.recycle(gone);
        }
        if state.staging.is_none() {
            return;
        }
        if let Some(step) = published.take_refused()
            && let Some(kept) = state.kept.iter_mut().find(|kept| kept.snapshot.step() == step)
        {
            kept.stage = Stage::Failed("it could not be published".into());
        }
        let due = |kept: &Kept| kept.stage == Stage::Held && kept.snapshot.step() <= confirmed;
        if state.kept.iter().any(due) {
            for kept in state.kept.iter_mut().filter(|kept| due(kept) || matches!(kept.stage, Stage::Failed(_))) {
                kept.stage = Stage::Queued;
            }
            shelf.changed.notify_all();
        }
    }

    /// Has everything written, also what failed before. Waits for it as long as `go_on` says so; the error is that of `step`.
    pub fn finish<E>(&mut self, step: u64, go_on: impl Fn() -> Result<(), E>) -> Result<Result<(), String>, E> {
        let mut state = self.shelf.lock();
        if state.staging.is_none() {
            return Ok(Ok(()));
        }
        for kept in state.kept.iter_mut().filter(|kept| matches!(kept.stage, Stage::Held | Stage::Failed(_))) {
            kept.stage = Stage::Queued;
        }
        self.shelf.changed.notify_all();
        while state.is_busy() {
            go_on()?;
            state = self.shelf.wait(state, Duration::from_millis(100));
        }
        let last = state.kept.iter().find(|kept| kept.snapshot.step() == step).map(|kept| &kept.stage);
        Ok(if let Some(Stage::Failed(why)) = last { Err(why.clone()) } else { Ok(()) })
    }
}

/// What is being written is finished; nobody would publish what waits.
impl Drop for Writer {
    fn drop(&mut self) {
        self.shelf.lock().closed = true;
        self.shelf.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn write_all(shelf: &Shelf) {
    let mut state = shelf.lock();
    while !state.closed {
        let queued = state.kept.iter().position(|kept| kept.stage == Stage::Queued);
        let (Some(index), Some(staging)) = (queued, state.staging.clone()) else {
            state = shelf.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        state.kept[index].stage = Stage::Writing;
        let snapshot = Arc::clone(&state.kept[index].snapshot);
        drop(state);
        let step = snapshot.step();
        let written = snapshot.write(&staging.folder.join(format!("step-{step:08}-{}", staging.worker)));
        drop(snapshot);
        state = shelf.lock();
        state.hopeless = false;
        let (stage, message) = match written {
            Ok(staged) => (Stage::Staged, Message::Staged(staged)),
            Err(error) => (
                Stage::Failed(error.to_string()),
                Message::Warning(v1::Warning {
                    message: format!(
                        "the checkpoint of step {step} was not written: {error}; it stays in memory and is tried again with the next"
                    ),
                }),
            ),
        };
        if let Some(kept) = state.kept.iter_mut().find(|kept| kept.snapshot.step() == step) {
            kept.stage = stage;
        }
        state.say(message);
        shelf.changed.notify_all();
    }
}

#[cfg(test)]
mod tests;
