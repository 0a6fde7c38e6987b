//! Against the reference's pipeline on PySpark: the same labels, weights and features, row by row.

use std::{path::Path, process::Command};

use tests::{Ended, Sandbox, skip};

/// The tables of weights: Spark's word for one, and ours.
const WEIGHTS: [(&str, &str); 2] = [("rounded", "reference-rounded"), ("exact", "reference")];
/// The logs have a day more on either side.
const DATES: [&str; 4] = ["--from", "2024-01-02", "--to", "2024-01-03"];

/// Runs a script of benches/peers with the Python that has Spark; `None`, said loudly, where there is none.
fn peer(sandbox: &Sandbox, script: &str, arguments: &[&str]) -> Option<Ended> {
    let Some(python) = std::env::var_os("LOCKSTEP_SPARK_PYTHON") else {
        skip(
            "LOCKSTEP_SPARK_PYTHON is not set: scripts/test.sh sets it where Java 17 or newer is, to what scripts/venv.sh makes",
        );
        return None;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/peers").join(script);
    Some(sandbox.run(Command::new(python).arg(script).args(arguments)))
}

#[test]
fn labels_weights_and_features_equal_the_reference_pipelines_on_spark_row_by_row() {
    let sandbox = Sandbox::new();
    // Keys without a row, values that are null, searches without a user.
    let gaps = ["--missing", "0.02", "--anonymous", "0.1"];
    let sizes = ["logs", "--events", "4000", "--queries", "150", "--documents", "1000", "--users", "200"];
    let Some(made) = peer(&sandbox, "make_logs.py", &[&sizes[..], &gaps].concat()) else { return };
    made.ok();

    for (theirs, ours) in WEIGHTS {
        let spark =
            ["--logs", "logs/lake", "--features", "logs/features", "--list-key", "--memory", "1g", "--weights", theirs];
        let out = ["--out", &format!("spark-{theirs}")];
        let Some(spark) = peer(&sandbox, "spark_pipeline.py", &[&spark[..], &DATES, &out].concat()) else { return };
        assert_eq!(spark.ok().json()[0]["rows"], 20_000, "two of four days, of 1000 events with 10 results each");

        let logs = ["prepare", "--logs", "logs/lake", "--labels", "graded", "--weights", "ipw", "--propensities", ours];
        let tables = [
            ["--query-features", "logs/features/query_features"],
            ["--document-features", "logs/features/document_features"],
            ["--pair-features", "logs/features/pair_features"],
            ["--user-features", "logs/features/user_features"],
        ];
        let out = ["--missing", "zero", "--out", &format!("ours-{theirs}")];
        sandbox.lockstep(&[&logs[..], tables.as_flattened(), &DATES, &out].concat()).ok();
    }

    let compare = |ours: &str, theirs: &str| peer(&sandbox, "same_rows.py", &[ours, theirs, "--missing-as", "0"]);
    for (weights, _) in WEIGHTS {
        let Some(compared) = compare(&format!("ours-{weights}"), &format!("spark-{weights}")) else { return };
        assert!(compared.ok().out.starts_with("the same: 20000 rows in 2000 lists"));
    }
    // What tells the two tables apart is seen.
    let Some(compared) = compare("ours-exact", "spark-rounded") else { return };
    assert_eq!(compared.code, Some(1), "{}", compared.err);
    assert!(compared.out.contains("ours has sample_weight"), "{}", compared.out);
}
