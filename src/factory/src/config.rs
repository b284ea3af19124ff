//! The image's configuration, from what the recipe says.

use std::collections::BTreeMap;

use knarr_base::{Architecture, Timestamp};
use knarr_oci::config::Empty;
use knarr_oci::{Healthcheck, ImageConfig, RunConfig};
use knarr_recipe::check::{parse_port, parse_time};
use knarr_recipe::recipe::{self, Command, ImageTable, Recipe, TargetName};
use serde_json::json;

use crate::FactoryError;
use crate::accounts::NONROOT;
use crate::cache::LayerRecord;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The configuration of an image.
pub fn image(
    recipe: &Recipe,
    architecture: Architecture,
    created: Timestamp,
    layers: &[LayerRecord],
) -> Result<ImageConfig, FactoryError> {
    let mut config = ImageConfig::new(architecture, created);
    config.config = run_config(recipe)?;
    for layer in layers {
        config.push_layer(layer.diff_id, &layer.created_by);
    }
    Ok(config)
}

/// How containers start.
pub fn run_config(recipe: &Recipe) -> Result<RunConfig, FactoryError> {
    let default = ImageTable::default();
    let table = recipe.image.as_ref().unwrap_or(&default);
    let target = recipe.default_target();
    let mut config = RunConfig {
        user: user(recipe, table),
        env: env(recipe, table),
        entrypoint: table.entrypoint.clone().unwrap_or_default(),
        cmd: table.cmd.clone().unwrap_or_else(|| default_command(table, target)),
        working_dir: table.workdir.clone().unwrap_or_default(),
        labels: labels(recipe, table),
        stop_signal: table.stop_signal.clone().unwrap_or_default(),
        healthcheck: table.healthcheck.as_ref().map(healthcheck).transpose()?,
        ..RunConfig::default()
    };
    for port in &table.ports {
        config.exposed_ports.insert(parse_port(port).map_err(FactoryError::Request)?, Empty {});
    }
    for volume in &table.volumes {
        config.volumes.insert(volume.clone(), Empty {});
    }
    Ok(config)
}

/// The name of the user who works in a development container.
#[must_use]
pub fn dev_user(recipe: &Recipe) -> String {
    let named = recipe.dev.as_ref().and_then(|table| table.user.clone());
    named.unwrap_or_else(|| "dev".to_owned())
}

fn user(recipe: &Recipe, table: &ImageTable) -> String {
    match (&table.user, recipe.default_target()) {
        // The user who runs the program in production is not the one who works on it.
        (_, TargetName::Dev) => dev_user(recipe),
        (Some(user), _) => user.clone(),
        (None, TargetName::Production) => format!("{NONROOT}:{NONROOT}"),
        (None, TargetName::Base) => String::new(),
    }
}

fn default_command(table: &ImageTable, target: TargetName) -> Vec<String> {
    match (target, &table.entrypoint) {
        (TargetName::Dev | TargetName::Base, None) => vec!["bash".to_owned()],
        _ => Vec::new(),
    }
}

/// The image's environment.
#[must_use]
pub fn env(recipe: &Recipe, table: &ImageTable) -> Vec<String> {
    let mut env = BTreeMap::from([("PATH".to_owned(), PATH.to_owned())]);
    let has_certificates = recipe.certificates == Some(true) || !recipe.extra_certificates.is_empty();
    if has_certificates && recipe.default_target() == TargetName::Production {
        env.insert("SSL_CERT_FILE".to_owned(), "/etc/ssl/certs/ca-certificates.crt".to_owned());
    }
    if let Some(locale) = recipe.locales.first() {
        env.insert("LANG".to_owned(), locale.clone());
    } else if recipe.default_target() == TargetName::Dev {
        env.insert("LANG".to_owned(), "C.UTF-8".to_owned());
    }
    env.extend(table.env.clone());
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn labels(recipe: &Recipe, table: &ImageTable) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    if let Some(description) = &recipe.description {
        labels.insert("org.opencontainers.image.description".to_owned(), description.clone());
    }
    if recipe.default_target() == TargetName::Dev {
        labels.insert("devcontainer.metadata".to_owned(), devcontainer(recipe));
    }
    labels.extend(table.labels.clone());
    labels
}

/// What editors read to use the container at once.
fn devcontainer(recipe: &Recipe) -> String {
    let mut metadata = json!({
        "remoteUser": dev_user(recipe),
        "updateRemoteUserUID": true,
        "overrideCommand": true,
    });
    if let Some(table) = recipe.dev.as_ref().filter(|table| !table.customizations.is_empty()) {
        metadata["customizations"] = json!(table.customizations);
    }
    json!([metadata]).to_string()
}

fn healthcheck(table: &recipe::Healthcheck) -> Result<Healthcheck, FactoryError> {
    let test = match &table.command {
        Command::Shell(text) => vec!["CMD-SHELL".to_owned(), text.clone()],
        Command::Exec(words) => std::iter::once("CMD".to_owned()).chain(words.iter().cloned()).collect(),
    };
    let nanos = |text: &Option<String>| -> Result<i64, FactoryError> {
        let time = text.as_deref().map(parse_time).transpose().map_err(FactoryError::Request)?;
        Ok(time.map_or(0, |time| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)))
    };
    Ok(Healthcheck {
        test,
        interval: nanos(&table.interval)?,
        timeout: nanos(&table.timeout)?,
        start_period: nanos(&table.start_period)?,
        start_interval: 0,
        retries: i64::from(table.retries.unwrap_or(0)),
    })
}

#[cfg(test)]
mod tests {
    use knarr_recipe::{Recipe, TargetName};

    use super::run_config;

    fn config(text: &str, target: TargetName) -> knarr_oci::RunConfig {
        run_config(&Recipe::parse("r", text).unwrap().for_target(target)).unwrap()
    }

    #[test]
    fn production_runs_as_nobody_in_particular_and_dev_as_somebody() {
        assert_eq!(config("", TargetName::Production).user, "65532:65532");
        assert_eq!(config("[image]\nuser = \"www-data\"\n", TargetName::Production).user, "www-data");
        let dev = config("[image]\nuser = \"www-data\"\n", TargetName::Dev);
        assert_eq!(dev.user, "dev");
        assert!(dev.labels["devcontainer.metadata"].contains("\"remoteUser\":\"dev\""));
    }

    #[test]
    fn ports_and_times_are_checked() {
        let table = "[image]\nports = [\"80\", \"53/udp\"]\n[image.healthcheck]\ncommand = \"true\"\ninterval = \"30s\"\n";
        let found = config(table, TargetName::Production);
        assert_eq!(found.exposed_ports.keys().collect::<Vec<_>>(), ["53/udp", "80/tcp"]);
        assert_eq!(found.healthcheck.unwrap().interval, 30_000_000_000);
        let bad = Recipe::parse("r", "[image]\nports = [\"http\"]\n").unwrap_err();
        assert!(bad.to_string().contains("expected a number"));
    }
}
