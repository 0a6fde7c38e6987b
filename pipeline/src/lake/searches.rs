//! The searches of some dates of a lake, each once.
//!
//! A log may repeat a search: an event that is sent again with its clicks, a file that was loaded twice. As in `prepare`, the copy with
//! which most was done counts, wherever it lies; of copies with as much done a hash of what they say decides.
//!
//! Which searches are repeated is found from their identities alone, of which about 20 bytes a search stay in memory for so long. Only where there
//! are any, their files are read for the best copies.

use std::{
    collections::{HashMap, HashSet},
    ops::RangeInclusive,
};

use chrono::NaiveDate;
use ranking::propensity::Window;
use xxhash_rust::xxh3::Xxh3;

use super::{Conversions, Event, EventFile, Lake, LakeFile, Wanted};
use crate::PipelineError;

/// Bits of a rank that are a hash; what was done stands above them.
const HASH_BITS: u32 = 48;

/// Files that count, and how to read each of their searches once.
pub(crate) struct Searches {
    lake: Lake,
    files: Vec<LakeFile>,
    window: Option<Window>,
    all_files: u64,
}

/// A copy of a search, by its rank and its place: its file, and its row there.
#[derive(Clone, Copy)]
struct Ranked {
    rank: u64,
    file: usize,
    row: u64,
}

impl Searches {
    /// `logs` as [`Lake::open`] takes it.
    pub async fn open(logs: &str, dates: RangeInclusive<NaiveDate>) -> Result<Self, PipelineError> {
        let lake = Lake::open(logs)?;
        let files = lake.files(dates).await?;
        let window = files.first().zip(files.last()).map(|(first, last)| Window { from: first.date, to: last.date });
        let all_files = files.len() as u64;
        Ok(Self { lake, files, window, all_files })
    }

    pub fn window(&self) -> Option<Window> {
        self.window
    }

    /// Of the dates, those that are left out included.
    pub fn files(&self) -> u64 {
        self.all_files
    }

    /// Leaves out files by their footers.
    pub async fn retain(
        &mut self,
        mut keep: impl FnMut(&EventFile<'_>) -> Result<bool, PipelineError>,
    ) -> Result<(), PipelineError> {
        let mut kept = Vec::with_capacity(self.files.len());
        for file in std::mem::take(&mut self.files) {
            let name = self.name(&file);
            if keep(&EventFile::open(&self.lake, &file, &name).await?)? {
                kept.push(file);
            }
        }
        self.files = kept;
        Ok(())
    }

    /// Hands on each search, with the name of its file, in the order of the files; `progress` is told bytes of files done, and of all. How many
    /// copies were passed over.
    pub async fn for_each(
        &self,
        wanted: &Wanted,
        progress: &mut dyn FnMut(u64, u64),
        mut each: impl FnMut(&str, Event<'_>) -> Result<(), PipelineError>,
    ) -> Result<u64, PipelineError> {
        let best = self.best_copies(wanted).await?;
        let mut repeated = 0;
        let all = self.files.iter().map(|file| file.bytes).sum();
        let mut done = 0;
        for (number, file) in self.files.iter().enumerate() {
            let name = self.name(file);
            let one = |event: Event<'_>| {
                let best = event.search.and_then(|search| best.get(&search));
                if best.is_some_and(|best| (best.file, best.row) != (number, event.row)) {
                    repeated += 1;
                    return Ok(());
                }
                each(&name, event)
            };
            EventFile::open(&self.lake, file, &name).await?.for_each(wanted, one).await?;
            done += file.bytes;
            progress(done, all);
        }
        Ok(repeated)
    }

    /// Of the searches that are there more than once.
    async fn best_copies(&self, wanted: &Wanted) -> Result<HashMap<i64, Ranked>, PipelineError> {
        let repeated = self.repeated().await?;
        let mut best: HashMap<i64, Ranked> = HashMap::with_capacity(repeated.len());
        if repeated.is_empty() {
            return Ok(best);
        }
        // All that tells copies apart.
        let wanted = Wanted { people: true, conversions: Conversions::WhereLogged, arm: wanted.arm.clone() };
        for (number, file) in self.files.iter().enumerate() {
            let name = self.name(file);
            let one = |event: Event<'_>| {
                if let Some(search) = event.search.filter(|search| repeated.contains(search)) {
                    let copy = Ranked { rank: rank(&event), file: number, row: event.row };
                    let best = best.entry(search).or_insert(copy);
                    if copy.rank > best.rank {
                        *best = copy;
                    }
                }
                Ok(())
            };
            EventFile::open(&self.lake, file, &name).await?.for_each(&wanted, one).await?;
        }
        Ok(best)
    }

    async fn repeated(&self) -> Result<HashSet<i64>, PipelineError> {
        let (mut seen, mut repeated) = (HashSet::new(), HashSet::new());
        for file in &self.files {
            let name = self.name(file);
            let one = |search: i64| {
                if !seen.insert(search) {
                    repeated.insert(search);
                }
            };
            EventFile::open(&self.lake, file, &name).await?.each_search(one).await?;
        }
        Ok(repeated)
    }

    fn name(&self, file: &LakeFile) -> String {
        let store = self.lake.store();
        store.display(&store.relative(&file.path).unwrap_or_default())
    }
}

/// The larger, the more was done with the results; then a hash of who it was, and of the results.
fn rank(event: &Event<'_>) -> u64 {
    let mut hash = Xxh3::new();
    let mut deeds = 0u64;
    hash.update(&event.user.unwrap_or_default().to_le_bytes());
    hash.update(event.arm.unwrap_or_default().as_bytes());
    for result in event.results {
        let done = [result.clicked, result.carted, result.purchased];
        deeds += done.iter().filter(|done| **done).count() as u64;
        hash.update(&result.position.to_le_bytes());
        hash.update(&result.document.to_le_bytes());
        hash.update(&done.map(u8::from));
        hash.update(&result.propensity.unwrap_or_default().to_le_bytes());
    }
    deeds.min(u16::MAX.into()) << HASH_BITS | hash.digest() >> (64 - HASH_BITS)
}
