//! A dataset scored as it is read: reading, scoring and what is done with the scores go on side by side, in bounded memory.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::{
    array::{Float32Array, RecordBatch},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use crossbeam_channel::{Receiver, Sender, bounded};
use dataset::{
    manifest::DatasetError,
    scorable::{Chunk, Scorable},
};

use super::{Scorer, on_threads, piece_rows};
use crate::{fault::Fault, model::Network};

/// The column of scores.
pub const SCORE: &str = "score";

/// Keys of the schema's metadata that name the column of lists, as validation groups rows, and that of labels.
const GROUP: &str = "lockstep.group";
const LABEL: &str = "lockstep.label";

/// Features of one chunk: some pieces, and little beside the chunks that wait.
const CHUNK_BYTES: usize = 1 << 20;

/// What is read and scored: the data's own columns that say which row is which, its label, and [`SCORE`].
pub fn schema(data: &Scorable) -> Result<SchemaRef, Fault> {
    let beside = data.schema();
    if beside.field_with_name(SCORE).is_ok() {
        return Err(Fault::wrong_input(
            format!("the data's column `{SCORE}` would stand beside the model's scores, which are called so too"),
            "rename it, or name another column for its part",
        ));
    }
    let mut fields = beside.fields().to_vec();
    fields.push(Arc::new(Field::new(SCORE, DataType::Float32, false)));
    let roles = [(GROUP, data.group()), (LABEL, data.label())];
    let roles = roles.into_iter().filter_map(|(role, name)| Some((role.to_owned(), name?.to_owned())));
    Ok(Arc::new(Schema::new_with_metadata(fields, roles.collect())))
}

type Scored = Result<RecordBatch, Fault>;

/// Chunks to score, and where their scores are awaited, in the data's order.
struct Feed {
    chunks: Receiver<Result<Chunk, DatasetError>>,
    order: Sender<Receiver<Scored>>,
}

/// Gives every row of `data` to `each`, with its score, in the data's order, on the caller's thread.
pub fn stream(
    network: &Network,
    data: Scorable,
    threads: usize,
    each: &mut dyn FnMut(RecordBatch) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let schema = schema(&data)?;
    let piece = piece_rows(network);
    let chunk = CHUNK_BYTES / (size_of::<f32>() * network.features().max(1));
    let chunks = data.chunks((chunk / piece).max(1) * piece);
    // What may wait for one chunk that takes long.
    let (order, ordered) = bounded(2 * threads);
    let feed = Mutex::new(Some(Feed { chunks, order }));
    let next = || {
        let mut feed = feed.lock().unwrap_or_else(PoisonError::into_inner);
        let under_way = feed.as_ref()?;
        let (reply, scored) = bounded(1);
        match under_way.chunks.recv() {
            Ok(chunk) if under_way.order.send(scored).is_ok() => Some((chunk, reply)),
            _ => {
                *feed = None;
                None
            }
        }
    };
    let work = |scorer: &mut Scorer| {
        while let Some((chunk, reply)) = next() {
            let scored = chunk.map_err(Fault::from).and_then(|chunk| score(scorer, &chunk, &schema));
            if reply.send(scored).is_err() {
                return;
            }
        }
    };
    let (_, written) = on_threads(network, threads, work, move || {
        for scored in ordered {
            // A thread that died says why when it is joined.
            let Ok(scored) = scored.recv() else { break };
            each(scored?)?;
        }
        Ok(())
    });
    written
}

fn score(scorer: &mut Scorer, chunk: &Chunk, schema: &SchemaRef) -> Scored {
    let features = chunk.features()?;
    let mut scores = vec![0.0; chunk.rows()];
    let rows = scorer.piece_rows();
    for (piece, scores) in scores.chunks_mut(rows).enumerate() {
        let first = piece * rows;
        let end = first + scores.len();
        scorer.piece(scores, |piece| features.copy(first..end, piece));
    }
    if let Some(row) = scores.iter().position(|score| !score.is_finite()) {
        let error = chunk.wrong(row, &format!("the model's score is {}", scores[row]));
        return Err(Fault::failed(
            error.message,
            "its features are finite, so the model's weights or normalisation do not fit them: `lockstep inspect` shows what is odd",
        ));
    }
    let mut columns = chunk.beside()?;
    columns.push(Arc::new(Float32Array::from(scores)));
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(|error| {
        Fault::failed(
            format!("scores and columns do not go together: {error}"),
            "this is a fault of lockstep: please report it",
        )
    })
}
