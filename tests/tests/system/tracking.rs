//! Runs as an MLflow server has them, compared with what their coordinator keeps: its Python client reads the one, `lockstep runs` both.

use std::{
    collections::HashSet,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use rustix::process::Signal;
use serde_json::{Value, json};
use tests::{Ended, Sandbox, mlflow::Mlflow};

use crate::{TRAIN, small_dataset, train};

/// As long as a test takes on a busy machine; a second or so an epoch.
const LONG: [&str; 6] =
    ["--set", "training.epochs=100000", "--set", "training.batch=1", "--set", "model.hidden=[256, 256]"];

const STATE: &str = "checkpoints/.state";

fn prepare(sandbox: &Sandbox, url: &str) {
    small_dataset(sandbox, 600, "graded");
    sandbox.write(
        "run.toml",
        &format!(
            "name = \"tracked\"\nseed = 3\n[data]\ntrain = \"data/train\"\nvalidation = \"data/validation\"\n[model]\nhidden = [16]\n\
             normalize = \"standard\"\n[loss]\nkind = \"listnet\"\n[training]\nepochs = 3\nbatch = 4\nthreads = 1\n[cluster]\nworkers = 2\n\
             [checkpoint]\nkeep = 2\n[tracking]\nmlflow = \"{url}\"\nexperiment = \"ranking\"\n"
        ),
    );
}

/// Everything that MLflow's own client can say of a run of Lockstep's.
const READ: &str = r#"
import json, sys
from mlflow import MlflowClient

client = MlflowClient()
experiment = client.get_experiment_by_name("ranking")
def plain(value):
    return value if value == value else "NaN"
def files(run, path=None):
    for found in client.list_artifacts(run, path):
        yield from files(run, found.path) if found.is_dir else [found.path]
runs = []
found = "tags.`lockstep.run_id` LIKE '%'"
for run in client.search_runs([experiment.experiment_id], filter_string=found) if experiment else []:
    curves = {}
    for key in run.data.metrics:
        history = client.get_metric_history(run.info.run_id, key)
        curves[key] = sorted([m.step, m.timestamp, plain(m.value)] for m in history)
    runs.append({
        "id": run.info.run_id, "experiment": experiment.experiment_id, "status": run.info.status, "name": run.info.run_name,
        "start": run.info.start_time, "end": run.info.end_time, "params": run.data.params, "tags": run.data.tags, "curves": curves,
        "artifacts": sorted(files(run.info.run_id)),
    })
print(json.dumps(runs))
"#;

/// How far the scores of a run's model, loaded as MLflow's users do, are from those in a file.
const SCORE: &str = r#"
import json, mlflow, numpy, pyarrow.parquet, torch

run, data, scores = sys.argv[1:]
model = mlflow.pytorch.load_model(f"runs:/{run}/model")
manifest = json.load(open(mlflow.artifacts.download_artifacts(f"runs:/{run}/checkpoint/manifest.json")))
table = pyarrow.parquet.read_table(data)
features = numpy.stack([table[name].to_numpy().astype("float32") for name in manifest["features"]], axis=1)
with torch.no_grad():
    theirs = model(torch.from_numpy(features)).numpy().reshape(-1)
ours = pyarrow.parquet.read_table(scores)["score"].to_numpy()
print(json.dumps({"rows": len(ours), "apart": float((numpy.abs(theirs - ours) / (1 + numpy.abs(ours))).max())}))
"#;

/// The one run that is there.
#[track_caller]
fn only_run(server: &Mlflow) -> Value {
    let runs = server.client(READ, &[]);
    let [run] = &runs.as_array().unwrap()[..] else { panic!("not one run: {runs}") };
    run.clone()
}

#[track_caller]
fn json_of(ended: Ended) -> Value {
    let ended = ended.ok();
    serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error} in:\n{}", ended.out))
}

fn kept(sandbox: &Sandbox) -> Value {
    json_of(sandbox.lockstep(&["runs", "show", "--state", STATE, "--json"]))
}

/// What MLflow has of each curve is what the journal has, point by point: none missing, none double.
#[track_caller]
fn assert_same_curves(kept: &Value, found: &Value) {
    let mut points = 0;
    let theirs = found["curves"].as_object().unwrap();
    let ours = kept["curves"].as_array().unwrap();
    for curve in ours {
        let name = curve["name"].as_str().unwrap().replace("@", "_at_");
        let expected: Vec<Value> = curve["points"]
            .as_array()
            .unwrap()
            .iter()
            .map(|point| json!([point["step"], point["unix_millis"], point["value"]]))
            .collect();
        points += expected.len();
        let there = theirs.get(&name).unwrap_or_else(|| panic!("MLflow has no `{name}`"));
        assert_eq!(there, &Value::Array(expected), "curve `{name}`");
    }
    assert_eq!(theirs.len(), ours.len(), "{:?}", theirs.keys());
    assert!(points > 20, "{points} points prove little");
}

