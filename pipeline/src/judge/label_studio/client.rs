//! Requests to a Label Studio server: who we are, how long we try, and what its answers mean.

use std::{fmt, time::Duration};

use reqwest::{Method, StatusCode, Url, header::HeaderValue};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::PipelineError;

/// Where a token comes from, and how it is kept from view.
const TOKEN_HINT: &str = "take a token from Label Studio's account page, and set LOCKSTEP_LABEL_STUDIO_TOKEN to it or name a file that \
                          holds it by --token-file";

/// An access token. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token without white space around it.
    pub fn new(text: &str) -> Result<Self, PipelineError> {
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            let what = if token.is_empty() { "the token is empty" } else { "the token holds what no token does" };
            return Err(PipelineError::options(what).with_hint(TOKEN_HINT));
        }
        Ok(Self(token.to_owned()))
    }

    /// Personal access tokens are JSON web tokens, good for fetching short-lived ones; legacy tokens are 40 hexadecimal digits.
    fn is_personal(&self) -> bool {
        self.0.starts_with("ey") && self.0.matches('.').count() == 2
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// How long a server is waited for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Patience {
    pub connect: Duration,
    /// For one whole answer.
    pub answer: Duration,
    /// How often a request is made in all, where the server cannot be reached or says that it is busy.
    pub tries: u32,
    /// Before the second try; twice as long before each further one.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(120),
            tries: 4,
            pause: Duration::from_millis(500),
        }
    }
}

pub(super) struct Client {
    http: reqwest::Client,
    /// Without a slash at its end.
    base: String,
    token: Token,
    /// The short-lived token that a personal one was changed for.
    access: Mutex<Option<String>>,
    patience: Patience,
}

/// What a server said.
enum Answer {
    Good(Value),
    NotFound,
    /// The token is not (or no longer) good.
    Unauthorized(String),
    Refused(PipelineError),
    /// It may be otherwise a moment later.
    Busy(PipelineError),
}

