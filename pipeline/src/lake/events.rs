//! The few columns of a lake's file that say what was shown where to whom, and what came of it.

use arrow::{
    array::{
        Array, ArrayRef, AsArray as _, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, StructArray,
        TimestampMicrosecondArray,
    },
    compute::cast,
    datatypes::{DataType, Float64Type, Int64Type, Schema, TimeUnit, TimestampMicrosecondType},
};
use futures::TryStreamExt as _;
use parquet::{
    arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask},
    schema::types::SchemaDescriptor,
};
use xxhash_rust::xxh3::xxh3_64;

use super::{Lake, LakeFile, stored::StoredFile};
use crate::{ErrorKind, PipelineError, prepare::list_id};

/// Events decoded at once.
const BATCH: usize = 8192;

/// What to read beside the results and their clicks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// Who searched.
    pub people: bool,
    /// Carts and purchases.
    pub conversions: Conversions,
    /// The column that names an A/B test's arm.
    pub arm: Option<String>,
}

/// Whether carts and purchases are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Conversions {
    #[default]
    Unwanted,
    /// A file that has none says that there were none.
    WhereLogged,
    /// A file that has none is refused.
    Needed,
}

/// One search, ids as hashes.
pub(crate) struct Event<'a> {
    /// In its file, from 0.
    pub row: u64,
    /// As `prepare` tells searches apart; none where the log lacks the session or the time.
    pub search: Option<i64>,
    pub query: u64,
    /// If [wanted](Wanted::people); none where the log has none, or an empty one.
    pub user: Option<u64>,
    pub session: Option<u64>,
    /// If wanted; none where the log has none.
    pub arm: Option<&'a str>,
    pub explored: bool,
    pub results: &'a [Shown],
}

impl Event<'_> {
    /// Whose search it was, where sessions stand for people: told from a user of the same id.
    pub fn session_as_user(&self) -> Option<u64> {
        const SESSION: u64 = 0x5e55_10c4_0000_0001;
        self.session.map(|session| session ^ SESSION)
    }
}

/// One result.
pub(crate) struct Shown {
    /// From 1.
    pub position: u32,
    pub document: u64,
    pub clicked: bool,
    /// If [wanted](Wanted::conversions).
    pub carted: bool,
    pub purchased: bool,
    /// Of being shown where it was, where it was logged.
    pub propensity: Option<f64>,
}

/// A file of events, its footer read.
pub(crate) struct EventFile<'n> {
    /// What a person knows it as.
    name: &'n str,
    builder: ParquetRecordBatchStreamBuilder<StoredFile>,
}

impl<'n> EventFile<'n> {
    pub async fn open(lake: &Lake, file: &LakeFile, name: &'n str) -> Result<Self, PipelineError> {
        let reader = StoredFile { store: lake.store().object_store(), path: file.path.clone(), bytes: file.bytes };
        let builder = ParquetRecordBatchStreamBuilder::new(reader).await.map_err(|error| unreadable(name, error))?;
        Ok(Self { name, builder })
    }

    pub fn schema(&self) -> &Schema {
        self.builder.schema()
    }

    pub fn name(&self) -> &str {
        self.name
    }

    /// Whether its results have this field.
    pub fn has_result_field(&self, name: &str) -> bool {
        let columns = self.builder.parquet_schema().columns().iter();
        columns
            .map(|column| column.path().parts())
            .any(|path| path[0] == "results" && path.last().is_some_and(|last| last == name))
    }

    /// How many events it holds.
    pub fn events(&self) -> u64 {
        self.builder.metadata().file_metadata().num_rows().max(0) as u64
    }

