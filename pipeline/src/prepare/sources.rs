//! What goes into the plan: the log's files and the feature tables, opened and checked, and where each feature comes from.

use std::{collections::BTreeMap, sync::Arc};

use arrow::compute::can_cast_types;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use datafusion::datasource::TableProvider;
use datafusion::datasource::file_format::{FileFormat, parquet::ParquetFormat};
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::execution::context::SessionContext;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use object_store::{ObjectMeta, ObjectStoreExt as _};
use ranking::events::LogSchema;

use crate::{
    PipelineError,
    lake::{Lake, LakeFile},
    store::Store,
};

/// Footers read at a time.
const FOOTERS_AT_ONCE: usize = 16;
/// The column that says from when on a row of a feature table holds.
pub const VALID_FROM: &str = "valid_from";

/// What a feature table is keyed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Query,
    User,
    Document,
    Pair,
}

impl Key {
    pub const ALL: [Self; 4] = [Self::Query, Self::User, Self::Document, Self::Pair];

    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Query => &["query_id"],
            Self::User => &["user_id"],
            Self::Document => &["document_id"],
            Self::Pair => &["query_id", "document_id"],
        }
    }

    /// As options and reports call it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::User => "user",
            Self::Document => "document",
            Self::Pair => "pair",
        }
    }

    /// Known before the results are unnested, so joined before.
    pub fn of_event(self) -> bool {
        matches!(self, Self::Query | Self::User)
    }
}

/// A feature table.
#[derive(Clone, Debug)]
pub struct Table {
    pub key: Key,
    /// What it holds, as errors call it.
    what: String,
    pub location: String,
    /// Of its files.
    pub bytes: u64,
    pub provider: Arc<dyn TableProvider>,
    /// Its numeric columns.
    pub numeric: Vec<String>,
    /// Rows hold from a moment on.
    pub as_of: bool,
}

impl Table {
    pub async fn open(context: &SessionContext, key: Key, location: &str) -> Result<Self, PipelineError> {
        Self::open_as(format!("{} features", key.word()), context, key, location).await
    }

    /// Judgments, which are keyed like features of pairs.
    pub async fn judgments(context: &SessionContext, location: &str) -> Result<Self, PipelineError> {
        let table = Self::open_as("judgments".to_owned(), context, Key::Pair, location).await?;
        if !table.numeric.iter().any(|name| name == dataset::layout::LABEL) || table.as_of {
            return Err(PipelineError::data(format!("{}: there is no number `label`", table.name()))
                .with_hint("name a Parquet file of `lockstep judge aggregate`"));
        }
        Ok(table)
    }

    /// For errors.
    pub fn name(&self) -> String {
        format!("{} `{}`", self.what, self.location)
    }

    async fn open_as(what: String, context: &SessionContext, key: Key, location: &str) -> Result<Self, PipelineError> {
        let store = Store::open(location)?;
        let files = parquet_files(&store, location).await?;
        let wrong = |message: String| PipelineError::data(format!("{what} `{location}`: {message}"));
        let schemas = schemas(context, &store, &files).await?;
        let mut merged: BTreeMap<&str, (&Field, &ObjectMeta)> = BTreeMap::new();
        for (schema, file) in schemas.iter().zip(&files) {
            for field in schema.fields() {
                let (known, first) = merged.entry(field.name()).or_insert((field, file));
                if known.data_type() != field.data_type() {
                    return Err(wrong(format!(
                        "column `{}` is {} in `{}` and {} in `{}`",
                        field.name(),
                        field.data_type(),
                        file.location,
                        known.data_type(),
                        first.location
                    ))
                    .with_hint("write all files of a table with one schema"));
                }
            }
        }
        let schema = schemas[0].clone();
        for column in key.columns() {
            let Ok(field) = schema.field_with_name(column) else {
                let found: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
                return Err(wrong(format!("there is no column `{column}`, which is its key"))
                    .with_hint(format!("it has {}", found.join(", "))));
            };
            if !can_cast_types(field.data_type(), &DataType::Utf8View) {
                return Err(wrong(format!("the key `{column}` is {}, not text or a number", field.data_type())));
            }
        }
        let as_of = match schema.field_with_name(VALID_FROM) {
            // Of a number nobody knows whether it counts seconds.
            Ok(field) if is_moment(field.data_type()) => true,
            Ok(field) => {
                return Err(wrong(format!("`{VALID_FROM}` is {}, not a timestamp", field.data_type()))
                    .with_hint("write it as a timestamp, a date, or text as in 2026-01-31T12:00:00Z"));
            }
            Err(_) => false,
        };
        let own = |name: &str| key.columns().contains(&name) || name == VALID_FROM;
        let numeric = schema.fields().iter().filter(|field| is_number(field.data_type()) && !own(field.name()));
        let numeric = numeric.map(|field| field.name().clone()).collect();
        let bytes = files.iter().map(|file| file.size).sum();
        let paths = files.iter().map(|file| &file.location);
        let provider = listing(&store, paths, schema)?;
        Ok(Self { key, what, location: location.to_owned(), bytes, provider, numeric, as_of })
    }
}

