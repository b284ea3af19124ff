//! The OCI configuration of a container.
//!
//! [`spec`] is pure: a [`Record`] and what was found out about the host go in ([`Facts`]), the document comes out. Files that the
//! container sees are in [`files`], accounts in [`accounts`].
//!
//! Spec: OCI runtime-spec 1.3, `config.md`, `config-linux.md`; docker's defaults.

pub(crate) mod accounts;
mod files;
mod seccomp;

use std::path::{Path, PathBuf};

use bollard_stubs::models::{ExecConfig, HostConfigCgroupnsModeEnum};
use knarr_linux::capability;
use knarr_runtime::shim::ExtraOverlay;
use knarr_runtime::spec::{ProcessSpec, Resources};
use serde_json::{Map, Value, json};

pub(crate) use files::{asks_own_server, write_config, write_files};

use super::record::{MountRecord, Record};
use crate::{EngineError, Options};
use accounts::Accounts;

/// The capabilities of a container for which nothing is said.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];
/// Files of the kernel that no container sees.
pub(super) const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// Those that none can change.
pub(super) const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// `c 1:5`: which devices every container may use, beside making any.
const DEVICES: [(u32, Option<u32>); 9] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];

/// Containers whose namespaces are joined, by their init's number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Joined {
    /// Whose processes it sees.
    pub(crate) pid: Option<i32>,
    /// Whose memory it shares.
    pub(crate) ipc: Option<i32>,
}

/// What is known of the host and of the image's files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    directory: PathBuf,
    /// What ends with the machine.
    run: PathBuf,
    sandbox: Option<PathBuf>,
    joined: Joined,
    images: Vec<ExtraOverlay>,
    /// What links tell its programs.
    links: Vec<String>,
    accounts: Accounts,
    /// Devices of the host, for those that are given and for throttling.
    devices: Vec<FoundDevice>,
}

/// A device of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct FoundDevice {
    host: String,
    inside: String,
    permissions: String,
    kind: char,
    major: u64,
    minor: u64,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Facts {
    /// Finds out.
    pub(crate) fn gather(
        record: &Record,
        directory: &Path,
        sandbox: Option<PathBuf>,
        joined: Joined,
        images: &[ExtraOverlay],
        options: &Options,
    ) -> Result<Self, EngineError> {
        let mut devices = Vec::new();
        for mapping in record.host.devices.iter().flatten() {
            let host = mapping.path_on_host.clone().unwrap_or_default();
            let inside = mapping
                .path_in_container
                .clone()
                .filter(|path| !path.is_empty())
                .unwrap_or_else(|| host.clone());
            let permissions = mapping
                .cgroup_permissions
                .clone()
                .filter(|text| !text.is_empty())
                .unwrap_or_else(|| "rwm".to_owned());
            devices.extend(find_devices(&host, &inside, &permissions)?);
        }
        if record.is_privileged() {
            devices.extend(find_devices("/dev", "/dev", "rwm")?);
        }
        Ok(Self {
            directory: directory.to_owned(),
            run: options.run.clone(),
            sandbox,
            joined,
            images: images.to_vec(),
            links: Vec::new(),
            accounts: Accounts::of_layers(&directory.join("upper"), &record.layers),
            devices,
        })
    }
}

impl Facts {
    /// With what links tell.
    pub(crate) fn with_links(self, links: Vec<String>) -> Self {
        Self { links, ..self }
    }
}

