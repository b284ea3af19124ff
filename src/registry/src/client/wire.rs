//! Patience: how long is waited, how often is tried again, and what stops it all.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::RegistryError;

/// What every request of one piece of work has in common.
pub(crate) struct Wire {
    /// A transfer in which nothing moves for this long is given up.
    pub stall: Duration,
    /// How often something is tried again.
    pub retries: u32,
    /// The user's wish to stop.
    pub cancel: &'static AtomicBool,
    /// The wish of whom this client works for.
    pub leave: Arc<AtomicBool>,
    /// Set when another part of the same work failed.
    pub stop: AtomicBool,
}

/// How far a payload is on its way out.
pub(crate) struct Moved<'a> {
    /// Counted by whoever takes bytes out of it.
    pub bytes: Arc<AtomicU64>,
    /// When all is out the registry has to think: it may take its time then.
    pub total_bytes: u64,
    /// Is told the count from time to time.
    pub tell: &'a (dyn Fn(u64) + Sync),
}

/// How long an interrupt may go unnoticed while nothing moves.
const NOTICE: Duration = Duration::from_millis(50);
/// A registry that has all of a blob hashes it, and may move it elsewhere: so much longer is waited.
const THINKING: u32 = 10;
/// Whoever asks for a longer pause gets an error instead: nobody sits before a terminal that long.
const MAX_PAUSE: Duration = Duration::from_secs(60);

impl Wire {
    pub(crate) fn check(&self) -> Result<(), RegistryError> {
        let flags = [self.cancel, &self.leave, &self.stop];
        if flags.iter().any(|flag| flag.load(Ordering::Relaxed)) {
            return Err(RegistryError::Interrupted);
        }
        Ok(())
    }

    /// Waits for something to happen.
    pub(crate) async fn in_time<T>(
        &self,
        what: &str,
        future: impl Future<Output = T>,
    ) -> Result<T, RegistryError> {
        self.while_moving(what, None, future).await
    }

    /// Waits for something to happen; as long as `moved` grows, it does.
    pub(crate) async fn while_moving<T>(
        &self,
        what: &str,
        moved: Option<&Moved<'_>>,
        future: impl Future<Output = T>,
    ) -> Result<T, RegistryError> {
        let mut future = pin!(future);
        let count = || moved.map_or(0, |moved| moved.bytes.load(Ordering::Relaxed));
        let (mut seen, mut since) = (count(), Instant::now());
        loop {
            self.check()?;
            if let Ok(outcome) = tokio::time::timeout(NOTICE.min(self.stall), &mut future).await {
                return Ok(outcome);
            }
            let now = count();
            if now != seen {
                (seen, since) = (now, Instant::now());
                moved.iter().for_each(|moved| (moved.tell)(now));
            } else if since.elapsed() >= self.patience(moved, now) {
                let seconds = since.elapsed().as_secs();
                return Err(RegistryError::Stalled { what: what.to_owned(), seconds });
            }
        }
    }

    fn patience(&self, moved: Option<&Moved<'_>>, count: u64) -> Duration {
        let is_out = moved.is_some_and(|moved| count >= moved.total_bytes);
        if is_out { self.stall * THINKING } else { self.stall }
    }

    /// Tries again what may pass.
    pub(crate) async fn retrying<T>(
        &self,
        mut work: impl AsyncFnMut() -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut attempt = 0;
        loop {
            match work().await {
                Err(error) if error.is_passing() && attempt < self.retries => {
                    self.pause(attempt, error).await?;
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// Waits before the next try, as long as the registry asked for, and gives the error back; as an error when that
    /// is too long.
    pub(crate) async fn pause(
        &self,
        attempt: u32,
        error: RegistryError,
    ) -> Result<RegistryError, RegistryError> {
        let asked = match &error {
            RegistryError::Busy { seconds: Some(seconds), .. } => Some(Duration::from_secs(*seconds)),
            _ => None,
        };
        if asked.is_some_and(|asked| asked > MAX_PAUSE) {
            return Err(error);
        }
        let end = Instant::now() + asked.unwrap_or_else(|| Duration::from_millis(100 << attempt.min(6)));
        while Instant::now() < end {
            self.check()?;
            tokio::time::sleep(NOTICE.min(end.saturating_duration_since(Instant::now()))).await;
        }
        Ok(error)
    }
}

/// The last cause of a failed request: the first ones only say that it failed.
pub(crate) fn connection(what: &str, error: &reqwest::Error) -> RegistryError {
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        reason = cause.to_string();
        source = cause.source();
    }
    RegistryError::Connection { what: what.to_owned(), reason }
}
