//! From members in rank order to the seats that are sent to them.

use std::{collections::BTreeMap, num::NonZeroUsize};

use proto::{
    Generation, RunId, WorkerId,
    v1::{self, coordinator_message},
};

use super::Driver;
use crate::{pool::Place, run::Start};

impl Driver {
    /// `common`: what of the seats is decided already.
    pub(super) fn seat(
        &mut self,
        run: &RunId,
        generation: Generation,
        members: &[WorkerId],
        start: &Start,
        common: v1::Seat,
    ) {
        let Some(live) = self.state.live.get(run) else { return };
        let Some(preparation) = &live.preparation else { return };
        let peers: Vec<v1::Peer> = (0..).zip(members).map(|(rank, worker)| self.peer(rank, *worker)).collect();
        let mut on_machine: BTreeMap<&str, usize> = BTreeMap::new();
        for peer in &peers {
            *on_machine.entry(&peer.machine).or_default() += 1;
        }
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = |machine: &str| {
            let shared = cores / on_machine.get(machine).copied().unwrap_or(1).max(1);
            live.submission.spec.training.threads.unwrap_or_else(|| shared.max(1))
        };
        let world = u32::try_from(members.len()).unwrap_or(u32::MAX);
        let (resume_from, source, lacking) = match start {
            Start::Submitted => (preparation.resume_from.clone(), None, Vec::new()),
            Start::Memory { source, lacking } => (preparation.resume_from.clone(), Some(*source), lacking.clone()),
            Start::Checkpoint(path) => (path.clone(), None, Vec::new()),
        };
        let common = v1::Seat {
            run_id: run.to_string(),
            generation: generation.0,
            rank: 0,
            world,
            spec_toml: live.submission.spec_toml.clone(),
            peers: peers.clone(),
            train: Some(preparation.train.clone()),
            validation: preparation.validation.clone(),
            judgments: preparation.judgments.clone(),
            threads: 0,
            resume_from,
            start_from: preparation.start_from.clone(),
            staging: preparation.claim.staging.to_string_lossy().into_owned(),
            // Another one each time: a peer of a former generation does not know it.
            source,
            lacking,
            secret: u64::try_from(ulid::Ulid::new().random() & u128::from(u64::MAX)).unwrap_or_default(),
            ..common
        };
        let seats: Vec<v1::Seat> = peers
            .iter()
            .map(|peer| {
                let threads = u32::try_from(threads(&peer.machine)).unwrap_or(u32::MAX);
                v1::Seat { rank: peer.rank, threads, ..common.clone() }
            })
            .collect();
        for (seat, &worker) in seats.into_iter().zip(members) {
            self.pool.seat(worker, Place { run: run.clone(), generation, rank: seat.rank, world });
            self.send(worker, coordinator_message::Message::Seat(seat));
        }
    }

    fn peer(&self, rank: u32, worker: WorkerId) -> v1::Peer {
        // Gone since it was counted in: its own `Left` is on its way.
        let about = self.pool.about(worker).cloned().unwrap_or_default();
        v1::Peer { rank, worker: worker.to_string(), address: about.peer_address, machine: about.machine }
    }
}
