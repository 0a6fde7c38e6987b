//! The sink as the query engine sees it: a logical node, its physical one, and the planner from one to the other.

use std::{cmp::Ordering, fmt, hash::Hash, sync::Arc};

use arrow::array::{RecordBatch, StringArray};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, DFSchemaRef, DataFusionError, Result, internal_err};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{
    Distribution, EquivalenceProperties, LexRequirement, OrderingRequirements, PhysicalExpr, PhysicalSortRequirement,
};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
    SendableRecordBatchStream,
};
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};
use futures::{StreamExt as _, stream};

use super::{
    LIST, Outcome, SinkSpec,
    shard::{Shard, ShardError},
};
use crate::prepare::numbered::{Numbered, NumberedExec, ROW};

/// Outcomes travel as JSON in one column: they are few, and cross process borders.
fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("outcome", DataType::Utf8, false)]))
}

/// The logical node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TrainingSink {
    input: LogicalPlan,
    /// A [`SinkSpec`] as JSON, which compares and travels.
    spec: Arc<str>,
    schema: DFSchemaRef,
}

impl TrainingSink {
    pub fn new(input: LogicalPlan, spec: &SinkSpec) -> Result<Self> {
        let spec = serde_json::to_string(spec).map_err(external)?;
        Self::from_json(input, spec.into())
    }

    pub fn from_json(input: LogicalPlan, spec: Arc<str>) -> Result<Self> {
        Ok(Self { input, spec, schema: Arc::new(DFSchema::try_from(schema())?) })
    }

    pub fn json(&self) -> &str {
        &self.spec
    }
}

impl PartialOrd for TrainingSink {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for TrainingSink {
    fn name(&self) -> &str {
        "TrainingSink"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("TrainingSink")
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        match (inputs.pop(), inputs.is_empty()) {
            (Some(input), true) => Self::from_json(input, self.spec.clone()),
            _ => internal_err!("a training sink has one input"),
        }
    }

    fn necessary_children_exprs(&self, _: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![(0..self.input.schema().fields().len()).collect()])
    }
}

/// The physical node: partitions in, one row with an [`Outcome`] a partition out.
#[derive(Debug)]
pub struct TrainingSinkExec {
    input: Arc<dyn ExecutionPlan>,
    json: Arc<str>,
    spec: Arc<SinkSpec>,
    properties: Arc<PlanProperties>,
}

impl TrainingSinkExec {
    pub fn new(input: Arc<dyn ExecutionPlan>, json: Arc<str>) -> Result<Self> {
        let spec: SinkSpec = serde_json::from_str(&json).map_err(external)?;
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema()),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Ok(Self { input, json, spec: Arc::new(spec), properties: Arc::new(properties) })
    }

    pub fn json(&self) -> &str {
        &self.json
    }

    fn column(&self, name: &str) -> Option<Arc<dyn PhysicalExpr>> {
        let index = self.input.schema().index_of(name).ok()?;
        Some(Arc::new(Column::new(name, index)))
    }
}

impl DisplayAs for TrainingSinkExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "TrainingSinkExec: staging={}", self.spec.staging.display())
    }
}

impl ExecutionPlan for TrainingSinkExec {
    fn name(&self) -> &str {
        "TrainingSinkExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        match self.column(LIST) {
            Some(list) if self.spec.cluster => vec![Distribution::KeyPartitioned(vec![list])],
            _ => vec![Distribution::UnspecifiedDistribution],
        }
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        // Lists lie together in the log, and keep together with their rows in order; unless they were scattered.
        let by = if self.spec.cluster { &[LIST, ROW][..] } else { &[ROW] };
        let ascending = Some(SortOptions::new(false, false));
        let by = by.iter().filter_map(|name| Some(PhysicalSortRequirement::new(self.column(name)?, ascending)));
        vec![LexRequirement::new(by).map(OrderingRequirements::new)]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(Self::new(input, self.json.clone())?)),
            _ => internal_err!("a training sink has one input"),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let recompute = datafusion::physical_plan::execution_plan::ChildrenPropertiesMode::Recompute;
        self.replace_children(children, ReplaceChildrenOptions::new(recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let outcome = write_all(self.spec.clone(), partition, input);
        let stream = stream::once(async move {
            let json = serde_json::to_string(&outcome.await?).map_err(external)?;
            Ok(RecordBatch::try_new(schema(), vec![Arc::new(StringArray::from(vec![json]))])?)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema(), stream)))
    }
}

async fn write_all(spec: Arc<SinkSpec>, partition: usize, mut input: SendableRecordBatchStream) -> Result<Outcome> {
    let mut shard = Shard::begin(spec, partition).map_err(external)?;
    while let Some(batch) = input.next().await {
        match shard.write(&batch?) {
            Ok(()) => {}
            // An answer, not a failure: an engine would only try the same again.
            Err(ShardError::Refused(why)) => return Ok(shard.refuse(why)),
            Err(error) => return Err(external(error)),
        }
    }
    shard.finish().map_err(external)
}

fn external(error: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Plans our nodes.
#[derive(Debug)]
pub struct NodePlanner;

#[async_trait]
impl ExtensionPlanner for NodePlanner {
    async fn plan_extension(
        &self,
        _: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _: &[&LogicalPlan],
        inputs: &[Arc<dyn ExecutionPlan>],
        _: &dyn Session,
        _: &datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let [input] = inputs else { return Ok(None) };
        if node.as_any().is::<Numbered>() {
            return Ok(Some(Arc::new(NumberedExec::new(input.clone()))));
        }
        let Some(sink) = node.as_any().downcast_ref::<TrainingSink>() else { return Ok(None) };
        Ok(Some(Arc::new(TrainingSinkExec::new(input.clone(), sink.spec.clone())?)))
    }
}
