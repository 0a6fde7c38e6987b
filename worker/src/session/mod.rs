//! A worker's session with its coordinator: joins, takes seats, carries messages both ways. Jobs run on a thread of their own;
//! nothing here trains, and nothing there waits for the network. A job outlives its generation, and a session its coordinator: what is
//! in memory stays there until somebody says that it is of no more use.

mod desk;
mod line;
mod outbox;
mod running;
#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, TcpListener, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use proto::{Deadlines, v1};
use tokio::time::sleep;

use self::{
    desk::{Desk, Leave},
    line::Line,
};

/// Who this worker is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// `http://host:port`; several, separated by commas, where one takes over from another.
    pub coordinator: String,
    pub slot: u32,
    pub life: u32,
}

/// Why a session ended otherwise than by a word from the coordinator.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("cannot reach the coordinator at {address}")]
    Unreachable { address: String, source: tonic::transport::Error },
    #[error("cannot listen for peers on {ip}")]
    Listen { ip: IpAddr, source: std::io::Error },
    #[error("no signal can be waited for")]
    Signals(#[source] std::io::Error),
    #[error("refused by the coordinator: {reason}")]
    Refused { reason: String, hint: String },
    #[error("the coordinator closed the session: {0}")]
    Closed(String),
}

/// A worker that holds nothing looks so long for a coordinator that went away.
const IDLE_PATIENCE: Duration = Duration::from_secs(30);

/// Works for a coordinator until it says that there is no more to do, or the machine does.
pub async fn serve(identity: Identity) -> Result<(), SessionError> {
    let addresses: Vec<String> = identity.coordinator.split(',').map(|address| address.trim().to_owned()).collect();
    let ip = local_ip(&addresses[0]);
    let listener = TcpListener::bind((ip, 0)).map_err(|source| SessionError::Listen { ip, source })?;
    let join = v1::Join {
        slot: identity.slot,
        life: identity.life,
        version: proto::VERSION.to_owned(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        pid: std::process::id(),
        device: "cpu".into(),
        peer_address: listener.local_addr().map_err(|source| SessionError::Listen { ip, source })?.to_string(),
        machine: machine(),
        holding: None,
    };
    let mut desk = Desk::new(Arc::new(listener)).map_err(SessionError::Signals)?;
    let mut line = first_line(&addresses, &join, &mut desk).await?;
    loop {
        let broken = match desk.attend(line).await {
            Ok(Leave) => return Ok(()),
            Err(refused @ SessionError::Refused { .. }) => return Err(refused),
            Err(error) => error,
        };
        tracing::warn!(reason = %broken, "the session is broken, looking for the coordinator");
        line = match find_again(&addresses, &join, &mut desk, broken).await? {
            Some(line) => line,
            None => return Ok(()),
        };
    }
}

/// The first of the addresses where somebody answers.
async fn first_line(addresses: &[String], join: &v1::Join, desk: &mut Desk) -> Result<Line, SessionError> {
    let mut error = SessionError::Closed("there is no address".into());
    for address in addresses {
        match line::join(address.clone(), join.clone(), Deadlines::default().lost()).await {
            Ok((line, welcome)) => {
                desk.welcome(&welcome);
                return Ok(line);
            }
            Err(why) => error = why,
        }
    }
    Err(error)
}

/// Goes on with the job under way until a coordinator is found. None: the worker was told to leave meanwhile.
async fn find_again(
    addresses: &[String],
    join: &v1::Join,
    desk: &mut Desk,
    broken: SessionError,
) -> Result<Option<Line>, SessionError> {
    let since = Instant::now();
    for address in addresses.iter().cycle() {
        let join = v1::Join { holding: desk.holding(), ..join.clone() };
        let patience = desk.deadlines().lost();
        let attempt = async {
            let joined = line::join(address.clone(), join, patience);
            tokio::time::timeout(patience, joined)
                .await
                .unwrap_or_else(|_| Err(SessionError::Closed("it does not answer".into())))
        };
        match desk.meanwhile(attempt).await {
            Err(Leave) => return Ok(None),
            Ok(Ok((line, welcome))) => {
                desk.welcome_back(&welcome);
                return Ok(Some(line));
            }
            Ok(Err(refused @ SessionError::Refused { .. })) => return Err(refused),
            Ok(Err(error)) => tracing::debug!(address, %error, "no coordinator there"),
        }
        if desk.is_idle() && since.elapsed() > IDLE_PATIENCE {
            break;
        }
        if desk.meanwhile(sleep(desk.deadlines().retry())).await.is_err() {
            return Ok(None);
        }
    }
    Err(broken)
}

/// This machine's address as the coordinator would see it: a connected datagram socket knows it without a word on the wire.
fn local_ip(coordinator: &str) -> IpAddr {
    let host = coordinator.trim_start_matches("http://").trim_start_matches("https://").trim_end_matches('/');
    let probe = || {
        let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
        socket.connect(host).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    probe().unwrap_or(IpAddr::from([127, 0, 0, 1]))
}

/// Equal for processes that can share memory: this boot of this kernel.
fn machine() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}
