//! What `knarr run` and `knarr create` take: docker's flags become the body of a request.
//!
//! [`CreateArgs::body`] is pure but for files that flags name.
//!
//! Spec: docker run's flags; Docker Engine API, "Create a container".

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};

/// Flags of a container that is made.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct CreateArgs {
    /// The container's name
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Give the program a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Keep its input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Remove the container when it ends
    #[arg(long)]
    pub(crate) rm: bool,
    /// Set a variable: NAME=VALUE, or NAME as it is here (may be given again)
    #[arg(short, long, value_name = "VARIABLE")]
    env: Vec<String>,
    /// Set variables from a file (may be given again)
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Publish a port: [[ADDRESS:]PORT:]PORT[/PROTOCOL] (may be given again)
    #[arg(short, long, value_name = "PORT")]
    publish: Vec<String>,
    /// Publish all exposed ports
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Expose a port (may be given again)
    #[arg(long, value_name = "PORT")]
    expose: Vec<String>,
    /// Mount a volume or a path of the host: [SOURCE:]TARGET[:OPTIONS] (may be given again)
    #[arg(short, long, value_name = "VOLUME")]
    volume: Vec<String>,
    /// Mount: type=bind|volume|tmpfs|image,src=…,dst=…[,OPTION…] (may be given again)
    #[arg(long, value_name = "MOUNT")]
    mount: Vec<String>,
    /// Mount a file system in memory: TARGET[:OPTIONS] (may be given again)
    #[arg(long, value_name = "TARGET")]
    tmpfs: Vec<String>,
    /// Mount what another container has (may be given again)
    #[arg(long, value_name = "CONTAINER")]
    volumes_from: Vec<String>,
    /// Be in this network: a name, bridge, host, none or container:NAME (may be given again)
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    network: Vec<String>,
    /// Another name in the network (may be given again)
    #[arg(long, visible_alias = "net-alias", value_name = "NAME")]
    network_alias: Vec<String>,
    /// A fixed IPv4 address
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// A fixed IPv6 address
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<String>,
    /// A fixed MAC address
    #[arg(long, value_name = "ADDRESS")]
    mac_address: Option<String>,
    /// Know another container by a name: CONTAINER[:NAME] (may be given again)
    #[arg(long, value_name = "CONTAINER")]
    link: Vec<String>,
    /// Add a host: NAME:ADDRESS (may be given again)
    #[arg(long, value_name = "HOST")]
    add_host: Vec<String>,
    /// Ask this name server (may be given again)
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// Search names below this domain (may be given again)
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// An option of the resolver (may be given again)
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION")]
    dns_option: Vec<String>,
    /// Its host name
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Its domain name
    #[arg(long, value_name = "NAME")]
    domainname: Option<String>,
    /// Run as USER[:GROUP]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Be in a further group (may be given again)
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Start in this directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Run this instead of the image's entrypoint; an empty one for none
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Label it: KEY=VALUE (may be given again)
    #[arg(short, long, value_name = "LABEL")]
    label: Vec<String>,
    /// Label it from a file (may be given again)
    #[arg(long, value_name = "FILE")]
    label_file: Vec<PathBuf>,
    /// Annotate it: KEY=VALUE (may be given again)
    #[arg(long, value_name = "ANNOTATION")]
    annotation: Vec<String>,
    /// Start it again: no, always, unless-stopped or on-failure[:TRIES]
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// At most so much memory: 512m, 2g
    #[arg(short, long, value_name = "SIZE")]
    memory: Option<String>,
    /// Memory that is left to it when memory is short
    #[arg(long, value_name = "SIZE")]
    memory_reservation: Option<String>,
    /// Memory and swap together; -1 for any
    #[arg(long, value_name = "SIZE")]
    memory_swap: Option<String>,
    /// How readily it is swapped out: 0 to 100
    #[arg(long, value_name = "NUMBER")]
    memory_swappiness: Option<i64>,
    /// So many processors: 1.5
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<f64>,
    /// Its weight beside others
    #[arg(short, long, value_name = "NUMBER")]
    cpu_shares: Option<i64>,
    /// Microseconds of a period
    #[arg(long, value_name = "NUMBER")]
    cpu_period: Option<i64>,
    /// Microseconds in a period
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    cpu_quota: Option<i64>,
    /// On these processors: 0-2,4
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// With memory of these nodes
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// At most so many processes; -1 for any
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Its weight at the disk: 10 to 1000
    #[arg(long, value_name = "NUMBER")]
    blkio_weight: Option<u16>,
    /// Read at most so much a second: DEVICE:SIZE (may be given again)
    #[arg(long, value_name = "RATE")]
    device_read_bps: Vec<String>,
    /// Write at most so much a second: DEVICE:SIZE (may be given again)
    #[arg(long, value_name = "RATE")]
    device_write_bps: Vec<String>,
    /// How readily it is ended when memory is short: -1000 to 1000
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    oom_score_adj: Option<i64>,
    /// Never end it for want of memory
    #[arg(long)]
    oom_kill_disable: bool,
    /// A limit: NAME=SOFT[:HARD] (may be given again)
    #[arg(long, value_name = "LIMIT")]
    ulimit: Vec<String>,
    /// The size of /dev/shm
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<String>,
    /// A kernel parameter of its namespaces: KEY=VALUE (may be given again)
    #[arg(long, value_name = "PARAMETER")]
    sysctl: Vec<String>,
    /// Give it a device: PATH[:PATH[:rwm]] (may be given again)
    #[arg(long, value_name = "DEVICE")]
    device: Vec<String>,
    /// A rule of its devices: c 1:3 rwm (may be given again)
    #[arg(long, value_name = "RULE")]
    device_cgroup_rule: Vec<String>,
    /// Give it a capability (may be given again)
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Take a capability away (may be given again)
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// Let it do all that root may
    #[arg(long)]
    privileged: bool,
    /// no-new-privileges, seccomp=FILE|unconfined, systempaths=unconfined (may be given again)
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// Let it only read its root
    #[arg(long)]
    read_only: bool,
    /// Run an init in it that reaps what others leave
    #[arg(long)]
    init: bool,
    /// Its processes: host or container:NAME
    #[arg(long, value_name = "MODE")]
    pid: Option<String>,
    /// Its shared memory: private, none, host or container:NAME
    #[arg(long, value_name = "MODE")]
    ipc: Option<String>,
    /// Its host name: host
    #[arg(long, value_name = "MODE")]
    uts: Option<String>,
    /// Its users: host
    #[arg(long, value_name = "MODE")]
    userns: Option<String>,
    /// Its control groups: private or host
    #[arg(long, value_name = "MODE")]
    cgroupns: Option<String>,
    /// The control group above it
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
    /// Where its log goes: json-file, local, journald or none
    #[arg(long, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// An option of its log: KEY=VALUE (may be given again)
    #[arg(long, value_name = "OPTION")]
    log_opt: Vec<String>,
    /// The signal that asks it to end
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Seconds that it has to end
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    stop_timeout: Option<i64>,
    /// Ask for its health with this command
    #[arg(long, value_name = "COMMAND")]
    health_cmd: Option<String>,
    /// Between two questions
    #[arg(long, value_name = "TIME")]
    health_interval: Option<String>,
    /// For one answer
    #[arg(long, value_name = "TIME")]
    health_timeout: Option<String>,
    /// While failures do not count
    #[arg(long, value_name = "TIME")]
    health_start_period: Option<String>,
    /// Between two questions meanwhile
    #[arg(long, value_name = "TIME")]
    health_start_interval: Option<String>,
    /// So many failures make it unhealthy
    #[arg(long, value_name = "NUMBER")]
    health_retries: Option<i64>,
    /// Do not ask for its health
    #[arg(long)]
    no_healthcheck: bool,
    /// The runtime: knarr
    #[arg(long, value_name = "NAME")]
    runtime: Option<String>,
    /// Write the container's id into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<PathBuf>,
    /// Fetch the image: always, missing or never
    #[arg(long, value_name = "WHEN", default_value = "missing", value_parser = ["always", "missing", "never"])]
    pub(crate) pull: String,
    /// The image's platform: OS/ARCHITECTURE
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
    /// The image
    pub(crate) image: String,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// What of a container's streams a client wants when it makes it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attach {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

