//! Coordinators that stand in for one another, as real processes over a real etcd: the leader is killed, etcd is killed, and the run ends as
//! if nothing had happened.

use std::{fs, path::PathBuf, process::Child};

use serde_json::Value;
use tests::{
    Sandbox,
    chaos::{Deed, signal},
    servers::Etcd,
};

use crate::{small_dataset, train};

/// Some seconds of training.
const RUN: &str = r#"
    name = "handed-on"
    seed = 3
    [data]
    train = "data/train"
    validation = "data/validation"
    [model]
    hidden = [64, 32]
    [training]
    epochs = 12
    batch = 4
    [cluster]
    workers = 2
    [checkpoint]
    every = "500 steps"
"#;

const MODEL: &str = "checkpoints/handed-on/latest/model.safetensors";

/// A process of the cluster; killed, and waited for, when dropped.
struct Member {
    child: Child,
    log: PathBuf,
}

impl Member {
    fn start(sandbox: &Sandbox, name: &str, arguments: &[&str]) -> Self {
        let log = sandbox.path(format!("{name}.log"));
        let file = fs::File::create(&log).unwrap();
        Self { child: sandbox.command().args(arguments).stderr(file).spawn().unwrap(), log }
    }

    #[track_caller]
    fn until_it_says(&mut self, words: &str) {
        while !fs::read_to_string(&self.log).unwrap().contains(words) {
            assert!(self.child.try_wait().unwrap().is_none(), "{}", fs::read_to_string(&self.log).unwrap());
            std::thread::yield_now();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is(event: &Value, name: &str) -> bool {
    event["event"] == name
}

fn at_step(step: u64) -> impl Fn(&Value) -> bool {
    move |event| is(event, "progress") && event["step"].as_u64().unwrap() >= step
}

#[test]
fn the_leader_is_killed_and_etcd_after_it_and_no_step_is_lost() {
    let sandbox = Sandbox::new();
    let Some(mut etcd) = Etcd::start(&sandbox) else { return };
    small_dataset(&sandbox, 8000, "graded");
    sandbox.write("run.toml", RUN);
    train(&sandbox, &[]).ok();
    let undisturbed = fs::read(sandbox.path(MODEL)).unwrap();
    fs::remove_dir_all(sandbox.path("checkpoints")).unwrap();

    let store = format!("etcd://{}/system", etcd.address);
    let [a, b] = [sandbox.free_address(), sandbox.free_address()];
    let coordinator = |name: &str, address: &str| {
        Member::start(&sandbox, name, &["coordinator", "--listen", address, "--store", &store])
    };
    let mut first = coordinator("first", &a);
    first.until_it_says("coordinator leads");
    let mut second = coordinator("second", &b);
    second.until_it_says("standing by");
    let both = format!("{a},{b}");
    let worker = |slot: &str| {
        let name = format!("worker-{slot}");
        Member::start(&sandbox, &name, &["worker", "--coordinator", &both, "--slot", slot])
    };
    let _workers = [worker("0"), worker("1")];
    // One that stands by says where to go.
    let mut watch = sandbox.start(&["submit", "run.toml", "--watch", "--json", "--coordinator", &b]);
    watch.until(at_step(2000));
    signal(first.child.id(), Deed::Kill);
    second.until_it_says("coordinator leads");
    // What was done while nobody led is told late.
    watch.until(at_step(4000));
    etcd.kill();
    etcd.revive();
    let ended = watch.until(|event| {
        assert!(!is(event, "lost") && !is(event, "seated"), "somebody was disturbed: {event}");
        is(event, "ended")
    });
    assert_eq!(ended["phase"], "succeeded", "{ended}");
    assert_eq!(watch.wait(), Some(0));
    assert!(fs::read(sandbox.path(MODEL)).unwrap() == undisturbed, "the weights differ");
    let audit = sandbox.lockstep(&["audit", "--coordinator", &both]).ok();
    assert!(audit.out.contains("exactly once"), "{}", audit.out);
}
