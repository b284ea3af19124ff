//! From a configuration to a list of steps, without touching anything.
//!
//! [`Plan::new`] checks all that can be checked on paper and refuses what is not offered here. [`crate::init`] walks
//! [`Plan::steps`] inside the new namespaces, and an error names the step that failed.
//!
//! Spec: OCI runtime-spec, `runtime.md` "Lifecycle", `config.md`, `config-linux.md`.

pub mod mount;
pub mod process;
pub mod resources;
mod step;

use std::path::{Path, PathBuf};

use knarr_linux::cgroup::device::DeviceRule;
use knarr_linux::mounts::Propagation;
use knarr_linux::process::Namespace;

use crate::RuntimeError;
use crate::spec::{Device, IdMapping, Linux, Spec, TimeOffset};
use mount::MountPlan;
use process::ProcessPlan;
use resources::Setting;
pub use step::{DevicePlan, Step};

/// What the plan depends on beside the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The container's id.
    pub id: String,
    /// The bundle's directory, absolute.
    pub bundle: PathBuf,
    /// Whether control groups are of version 2.
    pub unified: bool,
    /// Whether this process is an ordinary user.
    pub rootless: bool,
    /// Whether the root is moved instead of pivoted.
    pub no_pivot: bool,
    /// Whether the container keeps the caller's keyring.
    pub no_new_keyring: bool,
}

/// All that will be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Namespaces.
    pub launch: Launch,
    /// What the container's first process does, in this order.
    pub steps: Vec<Step>,
    /// Values in files of the control group.
    pub settings: Vec<Setting>,
    /// Which devices may be used; none when that is not ours to say.
    pub devices: Vec<DeviceRule>,
    /// The control group, as an absolute path.
    pub cgroup: String,
    /// What is run in the end.
    pub process: Option<ProcessPlan>,
}

/// How the container's first process comes into its namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Launch {
    /// Those that exist.
    pub joined: Vec<(Namespace, PathBuf)>,
    /// Those that are made.
    pub made: Vec<Namespace>,
    /// Users, where a user namespace is made.
    pub uid_mappings: Vec<IdMapping>,
    /// Groups, where a user namespace is made.
    pub gid_mappings: Vec<IdMapping>,
    /// Lines for `/proc/self/timens_offsets`.
    pub time_offsets: Vec<String>,
}

impl Launch {
    /// Whether a process in between is needed: some namespaces take in only those who are born later.
    #[must_use]
    pub fn is_staged(&self) -> bool {
        let joins_user = self.joins(Namespace::User);
        self.makes(Namespace::Time) || (joins_user && self.makes(Namespace::Pid))
    }

    /// Whether a namespace of this kind is made.
    #[must_use]
    pub fn makes(&self, namespace: Namespace) -> bool {
        self.made.contains(&namespace)
    }

    /// Whether one of this kind is joined.
    #[must_use]
    pub fn joins(&self, namespace: Namespace) -> bool {
        self.joined.iter().any(|(kind, _)| *kind == namespace)
    }

    /// Whether the container has one of this kind that the caller is not in.
    #[must_use]
    pub fn has(&self, namespace: Namespace) -> bool {
        self.makes(namespace) || self.joins(namespace)
    }
}

impl Plan {
    /// What will be done to make this container.
    pub fn new(spec: &Spec, facts: &Facts) -> Result<Self, RuntimeError> {
        check_offered(spec)?;
        let launch = launch(&spec.linux)?;
        check_namespaces(spec, &launch)?;
        let mut process =
            spec.process.as_ref().map(|process| ProcessPlan::new(process, &spec.linux)).transpose()?;
        if let Some(process) = &mut process {
            process.init = spec.annotations.get(crate::INIT).is_some_and(|asked| asked == "true");
        }
        let empty = crate::spec::Resources::default();
        let resources = spec.linux.resources.as_ref().unwrap_or(&empty);
        Ok(Self {
            steps: steps(spec, facts, &launch)?,
            settings: resources::settings(resources, facts.unified)?,
            devices: resources::devices(resources, facts.rootless)?,
            cgroup: cgroup_path(&spec.linux, facts)?,
            launch,
            process,
        })
    }
}

