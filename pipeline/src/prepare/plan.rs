//! The one plan: events, their features, their results one row each, the results' features, label and weight.

use std::collections::BTreeMap;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{JoinType, Result, ScalarValue, internal_err};
use datafusion::dataframe::DataFrame;
use datafusion::execution::context::SessionContext;
use datafusion::functions::core::expr_ext::FieldAccessor as _;
use datafusion::functions_aggregate::expr_fn::{avg, count};
use datafusion::functions_window::expr_fn::{lead, row_number};
use datafusion::logical_expr::{Expr, ExprFunctionExt as _, Extension, LogicalPlan, LogicalPlanBuilder, cast, lit};
use datafusion::prelude::{col, ident};
use ranking::{
    labels::LabelOptions,
    propensity::{PropensityTable, Weighting},
};

use super::{
    copies::CopyRank,
    expressions::{self, Impression},
    faults::Fault,
    join_key::JoinKey,
    list_id::ListId,
    numbered::{Numbered, ROW},
    sink::{LIST, SinkSpec, TIME, TrainingSink, WEIGHED, marker},
    sources::{Key, Log, Table, VALID_FROM, timestamp},
};

/// Where a feature comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Table(Key),
    Event,
    Result,
}

/// All that the rows are made of.
pub struct Ingredients<'a> {
    pub context: &'a SessionContext,
    /// None: the rows are the judgments.
    pub log: Option<&'a Log>,
    /// Where labels come from, if not from clicks.
    pub judgments: Option<&'a Table>,
    pub tables: &'a [Table],
    /// In the order of the dataset.
    pub features: &'a [(String, Source)],
    pub labels: &'a LabelOptions,
    pub weighting: &'a Weighting,
    pub propensities: &'a PropensityTable,
    /// What the weights of weighed rows are divided by.
    pub divisor: f64,
    /// The time of the search goes along, to split by it.
    pub with_time: bool,
    /// Microseconds since 1970: what is known by then is known of judgments.
    pub now: i64,
}

/// The names of columns on their way; none of them can be a feature's, which are checked.
const RESULTS: &str = "results";
const SESSION: &str = "session_id";
const QUERY: &str = dataset::layout::QUERY;
const DOCUMENT: &str = dataset::layout::DOCUMENT;
const LABEL: &str = dataset::layout::LABEL;
const USER: &str = "user_id";

