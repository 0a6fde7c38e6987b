//! Text into training data, and every refusal by line.

use std::{fs, path::PathBuf};

use pipeline::{
    PipelineError,
    import::{Base, CsvOptions, Delimiter, ImportReport, SvmrankOptions, csv, svmrank},
};
use tempfile::TempDir;

use crate::{Table, entries, lightgbm, to};

struct Case {
    home: TempDir,
}

impl Case {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.home.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn out(&self) -> PathBuf {
        self.home.path().join("out")
    }

    fn svmrank(&self, text: &str, options: SvmrankOptions) -> Result<ImportReport, PipelineError> {
        let inputs = vec![self.file("rows.txt", text)];
        svmrank(&SvmrankOptions { inputs, output: to(self.out()), ..options })
    }

    fn csv(&self, text: &str, options: CsvOptions) -> Result<ImportReport, PipelineError> {
        let inputs = vec![self.file("rows.csv", text)];
        csv(&CsvOptions { inputs, output: to(self.out()), ..options })
    }
}

/// The message, which nothing was written for.
fn refusal(case: &Case, result: Result<ImportReport, PipelineError>) -> String {
    let error = result.unwrap_err();
    assert!(!entries(case.home.path()).iter().any(|name| name.contains("out")), "{error}");
    error.to_string().replace(&format!("{}/", case.home.path().display()), "")
}

#[test]
fn svmrank_rows_become_dense_columns() {
    let case = Case::new();
    let text = "# a header comment\n2 qid:10 3:0.5 1:1e1 # docid = 7\n\n0 qid:10 2:-1\r\n1 qid:-4\n";
    let report = case.svmrank(text, SvmrankOptions::default()).unwrap();
    assert_eq!((report.rows, report.queries), (3, 2));
    assert_eq!(report.features, ["f1", "f2", "f3"]);
    let table = Table::read(&case.out());
    assert_eq!(table.names(), ["query_id", "label", "f1", "f2", "f3"]);
    assert_eq!(table.ints("query_id"), [10, 10, -4]);
    assert_eq!(table.floats("label"), [2.0, 0.0, 1.0]);
    assert_eq!(table.floats("f1"), [10.0, 0.0, 0.0]);
    assert_eq!(table.floats("f2"), [0.0, -1.0, 0.0]);
    assert_eq!(table.floats("f3"), [0.5, 0.0, 0.0]);
    assert_eq!(report.warnings, ["1 of 2 lists have one row"]);
}

#[test]
fn svmrank_features_count_from_zero_where_a_zero_is_seen_or_said() {
    for (text, base, features, names) in [
        ("1 qid:1 1:2\n0 qid:1 0:3\n", Base::Auto, None, vec!["f0", "f1"]),
        ("1 qid:1 1:2\n0 qid:1 2:3\n", Base::Zero, None, vec!["f0", "f1", "f2"]),
        ("1 qid:1 1:2\n0 qid:1 2:3\n", Base::Auto, Some(4), vec!["f1", "f2", "f3", "f4"]),
    ] {
        let case = Case::new();
        let report = case.svmrank(text, SvmrankOptions { base, features, ..SvmrankOptions::default() }).unwrap();
        assert_eq!(report.features, names);
    }
}

#[test]
fn svmrank_queries_that_are_names_stay_text() {
    let case = Case::new();
    case.svmrank("1 qid:7 1:2\n0 qid:007 1:3\n", SvmrankOptions::default()).unwrap();
    assert_eq!(Table::read(&case.out()).texts("query_id"), ["7", "007"]);
}

