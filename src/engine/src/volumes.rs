//! Volumes: directories that outlive containers.
//!
//! [`Volumes`] knows them by name. Each lies in `volumes/NAME/`: what it is in `volume.json`, its files in `_data`. One
//! with options of a mount (`type`, `o`, `device`) is mounted there while containers use it.
//!
//! Spec: docs/formats/volume.md.

mod mounting;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bollard_stubs::models::{
    EventMessageTypeEnum, Volume, VolumeCreateRequest, VolumeListResponse, VolumePruneResponse,
    VolumeScopeEnum,
};
use serde::{Deserialize, Serialize};

use crate::containers::blocking;
use crate::containers::record::{is_unfinished, write_file};
use crate::engine::now;
use crate::filters::Filters;
use crate::{Engine, EngineError};

/// A volume that nobody named has this label.
pub(crate) const ANONYMOUS: &str = "com.docker.volume.anonymous";
const FILE: &str = "volume.json";
const FORMAT: u32 = 1;

/// All volumes of an engine.
#[derive(Debug)]
pub(crate) struct Volumes {
    directory: PathBuf,
    table: Mutex<BTreeMap<String, Known>>,
}

#[derive(Clone, Debug)]
struct Known {
    record: VolumeRecord,
    /// Containers that run with it.
    users: HashSet<String>,
}

/// What is kept of a volume.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct VolumeRecord {
    format: u32,
    name: String,
    created: String,
    labels: HashMap<String, String>,
    options: HashMap<String, String>,
}

impl Volumes {
    /// Reads what volumes there are. Mounts that an engine before this one left stay for containers that still have
    /// them, up to [`Self::settle`].
    pub(crate) fn open(root: &Path) -> Result<Self, EngineError> {
        let directory = root.join("volumes");
        let mut table = BTreeMap::new();
        for entry in fs::read_dir(&directory).map_err(EngineError::file("list", &directory))? {
            let path = entry.map_err(EngineError::file("list", &directory))?.path();
            match read(&path) {
                Ok(Some(record)) => {
                    table.insert(record.name.clone(), Known { record, users: HashSet::new() });
                }
                Ok(None) => {}
                Err(error) => tracing::error!(error = error.message(), "a volume is left out"),
            }
        }
        Ok(Self { directory, table: Mutex::new(table) })
    }

    /// Takes away the mounts of volumes that no container has: all that run have acquired theirs.
    pub(crate) fn settle(&self) {
        let table = self.table();
        for known in table.values().filter(|known| known.users.is_empty()) {
            if let Err(error) = mounting::unmount(&self.data(&known.record.name)) {
                tracing::warn!(volume = known.record.name, error = error.message(), "a mount stays");
            }
        }
    }

    fn table(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Known>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a volume's files lie.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.directory.join(name).join("_data")
    }

    /// Makes a volume, or finds the one that has the name, whatever its options are: so does docker.
    fn create(&self, name: &str, record: VolumeRecord) -> Result<(VolumeRecord, bool), EngineError> {
        let mut table = self.table();
        if let Some(known) = table.get(name) {
            return Ok((known.record.clone(), false));
        }
        let data = self.data(name);
        fs::create_dir_all(&data).map_err(EngineError::file("make", &data))?;
        let path = self.directory.join(name).join(FILE);
        let bytes =
            serde_json::to_vec_pretty(&record).map_err(|error| EngineError::failed(error.to_string()))?;
        write_file(&path, &bytes, true).map_err(EngineError::file("write", &path))?;
        table.insert(name.to_owned(), Known { record: record.clone(), users: HashSet::new() });
        Ok((record, true))
    }

    fn get(&self, name: &str) -> Result<VolumeRecord, EngineError> {
        let found = self.table().get(name).map(|known| known.record.clone());
        found.ok_or_else(|| EngineError::not_found(format!("get {name}: no such volume")))
    }

    /// Whether a volume is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.table().contains_key(name)
    }

    /// A container begins to use a volume: where its files are. What must be mounted is.
    pub(crate) fn acquire(&self, name: &str, container: &str) -> Result<PathBuf, EngineError> {
        let data = self.data(name);
        let mut table = self.table();
        let known = table
            .get_mut(name)
            .ok_or_else(|| EngineError::not_found(format!("get {name}: no such volume")))?;
        if known.users.is_empty() && known.record.is_mounted_when_used() && !mounting::is_mounted(&data) {
            mounting::mount(&known.record.options, &data)?;
        }
        known.users.insert(container.to_owned());
        Ok(data)
    }

    /// A container no longer uses it: whether it did.
    pub(crate) fn release(&self, name: &str, container: &str) -> Result<bool, EngineError> {
        let data = self.data(name);
        let mut table = self.table();
        let Some(known) = table.get_mut(name) else { return Ok(false) };
        let used = known.users.remove(container);
        if used && known.users.is_empty() {
            mounting::unmount(&data)?;
        }
        Ok(used)
    }

    fn remove(&self, name: &str) -> Result<(), EngineError> {
        let mut table = self.table();
        let known =
            table.get(name).ok_or_else(|| EngineError::not_found(format!("get {name}: no such volume")))?;
        if !known.users.is_empty() {
            return Err(in_use(name, known.users.iter().cloned().collect()));
        }
        // What is mounted there is not the volume's to remove.
        mounting::unmount(&self.data(name))?;
        let directory = self.directory.join(name);
        let gone = self.directory.join(format!(".removed-{name}"));
        // By rename it is gone at once, even when its many files are not yet.
        fs::rename(&directory, &gone).map_err(EngineError::file("remove", &directory))?;
        table.remove(name);
        drop(table);
        fs::remove_dir_all(&gone).map_err(EngineError::file("remove", &gone))
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.table().len()
    }

    fn all(&self) -> Vec<VolumeRecord> {
        self.table().values().map(|known| known.record.clone()).collect()
    }
}