/// Refuses what would else be passed over in silence.
fn check_offered(spec: &Spec) -> Result<(), RuntimeError> {
    check_version(&spec.oci_version)?;
    let absent = |field: &str, is_there: bool| {
        let reason = "is not offered here; leave it out";
        if is_there { Err(RuntimeError::invalid(field, reason)) } else { Ok(()) }
    };
    absent("linux.netDevices", is_said(spec.linux.net_devices.as_ref()))?;
    absent("linux.intelRdt", is_said(spec.linux.intel_rdt.as_ref()))?;
    absent("linux.memoryPolicy", is_said(spec.linux.memory_policy.as_ref()))?;
    let affinity = spec.process.as_ref().and_then(|process| process.exec_cpu_affinity.as_ref());
    absent("process.execCPUAffinity", is_said(affinity))?;
    let bad_hook = hooks(spec).find(|hook| !hook.path.is_absolute());
    bad_hook.map_or(Ok(()), |hook| {
        Err(RuntimeError::invalid("hooks", format!("{} is no absolute path", hook.path.display())))
    })
}

fn hooks(spec: &Spec) -> impl Iterator<Item = &crate::spec::Hook> {
    let hooks = &spec.hooks;
    let early = hooks.prestart.iter().chain(&hooks.create_runtime).chain(&hooks.create_container);
    early.chain(&hooks.start_container).chain(&hooks.poststart).chain(&hooks.poststop)
}

fn is_said(value: Option<&serde_json::Value>) -> bool {
    use serde_json::Value;
    value.is_some_and(|value| match value {
        Value::Null => false,
        Value::Object(map) => !map.is_empty(),
        _ => true,
    })
}

fn check_version(version: &str) -> Result<(), RuntimeError> {
    let numbers: Vec<&str> = version.split(['.', '-', '+']).collect();
    let is_number = |text: &&&str| text.parse::<u32>().is_ok();
    if numbers.iter().take(3).filter(is_number).count() < 3 {
        return Err(RuntimeError::invalid("ociVersion", format!("{version:?} is no version; 1.0.0 is one")));
    }
    if numbers[0] != "1" {
        let reason = format!("{version} is not followed here, 1.0 to {} are", crate::spec::VERSION);
        return Err(RuntimeError::invalid("ociVersion", reason));
    }
    Ok(())
}

fn launch(linux: &Linux) -> Result<Launch, RuntimeError> {
    let mut launch = Launch::default();
    for namespace in &linux.namespaces {
        let kind = namespace_by_name(&namespace.kind).ok_or_else(|| {
            RuntimeError::invalid("linux.namespaces", format!("{:?} is no kind of namespace", namespace.kind))
        })?;
        if launch.has(kind) {
            return Err(RuntimeError::invalid(
                "linux.namespaces",
                format!("{} is there twice", namespace.kind),
            ));
        }
        match namespace.path.as_ref().filter(|path| !path.as_os_str().is_empty()) {
            Some(path) if path.is_absolute() => launch.joined.push((kind, path.clone())),
            Some(path) => {
                let reason = format!("{} is no absolute path", path.display());
                return Err(RuntimeError::invalid("linux.namespaces", reason));
            }
            None => launch.made.push(kind),
        }
    }
    let order = |kind: &Namespace| Namespace::ALL.iter().position(|known| known == kind);
    launch.made.sort_by_key(order);
    launch.joined.sort_by_key(|(kind, _)| order(kind));
    if launch.makes(Namespace::User) {
        launch.uid_mappings.clone_from(&linux.uid_mappings);
        launch.gid_mappings.clone_from(&linux.gid_mappings);
    }
    launch.time_offsets = time_offsets(linux)?;
    Ok(launch)
}

