//! The worker processes of a run, a task a slot: each tends its process, and starts another in its place when it has died.

use std::{
    collections::BTreeMap,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use proto::WorkerId;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout, timeout_at},
};

use super::{
    process::{Process, cause, last_words},
    restarts::Restarts,
};
use crate::{args::Device, errors::Fault};

/// The first process in a slot.
pub const FIRST_LIFE: u32 = 1;

const SIGTERM: i32 = 15;

/// How long a signal may take to be passed on.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

/// Ends that may wait to be heard of.
const EXITS: usize = 16;

/// What all workers of a run have in common.
pub struct Post {
    pub binary: PathBuf,
    /// `http://…`
    pub coordinator: String,
    pub device: Device,
    /// Holds one log a life.
    pub logs: PathBuf,
    /// What they log.
    pub filter: String,
    /// Of a slot, within a minute.
    pub max_restarts: u32,
}

/// How a worker process ended.
#[derive(Debug)]
pub struct Exit {
    pub slot: u32,
    pub life: u32,
    /// "exited with code 3", "killed by signal 9 (SIGKILL)".
    pub cause: String,
    /// What it wrote last that may say why.
    pub last_words: Vec<String>,
    /// By itself and well, or because it was told to.
    pub clean: bool,
    /// Another is started in its place.
    pub successor: bool,
    pub log: PathBuf,
}

impl Exit {
    /// `w1:2`.
    pub fn worker(&self) -> String {
        format!("w{}:{}", self.slot, self.life)
    }

    /// The cause, and its last words, in one line.
    pub fn why(&self) -> String {
        match &*self.last_words {
            [] => self.cause.clone(),
            words => format!("{}; its last words: {}", self.cause, words.join(" / ")),
        }
    }
}

/// From mild to grave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    /// The run has not begun: who ends by itself would do so again, and has no successor. Who is killed has one.
    #[default]
    Begin,
    /// Whoever dies is replaced.
    Serve,
    /// Nobody is replaced any more.
    Finish,
    Leave,
    Kill,
}

#[derive(Debug, Default)]
struct Orders {
    order: Order,
    /// Slot -> the newest life there that has been given up.
    given_up: BTreeMap<u32, u32>,
}

/// A signal for the process of one life.
struct Knock {
    life: u32,
    signal: Signal,
    heard: oneshot::Sender<bool>,
}

/// The worker processes of a run. Dropping it kills those that are left.
pub struct Crew {
    _slots: JoinSet<()>,
    exits: mpsc::Receiver<Exit>,
    orders: Commander,
}

/// Gives orders from where the crew itself is not at hand.
#[derive(Clone)]
pub struct Commander {
    orders: watch::Sender<Orders>,
    doors: Arc<[mpsc::Sender<Knock>]>,
}

impl Commander {
    pub fn kill(&self) {
        self.give(Order::Kill);
    }

    /// Kills a worker that does not count as one any more, so that another takes its place.
    pub fn give_up(&self, slot: u32, life: u32) {
        self.orders.send_modify(|orders| {
            orders.given_up.insert(slot, life);
        });
    }

    /// Sends a signal to a worker's process; `false` where it is gone.
    pub async fn signal(&self, worker: WorkerId, signal: Signal) -> bool {
        let Some(door) = self.doors.get(worker.slot as usize) else { return false };
        let (heard, answer) = oneshot::channel();
        let knocking = async {
            door.send(Knock { life: worker.life, signal, heard }).await.ok()?;
            answer.await.ok()
        };
        timeout(HEARD_WITHIN, knocking).await.ok().flatten().unwrap_or(false)
    }

    /// A graver one stands.
    fn give(&self, order: Order) {
        self.orders.send_if_modified(|orders| {
            let graver = order > orders.order;
            orders.order = order.max(orders.order);
            graver
        });
    }
}

