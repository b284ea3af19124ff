//! The engine itself: what it runs on, what it speaks, what it takes of the disk.
//!
//! [`Engine::info`] and its neighbours ask the machine and the other nouns; nothing is kept here.
//!
//! Spec: Docker Engine API, "System".

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use bollard_stubs::models::{
    BuildCacheDiskUsage, Commit, ContainersDiskUsage, FirewallInfo, ImagesDiskUsage, IndexInfo,
    LocalNodeState, PluginsInfo, RegistryServiceConfig, Runtime, SwarmInfo, SystemDataUsageResponse,
    SystemInfo, SystemInfoCgroupDriverEnum, SystemInfoCgroupVersionEnum, SystemInfoDefaultAddressPools,
    SystemInfoIsolationEnum, SystemVersion, SystemVersionComponents, SystemVersionPlatform, VolumeUsageData,
    VolumesDiskUsage,
};
use knarr_base::Architecture;
use serde_json::Value;

use crate::containers::{ListQuery, blocking, machine_memory_bytes};
use crate::engine::now;
use crate::filters::Filters;
use crate::images::{ImageQuery, entries, signed, unpacked_bytes};
use crate::{Engine, EngineError};

/// The newest version of the Engine API that is spoken.
pub const API_VERSION: &str = "1.53";
/// The oldest.
pub const MIN_API_VERSION: &str = "1.24";
/// Our runtime, and what clients of docker call theirs.
pub(crate) const RUNTIMES: [&str; 3] = ["knarr", "runc", "io.containerd.runc.v2"];
/// What it is called where nobody asked: clients compare it with the one that they know.
pub(crate) const DEFAULT_RUNTIME: &str = "runc";
/// Ours.
const VERSION: &str = env!("CARGO_PKG_VERSION");

