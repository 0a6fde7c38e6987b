//! Models out, to where PyTorch and MLflow load them; and models in, scripted in PyTorch.

use std::{ffi::OsString, fs, path::PathBuf, process::Command};

use tests::{Ended, Sandbox};

use crate::{small_dataset, train};

/// Every kind of model, each normalisation among them.
const MODELS: [&str; 9] = [
    "kind = \"linear\"\nnormalize = \"standard\"",
    "hidden = [12, 7]\nnormalize = \"log1p\"",
    "hidden = [12, 7]\nactivation = \"gelu\"\nnormalize = \"standard\"",
    "hidden = [12, 7]\nactivation = \"silu\"\nnormalize = \"standard\"",
    "hidden = [33]\nactivation = \"tanh\"\ndropout = 0.2",
    "hidden = [12, 7]\nlayer_norm = true\nnormalize = \"standard\"",
    "kind = \"dcn_v2\"\nnormalize = \"standard\"",
    "kind = \"dcn_v2\"\ncross_rank = 3\ncross_layers = 3\nnormalize = \"log1p\"",
    "kind = \"dcn_v2\"\nhidden = [9, 5]\nlayer_norm = true\nnormalize = \"standard\"",
];

fn document(name: &str, model: &str) -> String {
    format!(
        r#"
        name = "{name}"
        seed = 3
        [data]
        train = "data/train"
        validation = "data/validation"
        [model]
        {model}
        [loss]
        kind = "listnet"
        [training]
        epochs = 4
        batch = 16
        [optimizer]
        learning_rate = 3e-3
        [cluster]
        workers = 2
        [checkpoint]
        initial = true
        "#
    )
}

/// `lockstep-worker`, which carries out what needs libtorch.
fn worker(sandbox: &Sandbox, arguments: &[&str]) -> Ended {
    let mut command = Command::new(tests::binary("lockstep-worker"));
    sandbox.run(command.args(arguments).stdin(std::process::Stdio::null()))
}

fn export(sandbox: &Sandbox, model: &str, format: &str, out: &str) -> Ended {
    sandbox.lockstep(&["export", "--model", model, "--format", format, "--out", out])
}

/// Runs scripted.py under MLflow's Python, with the peers' torch; `None`, said loudly, where there is none.
fn mlflow(sandbox: &Sandbox, arguments: &[OsString]) -> Option<Ended> {
    let (Some(python), Some(peers)) =
        (std::env::var_os("LOCKSTEP_MLFLOW_PYTHON"), std::env::var_os("LOCKSTEP_PEERS_PYTHON"))
    else {
        tests::skip("LOCKSTEP_MLFLOW_PYTHON and LOCKSTEP_PEERS_PYTHON are not both set: scripts/test.sh sets them");
        return None;
    };
    let site = "import sysconfig; print(sysconfig.get_path('purelib'))";
    let torch = sandbox.run(Command::new(peers).args(["-c", site])).ok().out;
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../benches/peers/scripted.py");
    Some(sandbox.run(Command::new(python).arg(script).args(arguments).env("LOCKSTEP_TORCH", torch.trim())))
}

/// Every model's scores by its loader against Lockstep's.
#[track_caller]
fn agree(compared: &Ended, models: usize) {
    assert_eq!(compared.code, Some(0), "{}{}", compared.out, compared.err);
    let lines = compared.json();
    assert_eq!(lines.len(), models, "{}", compared.out);
    // Scores that are all alike would agree whatever was loaded.
    assert!(lines.iter().all(|line| line["spread"].as_f64().unwrap() > 1e-3), "{}", compared.out);
    for line in lines {
        eprintln!("{line}");
    }
}