impl Ingredients<'_> {
    /// One row an event: the list's identity, and the log's columns.
    fn events(&self) -> Result<DataFrame> {
        let log = self.events_as_logged()?;
        let columns = log.schema().fields().iter().filter(|field| field.name() != SESSION);
        let checked = self.log.is_some_and(|log| log.is_foreign);
        let column = |name: &String| match name.as_str() {
            // Nobody else has checked them.
            RESULTS if checked => {
                Fault::udf().call(vec![col(SESSION), col(QUERY), col(TIME), ident(RESULTS)]).alias(RESULTS)
            }
            name => ident(name),
        };
        let columns: Vec<Expr> = columns.map(|field| column(field.name())).chain([identity()]).collect();
        log.select(columns)
    }

    fn events_as_logged(&self) -> Result<DataFrame> {
        match self.log {
            Some(log) => self.context.read_table(log.provider.clone()),
            None => internal_err!("there is no log"),
        }
    }

    /// How many events (or judgments, where these are the rows), and how many different queries.
    pub fn totals(&self) -> Result<DataFrame> {
        let rows = match self.log {
            Some(_) => self.events_as_logged()?,
            None => self.judged()?,
        };
        rows.aggregate(
            vec![],
            vec![
                count(lit(1i64)).alias("events"),
                datafusion::functions_aggregate::expr_fn::count_distinct(col(QUERY)).alias("queries"),
            ],
        )
    }

    /// The identities that several events have, with how many, and how many different searches those are.
    pub fn repeated(&self) -> Result<DataFrame> {
        let log = self.events_as_logged()?;
        log.select(vec![identity()])?
            .aggregate(vec![col(LIST)], vec![count(lit(1i64)).alias("events")])?
            .filter(col("events").gt(lit(1i64)))
    }

    /// How many different searches these identities belong to; more than identities where a hash was not enough.
    pub fn searches_of(&self, ids: &[i64]) -> Result<DataFrame> {
        let log = self.events_as_logged()?;
        let log = log.select(vec![identity(), col(SESSION), col(QUERY), col(TIME)])?;
        self.identities(ids)?
            .join(log, JoinType::RightSemi, &["again"], &[LIST], None)?
            .select(vec![col(SESSION), col(QUERY), col(TIME)])?
            .distinct()?
            .aggregate(vec![], vec![count(lit(1i64)).alias("searches")])
    }

    fn identities(&self, ids: &[i64]) -> Result<DataFrame> {
        let rows = ids.iter().map(|id| vec![lit(*id)]).collect();
        let plan = LogicalPlanBuilder::values(rows)?.project(vec![col("column1").alias("again")])?.build()?;
        Ok(DataFrame::new(self.context.state(), plan))
    }

    /// The events; of those with one identity the one with which most was done.
    fn distinct_events(&self, repeated: &[i64]) -> Result<DataFrame> {
        let events = self.events()?;
        if repeated.is_empty() {
            return Ok(events);
        }
        // The few are held in memory, the log streams past them.
        let again = self.identities(repeated)?;
        let single = again.clone().join(events.clone(), JoinType::RightAnti, &["again"], &[LIST], None)?;
        let rank = CopyRank::udf().call(vec![ident(RESULTS)]);
        let number = row_number().partition_by(vec![col(LIST)]).order_by(vec![rank.sort(false, false)]).build()?;
        let columns: Vec<Expr> = events.schema().fields().iter().map(|field| ident(field.name())).collect();
        let first = again
            .join(events, JoinType::RightSemi, &["again"], &[LIST], None)?
            .window(vec![number.alias("repetition")])?
            .filter(col("repetition").eq(lit(1u64)))?
            .select(columns)?;
        single.union(first)
    }

    /// The judgments: query, document and label.
    fn judged(&self) -> Result<DataFrame> {
        let Some(table) = self.judgments else { return internal_err!("there are no judgments") };
        let text = |column: &str| cast(ident(column), DataType::Utf8View).alias(column);
        let label = cast(ident(LABEL), DataType::Float32).alias(LABEL);
        self.context.read_table(table.provider.clone())?.select(vec![text(QUERY), text(DOCUMENT), label])
    }

    /// How many results the log shows.
    pub fn impressions(&self, repeated: &[i64]) -> Result<DataFrame> {
        let results = self.distinct_events(repeated)?.unnest_columns(&[RESULTS])?;
        results.aggregate(vec![], vec![count(lit(1i64)).alias("impressions")])
    }

    /// One row a judgment, the queries as lists.
    fn rows_of_judgments(&self) -> Result<DataFrame> {
        let now = ScalarValue::TimestampMicrosecond(Some(self.now), Some("UTC".into()));
        let no_time = ScalarValue::TimestampMicrosecond(Some(0), Some("UTC".into()));
        let id = ListId::udf().call(vec![lit(""), cast(ident(QUERY), DataType::Utf8), lit(no_time)]).alias(LIST);
        let rows = self.judged()?.select(vec![
            id,
            ident(QUERY),
            ident(DOCUMENT),
            ident(LABEL),
            lit(1f32).alias(dataset::layout::WEIGHT),
            lit(expressions::NOT_WEIGHED).alias(WEIGHED),
            lit(now).alias(TIME),
        ])?;
        numbered(rows)
    }

    /// One row a result of the log, with its label of clicks or judgments and the features that belong to searches.
    fn rows_of_log(&self, repeated: &[i64]) -> Result<DataFrame> {
        let mut rows = self.distinct_events(repeated)?;
        for table in self.tables.iter().filter(|table| table.key.of_event()) {
            rows = self.join(rows, table)?;
        }
        let of = self.impression();
        let weight = expressions::weight(self.weighting, self.propensities, self.divisor, &of)?;
        let mut columns: Vec<Expr> = rows
            .schema()
            .fields()
            .iter()
            .filter(|field| {
                ![RESULTS, USER].contains(&field.name().as_str()) && (field.name() != TIME || self.needs_time())
            })
            .map(|field| ident(field.name()))
            .collect();
        columns.push(result("document_id").alias(DOCUMENT));
        if self.judgments.is_none() {
            columns.push(expressions::label(self.labels, &of)?.alias(LABEL));
        }
        columns.push(weight.weight.alias(dataset::layout::WEIGHT));
        columns.push(weight.weighed.alias(WEIGHED));
        for (name, source) in self.features {
            if *source == Source::Result {
                columns.push(cast(result(name), DataType::Float32).alias(name));
            }
        }
        rows = numbered(rows.unnest_columns(&[RESULTS])?.select(columns)?)?;
        if self.judgments.is_none() {
            return Ok(rows);
        }
        let mut kept: Vec<Expr> = rows.schema().fields().iter().map(|field| ident(field.name())).collect();
        kept.push(ident(LABEL));
        let key = || join_key(Key::Pair.columns());
        let judged = self.judged()?.select(vec![key().alias("judged.key"), ident(LABEL)])?;
        let same = [ident("judged.key").eq(key())];
        judged.join_on(rows, JoinType::Inner, same)?.select(kept)
    }

    /// The rows: the sink's columns.
    pub fn rows(&self, repeated: &[i64]) -> Result<DataFrame> {
        let mut rows = match self.log {
            Some(_) => self.rows_of_log(repeated)?,
            None => self.rows_of_judgments()?,
        };
        let joined = |table: &&Table| self.log.is_some() && table.key.of_event();
        for table in self.tables.iter().filter(|table| !joined(table)) {
            rows = self.join(rows, table)?;
        }
        let mut names = vec![LIST, QUERY, DOCUMENT, LABEL, dataset::layout::WEIGHT, WEIGHED, ROW];
        names.extend(self.with_time.then_some(TIME));
        let mut columns: Vec<Expr> = names.into_iter().map(ident).collect();
        columns.extend(self.tables.iter().map(|table| ident(marker(table.key.word()))));
        columns.extend(self.features.iter().map(|(name, source)| match source {
            Source::Event => cast(ident(name), DataType::Float32).alias(name),
            Source::Table(_) | Source::Result => ident(name),
        }));
        rows.select(columns)
    }

    /// The mean weight of the rows that are weighed, before it is divided.
    pub fn mean_weight(&self, repeated: &[i64]) -> Result<DataFrame> {
        let weight = expressions::weight(self.weighting, self.propensities, 1.0, &self.impression())?;
        self.distinct_events(repeated)?
            .unnest_columns(&[RESULTS])?
            .filter(weight.weighed.not_eq(lit(expressions::NOT_WEIGHED)))?
            .aggregate(vec![], vec![avg(weight.clipped).alias("mean")])
    }

    fn impression(&self) -> Impression {
        Impression {
            position: result("position"),
            clicked: result("clicked"),
            dwell: result("dwell_time_seconds"),
            cart: result("added_to_cart"),
            purchased: result("purchased"),
            propensity: self.log.is_some_and(|log| log.has_propensity).then(|| result("propensity")),
        }
    }

    /// The mean of each feature over all rows that have it.
    pub fn means(&self, repeated: &[i64]) -> Result<DataFrame> {
        let mean = |(name, _): &(String, Source)| avg(cast(ident(name), DataType::Float64)).alias(name);
        self.rows(repeated)?.aggregate(vec![], self.features.iter().map(mean).collect())
    }

    /// The whole plan: one row with an outcome a partition.
    pub fn write(&self, repeated: &[i64], spec: &SinkSpec) -> Result<DataFrame> {
        let (state, rows) = self.rows(repeated)?.into_parts();
        let sink = TrainingSink::new(rows, spec)?;
        let plan = LogicalPlan::Extension(Extension { node: std::sync::Arc::new(sink) });
        Ok(DataFrame::new(state, plan))
    }

    fn needs_time(&self) -> bool {
        self.with_time || self.tables.iter().any(|table| table.as_of && !table.key.of_event())
    }

    /// Gives every row the table's features, or nulls. The rows stream by in their order, past a hash table of the features:
    /// that is what a *right* join does here with rows that have one.
    fn join(&self, rows: DataFrame, table: &Table) -> Result<DataFrame> {
        let word = table.key.word();
        let key = |column: &str| format!("{word}.{column}");
        let mut columns: Vec<Expr> = vec![join_key(table.key.columns()).alias(key("key"))];
        for (name, source) in self.features {
            if *source == Source::Table(table.key) {
                columns.push(cast(ident(name), DataType::Float32).alias(name));
            }
        }
        columns.push(lit(true).alias(marker(word)));
        let mut features = self.context.read_table(table.provider.clone())?;
        let mut holds = None;
        if table.as_of {
            let (from, to) = (key(VALID_FROM), key("valid_to"));
            columns.push(cast(ident(VALID_FROM), timestamp()).alias(&from));
            features = features.select(columns)?;
            let next = lead(ident(&from), Some(1), None)
                .partition_by(vec![ident(key("key"))])
                .order_by(vec![ident(&from).sort(true, false)])
                .build()?;
            features = features.window(vec![next.alias(&to)])?;
            let begun = ident(&from).lt_eq(ident(TIME));
            holds = Some(begun.and(ident(&to).is_null().or(ident(TIME).lt(ident(&to)))));
        } else {
            features = features.select(columns)?;
        }
        let mut kept: Vec<Expr> = rows.schema().fields().iter().map(|field| ident(field.name())).collect();
        kept.extend(
            self.features.iter().filter(|(_, source)| *source == Source::Table(table.key)).map(|(name, _)| ident(name)),
        );
        kept.push(ident(marker(word)));
        let mut on = vec![ident(key("key")).eq(join_key(table.key.columns()))];
        on.extend(holds);
        features.join_on(rows, JoinType::Right, on)?.select(kept)
    }

    /// Keys that stand twice in a table, some of them.
    pub fn repeated_keys(&self, table: &Table, most: usize) -> Result<DataFrame> {
        let mut columns: Vec<Expr> =
            table.key.columns().iter().map(|column| cast(ident(*column), DataType::Utf8View).alias(*column)).collect();
        if table.as_of {
            columns.push(cast(ident(VALID_FROM), timestamp()).alias(VALID_FROM));
        }
        let keys: Vec<Expr> = columns.iter().map(|column| ident(column.schema_name().to_string())).collect();
        self.context
            .read_table(table.provider.clone())?
            .select(columns)?
            .aggregate(keys, vec![count(lit(1i64)).alias("rows")])?
            .filter(col("rows").gt(lit(1i64)))?
            .limit(0, Some(most))
    }
}

