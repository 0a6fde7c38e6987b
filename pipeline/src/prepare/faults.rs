//! What is wrong with an event of a lake that somebody else wrote: our own writers check before they write.

use std::{collections::HashSet, hash::Hash, sync::Arc};

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int32Array, StringViewArray, StructArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::util::display::array_value_to_string;
use datafusion::common::{DataFusionError, Result, exec_datafusion_err, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

/// `lockstep_checked(session_id, query_id, query_timestamp, results)`: the results as they are, or an error that names the event.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    signature: Signature,
}

impl Fault {
    pub const NAME: &str = "lockstep_checked";
    /// What its errors begin with, also where an engine has wrapped them.
    const MARK: &str = "the log, session ";
    const KEYS: [&str; 3] = ["session_id", "query_id", "query_timestamp"];

    /// The words of such an error, if it is one.
    pub fn words(error: &DataFusionError) -> Option<String> {
        let text = error.to_string();
        let words = &text[text.find(Self::MARK)?..];
        Some(words.lines().next().unwrap_or(words).to_owned())
    }

    pub fn udf() -> Arc<ScalarUDF> {
        Arc::new(ScalarUDF::new_from_impl(Self { signature: Signature::any(4, Volatility::Immutable) }))
    }
}

/// Lists up to this long are compared one by one, without a table.
const FEW: usize = 32;

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
        for row in rows.clone() {
            if self.position.is_null(row) || self.document.is_null(row) {
                return Some("a result has no position or no document_id".to_owned());
            }
            let position = self.position.value(row);
            if position < 1 {
                return Some(format!("a result is at position {position}, and positions count from 1"));
            }
            let logged = self.propensity.as_ref().filter(|column| column.is_valid(row)).map(|column| column.value(row));
            if let Some(value) = logged.filter(|value| !(*value > 0.0 && *value <= 1.0)) {
                return Some(format!("the propensity {value} at position {position} is not above 0 and at most 1"));
            }
        }
        let positions = &self.position.values()[rows.clone()];
        // Nearly every log has its results in their order.
        if !positions.is_sorted_by(|a, b| a < b)
            && let Some(again) = second(positions.iter())
        {
            return Some(format!("two results are at position {again}"));
        }
        let documents = rows.map(|row| self.document.value(row));
        second(documents).map(|again| format!("document `{again}` is shown twice"))
    }
}

/// The first that was there before.
fn second<T: Copy + Eq + Hash>(values: impl ExactSizeIterator<Item = T> + Clone) -> Option<T> {
    if values.len() <= FEW {
        return values
            .clone()
            .enumerate()
            .find(|(at, value)| values.clone().take(*at).any(|other| other == *value))
            .map(|found| found.1);
    }
    let mut seen = HashSet::with_capacity(values.len());
    values.clone().find(|value| !seen.insert(*value))
}

impl ScalarUDFImpl for Fault {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        types.last().cloned().ok_or_else(|| exec_datafusion_err!("{} takes an event", Self::NAME))
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
        let found = (0..lists.len()).find_map(|row| Some((row, fault(row)?)));
        let Some((row, fault)) = found else { return Ok(ColumnarValue::Array(results.clone())) };
        let name = |key: usize| array_value_to_string(&keys[key], row).unwrap_or_default();
        exec_err!("{}`{}`, query `{}`: {fault}", Self::MARK, name(0), name(1))
    }
}
