//! The verbs about human judgments: arguments become the pipeline's options, its reports become lines.

use std::{env, fmt::Write as _, fs, path::Path, process::ExitCode};

use pipeline::judge::{
    AggregateOptions, Created, Files, LabelStudio, Method, Patience, Platform, Pulled, RatingTask, RatingsWriter,
    Token, read_pairs,
};

use crate::{
    args::{AggregateArgs, CreateArgs, Judge, JudgeMethod, PlatformArgs, PullArgs},
    datasets::report_as,
    errors::Fault,
    words,
};

/// Where a token is looked for unless a file is named.
const TOKEN: &str = "LOCKSTEP_LABEL_STUDIO_TOKEN";

pub async fn judge(judge: Judge) -> Result<ExitCode, Fault> {
    match judge {
        Judge::Create(args) => create(args).await,
        Judge::Pull(args) => pull(args).await,
        Judge::Aggregate(args) => aggregate(args),
    }
}

async fn create(args: CreateArgs) -> Result<ExitCode, Fault> {
    let files = Files { out: args.out.unwrap_or_default(), overwrite: args.overwrite };
    let platform = platform(&args.platform, files)?;
    let task = RatingTask {
        title: args.title,
        instructions: instructions(args.instructions)?,
        raters: args.raters,
        pairs: read_pairs(&args.pairs)?,
    };
    let created = platform.create(&task).await?;
    let Created { task: id, pairs, queries, place } = &created;
    let queries = if *queries == 1 { "1 query".to_owned() } else { format!("{} queries", words::count(*queries)) };
    let raters = words::counted(args.raters.into(), "rater");
    let lines = format!("task    {id}\npairs   {} of {queries}, {raters} each\nrate    {place}", words::count(*pairs));
    report_as(args.json, &created, &lines)
}

async fn pull(args: PullArgs) -> Result<ExitCode, Fault> {
    let platform = platform(&args.platform, Files::default())?;
    let mut into = RatingsWriter::create(&args.out, args.overwrite)?;
    let pulled = platform.pull(&args.task, &mut into).await?;
    into.commit()?;
    report_as(args.json, &pulled, &spell_pulled(&pulled, &args.out))
}

fn spell_pulled(pulled: &Pulled, out: &Path) -> String {
    let mut lines = format!(
        "ratings     {} by {}\npairs       {}, {} without a rating\nskipped     {}\n",
        words::count(pulled.ratings),
        words::counted(pulled.raters, "rater"),
        words::count(pulled.pairs),
        words::count(pulled.unrated),
        words::count(pulled.skipped),
    );
    if pulled.unreadable > 0 {
        let _ = writeln!(lines, "unreadable  {}, such as", words::count(pulled.unreadable));
        for place in &pulled.unreadable_at {
            let _ = writeln!(lines, "            {place}");
        }
    }
    lines + &format!("wrote       {}", out.display())
}

fn aggregate(args: AggregateArgs) -> Result<ExitCode, Fault> {
    let report = pipeline::judge::aggregate(&AggregateOptions {
        ratings: args.ratings,
        method: match args.method {
            JudgeMethod::Majority => Method::Majority,
            JudgeMethod::DawidSkene => Method::DawidSkene,
        },
        min_agreement: args.min_agreement,
        min_raters: args.min_raters,
        out: args.out,
        overwrite: args.overwrite,
    })?;
    report_as(args.json, &report, &report)
}

/// The server, or files.
fn platform(args: &PlatformArgs, files: Files) -> Result<Box<dyn Platform>, Fault> {
    let Some(address) = &args.platform else { return Ok(Box::new(files)) };
    let token = match &args.token_file {
        Some(path) => fs::read_to_string(path)
            .map_err(|error| Fault::words(format!("cannot read the token in `{}`", path.display())).because(&error))?,
        None => env::var(TOKEN).map_err(|_| {
            Fault::words("Label Studio wants an access token").hint(format!(
                "set {TOKEN} to one of Label Studio's account page, or name a file that holds it by --token-file"
            ))
        })?,
    };
    Ok(Box::new(LabelStudio::new(address, Token::new(&token)?, Patience::default())?))
}

/// The words, or those of the file that they name.
fn instructions(words: String) -> Result<String, Fault> {
    let path = Path::new(&words);
    if !path.extension().is_some_and(|extension| extension == "txt" || extension == "md") {
        return Ok(words);
    }
    fs::read_to_string(path)
        .map(|text| text.trim_end().to_owned())
        .map_err(|error| Fault::words(format!("cannot read the instructions in `{words}`")).because(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_words_unless_they_are_the_name_of_a_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("how.md");
        fs::write(&path, "Judge well.\n").unwrap();
        assert_eq!(instructions(path.display().to_string()).unwrap(), "Judge well.");
        assert_eq!(instructions("Judge well.".into()).unwrap(), "Judge well.");
        assert!(instructions("nowhere.md".into()).unwrap_err().message().contains("nowhere.md"));
    }

    #[test]
    fn what_could_not_be_read_is_shown() {
        let pulled = Pulled {
            ratings: 1200,
            raters: 1,
            unreadable: 1,
            unreadable_at: vec!["annotation 8 of task 1: `great` is no grade".into()],
            ..Pulled::default()
        };
        let lines = spell_pulled(&pulled, Path::new("r.jsonl"));
        assert!(lines.starts_with("ratings     1,200 by 1 rater\n"), "{lines}");
        assert!(lines.contains("annotation 8 of task 1"), "{lines}");
    }
}