/// A device, or all below a directory.
fn find_devices(host: &str, inside: &str, permissions: &str) -> Result<Vec<FoundDevice>, EngineError> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let gathering = |error: std::io::Error| {
        EngineError::failed(format!(
            "error gathering device information while adding custom device \"{host}\": {error}"
        ))
    };
    let meta = std::fs::metadata(host).map_err(gathering)?;
    if meta.is_dir() {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(host).map_err(gathering)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let own = matches!(name.as_str(), "pts" | "shm" | "fd" | "mqueue" | "console" | "ptmx" | "tty");
            let Ok(meta) = std::fs::symlink_metadata(entry.path()) else { continue };
            let kind = meta.file_type();
            if !own && (kind.is_char_device() || kind.is_block_device() || kind.is_dir()) {
                found.extend(find_devices(
                    &format!("{host}/{name}"),
                    &format!("{inside}/{name}"),
                    permissions,
                )?);
            }
        }
        return Ok(found);
    }
    let kind = match meta.file_type() {
        kind if kind.is_char_device() => 'c',
        kind if kind.is_block_device() => 'b',
        _ => {
            return Err(EngineError::invalid(format!(
                "error gathering device information while adding custom device \"{host}\": not a device node"
            )));
        }
    };
    let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    Ok(vec![FoundDevice {
        host: host.to_owned(),
        inside: inside.to_owned(),
        permissions: permissions.to_owned(),
        kind,
        major: u64::from(major),
        minor: u64::from(minor),
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
    }])
}

/// The configuration.
pub(crate) fn spec(record: &Record, facts: &Facts) -> Result<Value, EngineError> {
    let host = &record.host;
    let mut value = json!({
        "ociVersion": "1.2.1",
        "root": { "path": "rootfs", "readonly": host.readonly_rootfs == Some(true) },
        "hostname": record.hostname(),
        "process": process(record, facts)?,
        "mounts": mounts(record, facts)?,
        "annotations": host.annotations.clone().unwrap_or_default(),
        "linux": linux(record, facts)?,
    });
    if host.uts_mode.as_deref() == Some("host") {
        value["hostname"] = Value::Null;
    }
    // Among others' processes it would be the first of nobody.
    if host.init == Some(true) && host.pid_mode.as_deref().is_none_or(str::is_empty) {
        value["annotations"][knarr_runtime::INIT] = json!("true");
    }
    if let Some(domain) = record.config.domainname.as_ref().filter(|name| !name.is_empty()) {
        value["domainname"] = json!(domain);
    }
    Ok(value)
}

fn process(record: &Record, facts: &Facts) -> Result<Value, EngineError> {
    let (program, arguments) = record.command();
    let args: Vec<String> = std::iter::once(program).chain(arguments).collect();
    let tty = record.config.tty == Some(true);
    let groups = record.host.group_add.clone().unwrap_or_default();
    let user = facts.accounts.find(record.config.user.as_deref().unwrap_or_default(), &groups)?;
    let directory = record.config.working_dir.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let mut value = json!({
        "terminal": tty,
        "user": user.to_value(),
        "args": args,
        "env": environment(record, &user.home, &facts.links, record.config.env.as_deref().unwrap_or_default()),
        "cwd": directory,
        "noNewPrivileges": record.has_security_option("no-new-privileges"),
        "rlimits": limits(record),
    });
    value["capabilities"] = capability_sets(&capabilities(record)?, user.uid == 0);
    if let Some(score) = record.host.oom_score_adj.filter(|score| *score != 0) {
        value["oomScoreAdj"] = json!(score);
    }
    if let Some([height, width]) = record.host.console_size.as_deref().filter(|_| tty) {
        value["consoleSize"] = json!({ "height": height, "width": width });
    }
    Ok(value)
}

/// Who is not root has capabilities only as far as a file of root's may give them.
fn capability_sets(names: &[String], is_root: bool) -> Value {
    let own: &[String] = if is_root { names } else { &[] };
    json!({ "bounding": names, "effective": own, "permitted": own, "inheritable": [], "ambient": [] })
}

fn environment(record: &Record, home: &str, links: &[String], given: &[String]) -> Vec<String> {
    let has = |name: &str| given.iter().any(|entry| entry.split('=').next() == Some(name));
    let mut all = Vec::new();
    if !has("PATH") {
        all.push(PATH.to_owned());
    }
    if !has("HOSTNAME") {
        all.push(format!("HOSTNAME={}", record.hostname()));
    }
    if record.config.tty == Some(true) && !has("TERM") {
        all.push("TERM=xterm".to_owned());
    }
    all.extend(links.iter().cloned());
    // A name without a value takes it away.
    all.extend(given.iter().filter(|entry| entry.contains('=')).cloned());
    if !has("HOME") {
        all.push(format!("HOME={home}"));
    }
    all
}

