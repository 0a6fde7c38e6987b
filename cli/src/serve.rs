//! Starting a coordinator in this process, for a run of its own or (the verb `coordinator`) for whoever comes.

use std::{net::SocketAddr, path::Path, process::ExitCode};

use coordinator::{Config, Coordinator, StartError};

use crate::{args::CoordinatorArgs, document::absolute_path, errors::Fault, print, signals::Interrupts};

pub async fn serve(args: CoordinatorArgs) -> Result<ExitCode, Fault> {
    let state = absolute_path(&args.state)?;
    let mut interrupts = Interrupts::listen()?;
    let config = Config { listen: args.listen, state_dir: Some(state.clone()), ..Config::default() };
    let mut coordinator = Coordinator::start(config).await?;
    print::note(format_args!(
        "coordinator listens on http://{}, its state is in {}",
        coordinator.address(),
        state.display()
    ));
    let outcome = tokio::select! {
        () = interrupts.next() => {
            print::note("shutting down: what trains stops, and can be resumed");
            Ok(ExitCode::SUCCESS)
        }
        () = coordinator.broken() => Err(broken()),
    };
    tokio::select! {
        () = coordinator.shutdown() => outcome,
        () = interrupts.next() => Err(Fault::run("shut down at once, while records or checkpoints were being written")),
    }
}

pub fn broken() -> Fault {
    Fault::run("the coordinator broke").hint("this is a fault of lockstep; `--log coordinator=debug` shows more")
}

/// A coordinator for one run. Where nobody said where to listen, any free port does if the usual one is taken.
pub async fn for_one_run(listen: Option<SocketAddr>, state: &Path) -> Result<Coordinator, Fault> {
    let config = Config { state_dir: Some(state.to_owned()), own_workers: true, ..Config::default() };
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
            StartError::InUse { .. } | StartError::Listen { .. } => Self::words(error.to_string()),
            _ => Self::run(error.to_string()),
        };
        let fault = match std::error::Error::source(&error) {
            Some(source) => fault.because(source),
            None => fault,
        };
        fault.hint(error.hint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
