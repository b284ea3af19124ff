//! Making a container: the request is checked and written down; nothing runs.
//!
//! [`Engine::create_container`] is the whole of it: the image's configuration and the request become a
//! [`Record`], with what is not said filled in.
//!
//! Spec: Docker Engine API, "Create a container".

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use bollard_stubs::models::{
    ContainerConfig, ContainerCreateBody, ContainerCreateResponse, ContainerUpdateBody, EndpointSettings,
    HealthConfig, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, NetworkingConfig,
    RestartPolicyNameEnum,
};
use knarr_oci::{Platform, RunConfig};
use knarr_store::Image;

use super::mounts::clean;
use super::record::{Attachment, FORMAT, Record};
use super::{Container, blocking, names, spec};
use crate::engine::{new_id, now};
use crate::meters::Action;
use crate::volumes::is_name;
use crate::{Engine, EngineError};

const MIN_MEMORY_BYTES: i64 = 6 << 20;
const LOG_DRIVERS: [&str; 5] = ["json-file", "local", "journald", "none", ""];

impl Engine {
    /// `POST /containers/create`. `platform` is `os/arch`.
    ///
    /// # Errors
    /// The image is not there, the name is taken, or something of the request is wrong.
    pub async fn create_container(
        &self,
        name: Option<&str>,
        platform: Option<&str>,
        body: ContainerCreateBody,
    ) -> Result<ContainerCreateResponse, EngineError> {
        let _timed = self.shared().meters.time(Action::Create);
        let id = new_id()?;
        let name = self.reserve_name(name, &id)?;
        let made = self.make_container(&id, &name, platform, body).await;
        if made.is_err() {
            self.shared().containers.release(&name);
            if let Err(error) = self.release_image(&id) {
                tracing::warn!(container = id, error = error.message(), "an image is held for nobody");
            }
            let directory = self.container_dir(&id);
            if directory.exists() {
                self.sweep(directory);
            }
        }
        made
    }

    fn reserve_name(&self, name: Option<&str>, id: &str) -> Result<String, EngineError> {
        let containers = &self.shared().containers;
        let Some(name) = name.map(|name| name.trim_start_matches('/')).filter(|name| !name.is_empty()) else {
            for _ in 0..20 {
                let name = names::random()?;
                if containers.reserve(&name, id).is_ok() {
                    return Ok(name);
                }
            }
            let name = id[..12].to_owned();
            containers.reserve(&name, id)?;
            return Ok(name);
        };
        check_name(name)?;
        containers.reserve(name, id)?;
        Ok(name.to_owned())
    }

    async fn make_container(
        &self,
        id: &str,
        name: &str,
        platform: Option<&str>,
        body: ContainerCreateBody,
    ) -> Result<ContainerCreateResponse, EngineError> {
        let asked = body.image.clone().unwrap_or_default();
        let (digest, image) = self.image_for(&asked, platform).await?;
        let image_config = image.config.config.clone();
        let mut host = body.host_config.clone().unwrap_or_default();
        let mut warnings = Vec::new();
        self.fill_host(&mut host)?;
        check_host(&mut host, &mut warnings)?;
        let mut config = merge(&body, &image_config)?;
        check_config(&config, &host)?;
        config.working_dir =
            config.working_dir.as_deref().filter(|path| !path.is_empty()).map(clean).transpose()?;
        let image_volumes: Vec<String> = image_config.volumes.keys().cloned().collect();
        let networks = self.resolve_networks(&mut host, body.networking_config.clone(), &config)?;
        self.name_host(&mut config, &host);
        let store = self.shared().store.clone();
        let layers = blocking(move || Ok(knarr_store::layers::for_overlay(&store, &image, false)?)).await?;
        let mut record = Record {
            format: FORMAT,
            id: id.to_owned(),
            name: name.to_owned(),
            created: now(),
            image: digest,
            config,
            host,
            networks,
            layers,
            ..Record::default()
        };
        spec::capabilities(&record)?;
        self.check_links(&record)?;
        record.mounts = self.resolve_mounts(&body, &record.host, &image_volumes).await?;
        let made = match self.fill_volumes(&record).await {
            Ok(()) => self.keep(record.clone()).await,
            Err(error) => Err(error),
        };
        if made.is_err() {
            self.remove_anonymous_volumes(&record).await;
        }
        made?;
        Ok(ContainerCreateResponse { id: id.to_owned(), warnings })
    }

