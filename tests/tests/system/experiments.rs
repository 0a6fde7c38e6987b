//! From simulated logs to what a new ranker would have earned, and to the reading of an online test; and obp beside us.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use arrow::array::AsArray;
use arrow::datatypes::Float32Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use tests::{Ended, Sandbox, skip};

const DAYS: [&str; 4] = ["--from", "2026-01-01", "--to", "2026-01-02"];

/// A world of two arms, its truth in `world/`, a quarter of its lists explored.
fn simulated(exploration: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let sizes = ["--events", "12000", "--queries", "300", "--documents", "3000", "--users", "3000", "--days", "2"];
    let simulate = ["logs", "simulate", "--out-lake", "lake", "--features", "world", "--exploration", exploration];
    let arms = ["--arms", "control=1,treatment=2"];
    sandbox.lockstep(&[&simulate[..], &sizes, &arms].concat()).ok();
    sandbox
}

/// Scores of a ranker that knows the grades, of all documents that could be shown.
fn scores(sandbox: &Sandbox) {
    let mut text = "query_id,document_id,score\n".to_owned();
    for entry in fs::read_dir(sandbox.path("world/truth")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "parquet") {
            continue;
        }
        let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).unwrap()).unwrap();
        for batch in reader.build().unwrap().map(Result::unwrap) {
            let text_of = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>();
            let labels = batch.column_by_name("label").unwrap().as_primitive::<Float32Type>();
            for row in 0..batch.num_rows() {
                let (query, document) = (text_of("query_id").value(row), text_of("document_id").value(row));
                let number: u32 = document[1..].parse().unwrap();
                let score = labels.value(row) + (number % 97) as f32 / 200.0;
                let _ = writeln!(text, "{query},{document},{score}");
            }
        }
    }
    sandbox.write("scores.csv", &text);
}

fn json(ended: Ended) -> Value {
    ended.ok().json().remove(0)
}

#[test]
fn a_better_ranker_is_seen_in_the_logs_of_the_old_one_and_without_exploration_only_by_the_model_of_looking() {
    let sandbox = simulated("0.25");
    scores(&sandbox);
    let estimate = ["propensity", "estimate", "--logs", "lake", "--method", "randomized", "--out", "propensities.json"];
    sandbox.lockstep(&estimate).ok();
    let clicks = ["counterfactual", "clicks", "--logs", "lake", "--scores", "scores.csv"];
    let by_examination = [&clicks[..], &DAYS, &["--propensities", "propensities.json"]].concat();
    let found = json(sandbox.lockstep(&[&by_examination[..], &["--json"]].concat()));
    assert_eq!((&found["searches"], &found["scored_by"]), (&12_000.into(), &"query_id".into()));
    assert_eq!(found["estimates"]["conclusion"], "better", "{found:#}");
    let by_placement = [&clicks[..], &["--weights", "placement"]].concat();
    let placed = json(sandbox.lockstep(&[&by_placement[..], &["--json"]].concat()));
    let (model, logged) = (&found["estimates"]["ips"], &placed["estimates"]["snips"]);
    // Two ways to the same number, with other assumptions.
    let number = |value: &Value| value.as_f64().unwrap();
    assert!(
        number(&model["low"]) < number(&logged["high"]) && number(&logged["low"]) < number(&model["high"]),
        "{model} {logged}"
    );
    let text = sandbox.lockstep(&by_examination).ok().out;
    assert!(
        text.contains("effective sample size") && text.contains("the new ranker is better than what was logged: +"),
        "{text}"
    );
    println!("{text}\n{}", sandbox.lockstep(&by_placement).ok().out);

    let unexplored = simulated("0");
    scores(&unexplored);
    let refused = unexplored.lockstep(&by_placement).ok().out;
    assert!(
        refused.contains("no conclusion:\n  - in 100.0 % of the searches the new ranking could never have been logged"),
        "{refused}"
    );
    assert!(refused.contains("what to do: log more exploration"), "{refused}");
}

