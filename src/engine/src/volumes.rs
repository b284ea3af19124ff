//! Volumes: directories that outlive containers.
//!
//! [`Volumes`] knows them by name. Each lies in `volumes/NAME/`: what it is in `volume.json`, its files in `_data`. One
//! with options of a mount (`type`, `o`, `device`) is mounted there while containers use it.
//!
//! Spec: docs/formats/volume.md.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bollard_stubs::models::{
    EventMessageTypeEnum, Volume, VolumeCreateRequest, VolumeListResponse, VolumePruneResponse,
    VolumeScopeEnum,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde::{Deserialize, Serialize};

use crate::containers::blocking;
use crate::containers::record::write_file;
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
    /// Reads what volumes there are, and takes away mounts that an engine before this one left.
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

    fn table(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Known>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a volume's files lie.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.directory.join(name).join("_data")
    }

    /// Makes a volume, or finds the one that has the name.
    fn create(&self, name: &str, record: VolumeRecord) -> Result<(VolumeRecord, bool), EngineError> {
        let mut table = self.table();
        if let Some(known) = table.get(name) {
            if !record.options.is_empty() && known.record.options != record.options {
                return Err(EngineError::conflict(format!(
                    "volume {name} already exists with other options: remove it first, or leave the options out"
                )));
            }
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
        if known.users.is_empty() && !known.record.options.is_empty() && !is_mounted(&data) {
            mount_as_asked(&known.record, &data)?;
        }
        known.users.insert(container.to_owned());
        Ok(data)
    }

    /// A container no longer uses it.
    pub(crate) fn release(&self, name: &str, container: &str) -> Result<(), EngineError> {
        let data = self.data(name);
        let mut table = self.table();
        let Some(known) = table.get_mut(name) else { return Ok(()) };
        let last = known.users.remove(container) && known.users.is_empty();
        if last && !known.record.options.is_empty() && is_mounted(&data) {
            umount2(&data, MntFlags::MNT_DETACH)
                .map_err(io::Error::from)
                .map_err(EngineError::file("unmount", &data))?;
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), EngineError> {
        let mut table = self.table();
        if !table.contains_key(name) {
            return Err(EngineError::not_found(format!("get {name}: no such volume")));
        }
        let directory = self.directory.join(name);
        let gone = self.directory.join(format!(".removed-{name}"));
        // By rename it is gone at once, even when its many files are not yet.
        fs::rename(&directory, &gone).map_err(EngineError::file("remove", &directory))?;
        table.remove(name);
        drop(table);
        fs::remove_dir_all(&gone).map_err(EngineError::file("remove", &gone))
    }

    fn all(&self) -> Vec<VolumeRecord> {
        self.table().values().map(|known| known.record.clone()).collect()
    }
}

fn read(path: &Path) -> Result<Option<VolumeRecord>, EngineError> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if name.starts_with('.') {
        // A removal was cut off.
        fs::remove_dir_all(path).map_err(EngineError::file("remove", path))?;
        return Ok(None);
    }
    let data = path.join("_data");
    if is_mounted(&data) {
        umount2(&data, MntFlags::MNT_DETACH)
            .map_err(io::Error::from)
            .map_err(EngineError::file("unmount", &data))?;
    }
    let file = path.join(FILE);
    let bytes = match fs::read(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
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

/// Whether something else lies over a directory.
fn is_mounted(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
    let by_device = path.parent().is_some_and(|parent| device(path) != device(parent));
    by_device || is_in_mount_table(path)
}

fn is_in_mount_table(path: &Path) -> bool {
    let wanted = path.to_string_lossy();
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().any(|line| line.split(' ').nth(4) == Some(&wanted))
}

fn mount_as_asked(record: &VolumeRecord, target: &Path) -> Result<(), EngineError> {
    let option = |key: &str| record.options.get(key).cloned().unwrap_or_default();
    let (kind, device) = (option("type"), option("device"));
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for word in option("o").split(',').filter(|word| !word.is_empty()) {
        match word {
            "bind" => flags |= MsFlags::MS_BIND,
            "rbind" => flags |= MsFlags::MS_BIND | MsFlags::MS_REC,
            "ro" => flags |= MsFlags::MS_RDONLY,
            "nosuid" => flags |= MsFlags::MS_NOSUID,
            "nodev" => flags |= MsFlags::MS_NODEV,
            "noexec" => flags |= MsFlags::MS_NOEXEC,
            "noatime" => flags |= MsFlags::MS_NOATIME,
            "rw" => {}
            other => data.push(other.to_owned()),
        }
    }
    let data = data.join(",");
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mounted =
        mount(text(&device).as_deref(), target, text(&kind).as_deref(), flags, text(&data).as_deref());
    let mounted = mounted.and_then(|()| {
        // The kernel makes no bind read-only at the first try.
        if flags.contains(MsFlags::MS_BIND | MsFlags::MS_RDONLY) {
            return mount(None::<&str>, target, None::<&str>, flags | MsFlags::MS_REMOUNT, None::<&str>);
        }
        Ok(())
    });
    mounted.map_err(|error| {
        let name = &record.name;
        EngineError::failed(format!(
            "error while mounting volume '{}': failed to mount local volume {name}: mount {device}:{}, data: {data}: {error}",
            target.display(),
            target.display()
        ))
    })
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
            let named = !filters.has("name") || filters.get("name").any(|name| record.name.contains(name));
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
        let driver = request.driver.unwrap_or_default();
        if !matches!(driver.as_str(), "" | "local") {
            return Err(EngineError::not_found(format!(
                "error looking up volume plugin {driver}: plugin \"{driver}\" not found"
            )));
        }
        let mut labels = request.labels.unwrap_or_default();
        let name = match request.name.filter(|name| !name.is_empty()) {
            Some(name) => check_name(name)?,
            None => {
                labels.insert(ANONYMOUS.to_owned(), String::new());
                crate::engine::new_id()?
            }
        };
        let options = request.driver_opts.unwrap_or_default();
        check_options(&options)?;
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
        if let Some(users) = self.used_volumes().get(name) {
            let users = users.join(", ");
            return Err(EngineError::conflict(format!("remove {name}: volume is in use - [{users}]")));
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
            let bytes = tree_bytes(&self.shared().volumes.data(&record.name));
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

/// What the files of a tree take on the disk; what cannot be looked at is not counted.
pub(crate) fn tree_bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let mut seen = HashSet::new();
    let mut bytes = 0;
    let mut left: Vec<_> = entries.flatten().collect();
    while let Some(entry) = left.pop() {
        let Ok(meta) = fs::symlink_metadata(entry.path()) else { continue };
        if meta.nlink() < 2 || seen.insert((meta.dev(), meta.ino())) {
            bytes += meta.len();
        }
        if meta.is_dir() {
            left.extend(fs::read_dir(entry.path()).into_iter().flatten().flatten());
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
    Err(EngineError::invalid(format!(
        "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )))
}

fn check_options(options: &HashMap<String, String>) -> Result<(), EngineError> {
    let known = ["type", "o", "device", "size"];
    if let Some(key) = options.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(EngineError::invalid(format!("create: invalid option: \"{key}\"")));
    }
    if options.contains_key("size") {
        return Err(EngineError::invalid("create: quota size requested but no quota support"));
    }
    if !options.is_empty()
        && !options.contains_key("device")
        && options.get("type").is_none_or(|kind| kind != "tmpfs")
    {
        return Err(EngineError::invalid("create: missing device in volume options"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{FORMAT, VolumeRecord, Volumes, check_options, is_name};

    fn record(name: &str) -> VolumeRecord {
        VolumeRecord { format: FORMAT, name: name.to_owned(), ..VolumeRecord::default() }
    }

    #[test]
    fn a_volume_is_found_again() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("volumes")).unwrap();
        let volumes = Volumes::open(root.path()).unwrap();
        assert!(volumes.create("one", record("one")).unwrap().1);
        assert!(!volumes.create("one", record("one")).unwrap().1);
        let again = Volumes::open(root.path()).unwrap();
        assert!(again.has("one") && again.data("one").is_dir());
        again.remove("one").unwrap();
        assert!(!Volumes::open(root.path()).unwrap().has("one"));
    }

    #[test]
    fn names_and_options_are_checked() {
        assert!(is_name("a_b.c-1") && !is_name("a") && !is_name("-ab") && !is_name("a/b"));
        let options = |key: &str| HashMap::from([(key.to_owned(), "x".to_owned())]);
        assert!(check_options(&options("device")).is_ok());
        assert!(check_options(&options("speed")).is_err() && check_options(&options("size")).is_err());
    }
}