fn namespace_by_name(name: &str) -> Option<Namespace> {
    Some(match name {
        "mount" => Namespace::Mount,
        "network" => Namespace::Network,
        other => {
            *Namespace::ALL.iter().find(|kind| kind.file() == other && !matches!(other, "mnt" | "net"))?
        }
    })
}

fn time_offsets(linux: &Linux) -> Result<Vec<String>, RuntimeError> {
    let line = |(clock, offset): (&String, &TimeOffset)| match clock.as_str() {
        "monotonic" | "boottime" => Ok(format!("{clock} {} {}", offset.secs, offset.nanosecs)),
        _ => Err(RuntimeError::invalid(
            "linux.timeOffsets",
            format!("{clock:?} is neither monotonic nor boottime"),
        )),
    };
    linux.time_offsets.iter().map(line).collect()
}

/// What cannot be without the namespace that keeps it from the host.
fn check_namespaces(spec: &Spec, launch: &Launch) -> Result<(), RuntimeError> {
    let needs = |field: &str, asked: bool, kind: Namespace| {
        if !asked || launch.has(kind) {
            return Ok(());
        }
        let reason =
            format!("would change the host's own: add the {} namespace to linux.namespaces", kind.file());
        Err(RuntimeError::invalid(field, reason))
    };
    needs("root", true, Namespace::Mount)?;
    needs("hostname", spec.hostname.is_some(), Namespace::Uts)?;
    needs("domainname", spec.domainname.is_some(), Namespace::Uts)?;
    needs("linux.uidMappings", !spec.linux.uid_mappings.is_empty(), Namespace::User)?;
    if !spec.linux.time_offsets.is_empty() && !launch.makes(Namespace::Time) {
        return Err(RuntimeError::invalid("linux.timeOffsets", "need a new time namespace"));
    }
    if launch.makes(Namespace::User) && (launch.uid_mappings.is_empty() || launch.gid_mappings.is_empty()) {
        let reason = "a new user namespace needs uidMappings and gidMappings";
        return Err(RuntimeError::invalid("linux.namespaces", reason));
    }
    let has_domain = spec.domainname.is_some();
    for key in spec.linux.sysctl.keys() {
        check_sysctl(key, launch)?;
        let dotted = key.replace('/', ".");
        if dotted == "kernel.hostname" || (dotted == "kernel.domainname" && has_domain) {
            let reason = format!("{key} has a field of its own: hostname, domainname");
            return Err(RuntimeError::invalid("linux.sysctl", reason));
        }
    }
    Ok(())
}

/// Only values that belong to a namespace of the container are its to set.
fn check_sysctl(key: &str, launch: &Launch) -> Result<(), RuntimeError> {
    const OF_IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let dotted = key.replace('/', ".");
    let kind = if OF_IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
        Namespace::Ipc
    } else if dotted.starts_with("net.") {
        Namespace::Network
    } else if dotted == "kernel.domainname" || dotted == "kernel.hostname" {
        Namespace::Uts
    } else if dotted.starts_with("user.") {
        Namespace::User
    } else {
        return Err(RuntimeError::invalid(
            "linux.sysctl",
            format!("{key} is not kept apart by any namespace"),
        ));
    };
    if launch.has(kind) && !dotted.contains("..") {
        return Ok(());
    }
    let reason = format!("{key} is the host's own without a {} namespace", kind.file());
    Err(RuntimeError::invalid("linux.sysctl", reason))
}

fn cgroup_path(linux: &Linux, facts: &Facts) -> Result<String, RuntimeError> {
    let path = linux.cgroups_path.as_deref().unwrap_or_default();
    if path.split('/').any(|part| part == "..") {
        return Err(RuntimeError::invalid("linux.cgroupsPath", format!("{path} leads out of where it is")));
    }
    if path.contains(':') && !path.contains('/') {
        let reason =
            format!("{path} is a unit of systemd; use files: --cgroup-manager=cgroupfs of podman does");
        return Err(RuntimeError::invalid("linux.cgroupsPath", reason));
    }
    Ok(match path.trim_matches('/') {
        "" => format!("/knarr-{}", facts.id),
        path => format!("/{path}"),
    })
}

