//! Work on the checkpoint folders, one thing after the other, off the driver's thread. Its queue is bounded and never waited for: the
//! driver may be waited for by the archive, so the other way round would be a knot.

use std::sync::Arc;

use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    checkpoints::{Claim, publish},
    inbox::{Call, Inbox},
};

const QUEUE: usize = 64;

enum Job {
    Publish(Box<publish::Job>),
    RemoveStaging(Arc<Claim>),
}

pub struct Archive(mpsc::Sender<Job>);

impl Archive {
    /// Works off what is queued even after the last sender is gone; `keeper` tells when it is done.
    pub fn start(keeper: &mut JoinSet<()>, inbox: Inbox) -> Self {
        let (sender, mut jobs) = mpsc::channel(QUEUE);
        keeper.spawn(async move {
            while let Some(job) = jobs.recv().await {
                match job {
                    Job::Publish(job) => {
                        let (run, staged) = (job.run.clone(), job.staged.path.clone());
                        let done = tokio::task::spawn_blocking(move || publish::publish(&job)).await;
                        let outcome = done.unwrap_or_else(|_| Err("publishing broke off".into()));
                        inbox.tell(Call::Published { run, staged, outcome }).await;
                    }
                    Job::RemoveStaging(claim) => {
                        let removed = tokio::task::spawn_blocking(move || claim.remove_staging()).await;
                        if let Ok(Err(error)) = removed {
                            tracing::warn!(%error, "staging folder cannot be removed");
                        }
                    }
                }
            }
        });
        Self(sender)
    }

    /// `false`: too many wait.
    pub fn publish(&self, job: publish::Job) -> bool {
        self.0.try_send(Job::Publish(Box::new(job))).is_ok()
    }

    pub fn remove_staging(&self, claim: Arc<Claim>) {
        if self.0.try_send(Job::RemoveStaging(claim)).is_err() {
            tracing::warn!("staging folder is left behind: too many wait to be removed");
        }
    }
}
