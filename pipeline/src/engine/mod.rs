//! The query engine: in this process, or a Ballista cluster whose scheduler and executors are this very program.

mod codec;
mod serve;
mod stores;

use std::{
    net::{TcpStream, ToSocketAddrs as _},
    num::NonZeroUsize,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ballista::prelude::SessionContextExt as _;
use ballista_core::extension::SessionConfigExt as _;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::context::{QueryPlanner, SessionContext};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner as _};
use datafusion::prelude::SessionConfig;

pub use self::serve::{ExecutorOptions, SchedulerOptions, executor, scheduler};
use crate::{
    PipelineError,
    prepare::{self, sink::NodePlanner},
};

/// A scheduler that is there takes a connection at once.
const REACHED_WITHIN: Duration = Duration::from_secs(10);

/// Where a plan runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    #[default]
    Local,
    /// A scheduler's address, `ballista://host:port`.
    Ballista(String),
}

impl std::str::FromStr for Engine {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "local" {
            return Ok(Self::Local);
        }
        match url::Url::parse(text) {
            Ok(url) if url.scheme() == "ballista" && url.host().is_some() && url.port().is_some() => {
                Ok(Self::Ballista(text.to_owned()))
            }
            _ => Err("write `local`, or `ballista://host:port` of a `lockstep engine scheduler`".into()),
        }
    }
}

/// How much of the machine a plan may use, and how it joins.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    pub engine: Engine,
    /// Plans work on so many partitions at a time.
    pub threads: NonZeroUsize,
    /// Bytes; what needs more spills to disk, or is refused.
    pub memory: usize,
    /// Where to spill; default: the system's temporary folder.
    pub spill: Option<PathBuf>,
}

/// How rows meet the tables that they are joined with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joins {
    /// Tables lie in memory, the rows stream past them in their order.
    Streamed,
    /// Both sides are sorted by key, spilling to disk; no table need fit into memory. Rows lose their order.
    Sorted,
}

/// A context whose plans know our sink and functions.
pub fn context(options: &EngineOptions, joins: Joins) -> std::result::Result<SessionContext, PipelineError> {
    let failed = |error: DataFusionError| PipelineError::options("the query engine cannot be set up").because(error);
    let runtime = runtime(options.memory, options.spill.clone()).map_err(failed)?;
    let config = configure(SessionConfig::new(), options, joins);
    match &options.engine {
        Engine::Local => Ok(SessionContext::new_with_state(state(config, runtime))),
        Engine::Ballista(url) => {
            reach(url)?;
            let config = config
                .with_ballista_logical_extension_codec(Arc::new(codec::Logical::default()))
                .with_ballista_physical_extension_codec(Arc::new(codec::Physical::default()))
                .with_ballista_broadcast_join_threshold_bytes(options.memory / 8)
                // Ballista 55's adaptive graph forgets a stage that lost its input to a dead executor, and the job hangs.
                .with_ballista_adaptive_query_planner(false)
                .with_ballista_job_name("lockstep prepare");
            let state = state(config, runtime);
            let connected =
                futures::executor::block_on(SessionContext::remote_with_state(url, state)).map_err(failed)?;
            Ok(connected)
        }
    }
}

/// The client would only find out in the middle of things.
fn reach(url: &str) -> std::result::Result<(), PipelineError> {
    let away = |error: std::io::Error| {
        PipelineError::network(format!("no engine answers at {url}"))
            .with_hint("start one with `lockstep engine scheduler`, which prints its address")
            .because(error)
    };
    let place = url.trim_start_matches("ballista://").trim_end_matches('/');
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for address in place.to_socket_addrs().map_err(away)? {
        match TcpStream::connect_timeout(&address, REACHED_WITHIN) {
            Ok(_) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(away(last))
}

fn configure(config: SessionConfig, options: &EngineOptions, joins: Joins) -> SessionConfig {
    let mut config = config.with_target_partitions(options.threads.get()).with_round_robin_repartition(false);
    // Which rows a partition gets must not hang on who was faster: the same command gives the same files.
    config.options_mut().execution.enable_file_stream_work_stealing = false;
    let optimizer = &mut config.options_mut().optimizer;
    // The side that is written first is the one that is held in memory; statistics must not turn it around.
    optimizer.join_reordering = false;
    optimizer.prefer_hash_join = joins == Joins::Streamed;
    if joins == Joins::Streamed {
        optimizer.hash_join_single_partition_threshold = usize::MAX;
        optimizer.hash_join_single_partition_threshold_rows = usize::MAX;
    }
    config
}

fn runtime(memory: usize, spill: Option<PathBuf>) -> Result<Arc<RuntimeEnv>> {
    let mode = match spill {
        Some(folder) => DiskManagerMode::Directories(vec![folder]),
        None => DiskManagerMode::OsTmpDirectory,
    };
    let consumers = NonZeroUsize::MIN.saturating_add(2);
    RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(TrackConsumersPool::new(FairSpillPool::new(memory), consumers)))
        .with_object_store_registry(Arc::new(stores::Stores::default()))
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(mode))
        .build_arc()
}

/// The same on the driver, the scheduler and the executors.
fn state(config: SessionConfig, runtime: Arc<RuntimeEnv>) -> SessionState {
    let mut state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_query_planner(Arc::new(Planner))
        .build();
    for function in prepare::functions() {
        let _ = datafusion::execution::FunctionRegistry::register_udf(&mut state, function);
    }
    state
}

/// The default planner, and our nodes.
#[derive(Debug)]
struct Planner;

#[async_trait::async_trait]
impl QueryPlanner for Planner {
    async fn create_physical_plan(
        &self,
        plan: &LogicalPlan,
        session: &dyn datafusion::catalog::Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(NodePlanner)]);
        planner.create_physical_plan(plan, session).await
    }
}
