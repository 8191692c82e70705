//! Where the desired state is kept. An order is in the store before it is published.

pub mod embedded;

use std::path::PathBuf;

use crate::model::Desired;

/// A place that keeps the desired state. Health is not kept: it is observed again.
pub trait Store: Send {
    /// What was last saved; `generation` is at least every number that was ever given out.
    fn load(&self) -> Result<Desired, StoreError>;

    /// Keeps `desired` durably, of which the services in `changed` differ from what was saved before.
    fn save(&mut self, desired: &Desired, changed: &[String]) -> Result<(), StoreError>;

    /// Promises durably that generations up to `generation` are not given out again after a restart.
    fn reserve(&mut self, generation: u64) -> Result<(), StoreError>;
}

/// What is wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be read or written.
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// As the system says.
        reason: String,
    },
    /// Another process has the file open.
    #[error("{}: another process has the store open; stop it first", .0.display())]
    InUse(PathBuf),
    /// The file is no store of this program, or damaged.
    #[error("{}: not a store that this program can read ({reason}); it was left as it is: restore a copy, or move it away to begin with an empty store", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// A newer program wrote the file.
    #[error("{}: written in schema {found}, this program knows {known}; it was left as it is", path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// In the file.
        found: u64,
        /// The latest that this program knows.
        known: u64,
    },
}

/// Keeps nothing beyond the process.
#[derive(Default)]
pub struct Memory(Desired);

impl Store for Memory {
    fn load(&self) -> Result<Desired, StoreError> {
        Ok(self.0.clone())
    }

    fn save(&mut self, desired: &Desired, _changed: &[String]) -> Result<(), StoreError> {
        self.0 = desired.clone();
        Ok(())
    }

    fn reserve(&mut self, _generation: u64) -> Result<(), StoreError> {
        Ok(())
    }
}
