//! Where tasks without an owner of their own live: sessions, watchers, preparations. One that panics is logged, and whoever waits for
//! it learns by its closed channel; all of them end with the coordinator.

use std::{future::Future, pin::Pin};

use tokio::{sync::mpsc, task::JoinSet};

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Starts tasks; clones share it.
#[derive(Clone)]
pub struct Nursery(mpsc::Sender<Task>);

impl Nursery {
    /// All tasks end with the keeper.
    pub fn start(keeper: &mut JoinSet<()>) -> Self {
        let (sender, mut tasks) = mpsc::channel::<Task>(64);
        keeper.spawn(async move {
            let mut set = JoinSet::new();
            loop {
                tokio::select! {
                    task = tasks.recv() => match task {
                        Some(task) => drop(set.spawn(task)),
                        None => break,
                    },
                    Some(ended) = set.join_next() => {
                        if let Err(error) = ended && error.is_panic() {
                            tracing::error!(%error, "task panicked");
                        }
                    }
                }
            }
        });
        Self(sender)
    }

    /// `false`: too many are being started at this moment.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        self.0.try_send(Box::pin(task)).is_ok()
    }
}
