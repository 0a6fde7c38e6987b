//! `prepare` and `engine`: arguments become the pipeline's options, its reports become lines.

use std::{
    collections::BTreeMap, fs, io::IsTerminal as _, num::NonZeroUsize, process::ExitCode, thread, time::Duration,
};

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};
use pipeline::{
    engine::{self, Engine, EngineOptions, ExecutorOptions, SchedulerOptions},
    prepare::{self, DEFAULT_FEATURES, JoinChoice, Key, LogRange, Missing, PrepareOptions, SplitBy, Stage, TimePart},
    split::Parts,
};
use ranking::{
    events::Timestamp,
    labels::{LabelKind, LabelOptions},
    propensity::{PropensityTable, WeightKind, Weighting},
};

use crate::{
    args::{EngineVerb, ExecutorArgs, JoinWord, LabelWord, MissingWord, PrepareArgs, WeightWord},
    datasets,
    errors::Fault,
    print,
};

pub fn prepare(args: PrepareArgs) -> Result<ExitCode, Fault> {
    let unweighted = args.weights == WeightWord::None;
    let of_weights = [
        ("--clip", args.clip.is_some()),
        ("--self-normalize", args.self_normalize),
        ("--logged-propensities", args.logged_propensities),
        ("--propensities", args.propensities.is_some()),
    ];
    if let Some((option, _)) = of_weights.into_iter().find(|(_, given)| unweighted && *given) {
        return Err(Fault::words(format!("{option} does nothing without weights"))
            .hint("say --weights ipw-clicks or --weights ipw too, or leave it out"));
    }
    let tables = [
        (Key::Query, args.query_features),
        (Key::User, args.user_features),
        (Key::Document, args.document_features),
        (Key::Pair, args.pair_features),
    ];
    let options = PrepareOptions {
        logs: args.logs.zip(args.from.zip(args.to)).map(|(lake, (from, to))| LogRange { lake, dates: from..=to }),
        judgments: args.judgments,
        tables: tables.into_iter().filter_map(|(key, table)| Some((key, table?))).collect::<BTreeMap<_, _>>(),
        features: args.features.unwrap_or_else(|| DEFAULT_FEATURES.map(str::to_owned).to_vec()),
        labels: LabelOptions {
            kind: match args.labels {
                LabelWord::Binary => LabelKind::Binary,
                LabelWord::Graded => LabelKind::Graded,
                LabelWord::Weighted => LabelKind::Weighted,
            },
            dwell_threshold: args.dwell_threshold,
            click_weight: args.click_weight,
            dwell_weight: args.dwell_weight,
            cart_weight: args.cart_weight,
            purchase_weight: args.purchase_weight,
        },
        weighting: Weighting {
            kind: match args.weights {
                WeightWord::None => WeightKind::None,
                WeightWord::Ipw => WeightKind::Ipw,
                WeightWord::IpwClicks => WeightKind::IpwClicks,
            },
            clip: args.clip,
            self_normalize: args.self_normalize,
            logged: args.logged_propensities,
        },
        propensities: propensities(args.propensities.as_deref().unwrap_or("reference"))?,
        missing: match args.missing {
            MissingWord::Error => Missing::Error,
            MissingWord::Zero => Missing::Zero,
            MissingWord::Mean => Missing::Mean,
            MissingWord::Drop => Missing::Drop,
        },
        split: match &args.split {
            Some(how) => split(how, args.split_seed)?,
            None => SplitBy::Nothing,
        },
        joins: match args.joins {
            JoinWord::Auto => JoinChoice::Auto,
            JoinWord::Streamed => JoinChoice::Streamed,
            JoinWord::Sorted => JoinChoice::Sorted,
        },
        output: datasets::output(&args.output),
        engine: EngineOptions {
            engine: args.engine,
            threads: args.threads.unwrap_or_else(cores),
            memory: bytes(args.memory) as usize,
            spill: args.spill,
        },
    };
    let spinner = spinner();
    let report = prepare::prepare(&options, &|stage| {
        spinner.set_message(match stage {
            Stage::Opening => "reading footers",
            Stage::Checking => "checking keys and repetitions",
            Stage::Averaging => "averaging",
            Stage::Writing => "joining and writing",
        });
    });
    spinner.finish_and_clear();
    let report = report?;
    datasets::report_as(args.output.json, &report, &prepare::render(&report).trim_end())
}

pub async fn engine(verb: EngineVerb) -> Result<ExitCode, Fault> {
    match verb {
        EngineVerb::Scheduler(args) => {
            let options = SchedulerOptions { listen: args.listen };
            engine::scheduler(&options, |address| print::line(format!("scheduler at ballista://{address}"))).await?;
        }
        EngineVerb::Executor(ExecutorArgs { scheduler, listen, advertise, slots, memory, work }) => {
            let Engine::Ballista(url) = scheduler else {
                return Err(
                    Fault::words("an executor needs a scheduler").hint("write --scheduler ballista://host:port")
                );
            };
            let address = url.trim_start_matches("ballista://").trim_end_matches('/');
            let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
            let port = port.parse().map_err(|_| Fault::words(format!("`{url}` has no port")))?;
            let options = ExecutorOptions {
                scheduler: (host.to_owned(), port),
                listen,
                advertise,
                slots: slots.unwrap_or_else(cores),
                memory: bytes(memory),
                work,
            };
            engine::executor(&options, |address| print::line(format!("executor at {address}"))).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn propensities(word: &str) -> Result<PropensityTable, Fault> {
    match word {
        "reference" => Ok(PropensityTable::reference()),
        "reference-rounded" => Ok(PropensityTable::reference_rounded()),
        path => {
            let bytes = fs::read(path).map_err(|error| {
                Fault::words(format!("cannot read the propensities `{path}`"))
                    .because(&error)
                    .hint("name a file of `lockstep propensity estimate`, or say `reference`")
            })?;
            PropensityTable::from_json(&bytes)
                .map_err(|error| Fault::words(format!("`{path}`: {error}")).hint(error.hint().unwrap_or_default()))
        }
    }
}

/// `query:train=0.8,validation=0.2` or `time:train,validation=2026-01-21`
fn split(how: &str, seed: u64) -> Result<SplitBy, Fault> {
    let hint = "write query:train=0.8,validation=0.2, or time:train,validation=2026-01-21";
    match how.split_once(':') {
        Some(("query", parts)) => Ok(SplitBy::Query { parts: parts.parse::<Parts>()?, seed }),
        Some(("time", parts)) => {
            let part = |text: &str| match text.split_once('=') {
                None => Ok(TimePart::new(text.trim(), None)),
                Some((name, from)) => {
                    let from = from.trim();
                    let from = if from.len() == 10 { format!("{from}T00:00:00Z") } else { from.to_owned() };
                    let from: Timestamp =
                        from.parse().map_err(|error| Fault::words(format!("--split: {error}")).hint(hint))?;
                    Ok(TimePart::new(name.trim(), Some(from)))
                }
            };
            Ok(SplitBy::Time(parts.split(',').map(part).collect::<Result<_, Fault>>()?))
        }
        _ => Err(Fault::words(format!("`{how}` is no way to split")).hint(hint)),
    }
}

fn cores() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

fn bytes(given: Option<ByteSize>) -> u64 {
    given.map_or_else(|| rustix::system::sysinfo().totalram as u64 / 2, |bytes| bytes.as_u64())
}

/// On a terminal; elsewhere nothing is drawn.
fn spinner() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
    spinner.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    spinner.enable_steady_tick(Duration::from_millis(120));
    spinner
}
