//! What rows meet their features by: numbers in place of the keys' texts, which a hash join would compare byte by byte.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, StringViewArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use xxhash_rust::xxh3::xxh3_128;

/// `lockstep_join_key(text, …)`: 126 bits of the xxh3-128 of the texts, each of several followed by its length (8 bytes, little-endian), as a
/// decimal; null where a text is. Two of n different keys are taken for one with a probability of n² / 2^127: 6e-25 for ten million.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct JoinKey {
    signature: Signature,
}

/// 126 bits are below 10^38.
const BITS_LEFT_OUT: u32 = 2;
const DIGITS: u8 = 38;

impl JoinKey {
    pub const NAME: &str = "lockstep_join_key";

    pub fn udf() -> Arc<ScalarUDF> {
        let signature = Signature::variadic_any(Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(Self { signature }))
    }
}

/// `buffer` is scratch.
fn key<'a>(texts: impl ExactSizeIterator<Item = &'a str>, buffer: &mut Vec<u8>) -> i128 {
    buffer.clear();
    let several = texts.len() > 1;
    for text in texts {
        buffer.extend_from_slice(text.as_bytes());
        if several {
            buffer.extend_from_slice(&(text.len() as u64).to_le_bytes());
        }
    }
    (xxh3_128(buffer) >> BITS_LEFT_OUT) as i128
}

impl ScalarUDFImpl for JoinKey {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Decimal128(DIGITS, 0))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let arrays = arrays.iter().map(|array| cast(array, &DataType::Utf8View)).collect::<Result<Vec<_>, _>>()?;
        let columns: Vec<&StringViewArray> = arrays.iter().map(|array| array.as_string_view()).collect();
        let rows = columns.first().map_or(0, |column| column.len());
        let mut buffer = Vec::new();
        let keys = (0..rows).map(|row| {
            let known = columns.iter().all(|column| column.is_valid(row));
            known.then(|| key(columns.iter().map(|column| column.value(row)), &mut buffer))
        });
        let keys: Decimal128Array = keys.collect();
        Ok(ColumnarValue::Array(Arc::new(keys.with_precision_and_scale(DIGITS, 0)?) as ArrayRef))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_several_texts_know_where_one_ends() {
        let texts: [&[&str]; 5] = [&["ab", "c"], &["a", "bc"], &["abc"], &["abc", ""], &["", "abc"]];
        let keys = texts.map(|texts| key(texts.iter().copied(), &mut Vec::new()));
        for (at, one) in keys.iter().enumerate() {
            assert!((0..10i128.pow(38)).contains(one));
            assert!(!keys[..at].contains(one), "{keys:?}");
        }
    }
}
