//! Where lists start, whether one comes back after it ended, and a spread of marks over them.

use std::{
    collections::HashSet,
    hash::{BuildHasherDefault, Hasher},
};

use arrow::array::{Array, AsArray, StringArray};
use arrow::datatypes::Int64Type;
use xxhash_rust::xxh3::xxh3_64;

use super::WriteError;
use crate::seeded::mix;

/// Finds where runs of equal ids start, over chunks.
#[derive(Debug, Default)]
pub struct Runs {
    last: Option<Id>,
}

#[derive(Debug)]
enum Id {
    Int(i64),
    Text(Box<[u8]>),
}

impl Runs {
    /// Rows of this chunk at which a run starts, ascending; `ids` is an Int64 or Utf8 array without nulls, and not any other.
    pub fn starts(&mut self, ids: &dyn Array, starts: &mut Vec<usize>) {
        starts.clear();
        if ids.is_empty() {
            return;
        }
        if let Some(ids) = ids.as_primitive_opt::<Int64Type>() {
            let ids: &[i64] = ids.values();
            if !matches!(self.last, Some(Id::Int(last)) if last == ids[0]) {
                starts.push(0);
            }
            starts.extend(ids.windows(2).enumerate().filter(|(_, pair)| pair[0] != pair[1]).map(|(row, _)| row + 1));
            self.last = Some(Id::Int(ids[ids.len() - 1]));
        } else if let Some(ids) = ids.as_string_opt::<i32>() {
            let mut last = match &self.last {
                Some(Id::Text(last)) => Some(&**last),
                _ => None,
            };
            for row in 0..ids.len() {
                let id = text(ids, row);
                if last != Some(id) {
                    starts.push(row);
                    last = Some(id);
                }
            }
            self.last = Some(Id::Text(text(ids, ids.len() - 1).into()));
        }
    }
}

fn text(ids: &StringArray, row: usize) -> &[u8] {
    ids.value(row).as_bytes()
}

/// An id as an error shows it.
pub(super) fn spell(ids: &dyn Array, row: usize) -> String {
    match ids.as_primitive_opt::<Int64Type>() {
        Some(ids) => ids.value(row).to_string(),
        None => ids.as_string_opt::<i32>().map(|ids| ids.value(row).to_owned()).unwrap_or_default(),
    }
}

/// Which lists there were: integers that count up cost nothing, every other id a 64-bit hash (of integers, a bijection).
#[derive(Debug, Default)]
pub struct Seen {
    /// Ids from the first one on that followed each other by one.
    dense: Option<(i64, i64)>,
    rest: HashSet<u64, BuildHasherDefault<AsIs>>,
}

impl Seen {
    /// Notes the id in this row; false where it was noted before. Of ten million text ids two share a hash with probability 3e-6.
    pub fn insert(&mut self, ids: &dyn Array, row: usize) -> bool {
        if let Some(ids) = ids.as_primitive_opt::<Int64Type>() {
            let id = ids.value(row);
            match &mut self.dense {
                None => {
                    self.dense = Some((id, id));
                    return true;
                }
                Some((first, last)) if (*first..=*last).contains(&id) => return false,
                // An id that came out of order before must not be swallowed by the range.
                Some((_, last)) if last.checked_add(1) == Some(id) && !self.rest.contains(&mix(id as u64)) => {
                    *last = id;
                    return true;
                }
                Some(_) => return self.rest.insert(mix(id as u64)),
            }
        }
        match ids.as_string_opt::<i32>() {
            Some(ids) => self.rest.insert(xxh3_64(text(ids, row))),
            None => true,
        }
    }

    /// Notes the lists that start in these rows of a chunk whose first row is row `offset`.
    pub(super) fn insert_all(
        &mut self,
        ids: &dyn Array,
        starts: &[usize],
        offset: u64,
        column: &str,
    ) -> Result<(), WriteError> {
        for &row in starts {
            if !self.insert(ids, row) {
                let (row_given, id) = (offset + row as u64, spell(ids, row));
                return Err(WriteError::Scattered { row: row_given, column: column.to_owned(), id });
            }
        }
        Ok(())
    }
}

/// The keys are hashes already.
#[derive(Debug, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
