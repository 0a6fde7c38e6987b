//! Starting a coordinator in this process, for a run of its own or (the verb `coordinator`) for whoever comes.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use coordinator::{Config, Coordinator, EtcdStore, JournalError, Standby, StartError};
use tokio::time::{sleep, timeout};

use crate::{
    args::CoordinatorArgs, client::Client, document::absolute_path, errors::Fault, print, signals::Interrupts, tracking,
};

/// How long runs may take to save and stop before the coordinator ends without them.
const SAVE_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub async fn serve(args: CoordinatorArgs) -> Result<ExitCode, Fault> {
    if let Some(store) = args.store {
        return Box::pin(stand_by(args.listen, store, args.advertise)).await;
    }
    let state = absolute_path(&args.state)?;
    let mut interrupts = Interrupts::listen()?;
    let tracking = tracking::settings();
    let config = Config { listen: args.listen, state_dir: Some(state.clone()), tracking, ..Config::default() };
    let mut coordinator = Coordinator::start(config).await?;
    print::note(format_args!(
        "coordinator listens on http://{}, its state is in {}",
        coordinator.address(),
        state.display()
    ));
    let outcome = tokio::select! {
        () = interrupts.next() => {
            print::note("shutting down: what trains saves a checkpoint and stops (again: stops at once)");
            tokio::select! {
                stopped = timeout(SAVE_WITHIN, stop_runs(coordinator.address())) => match stopped {
                    Ok(Ok(())) => {}
                    Ok(Err(fault)) => tracing::warn!(reason = %fault.message(), "the runs could not be asked to save"),
                    Err(_) => print::note(format_args!(
                        "what still trains after {} s is stopped at once",
                        SAVE_WITHIN.as_secs()
                    )),
                },
                () = interrupts.next() => print::note("stopping at once, without saving"),
            }
            let when = "when this coordinator is started again";
            for words in tracking::settle(&coordinator, &mut interrupts, &state, when).await {
                print::note(format_args!("tracking: {words}"));
            }
            Ok(ExitCode::SUCCESS)
        }
        () = coordinator.broken() => Err(broken(&coordinator)),
    };
    tokio::select! {
        () = coordinator.shutdown() => outcome,
        () = interrupts.next() => Err(Fault::run("shut down at once, while records or checkpoints were being written")),
    }
}

/// A coordinator that others stand in for: stands by, leads, and stands by again when it is deposed.
async fn stand_by(listen: SocketAddr, store: EtcdStore, advertise: Option<String>) -> Result<ExitCode, Fault> {
    enum End {
        Told,
        Broken,
    }
    let mut interrupts = Interrupts::listen()?;
    let config = Config { listen, tracking: tracking::settings(), ..Config::default() };
    let mut standby = Standby::start(config, store.clone(), advertise).await?;
    print::note(format_args!("coordinator listens on http://{}, its journal is in {store}", standby.address()));
    loop {
        let mut coordinator = tokio::select! {
            leads = standby.lead() => leads?,
            () = interrupts.next() => return Ok(ExitCode::SUCCESS),
        };
        print::note(format_args!("coordinator leads, on http://{}", coordinator.address()));
        let end = tokio::select! {
            () = interrupts.next() => End::Told,
            () = coordinator.broken() => End::Broken,
        };
        match (end, coordinator.deposed().map(str::to_owned)) {
            (End::Told, _) => {
                print::note("handing over: what trains goes on, whoever leads next takes it up (again: at once)");
                return tokio::select! {
                    () = coordinator.hand_over() => Ok(ExitCode::SUCCESS),
                    () = interrupts.next() => Err(Fault::run("ended at once, while records or checkpoints were being written")),
                };
            }
            (End::Broken, Some(why)) => {
                print::note(format_args!("deposed: {why}; standing by"));
                let fault = broken(&coordinator);
                standby = coordinator.stand_by().ok_or(fault)?;
            }
            (End::Broken, None) => return Err(broken(&coordinator)),
        }
    }
}

/// Asks every run to save and stop, and waits until none is left. It asks as anybody would, over the network.
async fn stop_runs(address: SocketAddr) -> Result<(), Fault> {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let mut client = Client::connect(&SocketAddr::new(ip, address.port()).to_string()).await?;
    let mut asked = HashSet::new();
    loop {
        let live = client.live_runs().await?;
        if live.is_empty() {
            return Ok(());
        }
        for run in live {
            if !asked.contains(&run) {
                client.stop(&run, false).await?;
                asked.insert(run);
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Why a coordinator has broken.
pub fn broken(coordinator: &Coordinator) -> Fault {
    match coordinator.fault() {
        Some(failure) => Fault::from(failure.clone()),
        None => Fault::run("the coordinator broke")
            .hint("this is a fault of lockstep; `--log coordinator=debug` shows more"),
    }
}

/// A coordinator for one run. Where nobody said where to listen, any free port does if the usual one is taken.
pub async fn for_one_run(listen: Option<SocketAddr>, state: &Path) -> Result<Coordinator, Fault> {
    let tracking = tracking::settings();
    let config = Config { state_dir: Some(state.to_owned()), own_workers: true, tracking, ..Config::default() };
    if let Some(listen) = listen {
        return Ok(Coordinator::start(Config { listen, ..config }).await?);
    }
    match Coordinator::start(config.clone()).await {
        Err(StartError::InUse { address, .. }) => {
            let coordinator = Coordinator::start(Config { listen: SocketAddr::new(address.ip(), 0), ..config }).await?;
            print::note(format_args!(
                "{address} is in use, so this run's coordinator listens on {}",
                coordinator.address()
            ));
            Ok(coordinator)
        }
        started => Ok(started?),
    }
}

impl From<StartError> for Fault {
    fn from(error: StartError) -> Self {
        let fault = match &error {
            StartError::InUse { .. } | StartError::Listen { .. } | StartError::Unreachable(_) => {
                Self::words(error.to_string())
            }
            _ => Self::run(error.to_string()),
        };
        let fault = match std::error::Error::source(&error) {
            Some(source) => fault.because(source),
            None => fault,
        };
        match error {
            StartError::Journal(JournalError::InUse(_)) => fault.hint(
                "another `lockstep train` or coordinator keeps its journal there: wait for it, or name another folder with `--state DIR`",
            ),
            _ => fault.hint(error.hint()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_state_folder_that_another_holds_is_an_error_that_names_the_flag() {
        let folder = tempfile::tempdir().unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let first = for_one_run(Some(any), folder.path()).await.unwrap();
        let text = for_one_run(Some(any), folder.path()).await.map(|_| ()).unwrap_err().render();
        assert!(text.contains("in use by another coordinator") && text.contains("`--state DIR`"), "{text}");
        stop_runs(first.address()).await.unwrap();
        first.shutdown().await;
    }

    #[tokio::test]
    async fn a_port_that_was_asked_for_and_is_taken_is_an_error_of_the_words() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let fault = for_one_run(Some(address), folder.path()).await.map(|_| ()).unwrap_err();
        assert_eq!(fault.exit_code(), ExitCode::from(2));
        let text = fault.render();
        assert!(
            text.starts_with(&format!("error: address {address} is in use\n")) && text.contains("hint: "),
            "{text}"
        );
    }
}
