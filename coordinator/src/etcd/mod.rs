//! Talking to etcd: where it is, one request at a time over its members, and who leads ([`leadership`]). What is kept there is the
//! journal's business.

pub mod leadership;
mod store;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::timeout;
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};

use wire::{
    Compare, DeleteRangeRequest, KeyValue, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, PutRequest,
    RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse, compare, kv_client::KvClient,
    lease_client::LeaseClient, request_op,
};

pub use store::EtcdStore;

/// Generated from `proto/etcd.proto`.
#[allow(clippy::all, clippy::large_futures, clippy::allow_attributes_without_reason, reason = "generated code")]
pub mod wire {
    tonic::include_proto!("etcdserverpb");
}

/// A member that says nothing for so long is passed over for the next, unless somebody has less patience.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
const CONNECTS_WITHIN: Duration = Duration::from_secs(1);

/// Answers may hold many records.
const ANSWER_AT_MOST: usize = 256 << 20;

/// What etcd said, or that it did not.
#[derive(Clone, Debug, thiserror::Error)]
#[error("etcd at {endpoints}: {words}")]
pub struct EtcdError {
    endpoints: String,
    words: String,
}

impl EtcdError {
    pub fn hint(&self) -> &'static str {
        if self.words.contains("database space exceeded") {
            "its database is full: compact and defragment it (`etcdctl compact`, `etcdctl defrag`, `etcdctl alarm disarm`), or raise \
             --quota-backend-bytes"
        } else {
            "check that it runs and can be reached (`etcdctl endpoint health`)"
        }
    }
}

/// A client; clones share the connections.
#[derive(Clone)]
pub struct Etcd {
    store: EtcdStore,
    members: Arc<Vec<Channel>>,
    /// The member that answered last is asked first.
    first: Arc<AtomicUsize>,
    patience: Duration,
}

impl Etcd {
    /// Nothing is sent yet. To be called inside a runtime.
    pub fn new(store: EtcdStore) -> Result<Self, EtcdError> {
        let member = |endpoint: &String| {
            let endpoint = Endpoint::from_shared(format!("http://{endpoint}"))?
                .connect_timeout(CONNECTS_WITHIN)
                .tcp_nodelay(true)
                // etcd hangs up on those who ask more often than every 5 s.
                .http2_keep_alive_interval(Duration::from_secs(10))
                .keep_alive_timeout(Duration::from_secs(5));
            Ok(endpoint.connect_lazy())
        };
        let members: Result<Vec<_>, tonic::transport::Error> = store.endpoints().iter().map(member).collect();
        match members {
            Ok(members) => {
                Ok(Self { store, members: Arc::new(members), first: Arc::default(), patience: ANSWERS_WITHIN })
            }
            Err(error) => Err(EtcdError { endpoints: store.endpoints().join(","), words: error.to_string() }),
        }
    }

    /// The same, but a member that says nothing for so long is passed over.
    pub fn with_patience(&self, patience: Duration) -> Self {
        Self { patience, ..self.clone() }
    }

    pub fn store(&self) -> &EtcdStore {
        &self.store
    }

    /// A key of this store.
    pub fn key(&self, below: &str) -> String {
        format!("{}/{below}", self.store.name())
    }

    pub async fn get(&self, key: &str) -> Result<Option<KeyValue>, EtcdError> {
        let range = self.range(key.into(), Vec::new(), 1).await?;
        Ok(range.kvs.into_iter().next())
    }

    /// At most `limit` keys of [from, to), in their order.
    pub async fn range(&self, from: Vec<u8>, to: Vec<u8>, limit: i64) -> Result<RangeResponse, EtcdError> {
        let request = RangeRequest { key: from, range_end: to, limit };
        self.ask(|member| {
            let request = request.clone();
            async move { KvClient::new(member).max_decoding_message_size(ANSWER_AT_MOST).range(request).await }
        })
        .await
    }

    /// May have been carried out although it fails: what is sent must bear being sent again.
    pub async fn transact(&self, transaction: TxnRequest) -> Result<TxnResponse, EtcdError> {
        self.ask(|member| {
            let transaction = transaction.clone();
            async move { KvClient::new(member).max_decoding_message_size(ANSWER_AT_MOST).txn(transaction).await }
        })
        .await
    }

