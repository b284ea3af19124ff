//! Figures: how often and how long.
//!
//! [`Engine::measures`] is what a page of figures is made of; how it is written is for others. Counting costs an atomic
//! addition, and nobody waits for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::containers::blocking;
use crate::{Engine, EngineError};

/// Upper bounds of a histogram's buckets, in microseconds: those that dashboards of docker expect.
const BOUNDS_US: [u64; 11] =
    [5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000];

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// What a container has changed was listed.
    Changes,
    /// A container became an image.
    Commit,
    /// A container was made.
    Create,
    /// One was removed.
    Delete,
    /// One was started.
    Start,
    /// A network was made.
    Allocate,
    /// A container came into its networks.
    Connect,
    /// It left them.
    Release,
}

impl Action {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Changes, "changes"),
        (Self::Commit, "commit"),
        (Self::Create, "create"),
        (Self::Delete, "delete"),
        (Self::Start, "start"),
        (Self::Allocate, "allocate"),
        (Self::Connect, "connect"),
        (Self::Release, "release"),
    ];
    /// From here on they are a network's.
    const FIRST_OF_NETWORKS: usize = 5;
}

/// All counters of an engine.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    histograms: [Counts; Action::ALL.len()],
    /// Checks of health, and those that failed.
    pub(crate) checks: AtomicU64,
    pub(crate) failed_checks: AtomicU64,
}

#[derive(Debug, Default)]
struct Counts {
    /// The last one has no bound.
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Meters {
    /// Times something until what is answered is dropped.
    pub(crate) fn time(&self, action: Action) -> Timed<'_> {
        Timed { counts: &self.histograms[action as usize], begun: Instant::now() }
    }

    /// A check of a container's health has ended.
    pub(crate) fn checked(&self, healthy: bool) {
        self.checks.fetch_add(1, Ordering::Relaxed);
        if !healthy {
            self.failed_checks.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn histograms(&self) -> Vec<Histogram> {
        let named = Action::ALL.iter().zip(&self.histograms);
        named.map(|((_, name), counts)| counts.read(name)).collect()
    }
}

impl Counts {
    fn add(&self, took_us: u64) {
        let bucket = BOUNDS_US.iter().position(|bound| took_us <= *bound).unwrap_or(BOUNDS_US.len());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(took_us, Ordering::Relaxed);
    }

    fn read(&self, action: &'static str) -> Histogram {
        let mut count = 0;
        let mut up_to = |bucket: &AtomicU64| {
            count += bucket.load(Ordering::Relaxed);
            count
        };
        let bounds = BOUNDS_US.iter().zip(&self.buckets);
        let buckets = bounds.map(|(bound_us, bucket)| (*bound_us as f64 / 1e6, up_to(bucket))).collect();
        let count = up_to(&self.buckets[BOUNDS_US.len()]);
        Histogram { action, buckets, count, sum_s: self.sum_us.load(Ordering::Relaxed) as f64 / 1e6 }
    }
}

/// Counts how long it lived.
pub(crate) struct Timed<'m> {
    counts: &'m Counts,
    begun: Instant,
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        self.counts.add(u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
}

/// How long something took, how often.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// What.
    pub action: &'static str,
    /// So many took at most so many seconds.
    pub buckets: Vec<(f64, u64)>,
    /// All.
    pub count: u64,
    /// Seconds of all.
    pub sum_s: f64,
}

/// An engine in figures.
#[derive(Clone, Debug, Default)]
pub struct Measures {
    /// The engine's identity.
    pub id: String,
    /// Containers that run, are paused, do not run.
    pub containers: [u64; 3],
    /// What was done with containers.
    pub container_actions: Vec<Histogram>,
    /// What was done with networks.
    pub network_actions: Vec<Histogram>,
    /// Checks of health so far.
    pub checks: u64,
    /// Those that failed.
    pub failed_checks: u64,
    /// Events so far.
    pub events: u64,
    /// Who listens to events.
    pub listeners: u64,
    /// Images that are here.
    pub images: u64,
    /// Volumes that are here.
    pub volumes: u64,
    /// Networks that are here.
    pub networks: u64,
}

impl Engine {
    /// The engine in figures, as of now.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn measures(&self) -> Result<Measures, EngineError> {
        let store = self.store().clone();
        let images = blocking(move || Ok(crate::images::entries(&store)?.len())).await?;
        let shared = self.shared();
        let mut containers = [0; 3];
        for container in shared.containers.all() {
            let state = container.record().state.clone();
            let place = if state.paused { 1 } else { usize::from(!state.running) * 2 };
            containers[place] += 1;
        }
        let mut container_actions = shared.meters.histograms();
        let network_actions = container_actions.split_off(Action::FIRST_OF_NETWORKS);
        let (events, listeners) = shared.events.counts();
        Ok(Measures {
            id: shared.id.clone(),
            containers,
            container_actions,
            network_actions,
            checks: shared.meters.checks.load(Ordering::Relaxed),
            failed_checks: shared.meters.failed_checks.load(Ordering::Relaxed),
            events,
            listeners,
            images: images as u64,
            volumes: shared.volumes.count() as u64,
            networks: self.count_networks() as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Action, Meters};

    #[test]
    fn a_histogram_counts_what_is_below_each_bound() {
        let meters = Meters::default();
        let counts = &meters.histograms[Action::Start as usize];
        for took_us in [1, 5_000, 5_001, 60_000_000] {
            counts.add(took_us);
        }
        let all = meters.histograms();
        let start = &all[Action::Start as usize];
        assert_eq!((start.action, start.count), ("start", 4));
        assert_eq!(start.buckets[..2], [(0.005, 2), (0.01, 3)]);
        assert_eq!(start.buckets.last(), Some(&(10.0, 3)));
        assert!((start.sum_s - 60.010_002).abs() < 1e-9);
        drop(meters.time(Action::Commit));
        assert_eq!(meters.histograms()[Action::Commit as usize].count, 1);
    }

    #[test]
    fn names_stand_where_their_actions_are() {
        for (place, (action, _)) in Action::ALL.iter().enumerate() {
            assert_eq!(*action as usize, place);
        }
        assert_eq!(Action::Allocate as usize, Action::FIRST_OF_NETWORKS);
    }
}
