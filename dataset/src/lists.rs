//! Where lists start: runs of equal values in the group column.

use std::collections::HashSet;

use arrow::{
    array::{Array as _, ArrayRef, AsArray as _},
    compute,
    datatypes::{DataType, Int64Type},
    error::ArrowError,
};
use xxhash_rust::xxh3::xxh3_64;

use crate::layout::MAX_MARKS;

/// The first row of each run of equal values, the column's first row included.
pub fn starts(group: &ArrayRef) -> Result<Vec<u32>, ArrowError> {
    if group.is_empty() {
        return Ok(Vec::new());
    }
    if let Some(ids) = group.as_primitive_opt::<Int64Type>() {
        let ids = ids.values();
        let changes = ids.windows(2).enumerate().filter(|(_, pair)| pair[0] != pair[1]).map(|(row, _)| row as u32 + 1);
        return Ok(std::iter::once(0).chain(changes).collect());
    }
    let runs = compute::partition(std::slice::from_ref(group))?.ranges();
    Ok(runs.into_iter().map(|run| run.start as u32).collect())
}

/// Counts a file's lists batch by batch, keeps evenly spread marks, and notices a list that starts twice.
#[derive(Debug)]
pub struct ListCounter {
    rows: u64,
    lists: u64,
    /// Hash of the list under way, which the next batch may continue.
    open: Option<u64>,
    spacing: u64,
    pub mark_rows: Vec<u64>,
    pub mark_lists: Vec<u64>,
}

impl Default for ListCounter {
    fn default() -> Self {
        Self { rows: 0, lists: 0, open: None, spacing: 1, mark_rows: Vec::new(), mark_lists: Vec::new() }
    }
}

impl ListCounter {
    pub fn rows(&self) -> u64 {
        self.rows
    }

    pub fn lists(&self) -> u64 {
        self.lists
    }

    /// `Err(row of the file)` where a list begins that has been before. `seen` spans the files of a dataset.
    pub fn add(&mut self, group: &ArrayRef, seen: &mut HashSet<u64>) -> Result<(), u64> {
        let starts = starts(group).map_err(|_| self.rows)?;
        let ids = hashes(group, &starts).map_err(|_| self.rows)?;
        for (start, id) in starts.iter().zip(ids) {
            if self.open == Some(id) {
                continue;
            }
            let row = self.rows + u64::from(*start);
            if !seen.insert(id) {
                return Err(row);
            }
            self.open = Some(id);
            if self.lists.is_multiple_of(self.spacing) {
                self.mark(row);
            }
            self.lists += 1;
        }
        self.rows += group.len() as u64;
        Ok(())
    }

    fn mark(&mut self, row: u64) {
        if self.mark_rows.len() == MAX_MARKS {
            let keep = |marks: &mut Vec<u64>| {
                let mut index = 0;
                marks.retain(|_| {
                    index += 1;
                    index % 2 == 1
                });
            };
            keep(&mut self.mark_rows);
            keep(&mut self.mark_lists);
            self.spacing *= 2;
            if !self.lists.is_multiple_of(self.spacing) {
                return;
            }
        }
        self.mark_rows.push(row);
        self.mark_lists.push(self.lists);
    }
}

/// Hashes of the values at `rows`, whatever their type: equal values, equal hashes.
fn hashes(column: &ArrayRef, rows: &[u32]) -> Result<Vec<u64>, ArrowError> {
    if let Some(ids) = column.as_primitive_opt::<Int64Type>() {
        return Ok(rows.iter().map(|row| xxh3_64(&ids.value(*row as usize).to_le_bytes())).collect());
    }
    let text = compute::cast(column, &DataType::Utf8)?;
    let text = text.as_string::<i32>();
    Ok(rows.iter().map(|row| xxh3_64(text.value(*row as usize).as_bytes())).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};

    use super::*;

    fn ints(values: &[i64]) -> ArrayRef {
        Arc::new(Int64Array::from(values.to_vec()))
    }

    #[test]
    fn a_list_may_go_on_in_the_next_batch() {
        let (mut counter, mut seen) = (ListCounter::default(), HashSet::new());
        counter.add(&ints(&[1, 1, 2]), &mut seen).unwrap();
        counter.add(&ints(&[2, 2, 3]), &mut seen).unwrap();
        assert_eq!((counter.rows(), counter.lists()), (6, 3));
        assert_eq!(counter.mark_rows, [0, 2, 5]);
    }

    #[test]
    fn a_list_that_starts_twice_is_named_by_its_row() {
        let (mut counter, mut seen) = (ListCounter::default(), HashSet::new());
        assert_eq!(counter.add(&ints(&[1, 2, 2, 1]), &mut seen), Err(3));
    }

    #[test]
    fn text_ids_work_as_integers_do() {
        let ids: ArrayRef = Arc::new(StringArray::from(vec!["a", "a", "b", "c", "c"]));
        assert_eq!(starts(&ids).unwrap(), [0, 2, 3]);
    }

    #[test]
    fn marks_stay_bounded_and_even() {
        let (mut counter, mut seen) = (ListCounter::default(), HashSet::new());
        let ids: Vec<i64> = (0..20_000).collect();
        ids.chunks(1000).for_each(|chunk| counter.add(&ints(chunk), &mut seen).unwrap());
        assert!(counter.mark_rows.len() <= MAX_MARKS);
        assert_eq!(counter.mark_rows, counter.mark_lists);
        assert!(counter.mark_rows.windows(2).all(|pair| pair[1] - pair[0] == 8));
    }
}
