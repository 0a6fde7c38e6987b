//! Reading an online A/B test from the click logs of a lake whose events name the arm that answered.
//!
//! What stays in memory is the sums of each user of the test, about 80 bytes, and, while copies are looked for, the identities of searches.

use std::collections::BTreeSet;

use arrow::datatypes::Schema;
use chrono::NaiveDate;
use ranking::{
    online::{Insufficient, MAX_ARMS, Metric, Outcome, Reading, ReadingOptions, Users},
    propensity::Window,
};
use serde::Serialize;

use crate::{
    PipelineError,
    lake::{Conversions, Event, EventFile, Searches, Wanted, dates, names_arms},
};

/// Fewer resamples than this leave the ends of an interval to chance.
const MIN_RESAMPLES: usize = 200;
/// More make an interval no narrower, and their totals stay in memory.
const MAX_RESAMPLES: usize = 100_000;

/// What was divided between the arms: what is counted, compared and resampled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    #[default]
    User,
    /// Each session is taken for a user of its own, whoever's it was.
    Session,
}

/// What becomes of a test's searches whose user is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WithoutUser {
    /// Nothing is read where there are any.
    #[default]
    Refuse,
    LeaveOut,
    /// Each session counts as a user.
    Session,
}

/// Which test, and how to read it.
#[derive(Clone, Debug, PartialEq)]
pub struct AbTestOptions {
    /// The lake, as [`Lake::open`](crate::lake::Lake::open) takes it.
    pub logs: String,
    /// Dates to read, both included; open where absent.
    pub from: Option<NaiveDate>,
    pub to: Option<NaiveDate>,
    /// The column of events that names the arm.
    pub arm_column: String,
    /// The arms to read; all that there are where empty.
    pub arms: Vec<String>,
    /// The arm that others are compared with; `control` where absent.
    pub control: Option<String>,
    /// How many users each arm was meant to have, as parts of all; equally many where empty.
    pub split: Vec<(String, f64)>,
    pub unit: Unit,
    pub without_user: WithoutUser,
    pub resamples: usize,
    pub seed: u64,
}

impl Default for AbTestOptions {
    fn default() -> Self {
        Self {
            logs: String::new(),
            from: None,
            to: None,
            arm_column: "arm".into(),
            arms: Vec::new(),
            control: None,
            split: Vec::new(),
            unit: Unit::User,
            without_user: WithoutUser::Refuse,
            resamples: 1000,
            seed: 0,
        }
    }
}

/// What was read, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AbTestReport {
    pub window: Option<Window>,
    pub files: u64,
    pub arm_column: String,
    /// Searches of the log, each once; of files without the column of arms, as many as their footers say.
    pub searches: u64,
    pub repeated: u64,
    /// Searches that no arm, or none of the arms asked for, has answered.
    pub outside: u64,
    /// Searches of the test whose user is not known.
    pub without_user: u64,
    /// Of these, searches that were left out: all, or those that have no session to stand in.
    pub left_out: u64,
    pub without_user_policy: WithoutUser,
    pub unit: Unit,
    pub resamples: usize,
    pub seed: u64,
    /// Metrics that are not read, as files of the test do not log what they count.
    pub not_logged: Vec<Metric>,
    pub reading: Reading,
}

