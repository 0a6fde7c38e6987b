//! Clients that are not ours.

use tests::Sandbox;

use crate::small_dataset;

#[test]
fn a_python_client_that_knows_only_reflection_reads_a_running_jobs_status_and_metrics() {
    let sandbox = Sandbox::new();
    small_dataset(&sandbox, 300, "graded");
    sandbox.write(
        "run.toml",
        "name = \"watched\"\n[data]\ntrain = \"data/train\"\nvalidation = \"data/validation\"\n[model]\nhidden = [16]\n\
         [training]\nepochs = 100000\nbatch = 16\n[cluster]\nworkers = 2\n",
    );
    let address = sandbox.free_address();
    let mut run = sandbox.start(&["train", "run.toml", "--json", "--listen", &address]);
    run.until(|event| event["event"] == "epoch");
    let Some(client) = sandbox.peer("status_client.py", &[&address]) else { return };
    let client = client.ok();
    let reply: serde_json::Value = serde_json::from_str(&client.out).unwrap_or_else(|_| client.json()[0].clone());
    let text = reply.to_string();
    assert!(text.contains("lockstep.v1.Runs") && text.contains("watched"), "{text}");
    assert!(text.contains("validation/ndcg@10"), "{text}");

    let url = format!("http://{address}");
    let status = sandbox.lockstep(&["status", "--coordinator", &url]).ok();
    assert!(status.out.contains("watched"), "{}", status.out);
    sandbox.lockstep(&["stop", "--coordinator", &url]).ok();
    assert_eq!(run.until(|event| event["event"] == "ended")["phase"], "stopped");
}