impl Client {
    pub fn new(address: &str, token: Token, patience: Patience) -> Result<Self, PipelineError> {
        let wrong = || {
            let error = PipelineError::options(format!("`{address}` is not the address of a server"));
            error.with_hint("write `--platform http://host:8080`")
        };
        let url = Url::parse(address).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let base = url.ok_or_else(wrong)?.as_str().trim_end_matches('/').to_owned();
        let http = reqwest::Client::builder()
            .connect_timeout(patience.connect)
            .timeout(patience.answer)
            // A redirection leads to a page for people, or elsewhere: a token does not follow.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("lockstep/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| PipelineError::network("cannot make an HTTP client").because(error))?;
        Ok(Self { http, base, token, access: Mutex::new(None), patience })
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// `None` where there is no such thing.
    pub async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Option<Value>, PipelineError> {
        self.request(Method::GET, path, query, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Result<Option<Value>, PipelineError> {
        self.request(Method::POST, path, &[], Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Result<(), PipelineError> {
        self.request(Method::DELETE, path, &[], None).await.map(drop)
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<Option<Value>, PipelineError> {
        let mut renewed = false;
        let mut pause = self.patience.pause;
        let mut left = self.patience.tries.max(1);
        loop {
            left -= 1;
            let authorization = match self.authorization().await? {
                Answer::Good(value) => value.as_str().unwrap_or_default().to_owned(),
                Answer::Busy(_) if left > 0 => {
                    wait(&mut pause).await;
                    continue;
                }
                other => return Err(self.trouble(other)),
            };
            match self.once(method.clone(), path, query, body, Some(&authorization)).await {
                Answer::Good(value) => return Ok(Some(value)),
                Answer::NotFound => return Ok(None),
                // Short-lived tokens end in the middle of long work.
                Answer::Unauthorized(_) if self.token.is_personal() && !renewed => {
                    renewed = true;
                    left += 1;
                    *self.access.lock().await = None;
                }
                Answer::Busy(_) if left > 0 => wait(&mut pause).await,
                other => return Err(self.trouble(other)),
            }
        }
    }

    /// The header by which the server knows us; what it said where there is none.
    async fn authorization(&self) -> Result<Answer, PipelineError> {
        if !self.token.is_personal() {
            return Ok(Answer::Good(format!("Token {}", self.token.0).into()));
        }
        let mut access = self.access.lock().await;
        if access.is_none() {
            let body = json!({ "refresh": self.token.0 });
            match self.once(Method::POST, "/api/token/refresh/", &[], Some(&body), None).await {
                Answer::Good(answer) => *access = answer["access"].as_str().map(str::to_owned),
                other => return Ok(other),
            }
        }
        match &*access {
            Some(access) => Ok(Answer::Good(format!("Bearer {access}").into())),
            None => Err(self.strange("no access token in its answer")),
        }
    }

    async fn once(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<&Value>,
        authorization: Option<&str>,
    ) -> Answer {
        let repeatable = method == Method::GET;
        let mut request = self.http.request(method, format!("{}{path}", self.base)).query(query);
        if let Some(authorization) = authorization {
            let Ok(mut value) = HeaderValue::from_str(authorization) else {
                return Answer::Refused(PipelineError::options("the token cannot be sent").with_hint(TOKEN_HINT));
            };
            value.set_sensitive(true);
            request = request.header(reqwest::header::AUTHORIZATION, value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = match request.send().await {
            Ok(response) => response,
            // What may have reached the server is not sent again, unless that changes nothing.
            Err(error) if error.is_connect() || repeatable => return Answer::Busy(self.unreachable(error)),
            Err(error) => return Answer::Refused(self.unreachable(error)),
        };
        let status = response.status();
        let text = match response.text().await {
            Ok(text) => text,
            Err(error) if repeatable => return Answer::Busy(self.unreachable(error)),
            Err(error) => return Answer::Refused(self.unreachable(error)),
        };
        let value: Option<Value> = serde_json::from_str(&text).ok();
        match status {
            StatusCode::NO_CONTENT => Answer::Good(Value::Null),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Answer::Unauthorized(said(value.as_ref())),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Answer::Busy(self.failed(status, value)),
            StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT if repeatable => {
                Answer::Busy(self.failed(status, value))
            }
            status if status.is_success() => match value {
                Some(value) => Answer::Good(value),
                None => Answer::Refused(self.strange("its answer is not JSON")),
            },
            StatusCode::NOT_FOUND if value.is_some() => Answer::NotFound,
            status if status.is_redirection() || value.is_none() => {
                Answer::Refused(self.strange(&format!("its answer is {status} and not JSON")))
            }
            status => Answer::Refused(self.failed(status, value)),
        }
    }

    fn trouble(&self, answer: Answer) -> PipelineError {
        match answer {
            Answer::Refused(error) | Answer::Busy(error) => error,
            Answer::Unauthorized(said) => {
                let kind = if self.token.is_personal() { "personal access token" } else { "legacy token" };
                let error = PipelineError::options(format!("Label Studio at {} refused the {kind}{said}", self.base));
                match self.token.is_personal() {
                    true => error.with_hint(TOKEN_HINT),
                    false => error.with_hint(format!(
                        "{TOKEN_HINT}; legacy tokens work only where the organisation allows them (a server started with \
                         LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN=true)"
                    )),
                }
            }
            Answer::Good(_) | Answer::NotFound => self.strange("it does not know this request"),
        }
    }

    fn unreachable(&self, error: reqwest::Error) -> PipelineError {
        let message = format!("no answer from Label Studio at {}", self.base);
        // The address is in the message already, and where it went wrong is in the source.
        PipelineError::network(message)
            .because(error.without_url())
            .with_hint("is it running, and is this its address? `label-studio start` starts one on port 8080")
    }

    fn failed(&self, status: StatusCode, value: Option<Value>) -> PipelineError {
        PipelineError::network(format!("Label Studio at {} answered {status}{}", self.base, said(value.as_ref())))
    }

    pub fn strange(&self, what: &str) -> PipelineError {
        PipelineError::network(format!("the server at {} does not answer as Label Studio does: {what}", self.base))
            .with_hint("is this its address, without a path behind it?")
    }
}

async fn wait(pause: &mut Duration) {
    tokio::time::sleep(*pause).await;
    *pause *= 2;
}

/// What an error's JSON says, shortened.
fn said(value: Option<&Value>) -> String {
    let Some(value) = value else { return String::new() };
    let detail = value["detail"].as_str().unwrap_or_default();
    let fields = match &value["validation_errors"] {
        Value::Null => String::new(),
        errors => format!(" {errors}"),
    };
    let words: String = format!("{detail}{fields}").chars().take(400).collect();
    if words.is_empty() { words } else { format!(": {words}") }
}
