//! Changes of an image's configuration, as instructions of a Dockerfile: `CMD ["a"]`, `ENV a=b`.
//!
//! [`Changes::parse`] reads them, [`Changes::apply`] does them. Only what changes the configuration alone can be said.
//!
//! Spec: Dockerfile reference; docker's `commit --change`.

use std::collections::BTreeMap;

use bollard_stubs::models::{ContainerConfig, HealthConfig, ImageConfig as ShownConfig};
use knarr_oci::config::Empty;
use knarr_oci::{Healthcheck, RunConfig};
use serde_json::Value;

use crate::EngineError;
use crate::filters::duration;

const KNOWN: [&str; 11] = [
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Instructions with their arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes(Vec<(String, String)>);

impl Changes {
    /// Reads instructions; one text may hold several, on a line each.
    pub(crate) fn parse(texts: &[String]) -> Result<Self, EngineError> {
        let mut all = Vec::new();
        for line in texts.iter().flat_map(|text| text.lines()).map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            if !KNOWN.contains(&name.to_ascii_uppercase().as_str()) {
                return Err(EngineError::invalid(format!(
                    "{} is not a valid change command",
                    name.to_ascii_lowercase()
                )));
            }
            let (name, rest) = (name.to_ascii_uppercase(), rest.trim().to_owned());
            if rest.is_empty() && !matches!(name.as_str(), "CMD" | "ENTRYPOINT") {
                return Err(EngineError::invalid(format!("{name} requires at least one argument")));
            }
            all.push((name, rest));
        }
        Ok(Self(all))
    }

    /// Does them, one after the other.
    pub(crate) fn apply(&self, config: &mut RunConfig) -> Result<(), EngineError> {
        self.0.iter().try_for_each(|(name, rest)| apply(config, name, rest))
    }
}

fn apply(config: &mut RunConfig, name: &str, rest: &str) -> Result<(), EngineError> {
    match name {
        "CMD" => config.cmd = command(config, rest),
        "ENTRYPOINT" => config.entrypoint = command(config, rest),
        "ENV" => {
            for (key, value) in pairs(name, rest)? {
                config.env.retain(|known| known.split('=').next() != Some(key.as_str()));
                config.env.push(format!("{key}={value}"));
            }
        }
        "LABEL" => config.labels.extend(pairs(name, rest)?),
        "EXPOSE" => {
            for port in words(rest)? {
                config.exposed_ports.insert(exposed(&port)?, Empty {});
            }
        }
        "VOLUME" => {
            let places = json_words(rest).map_or_else(|| words(rest), Ok)?;
            config.volumes.extend(places.into_iter().map(|place| (place, Empty {})));
        }
        "USER" => rest.clone_into(&mut config.user),
        "WORKDIR" => config.working_dir = directory(&config.working_dir, rest),
        "STOPSIGNAL" => rest.clone_into(&mut config.stop_signal),
        "ONBUILD" => {
            let list = config.other.entry("OnBuild".to_owned()).or_insert_with(|| Value::Array(Vec::new()));
            match list {
                Value::Array(list) => list.push(Value::from(rest)),
                other => *other = Value::Array(vec![Value::from(rest)]),
            }
        }
        _ => config.healthcheck = Some(health(rest)?),
    }
    Ok(())
}

/// `["a", "b"]` as it is, any other text as a line for the shell.
fn command(config: &RunConfig, rest: &str) -> Vec<String> {
    if rest.is_empty() {
        return Vec::new();
    }
    json_words(rest).unwrap_or_else(|| {
        let shell = if config.shell.is_empty() {
            vec!["/bin/sh".to_owned(), "-c".to_owned()]
        } else {
            config.shell.clone()
        };
        shell.into_iter().chain([rest.to_owned()]).collect()
    })
}

fn json_words(text: &str) -> Option<Vec<String>> {
    text.starts_with('[').then(|| serde_json::from_str(text).ok()).flatten()
}

/// `A=b C="d e"`, or `A b c` of old.
fn pairs(name: &str, rest: &str) -> Result<BTreeMap<String, String>, EngineError> {
    let all = words(rest)?;
    if !all.first().is_some_and(|first| first.contains('=')) {
        let (key, value) = rest
            .split_once(char::is_whitespace)
            .ok_or_else(|| EngineError::invalid(format!("{name} must have two arguments")))?;
        return Ok(BTreeMap::from([(key.to_owned(), value.trim().to_owned())]));
    }
    let pair = |word: &String| match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(EngineError::invalid(format!("{name}: {word:?} has no form name=value"))),
    };
    all.iter().map(pair).collect()
}

