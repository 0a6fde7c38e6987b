//! Which of several copies of one event is the one that counts.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt64Array};
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, SortField};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use xxhash_rust::xxh3::xxh3_64;

/// `lockstep_copy_rank(results)`: the larger, the more was done with the results (16 bits), then 48 bits of their hash. An event that is sent again
/// with its clicks outranks the one without, and the order does not hang on where a copy lies.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct CopyRank {
    signature: Signature,
}

const DEEDS: [&str; 3] = ["clicked", "added_to_cart", "purchased"];
const HASH_BITS: u32 = 48;

impl CopyRank {
    pub const NAME: &str = "lockstep_copy_rank";

    pub fn udf() -> Arc<ScalarUDF> {
        Arc::new(ScalarUDF::new_from_impl(Self { signature: Signature::any(1, Volatility::Immutable) }))
    }
}

impl ScalarUDFImpl for CopyRank {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::UInt64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let Some(lists) = arrays.first().and_then(|results| results.as_list_opt::<i32>()) else {
            return exec_err!("{} takes a list of results", Self::NAME);
        };
        let items = lists.values().as_struct();
        let deeds: Vec<&BooleanArray> =
            DEEDS.iter().filter_map(|name| items.column_by_name(name)?.as_boolean_opt()).collect();
        let rows = RowConverter::new(vec![SortField::new(lists.data_type().clone())])?.convert_columns(&arrays[..1])?;
        let offsets = lists.value_offsets();
        let rank = |row: usize| {
            let of_row = offsets[row] as usize..offsets[row + 1] as usize;
            let done = |deed: &&BooleanArray| of_row.clone().filter(|at| deed.is_valid(*at) && deed.value(*at)).count();
            let done: usize = deeds.iter().map(done).sum();
            (done.min(u16::MAX.into()) as u64) << HASH_BITS | xxh3_64(rows.row(row).as_ref()) >> (64 - HASH_BITS)
        };
        let ranks: UInt64Array = (0..lists.len()).map(|row| Some(rank(row))).collect();
        Ok(ColumnarValue::Array(Arc::new(ranks) as ArrayRef))
    }
}