    /// Reads it batch by batch, the wanted columns alone.
    pub async fn for_each(
        self,
        wanted: &Wanted,
        mut each: impl FnMut(Event<'_>) -> Result<(), PipelineError>,
    ) -> Result<(), PipelineError> {
        let Self { name, builder } = self;
        let mask = leaves(builder.parquet_schema(), |path| wanted.holds(path));
        let batches = builder.with_projection(mask).with_batch_size(BATCH).build();
        let mut batches = batches.map_err(|error| unreadable(name, error))?;
        let (mut first, mut results) = (0, Vec::new());
        while let Some(batch) = batches.try_next().await.map_err(|error| unreadable(name, error))? {
            let columns = Columns::of(&batch, wanted).map_err(|problem| problem.at(name, first))?;
            for row in 0..batch.num_rows() {
                let event = columns.event(row, &mut results).map_err(|problem| problem.at(name, first))?;
                each(Event { row: first + row as u64, ..event })?;
            }
            first += batch.num_rows() as u64;
        }
        Ok(())
    }

    /// Reads the identities of its searches alone, of those that have one.
    pub async fn each_search(self, mut each: impl FnMut(i64)) -> Result<(), PipelineError> {
        let Self { name, builder } = self;
        let mask =
            leaves(builder.parquet_schema(), |path| matches!(path, [column] if IDENTITY.contains(&column.as_str())));
        let batches = builder.with_projection(mask).with_batch_size(BATCH).build();
        let mut batches = batches.map_err(|error| unreadable(name, error))?;
        let mut first = 0;
        while let Some(batch) = batches.try_next().await.map_err(|error| unreadable(name, error))? {
            let identity = Identity::of(&batch).map_err(|problem| problem.at(name, first))?;
            (0..batch.num_rows()).filter_map(|row| identity.search(row)).for_each(&mut each);
            first += batch.num_rows() as u64;
        }
        Ok(())
    }
}

fn unreadable(name: &str, error: parquet::errors::ParquetError) -> PipelineError {
    PipelineError { kind: ErrorKind::Io, ..PipelineError::data(format!("`{name}` cannot be read as Parquet")) }
        .because(error)
}

impl Wanted {
    /// Whether a leaf of the schema is read.
    fn holds(&self, path: &[String]) -> bool {
        match path {
            [column] => {
                IDENTITY.contains(&column.as_str())
                    || column == "explored"
                    || self.people && column == "user_id"
                    || self.arm.as_ref() == Some(column)
            }
            [column, .., field] => {
                let always = ["position", "document_id", "clicked", "propensity"].contains(&field.as_str());
                let conversions = ["added_to_cart", "purchased"].contains(&field.as_str());
                column == "results" && (always || self.conversions != Conversions::Unwanted && conversions)
            }
            [] => false,
        }
    }
}

fn leaves(schema: &SchemaDescriptor, wanted: impl Fn(&[String]) -> bool) -> ProjectionMask {
    let columns = schema.columns().iter().enumerate();
    let leaves = columns.filter(|(_, column)| wanted(column.path().parts())).map(|(leaf, _)| leaf);
    ProjectionMask::leaves(schema, leaves)
}

/// What is wrong with a batch.
enum Problem {
    Missing(&'static str),
    Kind { column: &'static str, found: DataType },
    Arm { column: String, found: DataType },
    Null { row: usize, column: &'static str },
    Position { row: usize, position: i64 },
}

impl Problem {
    /// In a batch that begins at this row of the file.
    fn at(self, file: &str, first: u64) -> PipelineError {
        match self {
            Self::Missing(column) => PipelineError::data(format!("`{file}` has no column `{column}`"))
                .with_hint("click logs have the columns `query_id` and `results`, a list of `position`, `document_id`, `clicked`, …"),
            Self::Kind { column, found } => PipelineError::data(format!("`{file}`: column `{column}` is of type {found}")),
            Self::Arm { column, found } => PipelineError::data(format!(
                "`{file}`: column `{column}` is of type {found}, and arms are named by text, whole numbers or yes and no"
            )),
            Self::Null { row, column } => PipelineError::data(format!("`{file}`, row {}: `{column}` is null", first + row as u64)),
            Self::Position { row, position } => {
                let row = first + row as u64;
                PipelineError::data(format!("`{file}`, row {row}: a result is at position {position}, and positions count from 1"))
            }
        }
    }
}

/// What a search is named by.
const IDENTITY: [&str; 3] = ["session_id", "query_id", "query_timestamp"];

/// The columns that name a search, of a batch.
struct Identity {
    session: Option<StringArray>,
    time: Option<TimestampMicrosecondArray>,
    query: StringArray,
}

impl Identity {
    fn of(batch: &RecordBatch) -> Result<Self, Problem> {
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let query = batch.column_by_name("query_id").ok_or(Problem::Missing("query_id"))?;
        Ok(Self {
            session: optional(batch.column_by_name("session_id"), "session_id", DataType::Utf8)?
                .map(|column| column.as_string::<i32>().clone()),
            time: optional(batch.column_by_name("query_timestamp"), "query_timestamp", time)?
                .map(|column| column.as_primitive::<TimestampMicrosecondType>().clone()),
            query: converted(query, "query_id", &DataType::Utf8)?.as_string::<i32>().clone(),
        })
    }

    fn search(&self, row: usize) -> Option<i64> {
        let (session, time) = self.session.as_ref().zip(self.time.as_ref())?;
        let named = session.is_valid(row) && time.is_valid(row) && self.query.is_valid(row);
        named.then(|| list_id(session.value(row), self.query.value(row), time.value(row)))
    }
}

/// The columns of a batch, in the types that are read here.
struct Columns {
    identity: Identity,
    people: bool,
    user: Option<StringArray>,
    arm: Option<StringArray>,
    explored: Option<BooleanArray>,
    /// Where each event's results start, and where the last's end.
    starts: Vec<usize>,
    lists: ArrayRef,
    position: Int64Array,
    document: StringArray,
    clicked: BooleanArray,
    carted: Option<BooleanArray>,
    purchased: Option<BooleanArray>,
    propensity: Option<Float64Array>,
}

impl Columns {
    fn of(batch: &RecordBatch, wanted: &Wanted) -> Result<Self, Problem> {
        let column = |name: &'static str| batch.column_by_name(name).ok_or(Problem::Missing(name));
        let lists = column("results")?;
        let (starts, values) = match lists.data_type() {
            DataType::List(_) => {
                let lists = lists.as_list::<i32>();
                (lists.value_offsets().iter().map(|start| *start as usize).collect(), lists.values())
            }
            DataType::LargeList(_) => {
                let lists = lists.as_list::<i64>();
                (lists.value_offsets().iter().map(|start| *start as usize).collect::<Vec<_>>(), lists.values())
            }
            found => return Err(Problem::Kind { column: "results", found: found.clone() }),
        };
        let kind = || Problem::Kind { column: "results", found: lists.data_type().clone() };
        let results: &StructArray = values.as_struct_opt().ok_or_else(kind)?;
        let field = |name: &str, full: &'static str| results.column_by_name(name).ok_or(Problem::Missing(full));
        let arm = wanted.arm.as_ref().and_then(|name| Some((name, batch.column_by_name(name)?)));
        let yes_or_no = |name: &str, full: &'static str| -> Result<Option<BooleanArray>, Problem> {
            let found = match wanted.conversions {
                Conversions::Unwanted => None,
                Conversions::WhereLogged => results.column_by_name(name),
                Conversions::Needed => Some(field(name, full)?),
            };
            Ok(optional(found, full, DataType::Boolean)?.map(|column| column.as_boolean().clone()))
        };
        Ok(Self {
            identity: Identity::of(batch)?,
            people: wanted.people,
            user: optional(batch.column_by_name("user_id"), "user_id", DataType::Utf8)?
                .map(|column| column.as_string::<i32>().clone()),
            arm: arm.map(|(name, column)| arms(name, column)).transpose()?,
            carted: yes_or_no("added_to_cart", "results.added_to_cart")?,
            purchased: yes_or_no("purchased", "results.purchased")?,
            explored: optional(batch.column_by_name("explored"), "explored", DataType::Boolean)?
                .map(|column| column.as_boolean().clone()),
            position: converted(field("position", "results.position")?, "results.position", &DataType::Int64)?
                .as_primitive::<Int64Type>()
                .clone(),
            document: converted(field("document_id", "results.document_id")?, "results.document_id", &DataType::Utf8)?
                .as_string::<i32>()
                .clone(),
            clicked: converted(field("clicked", "results.clicked")?, "results.clicked", &DataType::Boolean)?
                .as_boolean()
                .clone(),
            propensity: optional(results.column_by_name("propensity"), "results.propensity", DataType::Float64)?
                .map(|column| column.as_primitive::<Float64Type>().clone()),
            lists: lists.clone(),
            starts,
        })
    }

    /// The event of a row of the batch; `results` is where its results go.
    fn event<'a>(&'a self, row: usize, results: &'a mut Vec<Shown>) -> Result<Event<'a>, Problem> {
        let null = |column| Problem::Null { row, column };
        let query = &self.identity.query;
        if query.is_null(row) {
            return Err(null("query_id"));
        }
        if self.lists.is_null(row) {
            return Err(null("results"));
        }
        results.clear();
        for at in self.starts[row]..self.starts[row + 1] {
            let checked = [
                (self.position.is_null(at), "results.position"),
                (self.document.is_null(at), "results.document_id"),
                (self.clicked.is_null(at), "results.clicked"),
            ];
            if let Some((_, column)) = checked.into_iter().find(|(is_null, _)| *is_null) {
                return Err(null(column));
            }
            let position = self.position.value(at);
            results.push(Shown {
                position: u32::try_from(position)
                    .ok()
                    .filter(|position| *position > 0)
                    .ok_or(Problem::Position { row, position })?,
                document: xxh3_64(self.document.value(at).as_bytes()),
                clicked: self.clicked.value(at),
                carted: holds(&self.carted, at),
                purchased: holds(&self.purchased, at),
                propensity: self
                    .propensity
                    .as_ref()
                    .filter(|column| column.is_valid(at))
                    .map(|column| column.value(at)),
            });
        }
        let explored = holds(&self.explored, row);
        let named = |column: &'a Option<StringArray>| {
            let column = column.as_ref().filter(|column| column.is_valid(row))?;
            Some(column.value(row)).filter(|text| !text.is_empty())
        };
        let person = |column: &'a Option<StringArray>| named(column).filter(|_| self.people);
        let hashed = |text: Option<&str>| text.map(|text| xxh3_64(text.as_bytes()));
        Ok(Event {
            row: row as u64,
            search: self.identity.search(row),
            query: xxh3_64(query.value(row).as_bytes()),
            user: hashed(person(&self.user)),
            session: hashed(person(&self.identity.session)),
            arm: named(&self.arm).map(str::trim).filter(|name| !name.is_empty()),
            explored,
            results,
        })
    }
}

fn holds(column: &Option<BooleanArray>, row: usize) -> bool {
    column.as_ref().is_some_and(|column| column.is_valid(row) && column.value(row))
}

/// Whether a column of this type can name arms.
pub(crate) fn names_arms(kind: &DataType) -> bool {
    let is_text = matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(..));
    is_text || kind.is_integer() || *kind == DataType::Boolean
}

/// The names of arms, whatever they are written as.
fn arms(name: &str, column: &ArrayRef) -> Result<StringArray, Problem> {
    let found = column.data_type();
    let refused = || Problem::Arm { column: name.to_owned(), found: found.clone() };
    if !names_arms(found) {
        return Err(refused());
    }
    Ok(cast(column, &DataType::Utf8).map_err(|_| refused())?.as_string::<i32>().clone())
}

fn optional(found: Option<&ArrayRef>, name: &'static str, to: DataType) -> Result<Option<ArrayRef>, Problem> {
    found.map(|found| converted(found, name, &to)).transpose()
}

/// Other writers take other widths of numbers and kinds of text.
fn converted(column: &ArrayRef, name: &'static str, to: &DataType) -> Result<ArrayRef, Problem> {
    let found = column.data_type();
    let alike = match to {
        DataType::Utf8 => {
            matches!(found, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(..))
        }
        DataType::Int64 => found.is_integer(),
        DataType::Float64 => found.is_floating(),
        DataType::Timestamp(..) => matches!(found, DataType::Timestamp(..)),
        other => found == other,
    };
    let refused = || Problem::Kind { column: name, found: found.clone() };
    if alike { cast(column, to).map_err(|_| refused()) } else { Err(refused()) }
}
