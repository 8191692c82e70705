//! A new configuration for a running gateway: compiled whole, then swapped; a file with an error changes nothing.
//!
//! Requests in flight keep the snapshot that they began with. What must outlive the swap (endpoints, limits, counters)
//! is handed on by [`crate::compile`].

pub mod watch;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use thiserror::Error;
use tokio::runtime::Handle;

use crate::{
    compile::{self, Context},
    config::{self, Findings, Severity},
    shared::Shared,
    snapshot::Snapshot,
    upstream,
};

/// Why a configuration is not taken.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Something in it is wrong.
    #[error("{0}")]
    Wrong(Findings),
}

/// Reads and compiles a file beside the snapshot that it is to replace. Changes nothing.
///
/// # Errors
/// [`LoadError`].
pub fn load(path: &Path, previous: Option<&Snapshot>) -> Result<(Snapshot, Findings), LoadError> {
    let text =
        fs::read_to_string(path).map_err(|error| LoadError::Unreadable { path: path.to_owned(), error })?;
    let document = config::parse(&text).map_err(|finding| LoadError::Wrong(Findings(vec![finding])))?;
    let directory = path.parent().unwrap_or(Path::new("."));
    compile::compile(&document, Context { directory, previous }).map_err(LoadError::Wrong)
}

/// Starts what a snapshot needs besides requests: health checks, fetches of keys. For each one that is published.
pub fn accompany(snapshot: &Snapshot, background: &Handle) {
    let _entered = background.enter();
    snapshot.upstreams.values().for_each(upstream::health::watch);
    snapshot.credentials.start(background);
}

/// Puts the file's present configuration in the place of the running one, or leaves that as it is and says why.
///
/// # Errors
/// [`LoadError`]; it is logged and counted.
pub fn reload(path: &Path, shared: &Shared, background: &Handle) -> Result<(), LoadError> {
    let config = &shared.metrics.config;
    match load(path, Some(&shared.snapshot())) {
        Ok((snapshot, warnings)) => {
            let generation = snapshot.generation;
            let snapshot = Arc::new(snapshot);
            // Checks begin before requests come, so that none meets an endpoint of which nothing is known for long.
            accompany(&snapshot, background);
            shared.publish(snapshot);
            config.reloads.fetch_add(1, Relaxed);
            config.last_failed.store(false, Relaxed);
            note_warnings(path, shared, &warnings);
            tracing::info!(generation, "configuration taken");
            Ok(())
        }
        Err(error) => {
            config.failures.fetch_add(1, Relaxed);
            config.last_failed.store(true, Relaxed);
            say(path, &error);
            Err(error)
        }
    }
}

/// Logs warnings, and counts those of the present configuration.
pub fn note_warnings(path: &Path, shared: &Shared, warnings: &Findings) {
    let count = warnings.0.iter().filter(|finding| finding.severity == Severity::Warning).count();
    shared.metrics.config.warnings.store(u32::try_from(count).unwrap_or(u32::MAX), Relaxed);
    for finding in &warnings.0 {
        tracing::warn!("{}:{finding}", path.display());
    }
}

fn say(path: &Path, error: &LoadError) {
    tracing::error!("the configuration is refused, the present one stays");
    match error {
        LoadError::Unreadable { .. } => tracing::error!("{error}"),
        LoadError::Wrong(findings) => {
            for finding in &findings.0 {
                tracing::error!("{}:{finding}", path.display());
            }
        }
    }
}