#[test]
fn svmrank_refuses_what_it_cannot_read_by_line() {
    let none = SvmrankOptions::default;
    for (text, options, message) in [
        ("1 qid:1 1:2\nx qid:1 1:2\n", none(), "`rows.txt:2`: label `x` is not a number"),
        ("1 qid:1 1:2\n\n1 qid:1 1:nan\n", none(), "`rows.txt:3`: feature 1: `nan` is not a finite float32"),
        ("1 qid:1 1:1e99\n", none(), "`rows.txt:1`: feature 1: `1e99` is not a finite float32"),
        ("1 qid:1 3:1 2:1 3:2\n", none(), "`rows.txt:1`: feature 3 appears twice"),
        ("1 qid:1 a:1\n", none(), "`rows.txt:1`: `a:1`: `a` is not a feature number"),
        ("1 qid:1 12\n", none(), "`rows.txt:1`: `12` is not `id:value`"),
        ("1 qid:1 99999999:1\n", none(), "`rows.txt:1`: feature 99999999 is past 32768, the largest that is taken"),
        ("1 qid:1 1:1\n1 1:1\n", none(), "`rows.txt:2`: no qid, the rows before have one"),
        (
            "1 qid:1 1:1\n",
            SvmrankOptions { features: Some(0), ..none() },
            "`rows.txt:1`: feature 1, of 0 that count from 1",
        ),
        (
            "1 qid:1 0:1\n",
            SvmrankOptions { base: Base::One, ..none() },
            "`rows.txt:1`: feature 0, where features count from 1",
        ),
        (
            "1 qid:1 1:1\n1 qid:2 1:1\n1 qid:1 1:1\n",
            none(),
            "`rows.txt:3`: rows of query_id `1` come again after other rows",
        ),
        ("1 1:1\n", none(), "the rows of `rows.txt` have no qid, and there is no `rows.txt.query`"),
        ("\n# nothing\n", none(), "`rows.txt` holds no row"),
    ] {
        let case = Case::new();
        assert_eq!(refusal(&case, case.svmrank(text, options)), message);
    }
}

#[test]
fn svmrank_counts_beside_the_rows_say_where_queries_end() {
    let case = Case::new();
    let first = case.file("a.txt", "1 1:1\n0 1:2\n2 1:3\n");
    let second = case.file("b.txt", "1 1:4\n");
    case.file("a.txt.group", "2\n0\n1\n");
    let counts = case.file("counts", "1\n");
    let given = case.file("given", "2\n1\n");
    let inputs = vec![first.clone(), second.clone()];
    let options = SvmrankOptions { inputs, output: to(case.out()), ..SvmrankOptions::default() };
    let error = svmrank(&options).unwrap_err();
    assert!(error.to_string().contains("b.txt` have no qid"), "{error}");
    svmrank(&SvmrankOptions { counts: vec![given, counts], ..options.clone() }).unwrap();
    assert_eq!(Table::read(&case.out()).ints("query_id"), [1, 1, 2, 3]);

    case.file("a.txt.group", "2\n2\n");
    let options = SvmrankOptions { inputs: vec![first], ..options };
    let message = svmrank(&options).unwrap_err().to_string();
    assert!(message.contains("add up to 4") && message.contains("has 3 rows"), "{message}");
}

#[test]
fn svmrank_reads_lightgbms_own_example_as_lightgbm_does() {
    let Some(train) = lightgbm("rank.train") else { return };
    let case = Case::new();
    let options = SvmrankOptions { inputs: vec![train.clone()], output: to(case.out()), ..SvmrankOptions::default() };
    let report = svmrank(&options).unwrap();
    assert_eq!((report.rows, report.queries, report.features.len()), (3005, 201, 300));
    let text = fs::read_to_string(&train).unwrap();
    let table = Table::read(&case.out());
    let labels: Vec<f32> = text.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
    assert_eq!(table.floats("label"), labels);
    let sum: f64 =
        text.split_whitespace().filter_map(|word| word.split_once(':')).map(|(_, v)| v.parse::<f64>().unwrap()).sum();
    let read: f64 = report.features.iter().flat_map(|name| table.floats(name)).map(f64::from).sum();
    assert!((sum - read).abs() < 1e-3, "{sum} {read}");
    let counts: Vec<usize> = fs::read_to_string(train.with_extension("train.query"))
        .unwrap()
        .lines()
        .map(|line| line.parse().unwrap())
        .collect();
    let queries: Vec<i64> = counts.iter().zip(1..).flat_map(|(&count, id)| std::iter::repeat_n(id, count)).collect();
    assert_eq!(table.ints("query_id"), queries);
}