/// Reads the lake; `progress` is told bytes of files done, and of all.
pub async fn read(options: &AbTestOptions, progress: &mut dyn FnMut(u64, u64)) -> Result<AbTestReport, PipelineError> {
    check(options)?;
    let dates = dates(options.from, options.to)?;
    let mut log = Searches::open(&options.logs, dates).await?;
    let mut test = Test::new(options);
    let mut candidates: Option<BTreeSet<String>> = Some(BTreeSet::new());
    log.retain(|file| {
        let Ok(column) = file.schema().field_with_name(&options.arm_column) else {
            // Written before there was a test.
            test.outside += file.events();
            candidates.iter_mut().for_each(|candidates| candidates.extend(may_name_arms(file.schema())));
            return Ok(false);
        };
        if !names_arms(column.data_type()) {
            return Err(PipelineError::data(format!(
                "`{}`: column `{}` is of type {}, and arms are named by text, whole numbers or yes and no",
                file.name(),
                options.arm_column,
                column.data_type()
            ))
            .with_hint("name another column with `--arm-column`"));
        }
        candidates = None;
        test.note_what_is_not_logged(file);
        Ok(true)
    })
    .await?;
    if let Some(candidates) = candidates {
        return Err(no_column(options, candidates));
    }
    let mut searches = test.outside;
    let wanted = Wanted { people: true, conversions: Conversions::WhereLogged, arm: Some(options.arm_column.clone()) };
    let each = |_: &str, event: Event<'_>| {
        searches += 1;
        test.add(&event)
    };
    let repeated = log.for_each(&wanted, progress, each).await?;
    let (outside, without_user, left_out) = (test.outside, test.without_user, test.left_out);
    let not_logged = test.not_logged.clone();
    let reading = test.read(searches)?;
    Ok(AbTestReport {
        window: log.window(),
        files: log.files(),
        arm_column: options.arm_column.clone(),
        searches,
        repeated,
        outside,
        without_user,
        left_out,
        without_user_policy: options.without_user,
        unit: options.unit,
        resamples: options.resamples,
        seed: options.seed,
        not_logged,
        reading,
    })
}

fn check(options: &AbTestOptions) -> Result<(), PipelineError> {
    let resamples = options.resamples;
    if resamples < MIN_RESAMPLES {
        return Err(PipelineError::options(format!(
            "{resamples} resamples are too few for an interval: take at least {MIN_RESAMPLES}"
        )));
    }
    if resamples > MAX_RESAMPLES {
        return Err(PipelineError::options(format!("{resamples} resamples are more than {MAX_RESAMPLES}"))
            .with_hint("1000 are enough for the ends of a 95 % interval"));
    }
    if (options.unit, options.without_user) == (Unit::Session, WithoutUser::Session) {
        return Err(PipelineError::options("sessions are what is counted, so a session cannot stand in for another")
            .with_hint("searches without a session can be left out: `--without-user leave-out`"));
    }
    Ok(())
}

/// The test as it is read.
struct Test<'a> {
    options: &'a AbTestOptions,
    /// In the order in which they were met.
    arms: Vec<String>,
    /// Arms of the log that are not read, some of them.
    others: BTreeSet<String>,
    users: Users,
    outside: u64,
    without_user: u64,
    left_out: u64,
    not_logged: Vec<Metric>,
}

impl<'a> Test<'a> {
    fn new(options: &'a AbTestOptions) -> Self {
        Self {
            options,
            arms: Vec::new(),
            others: BTreeSet::new(),
            users: Users::default(),
            outside: 0,
            without_user: 0,
            left_out: 0,
            not_logged: Vec::new(),
        }
    }

    /// Notes what a file of the test does not log. A metric of a part of the test would compare nothing with something.
    fn note_what_is_not_logged(&mut self, file: &EventFile<'_>) {
        for (field, metrics) in
            [("added_to_cart", &[Metric::CartRate][..]), ("purchased", &[Metric::PurchaseRate, Metric::BuyerRate][..])]
        {
            if !file.has_result_field(field) && !self.not_logged.contains(&metrics[0]) {
                self.not_logged.extend(metrics);
            }
        }
    }

