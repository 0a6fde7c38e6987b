//! A training run under faults: a plan says what is done to which of its workers, and when, by step, by event or by time. What
//! happened is kept, so that a test can show that each fault struck, and that nothing came of it.

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead as _, BufReader, Lines},
    process::{Child, ChildStdout, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{Ended, Sandbox};

/// What is done to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Kill,
    /// Stopped, without its knowledge, until somebody lets it go on.
    Pause,
    /// Let go on, if it is still there.
    GoOn,
    /// Asked to go.
    Terminate,
}

/// Whom it is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// Of the newest generation.
    Rank(usize),
    /// All of the newest generation, at once.
    Everybody,
    /// Whom the fault before struck.
    TheSame,
}

/// A deed, its victim, and when it is due: a while after the first event that says so, counted from when the fault before has struck.
pub struct Fault {
    when: Box<dyn Fn(&Value) -> bool>,
    after: Duration,
    whom: Whom,
    deed: Deed,
}

impl Fault {
    pub fn when(event: impl Fn(&Value) -> bool + 'static, whom: Whom, deed: Deed) -> Self {
        Self { when: Box::new(event), after: Duration::ZERO, whom, deed }
    }

    /// As soon as this step is reported, or a later one.
    pub fn at_step(step: u64, whom: Whom, deed: Deed) -> Self {
        Self::when(move |event| event["event"] == "progress" && event["step"].as_u64() >= Some(step), whom, deed)
    }

    /// As soon as a generation of so many members is seated.
    pub fn when_seated(world: usize, whom: Whom, deed: Deed) -> Self {
        let complete = move |event: &Value| event["workers"].as_array().is_some_and(|workers| workers.len() == world);
        Self::when(move |event| event["event"] == "seated" && complete(event), whom, deed)
    }

    /// So long after that.
    #[must_use]
    pub fn later(self, after: Duration) -> Self {
        Self { after, ..self }
    }
}

/// A fault that struck.
#[derive(Clone, Debug)]
pub struct Struck {
    pub worker: String,
    pub pid: u32,
    pub deed: Deed,
    /// Events that had come by then.
    pub events: usize,
}

/// What became of a run.
#[derive(Debug)]
pub struct Outcome {
    pub events: Vec<Value>,
    pub struck: Vec<Struck>,
    pub code: Option<i32>,
    pub err: String,
}

/// A run at work, whose workers can be found.
pub struct Chaos<'a> {
    sandbox: &'a Sandbox,
    address: String,
    child: Child,
    lines: mpsc::Receiver<Value>,
    plan: VecDeque<Fault>,
    /// The next fault of the plan, if its time is known.
    due: Option<Instant>,
    members: Vec<String>,
    events: Vec<Value>,
    struck: Vec<Struck>,
}

/// A test that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(240);