    /// A lease's id, and its time to live.
    async fn grant(&self, ttl: Duration) -> Result<(i64, Duration), EtcdError> {
        let ttl = i64::try_from(ttl.as_secs_f64().ceil() as u64).unwrap_or(i64::MAX);
        let granted =
            self.ask(|member| async move { LeaseClient::new(member).lease_grant(LeaseGrantRequest { ttl }).await });
        let granted = granted.await?;
        Ok((granted.id, Duration::from_secs(u64::try_from(granted.ttl).unwrap_or_default())))
    }

    /// The keys that hang on the lease go with it.
    async fn revoke(&self, id: i64) -> Result<(), EtcdError> {
        self.ask(|member| async move { LeaseClient::new(member).lease_revoke(LeaseRevokeRequest { id }).await })
            .await?;
        Ok(())
    }

    /// `false`: there is no such lease any more.
    async fn keep_alive(&self, id: i64) -> Result<bool, EtcdError> {
        // A stream may fail for good and say nothing, so that none is kept.
        let kept = self.ask(|member| async move {
            let requests = tokio_stream::once(LeaseKeepAliveRequest { id });
            let mut answers = LeaseClient::new(member).lease_keep_alive(requests).await?.into_inner();
            match answers.message().await? {
                Some(answer) => Ok(Response::new(answer)),
                None => Err(Status::unavailable("it ended the stream of keep-alives")),
            }
        });
        Ok(kept.await?.ttl > 0)
    }

    /// Asks one member after the other, until one answers.
    async fn ask<T, F>(&self, request: impl Fn(Channel) -> F) -> Result<T, EtcdError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let first = self.first.load(Ordering::Relaxed);
        let mut words = String::new();
        for turn in 0..self.members.len() {
            let member = (first + turn) % self.members.len();
            words = match timeout(self.patience, request(self.members[member].clone())).await {
                Ok(Ok(answer)) => {
                    self.first.store(member, Ordering::Relaxed);
                    return Ok(answer.into_inner());
                }
                Ok(Err(status)) => {
                    let words = in_words(&status);
                    if !is_away(&status) {
                        return Err(self.error(words));
                    }
                    words
                }
                Err(_) => format!("no answer within {} s", self.patience.as_secs_f64()),
            };
        }
        Err(self.error(words))
    }

    pub fn error(&self, words: impl Into<String>) -> EtcdError {
        EtcdError { endpoints: self.store.endpoints().join(","), words: words.into() }
    }
}

/// Another member may know better.
fn is_away(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::DeadlineExceeded | Code::Cancelled | Code::Internal
    )
}

/// With what lies at the bottom of it: "transport error" says little.
fn in_words(status: &Status) -> String {
    let mut words = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let cause_words = cause.to_string();
        if !words.contains(&cause_words) {
            words = format!("{words}: {cause_words}");
        }
        source = cause.source();
    }
    words
}

/// That a key is of this create revision; 0: that there is none.
pub fn created_at(key: &str, revision: i64) -> Compare {
    Compare {
        result: compare::CompareResult::Equal.into(),
        target: compare::CompareTarget::Create.into(),
        key: key.into(),
        target_union: Some(compare::TargetUnion::CreateRevision(revision)),
    }
}

pub fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>, lease: i64) -> RequestOp {
    let put = PutRequest { key: key.into(), value: value.into(), lease };
    RequestOp { request: Some(request_op::Request::RequestPut(put)) }
}

pub fn read(key: impl Into<Vec<u8>>) -> RequestOp {
    let range = RangeRequest { key: key.into(), ..RangeRequest::default() };
    RequestOp { request: Some(request_op::Request::RequestRange(range)) }
}

/// Keys of [from, to); without an end the key alone.
pub fn delete(from: impl Into<Vec<u8>>, to: impl Into<Vec<u8>>) -> RequestOp {
    let delete = DeleteRangeRequest { key: from.into(), range_end: to.into() };
    RequestOp { request: Some(request_op::Request::RequestDeleteRange(delete)) }
}
