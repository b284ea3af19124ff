//! Settings: configuration files, `KNARR_*`, and where things lie.
//!
//! [`Settings::load`] reads `/etc/knarr/config.toml`, then the user's own, which has the last word; flags and
//! environment variables go before both.
//!
//! Spec: docs/guide/configuration.md; XDG Base Directory Specification.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use knarr_base::Timestamp;
use knarr_bootstrap::BootstrapError;
use knarr_registry::client::HostOptions;
use serde::Deserialize;

use crate::system::{parse_age, parse_size};

const SYSTEM_FILE: &str = "/etc/knarr/config.toml";

/// What the configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// By distribution (`debian`, `ubuntu`), with `-security` for its security updates.
    pub mirrors: BTreeMap<String, String>,
    pub cache_dir: Option<PathBuf>,
    pub store_dir: Option<PathBuf>,
    /// Applied after each bootstrap.
    pub max_cache_bytes: Option<u64>,
    pub max_cache_age: Option<Duration>,
    /// By host, with its port when it has one.
    pub registries: BTreeMap<String, HostOptions>,
    /// What the daemon is told when no flag says otherwise.
    pub daemon: DaemonSettings,
}

/// The table `daemon`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DaemonSettings {
    pub listen: Option<Vec<String>>,
    pub root: Option<PathBuf>,
    pub run_dir: Option<PathBuf>,
    pub group: Option<String>,
    pub log_format: Option<String>,
    pub log_level: Option<String>,
    pub log_driver: Option<String>,
    pub log_opts: Option<BTreeMap<String, String>>,
    pub labels: Option<Vec<String>>,
    pub default_address_pools: Option<Vec<String>>,
    pub dns: Option<Vec<String>>,
    pub metrics_addr: Option<String>,
    pub max_concurrent_downloads: Option<usize>,
    pub max_concurrent_uploads: Option<usize>,
    pub shutdown_timeout: Option<u64>,
}

impl DaemonSettings {
    /// What is said here goes before what was said before.
    fn over(self, before: Self) -> Self {
        Self {
            listen: self.listen.or(before.listen),
            root: self.root.or(before.root),
            run_dir: self.run_dir.or(before.run_dir),
            group: self.group.or(before.group),
            log_format: self.log_format.or(before.log_format),
            log_level: self.log_level.or(before.log_level),
            log_driver: self.log_driver.or(before.log_driver),
            log_opts: self.log_opts.or(before.log_opts),
            labels: self.labels.or(before.labels),
            default_address_pools: self.default_address_pools.or(before.default_address_pools),
            dns: self.dns.or(before.dns),
            metrics_addr: self.metrics_addr.or(before.metrics_addr),
            max_concurrent_downloads: self.max_concurrent_downloads.or(before.max_concurrent_downloads),
            max_concurrent_uploads: self.max_concurrent_uploads.or(before.max_concurrent_uploads),
            shutdown_timeout: self.shutdown_timeout.or(before.shutdown_timeout),
        }
    }

