//! `lockstep counterfactual` and `lockstep abtest`: arguments become the pipeline's options, reports become lines.

mod view;

use std::{io::IsTerminal as _, path::Path, process::ExitCode};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pipeline::{
    abtest::{self, AbTestOptions},
    counterfactual::{self, ActionsOptions, ClicksOptions, ListWeights, Reward},
    propensity::read_table,
};
use ranking::{
    counterfactual::{Gain, Limits},
    propensity::PropensityTable,
};

use crate::{
    args::{
        AbTestArgs, CounterfactualActionsArgs, CounterfactualClicksArgs, LimitArgs, ListWeightsWord, RewardWord,
        UnitWord, WithoutUser, WorthWord,
    },
    datasets::report_as,
    errors::Fault,
};

pub async fn clicks(args: CounterfactualClicksArgs) -> Result<ExitCode, Fault> {
    let gain = match args.gain {
        WorthWord::Clicks => Gain::Clicks,
        WorthWord::Dcg => Gain::Dcg,
    };
    let weights = match (args.weights, args.propensities) {
        (ListWeightsWord::Examination, None) => {
            return Err(Fault::words("--weights examination needs to know how often positions are looked at").hint(
                "say --propensities FILE, of `lockstep propensity estimate`, or --propensities reference; or weigh by --weights placement",
            ));
        }
        (ListWeightsWord::Examination, Some(table)) => {
            let table = match &*table {
                "reference" => PropensityTable::reference(),
                path => read_table(Path::new(path))?,
            };
            ListWeights::Examination { table, gain }
        }
        (ListWeightsWord::Placement, Some(_)) => {
            return Err(Fault::words(
                "--weights placement takes the propensities that are logged with each result, and no table",
            )
            .hint("leave --propensities out, or weigh by --weights examination"));
        }
        (ListWeightsWord::Placement, None) if gain == Gain::Dcg => {
            return Err(Fault::words("--weights placement counts what was earned at a position, and nothing is known of what was not seen there")
                .hint("leave --gain dcg out, or weigh by --weights examination"));
        }
        (ListWeightsWord::Placement, None) => ListWeights::Placement,
    };
    let options = ClicksOptions {
        logs: args.logs,
        from: args.from,
        to: args.to,
        scores: args.scores,
        weights,
        reward: match args.reward {
            RewardWord::Click => Reward::Click,
            RewardWord::Cart => Reward::Cart,
            RewardWord::Purchase => Reward::Purchase,
        },
        clip: args.limits.clip,
        limits: limits(args.limits),
    };
    let bar = progress_bar();
    let report = counterfactual::clicks(&options, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })
    .await;
    bar.finish_and_clear();
    let report = report?;
    report_as(args.json, &report, &view::clicks(&report, &options))
}

pub fn actions(args: CounterfactualActionsArgs) -> Result<ExitCode, Fault> {
    let options = ActionsOptions {
        table: args.table,
        reward: args.reward,
        propensity: args.propensity,
        target: args.target,
        unit: args.unit,
        clip: args.limits.clip,
        limits: limits(args.limits),
    };
    let estimates = counterfactual::actions(&options)?;
    report_as(args.json, &estimates, &view::actions(&estimates, &options))
}

pub async fn abtest(args: AbTestArgs) -> Result<ExitCode, Fault> {
    let options = AbTestOptions {
        logs: args.logs,
        from: args.from,
        to: args.to,
        arm_column: args.arm_column,
        arms: args.arms,
        control: args.control,
        split: args.split,
        unit: match args.unit {
            UnitWord::User => abtest::Unit::User,
            UnitWord::Session => abtest::Unit::Session,
        },
        without_user: match args.without_user {
            WithoutUser::Refuse => abtest::WithoutUser::Refuse,
            WithoutUser::LeaveOut => abtest::WithoutUser::LeaveOut,
            WithoutUser::Session => abtest::WithoutUser::Session,
        },
        resamples: args.resamples,
        seed: args.seed,
    };
    let bar = progress_bar();
    let report = abtest::read(&options, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })
    .await;
    bar.finish_and_clear();
    let report = report?;
    report_as(args.json, &report, &view::abtest(&report))
}

fn limits(args: LimitArgs) -> Limits {
    Limits { min_effective: args.min_effective, max_share: args.max_share, max_unsupported: args.max_unsupported }
}

/// On a terminal; elsewhere nothing is drawn.
fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
    let style = ProgressStyle::with_template("{bar:24} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸ "));
    bar
}
