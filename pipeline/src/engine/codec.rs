//! How our nodes and functions cross from the driver to the scheduler and on to the executors.

use std::sync::Arc;

use ballista_core::serde::{BallistaLogicalExtensionCodec, BallistaPhysicalExtensionCodec};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::{DataFusionError, Result, TableReference, internal_err};
use datafusion::datasource::file_format::FileFormatFactory;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Extension, LogicalPlan, ScalarUDF};
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::logical_plan::LogicalExtensionCodec;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};

use crate::prepare::{
    self,
    numbered::{Numbered, NumberedExec},
    sink::{TrainingSink, TrainingSinkExec},
};

/// What our nodes begin with; everything else is Ballista's.
const SINK: &[u8] = b"lockstep.training-sink.1\0";
const NUMBERED: &[u8] = b"lockstep.numbered.1\0";

/// A node of ours; each has one input.
enum Ours {
    /// With its specification as JSON.
    Sink(Arc<str>),
    Numbered,
}

impl Ours {
    /// None if the node is not ours.
    fn decode(bytes: &[u8]) -> Result<Option<Self>> {
        if bytes == NUMBERED {
            return Ok(Some(Self::Numbered));
        }
        let Some(json) = bytes.strip_prefix(SINK) else { return Ok(None) };
        let json = std::str::from_utf8(json).map_err(|error| DataFusionError::External(Box::new(error)))?;
        Ok(Some(Self::Sink(json.into())))
    }

    fn encode(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Numbered => bytes.extend_from_slice(NUMBERED),
            Self::Sink(json) => {
                bytes.extend_from_slice(SINK);
                bytes.extend_from_slice(json.as_bytes());
            }
        }
    }
}

fn udf(name: &str) -> Option<Arc<ScalarUDF>> {
    prepare::functions().into_iter().find(|function| function.name() == name)
}

#[derive(Debug, Default)]
pub struct Logical {
    theirs: BallistaLogicalExtensionCodec,
}

impl LogicalExtensionCodec for Logical {
    fn try_decode(&self, bytes: &[u8], inputs: &[LogicalPlan], context: &TaskContext) -> Result<Extension> {
        match (Ours::decode(bytes)?, inputs) {
            (Some(Ours::Sink(json)), [input]) => {
                Ok(Extension { node: Arc::new(TrainingSink::from_json(input.clone(), json)?) })
            }
            (Some(Ours::Numbered), [input]) => Ok(Extension { node: Arc::new(Numbered::new(input.clone())?) }),
            (Some(_), _) => internal_err!("a node of ours has one input"),
            (None, _) => self.theirs.try_decode(bytes, inputs, context),
        }
    }

    fn try_encode(&self, node: &Extension, bytes: &mut Vec<u8>) -> Result<()> {
        let any = node.node.as_any();
        let sink = any.downcast_ref::<TrainingSink>().map(|sink| Ours::Sink(sink.json().into()));
        match sink.or_else(|| any.is::<Numbered>().then_some(Ours::Numbered)) {
            Some(ours) => {
                ours.encode(bytes);
                Ok(())
            }
            None => self.theirs.try_encode(node, bytes),
        }
    }

    fn try_decode_table_provider(
        &self,
        bytes: &[u8],
        table: &TableReference,
        schema: SchemaRef,
        context: &TaskContext,
    ) -> Result<Arc<dyn TableProvider>> {
        self.theirs.try_decode_table_provider(bytes, table, schema, context)
    }

    fn try_encode_table_provider(
        &self,
        table: &TableReference,
        node: Arc<dyn TableProvider>,
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        self.theirs.try_encode_table_provider(table, node, bytes)
    }

    fn try_decode_file_format(&self, bytes: &[u8], context: &TaskContext) -> Result<Arc<dyn FileFormatFactory>> {
        self.theirs.try_decode_file_format(bytes, context)
    }

    fn try_encode_file_format(&self, bytes: &mut Vec<u8>, node: Arc<dyn FileFormatFactory>) -> Result<()> {
        self.theirs.try_encode_file_format(bytes, node)
    }

    fn try_decode_udf(&self, name: &str, bytes: &[u8]) -> Result<Arc<ScalarUDF>> {
        udf(name).map_or_else(|| self.theirs.try_decode_udf(name, bytes), Ok)
    }

    fn try_encode_udf(&self, node: &ScalarUDF, bytes: &mut Vec<u8>) -> Result<()> {
        if udf(node.name()).is_some() { Ok(()) } else { self.theirs.try_encode_udf(node, bytes) }
    }
}

#[derive(Debug, Default)]
pub struct Physical {
    theirs: BallistaPhysicalExtensionCodec,
}

impl PhysicalExtensionCodec for Physical {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (Ours::decode(bytes)?, inputs) {
            (Some(Ours::Sink(json)), [input]) => Ok(Arc::new(TrainingSinkExec::new(input.clone(), json)?)),
            (Some(Ours::Numbered), [input]) => Ok(Arc::new(NumberedExec::new(input.clone()))),
            (Some(_), _) => internal_err!("a node of ours has one input"),
            (None, _) => self.theirs.try_decode(bytes, inputs, context, converter),
        }
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let sink = node.downcast_ref::<TrainingSinkExec>().map(|sink| Ours::Sink(sink.json().into()));
        match sink.or_else(|| node.is::<NumberedExec>().then_some(Ours::Numbered)) {
            Some(ours) => {
                ours.encode(bytes);
                Ok(())
            }
            None => self.theirs.try_encode(node, bytes, converter),
        }
    }

    fn try_decode_udf(&self, name: &str, bytes: &[u8]) -> Result<Arc<ScalarUDF>> {
        udf(name).map_or_else(|| self.theirs.try_decode_udf(name, bytes), Ok)
    }

    fn try_encode_udf(&self, node: &ScalarUDF, bytes: &mut Vec<u8>) -> Result<()> {
        if udf(node.name()).is_some() { Ok(()) } else { self.theirs.try_encode_udf(node, bytes) }
    }
}