    fn add(&mut self, event: &Event<'_>) -> Result<(), PipelineError> {
        let known = match self.options.unit {
            Unit::User => event.user,
            Unit::Session => event.session_as_user(),
        };
        let instead = match self.options.without_user {
            WithoutUser::Session => event.session_as_user(),
            WithoutUser::Refuse | WithoutUser::LeaveOut => None,
        };
        let user = known.or(instead);
        let Some(arm) = event.arm else {
            self.outside += 1;
            return Ok(());
        };
        if !self.options.arms.is_empty() && !self.options.arms.iter().any(|known| known == arm) {
            self.outside += 1;
            if self.others.len() < MAX_ARMS && !self.others.contains(arm) {
                self.others.insert(arm.to_owned());
            }
            user.into_iter().for_each(|user| self.users.seen_elsewhere(user));
            return Ok(());
        }
        let number = match self.arms.iter().position(|known| known == arm) {
            Some(number) => number,
            None if self.arms.len() == MAX_ARMS => return Err(too_many(&self.options.arm_column, &self.arms, arm)),
            None => {
                self.arms.push(arm.to_owned());
                self.arms.len() - 1
            }
        };
        self.without_user += u64::from(known.is_none());
        let Some(user) = user else {
            self.left_out += 1;
            return Ok(());
        };
        let mut outcome = Outcome::default();
        for result in event.results {
            outcome.add(result.position, result.clicked, result.carted, result.purchased);
        }
        self.users.add(user, number as u8, &outcome);
        Ok(())
    }

    fn read(self, searches: u64) -> Result<Reading, PipelineError> {
        let Self { options, arms, others, users, outside, without_user, not_logged, .. } = self;
        let column = &options.arm_column;
        if without_user > 0 && options.without_user == WithoutUser::Refuse {
            let (id, units, hint) = match options.unit {
                Unit::User => (
                    "user_id",
                    "users",
                    "`--without-user leave-out` leaves them out; `--without-user session` takes the session for a user, where there is one",
                ),
                Unit::Session => ("session_id", "sessions", "`--without-user leave-out` leaves them out"),
            };
            return Err(PipelineError::data(format!(
                "{without_user} of the test's {} searches have no {id}, and {units} are what is compared",
                searches - outside
            ))
            .with_hint(hint));
        }
        if let Some(missing) = options.arms.iter().find(|arm| !arms.contains(arm)) {
            return Err(PipelineError::options(format!("no search is of arm `{missing}`"))
                .with_hint(there_are(arms.iter().chain(&others))));
        }
        match &arms[..] {
            [] => {
                return Err(PipelineError::data(format!(
                    "column `{column}` names no arm in any of {searches} searches"
                ))
                .with_hint("are the dates those of the test? name another column with `--arm-column`"));
            }
            [only] => {
                return Err(PipelineError::data(format!(
                    "all searches of the test are of arm `{only}`, and a comparison takes two arms"
                ))
                .with_hint(match options.arms.is_empty() {
                    true => "are the dates those of the test? name another column with `--arm-column`".to_owned(),
                    false => format!("name two with `--arms`: {}", there_are(arms.iter().chain(&others))),
                }));
            }
            _ => {}
        }
        let control = control(options, &arms)?;
        let split = split(options, &arms)?;
        let metrics = Metric::ALL.into_iter().filter(|metric| !not_logged.contains(metric)).collect();
        let (resamples, seed) = (options.resamples, options.seed);
        let read = ReadingOptions { control, split, metrics, resamples, seed, arms };
        let mut reading = users.read(&read).map_err(|error| insufficient(error, options.unit))?;
        // Which was met first means nothing: the control, then the others by name.
        reading.arms.sort_by(|a, b| (a.arm != reading.control, &a.arm).cmp(&(b.arm != reading.control, &b.arm)));
        reading.against_control.sort_by(|a, b| a.arm.cmp(&b.arm));
        Ok(reading)
    }
}

fn insufficient(error: Insufficient, unit: Unit) -> PipelineError {
    let (message, hint) = match &error {
        Insufficient::FewUsers { .. } => {
            ("the test cannot be read yet", "let it run on, or read only arms that have users with `--arms NAME,NAME`")
        }
        Insufficient::Mixed { .. } => ("the test cannot be read", mixed_hint(unit)),
        Insufficient::Mismatch { .. } => ("the test cannot be read", MISMATCH_HINT),
    };
    PipelineError::data(message).with_hint(hint).because(error)
}

