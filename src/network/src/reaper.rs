//! Takes links away beside the work of others.
//!
//! The kernel waits for every processor when a link goes, and nobody can change links meanwhile. [`Reaper`] marks the
//! links that are to go and takes all that gathered away with one request, so that the wait is once for many.
//!
//! Spec: rtnetlink(7), `IFLA_GROUP`.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::error::kernel;
use crate::link::Links;

/// Who takes links away. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reaper {
    /// Names of links that are to go; empty when nobody is at it.
    waiting: Arc<Mutex<Vec<String>>>,
}

impl Reaper {
    /// The links go soon. Must be called in a runtime.
    pub(crate) fn take_away(&self, names: Vec<String>) {
        if names.is_empty() {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = waiting.is_empty();
        waiting.extend(names);
        if idle {
            let reaper = self.clone();
            Handle::current().spawn_blocking(move || reaper.reap());
        }
    }

    fn reap(&self) {
        thread::sleep(GATHER);
        let names = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let links = Links::open().map_err(kernel("talk to the kernel about links"));
        if let Err(error) = links.and_then(|mut links| links.remove_all(&names)) {
            tracing::warn!(%error, ?names, "links that are no longer needed are still there");
        }
    }
}

/// Short enough that nobody sees them, long enough that a burst goes at once.
const GATHER: Duration = Duration::from_millis(60);