impl VolumeRecord {
    fn is_mounted_when_used(&self) -> bool {
        ["device", "type"].iter().any(|key| self.options.get(*key).is_some_and(|value| !value.is_empty()))
    }
}

fn in_use(name: &str, mut users: Vec<String>) -> EngineError {
    users.sort();
    let users = users.join(", ");
    EngineError::conflict(format!("remove {name}: volume is in use - [{users}]"))
}

fn read(path: &Path) -> Result<Option<VolumeRecord>, EngineError> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if name.starts_with('.') {
        // A removal was cut off.
        mounting::unmount(&path.join("_data"))?;
        fs::remove_dir_all(path).map_err(EngineError::file("remove", path))?;
        return Ok(None);
    }
    let file = path.join(FILE);
    let bytes = match fs::read(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return undo(path).map_err(EngineError::file("remove", path)).map(|()| None);
        }
        other => other.map_err(EngineError::file("read", &file))?,
    };
    let record: VolumeRecord = serde_json::from_slice(&bytes)
        .map_err(|error| EngineError::failed(format!("{}: {error}", file.display())))?;
    if record.format > FORMAT {
        let (path, format) = (file.display(), record.format);
        return Err(EngineError::failed(format!("{path} has format {format}: use a newer knarr")));
    }
    Ok(Some(record))
}