#[test]
fn an_online_test_is_read_from_the_lake_that_it_was_logged_to() {
    let sandbox = simulated("0");
    let abtest = ["abtest", "--logs", "lake"];
    let with = |more: &[&str]| sandbox.lockstep(&[&abtest[..], more].concat());
    let found = json(with(&["--json"]));
    let reading = &found["reading"];
    assert_eq!((&reading["control"], &reading["ratio_check"]["mismatch"]), (&"control".into(), &false.into()));
    let effects = reading["against_control"][0]["effects"].as_array().unwrap();
    assert_eq!(
        (effects.len(), &effects[0]["metric"], &effects[0]["verdict"]),
        (6, &"click_through".into(), &"higher".into())
    );
    let text = with(&[]).ok().out;
    assert!(text.contains("sample ratio: as planned") && text.contains("treatment against control"), "{text}");
    assert!(text.contains("\nclick_through            searches with a click / searches\n"), "{text}");
    assert_eq!(effects[0]["definition"], "searches with a click / searches");
    println!("{text}");
    let mismatch = with(&["--split", "control=0.9,treatment=0.1"]).ok().out;
    assert!(mismatch.contains("sample ratio: MISMATCH") && mismatch.contains("no conclusion"), "{mismatch}");
    assert_eq!(
        json(with(&["--split", "control=0.9,treatment=0.1", "--json"]))["reading"]["against_control"][0]["effects"][0]
            ["verdict"],
        "ratio-mismatch"
    );

    let refused = |more: &[&str]| {
        let ended = with(more);
        assert_eq!((ended.code, &*ended.out), (Some(2), ""), "{more:?}");
        ended.err
    };
    let error = refused(&["--arm-column", "variant"]);
    assert!(
        error.contains("have no column `variant`") && error.contains("hint: log the arm with every search"),
        "{error}"
    );
    assert!(refused(&["--arms", "control"]).contains("a comparison takes two arms"));
    assert!(refused(&["--resamples", "99999999999999"]).contains("are more than 100000"));
    assert!(refused(&["--control", "blue"]).contains("there are control, treatment"));
    assert!(refused(&["--split", "control=1"]).contains("does not say how many users arm `treatment` was to have"));
    assert!(refused(&["--from", "2027-01-01"]).contains("there are 2 dates, from 2026-01-01 to 2026-01-02"));
}

/// Runs a script of benches/peers with the Python that has obp; `None`, said loudly, where there is none.
fn obp(sandbox: &Sandbox, arguments: &[&str]) -> Option<Ended> {
    let Some(python) = std::env::var_os("LOCKSTEP_OBP_PYTHON") else {
        skip("LOCKSTEP_OBP_PYTHON is not set: scripts/test.sh sets it to what `scripts/venv.sh obp` makes");
        return None;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/peers/off_policy.py");
    Some(sandbox.run(Command::new(python).arg(script).args(arguments)))
}

#[test]
fn ips_clipped_and_snips_are_those_of_obp_on_ten_thousand_logged_actions() {
    let sandbox = Sandbox::new();
    // Five actions, their logged probabilities uneven, those of the new policy other ones; what is earned depends on the action.
    let (logging, target) = ([0.4, 0.3, 0.15, 0.1, 0.05], [0.05, 0.1, 0.15, 0.3, 0.4]);
    let mut state = 7u64;
    let mut unit = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut text = "reward,propensity,target\n".to_owned();
    for _ in 0..10_000 {
        let mut draw = unit();
        let action = logging
            .iter()
            .position(|share| {
                draw -= share;
                draw < 0.0
            })
            .unwrap_or(4);
        let reward = f64::from(u8::from(unit() < 0.1 + 0.1 * action as f64));
        let _ = writeln!(text, "{reward},{},{}", logging[action], target[action]);
    }
    sandbox.write("actions.csv", &text);
    let ours = json(sandbox.lockstep(&["counterfactual", "actions", "actions.csv", "--clip", "2.5", "--json"]));
    // Σ target · P(reward), and what the logging policy earns.
    let holds = |value: &Value, truth: f64| value["low"].as_f64() < Some(truth) && value["high"].as_f64() > Some(truth);
    assert!(holds(&ours["snips"], 0.39) && holds(&ours["ips"], 0.39) && holds(&ours["logged"], 0.21), "{ours:#}");
    assert_eq!((&ours["conclusion"], &ours["weights"]["rows"]), (&"better".into(), &10_000.into()));
    let text = sandbox.lockstep(&["counterfactual", "actions", "actions.csv"]).ok().out;
    assert!(text.contains("the new ranker is better than what was logged: +"), "{text}");
    println!("{text}");
    let refused = sandbox.lockstep(&["counterfactual", "actions", "actions.csv", "--target", "new"]);
    assert_eq!(refused.code, Some(2));
    assert!(
        refused.err.contains("has no column `new`\nhint: its columns are reward, propensity, target"),
        "{}",
        refused.err
    );

    let Some(theirs) = obp(&sandbox, &["actions.csv", "--clip", "2.5"]) else { return };
    let theirs = json(theirs);
    for name in ["ips", "clipped", "snips"] {
        let (ours, theirs) = (ours[name]["value"].as_f64().unwrap(), theirs[name].as_f64().unwrap());
        println!("{name}: ours {ours}, obp's {theirs}");
        assert!((ours - theirs).abs() <= 1e-12 * theirs.abs(), "{name}: ours {ours}, obp's {theirs}");
    }
}
