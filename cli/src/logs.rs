//! The verbs that make click logs: arguments become the pipeline's options, its reports become lines.

use std::process::ExitCode;

use pipeline::{
    collect::KafkaSettings,
    simulate::{self, Destination, SimulateOptions, SimulatedArm},
    ubi::UbiOptions,
};

use crate::{
    args::{ClickModel, ImportLogs, Logs, SimulateArgs, UbiArgs, Unknown},
    datasets::report_as,
    errors::Fault,
    progress,
};

pub async fn logs(verb: Logs) -> Result<ExitCode, Fault> {
    match verb {
        Logs::Simulate(args) => simulate(*args).await,
        Logs::Import(ImportLogs::Ubi(args)) => import_ubi(args).await,
    }
}

async fn simulate(args: SimulateArgs) -> Result<ExitCode, Fault> {
    let as_json = args.json;
    let options = options(args)?;
    let bar = progress::counted("events");
    let shown = bar.clone();
    let report = simulate::simulate(&options, move |done, total| {
        shown.set_length(total);
        shown.set_position(done);
    })
    .await;
    bar.finish_and_clear();
    let report = report?;
    report_as(as_json, &report, &report)
}

fn options(args: SimulateArgs) -> Result<SimulateOptions, Fault> {
    let mut settings = KafkaSettings::default();
    if let Some(path) = &args.kafka_config {
        settings.add_file(path)?;
    }
    for setting in &args.kafka {
        settings.add(setting)?;
    }
    let destination = match (args.out_lake, args.brokers) {
        (Some(lake), _) => Destination::Lake(lake),
        (None, Some(brokers)) => Destination::Kafka { brokers, topic: args.topic, settings },
        (None, None) => {
            let hint = "give `--out-lake LAKE`, or `--brokers HOST:PORT --topic TOPIC`";
            return Err(Fault::words("the events have no destination").hint(hint));
        }
    };
    let attractiveness = args.attractiveness.try_into().map_err(|given: Vec<f64>| {
        Fault::words(format!("{} probabilities were given for the five grades", given.len()))
            .hint("give one for each of 0 to 4")
    })?;
    Ok(SimulateOptions {
        seed: args.seed,
        queries: args.queries,
        documents: args.documents,
        users: args.users,
        candidates: args.candidates,
        events: args.events,
        results: args.results,
        from: args.from,
        days: args.days,
        click_model: match args.click_model {
            ClickModel::Pbm => simulate::ClickModel::Pbm,
            ClickModel::Cascade => simulate::ClickModel::Cascade,
        },
        examination: args.examination,
        attractiveness,
        exploration: args.exploration,
        top_k: args.top_k,
        zipf: args.zipf,
        rankers: args.rankers,
        arms: args.arms.into_iter().map(|(name, ranker)| SimulatedArm { name, ranker }).collect(),
        anonymous: args.anonymous,
        log_features: args.log_features,
        second_version: args.second_version,
        destination,
        features: args.features,
        overwrite: args.overwrite,
    })
}

async fn import_ubi(args: UbiArgs) -> Result<ExitCode, Fault> {
    let options = UbiOptions { inputs: args.inputs, lake: args.lake, keep_unknown: args.unknown == Unknown::Keep };
    let report = pipeline::ubi::import(&options).await?;
    report_as(args.json, &report, &report)
}
