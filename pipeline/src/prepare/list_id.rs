//! The identity of a list: one search, named by who searched, for what, and when.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use xxhash_rust::xxh3::Xxh3;

/// `lockstep_list_id(session_id, query_id, query_timestamp)`: the xxh3-64 of the two texts, each followed by a zero byte, and of
/// the timestamp's microseconds (8 bytes, little-endian), as Int64.
///
/// Two searches of one log share an id with a probability of n² / 2^65: 3e-6 for ten million. `prepare` notices it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct ListId {
    signature: Signature,
}

impl ListId {
    pub const NAME: &str = "lockstep_list_id";

    pub fn udf() -> Arc<ScalarUDF> {
        let signature = Signature::new(TypeSignature::Any(3), Volatility::Immutable);
        Arc::new(ScalarUDF::new_from_impl(Self { signature }))
    }
}

/// The id of one list.
pub fn list_id(session: &str, query: &str, micros: i64) -> i64 {
    let mut hash = Xxh3::new();
    hash.update(session.as_bytes());
    hash.update(&[0]);
    hash.update(query.as_bytes());
    hash.update(&[0]);
    hash.update(&micros.to_le_bytes());
    hash.digest() as i64
}

impl ScalarUDFImpl for ListId {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [session, query, time] = arrays.as_slice() else {
            return exec_err!("{} takes a session, a query and a time", Self::NAME);
        };
        let (session, query) = (cast(session, &DataType::Utf8View)?, cast(query, &DataType::Utf8View)?);
        let Some(time) = time.as_primitive_opt::<TimestampMicrosecondType>() else {
            return exec_err!("{}: the time is {}, not in microseconds", Self::NAME, time.data_type());
        };
        let (session, query) = (session.as_string_view(), query.as_string_view());
        let ids: Int64Array = (0..time.len())
            .map(|row| list_id(session.value(row), query.value(row), time.value(row)))
            .collect::<Vec<_>>()
            .into();
        Ok(ColumnarValue::Array(Arc::new(ids) as ArrayRef))
    }
}