/// Words as a shell splits them: quotes and backslashes, nothing else.
fn words(text: &str) -> Result<Vec<String>, EngineError> {
    let (mut all, mut word, mut open, mut quote) = (Vec::new(), String::new(), false, None);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('\\', None | Some('"')) => {
                open = true;
                word.extend(characters.next());
            }
            (end, Some(begun)) if end == begun => quote = None,
            ('"' | '\'', None) => {
                open = true;
                quote = Some(character);
            }
            (space, None) if space.is_whitespace() => {
                if std::mem::take(&mut open) {
                    all.push(std::mem::take(&mut word));
                }
            }
            (other, _) => {
                open = true;
                word.push(other);
            }
        }
    }
    if quote.is_some() {
        return Err(EngineError::invalid(format!("{text:?}: a quote is not closed")));
    }
    if open {
        all.push(word);
    }
    Ok(all)
}

/// `80` is `80/tcp`.
fn exposed(port: &str) -> Result<String, EngineError> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let (first, last) = number.split_once('-').unwrap_or((number, number));
    let good = |text: &str| text.parse::<u16>().is_ok_and(|port| port > 0);
    if !good(first) || !good(last) || !matches!(protocol, "tcp" | "udp" | "sctp") {
        return Err(EngineError::invalid(format!("invalid containerPort: {port}")));
    }
    Ok(format!("{number}/{protocol}"))
}

