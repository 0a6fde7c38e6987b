//! Whether a query comes back after its rows ended, in bounded memory.
//!
//! Hashes are kept up to a bound, then written to a temporary file as a sorted run; at the end the runs are merged and equal
//! neighbours are what is sought.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::File,
    io::{self, BufReader, BufWriter, Read, Seek as _, Write as _},
};

/// A list's query, hashed, in the upper half; the row it began at in the lower. So equal queries sort by row.
type Entry = u128;

pub(super) struct Seen {
    entries: Vec<Entry>,
    bound: usize,
    runs: Vec<File>,
    checked: bool,
}

/// A query that came twice: the rows its lists began at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Returned {
    pub first: u64,
    pub again: u64,
}

/// 64 MiB of entries.
const BOUND: usize = 4 << 20;
/// Unsorted files are told early.
const EARLY: usize = 4096;

impl Seen {
    pub fn new() -> Self {
        Self::bounded(BOUND)
    }

    fn bounded(bound: usize) -> Self {
        Self { entries: Vec::new(), bound, runs: Vec::new(), checked: false }
    }

    /// Some where it is known already that one came twice; [`finish`](Self::finish) knows in any case.
    #[inline]
    pub fn insert(&mut self, hash: u64, row: u64) -> io::Result<Option<Returned>> {
        self.entries.push(u128::from(hash) << 64 | u128::from(row));
        if self.entries.len() < EARLY || (self.checked && self.entries.len() < self.bound) {
            return Ok(None);
        }
        self.look()
    }

    #[cold]
    fn look(&mut self) -> io::Result<Option<Returned>> {
        self.checked = true;
        self.entries.sort_unstable();
        if let Some(returned) = self.entries.windows(2).find_map(|pair| returned(pair[0], pair[1])) {
            return Ok(Some(returned));
        }
        if self.entries.len() >= self.bound {
            let mut run = BufWriter::new(tempfile::tempfile()?);
            for entry in self.entries.drain(..) {
                run.write_all(&entry.to_le_bytes())?;
            }
            let mut run = run.into_inner().map_err(io::IntoInnerError::into_error)?;
            run.rewind()?;
            self.runs.push(run);
        }
        Ok(None)
    }

    pub fn finish(mut self) -> io::Result<Option<Returned>> {
        self.entries.sort_unstable();
        if let Some(returned) = self.entries.windows(2).find_map(|pair| returned(pair[0], pair[1])) {
            return Ok(Some(returned));
        }
        if self.runs.is_empty() {
            return Ok(None);
        }
        let mut in_memory = self.entries.into_iter();
        let mut runs: Vec<BufReader<File>> = self.runs.into_iter().map(BufReader::new).collect();
        let memory = runs.len();
        let mut next = |of: usize| match runs.get_mut(of) {
            Some(run) => read(run),
            None => Ok(in_memory.next()),
        };
        let mut heads = BinaryHeap::new();
        for of in 0..=memory {
            heads.extend(next(of)?.map(|entry| Reverse((entry, of))));
        }
        let mut last = None;
        while let Some(Reverse((entry, of))) = heads.pop() {
            if let Some(returned) = last.and_then(|last| returned(last, entry)) {
                return Ok(Some(returned));
            }
            last = Some(entry);
            heads.extend(next(of)?.map(|entry| Reverse((entry, of))));
        }
        Ok(None)
    }
}

fn read(run: &mut BufReader<File>) -> io::Result<Option<Entry>> {
    let mut bytes = [0; 16];
    match run.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(Entry::from_le_bytes(bytes))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn returned(a: Entry, b: Entry) -> Option<Returned> {
    (a >> 64 == b >> 64).then_some(Returned { first: a as u64, again: b as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut seen: Seen, hashes: impl Iterator<Item = u64>) -> Option<Returned> {
        for (row, hash) in hashes.enumerate() {
            if let Some(returned) = seen.insert(hash, row as u64).unwrap() {
                return Some(returned);
            }
        }
        seen.finish().unwrap()
    }

    #[test]
    fn what_comes_back_is_found_in_memory_across_runs_and_between_a_run_and_memory() {
        let scattered = |n: u64| (0..n).map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for bound in [5000, BOUND] {
            let seen = || Seen::bounded(bound);
            assert_eq!(all(seen(), scattered(23_000)), None);
            for first in [0u64, 100, 7_000, 16_000] {
                let again = first.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let found = all(seen(), scattered(23_000).chain([again, 3]));
                assert_eq!(found, Some(Returned { first, again: 23_000 }), "bound {bound}");
            }
        }
    }
}
