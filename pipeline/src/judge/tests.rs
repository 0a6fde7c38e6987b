//! What a user's files and a server's answers come to. The real Label Studio is met in the `tests` crate.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use arrow::array::AsArray;
use arrow::datatypes::Float32Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use ranking::judgments::Pair;

use super::*;
use crate::ErrorKind;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    fn options(&self, ratings: &str, out: &str) -> AggregateOptions {
        AggregateOptions {
            ratings: vec![self.write("ratings.jsonl", ratings)],
            method: Method::Majority,
            min_agreement: 0.6,
            min_raters: 1,
            out: self.path(out),
            overwrite: false,
        }
    }

    /// The names in it, but for what tests put there.
    fn made(&self) -> Vec<String> {
        let names = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> =
            names.filter(|name| name != "ratings.jsonl" && !name.starts_with("pairs")).collect();
        names.sort();
        names
    }
}

fn rating(document: &str, rater: &str, grade: u8) -> String {
    format!("{{\"query_id\":\"q1\",\"document_id\":\"{document}\",\"rater\":\"{rater}\",\"grade\":{grade}}}\n")
}

/// Three raters; `a` all agree, `b` two of three, `c` a tie of two, `d` all differ, `e` one rater alone.
fn mixed() -> String {
    let of = |document: &str, grades: &[u8]| -> String {
        grades.iter().zip(["ann", "bob", "cem"]).map(|(grade, rater)| rating(document, rater, *grade)).collect()
    };
    [of("d", &[0, 2, 4]), of("a", &[4, 4, 4]), of("b", &[3, 3, 0]), of("c", &[1, 2]), of("e", &[1])].concat()
}

#[track_caller]
fn refused<T>(result: Result<T, PipelineError>, words: &[&str]) -> PipelineError {
    let Err(error) = result else { panic!("it went well") };
    let all = format!("{error}\n{}", error.hint().unwrap_or_default());
    for word in words {
        assert!(all.contains(word), "no `{word}` in:\n{all}");
    }
    error
}

#[test]
fn agreed_pairs_become_labels_and_all_others_are_listed() {
    let folder = Folder::new();
    let report = aggregate(&folder.options(&mixed(), "judgments.parquet")).unwrap();
    assert_eq!((report.pairs, report.accepted, report.ties, report.under_agreement), (5, 3, 2, 0));
    let undecided: Vec<(&str, WhyUndecided)> =
        report.undecided.iter().map(|pair| (pair.pair.document_id.as_str(), pair.why)).collect();
    assert_eq!(undecided, [("c", WhyUndecided::Tie), ("d", WhyUndecided::Tie)]);
    assert_eq!(report.undecided[0].counts, [0, 1, 1, 0, 0]);

    let file = fs::File::open(folder.path("judgments.parquet")).unwrap();
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let names: Vec<String> = builder.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names.join(" "), "query_id document_id label agreement num_raters num_ratings probability");
    let batch = builder.build().unwrap().next().unwrap().unwrap();
    let documents: Vec<_> = batch.column(1).as_string::<i32>().iter().flatten().collect();
    assert_eq!(documents, ["a", "b", "e"]);
    assert_eq!(batch.column(2).as_primitive::<Float32Type>().values(), &[4.0, 3.0, 1.0]);
    assert_eq!(batch.column(6).null_count(), 3, "a majority has no probability");

    let listed = fs::read_to_string(folder.path("judgments.undecided.jsonl")).unwrap();
    assert_eq!(listed.lines().count(), 2);
    assert!(listed.starts_with("{\"query_id\":\"q1\",\"document_id\":\"c\",\"why\":\"tie\""), "{listed}");
    assert_eq!(folder.made(), ["judgments.parquet", "judgments.undecided.jsonl"]);
}

#[test]
fn the_minimum_moves_what_is_accepted_and_a_pair_may_need_more_than_one_rater() {
    let folder = Folder::new();
    let options = AggregateOptions { min_agreement: 0.7, min_raters: 2, ..folder.options(&mixed(), "strict.csv") };
    let report = aggregate(&options).unwrap();
    assert_eq!((report.accepted, report.ties, report.under_agreement, report.too_few_raters), (1, 2, 1, 1));
    let written = fs::read_to_string(folder.path("strict.csv")).unwrap();
    assert_eq!(written, "query_id,document_id,label,agreement,num_raters,num_ratings,probability\nq1,a,4.0,1.0,3,3,\n");
    refused(aggregate(&AggregateOptions { min_agreement: 60.0, ..options }), &["60", "0 to 1"]);
}

