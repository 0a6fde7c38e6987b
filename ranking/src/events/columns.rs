//! Events as Arrow columns: the schema of the lake, and the builder of its batches.

use std::sync::Arc;

use arrow::array::{
    ArrayBuilder as _, ArrayRef, BooleanBuilder, Float32Builder, Float64Builder, Int32Builder, ListArray, RecordBatch,
    StringBuilder, StructArray, TimestampMicrosecondBuilder,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};

use super::{EventView, SearchEvent};

/// What the lake's files hold: the fields of [`SearchEvent`], results nested, and the features that are logged with results.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSchema {
    features: Vec<String>,
}

/// A name that no logged feature can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFeature {
    #[error("`{0}` cannot be a logged feature: every result has a field of that name")]
    Own(String),
    #[error("the logged feature `{0}` is named twice")]
    Twice(String),
    #[error("a logged feature has no name")]
    Nameless,
}

impl LogSchema {
    /// With these further columns of a result, as nullable float32; where the names come from a person, [`check`](Self::check) them.
    pub fn with_features<S: Into<String>>(features: impl IntoIterator<Item = S>) -> Self {
        Self { features: features.into_iter().map(Into::into).collect() }
    }

    pub fn features(&self) -> &[String] {
        &self.features
    }

    /// Whether each feature has a name of its own.
    pub fn check(&self) -> Result<(), BadFeature> {
        let own = Self::default().result();
        for (at, name) in self.features.iter().enumerate() {
            if name.is_empty() {
                return Err(BadFeature::Nameless);
            }
            if own.find(name).is_some() {
                return Err(BadFeature::Own(name.clone()));
            }
            if self.features[..at].contains(name) {
                return Err(BadFeature::Twice(name.clone()));
            }
        }
        Ok(())
    }

    /// One row an event.
    pub fn arrow(&self) -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("session_id", DataType::Utf8, false),
            Field::new("query_id", DataType::Utf8, false),
            Field::new("user_id", DataType::Utf8, true),
            Field::new("query", DataType::Utf8, false),
            Field::new("query_timestamp", timestamp(), false),
            Field::new("results", DataType::List(self.item()), false),
            Field::new("device", DataType::Utf8, false),
            Field::new("location", DataType::Utf8, false),
            Field::new("ranker_version", DataType::Utf8, true),
            Field::new("explored", DataType::Boolean, true),
            Field::new("arm", DataType::Utf8, true),
        ]))
    }

    fn item(&self) -> FieldRef {
        Arc::new(Field::new("item", DataType::Struct(self.result()), false))
    }

    fn result(&self) -> Fields {
        let own = [
            Field::new("position", DataType::Int32, false),
            Field::new("document_id", DataType::Utf8, false),
            Field::new("score", DataType::Float64, false),
            Field::new("clicked", DataType::Boolean, false),
            Field::new("click_timestamp", timestamp(), true),
            Field::new("dwell_time_seconds", DataType::Float64, true),
            Field::new("added_to_cart", DataType::Boolean, false),
            Field::new("purchased", DataType::Boolean, false),
            Field::new("propensity", DataType::Float64, true),
        ];
        own.into_iter().chain(self.features.iter().map(|name| Field::new(name, DataType::Float32, true))).collect()
    }
}

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// Gathers events into batches of the lake's schema.
#[derive(Debug)]
pub struct EventColumns {
    schema: LogSchema,
    session_id: StringBuilder,
    query_id: StringBuilder,
    user_id: StringBuilder,
    query: StringBuilder,
    query_timestamp: TimestampMicrosecondBuilder,
    /// Where each event's results end.
    ends: Vec<i32>,
    device: StringBuilder,
    location: StringBuilder,
    ranker_version: StringBuilder,
    explored: BooleanBuilder,
    arm: StringBuilder,
    position: Int32Builder,
    document_id: StringBuilder,
    score: Float64Builder,
    clicked: BooleanBuilder,
    click_timestamp: TimestampMicrosecondBuilder,
    dwell_time_seconds: Float64Builder,
    added_to_cart: BooleanBuilder,
    purchased: BooleanBuilder,
    propensity: Float64Builder,
    features: Vec<Float32Builder>,
}

impl EventColumns {
    pub fn new(schema: LogSchema) -> Self {
        let features = schema.features().iter().map(|_| Float32Builder::new()).collect();
        Self {
            schema,
            session_id: StringBuilder::new(),
            query_id: StringBuilder::new(),
            user_id: StringBuilder::new(),
            query: StringBuilder::new(),
            query_timestamp: TimestampMicrosecondBuilder::new().with_timezone("UTC"),
            ends: vec![0],
            device: StringBuilder::new(),
            location: StringBuilder::new(),
            ranker_version: StringBuilder::new(),
            explored: BooleanBuilder::new(),
            arm: StringBuilder::new(),
            position: Int32Builder::new(),
            document_id: StringBuilder::new(),
            score: Float64Builder::new(),
            clicked: BooleanBuilder::new(),
            click_timestamp: TimestampMicrosecondBuilder::new().with_timezone("UTC"),
            dwell_time_seconds: Float64Builder::new(),
            added_to_cart: BooleanBuilder::new(),
            purchased: BooleanBuilder::new(),
            propensity: Float64Builder::new(),
            features,
        }
    }

