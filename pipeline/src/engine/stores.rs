//! Stores by URL, opened when a plan first names them: executors learn of a bucket only from the plan.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreRegistry;
use object_store::ObjectStore;
use url::Url;

use crate::store::Store;

#[derive(Debug, Default)]
pub struct Stores {
    opened: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
}

fn root(url: &Url) -> String {
    format!("{}://{}", url.scheme(), url.host_str().unwrap_or("/"))
}

impl ObjectStoreRegistry for Stores {
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).insert(root(url), store)
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        let root = root(url);
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = opened.get(&root) {
            return Ok(store.clone());
        }
        let store = Store::open(&root).map_err(|error| DataFusionError::External(Box::new(error)))?.object_store();
        opened.insert(root, store.clone());
        Ok(store)
    }
}
