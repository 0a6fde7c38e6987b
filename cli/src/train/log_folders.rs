//! Where the workers of a launch log.

use std::{
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::errors::Fault;

/// Launches whose logs are kept, this one among them.
const LAUNCHES_KEPT: usize = 20;

/// One folder a launch, so that the logs of earlier ones stay readable; only the newest of them are kept.
pub fn log_folder(state: &Path, name: &str) -> Result<PathBuf, Fault> {
    let logs = state.join("logs");
    forget_old_logs(&logs);
    loop {
        let time = humantime::format_rfc3339_micros(SystemTime::now()).to_string().replace(':', "");
        let folder = logs.join(format!("{name}-{time}"));
        match std::fs::create_dir_all(&logs).and_then(|()| std::fs::create_dir(&folder)) {
            Ok(()) => return Ok(folder),
            // The clock was set back.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
            Err(error) => {
                return Err(Fault::run(format!("cannot make the folder `{}`", folder.display()))
                    .because(&error)
                    .hint("name a folder that can be written to with `--state DIR`"));
            }
        }
    }
}

/// Makes room for one more. The state folder is ours alone, so no launch that still runs writes there.
fn forget_old_logs(logs: &Path) {
    let Ok(entries) = std::fs::read_dir(logs) else { return };
    let ours = entries.flatten().filter_map(|entry| Some((launched(entry.file_name().to_str()?)?, entry.path())));
    let mut ours: Vec<(String, PathBuf)> = ours.collect();
    ours.sort();
    let many = (ours.len() + 1).saturating_sub(LAUNCHES_KEPT);
    for (_, folder) in ours.drain(..many) {
        if let Err(error) = std::fs::remove_dir_all(&folder) {
            tracing::warn!(folder = %folder.display(), %error, "old logs stay");
        }
    }
}

/// The time in the name of a log folder; nothing else is ever removed.
fn launched(folder: &str) -> Option<String> {
    let (rest, clock) = folder.rsplit_once('T')?;
    let day = rest.get(rest.len().checked_sub("-2026-11-24".len())?..)?;
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit() || c == '-' || c == '.');
    let clock = clock.strip_suffix('Z').filter(|clock| clock.len() >= 6)?;
    (day.starts_with('-') && digits(day) && digits(clock)).then(|| format!("{day}T{clock}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_log_folders_are_kept_and_nothing_else_is_touched() {
        let state = tempfile::tempdir().unwrap();
        let logs = state.path().join("logs");
        std::fs::create_dir_all(logs.join("my-Things")).unwrap();
        std::fs::create_dir_all(logs.join("z-2020-01-01T000000Z")).unwrap();
        let made: Vec<_> = (0..LAUNCHES_KEPT + 3).map(|_| log_folder(state.path(), "run").unwrap()).collect();
        let left = |made: &[PathBuf]| made.iter().filter(|folder| folder.is_dir()).count();
        assert_eq!((left(&made), left(&made[..3])), (LAUNCHES_KEPT, 0));
        assert!(logs.join("my-Things").is_dir() && !logs.join("z-2020-01-01T000000Z").exists());
    }
}