    /// Who shares another one's network is called as it is.
    fn name_host(&self, config: &mut ContainerConfig, host: &HostConfig) {
        let mode = host.network_mode.as_deref().unwrap_or_default();
        let other = mode.strip_prefix("container:").and_then(|id| self.shared().containers.find(id).ok());
        let shared = match other {
            Some(other) => Some(other.record().hostname()),
            None if mode == "host" => Some(crate::system::host_name()),
            None => None,
        };
        if let Some(shared) = shared
            && config.hostname.as_ref().is_none_or(String::is_empty)
        {
            config.hostname = Some(shared);
        }
    }

    /// Writes a container down, and knows it from now on.
    async fn keep(&self, record: Record) -> Result<(), EngineError> {
        let directory = self.container_dir(&record.id);
        let engine = self.clone();
        let kept = record.clone();
        blocking(move || {
            for part in ["", "upper", "work", "rootfs"] {
                let path = directory.join(part);
                fs::create_dir_all(&path).map_err(EngineError::file("make", &path))?;
            }
            engine.hold_image(&kept)?;
            // One that removes itself has nothing to survive a power cut for.
            kept.save(&directory, kept.host.auto_remove != Some(true))
        })
        .await?;
        let container = Arc::new(Container::new(record));
        self.shared().containers.insert(container.clone());
        self.shared().events.container("create", &container.record(), &[]);
        Ok(())
    }

    /// The image that a name leads to, for a platform: its digest, and what it says.
    async fn image_for(&self, asked: &str, platform: Option<&str>) -> Result<(String, Image), EngineError> {
        if asked.is_empty() {
            return Err(EngineError::invalid("Config.Image must not be empty: name an image"));
        }
        let platform = platform_of(platform)?;
        let (store, name) = (self.shared().store.clone(), asked.to_owned());
        blocking(move || {
            let found = store.find(&name).map_err(|error| no_image(&name, error))?;
            let image = store.image(&found.descriptor, &platform)?;
            Ok((found.descriptor.digest.to_string(), image))
        })
        .await
    }

    fn fill_host(&self, host: &mut HostConfig) -> Result<(), EngineError> {
        let options = &self.shared().options;
        let given = host.log_config.clone().unwrap_or_default();
        let driver = given.typ.clone().filter(|driver| !driver.is_empty());
        if let Some(unknown) = driver.as_deref().filter(|driver| !LOG_DRIVERS.contains(driver)) {
            return Err(EngineError::invalid(format!(
                "logger: no log driver named '{unknown}' is registered"
            )));
        }
        let usual = || options.log_options.clone().into_iter().collect();
        host.log_config = Some(HostConfigLogConfig {
            config: Some(match (&driver, given.config) {
                (None, None) => usual(),
                (_, config) => config.unwrap_or_default(),
            }),
            typ: Some(driver.unwrap_or_else(|| options.log_driver.clone())),
        });
        host.shm_size.get_or_insert(64 << 20);
        host.pids_limit = host.pids_limit.filter(|limit| *limit > 0);
        if host.cgroupns_mode.is_none_or(|mode| mode == HostConfigCgroupnsModeEnum::EMPTY) {
            host.cgroupns_mode = Some(HostConfigCgroupnsModeEnum::PRIVATE);
        }
        host.ipc_mode.get_or_insert_with(|| "private".to_owned());
        if host.network_mode.as_deref().is_none_or(|mode| matches!(mode, "" | "default")) {
            host.network_mode = Some("bridge".to_owned());
        }
        Ok(())
    }

    /// A container that another one is to join. 404 would have clients fetch the image.
    pub(super) fn joinable(&self, name: &str) -> Result<Arc<Container>, EngineError> {
        self.shared().containers.find(name).map_err(|error| EngineError::invalid(error.message()))
    }