    /// Events gathered so far.
    pub fn len(&self) -> usize {
        self.ends.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Results gathered so far.
    pub fn results(&self) -> usize {
        self.position.len()
    }

    pub fn push(&mut self, event: &SearchEvent) {
        self.append(&EventView::of(event, &self.schema));
    }

    /// The event has as many features a result as the schema names.
    pub fn append(&mut self, event: &EventView<'_>) {
        self.session_id.append_value(&event.session_id);
        self.query_id.append_value(&event.query_id);
        self.user_id.append_option(event.user_id.as_deref());
        self.query.append_value(&event.query);
        self.query_timestamp.append_value(event.query_timestamp.0);
        self.device.append_value(&event.device);
        self.location.append_value(&event.location);
        self.ranker_version.append_option(event.ranker_version.as_deref());
        self.explored.append_option(event.explored);
        self.arm.append_option(event.arm.as_deref());
        for result in &event.results {
            self.position.append_value(result.position as i32);
            self.document_id.append_value(&result.document_id);
            self.score.append_value(result.score);
            self.clicked.append_value(result.clicked);
            self.click_timestamp.append_option(result.click_timestamp.map(|moment| moment.0));
            self.dwell_time_seconds.append_option(result.dwell_time_seconds);
            self.added_to_cart.append_value(result.added_to_cart);
            self.purchased.append_value(result.purchased);
            self.propensity.append_option(result.propensity);
        }
        let width = self.features.len();
        for (at, column) in self.features.iter_mut().enumerate() {
            event.features.iter().skip(at).step_by(width).for_each(|value| column.append_option(*value));
        }
        self.ends.push(self.position.len() as i32);
    }

    /// The batch of what was gathered; what follows begins a new one.
    pub fn finish(&mut self) -> RecordBatch {
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.position.finish()),
            Arc::new(self.document_id.finish()),
            Arc::new(self.score.finish()),
            Arc::new(self.clicked.finish()),
            Arc::new(self.click_timestamp.finish()),
            Arc::new(self.dwell_time_seconds.finish()),
            Arc::new(self.added_to_cart.finish()),
            Arc::new(self.purchased.finish()),
            Arc::new(self.propensity.finish()),
        ];
        columns.extend(self.features.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef));
        let results = StructArray::new(self.schema.result(), columns, None);
        let ends = std::mem::replace(&mut self.ends, vec![0]);
        let offsets = OffsetBuffer::new(ScalarBuffer::from(ends));
        let results = ListArray::new(self.schema.item(), offsets, Arc::new(results), None);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.session_id.finish()),
            Arc::new(self.query_id.finish()),
            Arc::new(self.user_id.finish()),
            Arc::new(self.query.finish()),
            Arc::new(self.query_timestamp.finish()),
            Arc::new(results),
            Arc::new(self.device.finish()),
            Arc::new(self.location.finish()),
            Arc::new(self.ranker_version.finish()),
            Arc::new(self.explored.finish()),
            Arc::new(self.arm.finish()),
        ];
        #[expect(clippy::expect_used, reason = "the columns were built from this very schema")]
        RecordBatch::try_new(self.schema.arrow(), columns).expect("columns of the schema")
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{Float32Type, Int32Type};

    use super::*;
    use crate::events::{ResultImpression, Timestamp};

    fn event(results: u32) -> SearchEvent {
        let result = |position| ResultImpression {
            position,
            document_id: format!("d{position}"),
            score: 1.0,
            clicked: position == 1,
            click_timestamp: None,
            dwell_time_seconds: None,
            added_to_cart: false,
            purchased: false,
            propensity: None,
            features: vec![(position > 1).then_some(0.5)],
        };
        SearchEvent {
            session_id: "s".into(),
            query_id: "q".into(),
            user_id: None,
            query: "shoes".into(),
            query_timestamp: Timestamp(1),
            results: (1..=results).map(result).collect(),
            device: "phone".into(),
            location: "DE".into(),
            ranker_version: None,
            explored: None,
            arm: None,
        }
    }

    #[test]
    fn a_feature_needs_a_name_of_its_own() {
        let check = |names: &[&str]| LogSchema::with_features(names.iter().copied()).check();
        assert_eq!(check(&["bm25_score", "price"]), Ok(()));
        assert_eq!(check(&["price", "clicked"]), Err(BadFeature::Own("clicked".into())));
        assert_eq!(check(&["position"]), Err(BadFeature::Own("position".into())));
        assert_eq!(check(&["price", "bm25_score", "price"]), Err(BadFeature::Twice("price".into())));
        assert_eq!(check(&["price", ""]), Err(BadFeature::Nameless));
    }

    #[test]
    fn events_become_rows_with_their_results_nested_and_the_builder_starts_anew() {
        let mut columns = EventColumns::new(LogSchema::with_features(["bm25_score"]));
        columns.push(&event(2));
        columns.push(&event(3));
        assert_eq!((columns.len(), columns.results()), (2, 5));
        let batch = columns.finish();
        let results = batch.column_by_name("results").unwrap().as_list::<i32>();
        assert_eq!(results.value_length(1), 3);
        let nested = results.values().as_struct();
        let positions = nested.column_by_name("position").unwrap().as_primitive::<Int32Type>();
        assert_eq!(positions.values(), &[1, 2, 1, 2, 3]);
        let feature = nested.column_by_name("bm25_score").unwrap().as_primitive::<Float32Type>();
        assert_eq!(feature.iter().collect::<Vec<_>>(), [None, Some(0.5), None, Some(0.5), Some(0.5)]);
        assert!(columns.is_empty());
        columns.push(&event(1));
        assert_eq!(columns.finish().num_rows(), 1);
    }
}