#[test]
fn raters_are_compared_with_the_labels() {
    let folder = Folder::new();
    let report = aggregate(&folder.options(&mixed(), "j.jsonl")).unwrap();
    let cem = report.raters.iter().find(|rater| rater.rater == "cem").unwrap();
    assert_eq!((cem.ratings, cem.agreement, cem.bias), (3, Some(0.5), Some(-1.5)));
    assert_eq!(cem.confusion[3][0], 1);
    let kappa = report.fleiss_kappa.unwrap();
    assert_eq!((kappa.items, kappa.equal_raters), (4, false));
    let text = report.to_string();
    for words in
        ["12 of 5 pairs of 1 query, by 3 raters", "rated once   1 pair", "generalised", "q1         c         tie"]
    {
        assert!(text.contains(words), "no `{words}` in:\n{text}");
    }
}

#[test]
fn dawid_skene_says_how_probable_its_labels_are() {
    let folder = Folder::new();
    let mut lines = String::new();
    for document in 0..30 {
        // Two good raters, and one who always says 0.
        let grade = [0, 2, 4][document % 3];
        for (rater, grade) in [("ann", grade), ("bob", grade), ("zed", 0)] {
            lines += &rating(&format!("d{document:02}"), rater, grade);
        }
    }
    let options = AggregateOptions { method: Method::DawidSkene, ..folder.options(&lines, "j.jsonl") };
    let report = aggregate(&options).unwrap();
    assert_eq!(report.accepted, 30);
    assert_eq!(report.labels, [10, 0, 10, 0, 10]);
    let accuracies: Vec<f64> = report.raters.iter().map(|rater| (100.0 * rater.accuracy.unwrap()).round()).collect();
    assert_eq!(accuracies, [100.0, 100.0, 33.0]);
    assert!(report.dawid_skene.as_ref().unwrap().converged);
    let first = fs::read_to_string(folder.path("j.jsonl")).unwrap();
    let first: serde_json::Value = serde_json::from_str(first.lines().nth(1).unwrap()).unwrap();
    assert!(first["probability"].as_f64().unwrap() > 0.99 && first["agreement"].as_f64().unwrap() < 0.7, "{first}");
}

#[test]
fn a_line_that_is_no_rating_is_named_with_its_field_and_nothing_is_written() {
    let cases = [
        ("{\"query_id\":\"q1\",\"document_id\":\"a\",\"rater\":\"ann\"}\n", "missing field `grade`"),
        ("{\"query_id\":\"q1\",\"rater\":\"ann\",\"grade\":1}\n", "missing field `document_id`"),
        (
            "{\"query_id\":\"q1\",\"document_id\":\"a\",\"rater\":\"ann\",\"grade\":5}\n",
            "grade: 5 is not 0, 1, 2, 3, 4 or null",
        ),
        ("{\"query_id\":\"q1\",\"document_id\":\"a\",\"rater\":\"ann\",\"grade\":2.5}\n", "grade: 2.5"),
        ("{\"query_id\":\"q1\",\"document_id\":\"a\",\"rater\":null,\"grade\":1}\n", "rater: "),
        ("{\"query_id\":\"\",\"document_id\":\"a\",\"rater\":\"ann\",\"grade\":1}\n", "query_id: the id is empty"),
        ("not json\n", "expected"),
    ];
    for (line, words) in cases {
        let folder = Folder::new();
        let result = aggregate(&folder.options(&format!("{}\n{line}", rating("a", "ann", 1)), "j.parquet"));
        assert_eq!(refused(result, &["ratings.jsonl` line 3", words]).kind, ErrorKind::Data);
        assert_eq!(folder.made(), [""; 0]);
    }
    let nothing = "{\"query_id\":\"q1\",\"document_id\":\"a\",\"rater\":null,\"grade\":null}\n";
    refused(aggregate(&Folder::new().options(nothing, "j.parquet")), &["no rating", "null"]);
}