fn limits(record: &Record) -> Vec<Value> {
    let limits = record.host.ulimits.iter().flatten();
    let bound =
        |value: Option<i64>| value.map_or(0, |value| if value < 0 { u64::MAX } else { value.unsigned_abs() });
    limits
        .map(|limit| {
            let name = limit.name.clone().unwrap_or_default().to_ascii_uppercase();
            json!({ "type": format!("RLIMIT_{name}"), "soft": bound(limit.soft), "hard": bound(limit.hard) })
        })
        .collect()
}

/// What a container may do of what root may.
pub(super) fn capabilities(record: &Record) -> Result<Vec<String>, EngineError> {
    if record.is_privileged() {
        return Ok(capability::NAMES.iter().map(|name| (*name).to_owned()).collect());
    }
    let read = |names: &Option<Vec<String>>| -> Result<Vec<String>, EngineError> {
        let names = names.iter().flatten().map(|name| {
            let upper = name.to_ascii_uppercase();
            let full =
                if upper == "ALL" || upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
            let known = full == "ALL" || full == "CAP_ALL" || capability::NAMES.contains(&full.as_str());
            if known { Ok(full) } else { Err(EngineError::invalid(format!("invalid capability: {name}"))) }
        });
        names.collect()
    };
    let (add, drop) = (read(&record.host.cap_add)?, read(&record.host.cap_drop)?);
    let all = |names: &[String]| names.iter().any(|name| name == "ALL" || name == "CAP_ALL");
    let base: Vec<&str> = match (all(&add), all(&drop)) {
        (true, _) => capability::NAMES.to_vec(),
        (false, true) => Vec::new(),
        (false, false) => CAPABILITIES.to_vec(),
    };
    let dropped = |name: &str| !all(&drop) && drop.iter().any(|drop| drop == name);
    let mut own: Vec<String> = base.into_iter().filter(|name| !dropped(name)).map(str::to_owned).collect();
    for name in add.into_iter().filter(|name| name != "ALL" && name != "CAP_ALL") {
        if !own.contains(&name) {
            own.push(name);
        }
    }
    Ok(own)
}

fn mounts(record: &Record, facts: &Facts) -> Result<Vec<Value>, EngineError> {
    let privileged = record.is_privileged();
    let shm = record.host.shm_size.filter(|size| *size > 0).unwrap_or(64 << 20);
    let cgroup = if privileged { "rw" } else { "ro" };
    let usual: [(&str, &str, &str, Vec<String>); 7] = [
        ("/proc", "proc", "proc", words("nosuid noexec nodev")),
        ("/dev", "tmpfs", "tmpfs", words("nosuid strictatime mode=755 size=65536k")),
        ("/dev/pts", "devpts", "devpts", words("nosuid noexec newinstance ptmxmode=0666 mode=0620 gid=5")),
        (
            "/sys",
            "sysfs",
            "sysfs",
            words(if privileged { "nosuid noexec nodev rw" } else { "nosuid noexec nodev ro" }),
        ),
        ("/sys/fs/cgroup", "cgroup", "cgroup", words(&format!("{cgroup} nosuid noexec nodev"))),
        ("/dev/mqueue", "mqueue", "mqueue", words("nosuid noexec nodev")),
        ("/dev/shm", "tmpfs", "shm", words(&format!("nosuid noexec nodev mode=1777 size={shm}"))),
    ];
    let targets: Vec<String> = record.mounts.iter().map(|mount| mount.target.clone()).collect();
    let taken = |path: &str| targets.iter().any(|target| target == path);
    let mut all = Vec::new();
    for (target, kind, source, options) in usual {
        if taken(target) {
            continue;
        }
        let ipc = record.host.ipc_mode.as_deref().unwrap_or("private");
        if target == "/dev/shm" && ipc == "none" {
            continue;
        }
        if target == "/dev/shm"
            && let Some(shared) = shared_memory(ipc, &record.id, &facts.run)
        {
            all.push(mount(target, "bind", &shared, words("rbind nosuid noexec nodev")));
            continue;
        }
        all.push(mount(target, kind, source, options));
    }
    for name in ["resolv.conf", "hostname", "hosts"] {
        let target = format!("/etc/{name}");
        if !taken(&target) {
            let source = record.files_in(&facts.directory).join(name).display().to_string();
            all.push(mount(&target, "bind", &source, words("rbind rprivate")));
        }
    }
    let mut own: Vec<&MountRecord> = record.mounts.iter().collect();
    own.sort_by_key(|mount| Path::new(&mount.target).components().count());
    let mut images = facts.images.iter();
    for record in own {
        all.push(own_mount(record, &mut images)?);
    }
    Ok(all)
}