/// The log's files of the dates that are wanted.
#[derive(Clone, Debug)]
pub struct Log {
    pub provider: Arc<dyn TableProvider>,
    pub files: usize,
    pub bytes: u64,
    /// Numeric columns of an event and of a result that are not the log's own: logged features.
    pub event_features: Vec<String>,
    pub result_features: Vec<String>,
    pub has_propensity: bool,
    /// Not written by us, so not checked.
    pub is_foreign: bool,
}

/// What the plan may ask of the log.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub features: Vec<String>,
    pub user: bool,
    pub propensity: bool,
}

impl Log {
    pub async fn open(
        context: &SessionContext,
        lake: &Lake,
        files: &[LakeFile],
        wanted: &Wanted,
    ) -> Result<Self, PipelineError> {
        let store = lake.store();
        let metas: Vec<ObjectMeta> = stream::iter(files.iter().map(|file| {
            let objects = store.object_store();
            let path = file.path.clone();
            async move { objects.head(&path).await }
        }))
        .buffered(FOOTERS_AT_ONCE)
        .try_collect()
        .await
        .map_err(|error| PipelineError::data("a file of the log cannot be read").because(error))?;
        let schemas = schemas(context, store, &metas).await?;
        let own = LogSchema::default().arrow();
        let mut found = Found::default();
        for (schema, meta) in schemas.iter().zip(&metas) {
            found.add(schema, &own, meta.location.as_ref())?;
        }
        let chosen = |names: &[String]| -> Vec<String> {
            names.iter().filter(|name| wanted.features.contains(name)).cloned().collect()
        };
        if wanted.propensity && !found.propensity {
            return Err(PipelineError::data(
                "the log has no column `propensity`: nothing was logged with its probability",
            )
            .with_hint("leave --logged-propensities out: the table of --propensities is used then"));
        }
        let schema = found.narrow(&own, wanted);
        let provider = listing(store, files.iter().map(|file| &file.path), schema)?;
        Ok(Self {
            provider,
            files: files.len(),
            bytes: files.iter().map(|file| file.bytes).sum(),
            event_features: chosen(&found.event_numbers),
            result_features: chosen(&found.result_numbers),
            has_propensity: found.propensity && wanted.propensity,
            is_foreign: files.iter().any(|file| file.rows.is_none()),
        })
    }
}

/// What the files have besides what every log has.
#[derive(Debug, Default)]
struct Found {
    event_numbers: Vec<String>,
    result_numbers: Vec<String>,
    propensity: bool,
}

/// Columns that a log may lack.
const OPTIONAL: [&str; 7] =
    ["user_id", "ranker_version", "explored", "arm", "propensity", "click_timestamp", "dwell_time_seconds"];
