//! Rating tasks on a Label Studio server (<https://labelstud.io>, 1.23), over its REST API.

mod client;
mod config;

use std::collections::HashSet;

use async_trait::async_trait;
use ranking::judgments::Pair;
use serde_json::{Value, json};

use super::{Created, Platform, Pulled, RatingTask, RatingsWriter, queries};
use crate::PipelineError;
use client::Client;
use config::{Answer, Shown};

pub use client::{Patience, Token};

/// Tasks in one request, and about how many bytes of them.
const BATCH: (usize, usize) = (250, 1 << 20);
/// Tasks in one page of answers.
const PAGE: u64 = 100;
/// How many unreadable answers are named.
const NAMED: usize = 5;
/// Label Studio's bounds for a title.
const TITLE: std::ops::RangeInclusive<usize> = 3..=50;

/// A task is a project; a pair of it is one task in Label Studio's words. A rater's name is their user id.
pub struct LabelStudio {
    client: Client,
}

impl LabelStudio {
    /// Of a server such as `http://127.0.0.1:8080`; nothing is sent yet.
    pub fn new(address: &str, token: Token, patience: Patience) -> Result<Self, PipelineError> {
        Ok(Self { client: Client::new(address, token, patience)? })
    }

    async fn import(&self, project: u64, task: &RatingTask, shown: Shown) -> Result<(), PipelineError> {
        let path = format!("/api/projects/{project}/import?return_task_ids=false");
        let mut imported = 0;
        let mut batch: Vec<Value> = Vec::new();
        let mut bytes = 0;
        let mut items = task.pairs.iter().peekable();
        while let Some(item) = items.next() {
            bytes += item.text.as_ref().map_or(0, String::len) + item.title.as_ref().map_or(0, String::len) + 200;
            batch.push(json!({ "data": shown.data(item) }));
            if batch.len() >= BATCH.0 || bytes >= BATCH.1 || items.peek().is_none() {
                let answer = self.client.post(&path, &Value::Array(std::mem::take(&mut batch))).await?;
                imported += answer.and_then(|answer| answer["task_count"].as_u64()).unwrap_or(0);
                bytes = 0;
            }
        }
        match imported == task.pairs.len() as u64 {
            true => Ok(()),
            false => Err(self.client.strange(&format!("it took {imported} of {} pairs", task.pairs.len()))),
        }
    }

    fn unknown(&self, task: &str) -> PipelineError {
        PipelineError::options(format!("Label Studio at {} has no project `{task}`", self.client.base())).with_hint(
            "`lockstep judge create` prints the number of the project it makes; is the token of its organisation?",
        )
    }
}

#[async_trait]
impl Platform for LabelStudio {
    async fn create(&self, task: &RatingTask) -> Result<Created, PipelineError> {
        if !TITLE.contains(&task.title.chars().count()) {
            let error = PipelineError::options(format!("`{}` cannot be a title on Label Studio", task.title));
            return Err(error.with_hint("give one of 3 to 50 characters by --title"));
        }
        let shown = Shown::of(&task.pairs);
        let project = json!({
            "title": task.title,
            "label_config": shown.labelling(),
            "expert_instruction": config::instructions(task),
            "show_instruction": true,
            "maximum_annotations": task.raters,
        });
        let answer = self.client.post("/api/projects/", &project).await?;
        let Some(id) = answer.as_ref().and_then(|answer| answer["id"].as_u64()) else {
            return Err(self.client.strange("the project it made has no id"));
        };
        if let Err(error) = self.import(id, task, shown).await {
            // Half a task would be rated for nothing.
            if let Err(also) = self.client.delete(&format!("/api/projects/{id}/")).await {
                tracing::warn!(project = id, error = %also, "an unfinished project could not be removed");
            }
            return Err(error);
        }
        Ok(Created {
            task: id.to_string(),
            pairs: task.pairs.len() as u64,
            queries: queries(task.pairs.iter().map(|item| item.pair.query_id.as_str())),
            place: format!("{}/projects/{id}/data", self.client.base()),
        })
    }

    async fn pull(&self, task: &str, into: &mut RatingsWriter) -> Result<Pulled, PipelineError> {
        let id: u64 = task.parse().map_err(|_| self.unknown(task))?;
        let project = self.client.get(&format!("/api/projects/{id}/"), &[]).await?;
        project.ok_or_else(|| self.unknown(task))?;
        let mut pulled = Pulled::default();
        let mut seen = HashSet::new();
        for page in 1.. {
            let query = [("project", id.to_string()), ("page", page.to_string()), ("page_size", PAGE.to_string())];
            let query = [&query[..], &[("fields", "all".to_owned())]].concat();
            // A page past the last one is not found.
            let Some(answer) = self.client.get("/api/tasks", &query).await? else { break };
            let (Some(tasks), Some(total)) = (answer["tasks"].as_array(), answer["total"].as_u64()) else {
                return Err(self.client.strange("a page of tasks has none"));
            };
            for task in tasks {
                // What is added while we read shifts the pages, and a task may come twice.
                if task["id"].as_u64().is_some_and(|number| seen.insert(number)) {
                    take(task, id, &mut pulled, into)?;
                }
            }
            if tasks.is_empty() || seen.len() as u64 >= total {
                break;
            }
        }
        pulled.pairs = seen.len() as u64;
        (pulled.ratings, pulled.raters) = (into.ratings(), into.raters());
        Ok(pulled)
    }
}

/// The annotations of one task.
fn take(task: &Value, project: u64, pulled: &mut Pulled, into: &mut RatingsWriter) -> Result<(), PipelineError> {
    let number = &task["id"];
    let text = |field: &str| match task["data"][field].as_str() {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(PipelineError::data(format!("task {number} of project {project} has no `{field}`"))
            .with_hint("only projects made by `lockstep judge create` say which pair a task is")),
    };
    let pair = Pair { query_id: text("query_id")?, document_id: text("document_id")? };
    let before = into.ratings();
    for annotation in task["annotations"].as_array().map(Vec::as_slice).unwrap_or_default() {
        if annotation["was_cancelled"] == true {
            pulled.skipped += 1;
            continue;
        }
        let by = &annotation["completed_by"];
        let rater = by.as_u64().or_else(|| by["id"].as_u64());
        let what = match (config::answer(&annotation["result"]), rater) {
            (Answer::Grade(grade), Some(rater)) => {
                into.push(&pair, &rater.to_string(), grade)?;
                continue;
            }
            (Answer::Grade(_), None) => "nobody knows whose it is".to_owned(),
            (Answer::Unreadable(what), _) => what,
        };
        pulled.unreadable += 1;
        if pulled.unreadable_at.len() < NAMED {
            pulled.unreadable_at.push(format!("annotation {} of task {number}: {what}", annotation["id"]));
        }
    }
    pulled.unrated += u64::from(into.ratings() == before);
    Ok(())
}
