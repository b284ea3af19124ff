//! Which containers a list is to have.
//!
//! [`Wanted`] is what a query asks for, read and checked.

use bollard_stubs::models::PortSummary;

use super::{ListQuery, health_word, made_at, port_summaries, status_word};
use crate::containers::record::{MountRecord, Record};
use crate::filters::Filters;
use crate::{Engine, EngineError};

const FILTERS: [&str; 16] = [
    "ancestor",
    "before",
    "expose",
    "exited",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "label!",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];
const STATUSES: [&str; 7] = ["created", "running", "paused", "restarting", "removing", "exited", "dead"];
const HEALTHS: [&str; 4] = ["none", "starting", "healthy", "unhealthy"];

impl Engine {
    pub(super) fn wanted<'q>(&self, query: &'q ListQuery) -> Result<Wanted<'q>, EngineError> {
        let filters = &query.filters;
        filters.allow(&FILTERS)?;
        one_of(filters, "status", "state", &STATUSES)?;
        one_of(filters, "health", "health", &HEALTHS)?;
        let made = |key: &str| -> Result<Option<jiff::Timestamp>, EngineError> {
            let named = filters.get(key).last();
            named.map(|name| Ok(made_at(&self.shared().containers.find(name)?.record()))).transpose()
        };
        Ok(Wanted {
            filters,
            all: query.all || query.limit.is_some_and(|limit| limit > 0) || filters.has("status"),
            before: made("before")?,
            since: made("since")?,
            exits: exits(filters)?,
            task: filters.flag("is-task")?,
            ancestors: self.ancestors(filters)?,
            ports: [ports_asked(filters, "publish")?, ports_asked(filters, "expose")?],
        })
    }

    /// Images that `ancestor` names, by digest.
    fn ancestors(&self, filters: &Filters) -> Result<Option<Vec<String>>, EngineError> {
        if !filters.has("ancestor") {
            return Ok(None);
        }
        let mut images = Vec::new();
        for name in filters.get("ancestor") {
            match self.shared().store.find(name) {
                Ok(found) => images.push(found.descriptor.digest.to_string()),
                // No container has an image that is not there by that name.
                Err(knarr_store::StoreError::NoImage { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(images))
    }
}

/// Which containers a list is to have.
pub(super) struct Wanted<'q> {
    pub(super) filters: &'q Filters,
    /// Those that do not run, too.
    pub(super) all: bool,
    pub(super) before: Option<jiff::Timestamp>,
    pub(super) since: Option<jiff::Timestamp>,
    pub(super) exits: Vec<i64>,
    pub(super) task: Option<bool>,
    pub(super) ancestors: Option<Vec<String>>,
    /// Those that are published, those that are exposed.
    pub(super) ports: [Vec<PortsAsked>; 2],
}

impl Wanted<'_> {
    pub(super) fn has(&self, record: &Record) -> bool {
        let filters = self.filters;
        let is_one = |key: &str, fits: &dyn Fn(&str) -> bool| !filters.has(key) || filters.get(key).any(fits);
        let label =
            |key: &str| record.config.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
        self.is_of_the_time(record)
            && self.has_state(record)
            && is_one("id", &|id| record.id.starts_with(id))
            && (filters.matches("name", &record.name)
                || filters.matches("name", &format!("/{}", record.name)))
            && is_one("network", &|name| is_in_network(record, name))
            && is_one("volume", &|name| has_volume(record, name))
            && self.task != Some(true)
            && self.ancestors.as_ref().is_none_or(|images| images.contains(&record.image))
            && self.has_port(record)
            && filters.labels(label)
    }

    fn is_of_the_time(&self, record: &Record) -> bool {
        let made = made_at(record);
        self.before.is_none_or(|before| made < before) && self.since.is_none_or(|since| made > since)
    }

    fn has_state(&self, record: &Record) -> bool {
        let state = &record.state;
        let runs = state.running || state.restarting;
        let ended = !runs && !state.started_at.is_empty() && self.exits.contains(&state.exit_code);
        let is_one = |key: &str, word: &str| {
            !self.filters.has(key) || self.filters.get(key).any(|wanted| wanted == word)
        };
        (self.all || runs)
            && (self.exits.is_empty() || ended)
            && is_one("status", status_word(state))
            && is_one("health", health_word(record))
    }

    /// One published or exposed port is enough.
    fn has_port(&self, record: &Record) -> bool {
        let [published, exposed] = &self.ports;
        let found = |port: &PortSummary| {
            let protocol = port.typ.map(|typ| typ.to_string()).unwrap_or_default();
            let fits = |asked: &[PortsAsked], number: u16| asked.iter().any(|one| one.has(number, &protocol));
            fits(exposed, port.private_port) || port.public_port.is_some_and(|number| fits(published, number))
        };
        (published.is_empty() && exposed.is_empty()) || port_summaries(record).iter().any(found)
    }
}

/// `80`, `80/udp`, `80-90/tcp`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PortsAsked {
    first: u16,
    last: u16,
    protocol: String,
}

impl PortsAsked {
    pub(super) fn parse(key: &str, text: &str) -> Result<Self, EngineError> {
        if text.contains(':') {
            let text = format!("filter for '{key}' should not contain ':': {text}");
            return Err(EngineError::invalid(text));
        }
        let bad =
            || EngineError::invalid(format!("error while looking up for {key} {text}: invalid port range"));
        let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| text.parse::<u16>().map_err(|_| bad());
        let asked =
            Self { first: number(first)?, last: number(last)?, protocol: protocol.to_ascii_lowercase() };
        if asked.first > asked.last { Err(bad()) } else { Ok(asked) }
    }

    pub(super) fn has(&self, number: u16, protocol: &str) -> bool {
        (self.first..=self.last).contains(&number) && self.protocol == protocol
    }
}

pub(super) fn ports_asked(filters: &Filters, key: &str) -> Result<Vec<PortsAsked>, EngineError> {
    filters.get(key).map(|text| PortsAsked::parse(key, text)).collect()
}

pub(super) fn exits(filters: &Filters) -> Result<Vec<i64>, EngineError> {
    let parse = |text: &str| {
        text.parse().map_err(|_| {
            EngineError::invalid(format!(
                "invalid filter 'exited={text}': strconv.Atoi: parsing \"{text}\": invalid syntax"
            ))
        })
    };
    filters.get("exited").map(parse).collect()
}

/// Refuses values of a filter that are none of the known ones.
pub(super) fn one_of(filters: &Filters, key: &str, what: &str, known: &[&str]) -> Result<(), EngineError> {
    match filters.get(key).find(|value| !known.contains(value)) {
        Some(value) => Err(EngineError::invalid(format!(
            "invalid filter '{key}={value}': invalid value for {what} ({value}): must be one of {}",
            known.join(", ")
        ))),
        None => Ok(()),
    }
}

fn is_in_network(record: &Record, name: &str) -> bool {
    record.networks.iter().any(|(key, place)| key == name || place.network_id.starts_with(name))
}

fn has_volume(record: &Record, name: &str) -> bool {
    let is_it =
        |mount: &MountRecord| mount.target == name || mount.name.as_deref().unwrap_or(&mount.source) == name;
    record.mounts.iter().any(is_it)
}
