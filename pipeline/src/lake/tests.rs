use ranking::events::{LogSchema, ResultImpression, SearchEvent, Timestamp};

use super::*;

const NOON: i64 = 1_769_860_800_000_000; // 2026-01-31T12:00:00Z
const DAY: i64 = 86_400_000_000;

fn event(at: i64) -> SearchEvent {
    let result = ResultImpression {
        position: 1,
        document_id: "d1".into(),
        score: 0.5,
        clicked: true,
        click_timestamp: None,
        dwell_time_seconds: Some(3.0),
        added_to_cart: false,
        purchased: false,
        propensity: None,
        features: Vec::new(),
    };
    SearchEvent {
        session_id: format!("s{at}"),
        query_id: "q".into(),
        user_id: None,
        query: "shoes".into(),
        query_timestamp: Timestamp(at),
        results: vec![result],
        device: "phone".into(),
        location: "DE".into(),
        ranker_version: None,
        explored: None,
        arm: None,
    }
}

fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

struct Here {
    folder: tempfile::TempDir,
    lake: Lake,
}

fn lake() -> Here {
    let folder = tempfile::tempdir().unwrap();
    let lake = Lake::open(folder.path().to_str().unwrap()).unwrap();
    Here { folder, lake }
}

fn writer(lake: &Lake, roll: RollOptions) -> LakeWriter {
    LakeWriter::new(lake, LogSchema::default(), roll, "test/one")
}

/// Rows of a file, by its footer.
fn rows(here: &Here, file: &LakeFile) -> i64 {
    use parquet::file::reader::FileReader as _;
    let path = std::path::Path::new("/").join(file.path.as_ref());
    assert!(path.starts_with(here.folder.path()));
    let reader = parquet::file::reader::SerializedFileReader::new(File::open(path).unwrap()).unwrap();
    reader.metadata().file_metadata().num_rows()
}

#[tokio::test]
async fn events_go_to_their_dates_and_count_only_once_they_are_committed() {
    let here = lake();
    let mut writer = writer(&here.lake, RollOptions::default());
    for at in [NOON, NOON + DAY, NOON + 1, NOON - DAY, NOON + 2] {
        writer.push(&event(at)).unwrap();
    }
    let all = day("2026-01-01")..=day("2026-12-31");
    let error = here.lake.files(all.clone()).await.unwrap_err();
    assert!(error.message.contains("holds no click logs"), "{error}");
    let written = writer.commit("0001", serde_json::json!({ "seed": 7 })).await.unwrap();
    let files = here.lake.files(all).await.unwrap();
    assert_eq!(files, written);
    let found: Vec<(String, Option<u64>)> = files.iter().map(|file| (file.date.to_string(), file.rows)).collect();
    let expected = [("2026-01-30", 1), ("2026-01-31", 3), ("2026-02-01", 1)];
    assert_eq!(found, expected.map(|(date, rows)| (date.to_owned(), Some(rows))));
    assert_eq!(files.iter().map(|file| rows(&here, file)).collect::<Vec<_>>(), [1, 3, 1]);
    assert_eq!(here.lake.commit("test/one", "0001").await.unwrap().extra["seed"], 7);
    assert_eq!(here.lake.commit_names("test/one").await.unwrap(), ["0001"]);
    let error = here.lake.files(day("2025-01-01")..=day("2025-02-01")).await.unwrap_err();
    assert_eq!(error.hint(), Some("there are 3 dates, from 2026-01-30 to 2026-02-01"));
    let one = here.lake.files(day("2026-01-31")..=day("2026-01-31")).await.unwrap();
    assert_eq!(one.len(), 1);
}

#[tokio::test]
async fn of_two_writers_of_the_same_commit_one_wins_and_the_other_leaves_no_file() {
    let here = lake();
    let (mut one, mut other) = (writer(&here.lake, RollOptions::default()), writer(&here.lake, RollOptions::default()));
    one.push(&event(NOON)).unwrap();
    other.push(&event(NOON)).unwrap();
    let written = one.commit("0001", serde_json::Value::Null).await.unwrap();
    let error = other.commit("0001", serde_json::Value::Null).await.unwrap_err();
    assert!(error.message.contains("another writer"), "{error}");
    let all = here.lake.store().list("date=2026-01-31").await.unwrap();
    assert_eq!(all.iter().map(|object| &object.location).collect::<Vec<_>>(), [&written[0].path]);
}

#[tokio::test]
async fn files_end_when_they_are_large_and_when_too_many_dates_are_open() {
    let here = lake();
    let roll = RollOptions { file_bytes: 100_000, open_dates: 2, row_group_events: 4096, memory: 1 << 20 };
    let mut writer = writer(&here.lake, roll);
    for n in 0..20_000 {
        writer.push(&event(NOON + n * 1_000_003 % 40_000_000_000)).unwrap();
    }
    for n in 1..=4 {
        writer.push(&event(NOON + n * DAY)).unwrap();
        assert!(writer.open_dates() <= 2);
    }
    let files = writer.commit("0001", serde_json::Value::Null).await.unwrap();
    let first: Vec<&LakeFile> = files.iter().filter(|file| file.date == day("2026-01-31")).collect();
    assert!(first.len() > 1, "{} files", first.len());
    assert!(first.iter().all(|file| file.bytes < 200_000));
    assert_eq!(files.iter().map(|file| rows(&here, file)).sum::<i64>(), 20_004);
    assert_eq!(files.iter().filter_map(|file| file.rows).sum::<u64>(), 20_004);
}

#[tokio::test]
async fn a_lake_without_commits_is_read_by_its_folders() {
    let here = lake();
    let table = here.folder.path().join("click_logs");
    for name in
        ["date=2026-01-31/part-0.parquet", "date=2026-01-31/_SUCCESS", "date=2026-01-31/.hidden.parquet", "x.parquet"]
    {
        let path = table.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"1234").unwrap();
    }
    let table = Lake::open(table.to_str().unwrap()).unwrap();
    let files = table.files(day("2026-01-01")..=day("2026-12-31")).await.unwrap();
    assert_eq!(files.len(), 1);
    assert_eq!((files[0].bytes, files[0].rows, files[0].path.filename()), (4, None, Some("part-0.parquet")));
}

#[tokio::test]
async fn a_sweep_takes_what_the_dead_left_and_leaves_what_the_living_write() {
    let here = lake();
    let mut living = writer(&here.lake, RollOptions::default());
    living.push(&event(NOON)).unwrap();
    let folder = here.folder.path().join("click_logs/date=2026-01-31");
    std::fs::write(folder.join(".partial-dead"), b"half").unwrap();
    std::fs::write(folder.join("orphan.parquet"), b"whole").unwrap();
    let swept = here.lake.sweep().await.unwrap();
    assert_eq!((swept.removed, swept.files), (1, vec!["date=2026-01-31/orphan.parquet".to_owned()]));
    living.commit("0001", serde_json::Value::Null).await.unwrap();
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 2);
}
