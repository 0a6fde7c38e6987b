//! What is done to a run on purpose, and when: flags, or a plan in TOML.

use std::{path::Path, str::FromStr, time::Duration};

use serde::Deserialize;

use crate::{args::ChaosArgs, errors::Fault};

/// How long a worker is paused where nobody says: longer than it takes to be given up.
const PAUSE: Duration = Duration::from_secs(8);

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    pub when: When,
    pub whom: Whom,
    pub deed: Deed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Once that many steps are reported.
    Step(u64),
    /// So long after training began.
    After(Duration),
    /// So long after training began, and again and again.
    Every(Duration),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Whom {
    #[default]
    Any,
    All,
    /// In the generation at work.
    Rank(usize),
    Slot(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Kill,
    /// Stopped, without its knowledge, for so long.
    Pause(Duration),
    /// Asked to go, as a machine that is taken away asks.
    Terminate,
}

/// As it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    fault: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(rename = "do")]
    deed: Word,
    #[serde(rename = "for")]
    pause: Option<Span>,
    #[serde(default)]
    worker: Whom,
    at_step: Option<u64>,
    after: Option<Span>,
    every: Option<Span>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Kill,
    Pause,
    Terminate,
}

/// `"15 s"`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Span(Duration);

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match humantime::parse_duration(&text) {
            Ok(span) if !span.is_zero() => Ok(Self(span)),
            _ => Err(format!("`{text}` is not a time: write \"15 s\" or \"500 ms\"")),
        }
    }
}

impl FromStr for Whom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |rest: &str| rest.trim().parse::<u32>().ok();
        match text.trim() {
            "any" => Some(Self::Any),
            "all" => Some(Self::All),
            text => {
                let rank = text.strip_prefix("rank ").and_then(number).map(|rank| Self::Rank(rank as usize));
                rank.or_else(|| text.strip_prefix("slot ").and_then(number).map(Self::Slot))
            }
        }
        .ok_or_else(|| format!("`{text}` is no worker: write \"any\", \"all\", \"rank 0\" or \"slot 1\""))
    }
}

impl<'de> Deserialize<'de> for Whom {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What the flags say, and the file that they name.
pub fn plan(args: &ChaosArgs) -> Result<Vec<Action>, Fault> {
    let every =
        |span: Option<Duration>, deed| span.map(|span| Action { when: When::Every(span), whom: Whom::Any, deed });
    let mut actions: Vec<Action> = Vec::new();
    actions.extend(every(args.kill_every, Deed::Kill));
    actions.extend(every(args.pause_every, Deed::Pause(args.pause_for.unwrap_or(PAUSE))));
    if let Some(file) = &args.plan {
        actions.extend(read(file)?);
    }
    Ok(actions)
}

fn read(file: &Path) -> Result<Vec<Action>, Fault> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Fault::words(format!("cannot read `{}`", file.display())).because(&error))?;
    parse(&text).map_err(|problem| {
        Fault::words(format!("`{}` is no plan of faults, nothing was started", file.display()))
            .caused_by(problem)
            .hint("a fault is `[[fault]]` with `do = \"kill\"` and one of `at_step = 100`, `after = \"30 s\"`, `every = \"15 s\"`")
    })
}

fn parse(text: &str) -> Result<Vec<Action>, String> {
    let document: Document = toml::from_str(text).map_err(|error| error.to_string())?;
    if document.fault.is_empty() {
        return Err("it holds no fault".into());
    }
    document
        .fault
        .into_iter()
        .enumerate()
        .map(|(at, entry)| entry.action().map_err(|why| format!("fault {}: {why}", at + 1)))
        .collect()
}

impl Entry {
    fn action(self) -> Result<Action, String> {
        let when = match (self.at_step, self.after, self.every) {
            (Some(step), None, None) => When::Step(step),
            (None, Some(span), None) => When::After(span.0),
            (None, None, Some(span)) => When::Every(span.0),
            (None, None, None) => return Err("when is not said".into()),
            _ => return Err("when is said more than once".into()),
        };
        let deed = match (self.deed, self.pause) {
            (Word::Pause, pause) => Deed::Pause(pause.map_or(PAUSE, |span| span.0)),
            (_, Some(_)) => return Err("`for` goes with `do = \"pause\"` alone".into()),
            (Word::Kill, None) => Deed::Kill,
            (Word::Terminate, None) => Deed::Terminate,
        };
        Ok(Action { when, whom: self.worker, deed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_what_is_done_to_whom_and_when() {
        let plan = parse(
            r#"
            [[fault]]
            do = "kill"
            worker = "rank 0"
            at_step = 2000
            [[fault]]
            do = "pause"
            for = "500 ms"
            every = "1 min"
            [[fault]]
            do = "terminate"
            worker = "slot 1"
            after = "30 s"
            "#,
        );
        let expected = [
            Action { when: When::Step(2000), whom: Whom::Rank(0), deed: Deed::Kill },
            Action {
                when: When::Every(Duration::from_secs(60)),
                whom: Whom::Any,
                deed: Deed::Pause(Duration::from_millis(500)),
            },
            Action { when: When::After(Duration::from_secs(30)), whom: Whom::Slot(1), deed: Deed::Terminate },
        ];
        assert_eq!(plan.unwrap(), expected);
    }

    #[test]
    fn what_is_wrong_with_a_plan_is_said_with_its_place() {
        for (text, problem) in [
            ("", "it holds no fault"),
            ("[[fault]]\ndo = \"kill\"", "fault 1: when is not said"),
            ("[[fault]]\ndo = \"kill\"\nat_step = 1\nevery = \"1 s\"", "fault 1: when is said more than once"),
            ("[[fault]]\ndo = \"kill\"\nat_step = 1\nfor = \"1 s\"", "fault 1: `for` goes with"),
            ("[[fault]]\ndo = \"kill\"\nevery = \"0 s\"", "`0 s` is not a time"),
            ("[[fault]]\ndo = \"kill\"\nat_step = 1\nworker = \"w1\"", "`w1` is no worker"),
            ("[[fault]]\ndo = \"hit\"\nat_step = 1", "unknown variant `hit`"),
            ("[[fault]]\ndo = \"kill\"\nat_stop = 1", "unknown field `at_stop`"),
        ] {
            let found = parse(text).unwrap_err();
            assert!(found.contains(problem), "{text}: {found}");
        }
    }
}
