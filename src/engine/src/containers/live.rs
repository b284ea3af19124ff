//! What a container is while this engine lives: its shim, who waits for it, what is planned for it.
//!
//! [`Live`] ends with the process; all that must outlive it is in the record.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::attach::Waiter;
use crate::shim::Shim;

/// The first pause before a restart; each one after is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Who ran for so long is started again without having to wait.
const LONG_LIFE: Duration = Duration::from_secs(10);

/// Where a container is in its life; those who wait look at it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Phase {
    /// Its program runs.
    pub(crate) running: bool,
    /// How often it has ended since this engine knows it.
    pub(crate) exits: u64,
    /// How it ended last.
    pub(crate) code: i64,
    /// It is gone for good.
    pub(crate) removed: bool,
}

/// What ends with this process.
#[derive(Debug)]
pub(crate) struct Live {
    phase: watch::Sender<Phase>,
    inner: Mutex<Inner>,
}

/// What changes.
#[derive(Debug, Default)]
pub(crate) struct Inner {
    /// Its shim, while it runs.
    pub(crate) shim: Option<Shim>,
    /// The one before, which may still be tidying up.
    pub(crate) last_shim: Option<Shim>,
    /// Clients that attached before it was started.
    pub(crate) waiting: Vec<Waiter>,
    /// A user asked for its end: it is not started again by itself.
    pub(crate) ended_by_hand: bool,
    /// It is being ended to be started again.
    pub(crate) starts_again: bool,
    /// Asks for its health.
    pub(crate) health: Option<AbortHandle>,
    /// Waits to start it again.
    pub(crate) restart: Option<AbortHandle>,
    /// How long the next restart waits.
    pause: Option<Duration>,
    /// When it was started.
    pub(crate) started: Option<std::time::Instant>,
    /// Its removal has begun.
    pub(crate) removing: bool,
}

impl Default for Live {
    fn default() -> Self {
        Self { phase: watch::Sender::new(Phase::default()), inner: Mutex::default() }
    }
}

impl Live {
    /// What changes, locked: never across an await.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shim of a container that runs.
    pub(crate) fn shim(&self) -> Option<Shim> {
        self.lock().shim.clone()
    }

    /// Comes back when nothing is left of the last time that it ran.
    pub(crate) async fn last_shim_gone(&self) {
        let last = self.lock().last_shim.take();
        if let Some(last) = last {
            last.gone().await;
        }
    }

    /// Where it is.
    pub(crate) fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Follows where it is.
    pub(crate) fn follow(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Tells all who wait.
    pub(crate) fn tell(&self, change: impl FnOnce(&mut Phase)) {
        self.phase.send_modify(change);
    }

    /// How long to wait before it is started again.
    pub(crate) fn next_pause(&self) -> Duration {
        let mut inner = self.lock();
        let lived = inner.started.map_or(Duration::ZERO, |started| started.elapsed());
        let pause = match inner.pause {
            Some(pause) if lived < LONG_LIFE => (pause * 2).min(LONGEST_PAUSE),
            _ => FIRST_PAUSE,
        };
        inner.pause = Some(pause);
        pause
    }

    /// Forgets a restart that is planned.
    pub(crate) fn cancel_restart(&self) {
        if let Some(restart) = self.lock().restart.take() {
            restart.abort();
        }
    }
}
