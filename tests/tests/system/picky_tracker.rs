//! A tracking server that takes runs, but not all that is told of them: the rest arrives, and what it rejects is said.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use rustix::process::Signal;
use serde_json::{Value, json};
use tests::Sandbox;

use crate::{TRAIN, small_dataset};

const STATE: &str = "checkpoints/.state";
/// The curve that it does not take, and the parameter.
const CURVE: &str = "train/gradient_norm";
const PARAMETER: &str = "training.batch";

/// Speaks as much of MLflow's REST as a run needs; keeps what it took.
struct PickyMlflow {
    address: String,
    taken: Arc<Mutex<Vec<(String, Value)>>>,
}

impl PickyMlflow {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&taken);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, &kept);
            }
        });
        Self { address, taken }
    }

    /// Keys of what was logged under `what`, each once.
    fn keys(&self, what: &str) -> Vec<String> {
        let taken = self.taken.lock().unwrap();
        let logged = taken.iter().filter(|(path, _)| path.ends_with("runs/log-batch"));
        let mut keys: Vec<String> = logged
            .flat_map(|(_, body)| body[what].as_array().cloned().unwrap_or_default())
            .map(|one| one["key"].as_str().unwrap().to_owned())
            .collect();
        keys.sort();
        keys.dedup();
        keys
    }
}

fn answer(stream: TcpStream, taken: &Mutex<Vec<(String, Value)>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while reader.read_line(&mut head)? > 2 {}
    let length =
        head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
    let mut body = Vec::new();
    reader.by_ref().take(length.unwrap_or(0)).read_to_end(&mut body)?;
    let path = head.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default().to_owned();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let has = |what: &str, key: &str| body[what].as_array().is_some_and(|all| all.iter().any(|one| one["key"] == key));
    let (status, answer) = match path.rsplit("/mlflow/").next().unwrap_or_default() {
        "experiments/get-by-name" => ("200 OK", json!({"experiment": {"experiment_id": "1"}})),
        "runs/create" => {
            ("200 OK", json!({"run": {"info": {"run_id": "ab", "artifact_uri": "mlflow-artifacts:/1/ab/artifacts"}}}))
        }
        "runs/log-batch" if has("metrics", CURVE) || has("params", PARAMETER) => {
            ("400 Bad Request", json!({"error_code": "INVALID_PARAMETER_VALUE", "message": "not this one"}))
        }
        _ => ("200 OK", json!({})),
    };
    if status.starts_with("200") {
        taken.lock().unwrap().push((path, body));
    }
    let answer = answer.to_string();
    let length = answer.len();
    write!(reader.get_mut(), "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{answer}")
}

#[test]
fn what_a_tracker_always_rejects_is_left_out_by_name_and_holds_up_neither_later_curves_nor_the_runs_end() {
    let sandbox = Sandbox::new();
    let server = PickyMlflow::start();
    small_dataset(&sandbox, 200, "graded");
    sandbox.write(
        "run.toml",
        &format!(
            "name = \"tracked\"\n[data]\ntrain = \"data/train\"\nvalidation = \"data/validation\"\n[model]\nhidden = [256, 256]\n\
             [training]\nepochs = 100000\nbatch = 1\nthreads = 1\n[tracking]\nmlflow = \"http://{}\"\n",
            server.address
        ),
    );
    // The test ends it.
    let mut run = sandbox.start(&TRAIN);
    for what in [format!("parameter `{PARAMETER}`"), format!("curve `{CURVE}`")] {
        let warned = |event: &Value| {
            event["event"] == "warning"
                && event["message"].as_str().unwrap().contains(&format!("does not take the {what}: "))
        };
        run.until(warned);
    }
    // It is told once, and the rest goes on.
    let counted = |name: &str| server.keys("metrics").iter().filter(|key| *key == name).count();
    while counted("validation/map") == 0 {
        let event = run.until(|event| event["event"] == "epoch" || event["event"] == "warning");
        assert_ne!(event["event"], "warning", "{event}");
    }
    run.signal(Signal::INT);
    let ended = run.until(|event| event["event"] == "ended" || event["event"] == "warning");
    assert_eq!(ended["phase"], "stopped", "{ended}");
    assert_eq!(run.wait(), Some(0));
    let said = std::fs::read_to_string(sandbox.path("stderr.log")).unwrap();
    let rejected = format!("rejected the parameter `{PARAMETER}`, the curve `{CURVE}`");
    assert!(said.contains(&rejected), "{said}");
    let shown = sandbox.lockstep(&["runs", "show", "--state", STATE, "--json"]).ok().out;
    let kept: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(kept["tracking"]["done"], true, "{}", kept["tracking"]);
    assert!(kept["tracking"]["standing"].as_str().unwrap().contains(&rejected), "{}", kept["tracking"]);
    // All else is there.
    let without = |names: Vec<String>, one: &str| -> Vec<String> {
        assert!(names.iter().any(|name| name == one), "{names:?}");
        names.into_iter().filter(|name| name != one).collect()
    };
    let curves = kept["curves"].as_array().unwrap().iter();
    let mut curves: Vec<String> = curves.map(|curve| curve["name"].as_str().unwrap().replace('@', "_at_")).collect();
    curves.sort();
    assert_eq!(server.keys("metrics"), without(curves, CURVE));
    let parameters: Vec<String> = kept["parameters"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(server.keys("params"), without(parameters, PARAMETER));
    let taken = server.taken.lock().unwrap();
    let ended = taken.iter().find(|(path, _)| path.ends_with("runs/update")).unwrap();
    assert_eq!(ended.1["status"], "KILLED");
    assert!(taken.iter().any(|(path, _)| path.ends_with("checkpoint/manifest.json")));
}
