//! Limits of a configuration: to files of control groups, of either version.

use knarr_linux::cgroup::device::{DeviceKind, DeviceRule, MKNOD, READ, WRITE};

use crate::RuntimeError;
use crate::spec::{BlockIo, Cpu, DeviceAccess, Memory, Resources, ThrottleDevice};

/// A value in a file of a control group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Whose file.
    pub controller: String,
    /// Which.
    pub file: String,
    /// To what.
    pub value: String,
}

fn setting(controller: &str, file: impl Into<String>, value: impl std::fmt::Display) -> Setting {
    Setting { controller: controller.to_owned(), file: file.into(), value: value.to_string() }
}

/// The values that make these limits, in the order in which they are written.
pub fn settings(resources: &Resources, unified: bool) -> Result<Vec<Setting>, RuntimeError> {
    if unified { second(resources) } else { first(resources) }
}

fn first(resources: &Resources) -> Result<Vec<Setting>, RuntimeError> {
    if !resources.unified.is_empty() {
        let reason = "needs control groups of version 2, and this machine has version 1";
        return Err(RuntimeError::invalid("linux.resources.unified", reason));
    }
    let mut settings = Vec::new();
    if let Some(memory) = &resources.memory {
        first_memory(memory, &mut settings);
    }
    if let Some(cpu) = &resources.cpu {
        first_cpu(cpu, &mut settings);
    }
    settings.extend(pids(resources));
    if let Some(block) = &resources.block_io {
        first_block(block, &mut settings);
    }
    for huge in &resources.hugepage_limits {
        settings.push(setting("hugetlb", format!("hugetlb.{}.limit_in_bytes", huge.page_size), huge.limit));
    }
    if let Some(network) = &resources.network {
        settings.extend(network.class_id.map(|class| setting("net_cls", "net_cls.classid", class)));
        for one in &network.priorities {
            settings.push(setting(
                "net_prio",
                "net_prio.ifpriomap",
                format!("{} {}", one.name, one.priority),
            ));
        }
    }
    settings.extend(rdma(resources));
    Ok(settings)
}

fn first_memory(memory: &Memory, settings: &mut Vec<Setting>) {
    let set = |limit: Option<i64>| limit.filter(|limit| *limit != 0);
    let files = [
        (set(memory.limit), "memory.limit_in_bytes"),
        (set(memory.swap), "memory.memsw.limit_in_bytes"),
        (set(memory.reservation), "memory.soft_limit_in_bytes"),
        (set(memory.kernel_tcp), "memory.kmem.tcp.limit_in_bytes"),
    ];
    settings
        .extend(files.iter().filter_map(|(limit, file)| limit.map(|limit| setting("memory", *file, limit))));
    settings.extend(memory.swappiness.map(|value| setting("memory", "memory.swappiness", value)));
    if memory.disable_oom_killer == Some(true) {
        settings.push(setting("memory", "memory.oom_control", 1));
    }
}

fn first_cpu(cpu: &Cpu, settings: &mut Vec<Setting>) {
    let mut add = |file: &str, value: Option<String>| {
        settings.extend(value.map(|value| setting("cpu", file, value)));
    };
    let positive = |value: Option<u64>| value.filter(|value| *value != 0).map(|value| value.to_string());
    let signed = |value: Option<i64>| value.filter(|value| *value != 0).map(|value| value.to_string());
    add("cpu.shares", positive(cpu.shares));
    add("cpu.cfs_period_us", positive(cpu.period));
    add("cpu.cfs_quota_us", signed(cpu.quota));
    add("cpu.cfs_burst_us", positive(cpu.burst));
    add("cpu.rt_period_us", positive(cpu.realtime_period));
    add("cpu.rt_runtime_us", signed(cpu.realtime_runtime));
    add("cpu.idle", cpu.idle.map(|value| value.to_string()));
    cpuset(cpu, settings);
}

fn cpuset(cpu: &Cpu, settings: &mut Vec<Setting>) {
    let said = |list: &Option<String>| list.clone().filter(|list| !list.is_empty());
    settings.extend(said(&cpu.cpus).map(|list| setting("cpuset", "cpuset.cpus", list)));
    settings.extend(said(&cpu.mems).map(|list| setting("cpuset", "cpuset.mems", list)));
}

fn pids(resources: &Resources) -> Option<Setting> {
    let limit = resources.pids.as_ref()?.limit?;
    let value = if limit > 0 { limit.to_string() } else { "max".to_owned() };
    Some(setting("pids", "pids.max", value))
}