impl CreateArgs {
    /// The body of the request.
    pub(crate) fn body(&self, attach: Attach) -> anyhow::Result<Value> {
        let mut body = json!({
            "Image": self.image,
            "Tty": self.tty,
            "OpenStdin": self.interactive,
            "StdinOnce": self.interactive && attach.stdin,
            "AttachStdin": attach.stdin,
            "AttachStdout": attach.stdout,
            "AttachStderr": attach.stderr,
            "Env": self.variables()?,
            "Labels": self.labels()?,
            "HostConfig": self.host()?,
            "NetworkingConfig": { "EndpointsConfig": self.endpoints()? },
        });
        let mut set = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                body[key] = value;
            }
        };
        set("Cmd", (!self.command.is_empty()).then(|| json!(self.command)));
        set("Entrypoint", self.entrypoint.as_ref().map(|program| json!([program])));
        set("Hostname", self.hostname.as_ref().map(|name| json!(name)));
        set("Domainname", self.domainname.as_ref().map(|name| json!(name)));
        set("User", self.user.as_ref().map(|user| json!(user)));
        set("WorkingDir", self.workdir.as_ref().map(|path| json!(path)));
        set("StopSignal", self.stop_signal.as_ref().map(|signal| json!(signal)));
        set("StopTimeout", self.stop_timeout.map(|seconds| json!(seconds)));
        set("Healthcheck", self.health()?);
        let exposed = self.exposed()?;
        set("ExposedPorts", (!exposed.is_empty()).then(|| Value::Object(exposed)));
        let anonymous: Map<String, Value> = self
            .volume
            .iter()
            .filter(|text| !text.contains(':'))
            .map(|text| (text.clone(), json!({})))
            .collect();
        set("Volumes", (!anonymous.is_empty()).then_some(Value::Object(anonymous)));
        Ok(body)
    }

    fn variables(&self) -> anyhow::Result<Vec<String>> {
        let mut all = Vec::new();
        for path in &self.env_file {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            all.extend(variables_of(&text, path)?);
        }
        all.extend(self.env.iter().filter_map(|entry| variable(entry)));
        Ok(all)
    }

    fn labels(&self) -> anyhow::Result<Map<String, Value>> {
        let mut all = Map::new();
        let mut add = |text: &str| {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            all.insert(key.to_owned(), json!(value));
        };
        for path in &self.label_file {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).for_each(&mut add);
        }
        self.label.iter().for_each(|text| add(text));
        Ok(all)
    }

    fn exposed(&self) -> anyhow::Result<Map<String, Value>> {
        let mut all = Map::new();
        for text in &self.expose {
            for (port, protocol) in range(text)? {
                all.insert(format!("{port}/{protocol}"), json!({}));
            }
        }
        for text in &self.publish {
            for published in publish(text)? {
                all.insert(published.container, json!({}));
            }
        }
        Ok(all)
    }

    fn health(&self) -> anyhow::Result<Option<Value>> {
        if self.no_healthcheck {
            return Ok(Some(json!({ "Test": ["NONE"] })));
        }
        let mut check = Map::new();
        if let Some(command) = &self.health_cmd {
            check.insert("Test".to_owned(), json!(["CMD-SHELL", command]));
        }
        let times = [
            ("Interval", &self.health_interval),
            ("Timeout", &self.health_timeout),
            ("StartPeriod", &self.health_start_period),
            ("StartInterval", &self.health_start_interval),
        ];
        for (key, text) in times {
            if let Some(text) = text {
                let time = knarr_engine::filters::duration(text).with_context(|| {
                    format!("{text:?} is no time: expected a number and a unit, such as 30s or 1m30s")
                })?;
                check.insert(key.to_owned(), json!(u64::try_from(time.as_nanos())?));
            }
        }
        if let Some(retries) = self.health_retries {
            check.insert("Retries".to_owned(), json!(retries));
        }
        Ok((!check.is_empty()).then_some(Value::Object(check)))
    }

    fn host(&self) -> anyhow::Result<Value> {
        let binds: Vec<String> = self
            .volume
            .iter()
            .filter(|text| text.contains(':'))
            .map(|text| absolute(text))
            .collect::<anyhow::Result<_>>()?;
        let mut host = json!({
            "Binds": binds,
            "Mounts": self.mount.iter().map(|text| mount(text)).collect::<anyhow::Result<Vec<_>>>()?,
            "Tmpfs": self.tmpfs.iter().map(|text| { let (path, options) = text.split_once(':').unwrap_or((text, "")); (path.to_owned(), json!(options)) }).collect::<Map<_, _>>(),
            "VolumesFrom": self.volumes_from,
            "PortBindings": self.bindings()?,
            "PublishAllPorts": self.publish_all,
            "AutoRemove": self.rm,
            "NetworkMode": self.network.first().map_or_else(|| "default".to_owned(), |text| network_name(text)),
            "Links": self.link.iter().map(|text| if text.contains(':') { text.clone() } else { format!("{text}:{text}") }).collect::<Vec<_>>(),
            "ExtraHosts": self.add_host,
            "Dns": self.dns, "DnsSearch": self.dns_search, "DnsOptions": self.dns_option,
            "GroupAdd": self.group_add,
            "CapAdd": self.cap_add, "CapDrop": self.cap_drop,
            "Privileged": self.privileged,
            "SecurityOpt": self.security()?,
            "ReadonlyRootfs": self.read_only,
            "Devices": self.device.iter().map(|text| device(text)).collect::<Vec<_>>(),
            "DeviceCgroupRules": self.device_cgroup_rule,
        });
        let extra = json!({
            "Ulimits": self.ulimit.iter().map(|text| ulimit(text)).collect::<anyhow::Result<Vec<_>>>()?,
            "Sysctls": pairs(&self.sysctl)?,
            "Annotations": pairs(&self.annotation)?,
            "BlkioDeviceReadBps": self.device_read_bps.iter().map(|text| rate(text)).collect::<anyhow::Result<Vec<_>>>()?,
            "BlkioDeviceWriteBps": self.device_write_bps.iter().map(|text| rate(text)).collect::<anyhow::Result<Vec<_>>>()?,
            "LogConfig": { "Type": self.log_driver.clone().unwrap_or_default(), "Config": pairs(&self.log_opt)? },
        });
        if let (Some(host), Value::Object(extra)) = (host.as_object_mut(), extra) {
            host.extend(extra);
        }
        let text = |text: &Option<String>| text.as_ref().map(|text| json!(text));
        let size = |text: &Option<String>| -> anyhow::Result<Option<Value>> {
            text.as_deref().map(|text| bytes(text).map(|bytes| json!(bytes))).transpose()
        };
        let optional = [
            ("RestartPolicy", self.restart.as_deref().map(restart).transpose()?),
            ("Memory", size(&self.memory)?),
            ("MemoryReservation", size(&self.memory_reservation)?),
            ("MemorySwap", size(&self.memory_swap)?),
            ("MemorySwappiness", self.memory_swappiness.map(|value| json!(value))),
            ("NanoCpus", self.cpus.map(|cpus| json!((cpus * 1e9).round() as i64))),
            ("CpuShares", self.cpu_shares.map(|value| json!(value))),
            ("CpuPeriod", self.cpu_period.map(|value| json!(value))),
            ("CpuQuota", self.cpu_quota.map(|value| json!(value))),
            ("CpusetCpus", text(&self.cpuset_cpus)),
            ("CpusetMems", text(&self.cpuset_mems)),
            ("PidsLimit", self.pids_limit.map(|value| json!(value))),
            ("BlkioWeight", self.blkio_weight.map(|value| json!(value))),
            ("OomScoreAdj", self.oom_score_adj.map(|value| json!(value))),
            ("OomKillDisable", self.oom_kill_disable.then(|| json!(true))),
            ("ShmSize", size(&self.shm_size)?),
            ("Init", self.init.then(|| json!(true))),
            ("PidMode", text(&self.pid)),
            ("IpcMode", text(&self.ipc)),
            ("UTSMode", text(&self.uts)),
            ("UsernsMode", text(&self.userns)),
            ("CgroupnsMode", text(&self.cgroupns)),
            ("CgroupParent", text(&self.cgroup_parent)),
            ("Runtime", text(&self.runtime)),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                host[key] = value;
            }
        }
        Ok(host)
    }

    /// A profile is read here: the daemon may be elsewhere.
    fn security(&self) -> anyhow::Result<Vec<String>> {
        let read = |option: &String| match option.split_once(['=', ':']) {
            Some(("seccomp", name)) if !matches!(name, "unconfined" | "builtin" | "default") => {
                let text = std::fs::read_to_string(name)
                    .with_context(|| format!("opening seccomp profile ({name}) failed"))?;
                Ok(format!("seccomp={text}"))
            }
            _ => Ok(option.clone()),
        };
        self.security_opt.iter().map(read).collect()
    }

    fn bindings(&self) -> anyhow::Result<Map<String, Value>> {
        let mut all: Map<String, Value> = Map::new();
        for text in &self.publish {
            for published in publish(text)? {
                let binding = json!({ "HostIp": published.address, "HostPort": published.port });
                match all.entry(published.container).or_insert_with(|| json!([])) {
                    Value::Array(list) => list.push(binding),
                    _ => bail!("{text:?} is no port"),
                }
            }
        }
        Ok(all)
    }

    fn endpoints(&self) -> anyhow::Result<Map<String, Value>> {
        let mut all = Map::new();
        for (number, text) in self.network.iter().enumerate() {
            let mut settings = network_settings(text)?;
            if number == 0 {
                let mut aliases: Vec<String> = self.network_alias.clone();
                aliases.extend(
                    settings["Aliases"]
                        .as_array()
                        .into_iter()
                        .flatten()
                        .filter_map(|alias| alias.as_str().map(str::to_owned)),
                );
                settings["Aliases"] = json!(aliases);
                self.fixed(&mut settings);
            }
            all.insert(network_name(text), settings);
        }
        if self.network.is_empty()
            && (self.ip.is_some()
                || self.ip6.is_some()
                || self.mac_address.is_some()
                || !self.network_alias.is_empty())
        {
            let mut settings = json!({ "Aliases": self.network_alias });
            self.fixed(&mut settings);
            all.insert("default".to_owned(), settings);
        }
        Ok(all)
    }

    fn fixed(&self, settings: &mut Value) {
        for (key, address) in [("IPv4Address", &self.ip), ("IPv6Address", &self.ip6)] {
            if let Some(address) = address {
                settings["IPAMConfig"][key] = json!(address);
            }
        }
        if let Some(address) = &self.mac_address {
            settings["MacAddress"] = json!(address);
        }
    }
}