fn warns(event: &Value, words: &str) -> bool {
    event["event"] == "warning" && event["message"].as_str().is_some_and(|message| message.contains(words))
}

#[test]
fn a_run_is_on_the_server_with_its_document_its_curves_and_its_best_checkpoint_and_can_be_fetched_from_there() {
    let sandbox = Sandbox::new();
    let Some(server) = Mlflow::start(&sandbox) else { return };
    prepare(&sandbox, &server.url());
    let run = train(&sandbox, &[]).ok();
    assert!(!run.err.contains("tracking:"), "{}", run.err);
    let (ended, kept, found) = (run.event("ended"), kept(&sandbox), only_run(&server));

    assert_eq!((&found["status"], &found["name"]), (&json!("FINISHED"), &json!("tracked")));
    assert_eq!(found["tags"]["lockstep.run_id"], ended["run_id"]);
    assert_eq!(found["start"], kept["started_unix_millis"]);
    assert_eq!(found["end"], kept["ended_unix_millis"]);
    assert_eq!(found["tags"]["lockstep.dataset_hash"], kept["dataset_hash"]);
    assert!(found["tags"]["lockstep.convention.ndcg_at_10"].as_str().unwrap().contains("gain"), "{found}");
    for (key, value) in [("training.batch", "4"), ("model.hidden", "[16]"), ("optimizer.learning_rate", "0.001")] {
        assert_eq!(found["params"][key], value);
    }
    assert_eq!(found["params"], kept["parameters"]);
    assert_same_curves(&kept, &found);
    assert_eq!(kept["tracking"]["done"], true, "{kept}");
    let artifacts: Vec<&str> = found["artifacts"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    for file in [
        "checkpoint/manifest.json",
        "checkpoint/model.safetensors",
        "checkpoint/optimizer.safetensors",
        "model/MLmodel",
    ] {
        assert!(artifacts.contains(&file), "{artifacts:?}");
    }
    let of_best =
        ended["best"]["metrics"].as_array().unwrap().iter().find(|metric| metric["name"] == "ndcg@10").unwrap();
    assert_eq!(found["curves"]["ndcg_at_10"].as_array().unwrap().last().unwrap()[2], of_best["value"]);

    // The same from either, to the letter.
    let mlflow = ["--mlflow", &server.url(), "--experiment", "ranking", "--json"];
    let mut theirs = json_of(sandbox.lockstep(&[&["runs", "show", "tracked"], &mlflow[..]].concat()));
    let mut ours = kept.clone();
    for only_here in ["tracking", "checkpoints"] {
        ours.as_object_mut().unwrap().remove(only_here);
        theirs.as_object_mut().unwrap().remove(only_here);
    }
    assert_eq!(theirs, ours);

    // Its best checkpoint, from the server alone, is what was trained, and a run starts from it.
    let best = ended["best"]["path"].as_str().unwrap();
    sandbox.lockstep(&[&["runs", "fetch", "--best", "ndcg@10", "--out", "fetched"], &mlflow[..]].concat()).ok();
    sandbox.lockstep(&["runs", "fetch", "tracked", "--out", "copied", "--state", STATE]).ok();
    for file in ["manifest.json", "model.safetensors", "optimizer.safetensors"] {
        let trained = fs::read(std::path::Path::new(best).join(file)).unwrap();
        assert_eq!(fs::read(sandbox.path("fetched").join(file)).unwrap(), trained, "{file}");
        assert_eq!(fs::read(sandbox.path("copied").join(file)).unwrap(), trained, "{file}");
    }
    let more = ["--set", "name=tuned", "--set", "model.start_from=fetched", "--set", "training.epochs=1"];
    train(&sandbox, &more).ok();

    // And its model, as MLflow's users load it, scores as Lockstep does.
    sandbox.lockstep(&["score", "--model", "fetched", "--data", "data/validation", "--out", "scores.parquet"]).ok();
    let (data, scores) = (sandbox.path("data/validation"), sandbox.path("scores.parquet"));
    let arguments = [found["id"].as_str().unwrap(), data.to_str().unwrap(), scores.to_str().unwrap()];
    let Some(compared) = server.client_with_torch(SCORE, &arguments) else { return };
    assert!(compared["rows"].as_u64().unwrap() > 100 && compared["apart"].as_f64().unwrap() <= 1e-6, "{compared}");
}

#[test]
fn a_server_killed_in_mid_run_that_comes_back_misses_nothing_and_has_nothing_twice() {
    let sandbox = Sandbox::new();
    let Some(mut server) = Mlflow::start(&sandbox) else { return };
    prepare(&sandbox, &server.url());
    // The test ends it.
    let mut run = sandbox.start(&[&TRAIN[..], &LONG].concat());
    run.until(|event| event["event"] == "epoch");
    // It has made the run, and has some of its points.
    while server.client(READ, &[])[0]["curves"]["train/loss"].is_null() {}
    server.kill();
    let lost = run.until(|event| warns(event, "training goes on"));
    assert!(lost["message"].as_str().unwrap().contains(&server.url()), "{lost}");
    // It trains on: epochs end while the server is away.
    for _ in 0..3 {
        run.until(|event| event["event"] == "epoch");
    }
    server.restart();
    run.until(|event| warns(event, "tracking goes on"));
    run.until(|event| event["event"] == "epoch");
    run.signal(Signal::INT);
    let ended = run.until(|event| event["event"] == "ended");
    assert_eq!(ended["phase"], "stopped");
    assert_eq!(run.wait(), Some(0));
    let (kept, found) = (kept(&sandbox), only_run(&server));
    assert_eq!(found["status"], "KILLED");
    assert_same_curves(&kept, &found);
    for worker in 0..2 {
        for what in ["cpu_percent", "memory_bytes"] {
            assert!(
                !found["curves"][format!("system/w{worker}/{what}")].is_null(),
                "{:?}",
                found["curves"].as_object().unwrap().keys()
            );
        }
    }
}

#[test]
fn a_run_whose_server_is_away_ends_as_it_should_and_what_waits_is_sent_once_by_the_next_life_of_its_coordinator() {
    let sandbox = Sandbox::new();
    let Some(mut server) = Mlflow::start(&sandbox) else { return };
    prepare(&sandbox, &server.url());
    server.kill();
    // To its end without the server.
    let run = train(&sandbox, &[]).ok();
    assert_eq!(run.event("ended")["phase"], "succeeded");
    assert!(run.err.contains("points wait for") && run.err.contains("lockstep runs sync --state"), "{}", run.err);
    let waiting = kept(&sandbox);
    assert!(waiting["tracking"]["pending_points"].as_u64().unwrap() > 20, "{waiting}");
    let refused = sandbox.lockstep(&["runs", "sync", "--state", STATE]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    server.restart();
    sandbox.lockstep(&["runs", "sync", "--state", STATE]).ok();
    assert_same_curves(&kept(&sandbox), &only_run(&server));
    // There is nothing left to send.
    sandbox.lockstep(&["runs", "sync", "--state", STATE]).ok();
    assert_eq!(only_run(&server)["status"], "FINISHED");
}

#[test]
fn a_coordinator_killed_with_points_on_their_way_sends_them_once_when_it_is_back() {
    let sandbox = Sandbox::new();
    let Some(mut server) = Mlflow::start(&sandbox) else { return };
    prepare(&sandbox, &server.url());
    let mut run = sandbox.start(&[&TRAIN[..], &LONG].concat());
    run.until(|event| event["event"] == "epoch");
    while server.client(READ, &[])[0]["curves"]["train/loss"].is_null() {}
    server.kill();
    for _ in 0..3 {
        run.until(|event| event["event"] == "epoch");
    }
    run.kill_everything();
    let waiting = kept(&sandbox);
    assert_eq!(waiting["phase"], "failed", "{waiting}");
    assert!(waiting["tracking"]["pending_points"].as_u64().unwrap() > 0, "{}", waiting["tracking"]);
    server.restart();
    sandbox.lockstep(&["runs", "sync", "--state", STATE]).ok();
    let (kept, found) = (kept(&sandbox), only_run(&server));
    assert_eq!(found["status"], "FAILED");
    assert_same_curves(&kept, &found);
    assert!(found["tags"]["lockstep.standing"].as_str().unwrap().contains("interrupted"), "{found}");
}

/// Answers every request alike, or never; keeps the heads of those that came.
struct FakeServer {
    address: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl FakeServer {
    fn start(answer: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&heads);
        thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming().flatten() {
                match answer {
                    Some(answer) => drop(respond(stream, answer, &kept)),
                    None => silent.push(stream),
                }
            }
        });
        Self { address, heads }
    }
}