    /// Networks by name. A name that leads nowhere may lead somewhere at the start.
    fn resolve_networks(
        &self,
        host: &mut HostConfig,
        given: Option<NetworkingConfig>,
        config: &ContainerConfig,
    ) -> Result<BTreeMap<String, Attachment>, EngineError> {
        let mode = host.network_mode.clone().unwrap_or_default();
        for mode in [&mut host.pid_mode, &mut host.ipc_mode].into_iter().flatten() {
            if let Some(other) = mode.strip_prefix("container:") {
                *mode = format!("container:{}", self.joinable(other)?.id);
            }
        }
        if let Some(other) = mode.strip_prefix("container:") {
            let other = self.joinable(other)?;
            check_joined(host, config)?;
            host.network_mode = Some(format!("container:{}", other.id));
            return Ok(BTreeMap::new());
        }
        let mut asked: BTreeMap<String, EndpointSettings> =
            given.and_then(|given| given.endpoints_config).unwrap_or_default().into_iter().collect();
        let mut networks = BTreeMap::new();
        let mut add = |name: &str, asked: EndpointSettings| -> Result<(), EngineError> {
            let (name, place) = self.place_in(name, asked)?;
            networks.insert(name, place);
            Ok(())
        };
        // `default` in the request's networks means the mode's.
        let of_mode = asked.remove(&mode).or_else(|| asked.remove("default"));
        add(&mode, of_mode.unwrap_or_default())?;
        for (name, settings) in asked {
            add(&name, settings)?;
        }
        Ok(networks)
    }
}

fn no_image(name: &str, error: knarr_store::StoreError) -> EngineError {
    match error {
        knarr_store::StoreError::NoImage { .. } => {
            let full = knarr_oci::Reference::parse(name).map_or_else(
                |_| name.to_owned(),
                |reference| knarr_store::store::familiar(&reference.to_string()),
            );
            EngineError::not_found(format!("No such image: {full}"))
        }
        other => other.into(),
    }
}

/// `linux/arm64/v8`; this machine's without one.
pub(crate) fn platform_of(text: Option<&str>) -> Result<Platform, EngineError> {
    let native = Platform::of(knarr_base::Architecture::native());
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(native) };
    let parts: Vec<&str> = text.split('/').collect();
    let platform = |os: &str, architecture: &str, variant: Option<&str>| Platform {
        os: os.to_owned(),
        architecture: architecture.to_owned(),
        variant: variant.map(str::to_owned),
        os_version: None,
    };
    match parts[..] {
        ["linux"] => Ok(native),
        [os, architecture] => Ok(platform(os, architecture, None)),
        [os, architecture, variant] => Ok(platform(os, architecture, Some(variant))),
        _ => Err(EngineError::invalid(format!(
            "\"{text}\": unknown operating system or architecture: invalid argument"
        ))),
    }
}