#[test]
fn judgments_that_are_there_stay_unless_asked_otherwise_and_need_a_format() {
    let folder = Folder::new();
    let options = folder.options(&mixed(), "j.parquet");
    aggregate(&options).unwrap();
    refused(aggregate(&options), &["j.parquet` exists", "--overwrite"]);
    aggregate(&AggregateOptions { overwrite: true, ..options }).unwrap();
    refused(aggregate(&folder.options(&mixed(), "judgments")), &[".parquet, .csv or .jsonl"]);
}

#[test]
fn pairs_are_read_alike_from_csv_jsonl_and_parquet() {
    let folder = Folder::new();
    let csv = folder.write("pairs.csv", "document_id,query_id,query,price\n7,q1,red shoes,5\nd2,q1,,6\n");
    let jsonl = folder.write(
        "pairs.jsonl",
        "{\"query_id\":\"q1\",\"document_id\":7,\"query\":\"red shoes\"}\n\n{\"query_id\":\"q1\",\"document_id\":\"d2\"}\n",
    );
    let pairs = read_pairs(&csv).unwrap();
    assert_eq!(pairs[0].pair, Pair { query_id: "q1".into(), document_id: "7".into() });
    assert_eq!((pairs[0].query.as_deref(), pairs[1].query.as_deref()), (Some("red shoes"), None));
    assert_eq!(read_pairs(&jsonl).unwrap(), pairs);

    // What `aggregate` writes is a file of pairs too.
    aggregate(&folder.options(&mixed(), "pairs-j.parquet")).unwrap();
    let again: Vec<String> =
        read_pairs(&folder.path("pairs-j.parquet")).unwrap().into_iter().map(|item| item.pair.document_id).collect();
    assert_eq!(again, ["a", "b", "e"]);
}

#[test]
fn pairs_that_cannot_be_rated_are_refused_with_their_place() {
    let folder = Folder::new();
    let read = |name: &str, text: &str| read_pairs(&folder.write(name, text));
    let twice = "query_id,document_id\nq1,d1\nq1,d2\nq1,d1\n";
    refused(read("pairs.csv", twice), &["line 4", "query `q1` with document `d1`", "line 2 too"]);
    refused(read("pairs.csv", "query_id,doc\nq1,d1\n"), &["no column `document_id`", "query_id, doc"]);
    refused(read("pairs.csv", "query_id,document_id\nq1,\n"), &["line 2", "`document_id`", "missing"]);
    refused(read("pairs.csv", "query_id,document_id\n"), &["holds no pair"]);
    let open = "query_id,document_id,title\nq1,d1,\"12 inch\nq1,d2,pan\nq1,d3,pot\n";
    refused(read("pairs.csv", open), &["pairs.csv` line 2", "never closes"]);
    let later = "query_id,document_id,title\nq1,d1,\"a \"\"b\"\"\nc\"\nq1,d2,\"\"\"12 inch\nq1,d3,pot\n";
    refused(read("pairs.csv", later), &["line 4", "never closes"]);
    refused(read("pairs.tsv", "query_id\tdocument_id\ttitle\nq1\td1\t\"a\n\"\"b\"\" c\n"), &["line 2", "never closes"]);
    let closed = "query_id,document_id,title\nq1,d1,\"a \"\"b\"\"\nc\"\nq1,d2,12\" pan\n\"q1\",\"d3\",\"\"\n";
    assert_eq!(read("pairs.csv", closed).unwrap().len(), 3);
    refused(read("pairs.jsonl", "{\"query_id\":\"q1\"}\n"), &["line 1: missing field `document_id` (character 17)"]);
    refused(read("pairs.txt", ""), &[".csv"]);
    refused(read("pairs.parquet", "PAR1"), &["pairs.parquet` as Parquet"]);
    refused(read_pairs(&folder.path("nowhere.csv")), &["nowhere.csv"]);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn task(pairs: &str, folder: &Folder) -> RatingTask {
    let pairs = read_pairs(&folder.write("pairs.csv", pairs)).unwrap();
    RatingTask { title: "Shoes".into(), instructions: "Judge.".into(), raters: 3, pairs }
}

#[test]
fn a_file_of_tasks_that_raters_filled_in_comes_back_as_ratings() {
    let folder = Folder::new();
    let files = Files { out: folder.path("tasks.jsonl"), overwrite: false };
    let task = task("query_id,document_id,title\nq1,d1,Boot\nq1,d2,\n", &folder);
    let created = runtime().block_on(files.create(&task)).unwrap();
    assert_eq!((created.pairs, created.queries), (2, 1));
    let tasks = fs::read_to_string(folder.path("tasks.jsonl")).unwrap();
    assert_eq!(
        tasks.lines().next().unwrap(),
        "{\"query_id\":\"q1\",\"document_id\":\"d1\",\"title\":\"Boot\",\"rater\":null,\"grade\":null}"
    );
    let words = fs::read_to_string(folder.path("tasks.instructions.md")).unwrap();
    assert!(words.contains("Judge.") && words.contains("| 4 | Perfect | Exactly what user wants |"), "{words}");

    fs::create_dir(folder.path("back")).unwrap();
    for (rater, grade) in [("ann", 3), ("bob", 2)] {
        let filled =
            tasks.replacen("\"rater\":null,\"grade\":null", &format!("\"rater\":\"{rater}\",\"grade\":{grade}"), 1);
        fs::write(folder.path(&format!("back/{rater}.jsonl")), filled).unwrap();
    }
    let mut into = RatingsWriter::create(&folder.path("pulled.jsonl"), false).unwrap();
    let back = folder.path("back");
    let pulled = runtime().block_on(files.pull(back.to_str().unwrap(), &mut into)).unwrap();
    into.commit().unwrap();
    let expected = Pulled { pairs: 2, unrated: 1, ratings: 2, raters: 2, skipped: 2, ..Pulled::default() };
    assert_eq!(pulled, expected);
    let written = fs::read_to_string(folder.path("pulled.jsonl")).unwrap();
    assert_eq!(written, rating("d1", "ann", 3) + &rating("d1", "bob", 2));
}

/// Answers one request a connection, in order, and gives back what was asked.
fn server(answers: Vec<(u16, &'static str)>) -> (String, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let serve = move || {
        let answer = |(status, body): (u16, &str)| {
            let (mut stream, _) = listener.accept().unwrap();
            let asked = request(&mut stream);
            let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\n");
            write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
            asked
        };
        answers.into_iter().map(answer).collect()
    };
    (address, thread::spawn(serve))
}

/// A request's head and body as text.
fn request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).unwrap();
        bytes.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
        if read == 0 || body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            return text;
        }
    }
}

