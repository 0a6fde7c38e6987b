//! `lockstep counterfactual` and `lockstep abtest`: arguments become the pipeline's options, reports become lines.

mod view;

use std::{path::Path, process::ExitCode};

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
    progress,
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
        logs: args.lake.logs,
        from: args.lake.from,
        to: args.lake.to,
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
    let bar = progress::bytes();
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
        logs: args.lake.logs,
        from: args.lake.from,
        to: args.lake.to,
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
    let bar = progress::bytes();
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