/// Where the shared memory of a container lies that others see, too: the host's, its own, or another one's.
fn shared_memory(ipc: &str, id: &str, run: &Path) -> Option<String> {
    let of = |id: &str| run.join("shm").join(id).display().to_string();
    match ipc {
        "host" => Some("/dev/shm".to_owned()),
        "shareable" => Some(of(id)),
        _ => ipc.strip_prefix("container:").map(of),
    }
}

fn own_mount<'a>(
    record: &MountRecord,
    images: &mut impl Iterator<Item = &'a ExtraOverlay>,
) -> Result<Value, EngineError> {
    let writable = if record.writable { "rw" } else { "ro" };
    let asked = record.asked.clone().unwrap_or_default();
    match record.kind.as_str() {
        "tmpfs" => {
            let mut options = words("nosuid nodev noexec");
            let given: Vec<&str> = record.mode.split(',').filter(|word| !word.is_empty()).collect();
            for word in given {
                let opposite = match word {
                    "exec" => "noexec",
                    "suid" => "nosuid",
                    "dev" => "nodev",
                    _ => "",
                };
                options.retain(|option| option != opposite);
                if !options.iter().any(|option| option == word) {
                    options.push(word.to_owned());
                }
            }
            if !record.writable {
                options.push("ro".to_owned());
            }
            Ok(mount(&record.target, "tmpfs", "tmpfs", options))
        }
        "image" => {
            let image = images
                .next()
                .ok_or_else(|| EngineError::failed("an image that is to be mounted is not there"))?;
            let subpath = asked.image_options.and_then(|options| options.subpath).unwrap_or_default();
            let source = image.target.join(subpath.trim_start_matches('/'));
            Ok(mount(&record.target, "bind", &source.display().to_string(), words("rbind ro rprivate")))
        }
        _ => {
            let binding = asked.bind_options.unwrap_or_default();
            let bind = if binding.non_recursive == Some(true) { "bind" } else { "rbind" };
            let propagation =
                if record.propagation.is_empty() { "rprivate" } else { record.propagation.as_str() };
            let subpath = asked.volume_options.and_then(|options| options.subpath).unwrap_or_default();
            let source = Path::new(&record.source).join(subpath.trim_start_matches('/'));
            let mut options = vec![bind.to_owned(), propagation.to_owned(), writable.to_owned()];
            if record.mode.split(',').any(|word| word == "noexec") {
                options.push("noexec".to_owned());
            }
            Ok(mount(&record.target, "bind", &source.display().to_string(), options))
        }
    }
}

