//! Containers: what they are, and what can be done with them.
//!
//! [`Record`] is what lies on the disk, [`Container`] one that the engine knows. One file per thing that can be done.

mod attach;
mod content;
mod create;
mod exec;
mod list;
pub mod record;
mod spec;
mod start;
mod stop;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

pub use attach::AttachRequest;
pub use content::CommitRequest;
pub use exec::ExecRequest;
pub use list::ListQuery;
pub use record::Record;
pub use stop::WaitCondition;

/// All containers of an engine, by id.
#[derive(Debug, Default)]
pub(crate) struct Containers {
    table: Mutex<Table>,
}

/// Ids and names; both change together.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// By id.
    pub(crate) by_id: HashMap<String, Arc<Container>>,
    /// From names, without `/`, to ids; reserved while a container is being made.
    pub(crate) names: BTreeMap<String, String>,
}

/// A container that the engine knows.
#[derive(Debug)]
pub(crate) struct Container {
    /// 64 hexadecimal digits.
    pub(crate) id: String,
    /// What lies on the disk, and is written there by whoever changes it.
    pub(crate) record: Mutex<Record>,
    /// One thing at a time is done with a container: start, stop, rename, update, remove.
    pub(crate) turn: tokio::sync::Mutex<()>,
}