#[test]
fn csv_columns_find_their_roles_by_name() {
    let case = Case::new();
    let text = "\u{feff}query_id,title,label,price,document_id,position,rating,sample_weight\n\
                q1,\"a, b\",1, 9.5 ,d1,1,4,0.5\n\
                q1,c,0,8,d2,2,5,2\n\
                q2,\"x\ny\",3,7,d1,1,,1\n";
    let report = case.csv(text, CsvOptions { fill: Some(-1.0), ..CsvOptions::default() }).unwrap();
    assert_eq!(report.features, ["price", "rating"]);
    assert_eq!((report.rows, report.queries), (3, 2));
    assert!(
        report.warnings[0].contains("`title`") && report.warnings[1].contains("`position`"),
        "{:?}",
        report.warnings
    );
    let table = Table::read(&case.out());
    assert_eq!(table.names(), ["query_id", "label", "price", "document_id", "rating", "sample_weight"]);
    assert_eq!(table.texts("query_id"), ["q1", "q1", "q2"]);
    assert_eq!(table.floats("price"), [9.5, 8.0, 7.0]);
    assert_eq!(table.floats("rating"), [4.0, 5.0, -1.0]);
    assert_eq!(table.floats("sample_weight"), [0.5, 2.0, 1.0]);
}

#[test]
fn csv_columns_may_be_named_and_tabs_separate_tsv() {
    let case = Case::new();
    let text = "relevance\tsearch\ta\tb\tc\n1\t3\t1\t2\t3\n0\t3\t4\t5\t6\n";
    let input = case.file("rows.tsv", text);
    let options = CsvOptions {
        inputs: vec![input],
        label: Some("relevance".into()),
        query: Some("search".into()),
        features: Some(vec!["c".into(), "a".into()]),
        output: to(case.out()),
        ..CsvOptions::default()
    };
    let report = csv(&options).unwrap();
    assert_eq!(report.features, ["a", "c"]);
    let table = Table::read(&case.out());
    assert_eq!(table.ints("query_id"), [3, 3]);
    assert_eq!(table.floats("c"), [3.0, 6.0]);
}

#[test]
fn csv_refuses_what_it_cannot_read_by_line_and_column() {
    let none = CsvOptions::default;
    for (text, options, message) in [
        ("query_id,label,a\n1,2,3\n1,2,x\n", none(), "`rows.csv:3`, column `a`: `x` is not a number"),
        ("query_id,label,a\n1,2,3\n1,,3\n", none(), "`rows.csv:3`, column `label`: `` is not a number"),
        ("query_id,label,a\n1,2,\n1,2,3\n", none(), "`rows.csv:2`, column `a`: the value is missing"),
        ("query_id,label,a\n1,2,3\n1,2,inf\n", none(), "`rows.csv:3`, column `a`: `inf` is not a finite float32"),
        ("query_id,label,a\n,2,3\n", none(), "`rows.csv:2`, column `query_id`: the id is empty"),
        ("query_id,label,a,sample_weight\n1,2,3,-1\n", none(), "`rows.csv:2`, column `sample_weight`: `-1` is below 0"),
        ("query_id,label,a\n1,2\n", none(), "`rows.csv:2`: 2 fields, the header has 3"),
        ("query_id,label,a,a\n1,2,3,4\n", none(), "`rows.csv:1`: column `a` appears twice"),
        ("query_id,grade,a\n1,2,3\n", none(), "there is no column `label`"),
        ("q,label,a\n1,2,3\n", none(), "no column holds the list or the query"),
        ("query_id,label,a\n1,2,x\n", none(), "no column is a feature"),
        ("query_id,label,a\n", none(), "`rows.csv` holds no row"),
        (
            "query_id,label,a\n1,2,3\n",
            CsvOptions { features: Some(vec!["z".into()]), ..none() },
            "there is no column `z`",
        ),
        (
            "query_id,label,a\n1,2,3\n",
            CsvOptions { delimiter: Delimiter::Byte(b';'), ..none() },
            "there is no column `label`",
        ),
        (
            "query_id,label,a\n1,2,3\n2,1,3\n1,1,4\n",
            none(),
            "`rows.csv:4`: rows of query_id `1` come again after other rows",
        ),
    ] {
        let case = Case::new();
        assert_eq!(refusal(&case, case.csv(text, options)), message);
    }
}

#[test]
fn csv_files_of_one_import_have_the_same_columns() {
    let case = Case::new();
    let inputs =
        vec![case.file("a.csv", "query_id,label,x\n1,1,1\n1,0,2\n"), case.file("b.csv", "query_id,label,x\n2,1,3\n")];
    let options = CsvOptions { inputs, output: to(case.out()), ..CsvOptions::default() };
    assert_eq!(csv(&options).unwrap().rows, 3);
    case.file("b.csv", "query_id,label,y\n2,1,3\n");
    assert!(csv(&options).unwrap_err().to_string().contains("has other columns than"));
}