impl Engine {
    /// `GET /info`.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn info(&self) -> Result<SystemInfo, EngineError> {
        let store = self.store().clone();
        let images = blocking(move || Ok(entries(&store)?.len())).await?;
        let options = self.shared().options.clone();
        let mut info = blocking(move || Ok(of_machine(&options.root))).await?;
        let (mut running, mut paused, mut all) = (0, 0, 0);
        for container in self.shared().containers.all() {
            let record = container.record();
            all += 1;
            running += i64::from(record.state.running && !record.state.paused);
            paused += i64::from(record.state.paused);
        }
        info.id = Some(self.shared().id.clone());
        info.containers = Some(all);
        info.containers_running = Some(running);
        info.containers_paused = Some(paused);
        info.containers_stopped = Some(all - running - paused);
        info.images = i64::try_from(images).ok();
        self.add_settings(&mut info);
        Ok(info)
    }

    /// What the engine was told.
    fn add_settings(&self, info: &mut SystemInfo) {
        let options = &self.shared().options;
        let current = self.current();
        info.logging_driver = Some(options.log_driver.clone());
        info.labels = Some(current.labels.clone());
        info.docker_root_dir = Some(options.root.display().to_string());
        info.default_address_pools = Some(
            options
                .address_pools
                .iter()
                .map(|(base, size)| SystemInfoDefaultAddressPools {
                    base: Some(base.clone()),
                    size: Some(i64::from(*size)),
                })
                .collect(),
        );
        let hub = current.registries.get("docker.io").cloned().unwrap_or_default();
        let mut indexes = HashMap::from([(
            "docker.io".to_owned(),
            IndexInfo {
                name: Some("docker.io".to_owned()),
                mirrors: Some(hub.mirrors.clone()),
                secure: Some(!hub.insecure),
                official: Some(true),
            },
        )]);
        for (name, host) in current.registries.iter().filter(|(name, _)| *name != "docker.io") {
            let index = IndexInfo {
                name: Some(name.clone()),
                mirrors: Some(host.mirrors.clone()),
                secure: Some(!host.insecure),
                official: Some(false),
            };
            indexes.insert(name.clone(), index);
        }
        info.registry_config = Some(RegistryServiceConfig {
            insecure_registry_cidrs: Some(vec!["127.0.0.0/8".to_owned(), "::1/128".to_owned()]),
            index_configs: Some(indexes),
            mirrors: Some(hub.mirrors),
        });
    }

    /// `GET /version`.
    ///
    /// # Errors
    /// None today; the machine may once not be asked.
    pub async fn version(&self) -> Result<SystemVersion, EngineError> {
        let (arch, kernel) = (architecture(), kernel());
        let details = [
            ("ApiVersion", API_VERSION),
            ("Arch", &arch),
            ("BuildTime", ""),
            ("Experimental", "false"),
            ("GitCommit", ""),
            ("GoVersion", ""),
            ("KernelVersion", &kernel),
            ("MinAPIVersion", MIN_API_VERSION),
            ("Os", "linux"),
        ];
        let component = |name: &str, details: HashMap<String, String>| SystemVersionComponents {
            name: name.to_owned(),
            version: VERSION.to_owned(),
            details: Some(details),
        };
        let details = details.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Ok(SystemVersion {
            platform: Some(SystemVersionPlatform { name: "Knarr".to_owned() }),
            components: Some(vec![component("Engine", details), component("knarr", HashMap::new())]),
            version: Some(VERSION.to_owned()),
            api_version: Some(API_VERSION.to_owned()),
            min_api_version: Some(MIN_API_VERSION.to_owned()),
            git_commit: Some(String::new()),
            go_version: Some(String::new()),
            os: Some("linux".to_owned()),
            arch: Some(arch),
            kernel_version: Some(kernel),
            experimental: None,
            build_time: Some(String::new()),
        })
    }

    /// `GET /system/df`; `kinds` of container, image, volume, build-cache, all when empty.
    ///
    /// # Errors
    /// A kind is unknown, or something cannot be listed.
    pub async fn disk_usage(&self, kinds: &[String]) -> Result<SystemDataUsageResponse, EngineError> {
        let known = ["container", "image", "volume", "build-cache"];
        if let Some(kind) = kinds.iter().find(|kind| !known.contains(&kind.as_str())) {
            return Err(EngineError::invalid(format!("unknown object type: {kind}")));
        }
        let wants = |kind: &str| kinds.is_empty() || kinds.iter().any(|wanted| wanted == kind);
        let mut usage = SystemDataUsageResponse::default();
        if wants("image") {
            usage.image_usage = Some(self.image_usage().await?);
        }
        if wants("container") {
            usage.container_usage = Some(self.container_usage().await?);
        }
        if wants("volume") {
            usage.volume_usage = Some(self.volume_usage().await?);
        }
        if wants("build-cache") {
            let none = Some(0);
            usage.build_cache_usage = Some(BuildCacheDiskUsage {
                active_count: none,
                total_count: none,
                reclaimable: none,
                total_size: none,
                items: Some(Vec::new()),
            });
        }
        Ok(usage)
    }

    /// The same in both forms: clients before 1.52 look for lists under other names.
    ///
    /// # Errors
    /// As [`Self::disk_usage`].
    pub async fn disk_usage_document(&self, kinds: &[String]) -> Result<Value, EngineError> {
        let usage = self.disk_usage(kinds).await?;
        let mut value = document(&usage);
        let lists = [
            ("Images", usage.image_usage.as_ref().map(|usage| &usage.items)),
            ("Containers", usage.container_usage.as_ref().map(|usage| &usage.items)),
            ("Volumes", usage.volume_usage.as_ref().map(|usage| &usage.items)),
            ("BuildCache", usage.build_cache_usage.as_ref().map(|usage| &usage.items)),
        ];
        for (name, items) in lists {
            if let Some(items) = items {
                value[name] = Value::from(items.clone().unwrap_or_default());
            }
        }
        if let Some(images) = &usage.image_usage {
            value["LayersSize"] = Value::from(images.total_size);
        }
        Ok(value)
    }

    async fn image_usage(&self) -> Result<ImagesDiskUsage, EngineError> {
        let query = ImageQuery { all: true, shared_size: true, ..ImageQuery::default() };
        let images = self.list_images(&query).await?;
        let used = self.used_images();
        let (store, kept) = (self.store().clone(), used.clone());
        let (total, needed) = blocking(move || {
            let all = entries(&store)?;
            let bytes = |needed: &dyn Fn(&str) -> bool| {
                let images =
                    all.iter().filter(|entry| needed(&entry.id())).filter_map(|entry| entry.image.as_ref());
                let layers: std::collections::BTreeMap<_, _> = images
                    .flat_map(|image| image.layers().map(|(layer, diff_id)| (diff_id, layer.size)))
                    .collect();
                let size =
                    |(diff_id, packed): (&_, &u64)| unpacked_bytes(&store, *diff_id).unwrap_or(*packed);
                layers.iter().map(size).fold(0, u64::saturating_add)
            };
            Ok((bytes(&|_| true), bytes(&|id| kept.iter().any(|used| used == id))))
        })
        .await?;
        let active = images.iter().filter(|image| used.contains(&image.id)).count();
        Ok(ImagesDiskUsage {
            active_count: i64::try_from(active).ok(),
            total_count: i64::try_from(images.len()).ok(),
            reclaimable: Some(signed(total.saturating_sub(needed))),
            total_size: Some(signed(total)),
            items: Some(images.iter().map(document).collect()),
        })
    }

    async fn container_usage(&self) -> Result<ContainersDiskUsage, EngineError> {
        let query = ListQuery { all: true, size: true, ..ListQuery::default() };
        let containers = self.list_containers(&query).await?;
        let (mut total, mut reclaimable, mut active) = (0, 0, 0);
        for container in &containers {
            let bytes = container.size_rw.unwrap_or_default();
            let runs = matches!(
                container.state.as_ref().map(ToString::to_string).as_deref(),
                Some("running" | "paused" | "restarting")
            );
            total += bytes;
            active += i64::from(runs);
            reclaimable += if runs { 0 } else { bytes };
        }
        Ok(ContainersDiskUsage {
            active_count: Some(active),
            total_count: i64::try_from(containers.len()).ok(),
            reclaimable: Some(reclaimable),
            total_size: Some(total),
            items: Some(containers.iter().map(document).collect()),
        })
    }

    async fn volume_usage(&self) -> Result<VolumesDiskUsage, EngineError> {
        let mut volumes = self.list_volumes(&Filters::default()).await?.volumes.unwrap_or_default();
        let used = self.used_volumes();
        let (mut total, mut reclaimable, mut active) = (0, 0, 0);
        for volume in &mut volumes {
            let place = self.shared().volumes.data(&volume.name);
            let size = signed(blocking(move || Ok(crate::volumes::tree_bytes(&place))).await?);
            let users = used.get(&volume.name).map_or(0, Vec::len);
            volume.usage_data =
                Some(VolumeUsageData { size, ref_count: i64::try_from(users).unwrap_or(i64::MAX) });
            total += size;
            active += i64::from(users > 0);
            reclaimable += if users > 0 { 0 } else { size };
        }
        Ok(VolumesDiskUsage {
            active_count: Some(active),
            total_count: i64::try_from(volumes.len()).ok(),
            reclaimable: Some(reclaimable),
            total_size: Some(total),
            items: Some(volumes.iter().map(document).collect()),
        })
    }

    /// How many containers run: an engine that started by itself ends when none does.
    pub async fn running(&self) -> usize {
        let containers = self.shared().containers.all();
        containers.iter().filter(|container| container.record().state.running).count()
    }
}

