//! The store on the local disk: one redb file. A service is one JSON value under its name.
//!
//! Invariant: a file that cannot be read in full is left as it is. The file is made under another name
//! and renamed, so that under its own name it is never half made.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use redb::{
    Builder, Database, DatabaseError, ReadOnlyDatabase, ReadableDatabase, ReadableTable, StorageError,
    TableDefinition, TableError, backends::FileBackend,
};
use serde::{Deserialize, Serialize};

use super::{Store, StoreError};
use crate::model::{Desired, Drain, OnDeadline, OnDeadlineName, Service, ServiceSpec};

const SCHEMA: u64 = 1;
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("portcullis");
const SERVICES: TableDefinition<&str, &[u8]> = TableDefinition::new("services");
const SCHEMA_KEY: &str = "schema";
const GENERATION_KEY: &str = "generation";

/// A redb file.
pub struct Embedded {
    path: PathBuf,
    database: Database,
    loaded: Desired,
}

/// A service as it is kept: what clients wrote, and its drains.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    service: ServiceSpec,
    drains: BTreeMap<SocketAddr, DrainRecord>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DrainRecord {
    since_unix_seconds: u64,
    deadline_unix_seconds: Option<u64>,
    #[serde(default = "resteer")]
    on_deadline: OnDeadlineName,
}

/// Drains of before there was a choice.
fn resteer() -> OnDeadlineName {
    OnDeadline::Resteer.into()
}

impl Embedded {
    /// Opens the file, or makes it where there is none; its directory must exist.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let path = path.to_owned();
        if !path.try_exists().map_err(|error| io(&path, error))? {
            create(&path)?;
        }
        // A panic inside redb on a damaged file is one more way of saying that it cannot be read.
        let opened = catch_unwind(AssertUnwindSafe(|| open_and_read(&path)));
        let (database, loaded) = opened.unwrap_or_else(|_| Err(unreadable(&path, "the file is damaged")))?;
        Ok(Self { path, database, loaded })
    }
}

impl Store for Embedded {
    fn load(&self) -> Result<Desired, StoreError> {
        Ok(self.loaded.clone())
    }

    fn save(&mut self, desired: &Desired, changed: &[String]) -> Result<(), StoreError> {
        write(&self.database, desired, changed).map_err(|error| io(&self.path, error))
    }

    fn reserve(&mut self, generation: u64) -> Result<(), StoreError> {
        let put = || -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            transaction.open_table(NUMBERS)?.insert(GENERATION_KEY, generation)?;
            Ok(transaction.commit()?)
        };
        put().map_err(|error| io(&self.path, error))
    }
}

fn open_and_read(path: &Path) -> Result<(Database, Desired), StoreError> {
    // Reading first keeps a damaged or foreign file untouched. After a crash redb must repair: it asks
    // for a writable file, and what a crash leaves is what it is made to repair.
    match ReadOnlyDatabase::open(path) {
        Ok(database) => read(path, &database).map(drop)?,
        Err(DatabaseError::RepairAborted) => {}
        Err(error) => return Err(refuse(path, error)),
    }
    // Every page is checked: what a plain open would take on trust could panic or vanish later.
    let database =
        Builder::new().set_check_integrity_on_open(true).open(path).map_err(|error| refuse(path, error))?;
    let desired = read(path, &database)?;
    Ok((database, desired))
}

fn create(path: &Path) -> Result<(), StoreError> {
    let unfinished = path.with_extension("new");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(&unfinished, error)),
        _ => {}
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .map_err(|error| io(&unfinished, error))?;
    let fill = || -> Result<(), redb::Error> {
        let transaction = Builder::new().create_with_backend(FileBackend::new(file)?)?.begin_write()?;
        transaction.open_table(NUMBERS)?.insert(SCHEMA_KEY, SCHEMA)?;
        transaction.open_table(SERVICES)?;
        Ok(transaction.commit()?)
    };
    fill().map_err(|error| io(&unfinished, error))?;
    fs::rename(&unfinished, path).map_err(|error| io(path, error))?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| io(directory, error))
}

