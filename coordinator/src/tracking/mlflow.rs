//! Requests to an MLflow server: who we are, how long an answer may take, and what answers mean. Nothing is tried twice here.

mod artifacts;
mod credentials;

use std::{sync::Arc, time::Duration};

use reqwest::{
    Method, RequestBuilder, StatusCode, Url,
    header::{LOCATION, RETRY_AFTER},
    redirect::Policy,
};
use serde_json::{Value, json};

pub use artifacts::Artifact;
pub use credentials::Credentials;

use super::{
    about::{Pairs, RUN_ID},
    naming::{from_mlflow, to_mlflow, value_from_mlflow, value_to_mlflow},
    parcel::{Batch, METRICS_AT_MOST, Point},
};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Between two pieces of a file.
const SILENT_AT_MOST: Duration = Duration::from_secs(60);
/// MLflow takes no more of each at once.
const PAIRS_AT_MOST: usize = 100;
const RUNS_A_PAGE: usize = 200;
const POINTS_A_PAGE: usize = 10_000;
/// Of what a server says, so much is shown.
const SAID_AT_MOST: usize = 300;

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Nobody there, too slow, or broken off: whether it was carried out is not known.
    #[error("{0}")]
    Unreachable(String),
    /// The server is there and cannot just now.
    #[error("the server answered {status}{said}")]
    Busy { status: u16, said: String, retry_after: Option<Duration> },
    /// It does not let us.
    #[error("the server refused us: {status}{said}")]
    Refused { status: u16, said: String },
    /// There is no such run (any more).
    #[error("{0}")]
    Gone(String),
    /// There is, in the server's bin.
    #[error("{0}")]
    Deleted(String),
    /// It never will, as things are.
    #[error("{0}")]
    Rejected(String),
    /// It would carry out others: this one holds something that it does not take.
    #[error("{0}")]
    Invalid(String),
}

impl Trouble {
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "is the server running, and is this its address?",
            Self::Busy { .. } => "the server's log says more",
            Self::Refused { .. } => {
                "set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, where the coordinator (or this command) \
                 is started"
            }
            Self::Gone(_) | Self::Deleted(_) | Self::Rejected(_) | Self::Invalid(_) => "",
        }
    }
}

/// A server; clones share its connections.
#[derive(Clone)]
pub struct Mlflow {
    http: reqwest::Client,
    /// Without a slash at its end.
    base: String,
    credentials: Credentials,
    /// Told of each request that was carried out, and of each piece of a file that has left.
    heard: Option<Arc<Heard>>,
}

type Heard = dyn Fn() + Send + Sync;

#[derive(Clone, Debug, PartialEq)]
pub struct Experiment {
    pub id: String,
    pub deleted: bool,
}

/// A run as MLflow has it, its names in Lockstep's words.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FoundRun {
    pub id: String,
    pub name: String,
    pub experiment_id: String,
    pub status: String,
    pub start_millis: u64,
    pub end_millis: u64,
    pub artifact_uri: String,
    /// The newest point of each curve.
    pub metrics: Vec<Point>,
    pub parameters: Pairs,
    pub tags: Pairs,
}

impl Mlflow {
    pub fn new(url: &str, credentials: Credentials) -> Result<Self, Trouble> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            // A redirected POST would come as a GET, and without the credentials.
            .redirect(Policy::none())
            .user_agent(concat!("lockstep/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Trouble::Rejected(format!("no HTTP client can be made: {error}")))?;
        let base = url.trim_end_matches('/').to_owned();
        match Url::parse(&base) {
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                return Err(Trouble::Rejected(
                    "the address of the MLflow server holds a name or a password, and is shown: set MLFLOW_TRACKING_USERNAME and \
                     MLFLOW_TRACKING_PASSWORD instead"
                        .into(),
                ));
            }
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {}
            _ => return Err(Trouble::Rejected(format!("`{url}` is not the address of an MLflow server"))),
        }
        credentials.check()?;
        Ok(Self { http, base, credentials, heard: None })
    }

    /// `heard` is told whenever something goes through.
    #[must_use]
    pub fn heard_by(self, heard: Arc<Heard>) -> Self {
        Self { heard: Some(heard), ..self }
    }

    fn heard(&self) {
        if let Some(heard) = &self.heard {
            heard();
        }
    }

    pub fn url(&self) -> &str {
        &self.base
    }

    /// Where people look at a run.
    pub fn page(&self, experiment_id: &str, run: &str) -> String {
        format!("{}/#/experiments/{experiment_id}/runs/{run}", self.base)
    }