/// Columns that are read; a file that lacks another one may go on lacking it.
const READ: [&str; 3] = ["session_id", "query_id", "query_timestamp"];
const READ_OF_RESULTS: [&str; 6] =
    ["position", "document_id", "clicked", "dwell_time_seconds", "added_to_cart", "purchased"];

impl Found {
    /// Checks a file's schema against the log's own.
    fn add(&mut self, schema: &Schema, own: &Schema, file: &str) -> Result<(), PipelineError> {
        let wrong = |message: String| {
            PipelineError::data(format!("`{file}`: {message}"))
                .with_hint("the log's days differ in their schema, or this is no click log: rewrite the file, or leave its date out")
        };
        for name in READ {
            check(schema.fields(), own.fields(), name).map_err(&wrong)?;
        }
        let nested = |schema: &Schema| match schema.field_with_name("results").map(Field::data_type) {
            Ok(DataType::List(item) | DataType::LargeList(item)) => match item.data_type() {
                DataType::Struct(fields) => Ok(fields.clone()),
                other => Err(format!("`results` is a list of {other}, not of results")),
            },
            Ok(other) => Err(format!("`results` is {other}, not a list of results")),
            Err(_) => Err("there is no column `results`".to_owned()),
        };
        let results = nested(schema).map_err(&wrong)?;
        let own_results = nested(own).map_err(&wrong)?;
        for name in READ_OF_RESULTS {
            check(&results, &own_results, name).map_err(|message| wrong(format!("`results`: {message}")))?;
        }
        self.propensity |= results.find("propensity").is_some();
        collect_numbers(&mut self.event_numbers, schema.fields());
        collect_numbers(&mut self.result_numbers, &results);
        Ok(())
    }

    /// The schema to read: nothing that the plan does not use, so that nothing else is decoded.
    fn narrow(&self, own: &Schema, wanted: &Wanted) -> SchemaRef {
        let field = |fields: &Fields, name: &str| {
            let (_, field) = fields.find(name)?;
            Some(Field::new(name, viewed(field.data_type()), true))
        };
        let number = |name: &String| Field::new(name, DataType::Float32, true);
        let chosen = |names: &[String]| -> Vec<Field> {
            names.iter().filter(|name| wanted.features.contains(name)).map(number).collect()
        };
        let own_results = match own.field_with_name("results").map(Field::data_type) {
            Ok(DataType::List(item)) => match item.data_type() {
                DataType::Struct(fields) => fields.clone(),
                _ => Fields::empty(),
            },
            _ => Fields::empty(),
        };
        let mut results: Vec<Field> = READ_OF_RESULTS.iter().filter_map(|name| field(&own_results, name)).collect();
        if wanted.propensity && self.propensity {
            results.push(Field::new("propensity", DataType::Float64, true));
        }
        let known: Vec<String> = results.iter().map(|field| field.name().clone()).collect();
        results.extend(chosen(&self.result_numbers).into_iter().filter(|field| !known.contains(field.name())));
        let item = Arc::new(Field::new("item", DataType::Struct(results.into()), true));
        let mut columns: Vec<Field> = READ.iter().filter_map(|name| field(own.fields(), name)).collect();
        if wanted.user {
            columns.extend(field(own.fields(), "user_id"));
        }
        columns.extend(chosen(&self.event_numbers));
        columns.push(Field::new("results", DataType::List(item), true));
        Arc::new(Schema::new(columns))
    }
}

fn check(fields: &Fields, own: &Fields, name: &str) -> Result<(), String> {
    let Some((_, wanted)) = own.find(name) else { return Ok(()) };
    match fields.find(name) {
        None if OPTIONAL.contains(&name) => Ok(()),
        None => Err(format!("there is no column `{name}`")),
        Some((_, found)) if can_cast_types(found.data_type(), wanted.data_type()) => Ok(()),
        Some((_, found)) => Err(format!("column `{name}` is {}, not {}", found.data_type(), wanted.data_type())),
    }
}