impl<'a> Chaos<'a> {
    /// Starts `lockstep train` with these further arguments.
    #[expect(clippy::expect_used, reason = "a test without its command cannot go on")]
    pub fn start(sandbox: &'a Sandbox, arguments: &[&str], plan: Vec<Fault>) -> Self {
        let address = sandbox.free_address();
        let log = fs::File::create(sandbox.path("chaos.log")).expect("a log in the sandbox");
        let mut command = sandbox.command();
        command.args(["train", "run.toml", "--json", "--listen", &address]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("lockstep starts");
        let stdout = BufReader::new(child.stdout.take().expect("a piped stdout")).lines();
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || pass_on(stdout, &sender));
        let (plan, members, events, struck) = (plan.into(), Vec::new(), Vec::new(), Vec::new());
        Self { sandbox, address, child, lines, plan, due: None, members, events, struck }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Until an event that satisfies `wanted` has come, faults striking meanwhile.
    #[track_caller]
    pub fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            match self.next() {
                Some(event) if wanted(&event) => return event,
                Some(_) => {}
                None => panic!("the run ended before the event came:\n{}", self.log()),
            }
        }
    }

    /// Until the run's end. Panics if a fault did not strike, or a worker is left.
    #[track_caller]
    pub fn finish(mut self) -> Outcome {
        while self.next().is_some() {}
        let code = self.child.wait().ok().and_then(|status| status.code());
        let err = self.log();
        assert!(self.plan.is_empty(), "{} faults did not strike before the run ended:\n{err}", self.plan.len());
        let left = workers_of(&self.address);
        assert!(left.is_empty(), "workers are left running: {left:?}");
        let (events, struck) = (std::mem::take(&mut self.events), std::mem::take(&mut self.struck));
        Outcome { events, struck, code, err }
    }

    /// The next event; none after the last.
    #[track_caller]
    fn next(&mut self) -> Option<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = Instant::now();
            if self.due.is_some_and(|due| due <= now) {
                self.strike();
            }
            let until = self.due.unwrap_or(deadline).min(deadline);
            match self.lines.recv_timeout(until.saturating_duration_since(now)) {
                Ok(event) => {
                    self.take(&event);
                    return Some(event);
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(mpsc::RecvTimeoutError::Timeout) => assert!(
                    until < deadline,
                    "nothing happens any more; the last event was {:?}\n{}",
                    self.events.last(),
                    self.log()
                ),
            }
        }
    }

    fn take(&mut self, event: &Value) {
        if event["event"] == "seated"
            && let Some(workers) = event["workers"].as_array()
        {
            self.members = workers.iter().filter_map(|worker| Some(worker.as_str()?.to_owned())).collect();
        }
        self.events.push(event.clone());
        if self.due.is_none()
            && let Some(fault) = self.plan.front()
            && (fault.when)(event)
        {
            self.due = Some(Instant::now() + fault.after);
            if fault.after.is_zero() {
                self.strike();
            }
        }
    }

    #[track_caller]
    fn strike(&mut self) {
        self.due = None;
        let Some(fault) = self.plan.pop_front() else { return };
        let victims: Vec<String> = match fault.whom {
            Whom::Rank(rank) => self.members.get(rank).cloned().into_iter().collect(),
            Whom::Everybody => self.members.clone(),
            Whom::TheSame => self.struck.last().map(|struck| struck.worker.clone()).into_iter().collect(),
        };
        assert!(!victims.is_empty(), "there is no {:?} among {:?}", fault.whom, self.members);
        let there = workers_of(&self.address);
        let victims: Vec<(String, u32)> = victims
            .into_iter()
            .filter_map(|victim| there.iter().find(|(name, _)| *name == victim).map(|(_, pid)| (victim, *pid)))
            .collect();
        let gone = victims.is_empty() && fault.deed == Deed::GoOn;
        assert!(gone || !victims.is_empty(), "{:?} is not among the processes {there:?}", fault.whom);
        for (_, pid) in &victims {
            signal(*pid, fault.deed);
        }
        let events = self.events.len();
        self.struck.extend(victims.into_iter().map(|(worker, pid)| Struck { worker, pid, deed: fault.deed, events }));
    }

    fn log(&self) -> String {
        fs::read_to_string(self.sandbox.path("chaos.log")).unwrap_or_default()
    }
}

impl Drop for Chaos<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Whoever was paused cannot see that its parent is gone.
        for (_, pid) in workers_of(&self.address) {
            signal(pid, Deed::Kill);
        }
    }
}

fn pass_on(stdout: Lines<BufReader<ChildStdout>>, sender: &mpsc::Sender<Value>) {
    for line in stdout.map_while(Result::ok) {
        if let Ok(event) = serde_json::from_str(&line)
            && sender.send(event).is_err()
        {
            return;
        }
    }
}

pub fn signal(pid: u32, deed: Deed) {
    let signal = match deed {
        Deed::Kill => Signal::KILL,
        Deed::Pause => Signal::STOP,
        Deed::GoOn => Signal::CONT,
        Deed::Terminate => Signal::TERM,
    };
    if let Some(pid) = Pid::from_raw(pid as i32) {
        let _ = kill_process(pid, signal);
    }
}

/// The worker processes of the coordinator at this address, as `w1:2`, by what they were started with.
pub fn workers_of(address: &str) -> Vec<(String, u32)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        // One that is gone, or is no more than an entry, has no words.
        let words = String::from_utf8(fs::read(format!("/proc/{pid}/cmdline")).ok()?).ok()?;
        let words: Vec<&str> = words.split('\0').collect();
        let after = |flag: &str| words.iter().position(|word| *word == flag).and_then(|at| words.get(at + 1).copied());
        let ours = words.first()?.ends_with("lockstep-worker") && after("--coordinator")?.ends_with(address);
        ours.then(|| Some((format!("w{}:{}", after("--slot")?, after("--life").unwrap_or("1")), pid)))?
    })
    .collect()
}

impl Outcome {
    /// Panics, with what was printed, unless the run went well.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{:#?}", self.err, self.named("ended"));
        self
    }

    /// The events of this name.
    pub fn named(&self, name: &str) -> Vec<&Value> {
        self.events.iter().filter(|event| event["event"] == name).collect()
    }

    /// The workers of the newest generation.
    pub fn members(&self) -> Vec<&str> {
        let newest = self.named("seated").pop().and_then(|seated| seated["workers"].as_array());
        newest.into_iter().flatten().filter_map(Value::as_str).collect()
    }
}

/// `lockstep audit` of the run whose state lies there; panics unless it is clean.
#[track_caller]
pub fn audited(sandbox: &Sandbox, state: &str) -> Value {
    let Ended { code, out, err } = sandbox.lockstep(&["audit", "--state", state, "--json"]);
    assert_eq!(code, Some(0), "{out}{err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}