fn first_block(block: &BlockIo, settings: &mut Vec<Setting>) {
    let mut add = |file: &str, value: String| settings.push(setting("blkio", file, value));
    let weight = |value: Option<u16>| value.filter(|value| *value != 0);
    weight(block.weight).into_iter().for_each(|value| add("blkio.bfq.weight", value.to_string()));
    for device in &block.weight_device {
        if let Some(value) = weight(device.weight) {
            add("blkio.bfq.weight_device", format!("{}:{} {value}", device.major, device.minor));
        }
    }
    for (file, devices) in throttles(block, FIRST_THROTTLES) {
        for device in devices {
            add(file, format!("{}:{} {}", device.major, device.minor, device.rate));
        }
    }
}

const FIRST_THROTTLES: [&str; 4] = [
    "blkio.throttle.read_bps_device",
    "blkio.throttle.write_bps_device",
    "blkio.throttle.read_iops_device",
    "blkio.throttle.write_iops_device",
];
const SECOND_THROTTLES: [&str; 4] = ["rbps", "wbps", "riops", "wiops"];

fn throttles<'b>(block: &'b BlockIo, names: [&'static str; 4]) -> [(&'static str, &'b [ThrottleDevice]); 4] {
    [
        (names[0], block.throttle_read_bps_device.as_slice()),
        (names[1], block.throttle_write_bps_device.as_slice()),
        (names[2], block.throttle_read_iops_device.as_slice()),
        (names[3], block.throttle_write_iops_device.as_slice()),
    ]
}

fn second(resources: &Resources) -> Result<Vec<Setting>, RuntimeError> {
    let mut settings = Vec::new();
    if let Some(memory) = &resources.memory {
        second_memory(memory, &mut settings)?;
    }
    if let Some(cpu) = &resources.cpu {
        second_cpu(cpu, &mut settings)?;
    }
    settings.extend(pids(resources));
    if let Some(block) = &resources.block_io {
        second_block(block, &mut settings);
    }
    for huge in &resources.hugepage_limits {
        settings.push(setting("hugetlb", format!("hugetlb.{}.max", huge.page_size), huge.limit));
    }
    if resources
        .network
        .as_ref()
        .is_some_and(|network| network.class_id.is_some() || !network.priorities.is_empty())
    {
        let reason = "needs control groups of version 1, and this machine has version 2";
        return Err(RuntimeError::invalid("linux.resources.network", reason));
    }
    settings.extend(rdma(resources));
    for (file, value) in &resources.unified {
        settings.push(unified(file, value)?);
    }
    Ok(settings)
}

fn second_memory(memory: &Memory, settings: &mut Vec<Setting>) -> Result<(), RuntimeError> {
    let value = |limit: i64| if limit < 0 { "max".to_owned() } else { limit.to_string() };
    let set = |limit: Option<i64>| limit.filter(|limit| *limit != 0);
    let add = |file: &str, limit: Option<i64>| limit.map(|limit| setting("memory", file, value(limit)));
    settings.extend(add("memory.max", set(memory.limit)));
    settings.extend(add("memory.low", set(memory.reservation)));
    if let Some(swap) = second_swap(memory)? {
        settings.push(setting("memory", "memory.swap.max", value(swap)));
    }
    if memory.disable_oom_killer == Some(true) {
        let reason = "needs control groups of version 1, and this machine has version 2";
        return Err(RuntimeError::invalid("linux.resources.memory.disableOOMKiller", reason));
    }
    Ok(())
}

/// Version 2 counts swap alone; the configuration counts it with memory.
fn second_swap(memory: &Memory) -> Result<Option<i64>, RuntimeError> {
    match (memory.swap.filter(|swap| *swap != 0), memory.limit.filter(|limit| *limit != 0)) {
        (None, _) => Ok(None),
        (Some(swap), _) if swap < 0 => Ok(Some(-1)),
        (Some(swap), Some(limit)) if limit > 0 && swap >= limit => Ok(Some(swap - limit)),
        (Some(swap), limit) => {
            let reason =
                format!("{swap} must be at least memory.limit, which is {}", limit.unwrap_or_default());
            Err(RuntimeError::invalid("linux.resources.memory.swap", reason))
        }
    }
}

fn second_cpu(cpu: &Cpu, settings: &mut Vec<Setting>) -> Result<(), RuntimeError> {
    if let Some(shares) = cpu.shares.filter(|shares| *shares != 0) {
        settings.push(setting("cpu", "cpu.weight", weight_of(shares)));
    }
    let quota = cpu.quota.filter(|quota| *quota != 0);
    let period = cpu.period.filter(|period| *period != 0);
    if quota.is_some() || period.is_some() {
        let quota =
            quota.filter(|quota| *quota > 0).map_or_else(|| "max".to_owned(), |quota| quota.to_string());
        settings.push(setting("cpu", "cpu.max", format!("{quota} {}", period.unwrap_or(100_000))));
    }
    settings.extend(cpu.burst.map(|burst| setting("cpu", "cpu.max.burst", burst)));
    settings.extend(cpu.idle.map(|idle| setting("cpu", "cpu.idle", idle)));
    if cpu.realtime_period.is_some_and(|period| period != 0)
        || cpu.realtime_runtime.is_some_and(|time| time != 0)
    {
        let reason = "real-time limits need control groups of version 1, and this machine has version 2";
        return Err(RuntimeError::invalid("linux.resources.cpu", reason));
    }
    cpuset(cpu, settings);
    Ok(())
}