fn steps(spec: &Spec, facts: &Facts, launch: &Launch) -> Result<Vec<Step>, RuntimeError> {
    let mut steps = Vec::with_capacity(64);
    add_identity(spec, facts, launch, &mut steps);
    add_root(spec, facts, launch, &mut steps)?;
    add_devices(spec, launch, &mut steps)?;
    add_guards(spec, facts, &mut steps)?;
    if launch.makes(Namespace::Cgroup) && !steps.contains(&Step::MakeCgroupNamespace) {
        steps.push(Step::MakeCgroupNamespace);
    }
    steps.push(Step::AwaitNumber);
    Ok(steps)
}

fn add_identity(spec: &Spec, facts: &Facts, launch: &Launch, steps: &mut Vec<Step>) {
    if !facts.no_new_keyring {
        steps.push(Step::NewKeyring(format!("_ses.{}", facts.id)));
    }
    if launch.makes(Namespace::Network) {
        steps.push(Step::RaiseLoopback);
    }
    steps.extend(spec.hostname.clone().filter(|name| !name.is_empty()).map(Step::SetHostName));
    steps.extend(spec.domainname.clone().filter(|name| !name.is_empty()).map(Step::SetDomainName));
}

fn add_root(spec: &Spec, facts: &Facts, launch: &Launch, steps: &mut Vec<Step>) -> Result<(), RuntimeError> {
    let root = spec.root.as_ref().filter(|root| !root.path.as_os_str().is_empty());
    let root = root.ok_or_else(|| RuntimeError::invalid("root.path", "a container needs a root"))?;
    let propagation = root_propagation(spec)?;
    let (first, recursive) = propagation.unwrap_or((Propagation::SLAVE, true));
    steps.push(Step::SetPropagation { propagation: first, recursive });
    if !matches!(first, Propagation::SLAVE | Propagation::PRIVATE) {
        steps.push(Step::MakePrivateAbove(facts.bundle.join(&root.path)));
    }
    steps.push(Step::OpenRoot(facts.bundle.join(&root.path)));
    for (index, mount) in spec.mounts.iter().enumerate() {
        let plan = MountPlan::new(mount, index, facts)?;
        let is_cgroup = plan.is_cgroup();
        if is_cgroup && launch.makes(Namespace::Cgroup) && !steps.contains(&Step::MakeCgroupNamespace) {
            steps.push(Step::MakeCgroupNamespace);
        }
        steps.push(Step::Mount(Box::new(plan)));
    }
    Ok(())
}

fn root_propagation(spec: &Spec) -> Result<Option<(Propagation, bool)>, RuntimeError> {
    let Some(word) = spec.linux.rootfs_propagation.as_deref().filter(|word| !word.is_empty()) else {
        return Ok(None);
    };
    let known = mount::propagation_by_name(word).or_else(|| mount::propagation_by_name(&format!("r{word}")));
    let unknown =
        || RuntimeError::invalid("linux.rootfsPropagation", format!("{word:?} is no way to propagate"));
    known.map(Some).ok_or_else(unknown)
}