fn mount(target: &str, kind: &str, source: &str, options: impl IntoIterator<Item = String>) -> Value {
    let options: Vec<String> = options.into_iter().collect();
    json!({ "destination": target, "type": kind, "source": source, "options": options })
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn linux(record: &Record, facts: &Facts) -> Result<Value, EngineError> {
    let host = &record.host;
    let privileged = record.is_privileged();
    let open = privileged || record.has_security_option("systempaths=unconfined");
    let paths = |own: &Option<Vec<String>>, usual: &[&str]| match own {
        Some(own) => own.clone(),
        None if open => Vec::new(),
        None => usual.iter().map(|path| (*path).to_owned()).collect(),
    };
    let own_mounts = record.mounts.iter();
    let shared = own_mounts.clone().any(|mount| matches!(mount.propagation.as_str(), "shared" | "rshared"));
    let slave = own_mounts.clone().any(|mount| matches!(mount.propagation.as_str(), "slave" | "rslave"));
    let parent =
        host.cgroup_parent.clone().filter(|path| !path.is_empty()).unwrap_or_else(|| "/knarr".to_owned());
    let mut value = json!({
        "namespaces": namespaces(record, facts),
        "maskedPaths": paths(&host.masked_paths, &MASKED),
        "readonlyPaths": paths(&host.readonly_paths, &READ_ONLY),
        "devices": facts.devices.iter().map(device).collect::<Vec<_>>(),
        "resources": resources_value(record, &facts.devices)?,
        "sysctl": sysctls(record),
        "cgroupsPath": format!("{}/{}", parent.trim_end_matches('/'), record.id),
        "rootfsPropagation": if shared { "shared" } else if slave { "rslave" } else { "rprivate" },
    });
    if let Some(profile) = seccomp_profile(record)? {
        value["seccomp"] = profile;
    }
    Ok(value)
}

/// As users of these images expect: everybody may use ports below 1024, and ping.
fn sysctls(record: &Record) -> Map<String, Value> {
    let mut all = Map::new();
    if record.has_own_network() && !record.is_privileged() {
        all.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), json!("0"));
        all.insert("net.ipv4.ping_group_range".to_owned(), json!("0 2147483647"));
    }
    for (key, value) in record.host.sysctls.iter().flatten() {
        all.insert(key.clone(), json!(value));
    }
    all
}

fn namespaces(record: &Record, facts: &Facts) -> Vec<Value> {
    let host = &record.host;
    let is_host = |mode: &Option<String>| mode.as_deref() == Some("host");
    let new = |kind: &str| json!({ "type": kind });
    let join = |kind: &str, path: String| json!({ "type": kind, "path": path });
    let mut all = vec![new("mount")];
    match facts.joined.pid {
        Some(pid) => all.push(join("pid", format!("/proc/{pid}/ns/pid"))),
        None if is_host(&host.pid_mode) => {}
        None => all.push(new("pid")),
    }
    match facts.joined.ipc {
        Some(pid) => all.push(join("ipc", format!("/proc/{pid}/ns/ipc"))),
        None if is_host(&host.ipc_mode) => {}
        None => all.push(new("ipc")),
    }
    if !is_host(&host.uts_mode) {
        all.push(new("uts"));
    }
    if let Some(sandbox) = &facts.sandbox {
        all.push(join("network", sandbox.display().to_string()));
    }
    if host.cgroupns_mode != Some(HostConfigCgroupnsModeEnum::HOST) {
        all.push(new("cgroup"));
    }
    all
}

fn device(found: &FoundDevice) -> Value {
    json!({
        "path": found.inside, "type": found.kind, "major": found.major, "minor": found.minor, "fileMode": found.mode,
        "uid": found.uid, "gid": found.gid,
    })
}

/// What a container may take of the machine.
pub(crate) fn resources(record: &Record) -> Result<Resources, EngineError> {
    let mut value = resources_value(record, &[])?;
    // What is updated is what was asked for: devices stay as they are.
    if let Some(object) = value.as_object_mut() {
        object.remove("devices");
    }
    serde_json::from_value(value).map_err(|error| EngineError::failed(error.to_string()))
}