fn document(value: &impl serde::Serialize) -> Value {
    // These models have nothing that can fail.
    serde_json::to_value(value).unwrap_or_default()
}

/// What this machine is called.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What the machine is and can.
fn of_machine(root: &Path) -> SystemInfo {
    let cgroups = Cgroups::find();
    let yes = Some(true);
    let strings = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    SystemInfo {
        driver: Some("overlayfs".to_owned()),
        driver_status: Some(vec![
            vec!["Backing Filesystem".to_owned(), file_system(root)],
            strings(&["Supports d_type", "true"]),
            strings(&["Native Overlay Diff", "true"]),
        ]),
        plugins: Some(PluginsInfo {
            volume: Some(strings(&["local"])),
            network: Some(strings(&["bridge", "host", "null"])),
            authorization: Some(Vec::new()),
            log: Some(strings(&["journald", "json-file", "local"])),
        }),
        memory_limit: Some(cgroups.has("memory")),
        swap_limit: Some(cgroups.has("memory")),
        cpu_cfs_period: Some(cgroups.has("cpu")),
        cpu_cfs_quota: Some(cgroups.has("cpu")),
        cpu_shares: Some(cgroups.has("cpu")),
        cpu_set: Some(cgroups.has("cpuset")),
        pids_limit: Some(cgroups.has("pids")),
        oom_kill_disable: Some(false),
        ipv4_forwarding: Some(is_set("/proc/sys/net/ipv4/ip_forward")),
        debug: Some(false),
        nfd: fs::read_dir("/proc/self/fd").ok().and_then(|files| i64::try_from(files.count()).ok()),
        n_goroutines: fs::read_dir("/proc/self/task")
            .ok()
            .and_then(|tasks| i64::try_from(tasks.count()).ok()),
        n_events_listener: Some(0),
        system_time: Some(now()),
        cgroup_driver: Some(SystemInfoCgroupDriverEnum::CGROUPFS),
        cgroup_version: Some(if cgroups.unified {
            SystemInfoCgroupVersionEnum::_2
        } else {
            SystemInfoCgroupVersionEnum::_1
        }),
        kernel_version: Some(kernel()),
        operating_system: Some(os_release("PRETTY_NAME").unwrap_or_else(|| "Linux".to_owned())),
        os_version: os_release("VERSION_ID"),
        os_type: Some("linux".to_owned()),
        architecture: Some(rustix::system::uname().machine().to_string_lossy().into_owned()),
        ncpu: std::thread::available_parallelism().ok().and_then(|count| i64::try_from(count.get()).ok()),
        mem_total: Some(signed(machine_memory_bytes())),
        index_server_address: Some("https://index.docker.io/v1/".to_owned()),
        http_proxy: Some(variable("HTTP_PROXY")),
        https_proxy: Some(variable("HTTPS_PROXY")),
        no_proxy: Some(variable("NO_PROXY")),
        name: Some(host_name()),
        experimental_build: Some(false),
        server_version: Some(VERSION.to_owned()),
        runtimes: Some(HashMap::from(RUNTIMES.map(|name| {
            (name.to_owned(), Runtime { path: Some("knarr".to_owned()), ..Runtime::default() })
        }))),
        default_runtime: Some(DEFAULT_RUNTIME.to_owned()),
        swarm: Some(SwarmInfo {
            node_id: Some(String::new()),
            node_addr: Some(String::new()),
            local_node_state: Some(LocalNodeState::INACTIVE),
            control_available: Some(false),
            error: Some(String::new()),
            remote_managers: Some(Vec::new()),
            ..SwarmInfo::default()
        }),
        live_restore_enabled: yes,
        init_binary: Some("knarr".to_owned()),
        containerd_commit: Some(Commit { id: Some(String::new()) }),
        runc_commit: Some(Commit { id: Some(String::new()) }),
        init_commit: Some(Commit { id: Some(String::new()) }),
        security_options: Some(security_options()),
        firewall_backend: Some(FirewallInfo { driver: Some("nftables".to_owned()), info: None }),
        warnings: Some(warnings(&cgroups)),
        cdi_spec_dirs: Some(Vec::new()),
        generic_resources: Some(Vec::new()),
        isolation: Some(SystemInfoIsolationEnum::EMPTY),
        ..SystemInfo::default()
    }
}

