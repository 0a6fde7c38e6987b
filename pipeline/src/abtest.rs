//! Reading an online A/B test from the click logs of a lake whose events name the arm that answered.
//!
//! The log is read once. What stays in memory is the sums of each user of the test, about 80 bytes, and the identities of searches, by which
//! one that the log repeats counts once.

use std::collections::{BTreeSet, HashSet};

use arrow::datatypes::{DataType, Schema};
use chrono::NaiveDate;
use ranking::{
    online::{MAX_ARMS, Outcome, Reading, ReadingOptions, Users},
    propensity::Window,
};
use serde::Serialize;

use crate::{
    PipelineError,
    lake::{Event, EventFile, Lake, Wanted, dates},
};

/// Fewer resamples than this leave the ends of an interval to chance.
const MIN_RESAMPLES: usize = 200;

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
    /// The lake, as [`Lake::open`] takes it.
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
    /// Searches of the log, each once.
    pub searches: u64,
    pub repeated: u64,
    /// Searches that no arm, or none of the arms asked for, has answered.
    pub outside: u64,
    /// Searches of the test whose user is not known.
    pub without_user: u64,
    pub without_user_policy: WithoutUser,
    pub unit: Unit,
    pub resamples: usize,
    pub seed: u64,
    pub reading: Reading,
}

/// Reads the lake; `progress` is told bytes of files done, and of all.
pub async fn read(options: &AbTestOptions, progress: &mut dyn FnMut(u64, u64)) -> Result<AbTestReport, PipelineError> {
    if options.resamples < MIN_RESAMPLES {
        return Err(PipelineError::options(format!(
            "{} resamples are too few for an interval: take at least {MIN_RESAMPLES}",
            options.resamples
        )));
    }
    let dates = dates(options.from, options.to)?;
    let lake = Lake::open(&options.logs)?;
    let files = lake.files(dates).await?;
    let window = files.first().zip(files.last()).map(|(first, last)| Window { from: first.date, to: last.date });
    let wanted = Wanted { people: true, conversions: true, arm: Some(options.arm_column.clone()) };
    let mut test = Test { options, arms: Vec::new(), users: Users::default(), outside: 0, without_user: 0 };
    let (mut seen, mut searches, mut repeated) = (HashSet::new(), 0u64, 0u64);
    let mut candidates: Option<BTreeSet<String>> = Some(BTreeSet::new());
    let all = files.iter().map(|file| file.bytes).sum();
    let mut done = 0;
    for file in &files {
        let name = lake.store().display(&lake.store().relative(&file.path).unwrap_or_default());
        let opened = EventFile::open(&lake, file, &name).await?;
        if opened.schema().column_with_name(&options.arm_column).is_some() {
            candidates = None;
            let each = |event: Event<'_>| -> Result<(), PipelineError> {
                if event.search.is_some_and(|search| !seen.insert(search)) {
                    repeated += 1;
                    return Ok(());
                }
                searches += 1;
                test.add(&event)
            };
            opened.for_each(&wanted, each).await?;
        } else {
            // Written before there was a test.
            searches += opened.events();
            test.outside += opened.events();
            candidates.iter_mut().for_each(|candidates| candidates.extend(may_name_arms(opened.schema())));
        }
        done += file.bytes;
        progress(done, all);
    }
    if let Some(candidates) = candidates {
        return Err(no_column(options, candidates));
    }
    let (outside, without_user) = (test.outside, test.without_user);
    let reading = test.read(searches)?;
    Ok(AbTestReport {
        window,
        files: files.len() as u64,
        arm_column: options.arm_column.clone(),
        searches,
        repeated,
        outside,
        without_user,
        without_user_policy: options.without_user,
        unit: options.unit,
        resamples: options.resamples,
        seed: options.seed,
        reading,
    })
}

/// The test as it is read.
struct Test<'a> {
    options: &'a AbTestOptions,
    /// In the order in which they were met.
    arms: Vec<String>,
    users: Users,
    outside: u64,
    without_user: u64,
}

impl Test<'_> {
    fn add(&mut self, event: &Event<'_>) -> Result<(), PipelineError> {
        let chosen = |arm: &&str| self.options.arms.is_empty() || self.options.arms.iter().any(|known| known == arm);
        let Some(arm) = event.arm.filter(chosen) else {
            self.outside += 1;
            return Ok(());
        };
        let number = match self.arms.iter().position(|known| known == arm) {
            Some(number) => number,
            None if self.arms.len() == MAX_ARMS => return Err(too_many(&self.options.arm_column, &self.arms, arm)),
            None => {
                self.arms.push(arm.to_owned());
                self.arms.len() - 1
            }
        };
        // A session is told from a user of the same id.
        const SESSION: u64 = 0x5e55_10c4_0000_0001;
        let session = event.session.map(|session| session ^ SESSION);
        let (known, instead) = match (self.options.unit, self.options.without_user) {
            (Unit::Session, _) => (session, None),
            (Unit::User, WithoutUser::Session) => (event.user, session),
            (Unit::User, WithoutUser::Refuse | WithoutUser::LeaveOut) => (event.user, None),
        };
        self.without_user += u64::from(known.is_none());
        let Some(user) = known.or(instead) else { return Ok(()) };
        let mut outcome = Outcome::default();
        for result in event.results {
            outcome.add(result.position, result.clicked, result.carted, result.purchased);
        }
        self.users.add(user, number as u8, &outcome);
        Ok(())
    }

    fn read(self, searches: u64) -> Result<Reading, PipelineError> {
        let Self { options, arms, users, outside, without_user } = self;
        let column = &options.arm_column;
        if without_user > 0 && options.without_user == WithoutUser::Refuse {
            let (id, units) = match options.unit {
                Unit::User => ("user_id", "users"),
                Unit::Session => ("session_id", "sessions"),
            };
            return Err(PipelineError::data(format!(
                "{without_user} of the test's {} searches have no {id}, and {units} are what is compared",
                searches - outside
            ))
            .with_hint(
                "`--without-user leave-out` leaves them out; `--without-user session` takes the session for a user, where there is one",
            ));
        }
        if let Some(missing) = options.arms.iter().find(|arm| !arms.contains(arm)) {
            return Err(PipelineError::options(format!("no search is of arm `{missing}`")).with_hint(there_are(&arms)));
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
                .with_hint("are the dates those of the test? name another column with `--arm-column`"));
            }
            _ => {}
        }
        let control = control(options, &arms)?;
        let split = split(options, &arms)?;
        let read =
            ReadingOptions { control, split, resamples: options.resamples, seed: options.seed, arms: arms.clone() };
        let mut reading = users.read(&read).map_err(|error| {
            PipelineError::data("the test cannot be read yet")
                .with_hint("let it run on, or read only arms that have users with `--arms NAME,NAME`")
                .because(error)
        })?;
        // Which was met first means nothing: the control, then the others by name.
        reading.arms.sort_by(|a, b| (a.arm != reading.control, &a.arm).cmp(&(b.arm != reading.control, &b.arm)));
        reading.against_control.sort_by(|a, b| a.arm.cmp(&b.arm));
        Ok(reading)
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

fn there_are(arms: &[String]) -> String {
    let mut names: Vec<&str> = arms.iter().map(String::as_str).collect();
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
    let fields = schema.fields().iter().filter(|field| {
        let kind = field.data_type();
        let named =
            matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(..))
                || kind.is_integer()
                || *kind == DataType::Boolean;
        named && !IDS.contains(&field.name().as_str())
    });
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