pub(super) fn check_name(name: &str) -> Result<(), EngineError> {
    if is_name(name) {
        return Ok(());
    }
    Err(EngineError::invalid(format!(
        "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    )))
}

/// A container in another one's network has none of its own to speak of.
fn check_joined(host: &HostConfig, config: &ContainerConfig) -> Result<(), EngineError> {
    let conflict = |what: &str| {
        Err(EngineError::invalid(format!("conflicting options: {what} and the container type network mode")))
    };
    let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    if config.hostname.as_ref().is_some_and(|name| !name.is_empty()) {
        return conflict("hostname");
    }
    if some(&host.links) {
        return conflict("links");
    }
    if some(&host.dns) {
        return conflict("dns");
    }
    if some(&host.extra_hosts) {
        return conflict("custom host-to-IP mapping");
    }
    if host.port_bindings.as_ref().is_some_and(|ports| !ports.is_empty())
        || host.publish_all_ports == Some(true)
    {
        return conflict("port publishing");
    }
    if some(&config.exposed_ports) {
        return conflict("port exposing");
    }
    Ok(())
}

/// The request over the image.
fn merge(body: &ContainerCreateBody, image: &RunConfig) -> Result<ContainerConfig, EngineError> {
    let list = |list: &Option<Vec<String>>| list.clone().filter(|list| !list.is_empty());
    let text = |own: &Option<String>, image: &str| {
        own.clone().filter(|own| !own.is_empty()).unwrap_or_else(|| image.to_owned())
    };
    let (mut entrypoint, mut cmd) = (list(&body.entrypoint), list(&body.cmd));
    if entrypoint.is_none() {
        if cmd.is_none() {
            cmd = Some(image.cmd.clone()).filter(|cmd| !cmd.is_empty());
        }
        entrypoint = Some(image.entrypoint.clone()).filter(|entrypoint| !entrypoint.is_empty());
    }
    // One empty word takes the image's away.
    let entrypoint = entrypoint.filter(|words| words.as_slice() != [""]);
    if entrypoint.is_none() && cmd.is_none() {
        return Err(EngineError::invalid("no command specified"));
    }
    let mut env = image.env.clone();
    for entry in body.env.iter().flatten() {
        let name = entry.split('=').next().unwrap_or_default();
        env.retain(|old| old.split('=').next() != Some(name));
        env.push(entry.clone());
    }
    let mut labels: std::collections::HashMap<String, String> = image.labels.clone().into_iter().collect();
    labels.extend(body.labels.clone().unwrap_or_default());
    let mut ports: Vec<String> =
        image.exposed_ports.keys().cloned().chain(body.exposed_ports.iter().flatten().cloned()).collect();
    for bound in
        body.host_config.iter().filter_map(|host| host.port_bindings.as_ref()).flat_map(|ports| ports.keys())
    {
        ports.push(bound.clone());
    }
    let mut ports: Vec<String> =
        ports.into_iter().map(|port| if port.contains('/') { port } else { format!("{port}/tcp") }).collect();
    ports.sort();
    ports.dedup();
    let mut volumes: Vec<String> =
        image.volumes.keys().cloned().chain(body.volumes.iter().flatten().cloned()).collect();
    volumes.sort();
    volumes.dedup();
    Ok(ContainerConfig {
        hostname: body.hostname.clone().filter(|name| !name.is_empty()),
        domainname: body.domainname.clone(),
        user: Some(text(&body.user, &image.user)),
        attach_stdin: body.attach_stdin,
        attach_stdout: body.attach_stdout,
        attach_stderr: body.attach_stderr,
        exposed_ports: (!ports.is_empty()).then_some(ports),
        tty: body.tty,
        open_stdin: body.open_stdin,
        stdin_once: body.stdin_once,
        env: Some(env),
        cmd,
        healthcheck: health(body.healthcheck.clone(), image),
        args_escaped: None,
        image: body.image.clone(),
        volumes: (!volumes.is_empty()).then_some(volumes),
        working_dir: Some(text(&body.working_dir, &image.working_dir)),
        entrypoint,
        network_disabled: body.network_disabled,
        on_build: None,
        labels: Some(labels),
        stop_signal: Some(text(&body.stop_signal, &image.stop_signal)).filter(|signal| !signal.is_empty()),
        stop_timeout: body.stop_timeout,
        shell: list(&body.shell).or_else(|| Some(image.shell.clone()).filter(|shell| !shell.is_empty())),
    })
}

fn health(own: Option<HealthConfig>, image: &RunConfig) -> Option<HealthConfig> {
    let of_image = image.healthcheck.clone().map(|health| HealthConfig {
        test: Some(health.test),
        interval: Some(health.interval),
        timeout: Some(health.timeout),
        retries: Some(health.retries),
        start_period: Some(health.start_period),
        start_interval: Some(health.start_interval),
    });
    let (Some(own), Some(usual)) = (own.clone(), of_image.clone()) else { return own.or(of_image) };
    let or = |own: Option<i64>, usual: Option<i64>| own.filter(|own| *own != 0).or(usual);
    Some(HealthConfig {
        test: own.test.filter(|test| !test.is_empty()).or(usual.test),
        interval: or(own.interval, usual.interval),
        timeout: or(own.timeout, usual.timeout),
        retries: or(own.retries, usual.retries),
        start_period: or(own.start_period, usual.start_period),
        start_interval: or(own.start_interval, usual.start_interval),
    })
}

fn check_config(config: &ContainerConfig, host: &HostConfig) -> Result<(), EngineError> {
    let directory = config.working_dir.as_deref().unwrap_or_default();
    if !directory.is_empty() && !directory.starts_with('/') {
        return Err(EngineError::invalid(format!(
            "the working directory '{directory}' is invalid, it needs to be an absolute path"
        )));
    }
    if let Some(bad) = config.env.iter().flatten().find(|entry| entry.is_empty() || entry.starts_with('=')) {
        return Err(EngineError::invalid(format!("invalid environment variable: {bad}")));
    }
    if let Some(signal) = &config.stop_signal {
        super::stop::parse_signal(signal)?;
    }
    if let Some(check) = &config.healthcheck {
        let short = |nanos: Option<i64>| nanos.is_some_and(|nanos| nanos != 0 && nanos < 1_000_000);
        for (name, nanos) in [
            ("Interval", check.interval),
            ("Timeout", check.timeout),
            ("StartPeriod", check.start_period),
            ("StartInterval", check.start_interval),
        ] {
            if short(nanos) {
                return Err(EngineError::invalid(format!("{name} in Healthcheck cannot be less than 1ms")));
            }
        }
        if check.retries.is_some_and(|retries| retries < 0) {
            return Err(EngineError::invalid("Retries in Healthcheck cannot be negative"));
        }
    }
    if config.hostname.as_ref().is_some_and(|name| !name.is_empty())
        && host.uts_mode.as_deref() == Some("host")
    {
        return Err(EngineError::invalid("conflicting options: hostname and the UTS mode"));
    }
    let ports = config.exposed_ports.iter().flatten();
    for port in ports {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        if number.parse::<u16>().is_err() || !matches!(protocol, "tcp" | "udp" | "sctp") {
            return Err(EngineError::invalid(format!("invalid port specification: \"{port}\"")));
        }
    }
    Ok(())
}

fn check_host(host: &mut HostConfig, warnings: &mut Vec<String>) -> Result<(), EngineError> {
    let invalid = |text: &str| Err(EngineError::invalid(text));
    let memory = host.memory.unwrap_or_default();
    let swap = host.memory_swap.unwrap_or_default();
    if memory != 0 && memory < MIN_MEMORY_BYTES {
        return invalid("Minimum memory limit allowed is 6MB");
    }
    if swap > 0 && memory > swap {
        return invalid("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if memory == 0 && swap > 0 {
        return invalid("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    if host.memory_reservation.is_some_and(|reservation| memory > 0 && reservation > memory) {
        return invalid("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
    if host.memory_swappiness.is_some_and(|swappiness| !(-1..=100).contains(&swappiness)) {
        let text = format!(
            "Invalid value: {}, valid memory swappiness range is 0-100",
            host.memory_swappiness.unwrap_or_default()
        );
        return invalid(&text);
    }
    let nano = host.nano_cpus.unwrap_or_default();
    if nano > 0 && host.cpu_period.unwrap_or_default() > 0 {
        return invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set");
    }
    if nano > 0 && host.cpu_quota.unwrap_or_default() > 0 {
        return invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    if nano < 0 || nano > i64::try_from(cpus).unwrap_or(1) * 1_000_000_000 {
        return invalid(&format!(
            "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        ));
    }
    if host.cpu_period.is_some_and(|period| period != 0 && !(1_000..=1_000_000).contains(&period)) {
        return invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if host.cpu_quota.is_some_and(|quota| quota > 0 && quota < 1_000) {
        return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    if host.blkio_weight.is_some_and(|weight| weight > 0 && !(10..=1_000).contains(&weight)) {
        return invalid("Range of blkio weight is from 10 to 1000");
    }
    if host.oom_score_adj.is_some_and(|score| !(-1_000..=1_000).contains(&score)) {
        return invalid("Invalid value for OomScoreAdj: the range is -1000 to 1000");
    }
    if host.shm_size.is_some_and(|size| size < 0) {
        return invalid("SHM size can not be less than 0");
    }
    if let Some(cpus) = host.cpuset_cpus.as_deref().filter(|text| !text.is_empty()) {
        check_cpuset(cpus)?;
    }
    check_restart(host)?;
    check_ports(host)?;
    if host.annotations.as_ref().is_some_and(|annotations| annotations.contains_key("")) {
        return invalid("invalid Annotations: the empty string is not permitted as an annotation key");
    }
    for limit in host.ulimits.iter().flatten() {
        let name = limit.name.clone().unwrap_or_default();
        let known = format!("RLIMIT_{}", name.to_ascii_uppercase());
        if knarr_linux::process::limit_number(&known).is_none() {
            return invalid(&format!("invalid ulimit type: {name}"));
        }
        if limit.soft > limit.hard && limit.hard != Some(-1) {
            return invalid(&format!(
                "ulimit soft limit must be less than or equal to hard limit: {:?} > {:?}",
                limit.soft.unwrap_or_default(),
                limit.hard.unwrap_or_default()
            ));
        }
    }
    let host_network = host.network_mode.as_deref() == Some("host");
    for key in host.sysctls.iter().flatten().map(|(key, _)| key) {
        if key.starts_with("net.") && host_network {
            return invalid(&format!("sysctl '{key}' not allowed in host network namespace"));
        }
    }
    for option in host.security_opt.iter().flatten() {
        let name = option.split(['=', ':']).next().unwrap_or_default();
        match name {
            "seccomp" | "no-new-privileges" | "systempaths" | "label" => {}
            "apparmor" => warnings.push("this kernel has no AppArmor: the profile is not used".to_owned()),
            _ => return invalid(&format!("invalid --security-opt: \"{option}\"")),
        }
    }
    for entry in host.extra_hosts.iter().flatten() {
        if !entry.contains([':', '=']) {
            return invalid(&format!("bad format for add-host: \"{entry}\""));
        }
    }
    if let Some(wanted) = host.device_requests.iter().flatten().next() {
        let driver = wanted.driver.clone().unwrap_or_default();
        let capabilities = wanted.capabilities.clone().unwrap_or_default();
        return invalid(&format!(
            "could not select device driver \"{driver}\" with capabilities: {capabilities:?}"
        ));
    }
    let is_known = |name: &str| name.is_empty() || crate::system::RUNTIMES.contains(&name);
    if host.runtime.as_deref().is_some_and(|name| !is_known(name)) {
        return invalid(&format!(
            "unknown or invalid runtime name: {}",
            host.runtime.clone().unwrap_or_default()
        ));
    }
    if host_network && host.port_bindings.as_ref().is_some_and(|ports| !ports.is_empty()) {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    Ok(())
}

/// Ports are numbers, and where they are published numbers or ranges of them.
fn check_ports(host: &HostConfig) -> Result<(), EngineError> {
    let number = |text: &str| text.parse::<u16>().is_ok();
    let range = |text: &str| match text.split_once('-') {
        Some((first, last)) => number(first) && number(last),
        None => text.is_empty() || number(text),
    };
    let bad = |text: &str| EngineError::invalid(format!("invalid port specification: \"{text}\""));
    for (port, bound) in host.port_bindings.iter().flatten() {
        let inside = port.split('/').next().unwrap_or_default();
        if !number(inside) || inside.parse() == Ok(0_u16) {
            return Err(bad(port));
        }
        for place in bound.iter().flatten().filter_map(|binding| binding.host_port.as_deref()) {
            if !range(place) {
                return Err(bad(place));
            }
        }
    }
    Ok(())
}

fn check_cpuset(text: &str) -> Result<(), EngineError> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let bad = || EngineError::invalid(format!("Invalid value {text} for cpuset cpus"));
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) =
            (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
        if first > last {
            return Err(bad());
        }
        if last >= cpus {
            return Err(EngineError::invalid(format!(
                "Requested CPUs are not available - requested {text}, available: 0-{}",
                cpus - 1
            )));
        }
    }
    Ok(())
}

fn check_restart(host: &HostConfig) -> Result<(), EngineError> {
    let policy = host.restart_policy.clone().unwrap_or_default();
    let tries = policy.maximum_retry_count.unwrap_or_default();
    let name = policy.name.map(|name| name.to_string()).unwrap_or_default();
    let restarts = !matches!(name.as_str(), "" | "no");
    if tries < 0 {
        return Err(EngineError::invalid("invalid restart policy: maximum retry count cannot be negative"));
    }
    if tries > 0 && policy.name != Some(RestartPolicyNameEnum::ON_FAILURE) {
        let hint = if restarts { "" } else { ", but no restart policy" };
        return Err(EngineError::invalid(format!(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'{hint}"
        )));
    }
    if restarts && host.auto_remove == Some(true) {
        return Err(EngineError::invalid("can't create 'AutoRemove' container with restart policy"));
    }
    Ok(())
}

/// Reads and checks the body of a request as far as no engine is needed. For fuzzing.
///
/// # Errors
/// Something of it is wrong.
#[doc(hidden)]
pub fn try_request(bytes: &[u8]) -> Result<Record, EngineError> {
    let body: ContainerCreateBody =
        serde_json::from_slice(bytes).map_err(|error| EngineError::invalid(error.to_string()))?;
    let mut host = body.host_config.clone().unwrap_or_default();
    check_host(&mut host, &mut Vec::new())?;
    let config = merge(&body, &RunConfig::default())?;
    check_config(&config, &host)?;
    let record = Record { id: "0".repeat(64), config, host, ..Record::default() };
    spec::capabilities(&record)?;
    spec::resources(&record)?;
    super::start::ports_of(&record)?;
    Ok(record)
}

/// What `update` changes: what it names stays no longer as it was.
pub(super) fn update(record: &mut Record, body: ContainerUpdateBody) -> Result<Vec<String>, EngineError> {
    let host = &mut record.host;
    macro_rules! take {
        ($($field:ident),*) => {$(
            // What is not said comes as nothing, 0 or an empty text.
            let said = body.$field;
            if said.is_some() && said != Some(Default::default()) {
                host.$field = said;
            }
        )*};
    }
    let policy = body.restart_policy.clone();
    if let Some(memory) = body.memory.filter(|memory| *memory > 0)
        && body.memory_swap.unwrap_or_default() == 0
        && host.memory_swap.is_some_and(|swap| swap > 0 && memory > swap)
    {
        return Err(EngineError::invalid(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        ));
    }
    take!(
        cpu_shares,
        memory,
        blkio_weight,
        cpu_period,
        cpu_quota,
        cpu_realtime_period,
        cpu_realtime_runtime,
        cpuset_cpus,
        cpuset_mems,
        memory_reservation,
        memory_swap,
        nano_cpus,
        pids_limit
    );
    if let Some(policy) = policy.filter(|policy| policy.name.is_some_and(|name| !name.to_string().is_empty()))
    {
        if host.auto_remove == Some(true) && policy.name != Some(RestartPolicyNameEnum::NO) {
            return Err(EngineError::invalid(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            ));
        }
        host.restart_policy = Some(policy);
    }
    let mut warnings = Vec::new();
    check_host(host, &mut warnings)?;
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use bollard_stubs::models::{HostConfig, PortBinding};

    use super::check_host;

    fn said(port: &str, place: &str) -> String {
        let binding = PortBinding { host_ip: None, host_port: Some(place.to_owned()) };
        let ports = [(port.to_owned(), Some(vec![binding]))];
        let mut host = HostConfig { port_bindings: Some(ports.into()), ..HostConfig::default() };
        check_host(&mut host, &mut Vec::new()).err().map(|error| error.message()).unwrap_or_default()
    }

    #[test]
    fn ports_are_numbers_or_ranges() {
        for (port, place) in [("80/tcp", ""), ("80", "8080"), ("53/udp", "8000-8010")] {
            assert_eq!(said(port, place), "");
        }
        assert_eq!(said("80/tcp", "x"), "invalid port specification: \"x\"");
        assert_eq!(said("0/tcp", "80"), "invalid port specification: \"0/tcp\"");
        assert_eq!(said("80/tcp", "8000-"), "invalid port specification: \"8000-\"");
    }
}
