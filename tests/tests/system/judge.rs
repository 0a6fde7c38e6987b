//! Human judgments from end to end: a task made, rated by several people, pulled, and concluded.

use std::fs;

use serde_json::{Value, json};
use tests::{Ended, Sandbox, label_studio::LabelStudio};

const PAIRS: &str = "query_id,document_id,query,title,text
q1,d1,red shoes,Red sneaker,\"A red sneaker, made of <canvas> & rubber\"
q1,d2,red shoes,Blue hat,A hat
q1,d3,red shoes,Shoe polish,\"Red, for leather\"
q2,d1,canvas,Red sneaker,A red sneaker
q2,d4,canvas,Tent,
";

/// Grades by pair and rater; `None` is a pair passed over. What they come to stands behind them.
const GRADES: [(&str, &str, [Option<u8>; 3]); 5] = [
    ("q1", "d1", [Some(4), Some(4), Some(3)]), // 4 by two of three
    ("q1", "d2", [Some(0), Some(0), Some(0)]), // 0 by all
    ("q1", "d3", [Some(1), Some(2), Some(0)]), // a tie
    ("q2", "d1", [Some(3), None, Some(3)]),    // 3 by the two who rated it
    ("q2", "d4", [None, None, None]),
];

/// Label Studio's words for what a rater chose.
fn annotation(user: u64, grade: Option<u8>) -> Value {
    let chosen = |grade: u8| json!([{"type": "choices", "from_name": "grade", "to_name": "document", "value": {"choices": [grade.to_string()]}}]);
    let result = grade.map_or_else(|| json!([]), chosen);
    json!({"completed_by": user, "was_cancelled": grade.is_none(), "result": result})
}

#[track_caller]
fn failed(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, Some(code), "stdout:\n{}\nstderr:\n{}", ended.out, ended.err);
    for word in words {
        assert!(ended.err.contains(word), "no `{word}` in:\n{}", ended.err);
    }
}

#[track_caller]
fn report(ended: Ended) -> Value {
    let ended = ended.ok();
    serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error} in:\n{}", ended.out))
}

