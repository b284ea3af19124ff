//! Events: what happened, for those who listen and for a while after.
//!
//! [`Events::emit`] is where they come from, [`Engine::events`] where they go. A listener that is too slow is told so and
//! ends; it never misses something in silence.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bollard_stubs::models::{EventActor, EventMessage, EventMessageScopeEnum, EventMessageTypeEnum as Type};
use serde_json::Value;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc};

use crate::containers::Record;
use crate::filters::{Filters, moment};
use crate::stream::{DEPTH, ValueStream};
use crate::{Engine, EngineError};

/// So many are kept for those who ask later.
const KEPT: usize = 1024;
/// A listener may be behind by so many.
const BEHIND: usize = 4096;

/// What happened lately, and who listens.
#[derive(Debug)]
pub(crate) struct Events {
    kept: Mutex<VecDeque<Arc<EventMessage>>>,
    sender: broadcast::Sender<Arc<EventMessage>>,
    /// So many there were.
    count: AtomicU64,
}

impl Default for Events {
    fn default() -> Self {
        Self { kept: Mutex::default(), sender: broadcast::Sender::new(BEHIND), count: AtomicU64::new(0) }
    }
}

impl Events {
    /// Something happened to something.
    pub(crate) fn emit(&self, typ: Type, action: &str, id: &str, attributes: HashMap<String, String>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        self.count.fetch_add(1, Ordering::Relaxed);
        // Later in the list is later in time.
        let now = jiff::Timestamp::now();
        let event = Arc::new(EventMessage {
            typ: Some(typ),
            action: Some(action.to_owned()),
            actor: Some(EventActor { id: Some(id.to_owned()), attributes: Some(attributes) }),
            scope: Some(EventMessageScopeEnum::LOCAL),
            time: Some(now.as_second()),
            time_nano: Some(i64::try_from(now.as_nanosecond()).unwrap_or_default()),
        });
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(event.clone());
        // Nobody listens: that is no failure.
        let _ = self.sender.send(event);
    }

    /// Something happened to a container; `extra` comes to its image, its name and its labels.
    pub(crate) fn container(&self, action: &str, record: &Record, extra: &[(&str, &str)]) {
        let mut attributes = record.config.labels.clone().unwrap_or_default();
        if let Some(image) = record.config.image.as_ref().filter(|image| !image.is_empty()) {
            attributes.insert("image".to_owned(), image.clone());
        }
        attributes.insert("name".to_owned(), record.name.clone());
        attributes.extend(extra.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        self.emit(Type::CONTAINER, action, &record.id, attributes);
    }

    /// Something happened to an image.
    pub(crate) fn image(&self, action: &str, id: &str, name: &str) {
        self.emit(Type::IMAGE, action, id, HashMap::from([("name".to_owned(), name.to_owned())]));
    }

    /// Something happened to a volume.
    pub(crate) fn volume(&self, action: &str, name: &str, extra: &[(&str, &str)]) {
        let mut attributes = HashMap::from([("driver".to_owned(), "local".to_owned())]);
        attributes.extend(extra.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        self.emit(Type::VOLUME, action, name, attributes);
    }

    /// Something happened to a network.
    pub(crate) fn network(&self, action: &str, id: &str, name: &str, driver: &str, container: Option<&str>) {
        let mut attributes =
            HashMap::from([("name".to_owned(), name.to_owned()), ("type".to_owned(), driver.to_owned())]);
        if let Some(container) = container {
            attributes.insert("container".to_owned(), container.to_owned());
        }
        self.emit(Type::NETWORK, action, id, attributes);
    }

    /// Things of a kind were pruned.
    pub(crate) fn pruned(&self, kind: Type, reclaimed_bytes: u64) {
        self.emit(kind, "prune", "", HashMap::from([("reclaimed".to_owned(), reclaimed_bytes.to_string())]));
    }

    /// How many there were, and how many listen.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.count.load(Ordering::Relaxed), self.sender.receiver_count() as u64)
    }

    /// What is kept, and what comes after it.
    fn listen(&self) -> (Vec<Arc<EventMessage>>, broadcast::Receiver<Arc<EventMessage>>) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        (kept.iter().cloned().collect(), self.sender.subscribe())
    }
}