/// `NAME`, or `name=NAME,alias=…,ip=…`.
fn network_name(text: &str) -> String {
    let parts = text.split(',').filter_map(|part| part.split_once('='));
    parts
        .into_iter()
        .find(|(key, _)| *key == "name")
        .map_or_else(|| text.to_owned(), |(_, name)| name.to_owned())
}

fn network_settings(text: &str) -> anyhow::Result<Value> {
    let mut settings = json!({ "Aliases": [] });
    if !text.contains('=') {
        return Ok(settings);
    }
    for part in text.split(',') {
        match part.split_once('=').with_context(|| format!("--network {text}: expected KEY=VALUE"))? {
            ("name", _) => {}
            ("alias", alias) => {
                settings["Aliases"].as_array_mut().into_iter().for_each(|list| list.push(json!(alias)));
            }
            ("ip", address) => settings["IPAMConfig"]["IPv4Address"] = json!(address),
            ("ip6", address) => settings["IPAMConfig"]["IPv6Address"] = json!(address),
            ("mac-address", address) => settings["MacAddress"] = json!(address),
            ("gw-priority", number) => settings["GwPriority"] = json!(number.parse::<i64>()?),
            ("driver-opt", option) => {
                let (key, value) = option.split_once('=').unwrap_or((option, ""));
                settings["DriverOpts"][key] = json!(value);
            }
            (key, _) => bail!(
                "--network {text}: {key} is not known: expected name, alias, ip, ip6, mac-address, gw-priority or driver-opt"
            ),
        }
    }
    Ok(settings)
}