/// A relative directory is below the one before.
fn directory(before: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{before}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// `NONE`, or `--interval=5s … CMD …`.
fn health(rest: &str) -> Result<Healthcheck, EngineError> {
    let mut check = Healthcheck::default();
    let mut left = rest;
    while let Some(option) = left.strip_prefix("--") {
        let (option, after) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
        let bad = || EngineError::invalid(format!("HEALTHCHECK: --{option} is no option with a value"));
        let (key, value) = option.split_once('=').ok_or_else(bad)?;
        let time = || duration(value).and_then(|time| i64::try_from(time.as_nanos()).ok()).ok_or_else(bad);
        match key {
            "interval" => check.interval = time()?,
            "timeout" => check.timeout = time()?,
            "start-period" => check.start_period = time()?,
            "start-interval" => check.start_interval = time()?,
            "retries" => check.retries = value.parse().map_err(|_| bad())?,
            _ => return Err(bad()),
        }
        left = after.trim_start();
    }
    let (kind, rest) = left.split_once(char::is_whitespace).unwrap_or((left, ""));
    let rest = rest.trim();
    check.test = match kind.to_ascii_uppercase().as_str() {
        "NONE" => vec!["NONE".to_owned()],
        "CMD" if !rest.is_empty() => match json_words(rest) {
            Some(words) => std::iter::once("CMD".to_owned()).chain(words).collect(),
            None => vec!["CMD-SHELL".to_owned(), rest.to_owned()],
        },
        _ => return Err(EngineError::invalid(format!("Unknown type {kind:?} in HEALTHCHECK (try CMD)"))),
    };
    Ok(check)
}

/// A container's configuration as an image's.
pub(crate) fn run_config(config: &ContainerConfig) -> RunConfig {
    let set = |list: &Option<Vec<String>>| list.iter().flatten().map(|key| (key.clone(), Empty {})).collect();
    let mut other = BTreeMap::new();
    if let Some(list) = config.on_build.as_ref().filter(|list| !list.is_empty()) {
        other.insert("OnBuild".to_owned(), Value::from(list.clone()));
    }
    RunConfig {
        user: config.user.clone().unwrap_or_default(),
        exposed_ports: set(&config.exposed_ports),
        env: config.env.clone().unwrap_or_default(),
        entrypoint: config.entrypoint.clone().unwrap_or_default(),
        cmd: config.cmd.clone().unwrap_or_default(),
        volumes: set(&config.volumes),
        working_dir: config.working_dir.clone().unwrap_or_default(),
        labels: config.labels.clone().unwrap_or_default().into_iter().collect(),
        stop_signal: config.stop_signal.clone().unwrap_or_default(),
        healthcheck: config.healthcheck.as_ref().map(|check| Healthcheck {
            test: check.test.clone().unwrap_or_default(),
            interval: check.interval.unwrap_or_default(),
            timeout: check.timeout.unwrap_or_default(),
            start_period: check.start_period.unwrap_or_default(),
            start_interval: check.start_interval.unwrap_or_default(),
            retries: check.retries.unwrap_or_default(),
        }),
        shell: config.shell.clone().unwrap_or_default(),
        other,
    }
}

/// An image's configuration in the words of the API.
pub(crate) fn image_config(config: &RunConfig) -> ShownConfig {
    let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let keys =
        |set: &BTreeMap<String, Empty>| (!set.is_empty()).then(|| set.keys().cloned().collect::<Vec<_>>());
    let nonzero = |number: i64| (number != 0).then_some(number);
    ShownConfig {
        user: Some(config.user.clone()),
        exposed_ports: keys(&config.exposed_ports),
        env: some(&config.env),
        cmd: some(&config.cmd),
        entrypoint: some(&config.entrypoint),
        volumes: keys(&config.volumes),
        working_dir: Some(config.working_dir.clone()),
        on_build: config.other.get("OnBuild").and_then(|list| serde_json::from_value(list.clone()).ok()),
        labels: (!config.labels.is_empty()).then(|| config.labels.clone().into_iter().collect()),
        stop_signal: (!config.stop_signal.is_empty()).then(|| config.stop_signal.clone()),
        shell: some(&config.shell),
        healthcheck: config.healthcheck.as_ref().map(|check| HealthConfig {
            test: some(&check.test),
            interval: nonzero(check.interval),
            timeout: nonzero(check.timeout),
            retries: nonzero(check.retries),
            start_period: nonzero(check.start_period),
            start_interval: nonzero(check.start_interval),
        }),
        args_escaped: None,
    }
}

#[cfg(test)]
mod tests {
    use knarr_oci::RunConfig;

    use super::Changes;

    fn applied(texts: &[&str]) -> RunConfig {
        let mut config = RunConfig { env: vec!["A=old".to_owned()], ..RunConfig::default() };
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        Changes::parse(&texts).unwrap().apply(&mut config).unwrap();
        config
    }

    #[test]
    fn all_instructions_change_what_they_name() {
        let config = applied(&[
            "CMD [\"a\", \"b c\"]",
            "entrypoint run me",
            "ENV A=1 B=\"x y\"\nENV C d e",
            "EXPOSE 80 53/udp",
            "LABEL l=v",
            "USER u:g",
            "VOLUME /data /x",
            "WORKDIR /a",
            "WORKDIR ../b",
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN x",
            "HEALTHCHECK --interval=5s --retries=3 CMD curl x",
        ]);
        assert_eq!(config.cmd, ["a", "b c"]);
        assert_eq!(config.entrypoint, ["/bin/sh", "-c", "run me"]);
        assert_eq!(config.env, ["A=1", "B=x y", "C=d e"]);
        assert_eq!(config.exposed_ports.keys().collect::<Vec<_>>(), ["53/udp", "80/tcp"]);
        assert_eq!(config.volumes.keys().collect::<Vec<_>>(), ["/data", "/x"]);
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("u:g", "/b"));
        assert_eq!(config.stop_signal, "SIGINT");
        assert_eq!(config.other["OnBuild"], serde_json::json!(["RUN x"]));
        let check = config.healthcheck.unwrap();
        assert_eq!((check.interval, check.retries), (5_000_000_000, 3));
        assert_eq!(check.test, ["CMD-SHELL", "curl x"]);
    }

    #[test]
    fn what_makes_layers_cannot_be_said() {
        let parse = |text: &str| Changes::parse(&[text.to_owned()]);
        assert_eq!(parse("RUN x").unwrap_err().to_string(), "run is not a valid change command");
        assert!(parse("USER").is_err() && parse("").is_ok());
        for bad in ["EXPOSE 0", "ENV A", "HEALTHCHECK --x CMD y", "LABEL a=\"b"] {
            let mut config = RunConfig::default();
            assert!(parse(bad).unwrap().apply(&mut config).is_err(), "{bad}");
        }
    }
}
