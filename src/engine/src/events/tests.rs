//! Tests of events.

use std::collections::HashMap;

use bollard_stubs::models::EventMessageTypeEnum as Type;

use tokio::sync::mpsc;

use super::{BEHIND, Events, KEPT, Listener, Wanted, document, fits};
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
    let fits = |text: &str| fits(&event, &Filters::parse(text).unwrap());
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
        r#"{"volume":["n"]}"#,
        r#"{"daemon":["abc"]}"#,
        r#"{"image":["b"]}"#,
        r#"{"scope":["swarm"]}"#,
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

#[test]
fn an_image_is_found_with_and_without_its_tag() {
    let name = |name: &str, wanted: &str| super::is_image_name(name, wanted);
    assert!(name("localhost:5000/a:1", "localhost:5000/a") && name("localhost:5000/a", "localhost:5000/a"));
    assert!(name("a@sha256:00", "a") && name("a:1", "a:1") && !name("a:1", "a:2") && !name("ab:1", "a"));
}

#[test]
fn times_must_be_in_order() {
    let wanted = |since: &str, until: &str| Wanted::new(Some(since), Some(until), Filters::default());
    assert!(wanted("1", "2").is_ok() && wanted("", "").is_ok());
    let text = wanted("2", "1").err().unwrap().message();
    assert_eq!(text, "`since` time (2) cannot be after `until` time (1)");
    assert!(wanted("x", "1").err().unwrap().message().starts_with("invalid value for 'since': "));
}

/// What a listener gets of `events`, and the text of the error that ended it.
async fn heard(
    events: &Events,
    since: Option<&str>,
    until: Option<&str>,
    later: usize,
) -> (Vec<String>, String) {
    let (kept, receiver) = events.listen();
    for number in 0..later {
        events.emit(Type::VOLUME, "create", &format!("later-{number}"), HashMap::new());
    }
    let (sender, mut stream) = mpsc::channel(16);
    let wanted = Wanted::new(since, until, Filters::default()).ok().unwrap();
    let run = tokio::spawn(async move { Listener { wanted, receiver, sender }.run(kept).await.is_ok() });
    let (mut ids, mut error) = (Vec::new(), String::new());
    while let Some(event) = stream.recv().await {
        match event {
            Ok(event) => ids.push(event["Actor"]["ID"].as_str().unwrap().to_owned()),
            Err(failed) => error = failed.message(),
        }
        if until.is_none() && ids.len() == later {
            break;
        }
    }
    drop(stream);
    let _ = run.await.unwrap();
    (ids, error)
}

#[tokio::test]
async fn the_past_is_told_only_to_those_who_ask() {
    let events = Events::default();
    events.emit(Type::VOLUME, "create", "early", HashMap::new());
    assert_eq!(heard(&events, Some("0"), Some("0s"), 0).await.0, ["early"]);
    assert_eq!(heard(&events, None, Some("0s"), 0).await.0, ["early"]);
    assert!(heard(&events, Some("0"), Some("1"), 0).await.0.is_empty());
    assert_eq!(heard(&events, None, None, 2).await.0, ["later-0", "later-1"]);
}

#[tokio::test]
async fn who_is_too_slow_is_told_so() {
    let (ids, error) = heard(&Events::default(), None, None, BEHIND + 3).await;
    assert!(ids.is_empty());
    assert_eq!(error, "this listener was too slow: it missed 3 events");
}