    pub async fn experiment(&self, name: &str) -> Result<Option<Experiment>, Trouble> {
        let asked = self.get("experiments/get-by-name", &[("experiment_name", name)]).await?;
        let Some(answer) = asked else { return Ok(None) };
        let experiment = &answer["experiment"];
        let id = text(experiment, "experiment_id");
        if id.is_empty() {
            return Err(self.strange("it has an experiment without an id"));
        }
        Ok(Some(Experiment { id, deleted: experiment["lifecycle_stage"] == "deleted" }))
    }

    /// `None`: somebody else has made it meanwhile.
    pub async fn create_experiment(&self, name: &str) -> Result<Option<Experiment>, Trouble> {
        match self.post("experiments/create", &json!({ "name": name })).await {
            Ok(answer) => Ok(Some(Experiment { id: text(&answer, "experiment_id"), deleted: false })),
            Err(Trouble::Invalid(why)) if why.contains("RESOURCE_ALREADY_EXISTS") => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    /// The runs of an experiment, the newest first; `filter` in MLflow's words. `with_deleted`: also those that were deleted.
    pub async fn runs(&self, experiment_id: &str, filter: &str, with_deleted: bool) -> Result<Vec<FoundRun>, Trouble> {
        let mut runs = Vec::new();
        let mut page = String::new();
        loop {
            let view = if with_deleted { "ALL" } else { "ACTIVE_ONLY" };
            let mut asked = json!({
                "experiment_ids": [experiment_id],
                "filter": filter,
                "run_view_type": view,
                "max_results": RUNS_A_PAGE,
            });
            if !page.is_empty() {
                asked["page_token"] = page.into();
            }
            let answer = self.post("runs/search", &asked).await?;
            runs.extend(answer["runs"].as_array().into_iter().flatten().map(found_run));
            page = text(&answer, "next_page_token");
            if page.is_empty() {
                return Ok(runs);
            }
        }
    }

    pub async fn run_of(&self, experiment_id: &str, run_id: &str) -> Result<Option<FoundRun>, Trouble> {
        let filter = format!("tags.`{RUN_ID}` = '{}'", run_id.replace('\'', ""));
        // The oldest, should there ever be two.
        Ok(self.runs(experiment_id, &filter, true).await?.pop())
    }

    pub async fn run(&self, id: &str) -> Result<Option<FoundRun>, Trouble> {
        let answer = self.get("runs/get", &[("run_id", id)]).await?;
        Ok(answer.map(|answer| found_run(&answer["run"])))
    }

    pub async fn create_run(
        &self,
        experiment_id: &str,
        name: &str,
        start_millis: u64,
        tags: &Pairs,
    ) -> Result<FoundRun, Trouble> {
        let tags: Vec<Value> = tags.iter().map(pair).collect();
        let asked = json!({
            "experiment_id": experiment_id,
            "run_name": name,
            "start_time": start_millis,
            "tags": tags,
        });
        let run = found_run(&self.post("runs/create", &asked).await?["run"]);
        if run.id.is_empty() { Err(self.strange("it made a run without an id")) } else { Ok(run) }
    }

    /// Points that are there already stay as they are, so all of it may be sent again.
    pub async fn log(&self, run: &str, batch: &Batch) -> Result<(), Trouble> {
        let points = &batch.points;
        let metric = |point: &Point| {
            json!({
                "key": to_mlflow(&point.name),
                "value": value_to_mlflow(point.value),
                "timestamp": point.unix_millis,
                "step": point.step,
            })
        };
        let parameters: Vec<Value> = batch.parameters.iter().map(pair).collect();
        let tags: Vec<Value> = batch.tags.iter().map(pair).collect();
        let batches = [
            points.len().div_ceil(METRICS_AT_MOST),
            parameters.len().div_ceil(PAIRS_AT_MOST),
            tags.len().div_ceil(PAIRS_AT_MOST),
        ];
        for at in 0..batches.into_iter().max().unwrap_or_default() {
            let metrics: Vec<Value> =
                points.chunks(METRICS_AT_MOST).nth(at).unwrap_or_default().iter().map(metric).collect();
            let asked = json!({
                "run_id": run,
                "metrics": metrics,
                "params": parameters.chunks(PAIRS_AT_MOST).nth(at).unwrap_or_default(),
                "tags": tags.chunks(PAIRS_AT_MOST).nth(at).unwrap_or_default(),
            });
            self.post("runs/log-batch", &asked).await?;
        }
        Ok(())
    }

    pub async fn end_run(&self, run: &str, status: &str, end_millis: u64) -> Result<(), Trouble> {
        let asked = json!({ "run_id": run, "status": status, "end_time": end_millis });
        self.post("runs/update", &asked).await.map(drop)
    }

    /// One curve, in the order of its steps.
    pub async fn history(&self, run: &str, name: &str) -> Result<Vec<Point>, Trouble> {
        let mut points = Vec::new();
        let mut page = String::new();
        let (key, at_most) = (to_mlflow(name), POINTS_A_PAGE.to_string());
        loop {
            let mut asked = vec![("run_id", run), ("metric_key", &key), ("max_results", &at_most)];
            if !page.is_empty() {
                asked.push(("page_token", &page));
            }
            let Some(answer) = self.get("metrics/get-history", &asked).await? else { break };
            points.extend(answer["metrics"].as_array().into_iter().flatten().filter_map(point));
            page = text(&answer, "next_page_token");
            if page.is_empty() {
                break;
            }
        }
        points.sort_by_key(|point| (point.step, point.unix_millis));
        Ok(points)
    }

    /// `None`: there is no such thing.
    async fn get(&self, what: &str, query: &[(&str, &str)]) -> Result<Option<Value>, Trouble> {
        let url = self.api(what)?;
        match self.json(self.request(Method::GET, url).query(query)).await {
            Err(Trouble::Gone(_)) => Ok(None),
            answer => answer.map(Some),
        }
    }

    async fn post(&self, what: &str, body: &Value) -> Result<Value, Trouble> {
        let url = self.api(what)?;
        self.json(self.request(Method::POST, url).json(body)).await
    }

    fn api(&self, what: &str) -> Result<Url, Trouble> {
        let url = format!("{}/api/2.0/mlflow/{what}", self.base);
        Url::parse(&url).map_err(|error| Trouble::Rejected(format!("`{url}` is no address: {error}")))
    }

    fn request(&self, method: Method, url: Url) -> RequestBuilder {
        // Credentials are for this server alone: an artifact store elsewhere has its own.
        let ours = Url::parse(&self.base).is_ok_and(|base| base.origin() == url.origin());
        let request = self.http.request(method, url);
        match &self.credentials {
            Credentials::Token(token) if ours => request.bearer_auth(token),
            Credentials::Password { user, password } if ours => request.basic_auth(user, Some(password)),
            _ => request,
        }
    }

    async fn json(&self, request: RequestBuilder) -> Result<Value, Trouble> {
        let text = self.answer(request.timeout(ANSWER_WITHIN)).await?;
        serde_json::from_str(&text).map_err(|_| self.strange("its answer is not JSON"))
    }

    async fn answer(&self, request: RequestBuilder) -> Result<String, Trouble> {
        let answer = request.send().await.map_err(|error| self.unreachable(error))?;
        self.judged(answer).await?.text().await.map_err(|error| self.unreachable(error))
    }

    /// Answers that are none become what they mean.
    async fn judged(&self, answer: reqwest::Response) -> Result<reqwest::Response, Trouble> {
        let status = answer.status();
        if status.is_success() {
            self.heard();
            return Ok(answer);
        }
        if status.is_redirection() {
            let to = answer
                .headers()
                .get(LOCATION)
                .and_then(|to| to.to_str().ok())
                .and_then(|to| answer.url().join(to).ok());
            let to = to.map_or_else(String::new, |to| format!(" to {}", to.origin().ascii_serialization()));
            return Err(Trouble::Rejected(format!("the server redirects{to}: write that address")));
        }
        let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = answer.text().await.unwrap_or_default();
        let body: Value = serde_json::from_str(&body).unwrap_or_else(|_| json!({ "message": body }));
        let (code, message) = (text(&body, "error_code"), text(&body, "message"));
        let said: String =
            message.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SAID_AT_MOST).collect();
        let colon = if said.is_empty() { String::new() } else { format!(": {said}") };
        let number = status.as_u16();
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Trouble::Refused { status: number, said: colon },
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                Trouble::Busy { status: number, said: colon, retry_after: retry_after.map(Duration::from_secs) }
            }
            status if status.is_server_error() => {
                Trouble::Busy { status: number, said: colon, retry_after: retry_after.map(Duration::from_secs) }
            }
            _ if code == "RESOURCE_DOES_NOT_EXIST" => Trouble::Gone(format!("the server has no such thing{colon}")),
            _ if message.contains("Current state is deleted") => {
                Trouble::Deleted(format!("it was deleted there{colon}"))
            }
            StatusCode::NOT_FOUND if code.is_empty() => self.strange("it does not know MLflow's requests (404)"),
            // What MLflow itself says no to, and what is too much for somebody in front of it.
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                Trouble::Invalid(rejected(number, &code, &colon))
            }
            _ if !code.is_empty() => Trouble::Invalid(rejected(number, &code, &colon)),
            _ => Trouble::Rejected(rejected(number, &code, &colon)),
        })
    }

    fn unreachable(&self, error: reqwest::Error) -> Trouble {
        if error.is_builder() || error.is_decode() {
            return self.strange(&error.without_url().to_string());
        }
        if error.is_timeout() {
            let seconds = if error.is_connect() { CONNECT_WITHIN } else { ANSWER_WITHIN }.as_secs();
            return Trouble::Unreachable(format!("no answer within {seconds} s"));
        }
        // What is wrong is in the innermost source; the address is said elsewhere.
        let error = error.without_url();
        let mut source: &dyn std::error::Error = &error;
        while let Some(inner) = source.source() {
            source = inner;
        }
        Trouble::Unreachable(source.to_string().to_lowercase())
    }

    fn strange(&self, what: &str) -> Trouble {
        Trouble::Rejected(format!("the server at {} does not answer as MLflow does: {what}", self.base))
    }
}