#[test]
fn a_task_on_a_real_label_studio_is_rated_by_three_people_pulled_and_concluded() {
    let sandbox = Sandbox::new();
    let Some(server) = LabelStudio::start(&sandbox) else { return };
    sandbox.write("pairs.csv", PAIRS);
    let url = server.url();
    let lockstep = |token: &str, arguments: &[&str]| {
        let mut command = sandbox.command();
        command.env("LOCKSTEP_LABEL_STUDIO_TOKEN", token).args(arguments).args(["--platform", &url]);
        sandbox.run(&mut command)
    };
    let create =
        ["judge", "create", "--pairs", "pairs.csv", "--title", "Shoes", "--instructions", "1 < 2 & so on", "--json"];

    let wrong = lockstep("00000000000000000000", &create);
    failed(&wrong, 2, &["refused the legacy token", "Invalid token", "hint:"]);
    assert!(!wrong.err.contains("00000000000000000000"), "the token is shown: {}", wrong.err);

    // Both kinds of token: the legacy one makes the task, a personal one pulls it.
    let created = report(lockstep(server.token(), &create));
    assert_eq!((&created["pairs"], &created["queries"]), (&json!(5), &json!(2)));
    let task = created["task"].as_str().unwrap();
    let project = server.call("GET", &format!("/api/projects/{task}/"), None);
    assert_eq!((&project["task_number"], &project["maximum_annotations"]), (&json!(5), &json!(3)));
    assert!(project["expert_instruction"].as_str().unwrap().contains("1 &lt; 2 &amp; so on"), "{project}");
    let personal = server.call("POST", "/api/token/", Some(&json!({})));
    let personal = personal["token"].as_str().unwrap();

    let raters = ["ann", "bob", "cem"].map(|name| {
        let email = format!("{name}@example.org");
        let user = json!({"email": email, "username": email, "password": "only-for-tests"});
        server.call("POST", "/api/users/", Some(&user))["id"].as_u64().unwrap()
    });
    let tasks = server.call("GET", &format!("/api/tasks?project={task}&page_size=100"), None);
    for (query, document, grades) in GRADES {
        let data = |task: &&Value| task["data"]["query_id"] == query && task["data"]["document_id"] == document;
        let number = tasks["tasks"].as_array().unwrap().iter().find(data).unwrap()["id"].as_u64().unwrap();
        // The last pair is never opened.
        for (rater, grade) in raters.iter().zip(grades).filter(|_| document != "d4") {
            server.call("POST", &format!("/api/tasks/{number}/annotations/"), Some(&annotation(*rater, grade)));
        }
    }

    let pull = ["judge", "pull", "--task", task, "--out", "ratings.jsonl", "--json"];
    let pulled = report(lockstep(personal, &pull));
    let expected = json!({
        "pairs": 5, "unrated": 1, "ratings": 11, "raters": 3, "skipped": 1, "unreadable": 0, "unreadable_at": [],
    });
    assert_eq!(pulled, expected);
    failed(&lockstep(personal, &pull), 2, &["ratings.jsonl` exists", "--overwrite"]);
    failed(
        &lockstep(server.token(), &["judge", "pull", "--task", "999", "--out", "other.jsonl"]),
        2,
        &["no project `999`", "hint:"],
    );
    assert!(!sandbox.path("other.jsonl").exists());

    let aggregated =
        report(sandbox.lockstep(&["judge", "aggregate", "ratings.jsonl", "--out", "judgments.csv", "--json"]));
    assert_eq!((&aggregated["accepted"], &aggregated["ties"]), (&json!(3), &json!(1)));
    assert_eq!(aggregated["undecided"][0]["counts"], json!([1, 1, 1, 0, 0]));
    let judgments = fs::read_to_string(sandbox.path("judgments.csv")).unwrap();
    let labels: Vec<String> =
        judgments.lines().skip(1).map(|line| line.split(',').take(3).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(labels, ["q1 d1 4.0", "q1 d2 0.0", "q2 d1 3.0"]);
}

#[test]
fn a_task_in_a_file_goes_round_without_any_server() {
    let sandbox = Sandbox::new();
    sandbox.write("pairs.csv", PAIRS);
    sandbox.lockstep(&["judge", "create", "--pairs", "pairs.csv", "--out", "tasks.jsonl"]).ok();
    let tasks = fs::read_to_string(sandbox.path("tasks.jsonl")).unwrap();
    fs::create_dir(sandbox.path("back")).unwrap();
    for (at, rater) in ["ann", "bob", "cem"].iter().enumerate() {
        let filled: String = tasks
            .lines()
            .zip(GRADES)
            .map(|(line, (.., grades))| {
                let mut line: Value = serde_json::from_str(line).unwrap();
                line["rater"] = json!(rater);
                line["grade"] = json!(grades[at]);
                format!("{line}\n")
            })
            .collect();
        sandbox.write(&format!("back/{rater}.jsonl"), &filled);
    }
    let pulled = report(sandbox.lockstep(&["judge", "pull", "--task", "back", "--out", "ratings.jsonl", "--json"]));
    assert_eq!((&pulled["ratings"], &pulled["skipped"], &pulled["unrated"]), (&json!(11), &json!(4), &json!(1)));
    let arguments =
        ["judge", "aggregate", "ratings.jsonl", "--method", "dawid-skene", "--out", "judgments.parquet", "--json"];
    let aggregated = report(sandbox.lockstep(&arguments));
    assert_eq!((&aggregated["pairs"], &aggregated["dawid_skene"]["converged"]), (&json!(4), &json!(true)));
    assert!(sandbox.path("judgments.parquet").exists());
}

#[test]
fn a_server_that_is_away_and_a_token_that_is_not_there_are_said() {
    let sandbox = Sandbox::new();
    sandbox.write("pairs.csv", PAIRS);
    let url = format!("http://{}", sandbox.free_address());
    let create = ["judge", "create", "--pairs", "pairs.csv", "--platform", &url];
    let without = sandbox.run(sandbox.command().env_remove("LOCKSTEP_LABEL_STUDIO_TOKEN").args(create));
    failed(&without, 2, &["wants an access token", "LOCKSTEP_LABEL_STUDIO_TOKEN"]);
    sandbox.write("token", "a-token\n");
    let away = sandbox.lockstep(&[&create[..], &["--token-file", "token"]].concat());
    failed(&away, 1, &["no answer from Label Studio at", &url, "is it running"]);
}