/// A variable as it is to be set; a name alone has the value that it has here.
pub(crate) fn variable(entry: &str) -> Option<String> {
    if entry.contains('=') {
        return Some(entry.to_owned());
    }
    std::env::var(entry).ok().map(|value| format!("{entry}={value}"))
}

pub(crate) fn variables_of(text: &str, path: &Path) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split('=').next().unwrap_or_default();
        if name.is_empty() || name.contains(char::is_whitespace) {
            bail!("{}:{}: {name:?} is no name of a variable", path.display(), number + 1);
        }
        all.extend(variable(line));
    }
    Ok(all)
}

fn pairs(texts: &[String]) -> anyhow::Result<Map<String, Value>> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').with_context(|| format!("{text:?}: expected KEY=VALUE"))?;
        Ok((key.to_owned(), json!(value)))
    };
    texts.iter().map(pair).collect()
}

/// `80`, `80-90/udp`: the ports with their protocol.
fn range(text: &str) -> anyhow::Result<Vec<(u16, String)>> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let told = || format!("invalid containerPort: {text}");
    let (first, last): (u16, u16) = (first.parse().with_context(told)?, last.parse().with_context(told)?);
    if first > last || !matches!(protocol.to_ascii_lowercase().as_str(), "tcp" | "udp" | "sctp") {
        bail!(told());
    }
    Ok((first..=last).map(|port| (port, protocol.to_ascii_lowercase())).collect())
}