fn collect_numbers(names: &mut Vec<String>, fields: &Fields) {
    for field in fields {
        if is_number(field.data_type()) && !names.contains(field.name()) {
            names.push(field.name().clone());
        }
    }
}

/// Text as views: joins and unnesting then move no bytes of it.
fn viewed(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8 => DataType::Utf8View,
        other => other.clone(),
    }
}

pub fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn is_moment(data_type: &DataType) -> bool {
    use DataType::{Date32, Date64, LargeUtf8, Timestamp, Utf8, Utf8View};
    matches!(data_type, Timestamp(..) | Date32 | Date64 | Utf8 | LargeUtf8 | Utf8View)
}

fn is_number(data_type: &DataType) -> bool {
    data_type.is_numeric() || *data_type == DataType::Boolean
}

async fn parquet_files(store: &Store, location: &str) -> Result<Vec<ObjectMeta>, PipelineError> {
    let unreadable =
        |error: object_store::Error| PipelineError::data(format!("`{location}` cannot be read")).because(error);
    let objects = store.object_store();
    let whole = store.path("");
    let mut files: Vec<ObjectMeta> = Vec::new();
    if location.ends_with(".parquet")
        && let Ok(file) = objects.head(&whole).await
    {
        files.push(file);
    } else {
        let mut listed = objects.list(Some(&whole));
        while let Some(file) = listed.try_next().await.map_err(unreadable)? {
            // Below the table only: where it lies is its owner's business.
            let below = store.relative(&file.location).unwrap_or_default();
            let hidden = below.split('/').any(|part| part.starts_with(['.', '_']));
            if file.location.as_ref().ends_with(".parquet") && !hidden {
                files.push(file);
            }
        }
    }
    files.sort_by(|a, b| a.location.cmp(&b.location));
    if files.is_empty() {
        return Err(PipelineError::options(format!("`{location}` holds no Parquet file"))
            .with_hint("name a Parquet file, or a folder of them"));
    }
    Ok(files)
}

async fn schemas(
    context: &SessionContext,
    store: &Store,
    files: &[ObjectMeta],
) -> Result<Vec<SchemaRef>, PipelineError> {
    let state = context.state();
    let objects = store.object_store();
    let format = ParquetFormat::default();
    let schema = |file: ObjectMeta| {
        let (state, objects, format) = (&state, &objects, &format);
        async move {
            let schema = format.infer_schema(state, objects, std::slice::from_ref(&file)).await;
            schema.map_err(|error| {
                PipelineError::data(format!("`{}` is no Parquet file that can be read", file.location)).because(error)
            })
        }
    };
    stream::iter(files.iter().cloned().map(schema)).buffered(FOOTERS_AT_ONCE).try_collect().await
}

fn listing<'a>(
    store: &Store,
    paths: impl Iterator<Item = &'a object_store::path::Path>,
    schema: SchemaRef,
) -> Result<Arc<dyn TableProvider>, PipelineError> {
    let wrong = |error: datafusion::common::DataFusionError| {
        PipelineError::data("the files cannot be named to the query engine").because(error)
    };
    let root = match store.url().host_str() {
        Some(bucket) => format!("{}://{bucket}", store.url().scheme()),
        None => "file://".to_owned(),
    };
    // What would end a path in a URL, or begin something else.
    let escaped =
        |path: &object_store::path::Path| path.as_ref().replace('%', "%25").replace('#', "%23").replace('?', "%3F");
    let urls = paths.map(|path| ListingTableUrl::parse(format!("{root}/{}", escaped(path))));
    let urls = urls.collect::<Result<Vec<_>, _>>();
    let options = ListingOptions::new(Arc::new(ParquetFormat::default()));
    let config = ListingTableConfig::new_with_multi_paths(urls.map_err(wrong)?)
        .with_listing_options(options)
        .with_schema(schema);
    Ok(Arc::new(ListingTable::try_new(config).map_err(wrong)?))
}