/// Controllers of cgroups that can be used.
struct Cgroups {
    unified: bool,
    controllers: Vec<String>,
}

impl Cgroups {
    fn find() -> Self {
        if let Ok(text) = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers") {
            let controllers = text.split_ascii_whitespace().map(str::to_owned).collect();
            return Self { unified: true, controllers };
        }
        // `name hierarchy count enabled`
        let text = fs::read_to_string("/proc/cgroups").unwrap_or_default();
        let enabled = text.lines().filter(|line| !line.starts_with('#') && line.ends_with('1'));
        let controllers = enabled.filter_map(|line| line.split_ascii_whitespace().next()).map(str::to_owned);
        Self { unified: false, controllers: controllers.collect() }
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| known == controller)
    }
}

fn warnings(cgroups: &Cgroups) -> Vec<String> {
    let mut all = Vec::new();
    for (controller, what) in
        [("memory", "memory"), ("cpu", "cpu shares"), ("cpuset", "cpuset"), ("pids", "pids")]
    {
        if !cgroups.has(controller) {
            all.push(format!("WARNING: No {what} limit support"));
        }
    }
    if !is_set("/proc/sys/net/ipv4/ip_forward") {
        all.push("WARNING: IPv4 forwarding is disabled".to_owned());
    }
    all
}