fn resources_value(record: &Record, devices: &[FoundDevice]) -> Result<Value, EngineError> {
    let host = &record.host;
    let positive = |value: Option<i64>| value.filter(|value| *value > 0);
    let nonzero = |value: Option<i64>| value.filter(|value| *value != 0);
    let (period, quota) = match positive(host.nano_cpus) {
        Some(nano) => (Some(100_000), Some(nano / 10_000)),
        None => (positive(host.cpu_period), nonzero(host.cpu_quota)),
    };
    let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let swap = match (positive(host.memory), host.memory_swap.unwrap_or_default()) {
        (Some(memory), 0) => Some(memory.saturating_mul(2)),
        (_, 0) => None,
        (_, swap) => Some(swap),
    };
    let swap = swap.filter(|_| has_swap_control());
    let throttles =
        |list: &Option<Vec<bollard_stubs::models::ThrottleDevice>>| -> Result<Vec<Value>, EngineError> {
            let list = list.iter().flatten().map(|one| {
                let path = one.path.clone().unwrap_or_default();
                let (major, minor) = numbers_of(&path)?;
                Ok(json!({ "major": major, "minor": minor, "rate": one.rate.unwrap_or_default() }))
            });
            list.collect()
        };
    let weights = host.blkio_weight_device.iter().flatten().map(|one| {
        let (major, minor) = numbers_of(one.path.as_deref().unwrap_or_default())?;
        Ok(json!({ "major": major, "minor": minor, "weight": one.weight }))
    });
    let weights = weights.collect::<Result<Vec<_>, EngineError>>()?;
    let value = json!({
        "memory": {
            "limit": positive(host.memory),
            "reservation": positive(host.memory_reservation),
            "swap": swap,
            "swappiness": host.memory_swappiness.filter(|value| (0..=100).contains(value)),
            "disableOOMKiller": host.oom_kill_disable.filter(|disable| *disable),
        },
        "cpu": {
            "shares": positive(host.cpu_shares),
            "quota": quota,
            "period": period,
            "realtimeRuntime": positive(host.cpu_realtime_runtime),
            "realtimePeriod": positive(host.cpu_realtime_period),
            "cpus": text(&host.cpuset_cpus),
            "mems": text(&host.cpuset_mems),
        },
        "pids": host.pids_limit.filter(|limit| *limit != 0).map(|limit| json!({ "limit": limit })),
        "blockIO": {
            "weight": host.blkio_weight.filter(|weight| *weight > 0),
            "weightDevice": weights,
            "throttleReadBpsDevice": throttles(&host.blkio_device_read_bps)?,
            "throttleWriteBpsDevice": throttles(&host.blkio_device_write_bps)?,
            "throttleReadIOPSDevice": throttles(&host.blkio_device_read_iops)?,
            "throttleWriteIOPSDevice": throttles(&host.blkio_device_write_iops)?,
        },
        "devices": device_rules(record, devices)?,
    });
    Ok(without_nulls(value))
}

/// A kernel without accounting of swap knows no limit of it.
fn has_swap_control() -> bool {
    Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()
        || !Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists()
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(object) => {
            let kept = object.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        other => other,
    }
}

fn numbers_of(path: &str) -> Result<(u32, u32), EngineError> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).map_err(|error| EngineError::failed(format!("{path}: {error}")))?;
    Ok((rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev())))
}

fn device_rules(record: &Record, devices: &[FoundDevice]) -> Result<Vec<Value>, EngineError> {
    if record.is_privileged() {
        return Ok(vec![json!({ "allow": true, "access": "rwm" })]);
    }
    let mut rules = vec![
        json!({ "allow": false, "access": "rwm" }),
        // Making a node is not using it.
        json!({ "allow": true, "type": "c", "access": "m" }),
        json!({ "allow": true, "type": "b", "access": "m" }),
    ];
    for (major, minor) in DEVICES {
        let mut rule = json!({ "allow": true, "type": "c", "major": major, "access": "rwm" });
        if let Some(minor) = minor {
            rule["minor"] = json!(minor);
        }
        rules.push(rule);
    }
    for found in devices {
        let (kind, major, minor) = (found.kind, found.major, found.minor);
        rules.push(json!({ "allow": true, "type": kind, "major": major, "minor": minor, "access": found.permissions }));
    }
    for text in record.host.device_cgroup_rules.iter().flatten() {
        rules.push(device_rule(text)?);
    }
    Ok(rules)
}

/// `c 1:3 rwm`, with `*` for any number.
fn device_rule(text: &str) -> Result<Value, EngineError> {
    let bad = || EngineError::invalid(format!("invalid device cgroup rule format: '{text}'"));
    let words: Vec<&str> = text.split_whitespace().collect();
    let [kind @ ("a" | "b" | "c"), numbers, access] = words[..] else { return Err(bad()) };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    let mut rule = json!({ "allow": true, "type": kind, "access": access });
    for (key, number) in [("major", major), ("minor", minor)] {
        if number != "*" {
            rule[key] = json!(number.parse::<u32>().map_err(|_| bad())?);
        }
    }
    Ok(rule)
}

