//! Talking to a coordinator: finding the one that leads, asking it, and turning what it refuses into a [`Fault`].

use std::{collections::VecDeque, time::Duration};

use proto::{
    addresses::{coordinators, leader_of},
    v1::{ListWorkersRequest, RunEvent, WatchRequest, runs_client::RunsClient, workers_client::WorkersClient},
};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{errors::Fault, print};

/// A person who asks does not wait longer for nobody.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// How long a watcher waits for a coordinator that went away to come back.
const RETURN_WITHIN: Duration = Duration::from_secs(60);
const TRY_EVERY: Duration = Duration::from_millis(500);

/// Clients of one coordinator; clones share the connection.
#[derive(Clone)]
pub struct Client {
    /// Where else one may lead, should this one not be there any more.
    addresses: Vec<String>,
    url: String,
    health: HealthClient<Channel>,
    pub runs: RunsClient<Channel>,
    pub workers: WorkersClient<Channel>,
}

impl Client {
    /// To the one that leads of the coordinators at these addresses, separated by commas.
    pub async fn connect(addresses: &str) -> Result<Self, Fault> {
        Self::find(&coordinators(addresses).map_err(|error| {
            Fault::words(error.to_string())
                .hint("write `--coordinator http://127.0.0.1:7070` (several: separated by commas), or set LOCKSTEP_COORDINATOR")
        })?)
        .await
    }

    /// Asks each in turn; one that stands by knows who leads.
    async fn find(addresses: &[String]) -> Result<Self, Fault> {
        let mut left: VecDeque<String> = addresses.iter().cloned().collect();
        let mut asked: Vec<String> = Vec::new();
        let (mut standby, mut absent) = (None, None);
        while let Some(url) = left.pop_front() {
            if asked.contains(&url) {
                continue;
            }
            asked.push(url.clone());
            match Self::at(&url, addresses).await {
                Err(fault) => drop(absent.get_or_insert(fault)),
                Ok(mut client) => match client.refused_as_standby().await {
                    None => return Ok(client),
                    Some(status) => {
                        if let Some(leader) = leader_of(&status) {
                            left.push_front(leader);
                        }
                        standby = Some(client.fault(&status));
                    }
                },
            }
        }
        Err(standby.or(absent).unwrap_or_else(|| Fault::words("no address of a coordinator is given")))
    }

    async fn at(url: &str, addresses: &[String]) -> Result<Self, Fault> {
        let url = url.to_owned();
        let nobody = || {
            Fault::run(format!("no coordinator answers at {url}"))
                .hint("start one with `lockstep coordinator`, or name another with `--coordinator URL` (LOCKSTEP_COORDINATOR)")
        };
        let endpoint = Endpoint::from_shared(url.clone()).map_err(|error| nobody().because(&error))?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_WITHIN)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10));
        let channel = match timeout(CONNECT_WITHIN, endpoint.connect()).await {
            Ok(connected) => connected.map_err(|error| nobody().because(&error))?,
            Err(_) => return Err(nobody().caused_by(format!("nothing within {} s", CONNECT_WITHIN.as_secs()))),
        };
        // A run's document and its curves may be long.
        let room = 256 << 20;
        Ok(Self {
            addresses: addresses.to_vec(),
            url,
            health: HealthClient::new(channel.clone()),
            runs: RunsClient::new(channel.clone()).max_decoding_message_size(room),
            workers: WorkersClient::new(channel).max_decoding_message_size(room),
        })
    }

    /// Its words, if this one does not lead. Whoever does not say is asked what is to be asked.
    async fn refused_as_standby(&mut self) -> Option<Status> {
        let request = HealthCheckRequest { service: "lockstep.v1.Runs".into() };
        let health = timeout(CONNECT_WITHIN, self.health.check(request)).await.ok()?.ok()?;
        if health.into_inner().status() != ServingStatus::NotServing {
            return None;
        }
        timeout(CONNECT_WITHIN, self.workers.list(ListWorkersRequest {})).await.ok()?.err()
    }

    /// What a status says, as the coordinator meant it.
    pub fn fault(&self, status: &Status) -> Fault {
        if is_absence(status) && status.metadata().is_empty() {
            return Fault::run(format!("the coordinator at {} went away", self.url))
                .because(status)
                .hint("look at its log; it continues where it was when it is started again");
        }
        Fault::from(coordinator::failure_of(status))
    }

    /// The run's events from its first on, surviving a coordinator that is restarted meanwhile.
    pub async fn watch(&self, run_id: &str) -> Result<Events, Fault> {
        let mut events = Events {
            client: self.clone(),
            run_id: run_id.to_owned(),
            after_sequence: 0,
            stream: None,
            trouble: None,
            ended: false,
        };
        events.stream = Some(events.open().await.map_err(|status| self.fault(&status))?);
        Ok(events)
    }
}