/// A port that is published: `80/tcp`, on which address and port of the host.
#[derive(Debug, PartialEq, Eq)]
struct Published {
    container: String,
    address: String,
    port: String,
}

fn publish(text: &str) -> anyhow::Result<Vec<Published>> {
    let (head, inside) = text.rsplit_once(':').unwrap_or(("", text));
    let (address, outside) = match head.rsplit_once(':') {
        Some((address, outside)) => (address, outside),
        // An address alone has dots or brackets.
        None if head.contains('.') || head.contains('[') => (head, ""),
        None => ("", head),
    };
    let address = address.trim_matches(['[', ']']);
    if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
        bail!("invalid IP address: {address}");
    }
    let inside = range(inside)?;
    let plain = |port: &str| -> anyhow::Result<u16> {
        port.parse().with_context(|| format!("invalid hostPort: {outside}"))
    };
    let (first, last) = outside.split_once('-').unwrap_or((outside, outside));
    let count = inside.len();
    let outside: Vec<String> = if outside.is_empty() {
        vec![String::new(); count]
    } else {
        let (first, last) = (plain(first)?, plain(last)?);
        let wide = usize::from(last.saturating_sub(first)) + 1;
        if count == 1 && wide > 1 {
            vec![format!("{first}-{last}")]
        } else if wide == count {
            (first..=last).map(|port| port.to_string()).collect()
        } else {
            bail!("invalid ranges specified for container and host Ports: {text}");
        }
    };
    let all = inside.into_iter().zip(outside).map(|((container, protocol), port)| Published {
        container: format!("{container}/{protocol}"),
        address: address.to_owned(),
        port,
    });
    Ok(all.collect())
}

