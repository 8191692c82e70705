//! A new configuration for a running gateway: compiled whole, then swapped; a file with an error changes nothing.
//!
//! Requests in flight keep the snapshot that they began with. What must outlive the swap (endpoints, limits, counters)
//! is handed on by [`crate::compile`].

pub mod watch;

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
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
    /// The file cannot be put in its place.
    #[error("cannot write {}: {error}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It was made from another configuration than the present one.
    #[error("the present configuration has generation {0}")]
    Superseded(u64),
}

/// Reads and compiles a file beside the snapshot that it is to replace. Changes nothing.
///
/// # Errors
/// [`LoadError`].
pub fn load(path: &Path, previous: Option<&Snapshot>) -> Result<(Snapshot, Findings), LoadError> {
    let text =
        fs::read_to_string(path).map_err(|error| LoadError::Unreadable { path: path.to_owned(), error })?;
    compiled(&text, path, previous)
}

fn compiled(text: &str, path: &Path, previous: Option<&Snapshot>) -> Result<(Snapshot, Findings), LoadError> {
    let document = config::parse(text).map_err(|finding| LoadError::Wrong(Findings(vec![finding])))?;
    let directory = path.parent().unwrap_or(Path::new("."));
    compile::compile(&document, Context { directory, previous }).map_err(LoadError::Wrong)
}

/// Starts what a snapshot needs besides requests: health checks, fetches of keys. For each one that is published.
pub fn accompany(snapshot: &Snapshot, background: &Handle) {
    let _entered = background.enter();
    snapshot.upstreams.values().for_each(upstream::health::watch);
    snapshot.credentials.start(background);
    if let Some(tracer) = &snapshot.tracer {
        tracer.start(background);
    }
}

/// Puts the file's present configuration in the place of the running one, or leaves that as it is and says why.
///
/// # Errors
/// [`LoadError`]; it is logged and counted.
pub fn reload(path: &Path, shared: &Shared, background: &Handle) -> Result<(), LoadError> {
    let begun = Instant::now();
    take(load(path, Some(&shared.snapshot())), begun, path, shared, background).map(|_| ())
}

/// Puts `text` in the place of the running configuration, and into the file at `path`: at a restart it is the same.
/// With `expected` only if that is the present generation. Warnings come back beside the new generation.
///
/// # Errors
/// [`LoadError`], and nothing has changed; what is wrong is logged and counted.
pub fn configure(
    text: &str,
    expected: Option<u64>,
    path: &Path,
    shared: &Shared,
    background: &Handle,
) -> Result<(u64, Findings), LoadError> {
    let begun = Instant::now();
    let previous = shared.snapshot();
    if expected.is_some_and(|expected| expected != previous.generation) {
        return Err(LoadError::Superseded(previous.generation));
    }
    let loaded = compiled(text, path, Some(&previous)).and_then(|loaded| {
        replace(path, text).map_err(|error| LoadError::Unwritable { path: path.to_owned(), error })?;
        Ok(loaded)
    });
    take(loaded, begun, path, shared, background)
}

/// Replaces a file's content whole or not at all, where a symbolic link leads.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = fs::canonicalize(path)?;
    let directory = path.parent().ok_or(io::ErrorKind::NotFound)?;
    let mut new = tempfile::NamedTempFile::new_in(directory)?;
    new.write_all(text.as_bytes())?;
    new.as_file().set_permissions(fs::metadata(&path)?.permissions())?;
    new.as_file().sync_all()?;
    new.persist(&path)?;
    File::open(directory)?.sync_all()
}

fn take(
    loaded: Result<(Snapshot, Findings), LoadError>,
    begun: Instant,
    path: &Path,
    shared: &Shared,
    background: &Handle,
) -> Result<(u64, Findings), LoadError> {
    let config = &shared.metrics.config;
    match loaded {
        Ok((snapshot, warnings)) => {
            let generation = snapshot.generation;
            let snapshot = Arc::new(snapshot);
            // Checks begin before requests come, so that none meets an endpoint of which nothing is known for long.
            accompany(&snapshot, background);
            shared.publish(snapshot);
            let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            config.took_us.store(took_us, Relaxed);
            config.reloads.fetch_add(1, Relaxed);
            config.last_failed.store(false, Relaxed);
            note_warnings(path, shared, &warnings);
            tracing::info!(generation, took_us, "configuration taken");
            Ok((generation, warnings))
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
        LoadError::Unreadable { .. } | LoadError::Unwritable { .. } | LoadError::Superseded(_) => {
            tracing::error!("{error}")
        }
        LoadError::Wrong(findings) => {
            for finding in &findings.0 {
                tracing::error!("{}:{finding}", path.display());
            }
        }
    }
}
