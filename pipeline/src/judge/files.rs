//! Rating without a server: a file of tasks that raters fill in.

use std::{
    collections::HashMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use ranking::judgments::{Pair, SCALE};
use serde::Serialize;

use super::{Created, Platform, Pulled, RatingTask, RatingsWriter, queries, ratings};
use crate::{PipelineError, fresh::FreshFile};

/// Tasks as JSONL, a pair a line with `rater` and `grade` left null, and the instructions beside them.
///
/// A rater copies the file and fills in both. What comes back are files of [`ratings`].
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// Where [`create`](Platform::create) writes. Not needed for [`pull`](Platform::pull), whose task is a file, or a folder of
    /// `.jsonl` files.
    pub out: PathBuf,
    pub overwrite: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    query_id: &'a str,
    document_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    rater: Option<()>,
    grade: Option<()>,
}

#[async_trait]
impl Platform for Files {
    async fn create(&self, task: &RatingTask) -> Result<Created, PipelineError> {
        let words = self.out.with_extension("instructions.md");
        if words == self.out {
            return Err(PipelineError::options("the tasks cannot have the name of their instructions"));
        }
        let mut tasks = FreshFile::begin(&self.out, self.overwrite)?;
        let mut instructions = FreshFile::begin(&words, self.overwrite)?;
        for item in &task.pairs {
            let Pair { query_id, document_id } = &item.pair;
            let (query, title, text) = (item.query.as_deref(), item.title.as_deref(), item.text.as_deref());
            let line = Line { query_id, document_id, query, title, text, rater: None, grade: None };
            let written = serde_json::to_writer(&mut tasks, &line).map_err(std::io::Error::from);
            let written = written.and_then(|()| tasks.write_all(b"\n"));
            written.map_err(|error| PipelineError::io("write", &self.out, error))?;
        }
        let written = instructions.write_all(spell_instructions(task, &self.out).as_bytes());
        written.map_err(|error| PipelineError::io("write", &words, error))?;
        instructions.commit()?;
        tasks.commit()?;
        Ok(Created {
            task: self.out.display().to_string(),
            pairs: task.pairs.len() as u64,
            queries: queries(task.pairs.iter().map(|item| item.pair.query_id.as_str())),
            place: format!("{}, as {} says", self.out.display(), words.display()),
        })
    }

    async fn pull(&self, task: &str, into: &mut RatingsWriter) -> Result<Pulled, PipelineError> {
        let mut pulled = Pulled::default();
        let mut rated: HashMap<Pair, bool> = HashMap::new();
        for path in filled_in(Path::new(task))? {
            let mut result = Ok(());
            ratings::read(&path, |line| {
                match &line.rating {
                    Some((rater, grade)) if result.is_ok() => result = into.push(&line.pair, rater, *grade),
                    Some(_) => {}
                    None => pulled.skipped += 1,
                }
                *rated.entry(line.pair).or_default() |= line.rating.is_some();
            })?;
            result?;
        }
        pulled.pairs = rated.len() as u64;
        pulled.unrated = rated.values().filter(|rated| !**rated).count() as u64;
        (pulled.ratings, pulled.raters) = (into.ratings(), into.raters());
        Ok(pulled)
    }
}

/// The file itself, or the `.jsonl` files of a folder by name.
fn filled_in(path: &Path) -> Result<Vec<PathBuf>, PipelineError> {
    let metadata = fs::metadata(path).map_err(|error| PipelineError::io("read", path, error))?;
    if !metadata.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(|error| PipelineError::io("read", path, error))? {
        let entry = entry.map_err(|error| PipelineError::io("read", path, error))?.path();
        let hidden = entry.file_name().is_some_and(|name| name.to_string_lossy().starts_with(['.', '_']));
        if !hidden && entry.extension().is_some_and(|extension| extension == "jsonl") {
            files.push(entry);
        }
    }
    if files.is_empty() {
        return Err(PipelineError::data(format!("`{}` holds no .jsonl file", path.display())));
    }
    files.sort();
    Ok(files)
}

fn spell_instructions(task: &RatingTask, tasks: &Path) -> String {
    let mut text =
        format!("# {}\n\n{}\n\n| grade | label | description |\n| --- | --- | --- |\n", task.title, task.instructions);
    for choice in SCALE {
        text += &format!("| {} | {} | {} |\n", choice.grade, choice.label, choice.description);
    }
    let name = tasks.file_name().unwrap_or_default().to_string_lossy();
    text += &format!(
        "\nCopy `{name}`. On each line set `rater` to your name and `grade` to a number from the table; leave `grade` null where you \
         cannot tell. Each pair should have {} raters.\n",
        task.raters
    );
    text
}