fn add_devices(spec: &Spec, launch: &Launch, steps: &mut Vec<Step>) -> Result<(), RuntimeError> {
    let host_dev =
        spec.mounts.iter().any(|mount| mount.destination == Path::new("/dev") && mount::is_bind(mount));
    if host_dev {
        return add_console(spec, steps);
    }
    let bind = launch.has(Namespace::User);
    for device in &spec.linux.devices {
        steps.push(Step::MakeDevice(device_plan(device, bind)?));
    }
    let named = |path: &Path| spec.linux.devices.iter().any(|device| device.path == path);
    for (name, major, minor) in DEFAULT_DEVICES {
        let path = Path::new("/dev").join(name);
        if !named(&path) {
            steps.push(Step::MakeDevice(DevicePlan {
                path,
                kind: 'c',
                major,
                minor,
                mode: 0o666,
                uid: 0,
                gid: 0,
                bind,
            }));
        }
    }
    let links = DEFAULT_LINKS.iter().filter(|(path, _)| !named(Path::new(path)));
    steps.extend(links.map(|(path, target)| Step::Link { path: PathBuf::from(path), target }));
    add_console(spec, steps)
}

/// Spec: config-linux.md, "Default Devices".
const DEFAULT_DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
/// Spec: runtime-linux.md, "Dev symbolic links".
const DEFAULT_LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];

fn add_console(spec: &Spec, steps: &mut Vec<Step>) -> Result<(), RuntimeError> {
    let Some(process) = spec.process.as_ref().filter(|process| process.terminal) else { return Ok(()) };
    let size = process.console_size.as_ref().map(|size| (size.width, size.height));
    steps.push(Step::OpenConsole { size });
    Ok(())
}

fn device_plan(device: &Device, bind: bool) -> Result<DevicePlan, RuntimeError> {
    let bad = |reason: String| RuntimeError::invalid("linux.devices", reason);
    let kind = match device.kind.as_str() {
        "c" | "u" => 'c',
        "b" => 'b',
        "p" => 'p',
        other => return Err(bad(format!("{other:?} is no kind of device: b, c, u and p are"))),
    };
    if !device.path.is_absolute() {
        return Err(bad(format!("{} is no absolute path", device.path.display())));
    }
    let number =
        |number: i64| u32::try_from(number).map_err(|_| bad(format!("{number} is no device number")));
    Ok(DevicePlan {
        path: device.path.clone(),
        kind,
        major: if kind == 'p' { 0 } else { number(device.major)? },
        minor: if kind == 'p' { 0 } else { number(device.minor)? },
        mode: device.file_mode.unwrap_or(0o666) & 0o7777,
        uid: device.uid.unwrap_or_default(),
        gid: device.gid.unwrap_or_default(),
        bind: bind && kind != 'p',
    })
}

fn add_guards(spec: &Spec, facts: &Facts, steps: &mut Vec<Step>) -> Result<(), RuntimeError> {
    let linux = &spec.linux;
    if !spec.hooks.prestart.is_empty() || !spec.hooks.create_runtime.is_empty() {
        steps.push(Step::RuntimeHooks);
    }
    if !spec.hooks.create_container.is_empty() {
        steps.push(Step::ContainerHooks);
    }
    steps.extend(
        linux.sysctl.iter().map(|(key, value)| Step::SetSysctl { key: key.clone(), value: value.clone() }),
    );
    let absolute = |field: &str, path: &String| {
        if path.starts_with('/') {
            return Ok(PathBuf::from(path));
        }
        Err(RuntimeError::invalid(field, format!("{path:?} is no absolute path")))
    };
    for path in &linux.readonly_paths {
        steps.push(Step::MakeReadOnly(absolute("linux.readonlyPaths", path)?));
    }
    for path in &linux.masked_paths {
        steps.push(Step::Mask(absolute("linux.maskedPaths", path)?));
    }
    let (first, _) = root_propagation(spec)?.unwrap_or((Propagation::SLAVE, true));
    let reaches_host = !matches!(first, Propagation::SLAVE | Propagation::PRIVATE);
    steps.push(Step::EnterRoot { pivot: !facts.no_pivot, reaches_host });
    if let Some((propagation, recursive)) = root_propagation(spec)? {
        steps.push(Step::SetRootPropagation { propagation, recursive });
    }
    if spec.root.as_ref().is_some_and(|root| root.readonly) {
        steps.push(Step::MakeRootReadOnly);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