/// What to do where the arms do not have the users that they were to have.
pub const MISMATCH_HINT: &str =
    "find where users are lost (redirects, crashes, late logging, bots), or give the planned split with `--split`";

/// What to do where many saw several arms.
pub fn mixed_hint(unit: Unit) -> &'static str {
    match unit {
        Unit::User => "keep a user in its arm; where sessions were divided between the arms, say `--unit session`",
        Unit::Session => "keep a session in its arm",
    }
}

fn control(options: &AbTestOptions, arms: &[String]) -> Result<usize, PipelineError> {
    let name = options.control.as_deref().unwrap_or("control");
    arms.iter().position(|arm| arm == name).ok_or_else(|| match &options.control {
        Some(control) => {
            PipelineError::options(format!("no search is of arm `{control}`, which was to be the control"))
                .with_hint(there_are(arms))
        }
        None => PipelineError::options("no arm is called `control`, so which is to be compared with is open")
            .with_hint(format!("say `--control NAME`; {}", there_are(arms))),
    })
}

/// In the order of the arms, together 1.
fn split(options: &AbTestOptions, arms: &[String]) -> Result<Vec<f64>, PipelineError> {
    if options.split.is_empty() {
        return Ok(vec![1.0 / arms.len() as f64; arms.len()]);
    }
    let wrong = |message: String| PipelineError::options(message).with_hint(there_are(arms));
    if let Some((name, part)) = options.split.iter().find(|(_, part)| !(part.is_finite() && *part > 0.0)) {
        return Err(wrong(format!("the planned split gives arm `{name}` {part} of the users, and an arm has some")));
    }
    if let Some((name, _)) = options.split.iter().find(|(name, _)| !arms.contains(name)) {
        return Err(wrong(format!("the planned split has an arm `{name}`, which no search is of")));
    }
    let all: f64 = options.split.iter().map(|(_, part)| part).sum();
    let share = |arm: &String| {
        let mut parts = options.split.iter().filter(|(name, _)| name == arm);
        match (parts.next(), parts.next()) {
            (Some((_, part)), None) => Ok(part / all),
            (None, _) => Err(wrong(format!("the planned split does not say how many users arm `{arm}` was to have"))),
            _ => Err(wrong(format!("the planned split has arm `{arm}` twice"))),
        }
    };
    arms.iter().map(share).collect()
}

fn there_are<'a>(arms: impl IntoIterator<Item = &'a String>) -> String {
    let mut names: Vec<&str> = arms.into_iter().map(String::as_str).collect();
    names.sort_unstable();
    format!("there are {}", names.join(", "))
}

fn too_many(column: &str, arms: &[String], another: &str) -> PipelineError {
    let some = arms.iter().take(3).map(|arm| format!("`{arm}`")).collect::<Vec<_>>().join(", ");
    PipelineError::data(format!(
        "column `{column}` has more than {MAX_ARMS} values ({some}, …, `{another}`): these are no arms of a test"
    ))
    .with_hint("name another column with `--arm-column`, or the arms to read with `--arms`")
}

/// Columns of an event that could name an arm.
fn may_name_arms(schema: &Schema) -> Vec<String> {
    const IDS: [&str; 4] = ["session_id", "query_id", "user_id", "query"];
    let fields = schema.fields().iter();
    let fields = fields.filter(|field| names_arms(field.data_type()) && !IDS.contains(&field.name().as_str()));
    fields.map(|field| field.name().clone()).collect()
}

fn no_column(options: &AbTestOptions, candidates: BTreeSet<String>) -> PipelineError {
    let candidates = candidates.into_iter().collect::<Vec<_>>().join(", ");
    PipelineError::data(format!("the click logs of these dates in `{}` have no column `{}`", options.logs, options.arm_column))
        .with_hint(format!(
            "log the arm with every search, as the field `arm` of the event; or name a column that tells the arms apart with \
             `--arm-column`, one of {candidates}"
        ))
}