#[test]
fn what_is_exported_scores_in_pytorch_and_in_mlflow_as_it_does_here() {
    let sandbox = Sandbox::new();
    small_dataset(&sandbox, 80, "graded");
    let (mut scripts, mut folders) = (Vec::new(), Vec::new());
    for (index, model) in MODELS.iter().enumerate() {
        let name = format!("m{index}");
        sandbox.write("run.toml", &document(&name, model));
        train(&sandbox, &[]).ok();
        let (run, scores) = (format!("checkpoints/{name}"), format!("{name}.parquet"));
        worker(&sandbox, &["score", "--model", &run, "--data", "data/validation", "--out", &scores]).ok();
        let (script, folder) = (format!("{name}.pt"), format!("{name}-mlflow"));
        export(&sandbox, &run, "torchscript", &script).ok();
        export(&sandbox, &run, "mlflow", &folder).ok();
        scripts.extend([script, scores.clone()]);
        folders.extend([folder, scores]);
        if index == 0 {
            let again = export(&sandbox, &run, "mlflow", "m0-mlflow");
            assert_eq!(again.code, Some(2), "{}", again.err);
            assert!(again.err.contains("`m0-mlflow` exists") && again.err.contains("--overwrite"), "{}", again.err);
            let over = ["export", "--model", &run, "--format", "mlflow", "--out", "m0-mlflow", "--overwrite"];
            sandbox.lockstep(&over).ok();
        }
    }
    // And back: what was exported is scored here too.
    let evaluated = |model: &str| {
        let words = ["evaluate", "--model", model, "--data", "data/validation", "--json"];
        let report: serde_json::Value = serde_json::from_str(&sandbox.lockstep(&words).ok().out).unwrap();
        let values = report["metrics"].as_array().unwrap();
        values.iter().map(|value| value["value"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    for model in ["m1.pt", "m1-mlflow"] {
        let (ours, theirs) = (evaluated("checkpoints/m1"), evaluated(model));
        assert!(!ours.is_empty() && ours.len() == theirs.len());
        // A last bit may exchange two rows.
        assert!(ours.iter().zip(&theirs).all(|(ours, theirs)| (ours - theirs).abs() < 1e-3), "{ours:?} {theirs:?}");
        let back = ["score", "--model", model, "--data", "data/validation", "--out", "back.parquet", "--overwrite"];
        worker(&sandbox, &back).ok();
        let arguments = ["compare", "jit", "data/validation", "m1.pt", "back.parquet"];
        let Some(compared) = sandbox.peer("scripted.py", &arguments) else { return };
        agree(&compared, 1);
    }
    let arguments = |loader: &str, pairs: &[String]| {
        let words = ["compare", loader, "data/validation"].map(OsString::from);
        words.into_iter().chain(pairs.iter().map(OsString::from)).collect::<Vec<_>>()
    };
    let Some(compared) = sandbox.peer("scripted.py", &arguments("jit", &scripts)) else { return };
    agree(&compared, MODELS.len());
    for loader in ["mlflow", "pyfunc"] {
        let Some(compared) = mlflow(&sandbox, &arguments(loader, &folders)) else { return };
        agree(&compared, MODELS.len());
    }
}

#[test]
fn safetensors_say_what_they_are() {
    let sandbox = Sandbox::new();
    small_dataset(&sandbox, 40, "graded");
    sandbox.write("run.toml", &document("plain", "hidden = [8]\nnormalize = \"log1p\""));
    train(&sandbox, &["--set", "training.epochs=1"]).ok();
    export(&sandbox, "checkpoints/plain", "safetensors", "plain.safetensors").ok();
    let bytes = fs::read(sandbox.path("plain.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let about = &header["__metadata__"];
    let model: serde_json::Value = serde_json::from_str(about["model"].as_str().unwrap()).unwrap();
    assert_eq!((&model["normalize"], &model["hidden"][0]), (&"log1p".into(), &8.into()));
    let features: Vec<String> = serde_json::from_str(about["features"].as_str().unwrap()).unwrap();
    assert_eq!(header["normalize.mean"]["shape"][0], features.len());
    assert_eq!(about["format"], "pt");
    assert_eq!(header["layers.0.weight"]["shape"], serde_json::json!([8, features.len()]));
}

/// The number of the dataset's features.
fn features(sandbox: &Sandbox) -> String {
    sandbox.write("run.toml", &document("count", "kind = \"linear\""));
    train(sandbox, &["--set", "training.epochs=1"]).ok();
    let manifest = fs::read(sandbox.path("checkpoints/count/step-00000000/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    manifest["features"].as_array().unwrap().len().to_string()
}

/// How far the tensors of two checkpoints are apart.
fn apart(sandbox: &Sandbox, one: &str, other: &str) -> Option<f64> {
    let weights = |checkpoint: &str| format!("checkpoints/{checkpoint}/model.safetensors");
    let compared = sandbox.peer("scripted.py", &["weights", &weights(one), &weights(other)])?.ok();
    eprintln!("{one} beside {other}: {}", compared.out.trim());
    compared.json()[0]["apart"].as_f64()
}

#[test]
fn a_scripted_module_trains_on_two_workers_as_the_built_in_mlp_of_its_shape_and_start() {
    let sandbox = Sandbox::new();
    small_dataset(&sandbox, 200, "graded");
    sandbox.write("run.toml", &document("built-in", "hidden = [32, 16]\nnormalize = \"standard\""));
    let ours = train(&sandbox, &[]).ok();
    let start = "checkpoints/built-in/step-00000000/model.safetensors";
    let Some(made) = sandbox.peer("scripted.py", &["make", "mlp", "model.pt", "--start", start]) else { return };
    made.ok();
    sandbox.write(
        "run.toml",
        &document("module", "kind = \"torchscript\"\npath = \"model.pt\"\nnormalize = \"standard\""),
    );
    let theirs = train(&sandbox, &[]).ok();
    let Some(difference) = apart(&sandbox, "module/latest", "built-in/latest") else { return };
    assert!(difference < 1e-5, "{difference}");
    let Some(learnt) = apart(&sandbox, "module/latest", "module/step-00000000") else { return };
    assert!(learnt > 1e-2, "{learnt}");
    let (ours, theirs) = (ours.event("epoch"), theirs.event("epoch"));
    let metric = |epoch: &serde_json::Value| epoch["validation"][0]["value"].as_f64().unwrap();
    assert!((metric(&ours) - metric(&theirs)).abs() < 1e-5, "{ours} {theirs}");

    // Cut in the middle and resumed, without the user's file: the same bits as in one go.
    let half = ["--set", "training.epochs=2", "--set", "checkpoint.dir=halves"];
    train(&sandbox, &half).ok();
    fs::rename(sandbox.path("model.pt"), sandbox.path("elsewhere.pt")).unwrap();
    let resume = ["--set", "checkpoint.dir=halves", "--resume"];
    train(&sandbox, &resume).ok();
    let bytes = |dir: &str| fs::read(sandbox.path(format!("{dir}/module/latest/model.safetensors"))).unwrap();
    assert_eq!(bytes("halves"), bytes("checkpoints"));
    // With another file in its place it is another run.
    sandbox.peer("scripted.py", &["make", "linear", "model.pt", "--features", "10"]);
    let refused = train(&sandbox, &[&resume[..], &["--set", "training.epochs=5"]].concat());
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    assert!(refused.err.contains("is not the module that this run began with"), "{}", refused.err);

    // What normalises inside is not normalised once more before it.
    export(&sandbox, "checkpoints/built-in", "torchscript", "inside.pt").ok();
    let again = |name: &str, more: &[&str]| {
        let name = format!("name={name}");
        let of_it = ["--set", &name, "--set", "model.path=inside.pt", "--set", "training.epochs=1"];
        train(&sandbox, &[&of_it, more].concat())
    };
    let refused = again("twice", &[]);
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    assert!(
        refused.err.contains("inside.pt` normalises its features itself")
            && refused.err.contains("hint: leave model.normalize out"),
        "{}",
        refused.err
    );
    again("once", &["--set", "model.normalize=none"]).ok();

    // What was trained leaves as any model does.
    let scores = ["score", "--model", "checkpoints/module", "--data", "data/validation", "--out", "scores.parquet"];
    worker(&sandbox, &scores).ok();
    export(&sandbox, "checkpoints/module", "torchscript", "trained.pt").ok();
    let Some(compared) =
        sandbox.peer("scripted.py", &["compare", "jit", "data/validation", "trained.pt", "scores.parquet"])
    else {
        return;
    };
    agree(&compared, 1);
}

#[test]
fn a_module_that_cannot_be_trained_is_refused_by_name_before_the_first_step() {
    let sandbox = Sandbox::new();
    small_dataset(&sandbox, 40, "graded");
    let features = features(&sandbox);
    sandbox.write("run.toml", &document("bad", "kind = \"torchscript\"\npath = \"model.pt\""));
    let refused = |words: &[&str]| {
        let ended = train(&sandbox, &[]);
        assert_eq!(ended.code, Some(2), "{}{}", ended.out, ended.err);
        for word in words.iter().chain(&["model.pt", "hint: "]) {
            assert!(ended.err.contains(word), "no `{word}` in:\n{}", ended.err);
        }
        let errors = ended.err.lines().filter(|line| line.starts_with("error")).count();
        assert_eq!(errors, 1, "one error, said once:\n{}", ended.err);
        assert!(!sandbox.path("checkpoints/bad/step-00000000").exists());
    };
    refused(&["cannot be read: No such file"]);
    let one_more = (features.parse::<usize>().unwrap() + 1).to_string();
    let cases: [(&str, &str, &[&str]); 16] = [
        ("state-dict", &features, &["is not a TorchScript module"]),
        ("two-arguments", &features, &["takes (x: Tensor, y: Tensor)"]),
        ("two-scores", &features, &["shape [6, 2] for 6 rows, not [6] or [6, 1]"]),
        ("idle", &features, &["no gradient reaches: `idle.weight`, `idle.bias`"]),
        ("dropout", &features, &["from call to call (aten::dropout)"]),
        ("chance", &features, &["draws random numbers (", "aten::dropout"]),
        ("squeeze", &features, &["shape [] for 1 rows"]),
        ("clamp", &features, &["changes what is its own in forward, by `aten::clamp_`"]),
        ("list", &features, &["changes what is its own in forward, by `aten::append`"]),
        ("crowd", &features, &["another score when other rows come with it"]),
        ("aliased", &features, &["a buffer `turned` in the memory of its parameter `layer.weight`"]),
        ("hook", &features, &["forward hooks"]),
        ("batch-norm", &features, &["changes its buffer `0.running_mean`"]),
        ("double", &features, &["of Double, not of float32"]),
        ("nan", &features, &["`bias` that holds NaN"]),
        ("linear", &one_more, &["fails on 6 rows of the data's", "cannot be multiplied"]),
    ];
    for (kind, features, words) in cases {
        let make = ["make", kind, "model.pt", "--features", features];
        let Some(made) = sandbox.peer("scripted.py", &make) else { return };
        made.ok();
        refused(words);
    }
    // Writing to what came into being within the call is nobody's business.
    let Some(made) = sandbox.peer("scripted.py", &["make", "harmless", "model.pt", "--features", &features]) else {
        return;
    };
    made.ok();
    train(&sandbox, &[]).ok();
}
