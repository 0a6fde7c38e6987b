//! Who leads: whoever made the leader key. Its create revision is the term, and each write is conditional on it, so that one who leads no
//! more cannot write, whether it knows or not. The lease behind the key only makes room for the next one when a leader falls silent; it
//! is a hint, and replaced where etcd lost it while the key still stands.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    Etcd, EtcdError, created_at, put, read,
    wire::{Compare, KeyValue, TxnRequest, TxnResponse, response_op::Response},
};

const LEADER: &str = "leader";

/// Confirmed, and looked for, so many times within the time that a leader may be out of touch.
const TRIES: u32 = 5;

/// How long a farewell may take.
const RESIGN_WITHIN: Duration = Duration::from_secs(2);

/// One coordinator's time as the leader; clones are of the same.
#[derive(Clone, Debug)]
pub struct Term {
    key: String,
    revision: i64,
    /// Why it is over.
    over: Arc<OnceLock<String>>,
}

impl Term {
    fn holds(&self) -> Compare {
        created_at(&self.key, self.revision)
    }

    /// A transaction that is carried out in this term alone; refused, it tells who leads.
    pub fn only(&self, success: Vec<super::wire::RequestOp>) -> TxnRequest {
        TxnRequest { compare: vec![self.holds()], success, failure: vec![read(self.key.as_str())] }
    }

    /// For good. The first reason counts.
    pub fn end(&self, why: String) {
        let _ = self.over.set(why);
    }

    /// Why it is over.
    pub fn over(&self) -> Option<&str> {
        self.over.get().map(String::as_str)
    }
}

/// Of a transaction that was refused: why this one leads no more.
pub fn why_refused(refused: TxnResponse) -> String {
    match key_in(refused) {
        Some(held) => format!("{} leads now", String::from_utf8_lossy(&held.value)),
        None => "its leader key is gone from etcd".into(),
    }
}

fn key_in(answer: TxnResponse) -> Option<KeyValue> {
    answer.responses.into_iter().find_map(|response| match response.response {
        Some(Response::ResponseRange(range)) => range.kvs.into_iter().next(),
        _ => None,
    })
}

/// Gives leadership up, whatever lease it hangs on by then.
#[derive(Clone)]
pub struct Resignation {
    etcd: Etcd,
    lease: Arc<AtomicI64>,
}

impl Resignation {
    /// The next one need not wait until the lease runs out.
    pub async fn resign(&self) {
        let lease = self.lease.load(Ordering::Relaxed);
        match timeout(RESIGN_WITHIN, self.etcd.revoke(lease)).await {
            Ok(Ok(())) => tracing::info!("leadership given up"),
            Ok(Err(error)) => tracing::info!(%error, "leadership runs out by itself"),
            Err(_) => tracing::info!("leadership runs out by itself: etcd does not answer"),
        }
    }

    pub fn lease(&self) -> i64 {
        self.lease.load(Ordering::Relaxed)
    }
}

/// Held as long as it is kept.
pub struct Leadership {
    etcd: Etcd,
    pub term: Term,
    lease: Arc<AtomicI64>,
    /// Whoever is out of touch for longer leads no more.
    ttl: Duration,
    url: String,
    confirmed: Instant,
}

impl Leadership {
    pub fn resignation(&self) -> Resignation {
        Resignation { etcd: self.etcd.clone(), lease: Arc::clone(&self.lease) }
    }

    /// Until the term is over.
    pub async fn keep(mut self) {
        let why = self.lost().await;
        self.term.end(why);
    }

    async fn lost(&mut self) -> String {
        let mut troubled = false;
        loop {
            sleep(self.ttl / TRIES).await;
            let asked = Instant::now();
            let left = self.ttl.saturating_sub(self.confirmed.elapsed());
            match timeout(left, self.confirm()).await {
                Ok(Ok(None)) => {
                    // etcd counts from a later moment than this.
                    self.confirmed = asked;
                    troubled = false;
                }
                Ok(Ok(Some(why))) => return why,
                Ok(Err(error)) if !std::mem::replace(&mut troubled, true) => {
                    tracing::warn!(%error, "leadership could not be confirmed, trying again");
                }
                Ok(Err(_)) | Err(_) => {}
            }
            if self.confirmed.elapsed() >= self.ttl {
                let seconds = self.ttl.as_secs_f64();
                return format!("it was out of touch with etcd for {seconds} s, and another may lead by now");
            }
        }
    }