/// The coordinator is not there, rather than unwilling.
fn is_absence(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded)
}

/// A run's events, each once and in order.
pub struct Events {
    client: Client,
    run_id: String,
    after_sequence: u64,
    stream: Option<Streaming<RunEvent>>,
    trouble: Option<Trouble>,
    ended: bool,
}

/// There is no stream, and opening one fails.
struct Trouble {
    since: Instant,
    first: Status,
    next_try: Instant,
    /// The person has been told.
    said: bool,
}

impl Events {
    async fn open(&mut self) -> Result<Streaming<RunEvent>, Status> {
        let request = WatchRequest { run_id: self.run_id.clone(), after_sequence: self.after_sequence };
        Ok(self.client.runs.watch(request).await?.into_inner())
    }

    /// The next event; none after the one that ends the run. Safe to drop while it waits: all it knows is in `self`.
    pub async fn next(&mut self) -> Result<Option<RunEvent>, Fault> {
        if self.ended {
            return Ok(None);
        }
        loop {
            if let Some(stream) = &mut self.stream {
                let problem = match stream.message().await {
                    Ok(Some(event)) => {
                        self.trouble = None;
                        self.after_sequence = event.sequence;
                        self.ended = matches!(event.event, Some(proto::v1::run_event::Event::Ended(_)));
                        return Ok(Some(event));
                    }
                    Ok(None) => Status::unavailable("the coordinator ended the stream of events"),
                    Err(status) => status,
                };
                self.stream = None;
                // We were too slow, a paused terminal does that: what was missed is in the journal.
                if problem.code() != Code::ResourceExhausted {
                    self.weigh(problem)?;
                }
            }
            if let Some(trouble) = &self.trouble {
                sleep_until(trouble.next_try).await;
            }
            match self.open().await {
                Ok(stream) => self.stream = Some(stream),
                Err(status) => {
                    self.weigh(status)?;
                    // Another may lead by now.
                    if let Ok(found) = Client::find(&self.client.addresses).await {
                        self.client = found;
                    }
                }
            }
        }
    }

    /// Whether to try again, a little later.
    fn weigh(&mut self, problem: Status) -> Result<(), Fault> {
        let absent = is_absence(&problem);
        // There may be too many watchers at the moment.
        if !absent && problem.code() != Code::ResourceExhausted {
            return Err(self.client.fault(&problem));
        }
        let now = Instant::now();
        let trouble = self.trouble.get_or_insert(Trouble { since: now, first: problem, next_try: now, said: false });
        if now - trouble.since > RETURN_WITHIN {
            return Err(self.client.fault(&trouble.first));
        }
        trouble.next_try = now + TRY_EVERY;
        if absent && !std::mem::replace(&mut trouble.said, true) {
            print::note("lost the coordinator, waiting for it to come back");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_there_is_said_at_once_with_a_hint() {
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let fault = Client::connect(&format!("127.0.0.1:{port}")).await.map(drop).unwrap_err().render();
        assert!(fault.starts_with(&format!("error: no coordinator answers at http://127.0.0.1:{port}\n")), "{fault}");
        assert!(fault.contains("Connection refused") && fault.contains("hint: start one"), "{fault}");
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_the_words_fault() {
        for url in ["ftp://somewhere", "http://", "not a url"] {
            let fault = Client::connect(url).await.map(drop).unwrap_err();
            assert_eq!(fault.exit_code(), std::process::ExitCode::from(2), "{url}");
        }
    }
}
