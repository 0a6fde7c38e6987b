//! Where a run comes from, as far as can be told here: who, on which machine, in which folder, of which commit.

use std::{process::Stdio, time::Duration};

use proto::v1;
use tokio::{process::Command, time::timeout};

/// Nobody waits long for a repository that is slow to look through.
const GIT_WITHIN: Duration = Duration::from_secs(2);

pub async fn here() -> v1::Origin {
    let user = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok()).unwrap_or_default();
    v1::Origin {
        lockstep: coordinator::tracking::about::version(),
        user,
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        folder: std::env::current_dir().map(|folder| folder.to_string_lossy().into_owned()).unwrap_or_default(),
        git_commit: git_commit().await.unwrap_or_default(),
    }
}

/// `None`: no repository here, or no git that says.
async fn git_commit() -> Option<String> {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]).stdin(Stdio::null()).kill_on_drop(true);
    let said = timeout(GIT_WITHIN, git.output()).await.ok()?.ok().filter(|output| output.status.success())?;
    let commit = String::from_utf8(said.stdout).ok()?.trim().to_owned();
    (!commit.is_empty()).then_some(commit)
}