/// A source that is a relative path becomes an absolute one.
fn absolute(text: &str) -> anyhow::Result<String> {
    let (source, rest) = text.split_once(':').unwrap_or((text, ""));
    if source.starts_with('.') || source.starts_with('~') {
        let path = std::path::absolute(source)?;
        return Ok(format!("{}:{rest}", path.display()));
    }
    Ok(text.to_owned())
}

fn mount(text: &str) -> anyhow::Result<Value> {
    let mut mount = json!({ "Type": "volume" });
    for part in text.split(',') {
        let (key, value) = part.split_once('=').unwrap_or((part, "true"));
        let flag = || -> anyhow::Result<bool> {
            match value {
                "true" | "1" => Ok(true),
                "false" | "0" => Ok(false),
                _ => bail!("--mount {text}: {key}={value}: expected true or false"),
            }
        };
        match key {
            "type" => mount["Type"] = json!(value),
            "source" | "src" => mount["Source"] = json!(value),
            "target" | "dst" | "destination" => mount["Target"] = json!(value),
            "readonly" | "ro" => mount["ReadOnly"] = json!(flag()?),
            "bind-propagation" => mount["BindOptions"]["Propagation"] = json!(value),
            "bind-recursive" => mount["BindOptions"]["NonRecursive"] = json!(value == "disabled"),
            "bind-create-src" => mount["BindOptions"]["CreateMountpoint"] = json!(flag()?),
            "volume-nocopy" => mount["VolumeOptions"]["NoCopy"] = json!(flag()?),
            "volume-subpath" => mount["VolumeOptions"]["Subpath"] = json!(value),
            "image-subpath" => mount["ImageOptions"]["Subpath"] = json!(value),
            "volume-driver" => mount["VolumeOptions"]["DriverConfig"]["Name"] = json!(value),
            "volume-opt" => {
                let (key, value) = value.split_once('=').unwrap_or((value, ""));
                mount["VolumeOptions"]["DriverConfig"]["Options"][key] = json!(value);
            }
            "volume-label" => {
                let (key, value) = value.split_once('=').unwrap_or((value, ""));
                mount["VolumeOptions"]["Labels"][key] = json!(value);
            }
            "tmpfs-size" => mount["TmpfsOptions"]["SizeBytes"] = json!(bytes(value)?),
            "tmpfs-mode" => mount["TmpfsOptions"]["Mode"] = json!(i64::from_str_radix(value, 8)?),
            "consistency" => {}
            _ => bail!("--mount {text}: unexpected key '{key}'"),
        }
    }
    if mount["Target"].is_null() {
        bail!("--mount {text}: target is required");
    }
    if mount["Type"] == "bind"
        && let Some(source) = mount["Source"].as_str().filter(|source| !source.starts_with('/'))
    {
        mount["Source"] = json!(std::path::absolute(source)?);
    }
    Ok(mount)
}