    /// Keys in which another one differs and that hold from a start on only.
    pub(crate) fn fixed_keys_other_than(&self, other: &Self) -> Vec<&'static str> {
        let same = [
            ("listen", self.listen == other.listen),
            ("root", self.root == other.root),
            ("run_dir", self.run_dir == other.run_dir),
            ("group", self.group == other.group),
            ("log_format", self.log_format == other.log_format),
            ("log_driver", self.log_driver == other.log_driver),
            ("log_opts", self.log_opts == other.log_opts),
            ("default_address_pools", self.default_address_pools == other.default_address_pools),
            ("dns", self.dns == other.dns),
            ("metrics_addr", self.metrics_addr == other.metrics_addr),
        ];
        same.iter().filter(|(_, same)| !same).map(|(key, _)| *key).collect()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    mirrors: BTreeMap<String, String>,
    #[serde(default)]
    cache: CacheTable,
    #[serde(default)]
    store: StoreTable,
    #[serde(default)]
    registries: BTreeMap<String, RegistryTable>,
    #[serde(default)]
    daemon: DaemonSettings,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RegistryTable {
    #[serde(default)]
    mirrors: Vec<String>,
    #[serde(default)]
    insecure: bool,
    ca: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreTable {
    dir: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CacheTable {
    dir: Option<PathBuf>,
    max_size: Option<String>,
    max_age: Option<String>,
}

impl Settings {
    /// Reads the files that are there; `KNARR_CONFIG` names one that is read instead of them.
    pub(crate) fn load() -> anyhow::Result<Self> {
        let mut settings = Self::default();
        if let Some(path) = std::env::var_os("KNARR_CONFIG").filter(|path| !path.is_empty()) {
            settings.read(Path::new(&path))?;
            return Ok(settings);
        }
        let own = user_directory("XDG_CONFIG_HOME", ".config").join("knarr/config.toml");
        for path in [Path::new(SYSTEM_FILE), &own] {
            if path.exists() {
                settings.read(path)?;
            }
        }
        Ok(settings)
    }

    fn read(&mut self, path: &Path) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(path).map_err(|source| BootstrapError::File {
            path: path.to_owned(),
            doing: "read",
            source,
        })?;
        self.add(&text).with_context(|| path.display().to_string())
    }

    fn add(&mut self, text: &str) -> anyhow::Result<()> {
        let file: File = toml::from_str(text)?;
        for (name, address) in file.mirrors {
            if !MIRRORS.contains(&name.as_str()) {
                bail!("mirrors.{name}: no such distribution, expected one of {}", MIRRORS.join(", "));
            }
            self.mirrors.insert(name, address);
        }
        let CacheTable { dir, max_size, max_age } = file.cache;
        self.store_dir = file.store.dir.or_else(|| self.store_dir.take());
        self.cache_dir = dir.or_else(|| self.cache_dir.take());
        if let Some(text) = max_size {
            self.max_cache_bytes = Some(parse_size(&text).context("cache.max_size")?);
        }
        if let Some(text) = max_age {
            self.max_cache_age = Some(parse_age(&text).context("cache.max_age")?);
        }
        self.daemon = file.daemon.over(std::mem::take(&mut self.daemon));
        for (host, table) in file.registries {
            if host.contains('/') {
                bail!("registries.{host:?}: expected a host, such as registry.example:5000");
            }
            let RegistryTable { mirrors, insecure, ca } = table;
            self.registries.insert(host, HostOptions { mirrors, insecure, ca });
        }
        Ok(())
    }

    /// Where images lie unless a flag or `KNARR_STORE` names a place.
    pub(crate) fn store_dir(&self) -> PathBuf {
        if let Some(dir) = std::env::var_os("KNARR_STORE").filter(|path| !path.is_empty()) {
            return dir.into();
        }
        let default = || match knarr_linux::namespace::is_unprivileged() {
            false => "/var/lib/knarr/store".into(),
            true => user_directory("XDG_DATA_HOME", ".local/share").join("knarr/store"),
        };
        self.store_dir.clone().unwrap_or_else(default)
    }

    /// What the cache is pruned to after each use: bytes and age.
    pub(crate) fn cache_limits(&self) -> Option<(u64, Duration)> {
        let (bytes, age) = (self.max_cache_bytes, self.max_cache_age);
        (bytes.is_some() || age.is_some()).then(|| (bytes.unwrap_or(u64::MAX), age.unwrap_or(Duration::MAX)))
    }

    /// Where the cache lies unless a flag or `KNARR_CACHE_DIR` names a place.
    pub(crate) fn cache_dir(&self) -> PathBuf {
        let default = || match knarr_linux::namespace::is_unprivileged() {
            false => "/var/cache/knarr".into(),
            true => user_directory("XDG_CACHE_HOME", ".cache").join("knarr"),
        };
        self.cache_dir.clone().unwrap_or_else(default)
    }
}

const MIRRORS: [&str; 4] = ["debian", "debian-security", "ubuntu", "ubuntu-security"];

fn user_directory(variable: &str, below_home: &str) -> PathBuf {
    let home =
        || std::env::var_os("HOME").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from).join(below_home);
    std::env::var_os(variable).filter(|path| !path.is_empty()).map_or_else(home, PathBuf::from)
}

/// This machine's clock.
pub(crate) fn now() -> Timestamp {
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(elapsed.map_or(0, |elapsed| elapsed.as_secs() as i64))
}

#[cfg(test)]
mod tests {
    use super::Settings;

    #[test]
    fn what_is_read_later_has_the_last_word() {
        let mut settings = Settings::default();
        settings
            .add("[mirrors]\ndebian = \"http://a\"\nubuntu = \"http://u\"\n[cache]\nmax_size = \"2GB\"\n")
            .unwrap();
        settings.add("[mirrors]\ndebian = \"http://b\"\n[cache]\nmax_age = \"30d\"\n").unwrap();
        assert_eq!(settings.mirrors["debian"], "http://b");
        assert_eq!(settings.mirrors["ubuntu"], "http://u");
        assert_eq!(settings.max_cache_bytes, Some(2_000_000_000));
        assert_eq!(settings.max_cache_age.map(|age| age.as_secs()), Some(30 * 86_400));
    }

    #[test]
    fn the_daemon_is_told_what_changes_at_its_start_alone() {
        let read = |text: &str| {
            let mut settings = Settings::default();
            settings.add("[daemon]\nlog_level = \"warn\"\ndns = [\"192.0.2.1\"]\n").unwrap();
            settings.add(text).unwrap();
            settings.daemon
        };
        let (old, new) = (read(""), read("[daemon]\nlabels = [\"a=b\"]\nroot = \"/elsewhere\"\n"));
        assert_eq!((new.log_level.as_deref(), new.labels.as_ref().unwrap().len()), (Some("warn"), 1));
        assert_eq!(new.fixed_keys_other_than(&old), ["root"]);
        assert!(Settings::default().add("[daemon]\nlabel = []\n").is_err());
    }

    #[test]
    fn registries_are_known_by_their_host() {
        let mut settings = Settings::default();
        let text = "[registries.\"docker.io\"]\nmirrors = [\"m.example\"]\n[registries.\"r:5000\"]\ninsecure = true\n";
        settings.add(text).unwrap();
        assert_eq!(settings.registries["docker.io"].mirrors, ["m.example"]);
        assert!(settings.registries["r:5000"].insecure && !settings.registries["docker.io"].insecure);
        assert!(settings.add("[registries.\"https://a\"]\n").is_err());
        assert!(settings.add("[registries.a]\nunsafe = true\n").is_err());
    }

    #[test]
    fn unknown_keys_and_values_are_told_with_their_place() {
        let told = |text: &str| format!("{:#}", Settings::default().add(text).unwrap_err());
        assert!(
            told("[cache]\nmaxsize = \"1\"\n").contains("line 2"),
            "{}",
            told("[cache]\nmaxsize = \"1\"\n")
        );
        assert!(told("[cache]\nmax_size = \"many\"\n").contains("cache.max_size"));
        assert!(told("[mirrors]\ndebain = \"x\"\n").contains("expected one of debian"));
    }
}
