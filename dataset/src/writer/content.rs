//! A hash over a file's rows that does not depend on how they were cut into chunks, row groups or pages.

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float32Type, Int64Type};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use xxhash_rust::xxh3::Xxh3;

use super::{Column, Kind, TrainingSchema};

/// One running hash a column; the content's hash is the hash of theirs.
pub(super) struct Content {
    columns: Vec<ColumnHash>,
    scratch: Vec<u8>,
}

struct ColumnHash {
    values: Xxh3,
    /// Of text: where each value ends.
    lengths: Xxh3,
    /// For columns that may hold nulls, or are neither float32, Int64 nor Utf8.
    rows: Option<RowConverter>,
}

impl Content {
    pub fn new(schema: &TrainingSchema) -> Result<Self, ArrowError> {
        let columns = schema.columns().iter().map(ColumnHash::new).collect::<Result<_, _>>()?;
        Ok(Self { columns, scratch: Vec::new() })
    }

    /// Takes in the rows of these columns, in the schema's order.
    pub fn update(&mut self, columns: &[ArrayRef]) -> Result<(), ArrowError> {
        for (hash, column) in self.columns.iter_mut().zip(columns) {
            hash.update(column, &mut self.scratch)?;
        }
        Ok(())
    }

    /// xxh3-128, in hex.
    pub fn digest(&self, schema: &TrainingSchema) -> String {
        let mut all = Xxh3::new();
        for (hash, column) in self.columns.iter().zip(schema.columns()) {
            all.update(column.name.as_bytes());
            all.update(&[0]);
            all.update(&hash.values.digest128().to_le_bytes());
            all.update(&hash.lengths.digest128().to_le_bytes());
        }
        format!("{:032x}", all.digest128())
    }
}

impl ColumnHash {
    fn new(column: &Column) -> Result<Self, ArrowError> {
        let nullable = matches!(&column.kind, Kind::Other(field) if field.is_nullable());
        let rows = match column.data_type() {
            DataType::Float32 | DataType::Int64 | DataType::Utf8 if !nullable => None,
            other => Some(RowConverter::new(vec![SortField::new(other)])?),
        };
        Ok(Self { values: Xxh3::new(), lengths: Xxh3::new(), rows })
    }

    fn update(&mut self, array: &ArrayRef, scratch: &mut Vec<u8>) -> Result<(), ArrowError> {
        if let Some(rows) = &mut self.rows {
            let rows = rows.convert_columns(std::slice::from_ref(array))?;
            for row in &rows {
                self.lengths.update(&(row.as_ref().len() as u32).to_le_bytes());
                self.values.update(row.as_ref());
            }
        } else if let Some(floats) = array.as_primitive_opt::<Float32Type>() {
            self.values.update(floats.values().inner().as_slice());
        } else if let Some(ints) = array.as_primitive_opt::<Int64Type>() {
            self.values.update(ints.values().inner().as_slice());
        } else if let Some(texts) = array.as_string_opt::<i32>() {
            let offsets = texts.value_offsets();
            if let (Some(&first), Some(&last)) = (offsets.first(), offsets.last()) {
                self.values.update(&texts.value_data()[first as usize..last as usize]);
            }
            scratch.clear();
            for pair in offsets.windows(2) {
                scratch.extend_from_slice(&(pair[1] - pair[0]).to_le_bytes());
            }
            self.lengths.update(scratch);
        }
        Ok(())
    }
}