fn device(text: &str) -> Value {
    let parts: Vec<&str> = text.split(':').collect();
    let (host, inside, permissions) = match parts[..] {
        [host, inside, permissions] => (host, inside, permissions),
        [host, second] if second.starts_with('/') => (host, second, "rwm"),
        [host, permissions] => (host, host, permissions),
        _ => (text, text, "rwm"),
    };
    json!({ "PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": permissions })
}

fn ulimit(text: &str) -> anyhow::Result<Value> {
    let told = || format!("invalid ulimit argument: {text}");
    let (name, values) = text.split_once('=').with_context(told)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let number = |text: &str| if text == "unlimited" { Ok(-1) } else { text.parse::<i64>() };
    Ok(
        json!({ "Name": name, "Soft": number(soft).with_context(told)?, "Hard": number(hard).with_context(told)? }),
    )
}

fn rate(text: &str) -> anyhow::Result<Value> {
    let (path, size) = text.rsplit_once(':').with_context(|| format!("{text:?}: expected DEVICE:SIZE"))?;
    Ok(json!({ "Path": path, "Rate": bytes(size)? }))
}

/// `on-failure:3`.
pub(crate) fn restart(text: &str) -> anyhow::Result<Value> {
    let (name, tries) = text.split_once(':').unwrap_or((text, "0"));
    let tries: i64 = tries.parse().with_context(|| {
        format!("invalid restart policy format: {text}: maximum retry count must be an integer")
    })?;
    Ok(json!({ "Name": name, "MaximumRetryCount": tries }))
}

