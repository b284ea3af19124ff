//! What a bundle's `config.json` says, as it says it.
//!
//! [`Spec::parse`] reads it. Fields have the names of the specification; what is not known is passed over, as it demands.
//! What the values mean is decided in [`crate::plan`].
//!
//! Spec: OCI runtime-spec 1.3, `config.md` and `config-linux.md`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::RuntimeError;

/// The newest version of the specification that this follows.
pub const VERSION: &str = "1.3.0";
/// A configuration is not larger than this.
pub const MAX_CONFIG_BYTES: u64 = 16 << 20;

macro_rules! structure {
    ($(#[doc = $about:expr] $name:ident { $(#[doc = $what:expr] $(#[serde($($serde:tt)*)])? $field:ident: $kind:ty,)* })*) => {$(
        #[doc = $about]
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name { $(
            #[doc = $what]
            #[serde(deserialize_with = "crate::spec::or_default")]
            $(#[serde($($serde)*)])?
            pub $field: $kind,
        )* }
    )*};
}

structure! {
    /// The whole configuration.
    Spec {
        /// Which version of the specification it follows.
        oci_version: String,
        /// The container's root.
        root: Option<Root>,
        /// What is mounted in it, in this order.
        mounts: Vec<Mount>,
        /// What runs in it.
        process: Option<ProcessSpec>,
        /// Its host name.
        hostname: Option<String>,
        /// Its NIS domain name.
        domainname: Option<String>,
        /// Programs that run along its life.
        hooks: Hooks,
        /// Free words.
        annotations: BTreeMap<String, String>,
        /// All that only Linux has.
        linux: Linux,
    }
    /// The container's root.
    Root {
        /// Its directory, from the bundle's.
        path: PathBuf,
        /// Whether it can only be read.
        readonly: bool,
    }
    /// A mount.
    Mount {
        /// Where.
        destination: PathBuf,
        /// Of which kind.
        #[serde(rename = "type")]
        kind: Option<String>,
        /// Of what.
        source: Option<String>,
        /// How.
        options: Vec<String>,
        /// Owners of its files, mapped.
        uid_mappings: Vec<IdMapping>,
        /// Groups of its files, mapped.
        gid_mappings: Vec<IdMapping>,
    }
    /// A process.
    ProcessSpec {
        /// Whether it has a terminal.
        terminal: bool,
        /// The terminal's size.
        console_size: Option<ConsoleSize>,
        /// Who it is.
        user: User,
        /// The program and its arguments.
        args: Vec<String>,
        /// Its environment.
        env: Vec<String>,
        /// Where it starts.
        cwd: String,
        /// Its capabilities; none when nothing is said.
        capabilities: Option<CapabilityNames>,
        /// Its limits.
        rlimits: Vec<Rlimit>,
        /// Whether it can never gain rights.
        no_new_privileges: bool,
        /// Its AppArmor profile.
        apparmor_profile: Option<String>,
        /// How readily it is ended when memory is short.
        oom_score_adj: Option<i32>,
        /// Its SELinux label.
        selinux_label: Option<String>,
        /// Its place behind others at the disk.
        io_priority: Option<IoPriority>,
        /// Its place behind others at the processor.
        scheduler: Option<Scheduler>,
        /// The processors on which it runs.
        #[serde(rename = "execCPUAffinity")]
        exec_cpu_affinity: Option<serde_json::Value>,
    }
    /// A terminal's size.
    ConsoleSize {
        /// In lines.
        height: u16,
        /// In columns.
        width: u16,
    }
    /// Who a process is.
    User {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
        /// What new files are not.
        umask: Option<u32>,
        /// Further groups.
        additional_gids: Vec<u32>,
    }
    /// The five sets, by name.
    CapabilityNames {
        /// See capabilities(7).
        bounding: Vec<String>,
        /// See capabilities(7).
        effective: Vec<String>,
        /// See capabilities(7).
        inheritable: Vec<String>,
        /// See capabilities(7).
        permitted: Vec<String>,
        /// See capabilities(7).
        ambient: Vec<String>,
    }
    /// A limit.
    Rlimit {
        /// Which: `RLIMIT_*`.
        #[serde(rename = "type")]
        kind: String,
        /// Up to where it can be raised.
        hard: u64,
        /// Where it is.
        soft: u64,
    }
    /// See ioprio_set(2).
    IoPriority {
        /// `IOPRIO_CLASS_*`.
        class: String,
        /// 0 to 7.
        priority: u32,
    }
    /// See sched_setattr(2).
    Scheduler {
        /// `SCHED_*`.
        policy: String,
        /// See sched_setattr(2).
        nice: i32,
        /// See sched_setattr(2).
        priority: i32,
        /// `SCHED_FLAG_*`.
        flags: Vec<String>,
        /// See sched_setattr(2).
        runtime: u64,
        /// See sched_setattr(2).
        deadline: u64,
        /// See sched_setattr(2).
        period: u64,
    }
    /// Programs that run along a container's life.
    Hooks {
        /// Before the root is entered, in the host's namespaces. (Superseded by the next two.)
        prestart: Vec<Hook>,
        /// When namespaces are made, in the host's.
        create_runtime: Vec<Hook>,
        /// When mounts are made, in the container's namespaces, from the host's files.
        create_container: Vec<Hook>,
        /// Before the program, in the container.
        start_container: Vec<Hook>,
        /// When the program runs, in the host's namespaces.
        poststart: Vec<Hook>,
        /// When the container is gone, in the host's namespaces.
        poststop: Vec<Hook>,
    }
    /// A program that is told the container's state.
    Hook {
        /// The program.
        path: PathBuf,
        /// Its name and arguments.
        args: Vec<String>,
        /// Its environment.
        env: Vec<String>,
        /// After so many seconds it is ended.
        timeout: Option<u64>,
    }
    /// All that only Linux has.
    Linux {
        /// Users of the container and of the host.
        uid_mappings: Vec<IdMapping>,
        /// Groups of the container and of the host.
        gid_mappings: Vec<IdMapping>,
        /// Values in `/proc/sys`.
        sysctl: BTreeMap<String, String>,
        /// How much of the machine it may use.
        resources: Option<Resources>,
        /// The control group.
        cgroups_path: Option<String>,
        /// What it does not share with the host.
        namespaces: Vec<NamespaceSpec>,
        /// Devices in its root.
        devices: Vec<Device>,
        /// Network devices that it gets.
        net_devices: Option<serde_json::Value>,
        /// Which system calls it may make.
        seccomp: Option<Seccomp>,
        /// How mounts reach its root and come from it.
        rootfs_propagation: Option<String>,
        /// What it cannot see.
        masked_paths: Vec<String>,
        /// What it cannot write.
        readonly_paths: Vec<String>,
        /// The SELinux label of its mounts.
        mount_label: Option<String>,
        /// Intel's cache and bandwidth control.
        intel_rdt: Option<serde_json::Value>,
        /// Which kernel it sees.
        personality: Option<Personality>,
        /// Offsets of its clocks.
        time_offsets: BTreeMap<String, TimeOffset>,
        /// Where memory comes from.
        memory_policy: Option<serde_json::Value>,
    }
    /// A range of ids.
    IdMapping {
        /// Its first in the container.
        #[serde(rename = "containerID")]
        container_id: u32,
        /// Its first on the host.
        #[serde(rename = "hostID")]
        host_id: u32,
        /// How many.
        size: u32,
    }
    /// A namespace.
    NamespaceSpec {
        /// Of which kind.
        #[serde(rename = "type")]
        kind: String,
        /// One that exists; a new one without it.
        path: Option<PathBuf>,
    }
    /// A device.
    Device {
        /// Where in the root.
        path: PathBuf,
        /// `b`, `c`, `u` or `p`.
        #[serde(rename = "type")]
        kind: String,
        /// Its number.
        major: i64,
        /// Its number.
        minor: i64,
        /// Permissions.
        file_mode: Option<u32>,
        /// Owner.
        uid: Option<u32>,
        /// Group.
        gid: Option<u32>,
    }
    /// A different kernel.
    Personality {
        /// `LINUX` or `LINUX32`.
        domain: String,
        /// None are defined.
        flags: Vec<String>,
    }
    /// An offset of a clock.
    TimeOffset {
        /// Seconds.
        secs: i64,
        /// Nanoseconds.
        nanosecs: u32,
    }
    /// Which system calls may be made.
    Seccomp {
        /// What happens to calls that are not named.
        default_action: String,
        /// Their error.
        default_errno_ret: Option<u32>,
        /// Machines.
        architectures: Vec<String>,
        /// `SECCOMP_FILTER_FLAG_*`.
        flags: Vec<String>,
        /// Who decides on `SCMP_ACT_NOTIFY`.
        listener_path: Option<PathBuf>,
        /// What it is told.
        listener_metadata: Option<String>,
        /// Calls that are named.
        syscalls: Vec<SeccompRule>,
    }
    /// Calls that are named.
    SeccompRule {
        /// Their names.
        names: Vec<String>,
        /// What happens to them.
        action: String,
        /// Their error.
        errno_ret: Option<u32>,
        /// Only with these arguments.
        args: Vec<SeccompArgument>,
    }
    /// A condition on an argument.
    SeccompArgument {
        /// Which.
        index: u32,
        /// With what it is compared.
        value: u64,
        /// The value under the mask.
        value_two: u64,
        /// `SCMP_CMP_*`.
        op: String,
    }
    /// How much of the machine may be used.
    Resources {
        /// Devices.
        devices: Vec<DeviceAccess>,
        /// Memory.
        memory: Option<Memory>,
        /// Processors.
        cpu: Option<Cpu>,
        /// Processes.
        pids: Option<Pids>,
        /// Disks.
        #[serde(rename = "blockIO")]
        block_io: Option<BlockIo>,
        /// Huge pages.
        hugepage_limits: Vec<HugepageLimit>,
        /// Packets.
        network: Option<NetworkClass>,
        /// RDMA devices.
        rdma: BTreeMap<String, Rdma>,
        /// Files of version 2, as they are.
        unified: BTreeMap<String, String>,
    }
    /// Whether devices may be used.
    DeviceAccess {
        /// Whether.
        allow: bool,
        /// `a`, `b` or `c`.
        #[serde(rename = "type")]
        kind: Option<String>,
        /// Their number, or all.
        major: Option<i64>,
        /// Their number, or all.
        minor: Option<i64>,
        /// `r`, `w`, `m`.
        access: Option<String>,
    }
    /// Memory.
    Memory {
        /// In bytes.
        limit: Option<i64>,
        /// In bytes, when memory is short.
        reservation: Option<i64>,
        /// In bytes, together with memory.
        swap: Option<i64>,
        /// The kernel's own; kernels count it with the rest by now.
        kernel: Option<i64>,
        /// The kernel's own for TCP.
        #[serde(rename = "kernelTCP")]
        kernel_tcp: Option<i64>,
        /// 0 to 100.
        swappiness: Option<u64>,
        /// Whether processes wait instead of being ended.
        #[serde(rename = "disableOOMKiller")]
        disable_oom_killer: Option<bool>,
        /// Whether groups below count; they always do here.
        use_hierarchy: Option<bool>,
        /// Whether a limit below what is used is refused.
        check_before_update: Option<bool>,
    }
    /// Processors.
    Cpu {
        /// A share beside others.
        shares: Option<u64>,
        /// Microseconds in each period.
        quota: Option<i64>,
        /// Microseconds that may be saved up.
        burst: Option<u64>,
        /// In microseconds.
        period: Option<u64>,
        /// Microseconds for real-time processes.
        realtime_runtime: Option<i64>,
        /// In microseconds.
        realtime_period: Option<u64>,
        /// Which processors.
        cpus: Option<String>,
        /// Which memory nodes.
        mems: Option<String>,
        /// Only when nobody else wants to.
        idle: Option<i64>,
    }
    /// Processes.
    Pids {
        /// How many; no limit when not positive.
        limit: Option<i64>,
    }
    /// Disks.
    BlockIo {
        /// 10 to 1000.
        weight: Option<u16>,
        /// 10 to 1000.
        leaf_weight: Option<u16>,
        /// For some.
        weight_device: Vec<WeightDevice>,
        /// Bytes a second.
        throttle_read_bps_device: Vec<ThrottleDevice>,
        /// Bytes a second.
        throttle_write_bps_device: Vec<ThrottleDevice>,
        /// Operations a second.
        #[serde(rename = "throttleReadIOPSDevice")]
        throttle_read_iops_device: Vec<ThrottleDevice>,
        /// Operations a second.
        #[serde(rename = "throttleWriteIOPSDevice")]
        throttle_write_iops_device: Vec<ThrottleDevice>,
    }
    /// A weight for one disk.
    WeightDevice {
        /// Its number.
        major: i64,
        /// Its number.
        minor: i64,
        /// 10 to 1000.
        weight: Option<u16>,
        /// 10 to 1000.
        leaf_weight: Option<u16>,
    }
    /// A rate for one disk.
    ThrottleDevice {
        /// Its number.
        major: i64,
        /// Its number.
        minor: i64,
        /// A second.
        rate: u64,
    }
    /// Huge pages.
    HugepageLimit {
        /// Which: `2MB`.
        page_size: String,
        /// In bytes.
        limit: u64,
    }
    /// Packets.
    NetworkClass {
        /// A class for traffic control.
        #[serde(rename = "classID")]
        class_id: Option<u32>,
        /// By device.
        priorities: Vec<InterfacePriority>,
    }
    /// Priority at one network device.
    InterfacePriority {
        /// The device.
        name: String,
        /// The priority.
        priority: u32,
    }
    /// An RDMA device.
    Rdma {
        /// Handles.
        hca_handles: Option<u32>,
        /// Objects.
        hca_objects: Option<u32>,
    }
}

/// Null stands for what is not said: other writers of such files leave it so.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Spec {
    /// Reads a configuration.
    pub fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// Reads the configuration of a bundle: `config.json`, or another file. Comes back with its text, too.
    pub fn load(bundle: &Path, config: Option<&Path>) -> Result<(Self, Vec<u8>), RuntimeError> {
        let path = bundle.join(config.unwrap_or_else(|| Path::new("config.json")));
        let text = read_bounded(&path)?;
        let spec = Self::parse(&text).map_err(|source| RuntimeError::Config { path, source })?;
        Ok((spec, text))
    }
}

/// Reads a file that must not be too large.
pub fn read_bounded(path: &Path) -> Result<Vec<u8>, RuntimeError> {
    use std::io::Read;
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(RuntimeError::file("open", path))?;
    file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut text).map_err(RuntimeError::file("read", path))?;
    if text.len() as u64 > MAX_CONFIG_BYTES {
        return Err(RuntimeError::TooLarge { path: path.to_owned(), most: MAX_CONFIG_BYTES });
    }
    Ok(text)
}