/// A volume that was not made to its end goes, unless something is in it.
fn undo(path: &Path) -> io::Result<()> {
    if !path.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?.path();
        if is_unfinished(&entry) {
            fs::remove_file(&entry)?;
        }
    }
    for directory in [path.join("_data"), path.to_owned()] {
        match fs::remove_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                tracing::warn!(path = %path.display(), "no volume, and not empty: it is left alone");
                return Ok(());
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

impl Engine {
    fn show_volume(&self, record: &VolumeRecord) -> Volume {
        Volume {
            name: record.name.clone(),
            driver: "local".to_owned(),
            mountpoint: self.shared().volumes.data(&record.name).display().to_string(),
            created_at: Some(record.created.clone()),
            labels: record.labels.clone(),
            scope: Some(VolumeScopeEnum::LOCAL),
            options: record.options.clone(),
            ..Volume::default()
        }
    }

    /// `GET /volumes`.
    ///
    /// # Errors
    /// A filter is wrong.
    pub async fn list_volumes(&self, filters: &Filters) -> Result<VolumeListResponse, EngineError> {
        filters.allow(&["dangling", "driver", "label", "label!", "name"])?;
        let dangling = filters.flag("dangling")?;
        let used = self.used_volumes();
        let wanted = |record: &VolumeRecord| {
            let named = filters.matches("name", &record.name);
            let driver = !filters.has("driver") || filters.get("driver").any(|driver| driver == "local");
            let hangs = dangling.is_none_or(|dangling| dangling != used.contains_key(&record.name));
            named && driver && hangs && filters.labels(|key| record.labels.get(key).map(String::as_str))
        };
        let volumes = self.shared().volumes.all();
        let volumes =
            volumes.iter().filter(|record| wanted(record)).map(|record| self.show_volume(record)).collect();
        Ok(VolumeListResponse { volumes: Some(volumes), warnings: Some(Vec::new()) })
    }

    /// Volumes that containers have, running or not: by name, with the containers' ids.
    pub(crate) fn used_volumes(&self) -> HashMap<String, Vec<String>> {
        let mut used: HashMap<String, Vec<String>> = HashMap::new();
        for container in self.shared().containers.all() {
            for name in crate::containers::volumes_of(&container.record()) {
                used.entry(name).or_default().push(container.id.clone());
            }
        }
        used
    }

    /// `POST /volumes/create`; one that is there already with the same options is the answer.
    ///
    /// # Errors
    /// The name, the driver or an option is wrong.
    pub async fn create_volume(&self, request: VolumeCreateRequest) -> Result<Volume, EngineError> {
        let mut labels = request.labels.unwrap_or_default();
        let name = match request.name.filter(|name| !name.is_empty()) {
            Some(name) => check_name(name)?,
            None => {
                labels.insert(ANONYMOUS.to_owned(), String::new());
                crate::engine::new_id()?
            }
        };
        let driver = request.driver.unwrap_or_default();
        if !matches!(driver.as_str(), "" | "local") {
            return Err(EngineError::not_found(format!(
                "create {name}: error looking up volume plugin {driver}: plugin \"{driver}\" not found"
            )));
        }
        let options = request.driver_opts.unwrap_or_default();
        check_options(&name, &options)?;
        let record = VolumeRecord { format: FORMAT, name: name.clone(), created: now(), labels, options };
        let engine = self.clone();
        let (record, made) = blocking(move || engine.shared().volumes.create(&name, record)).await?;
        if made {
            self.shared().events.volume("create", &record.name, &[]);
        }
        Ok(self.show_volume(&record))
    }

    /// `GET /volumes/{name}`.
    ///
    /// # Errors
    /// There is none.
    pub async fn inspect_volume(&self, name: &str) -> Result<Volume, EngineError> {
        Ok(self.show_volume(&self.shared().volumes.get(name)?))
    }

    /// `DELETE /volumes/{name}`.
    ///
    /// # Errors
    /// A container has it, or there is none and `force` is not set.
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<(), EngineError> {
        if force && !self.shared().volumes.has(name) {
            return Ok(());
        }
        self.shared().volumes.get(name)?;
        if let Some(users) = self.used_volumes().remove(name) {
            return Err(in_use(name, users));
        }
        let (engine, gone) = (self.clone(), name.to_owned());
        blocking(move || engine.shared().volumes.remove(&gone)).await?;
        self.shared().events.volume("destroy", name, &[]);
        Ok(())
    }

    /// `POST /volumes/prune`: those that nobody named, with the filter `all` the others, too.
    ///
    /// # Errors
    /// A filter is wrong.
    pub async fn prune_volumes(&self, filters: &Filters) -> Result<VolumePruneResponse, EngineError> {
        filters.allow(&["label", "label!", "all"])?;
        let all = filters.flag("all")?.unwrap_or(false);
        let used = self.used_volumes();
        let (mut deleted, mut reclaimed) = (Vec::new(), 0);
        for record in self.shared().volumes.all() {
            let wanted = (all || record.labels.contains_key(ANONYMOUS))
                && !used.contains_key(&record.name)
                && filters.labels(|key| record.labels.get(key).map(String::as_str));
            if !wanted {
                continue;
            }
            let data = self.shared().volumes.data(&record.name);
            let bytes = blocking(move || Ok(tree_bytes(&data))).await?;
            match self.remove_volume(&record.name, false).await {
                Ok(()) => {
                    reclaimed += bytes;
                    deleted.push(record.name);
                }
                Err(error) => tracing::warn!(volume = record.name, error = error.message(), "not pruned"),
            }
        }
        self.shared().events.pruned(EventMessageTypeEnum::VOLUME, reclaimed);
        Ok(VolumePruneResponse {
            volumes_deleted: Some(deleted),
            space_reclaimed: Some(i64::try_from(reclaimed).unwrap_or(i64::MAX)),
        })
    }
}

/// What the files of a tree hold; directories, and what cannot be looked at, are not counted.
pub(crate) fn tree_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let mut seen = HashSet::new();
    let mut bytes = 0;
    let mut left: Vec<_> = entries.flatten().collect();
    while let Some(entry) = left.pop() {
        let Ok(meta) = fs::symlink_metadata(entry.path()) else { continue };
        if meta.is_dir() {
            left.extend(fs::read_dir(entry.path()).into_iter().flatten().flatten());
        } else if meta.nlink() < 2 || seen.insert((meta.dev(), meta.ino())) {
            bytes += meta.len();
        }
    }
    bytes
}

/// A volume's or container's name.
pub(crate) fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.len() > 1
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn check_name(name: String) -> Result<String, EngineError> {
    if is_name(&name) && name.len() <= 255 {
        return Ok(name);
    }
    if name.len() == 1 {
        return Err(EngineError::invalid(format!(
            "create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )));
    }
    Err(EngineError::invalid(format!(
        "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )))
}

/// What an option is not given without.
const COMPANIONS: [(&str, &str); 4] =
    [("device", "type"), ("type", "device"), ("o", "device"), ("o", "type")];

fn check_options(name: &str, options: &HashMap<String, String>) -> Result<(), EngineError> {
    let bad = |why: String| Err(EngineError::invalid(format!("create {name}: {why}")));
    let known = ["type", "o", "device", "size"];
    if let Some(key) = options.keys().find(|key| !known.contains(&key.as_str())) {
        return bad(format!("invalid option: \"{key}\""));
    }
    if options.get("size").is_some_and(|size| !size.trim_matches('0').is_empty()) {
        return bad("quota size requested but no quota support".to_owned());
    }
    let lacks = |(key, with): &&(&str, &str)| options.contains_key(*key) && !options.contains_key(*with);
    match COMPANIONS.iter().find(lacks) {
        Some((_, with)) => bad(format!("missing required option: \"{with}\"")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
