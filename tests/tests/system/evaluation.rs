//! `lockstep evaluate` and `lockstep compare`: the same values as the tools people compare against, and what they refuse.

use std::{collections::HashMap, fs, process::Command};

use serde_json::Value;
use tests::{Ended, Sandbox, skip};

/// How far a value may be from a peer's. LightGBM, XGBoost and the others compute in f64; so do we.
const NEAR: f64 = 1e-6;

/// Makes rankings and has the installed peers evaluate them; `None`, said loudly, where they are not installed.
fn peers(sandbox: &Sandbox) -> Option<Vec<Value>> {
    let Some(python) = std::env::var_os("LOCKSTEP_EVALUATION_PYTHON") else {
        skip("LOCKSTEP_EVALUATION_PYTHON is not set: scripts/test.sh sets it to what scripts/venv.sh makes");
        return None;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/peers/metrics_peers.py");
    let mut command = Command::new(python);
    command.arg(script).args(["--out", "made"]);
    if let Some(example) = tests::shared("lightgbm") {
        command.arg("--lightgbm").arg(example);
    }
    sandbox.run(&mut command).ok();
    let expected = fs::read(sandbox.path("made/expected.json")).unwrap();
    Some(serde_json::from_slice(&expected).unwrap())
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap()
}

/// Values by query and metric of a file that `--per-query` wrote.
fn by_query(file: &std::path::Path) -> HashMap<String, HashMap<String, f64>> {
    let text = fs::read_to_string(file).unwrap();
    let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    lines
        .map(|line| {
            let values = header.iter().zip(&line).skip(2);
            let values = values.map(|(name, value)| ((*name).to_owned(), value.parse().unwrap())).collect();
            (line[0].to_owned(), values)
        })
        .collect()
}

#[test]
fn every_profile_gives_its_tools_values_by_query_and_in_the_mean() {
    let sandbox = Sandbox::new();
    let Some(expected) = peers(&sandbox) else { return };
    let (mut compared, mut seen) = (0, Vec::new());
    for of_peer in &expected {
        let (case, peer) = (text(of_peer, "case"), text(of_peer, "peer"));
        let metrics = of_peer["metrics"].as_object().unwrap();
        let names = metrics.keys().map(String::as_str).collect::<Vec<_>>().join(",");
        let (qrels, run, parquet) =
            (format!("made/{case}.qrels"), format!("made/{case}.run"), format!("made/{case}.parquet"));
        // The same values from either form, where both say it all.
        let mut forms = Vec::new();
        if of_peer["pair"] == true {
            let complete = if of_peer["complete"] == true { &["--complete"][..] } else { &[] };
            forms.push([&["--qrels", &qrels, "--run", &run][..], complete].concat());
        }
        if !case.starts_with("judged-apart") {
            forms.push(vec![parquet.as_str()]);
        }
        for form in forms {
            let ask = ["--as", peer, "--metrics", &names, "--per-query", "by-query.csv", "--overwrite", "--json"];
            let report = sandbox.lockstep(&[&["evaluate"][..], &form, &ask].concat()).ok().json().remove(0);
            assert_eq!(report["profile_is_whole"], true);
            let ours = by_query(&sandbox.path("by-query.csv"));
            for metric in report["metrics"].as_array().unwrap() {
                let name = text(metric, "name");
                let theirs = &metrics[name];
                let queries = theirs["queries"].as_object().unwrap();
                for (query, value) in queries {
                    let (ours, theirs) = (ours[query][name], value.as_f64().unwrap());
                    assert!(
                        (ours - theirs).abs() < NEAR,
                        "{case} as {peer}: {name} of {query} is {ours}, {peer} says {theirs} ({form:?})"
                    );
                    compared += 1;
                }
                if let Some(theirs) = theirs["mean"].as_f64() {
                    let mean = metric["value"].as_f64().unwrap();
                    assert!(
                        (mean - theirs).abs() < NEAR,
                        "{case} as {peer}: {name} is {mean}, {peer} says {theirs} ({form:?})"
                    );
                    assert_eq!(metric["queries"], queries.len(), "{case} as {peer}: {name}");
                }
            }
        }
        if !seen.contains(&peer) {
            seen.push(peer);
        }
    }
    eprintln!("{compared} values by query agree with {}", seen.join(", "));
    seen.sort_unstable();
    assert_eq!(seen, ["lightgbm", "ranx", "reference", "sklearn", "trec_eval", "xgboost"]);
}

#[test]
fn what_sets_the_profiles_apart_moves_values_so_that_the_comparison_above_can_fail() {
    let sandbox = Sandbox::new();
    sandbox.write("p.csv", "query,document,label,score\na,1,0,1\na,2,2,1\na,3,1,0\nb,1,0,1\nb,2,0,0\n");
    let value = |profile: &str| {
        let ended = sandbox.lockstep(&["evaluate", "p.csv", "--as", profile, "--metrics", "ndcg@2", "--json"]).ok();
        format!("{:.4}", ended.json()[0]["metrics"][0]["value"].as_f64().unwrap())
    };
    let profiles = ["reference", "trec_eval", "lightgbm", "xgboost", "sklearn", "ranx"];
    assert_eq!(profiles.map(value), ["0.2606", "0.3801", "0.7606", "0.7606", "0.3100", "0.2398"]);
}

fn refused(sandbox: &Sandbox, arguments: &[&str], words: &[&str]) {
    let Ended { code, out, err } = sandbox.lockstep(arguments);
    assert_eq!(code, Some(2), "{arguments:?}\n{out}\n{err}");
    assert_eq!(out, "", "{arguments:?}");
    for word in words {
        assert!(err.contains(word), "{arguments:?}: no `{word}` in\n{err}");
    }
    assert!(err.contains("\nhint: "), "{arguments:?}: no hint in\n{err}");
}

#[test]
fn bad_predictions_are_refused_with_file_line_and_what_to_do() {
    let sandbox = Sandbox::new();
    let head = "query,label,score\n";
    let cases: [(&str, &str, &[&str]); 9] = [
        ("nan.csv", "a,1,0.5\na,0,NaN\n", &["`nan.csv` line 3", "the score is NaN"]),
        ("inf.csv", "a,1,inf\n", &["`inf.csv` line 2", "infinite"]),
        ("large.csv", "a,1,1\na,32,2\n", &["`large.csv` line 3", "label 32 is above 31", "--gain linear"]),
        ("negative.csv", "a,-1,1\n", &["`negative.csv` line 2", "below 0", "--negative zero"]),
        ("gap.csv", "a,,1\n", &["`gap.csv` line 2, column `label`", "missing"]),
        ("word.csv", "a,good,1\n", &["`word.csv` line 2, column `label`", "`good` is not a number"]),
        ("ragged.csv", "a,1,1\nb,0\n", &["`ragged.csv` line 3", "2 fields, the header has 3"]),
        ("back.csv", "a,1,1\nb,0,1\na,0,2\n", &["`back.csv` line 4", "began at `back.csv` line 2"]),
        ("empty.csv", "", &["`empty.csv` holds no rows"]),
    ];
    for (name, text, words) in cases {
        sandbox.write(name, &format!("{head}{text}"));
        refused(&sandbox, &["evaluate", name], words);
    }
    sandbox.write("nothing.csv", "");
    refused(&sandbox, &["evaluate", "nothing.csv"], &["`nothing.csv` is empty"]);
    sandbox.write("other.csv", "qid,relevance,score\n1,1,1\n");
    refused(&sandbox, &["evaluate", "other.csv"], &["no column `label`", "`qid`, `relevance`, `score`", "--label"]);
    refused(&sandbox, &["evaluate", "other.csv", "--label", "grade"], &["no column `grade`"]);
    let trec = ["evaluate", "other.csv", "--label", "relevance", "--as", "trec_eval"];
    refused(&sandbox, &trec, &["no column of documents", "--document"]);
    let err = ["evaluate", "other.csv", "--label", "relevance", "--metrics", "err@10", "--largest-grade", "1"];
    sandbox.lockstep(&err).ok();
    sandbox.write("grades.csv", &format!("{head}a,5,1\n"));
    refused(&sandbox, &["evaluate", "grades.csv", "--metrics", "err"], &["label 5 is above 4", "--largest-grade"]);
}

#[test]
fn what_is_no_table_of_numbers_is_refused_with_how_to_make_one_of_it() {
    let sandbox = Sandbox::new();
    let utf16: Vec<u8> = "\u{feff}query,label,score\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(sandbox.path("wide.csv"), utf16).unwrap();
    fs::write(sandbox.path("packed.csv.gz"), b"\x1f\x8b\x08\0\0\0\0\0").unwrap();
    let file = |name| ["evaluate", name];
    refused(&sandbox, &file("wide.csv"), &["`wide.csv` is text in UTF-16", "iconv", "UTF-8"]);
    refused(&sandbox, &file("packed.csv.gz"), &["`packed.csv.gz` is packed by gzip", "gunzip --keep packed.csv.gz"]);
    let pair = ["evaluate", "--qrels", "packed.csv.gz", "--run", "wide.csv"];
    refused(&sandbox, &pair, &["`packed.csv.gz` is packed by gzip"]);
    sandbox.write("words.csv", "query,label,score\na,good,1\n");
    refused(&sandbox, &file("words.csv"), &["`good` is not a number", "grades", "0 for not relevant", "--label"]);
    parquet_files::write_text_labels(&sandbox.path("words.parquet"));
    refused(&sandbox, &file("words.parquet"), &["column `label` is Utf8", "grades", "0 for not relevant", "--label"]);
}

#[test]
fn judgments_and_runs_that_do_not_fit_are_refused_and_what_is_left_out_is_said() {
    let sandbox = Sandbox::new();
    let pair = ["evaluate", "--qrels", "q", "--run", "r"];
    sandbox.write("q", "1 0 a 1\n1 0 b 0\n2 0 a 1\n");
    let cases: [(&str, &[&str]); 6] = [
        ("q1 Q0 a 1 2.0 t\n", &["no query in common", "`1`", "`q1`"]),
        ("1 Q0 a 1 2.0 t\n1 Q0 b 2 1.0 t\n1 Q0 a 3 0.5 t\n", &["`r` line 3", "`a` of query `1`", "first in line 1"]),
        ("1 Q0 a 1 t\n", &["`r` line 1", "5 fields and not 6"]),
        ("1 Q0 a 1 high t\n", &["`r` line 1", "`high` is not a number"]),
        ("1 Q0 a 1 nan t\n", &["`r` line 1", "NaN"]),
        ("\n", &["`r` is empty"]),
    ];
    for (run, words) in cases {
        sandbox.write("r", run);
        refused(&sandbox, &pair, words);
    }
    sandbox.write("r", "1 Q0 a 1 2.0 t\n3 Q0 a 1 2.0 t\n");
    let report = |more: &[&str]| sandbox.lockstep(&[&pair[..], more, &["--json"]].concat()).ok().json().remove(0);
    let found = report(&[]);
    assert_eq!((&found["queries"], &found["metrics"][4]["value"]), (&1.into(), &1.0.into()));
    let notes = found["notes"].to_string();
    assert!(notes.contains("query `2`; --complete counts them") && notes.contains("query `3`"), "{notes}");
    let complete = report(&["--complete"]);
    assert_eq!((&complete["queries"], &complete["metrics"][4]["value"]), (&2.into(), &0.5.into()));
    sandbox.write("q", "\u{feff}1 0 a 1\n2 0 a 1\n");
    assert_eq!(report(&["--complete"])["metrics"], complete["metrics"], "a byte order mark is no part of an id");
    sandbox.write("q", "1 0 a 1\n1 0 a 0\n");
    refused(&sandbox, &pair, &["`q` line 2", "is judged twice, first in line 1"]);
    sandbox.write("q", "1 0 a -1\n");
    refused(&sandbox, &pair, &["`q` line 1", "below 0", "--negative zero"]);
}

/// Queries whose first document is relevant with some chance, which a better ranker puts on top.
fn predictions(sandbox: &Sandbox, name: &str, queries: u32, flipped_one_in: u32) {
    let mut text = "query,label,score\n".to_owned();
    for query in 0..queries {
        let flip = flipped_one_in > 0 && query.wrapping_mul(2_654_435_761) >> 16 & 0xff < 256 / flipped_one_in;
        for document in 0..4u32 {
            let label = u32::from((query + document) % 4 == 0) * 2 + u32::from(document == 3);
            let score = if flip { label } else { 10 - label };
            text += &format!("q{query},{label},{}\n", f64::from(score) + f64::from(document) / 8.0);
        }
    }
    sandbox.write(name, &text);
}

#[test]
fn a_comparison_tells_a_difference_from_chance_and_names_the_queries_that_changed() {
    let sandbox = Sandbox::new();
    predictions(&sandbox, "a.csv", 200, 4);
    predictions(&sandbox, "b.csv", 200, 2);
    let compare = |a: &str, b: &str, more: &[&str]| {
        sandbox.lockstep(&[&["compare", a, b, "--metrics", "ndcg@3,mrr", "--json"], more].concat())
    };
    let report = compare("a.csv", "b.csv", &[]).ok().json().remove(0);
    let ndcg = &report["metrics"][0];
    let number = |key: &str| ndcg[key].as_f64().unwrap();
    assert!((number("b") - number("a") - number("difference")).abs() < 1e-12, "{ndcg}");
    assert!(number("difference") > 0.02 && number("p") < 0.001, "{ndcg}");
    assert!(ndcg["interval"]["low"].as_f64().unwrap() > 0.0, "{ndcg}");
    let counts = ["wins", "ties", "losses"].map(|key| ndcg[key].as_u64().unwrap());
    assert!(counts.iter().sum::<u64>() == 200 && counts[2] == 0 && counts[0] > 20, "{counts:?}");
    assert_eq!(ndcg["most_gained"].as_array().unwrap().len(), 5);
    assert_eq!(report, compare("a.csv", "b.csv", &[]).ok().json()[0], "seeded");

    let same = compare("a.csv", "a.csv", &[]).ok().json().remove(0);
    assert_eq!((&same["metrics"][0]["p"], &same["metrics"][0]["ties"]), (&1.0.into(), &200.into()));

    predictions(&sandbox, "fewer.csv", 150, 2);
    let refused = compare("a.csv", "fewer.csv", &[]);
    assert_eq!(refused.code, Some(2));
    for words in ["150 in both", "50 only in `a.csv` (`q150` first)", "none only in `fewer.csv`", "--common"] {
        assert!(refused.err.contains(words), "{}", refused.err);
    }
    let common = compare("a.csv", "fewer.csv", &["--common"]).ok().json().remove(0);
    assert_eq!((&common["queries"], &common["only_in_a"]), (&150.into(), &50.into()));
    assert!(common["notes"].to_string().contains("150 queries that both have are compared"), "{common}");

    // The text has the same.
    let text = sandbox.lockstep(&["compare", "a.csv", "b.csv", "--metrics", "ndcg@3"]).ok().out;
    assert!(text.contains("most gained in ndcg@3") && text.contains("gain 2^label-1"), "{text}");
}

#[test]
fn two_runs_are_compared_against_one_set_of_judgments() {
    let sandbox = Sandbox::new();
    let lines = |of: &dyn Fn(u32) -> String| (0..30).map(of).collect::<String>();
    sandbox.write("q", &lines(&|query| format!("{query} 0 a 1\n{query} 0 b 0\n")));
    sandbox.write("worse", &lines(&|query| format!("{query} Q0 a 1 1 t\n{query} Q0 b 2 2 t\n")));
    sandbox.write("better", &lines(&|query| format!("{query} Q0 b 1 1 t\n{query} Q0 a 2 2 t\n")));
    let compare = ["compare", "worse", "better", "--qrels", "q", "--as", "trec_eval", "--metrics", "mrr", "--json"];
    let report = sandbox.lockstep(&compare).ok().json().remove(0);
    let mrr = &report["metrics"][0];
    assert_eq!((&mrr["a"], &mrr["b"], &mrr["wins"]), (&0.5.into(), &1.0.into(), &30.into()));
    assert!(mrr["p"].as_f64().unwrap() < 0.001, "{mrr}");
}

#[test]
fn values_by_query_and_intervals_are_the_same_from_csv_and_parquet_and_for_every_type_of_query() {
    let sandbox = Sandbox::new();
    predictions(&sandbox, "a.csv", 300, 3);
    let evaluate = |input: &str, out: &str| {
        let ask = ["--empty", "skip", "--intervals", "--resamples", "200", "--per-query", out, "--json"];
        sandbox.lockstep(&[&["evaluate", input, "--metrics", "ndcg@3,err@2"][..], &ask].concat()).ok().json().remove(0)
    };
    let report = evaluate("a.csv", "a-by-query.csv");
    let ndcg = &report["metrics"][0];
    let (low, high) = (ndcg["interval"]["low"].as_f64().unwrap(), ndcg["interval"]["high"].as_f64().unwrap());
    let mean = ndcg["value"].as_f64().unwrap();
    assert!(low < mean && mean < high && high - low < 0.2, "{ndcg}");
    let ours = by_query(&sandbox.path("a-by-query.csv"));
    assert_eq!(ours.len(), 300);
    let of_file = ours.values().map(|values| values["ndcg@3"]).sum::<f64>() / 300.0;
    assert!((of_file - mean).abs() < 1e-12);

    evaluate("a.csv", "a-by-query.parquet");
    let again = sandbox.lockstep(&["evaluate", "a.csv", "--per-query", "a-by-query.csv"]);
    assert_eq!(again.code, Some(2));
    assert!(again.err.contains("--overwrite"), "{}", again.err);

    let over = ["evaluate", "a.csv", "--per-query", "a.csv", "--overwrite"];
    refused(&sandbox, &over, &["`a.csv` is what is read itself"]);

    // The queries as whole numbers, as text in a dictionary, and in two files with a list over their border.
    let rows: Vec<(u32, f32, f64)> = fs::read_to_string(sandbox.path("a.csv"))
        .unwrap()
        .lines()
        .skip(1)
        .map(|line| {
            let mut fields = line.split(',');
            let query = fields.next().unwrap()[1..].parse().unwrap();
            (query, fields.next().unwrap().parse().unwrap(), fields.next().unwrap().parse().unwrap())
        })
        .collect();
    let value = |input: &str| {
        let ended = sandbox.lockstep(&["evaluate", input, "--metrics", "ndcg@3,err@2", "--json"]).ok();
        ended.json()[0]["metrics"].clone()
    };
    let expected = value("a.csv");
    parquet_files::write(&sandbox.path("numbers.parquet"), &rows, parquet_files::Ids::Numbers);
    parquet_files::write(&sandbox.path("dictionary.parquet"), &rows, parquet_files::Ids::Dictionary);
    fs::create_dir_all(sandbox.path("folder/2")).unwrap();
    parquet_files::write(&sandbox.path("folder/1.parquet"), &rows[..601], parquet_files::Ids::Numbers);
    parquet_files::write(&sandbox.path("folder/2/a.parquet"), &rows[601..], parquet_files::Ids::Numbers);
    for input in ["numbers.parquet", "dictionary.parquet", "folder"] {
        assert_eq!(value(input), expected, "{input}");
    }
    // What a folder holds besides is not read, and said.
    let notes = |input: &str| sandbox.lockstep(&["evaluate", input, "--json"]).ok().json()[0]["notes"].to_string();
    assert_eq!(notes("folder"), "[]");
    sandbox.write("folder/2/more.csv", "query,label,score\nq,1,1\n");
    assert_eq!(value("folder"), expected);
    assert!(notes("folder").contains("not read: `folder/2/more.csv`"), "{}", notes("folder"));
    fs::create_dir(sandbox.path("mixed")).unwrap();
    parquet_files::write(&sandbox.path("mixed/1.parquet"), &rows[..600], parquet_files::Ids::Numbers);
    parquet_files::write(&sandbox.path("mixed/2.parquet"), &rows[600..], parquet_files::Ids::Dictionary);
    refused(&sandbox, &["compare", "mixed", "mixed"], &["`mixed/2.parquet`: queries are text, and integers before"]);
    // A list that comes back in another file is told by that file's row.
    parquet_files::write(&sandbox.path("folder/3.parquet"), &rows[..4], parquet_files::Ids::Numbers);
    refused(&sandbox, &["evaluate", "folder"], &["`folder/3.parquet` row 0", "began at `folder/1.parquet` row 0"]);
}

mod parquet_files {
    use std::{fs::File, path::Path, sync::Arc};

    use arrow::array::{ArrayRef, DictionaryArray, Float32Array, Float64Array, Int32Array, StringArray};
    use arrow::datatypes::Int32Type;
    use arrow::record_batch::RecordBatch;
    use parquet::arrow::ArrowWriter;

    pub enum Ids {
        Numbers,
        Dictionary,
    }

    pub fn write_text_labels(path: &Path) {
        let text = |words: [&str; 2]| -> ArrayRef { Arc::new(StringArray::from(words.to_vec())) };
        let scores: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 2.0]));
        write_batch(path, [("query", text(["a", "a"])), ("label", text(["good", "bad"])), ("score", scores)]);
    }

    pub fn write(path: &Path, rows: &[(u32, f32, f64)], ids: Ids) {
        let queries: ArrayRef = match ids {
            Ids::Numbers => Arc::new(rows.iter().map(|row| row.0 as i32).collect::<Int32Array>()),
            Ids::Dictionary => {
                let names: Vec<String> = rows.iter().map(|row| format!("q{}", row.0)).collect();
                Arc::new(names.iter().map(String::as_str).collect::<DictionaryArray<Int32Type>>())
            }
        };
        let labels: ArrayRef = Arc::new(rows.iter().map(|row| row.1).collect::<Float32Array>());
        let scores: ArrayRef = Arc::new(rows.iter().map(|row| row.2).collect::<Float64Array>());
        write_batch(path, [("score", scores), ("query_id", queries), ("unused", labels.clone()), ("label", labels)]);
    }

    fn write_batch<const N: usize>(path: &Path, columns: [(&str, ArrayRef); N]) {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
}