/// Bytes as docker counts them: `1k` is 1024.
pub(crate) fn bytes(text: &str) -> anyhow::Result<i64> {
    if text == "-1" {
        return Ok(-1);
    }
    let told = || format!("invalid size: '{text}'");
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let lower = lower.strip_suffix('i').unwrap_or(lower);
    let (number, unit) = match lower.char_indices().last().with_context(told)? {
        (at, 'k') => (&lower[..at], 1_u64 << 10),
        (at, 'm') => (&lower[..at], 1 << 20),
        (at, 'g') => (&lower[..at], 1 << 30),
        (at, 't') => (&lower[..at], 1 << 40),
        _ => (lower, 1),
    };
    let number: f64 = number.trim().parse().with_context(told)?;
    if !(0.0..9.0e15).contains(&number) {
        bail!(told());
    }
    Ok((number * unit as f64) as i64)
}

/// Reads the words of `knarr create`. For fuzzing.
#[doc(hidden)]
#[must_use]
pub fn try_words(words: &[&str]) -> Option<Value> {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: CreateArgs,
    }
    let line = <Line as clap::Parser>::try_parse_from(std::iter::once(&"create").chain(words)).ok()?;
    line.args.body(Attach::default()).ok()
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::{Value, json};

    use super::{Attach, CreateArgs, bytes, mount, publish};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: CreateArgs,
    }

    fn body(words: &str) -> Value {
        let line = std::iter::once("run").chain(words.split_whitespace());
        Line::try_parse_from(line).unwrap().args.body(Attach::default()).unwrap()
    }

    #[test]
    fn flags_after_the_image_are_the_programs() {
        let body = body("-t --rm img ls -l --rm");
        assert_eq!(body["Cmd"], json!(["ls", "-l", "--rm"]));
        assert_eq!((&body["Tty"], &body["HostConfig"]["AutoRemove"]), (&json!(true), &json!(true)));
    }

    #[test]
    fn limits_are_numbers() {
        let host = &body(
            "-m 64m --cpus 1.5 --pids-limit -1 --ulimit nofile=10:20 --restart on-failure:3 img",
        )["HostConfig"];
        assert_eq!(host["Memory"], 64 << 20);
        assert_eq!(host["NanoCpus"], 1_500_000_000_i64);
        assert_eq!(host["Ulimits"], json!([{ "Name": "nofile", "Soft": 10, "Hard": 20 }]));
        assert_eq!(host["RestartPolicy"], json!({ "Name": "on-failure", "MaximumRetryCount": 3 }));
    }

    #[test]
    fn ports_have_many_forms() {
        let one = |text: &str| {
            publish(text)
                .unwrap()
                .into_iter()
                .map(|port| (port.container, port.address, port.port))
                .collect::<Vec<_>>()
        };
        let text = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(one("80"), [text("80/tcp", "", "")]);
        assert_eq!(one("8080:80/udp"), [text("80/udp", "", "8080")]);
        assert_eq!(one("127.0.0.1:8080:80"), [text("80/tcp", "127.0.0.1", "8080")]);
        assert_eq!(one("127.0.0.1::80"), [text("80/tcp", "127.0.0.1", "")]);
        assert_eq!(one("[::1]:8080:80"), [text("80/tcp", "::1", "8080")]);
        assert_eq!(one("8000-8001:80-81").len(), 2);
        assert_eq!(one("8000-8009:80"), [text("80/tcp", "", "8000-8009")]);
        assert!(publish("a:80").is_err() && publish("8000-8001:80-85").is_err());
    }

    #[test]
    fn mounts_are_read() {
        let bind = mount("type=bind,src=/a,dst=/b,readonly").unwrap();
        assert_eq!(bind, json!({ "Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true }));
        assert!(mount("type=bind,src=/a").is_err() && mount("dst=/a,speed=9").is_err());
    }

    #[test]
    fn sizes_are_powers_of_two() {
        assert_eq!((bytes("1k").unwrap(), bytes("1.5g").unwrap(), bytes("-1").unwrap()), (1024, 3 << 29, -1));
        assert!(bytes("x").is_err());
    }
}
