//! The scheduler and the executors of a cluster, in the user's own binary.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use ballista_core::error::Result;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::start_server;

use crate::cluster::MESSAGE_BYTES;
use crate::node::Codec;
use crate::registry::Registry;

/// Serves as the scheduler, until the process is told to end.
///
/// # Errors
///
/// When it cannot listen there.
pub async fn serve_scheduler(registry: Arc<Registry>, address: SocketAddr) -> Result<()> {
    let message_bytes = u32::try_from(MESSAGE_BYTES).unwrap_or(u32::MAX);
    let config = Arc::new(SchedulerConfig {
        bind_host: address.ip().to_string(),
        bind_port: address.port(),
        external_host: address.ip().to_string(),
        executor_timeout_seconds: EXECUTOR_TIMEOUT_SECONDS,
        expire_dead_executor_interval_seconds: 1,
        grpc_server_max_decoding_message_size: message_bytes,
        grpc_server_max_encoding_message_size: message_bytes,
        override_physical_codec: Some(Arc::new(Codec::new(registry))),
        ..SchedulerConfig::default()
    });
    let cluster = BallistaCluster::new_from_config(&config).await?;
    start_server(cluster, address, config).await
}

/// Where an executor serves, and whom.
#[derive(Clone, Debug)]
pub struct Executor<'a> {
    /// The scheduler.
    pub scheduler: SocketAddr,
    /// For other executors that fetch blocks; the port after it is for the scheduler.
    pub address: SocketAddr,
    /// Tasks at a time. With one, Ballista 55 loses the slot when another executor dies.
    pub slots: usize,
    /// Where blocks lie.
    pub folder: &'a Path,
}

/// Serves as an executor, until the process is told to end.
///
/// # Errors
///
/// When it cannot listen there, or there is no scheduler.
pub async fn serve_executor(registry: Arc<Registry>, executor: &Executor<'_>) -> Result<()> {
    let message_bytes = u32::try_from(MESSAGE_BYTES).unwrap_or(u32::MAX);
    let config = ExecutorProcessConfig {
        bind_host: executor.address.ip().to_string(),
        external_host: Some(executor.address.ip().to_string()),
        port: executor.address.port(),
        grpc_port: executor.address.port() + 1,
        scheduler_host: executor.scheduler.ip().to_string(),
        scheduler_port: executor.scheduler.port(),
        scheduler_connect_timeout_seconds: 30,
        vcores: executor.slots,
        work_dir: Some(executor.folder.display().to_string()),
        grpc_max_decoding_message_size: message_bytes,
        grpc_max_encoding_message_size: message_bytes,
        executor_heartbeat_interval_seconds: 1,
        override_physical_codec: Some(Arc::new(Codec::new(registry))),
        ..ExecutorProcessConfig::default()
    };
    start_executor_process(Arc::new(config)).await
}

/// An executor that is silent for so long is dead.
const EXECUTOR_TIMEOUT_SECONDS: u64 = 5;
