//! The physical node that runs a stage, and the codec that sends it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use ballista_core::serde::BallistaPhysicalExtensionCodec;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
    SendableRecordBatchStream,
};
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use futures::StreamExt;

use crate::registry::Registry;
use crate::rows::{schema, sort_in, to_batch};
use crate::work::Work;

/// Runs the tasks of one stage on the blocks that its children give.
pub(crate) struct RddExec {
    work: Arc<Work>,
    registry: Arc<Registry>,
    children: Vec<Arc<dyn ExecutionPlan>>,
    properties: Arc<PlanProperties>,
}

impl RddExec {
    pub(crate) fn new(
        work: Arc<Work>,
        registry: Arc<Registry>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Self> {
        let first = children
            .first()
            .ok_or_else(|| DataFusionError::Internal("a stage reads something".to_owned()))?;
        let partitions = first.output_partitioning().partition_count();
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(schema()),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Final,
            Boundedness::Bounded,
        ));
        Ok(Self {
            work,
            registry,
            children,
            properties,
        })
    }
}

impl fmt::Debug for RddExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RddExec")
            .field("work", &self.work)
            .finish_non_exhaustive()
    }
}

impl DisplayAs for RddExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "RddExec: job={} stage={}",
            self.work.job, self.work.stage
        )
    }
}

impl ExecutionPlan for RddExec {
    fn name(&self) -> &'static str {
        "RddExec"
    }

    fn schema(&self) -> SchemaRef {
        schema()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.children.iter().collect()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(
            self.work.clone(),
            self.registry.clone(),
            children,
        )?))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let inputs = self
            .children
            .iter()
            .map(|child| child.execute(partition, context.clone()))
            .collect::<Result<Vec<_>>>()?;
        let (work, registry) = (self.work.clone(), self.registry.clone());
        let made = futures::stream::once(async move {
            let mut rows = BTreeMap::new();
            for mut input in inputs {
                while let Some(batch) = input.next().await {
                    sort_in(&batch?, &mut rows)?;
                }
            }
            // Closures may compute for long, and stores are waited for.
            let made = tokio::task::spawn_blocking(move || work.run(&registry, rows));
            let made = made
                .await
                .map_err(|error| DataFusionError::External(Box::new(error)))??;
            to_batch(&made)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema(), made)))
    }
}

/// Ballista's codec, and ours for our node.
#[derive(Debug)]
pub(crate) struct Codec {
    registry: Arc<Registry>,
    others: BallistaPhysicalExtensionCodec,
}

impl Codec {
    pub(crate) fn new(registry: Arc<Registry>) -> Self {
        Self {
            registry,
            others: BallistaPhysicalExtensionCodec::default(),
        }
    }
}

impl PhysicalExtensionCodec for Codec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        context: &TaskContext,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(bytes) = bytes.strip_prefix(MAGIC) else {
            return self.others.try_decode(bytes, inputs, context, converter);
        };
        let work: Work = postcard::from_bytes(bytes)
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        Ok(Arc::new(RddExec::new(
            Arc::new(work),
            self.registry.clone(),
            inputs.to_vec(),
        )?))
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let Some(ours) = node.downcast_ref::<RddExec>() else {
            return self.others.try_encode(node, bytes, converter);
        };
        let work = postcard::to_stdvec(&*ours.work)
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        bytes.extend_from_slice(MAGIC);
        bytes.extend(work);
        Ok(())
    }
}

/// Before our nodes. No protobuf message begins with a field of number 0, which this would be.
const MAGIC: &[u8] = b"\0rdd1";