    /// `None`: it still leads.
    async fn confirm(&self) -> Result<Option<String>, EtcdError> {
        if self.etcd.keep_alive(self.lease.load(Ordering::Relaxed)).await? {
            let answer = self.etcd.transact(self.term.only(Vec::new())).await?;
            return Ok((!answer.succeeded).then(|| why_refused(answer)));
        }
        let (lease, _) = self.etcd.grant(self.ttl).await?;
        // A key that is written again keeps its create revision.
        let renewed = self.term.only(vec![put(self.term.key.as_str(), self.url.as_str(), lease)]);
        let answer = self.etcd.transact(renewed).await?;
        if answer.succeeded {
            tracing::warn!("etcd has lost the lease, the leader key hangs on another now");
            self.lease.store(lease, Ordering::Relaxed);
            return Ok(None);
        }
        self.etcd.revoke(lease).await?;
        Ok(Some(why_refused(answer)))
    }
}

/// One who would lead.
pub struct Candidate {
    etcd: Etcd,
    key: String,
    url: String,
    ttl: Duration,
    /// Tried with these: an answer that was lost may have been a yes.
    leases: Vec<i64>,
    /// Of a former term of this very coordinator, whose last writes may be on their way: it must end first.
    former: Option<i64>,
}

enum Vote {
    For { lease: i64, revision: i64 },
    LedBy(String),
    Again,
}

impl Candidate {
    /// `url`: where it can be reached when it leads.
    pub fn new(etcd: Etcd, url: String, ttl: Duration, former: Option<i64>) -> Self {
        let key = etcd.key(LEADER);
        // A member that is silent must not use up the time that a leader has.
        let etcd = etcd.with_patience(ttl / TRIES);
        Self { etcd, key, url, ttl, leases: Vec::new(), former }
    }

    /// Until it leads. `leader` is told who does meanwhile. Asked again and again rather than watched for: a watch that is cut off,
    /// compacted or silent would need that beside it.
    pub async fn campaign(mut self, leader: &watch::Sender<Option<String>>) -> Leadership {
        let mut troubled = false;
        loop {
            let asked = Instant::now();
            match self.stand().await {
                Ok(Vote::For { lease, revision }) => {
                    let term = Term { key: self.key, revision, over: Arc::default() };
                    let lease = Arc::new(AtomicI64::new(lease));
                    return Leadership { etcd: self.etcd, term, lease, ttl: self.ttl, url: self.url, confirmed: asked };
                }
                Ok(Vote::LedBy(url)) => {
                    troubled = false;
                    leader.send_if_modified(|known| {
                        let news = known.as_ref() != Some(&url);
                        if news {
                            tracing::info!(leader = %url, "standing by");
                            *known = Some(url);
                        }
                        news
                    });
                }
                Ok(Vote::Again) => continue,
                Err(error) => {
                    leader.send_replace(None);
                    if !std::mem::replace(&mut troubled, true) {
                        tracing::warn!(%error, "etcd cannot be asked who leads, trying again");
                    }
                }
            }
            sleep(self.ttl / TRIES / 2).await;
        }
    }

    async fn stand(&mut self) -> Result<Vote, EtcdError> {
        let held = match self.etcd.get(&self.key).await? {
            Some(held) => held,
            None => {
                let (lease, _) = self.etcd.grant(self.ttl).await?;
                self.leases.push(lease);
                let request = TxnRequest {
                    compare: vec![created_at(&self.key, 0)],
                    success: vec![put(self.key.as_str(), self.url.as_str(), lease)],
                    failure: vec![read(self.key.as_str())],
                };
                let answer = self.etcd.transact(request).await?;
                if answer.succeeded {
                    let revision = answer.header.map_or(0, |header| header.revision);
                    return Ok(Vote::For { lease, revision });
                }
                match key_in(answer) {
                    Some(held) => held,
                    None => return Ok(Vote::Again),
                }
            }
        };
        if self.leases.contains(&held.lease) {
            return Ok(Vote::For { lease: held.lease, revision: held.create_revision });
        }
        for lease in std::mem::take(&mut self.leases) {
            // It runs out by itself otherwise.
            let _ = self.etcd.revoke(lease).await;
        }
        if self.former == Some(held.lease) {
            self.etcd.revoke(held.lease).await?;
            return Ok(Vote::Again);
        }
        Ok(Vote::LedBy(String::from_utf8_lossy(&held.value).into_owned()))
    }
}