/// Shares go from 2 to 262144, weights from 1 to 10000.
fn weight_of(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn second_block(block: &BlockIo, settings: &mut Vec<Setting>) {
    let weight = block.weight.filter(|value| *value != 0);
    settings.extend(weight.map(|value| setting("io", "io.bfq.weight", value)));
    for device in &block.weight_device {
        if let Some(value) = device.weight.filter(|value| *value != 0) {
            let value = format!("{}:{} {value}", device.major, device.minor);
            settings.push(setting("io", "io.bfq.weight", value));
        }
    }
    for (name, devices) in throttles(block, SECOND_THROTTLES) {
        for device in devices {
            let value = format!("{}:{} {name}={}", device.major, device.minor, device.rate);
            settings.push(setting("io", "io.max", value));
        }
    }
}

fn rdma(resources: &Resources) -> Vec<Setting> {
    let line = |(name, device): (&String, &crate::spec::Rdma)| {
        let handles = device.hca_handles.map(|number| format!(" hca_handle={number}")).unwrap_or_default();
        let objects = device.hca_objects.map(|number| format!(" hca_object={number}")).unwrap_or_default();
        setting("rdma", "rdma.max", format!("{name}{handles}{objects}"))
    };
    resources.rdma.iter().map(line).collect()
}

fn unified(file: &str, value: &str) -> Result<Setting, RuntimeError> {
    let field = || format!("linux.resources.unified.{file}");
    if file.contains('/') {
        return Err(RuntimeError::invalid(field(), "is no name of a file"));
    }
    let (controller, _) =
        file.split_once('.').ok_or_else(|| RuntimeError::invalid(field(), "has no controller"))?;
    Ok(setting(controller, file, value))
}

/// Who may use which devices: nobody any, then what the configuration says, then what every container may. An
/// ordinary user has no say over devices.
pub fn devices(resources: &Resources, rootless: bool) -> Result<Vec<DeviceRule>, RuntimeError> {
    if rootless {
        return Ok(Vec::new());
    }
    let all = MKNOD | READ | WRITE;
    let rule = |kind, major, minor, access| DeviceRule { allow: true, kind, major, minor, access };
    let mut rules =
        vec![DeviceRule { allow: false, kind: DeviceKind::All, major: None, minor: None, access: all }];
    for device in &resources.devices {
        rules.push(device_rule(device)?);
    }
    if rules.iter().any(|rule| rule.kind == DeviceKind::All && rule.allow) {
        return Ok(rules);
    }
    // Making a node opens nothing: using it is what counts.
    rules.push(rule(DeviceKind::Character, None, None, MKNOD));
    rules.push(rule(DeviceKind::Block, None, None, MKNOD));
    let numbers = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)];
    let all_ways = |major, minor| rule(DeviceKind::Character, Some(major), minor, all);
    rules.extend(numbers.map(|(major, minor)| all_ways(major, Some(minor))));
    rules.push(all_ways(136, None));
    Ok(rules)
}

/// One rule of a configuration.
pub fn device_rule(device: &DeviceAccess) -> Result<DeviceRule, RuntimeError> {
    let bad = |reason: String| RuntimeError::invalid("linux.resources.devices", reason);
    let kind = match device.kind.as_deref().unwrap_or("a") {
        "" | "a" => DeviceKind::All,
        "b" => DeviceKind::Block,
        "c" | "u" => DeviceKind::Character,
        other => return Err(bad(format!("{other:?} is no kind of device: a, b and c are"))),
    };
    let number = |number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => {
            u32::try_from(number).map(Some).map_err(|_| bad(format!("{number} is no device number")))
        }
    };
    let access = device.access.as_deref().filter(|access| !access.is_empty()).unwrap_or("rwm");
    let bit = |sign: char| match sign {
        'r' => Ok(READ),
        'w' => Ok(WRITE),
        'm' => Ok(MKNOD),
        other => Err(bad(format!("{other:?} is no access: r, w and m are"))),
    };
    let access = access.chars().map(bit).try_fold(0, |all, bit| bit.map(|bit| all | bit))?;
    Ok(DeviceRule {
        allow: device.allow,
        kind,
        major: number(device.major)?,
        minor: number(device.minor)?,
        access,
    })
}
