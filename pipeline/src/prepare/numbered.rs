//! Rows that know their order: a node that numbers what streams through a partition, and says that it is sorted by the number.
//!
//! A hash join puts the rows of a batch that found no match behind those that did, unless it is told that the order matters. That a list
//! stays together on its way past the tables, and in the order of its positions, hangs on this number.

use std::{cmp::Ordering, fmt, hash::Hash, sync::Arc};

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, DFSchemaRef, Result, internal_err};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::execution_plan::{CardinalityEffect, ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties, SendableRecordBatchStream,
};
use futures::StreamExt as _;

/// The number of a row within its partition, from 0; the last column.
pub const ROW: &str = "row_in_partition";

fn field() -> Field {
    Field::new(ROW, DataType::UInt64, false)
}

/// The logical node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Numbered {
    input: LogicalPlan,
    schema: DFSchemaRef,
}

impl Numbered {
    pub fn new(input: LogicalPlan) -> Result<Self> {
        let mut schema = input.schema().as_ref().clone();
        schema.merge(&DFSchema::from_unqualified_fields(vec![field()].into(), Default::default())?);
        Ok(Self { input, schema: Arc::new(schema) })
    }
}

impl PartialOrd for Numbered {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for Numbered {
    fn name(&self) -> &str {
        "Numbered"
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
        f.write_str("Numbered")
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        match (inputs.pop(), inputs.is_empty()) {
            (Some(input), true) => Self::new(input),
            _ => internal_err!("rows are numbered of one input"),
        }
    }

    fn necessary_children_exprs(&self, wanted: &[usize]) -> Option<Vec<Vec<usize>>> {
        let of_input = self.input.schema().fields().len();
        Some(vec![wanted.iter().copied().filter(|&column| column < of_input).collect()])
    }
}

/// The physical node.
#[derive(Debug)]
pub struct NumberedExec {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl NumberedExec {
    pub fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        let mut fields = input.schema().fields().to_vec();
        let row: Arc<dyn PhysicalExpr> = Arc::new(Column::new(ROW, fields.len()));
        fields.push(Arc::new(field()));
        let schema = Arc::new(Schema::new_with_metadata(fields, input.schema().metadata().clone()));
        let ascending = PhysicalSortExpr::new(row, SortOptions::new(false, false));
        let properties = PlanProperties::new(
            EquivalenceProperties::new_with_orderings(schema, [vec![ascending]]),
            input.output_partitioning().clone(),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Self { input, properties: Arc::new(properties) }
    }
}

impl DisplayAs for NumberedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("NumberedExec")
    }
}

impl ExecutionPlan for NumberedExec {
    fn name(&self) -> &str {
        "NumberedExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        // Dealing the rows out anew is what must not happen.
        vec![false]
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
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
            (Some(input), true) => Ok(Arc::new(Self::new(input))),
            _ => internal_err!("rows are numbered of one input"),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (schema, mut next) = (self.schema(), 0u64);
        let number = {
            let schema = schema.clone();
            move |batch: Result<RecordBatch>| append_numbers(&batch?, &schema, &mut next)
        };
        let numbered = self.input.execute(partition, context)?.map(number);
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, numbered)))
    }
}

fn append_numbers(batch: &RecordBatch, schema: &SchemaRef, next: &mut u64) -> Result<RecordBatch> {
    let end = *next + batch.num_rows() as u64;
    let numbers: ArrayRef = Arc::new(UInt64Array::from_iter_values(*next..end));
    *next = end;
    let columns = batch.columns().iter().cloned().chain([numbers]).collect();
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}