impl Engine {
    /// `GET /events`: from `since` on, up to `until` or for ever; times as RFC 3339, Unix seconds or durations ago.
    ///
    /// # Errors
    /// A time is wrong.
    pub async fn events(
        &self,
        since: Option<&str>,
        until: Option<&str>,
        filters: Filters,
    ) -> Result<ValueStream, EngineError> {
        let wanted = Wanted::new(since, until, filters)?;
        let (kept, receiver) = self.shared().events.listen();
        let (sender, stream) = mpsc::channel(DEPTH);
        let listener = Listener { wanted, receiver, sender };
        tokio::spawn(async move {
            // Whether it ended by itself or the client left makes no difference to anybody.
            let _ = listener.run(kept).await;
        });
        Ok(stream)
    }
}

/// What a listener asked for.
struct Wanted {
    since: Option<jiff::Timestamp>,
    until: Option<jiff::Timestamp>,
    filters: Filters,
}

impl Wanted {
    fn new(since: Option<&str>, until: Option<&str>, filters: Filters) -> Result<Self, EngineError> {
        let time = |key: &str, text: Option<&str>| {
            let bad = |error: EngineError| {
                EngineError::invalid(format!("invalid value for '{key}': {}", error.message()))
            };
            text.filter(|text| !text.is_empty()).map(|text| moment(text).map_err(bad)).transpose()
        };
        let times = (time("since", since)?, time("until", until)?);
        if let (Some(first), Some(last)) = times
            && last < first
        {
            let (since, until) = (since.unwrap_or_default(), until.unwrap_or_default());
            return Err(EngineError::invalid(format!(
                "`since` time ({since}) cannot be after `until` time ({until})"
            )));
        }
        Ok(Self { since: times.0, until: times.1, filters })
    }

    /// Whether an event of the past is asked for; without times none is.
    fn has_past(&self, event: &EventMessage) -> bool {
        let asked = self.since.is_some() || self.until.is_some();
        let old_enough = self.since.is_none_or(|since| since.as_nanosecond() <= at(event));
        asked && old_enough && self.has(event)
    }

    fn has(&self, event: &EventMessage) -> bool {
        self.until.is_none_or(|until| at(event) <= until.as_nanosecond()) && fits(event, &self.filters)
    }

    /// Comes back at the end of what is asked for.
    async fn end(&self) {
        let Some(until) = self.until else { return std::future::pending().await };
        let left = until.duration_since(jiff::Timestamp::now());
        tokio::time::sleep(left.try_into().unwrap_or_default()).await;
    }
}

/// When an event was.
fn at(event: &EventMessage) -> i128 {
    i128::from(event.time_nano.unwrap_or_default())
}

/// One that listens. Its client has left when sending fails.
struct Listener {
    wanted: Wanted,
    receiver: broadcast::Receiver<Arc<EventMessage>>,
    sender: mpsc::Sender<Result<Value, EngineError>>,
}

impl Listener {
    async fn run(mut self, kept: Vec<Arc<EventMessage>>) -> Result<(), Gone> {
        for event in kept.iter().filter(|event| self.wanted.has_past(event)) {
            self.sender.send(Ok(document(event))).await.map_err(|_| Gone)?;
        }
        loop {
            let event = tokio::select! {
                event = self.receiver.recv() => event,
                () = self.wanted.end() => break,
                () = self.sender.closed() => return Err(Gone),
            };
            self.pass(event).await?;
        }
        // What came before the end and lies in the queue still belongs to it.
        while let Some(event) = next(&mut self.receiver) {
            self.pass(event).await?;
        }
        Ok(())
    }

