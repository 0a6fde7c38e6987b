//! The readers, over a source whose every value tells which row it is.

use std::collections::HashSet;

use super::*;
use crate::source::Rows;

/// Rows whose every value tells which row it is.
struct Counting;

impl Source for Counting {
    fn read(&self, block: &Block) -> Result<Decoded, DatasetError> {
        let rows = block.first_row..block.first_row + block.rows;
        let lists = block.atoms != block.rows;
        let rows = Rows {
            features: rows.clone().flat_map(|row| [row as f32, -(row as f32)]).collect(),
            labels: rows.clone().map(|row| row as f32).collect(),
            weights: Vec::new(),
            starts: if lists { (0..=block.atoms as u32).map(|list| list * 3).collect() } else { Vec::new() },
        };
        let (range, atoms) = (0..rows.rows(), 0..block.atoms as usize);
        Ok(Decoded { rows: Arc::new(rows), range, atoms })
    }
}

fn blocks(sizes: &[u64], atom: Atom) -> Arc<Blocks> {
    let mut cut = Blocks { atom, blocks: Vec::new(), rows: 0, atoms: 0 };
    for &atoms in sizes {
        let rows = if atom == Atom::List { 3 * atoms } else { atoms };
        cut.blocks.push(Block { file: 0, first_row: cut.rows, rows, first_atom: cut.atoms, atoms });
        cut.rows += rows;
        cut.atoms += atoms;
    }
    Arc::new(cut)
}

fn plan(blocks: &Arc<Blocks>, rank: u32, world: u32, batch: u64) -> Plan {
    Plan {
        blocks: Arc::clone(blocks),
        features: 2,
        lanes: 8,
        seed: 17,
        rank,
        world,
        batch,
        epochs: 3,
        epoch: 0,
        step: 0,
        read_ahead: 300,
        readers: 2,
    }
}

/// The atoms of each global batch from (epoch, step) on, over all ranks.
fn batches(plan: &Plan, world: u32) -> Vec<HashSet<u64>> {
    let mut readers: Vec<LaneReader> =
        (0..world).map(|rank| LaneReader::open(Plan { rank, world, ..plan.clone() }, Arc::new(Counting))).collect();
    let steps = readers[0].steps_per_epoch();
    let (mut found, mut batch) = (Vec::new(), Batch::default());
    for (epoch, step) in (plan.epoch..plan.epochs).flat_map(|epoch| (0..steps).map(move |step| (epoch, step))) {
        if (epoch, step) < (plan.epoch, plan.step) {
            continue;
        }
        let mut atoms = HashSet::new();
        for reader in &mut readers {
            reader.next(epoch, step, &mut batch).unwrap();
            assert_eq!(batch.rows(), batch.weights.len());
            for atom in &batch.atoms {
                assert!(atoms.insert(*atom), "atom {atom} came twice in epoch {epoch}, step {step}");
            }
            for (row, label) in batch.features.chunks(2).zip(&batch.labels) {
                assert_eq!(row, [*label, -label]);
            }
        }
        found.push(atoms);
    }
    found
}

#[test]
fn the_batches_are_the_same_for_every_world_size_and_every_row_comes_once_an_epoch() {
    let sizes = [7, 1, 12, 9, 30, 4, 4, 4, 21, 8, 15, 2];
    for atom in [Atom::Row, Atom::List] {
        let blocks = blocks(&sizes, atom);
        let alone = batches(&plan(&blocks, 0, 1, 10), 1);
        for world in [2, 3, 5] {
            assert_eq!(batches(&plan(&blocks, 0, 1, 10), world), alone, "world {world}");
        }
        let steps = blocks.atoms.div_ceil(10) as usize;
        for epoch in alone.chunks(steps) {
            let seen: HashSet<u64> = epoch.iter().flatten().copied().collect();
            assert_eq!(seen.len() as u64, blocks.atoms);
            assert!(epoch[..steps - 1].iter().all(|batch| batch.len() == 10));
        }
        assert_ne!(alone[0], alone[steps], "epochs must not repeat their order");
    }
}

#[test]
fn starting_in_the_middle_gives_what_would_have_come_there() {
    let blocks = blocks(&[7, 1, 12, 9, 30, 4, 21, 8], Atom::List);
    let whole = batches(&plan(&blocks, 0, 1, 4), 2);
    let steps = blocks.atoms.div_ceil(4) as usize;
    let rest = batches(&Plan { epoch: 1, step: 5, ..plan(&blocks, 0, 1, 4) }, 3);
    assert_eq!(rest, whole[steps + 5..]);
}

#[test]
fn a_batch_of_the_whole_dataset_needs_more_blocks_than_the_budget_and_still_comes() {
    let blocks = blocks(&[50; 40], Atom::Row);
    let all = batches(&Plan { read_ahead: 1, ..plan(&blocks, 0, 1, 2000) }, 2);
    assert!(all.iter().all(|batch| batch.len() == 2000));
}

#[test]
fn the_sum_of_the_hashes_that_batches_carry_is_what_the_audit_expects() {
    let blocks = blocks(&[7, 1, 12, 9], Atom::List);
    let (mut reader, mut batch) = (LaneReader::open(plan(&blocks, 0, 1, 4), Arc::new(Counting)), Batch::default());
    let sum: u128 = (0..reader.steps_per_epoch())
        .map(|step| {
            reader.next(0, step, &mut batch).unwrap();
            batch.hash
        })
        .sum();
    assert_eq!(sum, lanes::expected_hash(blocks.atoms));
}

#[test]
fn dealing_a_block_to_two_lanes_is_caught_by_the_audit() {
    let blocks = blocks(&[7, 1, 12, 9], Atom::Row);
    let mut deal = Deal::new(&blocks, 8, 17, 0);
    let given = |deal: &Deal| -> u128 {
        let atoms = |block: &u32| {
            let block = &blocks.blocks[*block as usize];
            (block.first_atom..block.first_atom + block.atoms)
                .map(|atom| u128::from(lanes::atom_hash(atom)))
                .sum::<u128>()
        };
        deal.lanes.iter().flat_map(|lane| &lane.blocks).map(atoms).sum()
    };
    assert_eq!(given(&deal), lanes::expected_hash(blocks.atoms));
    let (full, other) = (deal.lanes.iter().position(|lane| lane.blocks == [0]).unwrap(), 1);
    let other = deal.lanes.iter().position(|lane| lane.blocks == [other]).unwrap();
    deal.lanes[other].blocks = deal.lanes[full].blocks.clone();
    assert_ne!(given(&deal), lanes::expected_hash(blocks.atoms));
}