fn security_options() -> Vec<String> {
    let mut all = Vec::new();
    if Path::new("/proc/sys/kernel/seccomp/actions_avail").exists() {
        all.push("name=seccomp,profile=builtin".to_owned());
    }
    if Path::new("/proc/self/ns/cgroup").exists() {
        all.push("name=cgroupns".to_owned());
    }
    if knarr_linux::namespace::in_user_namespace() {
        all.push("name=rootless".to_owned());
    }
    all
}

fn is_set(path: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}

/// A value of `/etc/os-release`.
fn os_release(key: &str) -> Option<String> {
    let text =
        fs::read_to_string("/etc/os-release").or_else(|_| fs::read_to_string("/usr/lib/os-release")).ok()?;
    release_value(&text, key)
}

fn release_value(text: &str, key: &str) -> Option<String> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    let value = pairs.into_iter().find(|(known, _)| *known == key)?.1;
    Some(value.trim().trim_matches(['"', '\'']).to_owned())
}

fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Go's name of this machine's architecture.
fn architecture() -> String {
    Architecture::native().oci().0.to_owned()
}

/// A setting of proxies, without what is secret in it.
fn variable(name: &str) -> String {
    let value = std::env::var(name).or_else(|_| std::env::var(name.to_ascii_lowercase())).unwrap_or_default();
    match (value.split_once("://"), value.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://xxxxx:xxxxx@{host}"),
        _ => value,
    }
}

/// The kind of file system that a directory is on, in docker's words.
fn file_system(path: &Path) -> String {
    let Ok(stat) = rustix::fs::statfs(path) else { return "unknown".to_owned() };
    let name = match stat.f_type as u32 {
        0xef53 => "extfs",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlayfs",
        0x2fc1_2fc1 => "zfs",
        0x6969 => "nfs",
        _ => "unknown",
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{of_machine, release_value};

    #[test]
    fn the_name_of_a_system_stands_in_quotes_or_not() {
        let text = "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nVERSION_ID='13'\n";
        assert_eq!(release_value(text, "PRETTY_NAME").as_deref(), Some("Debian GNU/Linux 13 (trixie)"));
        assert_eq!(release_value(text, "VERSION_ID").as_deref(), Some("13"));
        assert_eq!(release_value(text, "NAME"), None);
    }

    #[test]
    fn a_machine_has_processors_memory_and_a_kernel() {
        let info = of_machine(Path::new("/"));
        assert!(info.ncpu.unwrap() > 0 && info.mem_total.unwrap() > 0);
        assert!(!info.kernel_version.unwrap().is_empty() && !info.architecture.unwrap().is_empty());
    }
}