/// `code`: MLflow's word for it, where it has one.
fn rejected(status: u16, code: &str, said: &str) -> String {
    match code {
        "" => format!("the server rejected a request, {status}{said}"),
        code => format!("the server rejected a request, {code}{said}"),
    }
}

fn pair((key, value): (&String, &String)) -> Value {
    json!({ "key": key, "value": value })
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

/// Numbers of 64 bits may come as text.
fn number(value: &Value) -> u64 {
    match value {
        Value::String(digits) => digits.parse().unwrap_or_default(),
        value => value.as_u64().unwrap_or_default(),
    }
}

fn point(value: &Value) -> Option<Point> {
    Some(Point {
        name: from_mlflow(value["key"].as_str()?),
        value: value_from_mlflow(&value["value"])?,
        unix_millis: number(&value["timestamp"]),
        step: number(&value["step"]),
    })
}

fn found_run(run: &Value) -> FoundRun {
    let (info, data) = (&run["info"], &run["data"]);
    let pairs = |name: &str| {
        let pairs = data[name].as_array().into_iter().flatten();
        pairs.map(|pair| (text(pair, "key"), text(pair, "value"))).collect::<Pairs>()
    };
    FoundRun {
        id: text(info, "run_id"),
        name: text(info, "run_name"),
        experiment_id: text(info, "experiment_id"),
        status: text(info, "status"),
        start_millis: number(&info["start_time"]),
        end_millis: number(&info["end_time"]),
        artifact_uri: text(info, "artifact_uri"),
        metrics: data["metrics"].as_array().into_iter().flatten().filter_map(point).collect(),
        parameters: pairs("params"),
        tags: pairs("tags"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_reads_in_our_words() {
        let run = found_run(&json!({
            "info": {"run_id": "ab", "experiment_id": "1", "run_name": "n", "status": "FINISHED", "start_time": 5, "end_time": "6",
                     "artifact_uri": "mlflow-artifacts:/1/ab/artifacts"},
            "data": {"metrics": [{"key": "ndcg_at_10", "value": "NaN", "timestamp": 7, "step": 8}],
                     "params": [{"key": "training.batch", "value": "16"}], "tags": [{"key": "a", "value": "b"}]},
        }));
        assert_eq!((run.metrics[0].name.as_str(), run.metrics[0].step, run.end_millis), ("ndcg@10", 8, 6));
        assert!(run.metrics[0].value.is_nan());
        assert_eq!((run.parameters["training.batch"].as_str(), run.tags["a"].as_str()), ("16", "b"));
    }

    #[test]
    fn an_address_with_a_password_and_a_token_that_no_header_takes_are_refused_without_showing_them() {
        let refused = |url: &str, credentials| match Mlflow::new(url, credentials) {
            Err(trouble) => trouble.to_string(),
            Ok(_) => panic!("`{url}` was taken"),
        };
        let said = [
            refused("http://ann:hunter2@h:5000", Credentials::None),
            refused("http://h:5000", Credentials::Token("hunter2\r".into())),
            refused("ftp://h", Credentials::None),
        ];
        assert!(said[0].contains("MLFLOW_TRACKING_USERNAME") && said[1].contains("a line break"), "{said:?}");
        assert!(!said.iter().any(|said| said.contains("hunter2")), "{said:?}");
    }
}