/// Every row with its number, so that it keeps its place.
fn numbered(rows: DataFrame) -> Result<DataFrame> {
    let (state, plan) = rows.into_parts();
    let node = std::sync::Arc::new(Numbered::new(plan)?);
    Ok(DataFrame::new(state, LogicalPlan::Extension(Extension { node })))
}

/// Of a search of the log.
fn identity() -> Expr {
    ListId::udf().call(vec![col(SESSION), col(QUERY), col(TIME)]).alias(LIST)
}

fn join_key(columns: &[&str]) -> Expr {
    JoinKey::udf().call(columns.iter().map(|column| ident(*column)).collect())
}

/// A field of the result at hand, once results are unnested.
fn result(name: &str) -> Expr {
    ident(RESULTS).field(name)
}

/// Finds the one place that each feature comes from; else says what is wrong with all of them.
pub fn find_features(
    wanted: &[String],
    tables: &[Table],
    log: Option<&Log>,
) -> std::result::Result<Vec<(String, Source)>, Vec<String>> {
    let mut places: BTreeMap<&str, Vec<(Source, String)>> = BTreeMap::new();
    for table in tables {
        for name in &table.numeric {
            let place = (Source::Table(table.key), format!("the {} features", table.key.word()));
            places.entry(name).or_default().push(place);
        }
    }
    let of_log = log.map(|log| {
        [
            (&log.event_features, Source::Event, "the log's events"),
            (&log.result_features, Source::Result, "the log's results"),
        ]
    });
    for (names, source, place) in of_log.into_iter().flatten() {
        for name in names {
            places.entry(name).or_default().push((source, place.to_owned()));
        }
    }
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for name in wanted {
        match places.get(name.as_str()).map(Vec::as_slice) {
            None => problems.push(format!("`{name}` is in none of them")),
            Some([(source, _)]) => found.push((name.clone(), *source)),
            Some(several) => {
                let several: Vec<&str> = several.iter().map(|(_, place)| place.as_str()).collect();
                problems.push(format!("`{name}` is in {}", several.join(" and in ")));
            }
        }
    }
    if problems.is_empty() { Ok(found) } else { Err(problems) }
}

/// The single value of a batch's cell as a number.
pub fn number(value: &ScalarValue) -> Option<f64> {
    match value.cast_to(&DataType::Float64) {
        Ok(ScalarValue::Float64(value)) => value,
        _ => None,
    }
}