const QUICK: Patience = Patience {
    connect: Duration::from_secs(5),
    answer: Duration::from_secs(5),
    tries: 3,
    pause: Duration::from_millis(1),
};

fn studio(address: &str, token: &str) -> LabelStudio {
    LabelStudio::new(address, Token::new(token).unwrap(), QUICK).unwrap()
}

fn pull(studio: &LabelStudio, task: &str, out: &Path) -> Result<Pulled, PipelineError> {
    let mut into = RatingsWriter::create(out, true)?;
    let pulled = runtime().block_on(studio.pull(task, &mut into))?;
    into.commit()?;
    Ok(pulled)
}

const PAGE: &str = r#"{"total":2,"tasks":[
    {"id":1,"data":{"query_id":"q1","document_id":"d1"},"annotations":[
        {"id":5,"completed_by":7,"was_cancelled":false,"result":[{"from_name":"grade","value":{"choices":["3"]}}]},
        {"id":6,"completed_by":{"id":8,"email":"x@y"},"was_cancelled":false,"result":[{"from_name":"grade","value":{"choices":["Bad"]}}]},
        {"id":7,"completed_by":9,"was_cancelled":true,"result":[]},
        {"id":8,"completed_by":9,"was_cancelled":false,"result":[{"from_name":"grade","value":{"choices":["great"]}}]}]},
    {"id":2,"data":{"query_id":"q1","document_id":"d2"},"annotations":[]}]}"#;

