//! Containers: what they are, and what can be done with them.
//!
//! [`Record`] is what lies on the disk, [`Container`] one that the engine knows. One file per thing that can be done.

mod attach;
mod content;
mod copy_up;
mod create;
mod exec;
mod links;
mod list;
mod live;
mod mounts;
mod names;
pub mod record;
mod spec;
mod start;
mod stats;
mod stop;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use attach::AttachRequest;
pub use content::CommitRequest;
#[doc(hidden)]
pub use create::try_request;
pub use exec::ExecRequest;
pub use list::ListQuery;
pub use record::Record;
pub use stop::WaitCondition;
pub(crate) use stop::stands_still;

pub(crate) use create::platform_of;
pub(crate) use exec::ExecRecord;
pub(crate) use live::Live;
pub(crate) use start::{blocking, endpoint_request, volumes_of};
pub(crate) use stats::machine_memory_bytes;
pub(crate) use watch::restarts;

use crate::EngineError;

/// All containers of an engine, by id.
#[derive(Debug, Default)]
pub(crate) struct Containers {
    table: Mutex<Table>,
    execs: Mutex<HashMap<String, Arc<ExecRecord>>>,
}

/// Ids and names; both change together.
#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<String, Arc<Container>>,
    /// From names, without `/`, to ids; reserved while a container is being made.
    names: BTreeMap<String, String>,
}

/// A container that the engine knows.
#[derive(Debug)]
pub(crate) struct Container {
    /// 64 hexadecimal digits.
    pub(crate) id: String,
    record: Mutex<Record>,
    /// One thing at a time is done with a container: start, stop, rename, update, remove.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// What ends with this process.
    pub(crate) live: Live,
}

impl Container {
    /// A container of a record.
    pub(crate) fn new(record: Record) -> Self {
        Self {
            id: record.id.clone(),
            record: Mutex::new(record),
            turn: tokio::sync::Mutex::default(),
            live: Live::default(),
        }
    }

    /// What is known of it, locked: never across an await.
    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Containers {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn execs(&self) -> MutexGuard<'_, HashMap<String, Arc<ExecRecord>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds a container by its id, its name, or the beginning of its id.
    ///
    /// # Errors
    /// There is none, or several ids begin so.
    pub(crate) fn find(&self, name: &str) -> Result<Arc<Container>, EngineError> {
        let table = self.table();
        let absent = || EngineError::not_found(format!("No such container: {name}"));
        let plain = name.strip_prefix('/').unwrap_or(name);
        if let Some(found) = table.by_id.get(plain) {
            return Ok(found.clone());
        }
        if let Some(found) = table.names.get(plain).and_then(|id| table.by_id.get(id)) {
            return Ok(found.clone());
        }
        if plain.is_empty() {
            return Err(absent());
        }
        let mut matching = table.by_id.values().filter(|container| container.id.starts_with(plain));
        match (matching.next(), matching.next()) {
            (Some(found), None) => Ok(found.clone()),
            (Some(_), Some(_)) => {
                Err(EngineError::invalid(format!("multiple IDs found with provided prefix: {name}")))
            }
            _ => Err(absent()),
        }
    }

    /// Keeps a name for a container.
    ///
    /// # Errors
    /// Another one has it.
    pub(crate) fn reserve(&self, name: &str, id: &str) -> Result<(), EngineError> {
        let mut table = self.table();
        if let Some(owner) = table.names.get(name) {
            return Err(EngineError::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". \
                 You have to remove (or rename) that container to be able to reuse that name."
            )));
        }
        table.names.insert(name.to_owned(), id.to_owned());
        Ok(())
    }

    /// Gives a name back.
    pub(crate) fn release(&self, name: &str) {
        self.table().names.remove(name);
    }

    /// Adds a container; its name was reserved before, or is now.
    pub(crate) fn insert(&self, container: Arc<Container>) {
        let name = container.record().name.clone();
        let mut table = self.table();
        table.names.insert(name, container.id.clone());
        table.by_id.insert(container.id.clone(), container);
    }

    /// Forgets a container and its names.
    pub(crate) fn remove(&self, id: &str) {
        let mut table = self.table();
        table.by_id.remove(id);
        table.names.retain(|_, owner| owner != id);
        drop(table);
        self.execs().retain(|_, exec| exec.container != id);
    }

    /// All of them, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        self.table().by_id.values().cloned().collect()
    }

    /// Adds an exec.
    pub(crate) fn add_exec(&self, exec: Arc<ExecRecord>) {
        self.execs().insert(exec.id.clone(), exec);
    }

    /// Finds an exec.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn exec(&self, id: &str) -> Result<Arc<ExecRecord>, EngineError> {
        let found = self.execs().get(id).cloned();
        found.ok_or_else(|| EngineError::not_found(format!("No such exec instance: {id}")))
    }

    /// Forgets an exec.
    pub(crate) fn forget_exec(&self, id: &str) {
        self.execs().remove(id);
    }

    /// A container has ended, and all that was run in it; how it ended can still be asked for.
    pub(crate) fn end_execs_of(&self, container: &str) {
        self.execs().values().filter(|exec| exec.container == container).for_each(|exec| exec.ended());
    }

    /// Ids of what runs in a container beside its own program.
    pub(crate) fn execs_of(&self, container: &str) -> Vec<String> {
        let execs = self.execs();
        let mut ids: Vec<String> = execs
            .values()
            .filter(|exec| exec.container == container && exec.is_running())
            .map(|exec| exec.id.clone())
            .collect();
        ids.sort();
        ids
    }
}
