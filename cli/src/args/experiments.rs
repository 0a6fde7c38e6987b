//! What can be typed after `lockstep counterfactual` and `lockstep abtest`.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use super::LakeArgs;

#[derive(Debug, Subcommand)]
pub enum Counterfactual {
    /// From the click logs of a lake and the new ranker's scores: what it would have earned had it ordered what was shown.
    Clicks(Box<CounterfactualClicksArgs>),
    /// From a table of logged actions with their probabilities: the general off-policy estimate.
    Actions(CounterfactualActionsArgs),
}

#[derive(Debug, clap::Args)]
pub struct CounterfactualClicksArgs {
    #[command(flatten)]
    pub lake: LakeArgs,
    /// The new ranker's scores of what was shown: Parquet or CSV with `list_id` or `query_id`, `document_id` and `score`, as `lockstep score`
    /// writes them.
    #[arg(long, value_name = "FILE")]
    pub scores: PathBuf,
    /// What makes a logged reward stand for one at the new position.
    #[arg(long, value_enum, default_value_t = ListWeightsWord::Examination)]
    pub weights: ListWeightsWord,
    /// How often positions are looked at: a table of `lockstep propensity estimate`, or `reference`. For `--weights examination`.
    #[arg(long, value_name = "FILE")]
    pub propensities: Option<String>,
    /// What a reward is worth at a position. `dcg` is for `--weights examination`.
    #[arg(long, value_enum, default_value_t = WorthWord::Clicks)]
    pub gain: WorthWord,
    /// What is earned.
    #[arg(long, value_enum, default_value_t = RewardWord::Click)]
    pub reward: RewardWord,
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct CounterfactualActionsArgs {
    /// A row an action: Parquet, a folder of it, CSV or TSV.
    #[arg(value_name = "FILE")]
    pub table: PathBuf,
    /// The column of what was earned.
    #[arg(long, value_name = "COLUMN", default_value = "reward")]
    pub reward: String,
    /// The column of the probability, above 0, with which the logging policy did what it did.
    #[arg(long, value_name = "COLUMN", default_value = "propensity")]
    pub propensity: String,
    /// The column of the probability with which the new policy would have done the same.
    #[arg(long, value_name = "COLUMN", default_value = "target")]
    pub target: String,
    /// The column of whose action it was: what one user does may hang together [default: rows are independent].
    #[arg(long, value_name = "COLUMN")]
    pub unit: Option<String>,
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct LimitArgs {
    /// Estimate with no weight above this, too [default: only with the weights as they are].
    #[arg(long, value_name = "WEIGHT")]
    pub clip: Option<f64>,
    /// Conclude nothing from a smaller effective sample size.
    #[arg(long, value_name = "N", default_value_t = 100.0)]
    pub min_effective: f64,
    /// Conclude nothing where a single reward carries a larger share.
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    pub max_share: f64,
    /// Conclude nothing where a larger share of the searches could never have been logged as the new ranker orders them.
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    pub max_unsupported: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ListWeightsWord {
    /// Looks at the new position / looks at the logged one: the position-based model, with little variance.
    Examination,
    /// 1 / the logged probability of having been shown there, for results that stood where the new ranker puts them, 0 for others: needs
    /// exploration, and no model of looking.
    Placement,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WorthWord {
    /// The reward that is seen there: the estimate is of rewards a search.
    Clicks,
    /// 1 / log2(1 + position): the estimate is of the DCG of what is wanted.
    Dcg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RewardWord {
    Click,
    Cart,
    Purchase,
}

#[derive(Debug, clap::Args)]
pub struct AbTestArgs {
    #[command(flatten)]
    pub lake: LakeArgs,
    /// The column of events that names the arm.
    #[arg(long, value_name = "COLUMN", default_value = "arm")]
    pub arm_column: String,
    /// The arms to read [default: all].
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_parser = name)]
    pub arms: Vec<String>,
    /// The arm that the others are compared with [default: control].
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub control: Option<String>,
    /// How users were to be divided, for the check of the sample ratio: `control=0.9,treatment=0.1` [default: equally].
    #[arg(long, value_name = "NAME=PART,…", value_delimiter = ',', value_parser = part)]
    pub split: Vec<(String, f64)>,
    /// What was divided between the arms, and is counted, compared and resampled.
    #[arg(long, value_enum, default_value_t = UnitWord::User)]
    pub unit: UnitWord,
    /// What becomes of searches whose user is not known.
    #[arg(long, value_enum, default_value_t = WithoutUser::Refuse)]
    pub without_user: WithoutUser,
    /// Resamples of the bootstrap over users, up to 100,000.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub resamples: usize,
    /// Of the bootstrap: the same seed and logs give the same intervals.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WithoutUser {
    /// Read nothing, and say how many there are.
    Refuse,
    LeaveOut,
    /// Each session counts as a user.
    Session,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UnitWord {
    User,
    /// Each session is taken for a user of its own.
    Session,
}

/// Arms are read without blanks around their names, too.
fn name(text: &str) -> Result<String, String> {
    let name = text.trim();
    if name.is_empty() { Err("an arm has a name".to_owned()) } else { Ok(name.to_owned()) }
}

fn part(text: &str) -> Result<(String, f64), String> {
    let wrong = || format!("`{text}` is no part of a split: write a name and a number, as in `treatment=0.1`");
    let (name, part) = text.rsplit_once('=').ok_or_else(wrong)?;
    Ok((name.trim().to_owned(), part.trim().parse().map_err(|_| wrong())?))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Verb};

    fn parse(line: &str) -> Result<Verb, clap::Error> {
        Args::try_parse_from(line.split(' ')).map(|args| args.verb)
    }

    #[test]
    fn lists_are_weighed_by_examination_unless_asked_otherwise_and_nothing_is_clipped() {
        let clicks = "lockstep counterfactual clicks --logs lake --scores scores.parquet";
        let Ok(Verb::Counterfactual(Counterfactual::Clicks(args))) = parse(&format!("{clicks} --propensities p.json"))
        else {
            panic!("not clicks")
        };
        assert_eq!((args.weights, args.limits.clip), (ListWeightsWord::Examination, None));
        assert!(parse(&format!("{clicks} --weights placement --clip 5")).is_ok());
        assert!(parse("lockstep counterfactual clicks --logs lake").is_err());
    }

    #[test]
    fn a_split_is_named_parts() {
        let Ok(Verb::Abtest(args)) = parse("lockstep abtest --logs lake --split control=0.9,treatment=0.1") else {
            panic!("not abtest")
        };
        assert_eq!(args.split, [("control".to_owned(), 0.9), ("treatment".to_owned(), 0.1)]);
        assert!(parse("lockstep abtest --logs lake --split 0.9,0.1").is_err());
        let line = ["lockstep", "abtest", "--logs", "lake", "--arms", "a, c=d", "--split", "a=0.5, c=d=0.5"];
        let Ok(Verb::Abtest(args)) = Args::try_parse_from(line).map(|args| args.verb) else { panic!("not abtest") };
        assert_eq!(args.arms, ["a", "c=d"]);
        assert_eq!(args.split, [("a".to_owned(), 0.5), ("c=d".to_owned(), 0.5)]);
    }
}