fn respond(stream: TcpStream, answer: &str, heads: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while reader.read_line(&mut head)? > 2 {}
    let length =
        head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
    reader.by_ref().take(length.unwrap_or(0)).read_to_end(&mut Vec::new())?;
    heads.lock().unwrap().push(head);
    reader.get_mut().write_all(answer.as_bytes())
}

#[test]
fn a_server_that_fails_refuses_or_hangs_is_said_clearly_and_loses_nothing() {
    const BROKEN: &str =
        "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 13\r\nconnection: close\r\n\r\nout of memory";
    const REFUSES: &str = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    const MOVED: &str = "HTTP/1.1 301 Moved Permanently\r\nlocation: https://mlflow.example.org/api\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    const DELETED: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 86\r\nconnection: close\r\n\r\n\
        {\"error_code\": \"INVALID_PARAMETER_VALUE\", \"message\": \"Current state is deleted.\"     }";
    let sandbox = Sandbox::new();
    prepare(&sandbox, "http://127.0.0.1:1");
    for (name, answer, words) in [
        ("moved", Some(MOVED), "redirects to https://mlflow.example.org"),
        ("deleted", Some(DELETED), "is told no more"),
        ("broken", Some(BROKEN), "answered 500: out of memory"),
        ("refused", Some(REFUSES), "set MLFLOW_TRACKING_TOKEN"),
        ("silent", None, "points wait for"),
    ] {
        let server = FakeServer::start(answer);
        let url = format!("tracking.mlflow=http://{}", server.address);
        let name_it = format!("name={name}");
        let arguments = [&TRAIN[..], &["--set", &name_it, "--set", &url, "--set", "checkpoint.dir=faulty"]].concat();
        let mut command = sandbox.command();
        let run = sandbox.run(command.args(&arguments).env("MLFLOW_TRACKING_TOKEN", "hush-hush")).ok();
        assert_eq!(run.event("ended")["phase"], "succeeded");
        let said = format!("{}{}", run.out, run.err);
        assert!(said.contains(words), "`{words}` is not in:\n{said}");
        let warnings = said.matches("training goes on").count() + said.matches("stays here").count();
        assert!(warnings <= 1 && (warnings == 1 || answer.is_none()), "said once:\n{said}");
        assert!(!said.contains("hush-hush"), "the token is shown:\n{said}");
        if answer.is_some() {
            let heads = server.heads.lock().unwrap();
            assert!(
                heads.iter().all(|head| head.to_lowercase().contains("authorization: bearer hush-hush")),
                "{heads:?}"
            );
        }
        let shown = json_of(sandbox.lockstep(&["runs", "show", name, "--state", "faulty/.state", "--json"]));
        let tracking = &shown["tracking"];
        assert_eq!(tracking["done"], name == "deleted", "{tracking}");
        assert_eq!(tracking["pending_points"].as_u64().unwrap() > 20, name != "deleted", "{tracking}");
    }
    let journal = fs::read(sandbox.path("faulty/.state/journal.redb")).unwrap();
    assert!(!journal.windows(9).any(|bytes| bytes == b"hush-hush"), "the token is in the journal");
}

