//! Progress of pulls and pushes in docker's words.
//!
//! [`Told`] is what the registry's client tells; it becomes JSON documents of one stream. Whoever stops listening stops
//! the work.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use knarr_base::Digest;
use knarr_oci::{Descriptor, media_type};
use knarr_registry::client::{BlobStep, Progress};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::stream::ValueStream;
use crate::{EngineError, stream};

/// No blob is told of more often than this.
const PAUSE: Duration = Duration::from_millis(100);

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Pull,
    Push,
}

/// Tells a client how it goes.
pub(super) struct Told {
    way: Way,
    /// What comes before the first blob.
    first: Value,
    sender: mpsc::Sender<Result<Value, EngineError>>,
    begun: Mutex<Option<oneshot::Sender<Result<(), EngineError>>>>,
    shown: Mutex<HashMap<Digest, Instant>>,
    /// Set when nobody listens any more.
    leave: Arc<AtomicBool>,
}

impl Told {
    /// Runs work that tells; comes back with its stream when it has begun, or with why it could not.
    pub(super) async fn run(
        way: Way,
        first: Value,
        work: impl FnOnce(&Self, &Arc<AtomicBool>) -> Result<Vec<Value>, EngineError> + Send + 'static,
    ) -> Result<ValueStream, EngineError> {
        let (sender, receiver) = mpsc::channel(stream::DEPTH);
        let (begun, started) = oneshot::channel();
        let leave = Arc::new(AtomicBool::new(false));
        let told = Self {
            way,
            first,
            sender: sender.clone(),
            begun: Mutex::new(Some(begun)),
            shown: Mutex::default(),
            leave: leave.clone(),
        };
        let watched = leave.clone();
        let watch = Watch(tokio::spawn(async move {
            sender.closed().await;
            watched.store(true, Ordering::Relaxed);
        }));
        tokio::task::spawn_blocking(move || {
            let outcome = work(&told, &leave);
            drop(watch);
            match outcome {
                Ok(lines) => {
                    told.start();
                    lines.into_iter().for_each(|line| told.say(line));
                }
                Err(error) => told.fail(error),
            }
        });
        match started.await {
            Ok(outcome) => outcome.map(|()| receiver),
            Err(_) => Err(EngineError::failed("the work ended without a word")),
        }
    }

    /// Tells one thing. Where nobody listens the work is to end.
    pub(super) fn say(&self, value: Value) {
        if self.sender.blocking_send(Ok(value)).is_err() {
            self.leave.store(true, Ordering::Relaxed);
        }
    }

    fn fail(&self, error: EngineError) {
        match self.take_begun() {
            // Nobody waits for the answer any more when this fails.
            Some(begun) => drop(begun.send(Err(error))),
            None => drop(self.sender.blocking_send(Err(error))),
        }
    }

    /// From now on the answer is a stream.
    pub(super) fn start(&self) {
        if let Some(begun) = self.take_begun() {
            // Nobody waits for the answer any more when this fails: then nobody listens either.
            let _ = begun.send(Ok(()));
            self.say(self.first.clone());
        }
    }

    fn take_begun(&self) -> Option<oneshot::Sender<Result<(), EngineError>>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn layer(&self, layer: &Descriptor, status: &str) {
        self.say(json!({ "status": status, "progressDetail": {}, "id": short(layer) }));
    }

    fn moved(&self, layer: &Descriptor, bytes: u64) {
        {
            let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            let last = shown.get(&layer.digest);
            if last.is_some_and(|last| last.elapsed() < PAUSE) {
                return;
            }
            shown.insert(layer.digest, Instant::now());
        }
        let status = if self.way == Way::Pull { "Downloading" } else { "Pushing" };
        let detail = json!({ "current": bytes, "total": layer.size });
        let line = json!({ "status": status, "progressDetail": detail, "id": short(layer) });
        // This may be a thread that must not wait; whoever reads slowly is told of a later state.
        let _ = self.sender.try_send(Ok(line));
    }
}

/// Looks whether somebody still listens. It holds the stream open, so it ends with the work, however that ends.
struct Watch(tokio::task::JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Progress for Told {
    fn expect_bytes(&self, _: u64) {}
    fn bytes(&self, _: u64) {}
    fn note(&self, _: &str) {}

    fn warn(&self, text: &str) {
        tracing::warn!("{text}");
    }

    fn begin(&self, _: &Descriptor, blobs: &[Descriptor]) {
        self.start();
        let status = if self.way == Way::Pull { "Pulling fs layer" } else { "Preparing" };
        blobs.iter().filter(|blob| is_layer(blob)).for_each(|layer| self.layer(layer, status));
    }

    fn blob(&self, blob: &Descriptor, step: BlobStep<'_>) {
        if !is_layer(blob) {
            return;
        }
        match (step, self.way) {
            (BlobStep::Known, Way::Pull) => self.layer(blob, "Already exists"),
            (BlobStep::Known, Way::Push) => self.layer(blob, "Layer already exists"),
            (BlobStep::Moved(bytes), _) => self.moved(blob, bytes),
            (BlobStep::Mounted(from), _) => self.layer(blob, &format!("Mounted from {from}")),
            (BlobStep::Done, Way::Pull) => self.layer(blob, "Download complete"),
            (BlobStep::Done, Way::Push) => self.layer(blob, "Pushed"),
        }
    }
}

fn is_layer(blob: &Descriptor) -> bool {
    !media_type::is_config(&blob.media_type) && blob.media_type != media_type::EMPTY
}

fn short(layer: &Descriptor) -> String {
    layer.digest.hex()[..12].to_owned()
}