impl Crew {
    pub fn muster(post: Post, workers: u32) -> Result<Self, Fault> {
        let (sender, exits) = mpsc::channel(EXITS);
        let orders = watch::Sender::new(Orders::default());
        let (post, mut slots, mut doors) = (Arc::new(post), JoinSet::new(), Vec::new());
        for slot in 0..workers {
            let process = Process::start(&post, slot, FIRST_LIFE)?;
            let (door, knocks) = mpsc::channel(1);
            doors.push(door);
            let slot = Slot {
                number: slot,
                post: Arc::clone(&post),
                restarts: Restarts::new(post.max_restarts),
                orders: orders.subscribe(),
                knocks,
                exits: sender.clone(),
            };
            slots.spawn(slot.keep(process));
        }
        Ok(Self { _slots: slots, exits, orders: Commander { orders, doors: doors.into() } })
    }

    pub fn commander(&self) -> Commander {
        self.orders.clone()
    }

    /// The run has begun.
    pub fn serve(&self) {
        self.orders.give(Order::Serve);
    }

    /// The run needs nobody new any more.
    pub fn finish(&self) {
        self.orders.give(Order::Finish);
    }

    pub fn kill(&self) {
        self.orders.kill();
    }

    /// The next one that ends; none when all have, and nobody takes their place.
    pub async fn next_exit(&mut self) -> Option<Exit> {
        self.exits.recv().await
    }

    /// Waits for all that are left to go by themselves, then tells them to, then kills them. Says how each ended.
    pub async fn dismiss(mut self, by_themselves: Duration, told: Duration) -> Vec<Exit> {
        let mut exits = Vec::new();
        for (order, patience) in [(Order::Finish, by_themselves), (Order::Leave, told), (Order::Kill, told)] {
            self.orders.give(order);
            let deadline = tokio::time::Instant::now() + patience;
            while let Ok(next) = timeout_at(deadline, self.next_exit()).await {
                match next {
                    Some(exit) => exits.push(exit),
                    None => return exits,
                }
            }
        }
        tracing::error!("a worker process cannot be killed");
        exits
    }
}

/// A place for one process at a time.
struct Slot {
    number: u32,
    post: Arc<Post>,
    restarts: Restarts,
    orders: watch::Receiver<Orders>,
    knocks: mpsc::Receiver<Knock>,
    exits: mpsc::Sender<Exit>,
}

/// How a process came to its end.
struct End {
    cause: String,
    clean: bool,
    /// It did so itself, by an exit code; not by a signal.
    by_itself: bool,
    /// Somebody sent it SIGTERM before it could know what that means: it was to go, and stay away.
    was_sent_away: bool,
}

impl Slot {
    async fn keep(mut self, first: Process) {
        let (mut life, mut started) = (FIRST_LIFE, Ok(first));
        loop {
            let began = Instant::now();
            let (end, log) = match started {
                Ok(mut process) => (self.tend(&mut process, life).await, process.log),
                Err(fault) => (End::not_started(&fault), PathBuf::new()),
            };
            let wait = self.wait_for_successor(&end, began.elapsed());
            let exit = Exit {
                slot: self.number,
                life,
                cause: end.cause,
                last_words: if end.clean { Vec::new() } else { last_words(&log) },
                clean: end.clean,
                successor: wait.is_some(),
                log,
            };
            // Nobody there to hear it: nobody to work for.
            if self.exits.send(exit).await.is_err() {
                return;
            }
            let Some(wait) = wait else { return };
            if !self.is_needed_after(wait).await {
                return;
            }
            life += 1;
            started = Process::start(&self.post, self.number, life);
        }
    }