    async fn pass(&self, event: Result<Arc<EventMessage>, RecvError>) -> Result<(), Gone> {
        let sent = match event {
            Ok(event) if self.wanted.has(&event) => self.sender.send(Ok(document(&event))).await,
            Ok(_) => return Ok(()),
            Err(RecvError::Closed) => return Err(Gone),
            Err(RecvError::Lagged(missed)) => {
                let text = format!("this listener was too slow: it missed {missed} events");
                // The client may have left as well.
                let _ = self.sender.send(Err(EngineError::failed(text))).await;
                return Err(Gone);
            }
        };
        sent.map_err(|_| Gone)
    }
}

/// Nobody listens any more.
struct Gone;

/// What lies in the queue now.
fn next(
    receiver: &mut broadcast::Receiver<Arc<EventMessage>>,
) -> Option<Result<Arc<EventMessage>, RecvError>> {
    match receiver.try_recv() {
        Ok(event) => Some(Ok(event)),
        Err(TryRecvError::Lagged(missed)) => Some(Err(RecvError::Lagged(missed))),
        Err(TryRecvError::Empty | TryRecvError::Closed) => None,
    }
}

/// The event as clients read it, with the fields of old for containers and images.
fn document(event: &EventMessage) -> Value {
    let mut value = serde_json::to_value(event).unwrap_or_default();
    if matches!(event.typ, Some(Type::CONTAINER | Type::IMAGE))
        && let (Some(object), Some(actor)) = (value.as_object_mut(), &event.actor)
    {
        object.insert("status".to_owned(), event.action.clone().into());
        object.insert("id".to_owned(), actor.id.clone().into());
        let from = actor.attributes.as_ref().and_then(|attributes| attributes.get("image"));
        if let Some(from) = from {
            object.insert("from".to_owned(), from.clone().into());
        }
    }
    value
}

/// Kinds of things that a filter can name, by the beginning of an id or a name.
const NAMED: [&str; 9] =
    ["config", "container", "daemon", "network", "node", "plugin", "secret", "service", "volume"];

fn fits(event: &EventMessage, filters: &Filters) -> bool {
    let typ = event.typ.map(|typ| typ.to_string()).unwrap_or_default();
    let action = event.action.as_deref().unwrap_or_default();
    let actor = event.actor.clone().unwrap_or_default();
    let (id, attributes) = (actor.id.unwrap_or_default(), actor.attributes.unwrap_or_default());
    let attribute = |key: &str| attributes.get(key).map(String::as_str);
    let is_one = |key: &str, found: &dyn Fn(&str) -> bool| !filters.has(key) || filters.get(key).any(found);
    let begins = |wanted: &str| {
        id.starts_with(wanted) || attribute("name").is_some_and(|name| name.starts_with(wanted))
    };
    let is_named = |kind: &str| is_one(kind, &|wanted| typ == kind && begins(wanted));
    // `exec_create` stands for `exec_create: sh -c true`.
    let acts = |wanted: &str| action == wanted || action.split(':').next() == Some(wanted);
    let image = attribute(if typ == "image" { "name" } else { "image" }).unwrap_or_default();
    let is_image = |wanted: &str| [id.as_str(), image].iter().any(|one| is_image_name(one, wanted));
    is_one("type", &|wanted| typ == wanted)
        && is_one("event", &acts)
        && NAMED.iter().all(|kind| is_named(kind))
        && is_one("image", &is_image)
        && is_one("scope", &|wanted| wanted == "local")
        && filters.labels(attribute)
}

/// Whether an image's name is the wanted one, with its tag or digest or without.
fn is_image_name(name: &str, wanted: &str) -> bool {
    let plain = name.split('@').next().unwrap_or(name);
    let tag = plain.rfind(':').filter(|colon| !plain[*colon..].contains('/'));
    name == wanted || tag.map_or(plain, |colon| &plain[..colon]) == wanted
}

#[cfg(test)]
mod tests;
