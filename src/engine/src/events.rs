//! Events: what happened, for those who listen and for a while after.
//!
//! [`Events::emit`] is where they come from, [`Engine::events`] where they go. A listener that is too slow is told so and
//! ends; it never misses something in silence.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bollard_stubs::models::{EventActor, EventMessage, EventMessageScopeEnum, EventMessageTypeEnum as Type};
use serde_json::Value;
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
}

impl Default for Events {
    fn default() -> Self {
        Self { kept: Mutex::default(), sender: broadcast::Sender::new(BEHIND) }
    }
}

impl Events {
    /// Something happened to something.
    pub(crate) fn emit(&self, typ: Type, action: &str, id: &str, attributes: HashMap<String, String>) {
        let now = jiff::Timestamp::now();
        let event = Arc::new(EventMessage {
            typ: Some(typ),
            action: Some(action.to_owned()),
            actor: Some(EventActor { id: Some(id.to_owned()), attributes: Some(attributes) }),
            scope: Some(EventMessageScopeEnum::LOCAL),
            time: Some(now.as_second()),
            time_nano: Some(i64::try_from(now.as_nanosecond()).unwrap_or_default()),
        });
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
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
        attributes.insert("image".to_owned(), record.config.image.clone().unwrap_or_default());
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
    /// A time or a filter is wrong.
    pub async fn events(
        &self,
        since: Option<&str>,
        until: Option<&str>,
        filters: Filters,
    ) -> Result<ValueStream, EngineError> {
        let since = since.map(moment).transpose()?;
        let until = until.map(moment).transpose()?;
        let (kept, mut receiver) = self.shared().events.listen();
        let (sender, stream) = mpsc::channel(DEPTH);
        tokio::spawn(async move {
            if let Some(since) = since {
                for event in
                    kept.iter().filter(|event| is_between(event, since, until) && wanted(event, &filters))
                {
                    if sender.send(Ok(document(event))).await.is_err() {
                        return;
                    }
                }
            }
            let ends = async {
                match until {
                    Some(until) => {
                        let left = until.duration_since(jiff::Timestamp::now());
                        tokio::time::sleep(left.try_into().unwrap_or_default()).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::pin!(ends);
            loop {
                let event = tokio::select! {
                    event = receiver.recv() => event,
                    () = &mut ends => return,
                    () = sender.closed() => return,
                };
                let sent = match event {
                    Ok(event) if wanted(&event, &filters) => sender.send(Ok(document(&event))).await,
                    Ok(_) => Ok(()),
                    Err(broadcast::error::RecvError::Closed) => return,
                    Err(broadcast::error::RecvError::Lagged(missed)) => {
                        let text = format!("this listener was too slow: it missed {missed} events");
                        // It may be gone as well.
                        let _ = sender.send(Err(EngineError::failed(text))).await;
                        return;
                    }
                };
                if sent.is_err() {
                    return;
                }
            }
        });
        Ok(stream)
    }
}

fn is_between(event: &EventMessage, since: jiff::Timestamp, until: Option<jiff::Timestamp>) -> bool {
    let at = i128::from(event.time_nano.unwrap_or_default());
    at >= since.as_nanosecond() && until.is_none_or(|until| at <= until.as_nanosecond())
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

fn wanted(event: &EventMessage, filters: &Filters) -> bool {
    let typ = event.typ.map(|typ| typ.to_string()).unwrap_or_default();
    let action = event.action.clone().unwrap_or_default();
    let actor = event.actor.clone().unwrap_or_default();
    let (id, attributes) = (actor.id.unwrap_or_default(), actor.attributes.unwrap_or_default());
    let is_one = |key: &str, found: &dyn Fn(&str) -> bool| !filters.has(key) || filters.get(key).any(found);
    let named = |kind: &'static str| {
        let (id, attributes, typ) = (&id, &attributes, &typ);
        move |wanted: &str| {
            let name = attributes.get("name").map(String::as_str);
            let by_attribute = attributes.get(kind).map(String::as_str) == Some(wanted);
            by_attribute || (typ == kind && (id == wanted || id.starts_with(wanted) || name == Some(wanted)))
        }
    };
    let image = |wanted: &str| {
        let image = attributes.get(if typ == "image" { "name" } else { "image" });
        image.is_some_and(|image| image == wanted || image.split(':').next() == Some(wanted)) || id == wanted
    };
    // `exec_create` stands for `exec_create: sh -c true`.
    let acts = |wanted: &str| action == wanted || action.split(':').next() == Some(wanted);
    is_one("type", &|wanted| typ == wanted)
        && is_one("event", &acts)
        && is_one("container", &named("container"))
        && is_one("volume", &named("volume"))
        && is_one("network", &named("network"))
        && is_one("image", &image)
        && is_one("scope", &|wanted| wanted == "local")
        && filters.labels(|key| attributes.get(key).map(String::as_str))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bollard_stubs::models::EventMessageTypeEnum as Type;

    use super::{Events, KEPT, document, wanted};
    use crate::filters::Filters;

    fn one(typ: Type, action: &str) -> std::sync::Arc<bollard_stubs::models::EventMessage> {
        let events = Events::default();
        let attributes = [("image", "a:1"), ("name", "n"), ("l", "v")];
        let attributes = attributes.map(|(key, value)| (key.to_owned(), value.to_owned()));
        events.emit(typ, action, "abc", HashMap::from(attributes));
        events.listen().0.remove(0)
    }

    #[test]
    fn filters_find_what_they_name() {
        let event = one(Type::CONTAINER, "exec_create: sh");
        let fits = |text: &str| wanted(&event, &Filters::parse(text).unwrap());
        for good in [
            r#"{"type":["container"]}"#,
            r#"{"event":["exec_create"]}"#,
            r#"{"container":["n"]}"#,
            r#"{"container":["ab"]}"#,
            r#"{"image":["a"]}"#,
            r#"{"label":["l=v"]}"#,
        ] {
            assert!(fits(good), "{good}");
        }
        for bad in [
            r#"{"type":["image"]}"#,
            r#"{"event":["exec"]}"#,
            r#"{"container":["x"]}"#,
            r#"{"label":["l=w"]}"#,
        ] {
            assert!(!fits(bad), "{bad}");
        }
    }

    #[test]
    fn containers_have_the_fields_of_old() {
        let value = document(&one(Type::CONTAINER, "start"));
        assert_eq!(
            (&value["status"], &value["id"], &value["from"]),
            (&"start".into(), &"abc".into(), &"a:1".into())
        );
        assert!(document(&one(Type::VOLUME, "create")).get("status").is_none());
    }

    #[test]
    fn only_the_newest_are_kept() {
        let events = Events::default();
        for number in 0..KEPT + 5 {
            events.emit(Type::VOLUME, "create", &number.to_string(), HashMap::new());
        }
        let (kept, _) = events.listen();
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[0].actor.as_ref().unwrap().id.as_deref(), Some("5"));
    }
}