    /// Until its end.
    async fn tend(&mut self, process: &mut Process, life: u32) -> End {
        let (child, stdin) = (&mut process.child, &mut process.stdin);
        let mut told = Order::default();
        let mut given_up = false;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status,
                Some(Knock { life: meant, signal, heard }) = self.knocks.recv() => {
                    let pid = child.id().filter(|_| meant == life).and_then(|pid| Pid::from_raw(pid.cast_signed()));
                    let _ = heard.send(pid.is_some_and(|pid| kill_process(pid, signal).is_ok()));
                }
                changed = self.orders.changed() => {
                    {
                        let orders = self.orders.borrow_and_update();
                        told = if changed.is_ok() { orders.order } else { Order::Kill };
                        given_up = orders.given_up.get(&self.number) == Some(&life);
                    }
                    if told == Order::Kill || given_up {
                        let _ = child.start_kill();
                        break child.wait().await;
                    }
                    if told == Order::Leave {
                        drop(stdin.take());
                    }
                }
            }
        };
        let status = match status {
            Ok(status) => status,
            Err(error) => {
                return End {
                    cause: format!("its end is not known: {error}"),
                    clean: false,
                    by_itself: false,
                    was_sent_away: false,
                };
            }
        };
        let as_told = match told {
            Order::Begin | Order::Serve | Order::Finish => false,
            Order::Leave => status.code().is_some(),
            Order::Kill => true,
        };
        let by_itself = status.code().is_some();
        let cause = match cause(status) {
            _ if given_up && !by_itself => "answered no more, and was killed".to_owned(),
            cause => cause,
        };
        End { cause, clean: status.success() || as_told, by_itself, was_sent_away: status.signal() == Some(SIGTERM) }
    }

    /// How long until another life; none: there is no other.
    fn wait_for_successor(&mut self, end: &End, lived: Duration) -> Option<Duration> {
        let order = self.orders.borrow().order;
        let died = !end.clean && !end.was_sent_away;
        let replaced = match order {
            Order::Begin => died && !end.by_itself,
            Order::Serve => died,
            Order::Finish | Order::Leave | Order::Kill => false,
        };
        if replaced { self.restarts.after(Instant::now(), lived) } else { None }
    }

    /// Waits; `false` as soon as nobody is needed any more.
    async fn is_needed_after(&mut self, wait: Duration) -> bool {
        let mut waited = pin!(sleep(wait));
        loop {
            tokio::select! {
                () = &mut waited => return true,
                _ = self.orders.wait_for(|orders| orders.order > Order::Serve) => return false,
                // Nobody is there.
                Some(Knock { heard, .. }) = self.knocks.recv() => drop(heard.send(false)),
            }
        }
    }
}

impl End {
    fn not_started(fault: &Fault) -> Self {
        let cause = fault.render().trim().replace('\n', "; ");
        Self { cause: format!("did not start: {cause}"), clean: false, by_itself: true, was_sent_away: false }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{
        super::{process::last_lines, tests::script},
        *,
    };

    fn muster_with(folder: &Path, body: &str, workers: u32, max_restarts: u32) -> Crew {
        let post = Post {
            binary: script(folder, body),
            coordinator: "http://x".into(),
            device: Device::Cpu,
            logs: folder.to_owned(),
            filter: "info".into(),
            max_restarts,
        };
        Crew::muster(post, workers).unwrap()
    }

    fn muster(folder: &Path, body: &str, workers: u32) -> Crew {
        muster_with(folder, body, workers, 10)
    }

    /// Until a process has its log.
    async fn started(folder: &Path, log: &str) {
        while !folder.join(log).exists() {
            tokio::task::yield_now().await;
        }
    }

    /// The life of the process is the script's eighth word.
    const KILLED_UNTIL_ITS_THIRD_LIFE: &str = "[ \"$8\" -ge 3 ] && exec cat; kill -9 $$";

    #[tokio::test]
    async fn workers_leave_when_their_stdin_ends() {
        let folder = tempfile::tempdir().unwrap();
        let crew = muster(folder.path(), "echo \"$@\" >&2; cat; exit 3", 2);
        let exits = crew.dismiss(Duration::ZERO, Duration::from_secs(20)).await;
        assert_eq!(exits.len(), 2);
        assert!(exits.iter().all(|exit| exit.clean && !exit.successor), "{exits:?}");
        let said = last_lines(&folder.path().join("w1.log"), 5);
        assert_eq!(said, ["--coordinator http://x --device cpu --slot 1 --life 1"]);
    }

    #[tokio::test]
    async fn a_worker_that_does_not_leave_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let crew = muster(folder.path(), "exec sleep 1000", 1);
        let exits = crew.dismiss(Duration::ZERO, Duration::from_millis(200)).await;
        assert_eq!(exits[0].cause, "killed by signal 9 (SIGKILL)");
    }

