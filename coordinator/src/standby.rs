//! Coordinators that stand in for one another. All have the same store in etcd; one leads, the others listen, name it to whoever asks, and
//! campaign. Whoever wins goes on exactly as a coordinator does that was started again.

use std::{net::SocketAddr, time::Duration};

use proto::v1::{runs_server::RunsServer, workers_server::WorkersServer};
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::transport::{Server, server::TcpIncoming};

use crate::{
    Config, Coordinator, Opened, StartError,
    bystander::Bystander,
    etcd::{
        Etcd, EtcdStore,
        leadership::{Candidate, Leadership, Resignation},
    },
    journal::{Journal, JournalError},
    listen,
    service::Front,
};

/// How long those who ask a bystander may take to hear that it leads now.
const CHANGE_WITHIN: Duration = Duration::from_secs(1);

/// Between two tries to read the journal.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// One that does not lead.
pub struct Standby {
    config: Config,
    /// The port is kept over all terms.
    listener: std::net::TcpListener,
    address: SocketAddr,
    etcd: Etcd,
    url: String,
    /// Of its last term, which must have ended before it leads again.
    former: Option<i64>,
}

impl Standby {
    /// Listens before it returns, and has heard from etcd. `url`: how workers and clients reach it when it leads, if not where it listens.
    pub async fn start(config: Config, store: EtcdStore, url: Option<String>) -> Result<Self, StartError> {
        config.deadlines.check()?;
        let failed = |source| StartError::Listen { address: config.listen, source };
        let listener = listen(config.listen).await?.into_std().map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let url = match url {
            Some(url) => url,
            None if address.ip().is_unspecified() => return Err(StartError::Unreachable(address)),
            None => format!("http://{address}"),
        };
        let etcd = Etcd::new(store).map_err(JournalError::from)?;
        // A wrong address is told at once; from now on etcd may come and go.
        etcd.get(&etcd.key("format")).await.map_err(JournalError::from)?;
        Ok(Self { config, listener, address, etcd, url, former: None })
    }

    /// Where it listens, with the port it got.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Until it leads, and has taken up what ran. An error: the store cannot be led with, whatever etcd says.
    pub async fn lead(mut self) -> Result<Coordinator, StartError> {
        loop {
            let leader = watch::Sender::new(None);
            let (close, closed) = oneshot::channel();
            let mut bystanders = JoinSet::new();
            bystanders.spawn(refuse(self.clone_listener()?, leader.subscribe(), closed).await);

            let ttl = self.config.deadlines.out_of_touch();
            let candidate = Candidate::new(self.etcd.clone(), self.url.clone(), ttl, self.former);
            let leadership = candidate.campaign(&leader).await;
            tracing::info!(url = %self.url, store = %self.etcd.store(), "coordinator leads");
            leader.send_replace(Some(self.url.clone()));
            let term = leadership.term.clone();
            let lead = Lead::new(self, leadership);
            let opened = loop {
                let (etcd, term) = (lead.standby.etcd.clone(), term.clone());
                let opening = tokio::task::spawn_blocking(move || Opened::new(Journal::lead(etcd, term)?, true));
                match opening.await.map_err(|error| StartError::StateFolder(std::io::Error::other(error)))? {
                    Err(JournalError::Etcd(error)) if lead.over().is_none() => {
                        tracing::warn!(%error, "the journal cannot be read, trying again");
                        sleep(READ_AGAIN_AFTER).await;
                    }
                    Err(JournalError::Etcd(_) | JournalError::Deposed(_)) => break None,
                    Err(error) => {
                        lead.resign().await;
                        return Err(error.into());
                    }
                    Ok(opened) => break Some(opened),
                }
            };
            let Some(opened) = opened else {
                self = lead.stand_by();
                continue;
            };
            // Connections to a bystander end, those who hold them connect again, and wait for the coordinator to take them.
            let _ = close.send(());
            let _ = timeout(CHANGE_WITHIN, bystanders.join_next()).await;
            bystanders.shutdown().await;
            let (config, address) = (lead.standby.config.clone(), lead.standby.address);
            let listener = lead.standby.clone_listener()?;
            return Coordinator::serve(config, listener, address, opened, None, Some(lead)).await;
        }
    }

    fn clone_listener(&self) -> Result<TcpListener, StartError> {
        let cloned = self.listener.try_clone().and_then(TcpListener::from_std);
        cloned.map_err(|source| StartError::Listen { address: self.address, source })
    }
}

/// Answers whatever is asked with who leads, until it is told to close.
async fn refuse(
    listener: TcpListener,
    leader: watch::Receiver<Option<String>>,
    closed: oneshot::Receiver<()>,
) -> impl Future<Output = ()> + Send + use<> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_not_serving::<RunsServer<Front>>().await;
    health.set_not_serving::<WorkersServer<Front>>().await;
    let server = Server::builder()
        .add_service(health_service)
        .add_service(Bystander::<RunsServer<Front>>::new(leader.clone()))
        .add_service(Bystander::<WorkersServer<Front>>::new(leader));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    async move {
        let until = async {
            let _ = closed.await;
        };
        if let Err(error) = server.serve_with_incoming_shutdown(incoming, until).await {
            tracing::error!(%error, "server ended");
        }
    }
}

/// What one that leads has beside all that coordinators have.
pub(crate) struct Lead {
    standby: Standby,
    term: crate::etcd::leadership::Term,
    resignation: Resignation,
    keeper: JoinSet<()>,
}

impl Lead {
    fn new(standby: Standby, leadership: Leadership) -> Self {
        let (term, resignation) = (leadership.term.clone(), leadership.resignation());
        let mut keeper = JoinSet::new();
        keeper.spawn(leadership.keep());
        Self { standby, term, resignation, keeper }
    }

    fn over(&self) -> Option<&str> {
        self.term.over()
    }

    /// Until it leads no more.
    pub async fn lost(&mut self) {
        while self.term.over().is_none() {
            if self.keeper.join_next().await.is_none() {
                self.term.end("nobody keeps the leadership up".into());
            }
        }
    }

    pub async fn resign(mut self) {
        self.keeper.shutdown().await;
        self.resignation.resign().await;
    }

    pub fn stand_by(self) -> Standby {
        Standby { former: Some(self.resignation.lease()), ..self.standby }
    }
}
