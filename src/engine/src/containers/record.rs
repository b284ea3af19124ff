//! What is kept of a container: `containers/ID/container.json`.
//!
//! Spec: docs/formats/container.md.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use bollard_stubs::models::{ContainerConfig, EndpointSettings, Health, HostConfig, Mount};
use serde::{Deserialize, Serialize};

use crate::EngineError;

/// The newest format; records with a higher one are refused.
pub const FORMAT: u32 = 1;
const FILE: &str = "container.json";
/// How names of files begin that are being written.
const UNFINISHED: &str = ".tmp";

/// A container as it lies on the disk.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// [`FORMAT`].
    pub format: u32,
    /// 64 hexadecimal digits.
    pub id: String,
    /// Without `/`.
    pub name: String,
    /// RFC 3339 with nanoseconds.
    pub created: String,
    /// The image's digest (`sha256:…`): of the manifest or index that a name led to.
    pub image: String,
    /// What the image gave and the request changed.
    pub config: ContainerConfig,
    /// What the request wants of the host, with defaults filled in.
    pub host: HostConfig,
    /// Networks by name, as asked for and as they are.
    pub networks: BTreeMap<String, Attachment>,
    /// What is mounted: volumes, binds, tmpfs, images.
    pub mounts: Vec<MountRecord>,
    /// Its state.
    pub state: State,
    /// How often its restart policy has started it.
    pub restart_count: i64,
    /// `docker stop` was its end: `unless-stopped` keeps it so.
    pub stopped_by_hand: bool,
    /// The layers of its image, unpacked, the lowest first.
    pub layers: Vec<PathBuf>,
    /// Ports that are published while it runs.
    #[serde(default)]
    pub ports: Vec<knarr_network::PublishedPort>,
}

impl Record {
    /// Reads the record in a container's directory.
    ///
    /// # Errors
    /// It cannot be read, or a newer engine wrote it.
    pub fn load(directory: &Path) -> Result<Self, EngineError> {
        let path = directory.join(FILE);
        let text = fs::read(&path).map_err(EngineError::file("read", &path))?;
        let record: Self = serde_json::from_slice(&text).map_err(|error| {
            EngineError::failed(format!(
                "{}: {error}; remove the directory to forget the container",
                path.display()
            ))
        })?;
        if record.format > FORMAT {
            return Err(EngineError::failed(format!(
                "{} has format {}, this engine knows up to {FORMAT}: use a newer knarr",
                path.display(),
                record.format
            )));
        }
        Ok(record)
    }

    /// Writes the record, whole or not at all. With `durable` it is on the disk when this comes back; without, what a
    /// power cut may take is a state that ends with the machine anyway.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn save(&self, directory: &Path, durable: bool) -> Result<(), EngineError> {
        let path = directory.join(FILE);
        let bytes = serde_json::to_vec(self).map_err(|error| EngineError::failed(error.to_string()))?;
        write_file(&path, &bytes, durable).map_err(EngineError::file("write", &path))
    }

    /// What runs, and its arguments.
    #[must_use]
    pub fn command(&self) -> (String, Vec<String>) {
        let entrypoint = self.config.entrypoint.iter().flatten();
        let mut words = entrypoint.chain(self.config.cmd.iter().flatten()).cloned();
        (words.next().unwrap_or_default(), words.collect())
    }

    /// The name that its programs see: its own, or the beginning of its id.
    #[must_use]
    pub fn hostname(&self) -> String {
        let own = self.config.hostname.clone().filter(|name| !name.is_empty());
        own.unwrap_or_else(|| self.id.get(..12).unwrap_or(&self.id).to_owned())
    }

    /// Where the files lie that its programs see as `/etc/hosts` and the like: with the one whose network it joins they
    /// are that one's. `directory` is its own.
    #[must_use]
    pub fn files_in(&self, directory: &Path) -> PathBuf {
        match self.network_mode().strip_prefix("container:") {
            Some(other) => directory.with_file_name(other),
            None => directory.to_owned(),
        }
    }

    /// Whether it may do all that the host may.
    #[must_use]
    pub fn is_privileged(&self) -> bool {
        self.host.privileged == Some(true)
    }

    /// The value of a security option: `seccomp=…`, in the old form `seccomp:…`.
    #[must_use]
    pub fn security_option(&self, key: &str) -> Option<String> {
        let options = self.host.security_opt.iter().flatten();
        options
            .filter_map(|option| option.split_once(['=', ':']))
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value.to_owned())
    }

    /// Whether a security option is set: `no-new-privileges`, with or without `=true`.
    #[must_use]
    pub fn has_security_option(&self, wanted: &str) -> bool {
        let options = self.host.security_opt.iter().flatten();
        options
            .map(|option| option.replacen(':', "=", 1))
            .any(|option| option == wanted || option == format!("{wanted}=true"))
    }

    /// Whether it has a network namespace of its own.
    #[must_use]
    pub fn has_own_network(&self) -> bool {
        let mode = self.network_mode();
        mode != "host" && !mode.starts_with("container:")
    }

    /// `bridge`, `host`, `none`, `container:ID` or a network's name.
    #[must_use]
    pub fn network_mode(&self) -> &str {
        match self.host.network_mode.as_deref() {
            None | Some("" | "default") => "bridge",
            Some(mode) => mode,
        }
    }
}

/// Writes a file by another name, and gives it its own by rename.
pub(crate) fn write_file(path: &Path, bytes: &[u8], durable: bool) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(directory)?;
    file.write_all(bytes)?;
    if durable {
        file.as_file().sync_all()?;
    }
    file.persist(path).map_err(|error| error.error)?;
    if durable {
        fs::File::open(directory)?.sync_all()?;
    }
    Ok(())
}

/// Whether a file is one that [`write_file`] did not live to finish.
pub(crate) fn is_unfinished(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(UNFINISHED))
}

/// A container's place in a network.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// The network's id.
    pub network_id: String,
    /// What was asked for: addresses, aliases, links.
    pub asked: EndpointSettings,
    /// What it has while it runs.
    pub endpoint: Option<knarr_network::Endpoint>,
}

/// Something that is mounted into a container.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MountRecord {
    /// `bind`, `volume`, `tmpfs`, `image`.
    pub kind: String,
    /// The volume's name.
    pub name: Option<String>,
    /// Where it lies on the host: of a bind the path, of a volume its directory.
    pub source: String,
    /// Where it is in the container.
    pub target: String,
    /// The volume's driver.
    pub driver: Option<String>,
    /// As it was written: `ro,z`.
    pub mode: String,
    /// Whether it can be written to.
    pub writable: bool,
    /// `rprivate`, …
    pub propagation: String,
    /// An anonymous volume is removed with its container.
    pub anonymous: bool,
    /// The volume's files begin with the image's at this place.
    pub copy_up: bool,
    /// The whole request, when it came as `--mount`.
    pub asked: Option<Mount>,
}

/// What a container does.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// It runs, or is paused.
    pub running: bool,
    /// Its processes are frozen.
    pub paused: bool,
    /// It has ended, and its policy will start it again.
    pub restarting: bool,
    /// It is being removed.
    pub removing: bool,
    /// It could not be removed.
    pub dead: bool,
    /// The kernel ended a process of it for want of memory.
    pub oom_killed: bool,
    /// Of its init; 0 when it does not run.
    pub pid: i32,
    /// Of its last end.
    pub exit_code: i64,
    /// Why it could not start.
    pub error: String,
    /// RFC 3339; empty when never.
    pub started_at: String,
    /// RFC 3339; empty when never.
    pub finished_at: String,
    /// What its health checks found.
    pub health: Option<Health>,
}