fn seccomp_profile(record: &Record) -> Result<Option<Value>, EngineError> {
    let given = record.security_option("seccomp");
    match given.as_deref() {
        Some("unconfined") => Ok(None),
        None if record.is_privileged() => Ok(None),
        None | Some("builtin" | "default") => Ok(Some(seccomp::profile(&capabilities(record)?))),
        Some(text) => {
            let profile: Value = serde_json::from_str(text)
                .map_err(|error| EngineError::invalid(format!("Decoding seccomp profile failed: {error}")))?;
            Ok(Some(own_profile(profile, &capabilities(record)?)))
        }
    }
}

/// A profile in docker's form: rules may depend on capabilities, and name one call only.
fn own_profile(mut profile: Value, capabilities: &[String]) -> Value {
    let has = |value: &Value| {
        value["caps"]
            .as_array()
            .into_iter()
            .flatten()
            .all(|name| capabilities.iter().any(|own| Some(own.as_str()) == name.as_str()))
    };
    let mut rules = Vec::new();
    for mut rule in profile["syscalls"].as_array().cloned().unwrap_or_default() {
        let excluded = rule["excludes"]["caps"].as_array().is_some_and(|caps| !caps.is_empty())
            && has(&rule["excludes"]);
        if !has(&rule["includes"]) || excluded {
            continue;
        }
        if rule["names"].is_null() && rule["name"].is_string() {
            rule["names"] = json!([rule["name"]]);
        }
        if let Some(object) = rule.as_object_mut() {
            for key in ["name", "includes", "excludes", "comment"] {
                object.remove(key);
            }
        }
        rules.push(rule);
    }
    profile["syscalls"] = json!(rules);
    if let Some(maps) = profile["archMap"].as_array().cloned() {
        let own = if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" };
        let map = maps.into_iter().find(|map| map["architecture"] == own).unwrap_or_default();
        let mut all = vec![json!(own)];
        all.extend(map["subArchitectures"].as_array().cloned().unwrap_or_default());
        profile["architectures"] = json!(all);
    }
    if let Some(object) = profile.as_object_mut() {
        object.remove("archMap");
    }
    profile
}

/// The process of an exec: like the container's own, but for what is asked.
pub(crate) fn exec_process(
    record: &Record,
    directory: &Path,
    links: &[String],
    config: &ExecConfig,
) -> Result<ProcessSpec, EngineError> {
    let accounts = match record.state.pid {
        pid if pid > 0 => Accounts::of_process(pid),
        _ => Accounts::of_layers(&directory.join("upper"), &record.layers),
    };
    let asked = config.user.clone().filter(|user| !user.is_empty());
    let groups = record.host.group_add.clone().unwrap_or_default();
    let user =
        accounts.find(asked.as_deref().or(record.config.user.as_deref()).unwrap_or_default(), &groups)?;
    let tty = config.tty == Some(true);
    let mut given = record.config.env.clone().unwrap_or_default();
    for entry in config.env.iter().flatten() {
        let name = entry.split('=').next().unwrap_or_default().to_owned();
        given.retain(|old| old.split('=').next() != Some(&name));
        given.push(entry.clone());
    }
    let mut environment = environment(record, &user.home, links, &given);
    if tty && !environment.iter().any(|entry| entry.starts_with("TERM=")) {
        environment.push("TERM=xterm".to_owned());
    }
    let own = record.config.working_dir.as_deref().filter(|path| !path.is_empty());
    let place = config.working_dir.as_deref().filter(|path| !path.is_empty()).or(own).unwrap_or("/");
    let capabilities = if config.privileged == Some(true) {
        capability::NAMES.iter().map(|name| (*name).to_owned()).collect()
    } else {
        capabilities(record)?
    };
    let mut value = json!({
        "terminal": tty,
        "user": user.to_value(),
        "args": config.cmd.clone().unwrap_or_default(),
        "env": environment,
        "cwd": place,
        "noNewPrivileges": record.has_security_option("no-new-privileges"),
        "rlimits": limits(record),
        "capabilities": capability_sets(&capabilities, user.uid == 0),
    });
    if let Some([height, width]) = config.console_size.as_deref().filter(|_| tty) {
        value["consoleSize"] = json!({ "height": height, "width": width });
    }
    serde_json::from_value(value).map_err(|error| EngineError::failed(error.to_string()))
}
