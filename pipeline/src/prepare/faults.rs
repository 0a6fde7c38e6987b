//! What is wrong with an event of a lake that somebody else wrote: our own writers check before they write.

use std::{collections::HashSet, sync::Arc};

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int32Array, StringArray, StringViewArray, StructArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// `lockstep_fault(session_id, query_id, query_timestamp, results)`: what is wrong, in words; null where nothing is.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    signature: Signature,
}

impl Fault {
    pub const NAME: &str = "lockstep_fault";
    const KEYS: [&str; 3] = ["session_id", "query_id", "query_timestamp"];

    pub fn udf() -> Arc<ScalarUDF> {
        Arc::new(ScalarUDF::new_from_impl(Self { signature: Signature::any(4, Volatility::Immutable) }))
    }
}

/// The results of all events, one after the other.
struct Results {
    position: Int32Array,
    document: StringViewArray,
    propensity: Option<Float64Array>,
}

impl Results {
    fn of(items: &StructArray) -> Result<Self> {
        let column = |name: &str, kind: DataType| -> Result<Option<ArrayRef>> {
            Ok(items.column_by_name(name).map(|column| cast(column, &kind)).transpose()?)
        };
        let (Some(position), Some(document)) =
            (column("position", DataType::Int32)?, column("document_id", DataType::Utf8View)?)
        else {
            return exec_err!("{}: results have no position or no document_id", Fault::NAME);
        };
        let propensity = column("propensity", DataType::Float64)?;
        Ok(Self {
            position: position.as_primitive().clone(),
            document: document.as_string_view().clone(),
            propensity: propensity.map(|column| column.as_primitive().clone()),
        })
    }

    fn fault(&self, rows: std::ops::Range<usize>) -> Option<String> {
        let (mut positions, mut documents) = (HashSet::new(), HashSet::new());
        for row in rows {
            if self.position.is_null(row) || self.document.is_null(row) {
                return Some("a result has no position or no document_id".to_owned());
            }
            let (position, document) = (self.position.value(row), self.document.value(row));
            if position < 1 {
                return Some(format!("a result is at position {position}, and positions count from 1"));
            }
            if !positions.insert(position) {
                return Some(format!("two results are at position {position}"));
            }
            if !documents.insert(document) {
                return Some(format!("document `{document}` is shown twice"));
            }
            let logged = self.propensity.as_ref().filter(|column| column.is_valid(row)).map(|column| column.value(row));
            if let Some(value) = logged.filter(|value| !(*value > 0.0 && *value <= 1.0)) {
                return Some(format!("the propensity {value} at position {position} is not above 0 and at most 1"));
            }
        }
        None
    }
}

impl ScalarUDFImpl for Fault {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [keys @ .., results] = arrays.as_slice() else { return exec_err!("{} takes an event", Self::NAME) };
        let Some(lists) = results.as_list_opt::<i32>() else {
            return exec_err!("{}: results are {}, not a list", Self::NAME, results.data_type());
        };
        let items = Results::of(lists.values().as_struct())?;
        let fault = |row: usize| {
            if let Some(missing) = keys.iter().position(|key| key.is_null(row)) {
                return Some(format!("`{}` is null", Self::KEYS[missing]));
            }
            if lists.is_null(row) {
                return Some("`results` is null".to_owned());
            }
            let offsets = lists.value_offsets();
            items.fault(offsets[row] as usize..offsets[row + 1] as usize)
        };
        let faults: StringArray = (0..lists.len()).map(fault).collect();
        Ok(ColumnarValue::Array(Arc::new(faults) as ArrayRef))
    }
}