#[test]
fn a_busy_server_is_asked_again_and_every_annotation_is_a_rating_or_counted() {
    let folder = Folder::new();
    let (address, asked) = server(vec![(503, "{}"), (200, "{\"id\":3}"), (502, "{}"), (200, PAGE)]);
    let pulled = pull(&studio(&address, "abc"), "3", &folder.path("r.jsonl")).unwrap();
    let expected = Pulled {
        pairs: 2,
        unrated: 1,
        ratings: 2,
        raters: 2,
        skipped: 1,
        unreadable: 1,
        unreadable_at: vec!["annotation 8 of task 1: `great` is no grade".into()],
    };
    assert_eq!(pulled, expected);
    let written = fs::read_to_string(folder.path("r.jsonl")).unwrap();
    assert_eq!(written, rating("d1", "7", 3) + &rating("d1", "8", 0));
    let asked = asked.join().unwrap();
    assert!(asked[0].to_lowercase().contains("authorization: token abc"), "{}", asked[0]);
    assert!(asked[3].starts_with("GET /api/tasks?project=3&page=1&page_size=100&fields=all "), "{}", asked[3]);
}

#[test]
fn a_personal_token_is_changed_for_a_short_one_and_again_when_that_has_ended() {
    let folder = Folder::new();
    let (address, asked) = server(vec![
        (200, "{\"access\":\"one\"}"),
        (200, "{\"id\":3}"),
        (401, "{\"detail\":\"Token is expired\"}"),
        (200, "{\"access\":\"two\"}"),
        (200, PAGE),
    ]);
    pull(&studio(&address, "eyJh.eyJi.c"), "3", &folder.path("r.jsonl")).unwrap();
    let asked: Vec<String> = asked.join().unwrap().iter().map(|text| text.to_lowercase()).collect();
    assert!(
        asked[0].contains("post /api/token/refresh/") && asked[0].contains("\"refresh\":\"eyjh.eyji.c\""),
        "{}",
        asked[0]
    );
    assert!(!asked[0].contains("authorization:"), "{}", asked[0]);
    assert!(asked[2].contains("authorization: bearer one"), "{}", asked[2]);
    assert!(asked[4].contains("authorization: bearer two"), "{}", asked[4]);
}

#[test]
fn servers_that_are_away_refuse_or_are_something_else_are_told_apart() {
    let folder = Folder::new();
    let out = folder.path("r.jsonl");
    let refusing = |answers, task: &str, words: &[&str]| {
        let (address, asked) = server(answers);
        let error = refused(pull(&studio(&address, "s3cret"), task, &out), words);
        asked.join().unwrap();
        assert!(!format!("{error:?}").contains("s3cret"), "the token is in {error:?}");
        error.kind
    };
    let unauthorized = vec![(401, "{\"detail\":\"Invalid token.\"}")];
    assert_eq!(refusing(unauthorized, "3", &["refused the legacy token", "Invalid token."]), ErrorKind::Options);
    assert_eq!(refusing(vec![(404, "{\"detail\":\"no\"}")], "99", &["no project `99`"]), ErrorKind::Options);
    assert_eq!(refusing(vec![(200, "<html>")], "3", &["does not answer as Label Studio does"]), ErrorKind::Network);
    assert_eq!(refusing(vec![(302, "")], "3", &["302"]), ErrorKind::Network);
    assert_eq!(refusing(vec![(503, "{}"); 3], "3", &["503"]), ErrorKind::Network);
    let foreign = vec![(200, "{}"), (200, "{\"total\":1,\"tasks\":[{\"id\":4,\"data\":{}}]}")];
    assert_eq!(refusing(foreign, "3", &["task 4 of project 3 has no `query_id`"]), ErrorKind::Data);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = refused(pull(&studio(&format!("http://{nobody}/"), "t"), "3", &out), &["no answer", "is it running"]);
    assert_eq!(away.kind, ErrorKind::Network);
    assert!(!out.exists(), "ratings were written");
    refused(LabelStudio::new("localhost:8080", Token::new("t").unwrap(), QUICK), &["is not the address"]);
    refused(Token::new(" \n"), &["the token is empty"]);
}

#[test]
fn a_project_whose_import_fails_is_taken_back() {
    let folder = Folder::new();
    let (address, asked) = server(vec![(201, "{\"id\":3}"), (400, "{\"detail\":\"too much\"}"), (204, "")]);
    let task = task("query_id,document_id\nq1,d1\n", &folder);
    refused(runtime().block_on(studio(&address, "t").create(&task)), &["400", "too much"]);
    assert!(asked.join().unwrap()[2].starts_with("DELETE /api/projects/3/ "));
}
