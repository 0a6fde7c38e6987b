//! A scheduler and executors for `prepare --engine`, with the settings that a job of hours on a handful of machines wants.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    num::NonZeroUsize,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::extension::SessionConfigExt as _;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::{create_scheduler, start_grpc_service_with_listener};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::SessionConfig;
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use tokio::signal::unix::{SignalKind, signal};

use super::{codec, state, stores::Stores};
use crate::PipelineError;

/// An executor that was silent for so long is gone, and its tasks are given to others; Ballista's own default is three minutes.
const LOST_AFTER: Duration = Duration::from_secs(20);
const HEARTBEAT: Duration = Duration::from_secs(5);
const LARGEST_MESSAGE: u32 = 64 << 20;
/// Staged results of joins are dropped so long after a job's end.
const KEEP_SHUFFLES: Duration = Duration::from_secs(3600);

/// Options of [`scheduler`].
#[derive(Clone, Debug)]
pub struct SchedulerOptions {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
}

/// Options of [`executor`].
#[derive(Clone, Debug)]
pub struct ExecutorOptions {
    /// `host:port` of the scheduler.
    pub scheduler: (String, u16),
    /// Where other executors fetch from this one; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The name by which others reach this machine; default: the listening address.
    pub advertise: Option<String>,
    /// How many tasks at a time.
    pub slots: NonZeroUsize,
    /// Bytes, shared by the tasks; what needs more spills.
    pub memory: u64,
    /// Where joins stage their rows; default: a temporary folder.
    pub work: Option<PathBuf>,
}

fn failed(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> PipelineError {
    PipelineError::network(format!("the engine's {what} failed")).because(error)
}

/// Runs until SIGINT or SIGTERM; `ready` is told the address.
pub async fn scheduler(options: &SchedulerOptions, ready: impl FnOnce(SocketAddr)) -> Result<(), PipelineError> {
    let bind = |error: io::Error| {
        PipelineError::network(format!("cannot listen on {}", options.listen))
            .because(error)
            .with_hint("name another address with --listen; port 0 takes a free one")
    };
    let listener = tokio::net::TcpListener::bind(options.listen).await.map_err(bind)?;
    let address = listener.local_addr().map_err(bind)?;
    let config = SchedulerConfig {
        bind_host: address.ip().to_string(),
        external_host: address.ip().to_string(),
        bind_port: address.port(),
        scheduling_policy: TaskSchedulingPolicy::PullStaged,
        executor_timeout_seconds: LOST_AFTER.as_secs(),
        no_executors_grace_period_seconds: LOST_AFTER.as_secs(),
        expire_dead_executor_interval_seconds: HEARTBEAT.as_secs(),
        grpc_server_max_decoding_message_size: LARGEST_MESSAGE,
        grpc_server_max_encoding_message_size: LARGEST_MESSAGE,
        override_logical_codec: Some(Arc::new(codec::Logical::default())),
        override_physical_codec: Some(Arc::new(codec::Physical::default())),
        override_session_builder: Some(Arc::new(|config| {
            let runtime = RuntimeEnvBuilder::new().with_object_store_registry(Arc::new(Stores::default()));
            Ok(state(config, runtime.build_arc()?))
        })),
        override_config_producer: Some(Arc::new(SessionConfig::new_with_ballista)),
        ..SchedulerConfig::default()
    };
    let cluster = BallistaCluster::new_from_config(&config).await.map_err(|error| failed("scheduler", error))?;
    let server = create_scheduler::<LogicalPlanNode, PhysicalPlanNode>(cluster, Arc::new(config))
        .await
        .map_err(|error| failed("scheduler", error))?;
    ready(address);
    tokio::select! {
        ended = start_grpc_service_with_listener(listener, server) => ended.map_err(|error| failed("scheduler", error)),
        ended = asked_to_stop() => ended,
    }
}

/// Runs until SIGINT or SIGTERM, or until the scheduler sends it away.
pub async fn executor(options: &ExecutorOptions, ready: impl FnOnce(SocketAddr)) -> Result<(), PipelineError> {
    let port = match options.listen.port() {
        0 => free_port(options.listen.ip()).map_err(|error| failed("executor", error))?,
        port => port,
    };
    let temporary = match &options.work {
        Some(_) => None,
        None => Some(tempfile::tempdir().map_err(|error| failed("executor", error))?),
    };
    let work = match (&options.work, &temporary) {
        (Some(folder), _) => folder.clone(),
        (None, Some(folder)) => folder.path().to_owned(),
        (None, None) => std::env::temp_dir(),
    };
    std::fs::create_dir_all(&work).map_err(|error| PipelineError::io("create", &work, error))?;
    let spill = work.clone();
    let config = ExecutorProcessConfig {
        bind_host: options.listen.ip().to_string(),
        external_host: Some(options.advertise.clone().unwrap_or_else(|| options.listen.ip().to_string())),
        port,
        scheduler_host: options.scheduler.0.clone(),
        scheduler_port: options.scheduler.1,
        scheduler_connect_timeout_seconds: 30,
        vcores: options.slots.get(),
        task_scheduling_policy: TaskSchedulingPolicy::PullStaged,
        work_dir: Some(work.display().to_string()),
        executor_heartbeat_interval_seconds: HEARTBEAT.as_secs(),
        job_data_ttl_seconds: KEEP_SHUFFLES.as_secs(),
        job_data_clean_up_interval_seconds: KEEP_SHUFFLES.as_secs() / 4,
        grpc_max_decoding_message_size: LARGEST_MESSAGE,
        grpc_max_encoding_message_size: LARGEST_MESSAGE,
        memory_pool_size: Some(options.memory),
        override_logical_codec: Some(Arc::new(codec::Logical::default())),
        override_physical_codec: Some(Arc::new(codec::Physical::default())),
        override_runtime_producer: Some(Arc::new(move |_| {
            RuntimeEnvBuilder::new()
                .with_temp_file_path(spill.clone())
                .with_object_store_registry(Arc::new(Stores::default()))
                .build_arc()
        })),
        override_config_producer: Some(Arc::new(SessionConfig::new_with_ballista)),
        ..ExecutorProcessConfig::default()
    };
    ready(SocketAddr::new(options.listen.ip(), port));
    start_executor_process(Arc::new(config)).await.map_err(|error| {
        failed("executor", error).with_hint("is the scheduler running, and is this the same version of lockstep?")
    })
}

async fn asked_to_stop() -> Result<(), PipelineError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| failed("scheduler", error))?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// A port that nobody listens on; Ballista wants to be told one.
fn free_port(ip: IpAddr) -> io::Result<u16> {
    Ok(TcpListener::bind((ip, 0))?.local_addr()?.port())
}
