//! The servers that runs are told to: one client each, and a queue of its own, so that one that hangs holds up its own runs alone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Semaphore;

use super::{Credentials, Mlflow, Trouble};

/// Couriers that may be at work at a server at a time; the others wait for them.
pub const AT_WORK: usize = 32;

#[derive(Clone)]
pub struct Server {
    pub mlflow: Mlflow,
    pub at_work: Arc<Semaphore>,
}

/// Clones share them.
#[derive(Clone)]
pub struct Servers {
    credentials: Credentials,
    by_url: Arc<Mutex<HashMap<String, Server>>>,
}

impl Servers {
    pub fn new(credentials: Credentials) -> Self {
        Self { credentials, by_url: Arc::default() }
    }

    pub fn at(&self, url: &str) -> Result<Server, Trouble> {
        let mut by_url = self.by_url.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = by_url.get(url) {
            return Ok(server.clone());
        }
        let mlflow = Mlflow::new(url, self.credentials.clone())?;
        let server = Server { mlflow, at_work: Arc::new(Semaphore::new(AT_WORK)) };
        by_url.insert(url.to_owned(), server.clone());
        Ok(server)
    }
}