fn write(database: &Database, desired: &Desired, changed: &[String]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(NUMBERS)?.insert(GENERATION_KEY, desired.generation)?;
    {
        let mut services = transaction.open_table(SERVICES)?;
        for name in changed {
            match desired.services.get(name) {
                Some(service) => services.insert(name.as_str(), record(service).as_slice())?,
                None => services.remove(name.as_str())?,
            };
        }
    }
    Ok(transaction.commit()?)
}

fn record(service: &Service) -> Vec<u8> {
    let drains = service.backends.iter().filter_map(|(at, backend)| {
        let Drain { since_unix_seconds, deadline_unix_seconds, on_deadline } = backend.draining?;
        let on_deadline = on_deadline.into();
        Some((*at, DrainRecord { since_unix_seconds, deadline_unix_seconds, on_deadline }))
    });
    let record = Record { service: service.spec(), drains: drains.collect() };
    serde_json::to_vec(&record).unwrap_or_else(|_| unreachable!("its keys are strings"))
}

fn read(path: &Path, database: &impl ReadableDatabase) -> Result<Desired, StoreError> {
    let bad = |reason: String| unreadable(path, reason);
    let transaction = database.begin_read().map_err(|error| bad(error.to_string()))?;
    let numbers = match transaction.open_table(NUMBERS) {
        Ok(numbers) => numbers,
        Err(TableError::TableDoesNotExist(_)) => return Err(bad("it belongs to another program".into())),
        Err(error) => return Err(bad(error.to_string())),
    };
    let number = |key: &str| match numbers.get(key) {
        Ok(value) => Ok(value.map(|value| value.value())),
        Err(error) => Err(bad(error.to_string())),
    };
    match number(SCHEMA_KEY)? {
        Some(SCHEMA) => {}
        Some(found) => {
            return Err(StoreError::Schema { path: path.to_owned(), found, known: SCHEMA });
        }
        None => return Err(bad("it names no schema".into())),
    }
    let mut desired = Desired { generation: number(GENERATION_KEY)?.unwrap_or(0), ..Desired::default() };
    let services = transaction.open_table(SERVICES).map_err(|error| bad(error.to_string()))?;
    for entry in services.iter().map_err(|error| bad(error.to_string()))? {
        let (name, value) = entry.map_err(|error| bad(error.to_string()))?;
        let service =
            parse(value.value()).map_err(|reason| bad(format!("service {}: {reason}", name.value())))?;
        desired.services.insert(name.value().to_owned(), service);
    }
    Ok(desired)
}

fn parse(value: &[u8]) -> Result<Service, String> {
    let record: Record = serde_json::from_slice(value).map_err(|error| error.to_string())?;
    let mut service = Service::new(&record.service).map_err(|errors| {
        let rules = errors.iter().map(|error| format!("{} {}", error.field, error.rule));
        rules.collect::<Vec<_>>().join("; ")
    })?;
    for (at, DrainRecord { since_unix_seconds, deadline_unix_seconds, on_deadline }) in record.drains {
        let backend = service.backends.get_mut(&at).ok_or(format!("a drain of {at}, which is no backend"))?;
        let on_deadline = on_deadline.into();
        backend.draining = Some(Drain { since_unix_seconds, deadline_unix_seconds, on_deadline });
    }
    Ok(service)
}

fn refuse(path: &Path, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            StoreError::InUse(path.to_owned())
        }
        DatabaseError::Storage(StorageError::Io(error))
            if error.kind() != std::io::ErrorKind::InvalidData
                && error.kind() != std::io::ErrorKind::UnexpectedEof =>
        {
            io(path, error)
        }
        other => unreadable(path, other),
    }
}

fn io(path: &Path, error: impl ToString) -> StoreError {
    StoreError::Io { path: path.to_owned(), reason: error.to_string() }
}

fn unreadable(path: &Path, reason: impl ToString) -> StoreError {
    StoreError::Unreadable { path: path.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests;
