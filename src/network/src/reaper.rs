//! Takes links away beside the work of others.
//!
//! Removing a bridge takes the kernel some 20 ms, in which nobody can change links. [`Reaper`] therefore waits until
//! nothing else is done, and then takes one bridge after the other, so that a call waits for one at most. Ends of
//! cables are quick when many go with one request.
//!
//! Links are told by number, not by name: a name may be another's by the time its turn comes.
//!
//! Spec: rtnetlink(7), `IFLA_GROUP`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::NetworkError;
use crate::error::kernel;
use crate::link::Links;

/// Who takes links away. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reaper {
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Links that go one by one.
    alone: Vec<u32>,
    /// Links that go together.
    together: Vec<u32>,
    /// Since when the first of them waits; `None` when nobody is at it.
    since: Option<Instant>,
    /// When links were last worked with.
    used: Option<Instant>,
}

impl Reaper {
    /// Somebody works with links now.
    pub(crate) fn used(&self) {
        self.lock().used = Some(Instant::now());
    }

    /// A bridge or its like goes soon. Must be called in a runtime.
    pub(crate) fn take_away(&self, link: u32) {
        self.add(|waiting| waiting.alone.push(link));
    }

    /// Ends of cables go soon. Must be called in a runtime.
    pub(crate) fn take_cables_away(&self, links: Vec<u32>) {
        if !links.is_empty() {
            self.add(|waiting| waiting.together.extend(links));
        }
    }

    fn add(&self, change: impl FnOnce(&mut Waiting)) {
        let mut waiting = self.lock();
        change(&mut waiting);
        if waiting.since.is_none() {
            waiting.since = Some(Instant::now());
            let reaper = self.clone();
            Handle::current().spawn_blocking(move || reaper.reap());
        }
    }

    fn reap(&self) {
        loop {
            thread::sleep(QUIET);
            while let Some((links, together)) = self.next() {
                if let Err(error) = remove(&links, together) {
                    tracing::warn!(%error, ?links, "links that are no longer needed are still there");
                }
            }
            let mut waiting = self.lock();
            if waiting.is_empty() {
                waiting.since = None;
                return;
            }
        }
    }

    /// What goes next, if this is a good moment.
    fn next(&self) -> Option<(Vec<u32>, bool)> {
        let mut waiting = self.lock();
        if waiting.is_empty() || !waiting.is_time() {
            return None;
        }
        if !waiting.together.is_empty() {
            return Some((std::mem::take(&mut waiting.together), true));
        }
        Some((vec![waiting.alone.remove(0)], false))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.alone.is_empty() && self.together.is_empty()
    }

    /// Nothing else is done, or enough was waited for that.
    fn is_time(&self) -> bool {
        let quiet = self.used.is_none_or(|used| used.elapsed() >= QUIET);
        quiet
            || self.since.is_some_and(|since| since.elapsed() >= LONGEST)
            || self.alone.len() + self.together.len() >= MOST
    }
}

fn remove(links: &[u32], together: bool) -> Result<(), NetworkError> {
    let mut kernel_links = Links::open().map_err(kernel("talk to the kernel about links"))?;
    if together {
        kernel_links.remove_all(links)
    } else {
        links.iter().try_for_each(|link| kernel_links.remove(*link))
    }
}

/// How long nothing must have been done.
const QUIET: Duration = Duration::from_millis(50);
/// From then on links go whatever else is done.
const LONGEST: Duration = Duration::from_secs(5);
/// So many may wait.
const MOST: usize = 256;
