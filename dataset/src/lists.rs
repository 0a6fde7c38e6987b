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
    marks: Marks,
}

impl Default for ListCounter {
    fn default() -> Self {
        Self { rows: 0, lists: 0, open: None, marks: Marks::new() }
    }
}

impl ListCounter {
    pub fn rows(&self) -> u64 {
        self.rows
    }

    pub fn lists(&self) -> u64 {
        self.lists
    }

    /// Rows and numbers of the marked lists.
    pub fn into_marks(self) -> (Vec<u64>, Vec<u64>) {
        (self.marks.rows, self.marks.lists)
    }

    /// `Some(row of the file)` where a list begins that has been before. `seen` spans the files of a dataset.
    pub fn add(&mut self, group: &ArrayRef, seen: &mut HashSet<u64>) -> Result<Option<u64>, ArrowError> {
        let starts = starts(group)?;
        let ids = hashes(group, &starts)?;
        for (start, id) in starts.iter().zip(ids) {
            if self.open == Some(id) {
                continue;
            }
            let row = self.rows + u64::from(*start);
            if !seen.insert(id) {
                return Ok(Some(row));
            }
            self.open = Some(id);
            self.marks.list_starts(self.lists, row);
            self.lists += 1;
        }
        self.rows += group.len() as u64;
        Ok(None)
    }
}

/// Evenly spread list starts, at most [`MAX_MARKS`]: when full, every other one goes and the spacing doubles.
#[derive(Debug)]
pub(crate) struct Marks {
    spacing: u64,
    pub rows: Vec<u64>,
    pub lists: Vec<u64>,
}

impl Marks {
    pub fn new() -> Self {
        Self { spacing: 1, rows: Vec::new(), lists: Vec::new() }
    }

    /// The next list of the file is list `list` and starts at row `row`.
    pub fn list_starts(&mut self, list: u64, row: u64) {
        if !list.is_multiple_of(self.spacing) {
            return;
        }
        if self.rows.len() == MAX_MARKS {
            for marks in [&mut self.rows, &mut self.lists] {
                let mut index = 0;
                marks.retain(|_| {
                    index += 1;
                    index % 2 == 1
                });
            }
            self.spacing *= 2;
            if !list.is_multiple_of(self.spacing) {
                return;
            }
        }
        self.rows.push(row);
        self.lists.push(list);
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
        assert_eq!(counter.into_marks().0, [0, 2, 5]);
    }

    #[test]
    fn a_list_that_starts_twice_is_named_by_its_row() {
        let (mut counter, mut seen) = (ListCounter::default(), HashSet::new());
        assert_eq!(counter.add(&ints(&[1, 2, 2, 1]), &mut seen).unwrap(), Some(3));
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
        ids.chunks(1000).for_each(|chunk| assert_eq!(counter.add(&ints(chunk), &mut seen).unwrap(), None));
        let (rows, lists) = counter.into_marks();
        assert!(rows.len() <= MAX_MARKS);
        assert_eq!(rows, lists);
        assert!(rows.windows(2).all(|pair| pair[1] - pair[0] == 8));
    }
}