/// Between Lockstep and a real server: every request is carried out, and the first answer to it gets lost.
struct LosesAnswers {
    address: String,
    lost: Arc<Mutex<HashSet<Vec<u8>>>>,
}

impl LosesAnswers {
    fn before(server: &Mlflow) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let behind = server.url().replace("http://", "");
        let lost = Arc::new(Mutex::new(HashSet::new()));
        let known = Arc::clone(&lost);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (behind, known) = (behind.clone(), Arc::clone(&known));
                thread::spawn(move || pass_on(stream, &behind, &known));
            }
        });
        Self { address, lost }
    }
}

fn pass_on(stream: TcpStream, behind: &str, known: &Mutex<HashSet<Vec<u8>>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while reader.read_line(&mut head)? > 2 {}
    let length =
        head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
    let mut body = Vec::new();
    reader.by_ref().take(length.unwrap_or(0)).read_to_end(&mut body)?;
    let mut server = TcpStream::connect(behind)?;
    server.write_all(head.trim_end().as_bytes())?;
    server.write_all(b"\r\nconnection: close\r\n\r\n")?;
    server.write_all(&body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    let request = [head.as_bytes(), &body].concat();
    if known.lock().unwrap().insert(request) {
        return Ok(());
    }
    reader.get_mut().write_all(&answer)
}

#[test]
fn answers_that_get_lost_make_no_run_and_no_point_double() {
    let sandbox = Sandbox::new();
    let Some(server) = Mlflow::start(&sandbox) else { return };
    let between = LosesAnswers::before(&server);
    prepare(&sandbox, &format!("http://{}", between.address));
    train(&sandbox, &[]).ok();
    // However far it came: here is the rest.
    while kept(&sandbox)["tracking"]["done"] != true {
        sandbox.lockstep(&["runs", "sync", "--state", STATE]);
    }
    assert_same_curves(&kept(&sandbox), &only_run(&server));
    let lost = between.lost.lock().unwrap();
    let line = |request: &Vec<u8>| String::from_utf8_lossy(request).lines().next().unwrap_or_default().to_owned();
    let of = |what: &str| lost.iter().filter(|request| line(request).contains(what)).count();
    assert!(
        of("/runs/create") == 1 && of("/runs/log-batch") > 1 && of("/model.safetensors") == 1,
        "{:?}",
        lost.iter().map(line).collect::<Vec<_>>()
    );
}

/// The best run by MLflow's own client, as its users ask for it.
const BEST: &str = r#"
import json, mlflow
from mlflow import MlflowClient

client = MlflowClient()
experiment = client.get_experiment_by_name("ranking")
foreign = client.create_run(experiment.experiment_id, run_name="foreign")
client.log_metric(foreign.info.run_id, "ndcg_at_10", float("nan"))
runs = client.search_runs([experiment.experiment_id], order_by=["metrics.ndcg_at_10 DESC"])
print(json.dumps([[run.info.run_id, run.data.tags.get("lockstep.run_id")] for run in runs]))
"#;

#[test]
fn the_best_run_is_the_same_by_mlflows_client_by_lockstep_from_mlflow_and_by_lockstep_from_the_journal() {
    let sandbox = Sandbox::new();
    let Some(server) = Mlflow::start(&sandbox) else { return };
    prepare(&sandbox, &server.url());
    for (name, rate) in [("slow", "1e-6"), ("good", "1e-2"), ("wild", "3e-1")] {
        let (name, rate) = (format!("name={name}"), format!("optimizer.learning_rate={rate}"));
        train(&sandbox, &["--set", &name, "--set", &rate]).ok();
    }
    // One that is not compared: it has no validation.
    sandbox.write(
        "plain.toml",
        &fs::read_to_string(sandbox.path("run.toml")).unwrap().replace("validation = \"data/validation\"\n", ""),
    );
    sandbox.lockstep(&["train", "plain.toml", "--listen", "127.0.0.1:0", "--set", "name=plain"]).ok();
    let theirs = server.client(BEST, &[]);
    let best = theirs[0][1].as_str().unwrap();
    assert_eq!(theirs.as_array().unwrap().len(), 5);

    let mlflow = ["--mlflow", &server.url(), "--experiment", "ranking", "--json"];
    let journal = ["--state", STATE, "--json"];
    let ask = |verb: &[&str], keeper: &[&str]| json_of(sandbox.lockstep(&[&["runs"], verb, keeper].concat()));
    let of_mlflow = ask(&["best", "--metric", "ndcg@10"], &mlflow);
    let of_journal = ask(&["best", "--metric", "ndcg@10"], &journal);
    assert_eq!((of_mlflow["run_id"].as_str(), of_journal["run_id"].as_str()), (Some(best), Some(best)));
    assert_eq!(of_mlflow["value"], of_journal["value"]);
    // Another curve, and the other way round.
    let loss = ["best", "--metric", "train/epoch_loss", "--lowest"];
    assert_eq!(ask(&loss, &mlflow)["run_id"], ask(&loss, &journal)["run_id"]);

    let mut listed = ask(&["list"], &mlflow);
    let of_lockstep = listed.as_array_mut().unwrap();
    of_lockstep.retain(|run| run["name"] != "foreign");
    assert_eq!(listed, ask(&["list"], &journal));
    let differences = ask(&["compare", "slow", "good"], &mlflow);
    assert_eq!(differences, ask(&["compare", "slow", "good"], &journal));
    let what: Vec<&str> =
        differences["differences"].as_array().unwrap().iter().filter_map(|one| one["what"].as_str()).collect();
    assert!(what.contains(&"optimizer.learning_rate") && what.contains(&"ndcg@10"), "{what:?}");
    assert!(!what.contains(&"training.batch") && !what.contains(&"dataset"), "{what:?}");
}