    #[tokio::test]
    async fn before_the_run_begins_a_worker_that_ends_by_itself_has_no_successor() {
        let folder = tempfile::tempdir().unwrap();
        let mut crew = muster(folder.path(), "echo one >&2; echo two >&2; echo three >&2; echo four >&2; exit 3", 1);
        let exit = crew.next_exit().await.unwrap();
        assert_eq!((exit.worker(), exit.cause.as_str(), exit.clean), ("w0:1".into(), "exited with code 3", false));
        assert_eq!(exit.why(), "exited with code 3; its last words: two / three / four");
        assert!(!exit.successor && crew.next_exit().await.is_none());
    }

    #[tokio::test]
    async fn who_is_killed_is_started_again_with_another_life_and_another_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut crew = muster(folder.path(), KILLED_UNTIL_ITS_THIRD_LIFE, 1);
        crew.serve();
        for life in [1, 2] {
            let exit = crew.next_exit().await.unwrap();
            assert_eq!((exit.slot, exit.life, exit.successor), (0, life, true));
            assert_eq!(exit.cause, "killed by signal 9 (SIGKILL)");
        }
        started(folder.path(), "w0.3.log").await;
        let exits = crew.dismiss(Duration::ZERO, Duration::from_secs(20)).await;
        assert!(exits.len() == 1 && exits[0].life == 3 && exits[0].clean, "{exits:?}");
        assert!(["w0.log", "w0.2.log"].iter().all(|log| folder.path().join(log).is_file()));
    }

    #[tokio::test]
    async fn a_slot_that_died_too_often_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let mut crew = muster_with(folder.path(), KILLED_UNTIL_ITS_THIRD_LIFE, 1, 1);
        assert!(crew.next_exit().await.unwrap().successor);
        assert!(!crew.next_exit().await.unwrap().successor);
        assert!(crew.next_exit().await.is_none());
    }

    #[tokio::test]
    async fn who_left_well_is_not_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut crew = muster(folder.path(), "exit 0", 1);
        crew.serve();
        let exit = crew.next_exit().await.unwrap();
        assert!(exit.clean && !exit.successor, "{exit:?}");
        assert!(crew.next_exit().await.is_none());
    }

    #[tokio::test]
    async fn a_signal_reaches_the_life_it_is_meant_for_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let mut crew = muster(folder.path(), "exec cat", 1);
        crew.serve();
        let (first, second) = (WorkerId { slot: 0, life: 1 }, WorkerId { slot: 0, life: 2 });
        let commander = crew.commander();
        assert!(!commander.signal(second, Signal::KILL).await);
        assert!(!commander.signal(WorkerId { slot: 1, life: 1 }, Signal::KILL).await);
        assert!(commander.signal(first, Signal::KILL).await);
        let exit = crew.next_exit().await.unwrap();
        assert_eq!((exit.life, &*exit.cause), (1, "killed by signal 9 (SIGKILL)"));
        // The next one is started in a moment.
        while !commander.signal(second, Signal::KILL).await {}
        assert_eq!(crew.next_exit().await.unwrap().life, 2);
    }

    #[tokio::test]
    async fn a_silent_worker_that_is_given_up_is_killed_and_replaced_and_its_successor_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut crew = muster(folder.path(), "[ \"$8\" -ge 2 ] && exec cat; kill -STOP $$", 1);
        crew.serve();
        crew.commander().give_up(0, 1);
        let exit = crew.next_exit().await.unwrap();
        assert_eq!(exit.cause, "answered no more, and was killed");
        assert!(exit.successor);
        // A word about a life that is over.
        crew.commander().give_up(0, 1);
        started(folder.path(), "w0.2.log").await;
        let exits = crew.dismiss(Duration::ZERO, Duration::from_secs(20)).await;
        assert!(exits.len() == 1 && exits[0].life == 2 && exits[0].clean, "{exits:?}");
    }
}
