//! How much of the machine a container uses.
//!
//! [`stats`] reads the control group's files into the document that `runc events --stats` prints.

use knarr_linux::cgroup::Cgroup;
use serde_json::{Value, json};

use crate::RuntimeError;
use crate::state::Container;

/// The figures of this moment.
pub fn stats(container: &Container) -> Result<Value, RuntimeError> {
    let cgroup = container.state.cgroup();
    let data = if cgroup.unified { second(&cgroup) } else { first(&cgroup) };
    Ok(json!({ "type": "stats", "id": container.state.id, "data": data }))
}

/// How often processes were ended because memory was short.
pub fn out_of_memory_kills(container: &Container) -> Result<u64, RuntimeError> {
    let cgroup = container.state.cgroup();
    let file = if cgroup.unified { "memory.events" } else { "memory.oom_control" };
    let text = cgroup.read("memory", file)?;
    Ok(value_of(&text, "oom_kill").unwrap_or_default())
}

fn first(cgroup: &Cgroup) -> Value {
    let number =
        |controller: &str, file: &str| cgroup.read(controller, file).ok().and_then(|text| number_of(&text));
    let text = |controller: &str, file: &str| cgroup.read(controller, file).unwrap_or_default();
    let usage = text("cpuacct", "cpuacct.usage_percpu");
    let per_cpu: Vec<u64> = usage.split_ascii_whitespace().filter_map(|value| value.parse().ok()).collect();
    let times = text("cpuacct", "cpuacct.stat");
    let throttled = text("cpu", "cpu.stat");
    let memory = |base: &str| {
        json!({
            "usage": number("memory", &format!("{base}.usage_in_bytes")),
            "max": number("memory", &format!("{base}.max_usage_in_bytes")),
            "limit": number("memory", &format!("{base}.limit_in_bytes")),
            "failcnt": number("memory", &format!("{base}.failcnt")).unwrap_or_default(),
        })
    };
    json!({
        "cpu": {
            "usage": {
                "total": number("cpuacct", "cpuacct.usage"),
                "percpu": per_cpu,
                "kernel": value_of(&times, "system").map(nanoseconds),
                "user": value_of(&times, "user").map(nanoseconds),
            },
            "throttling": throttling(&throttled, "throttled_time"),
        },
        "memory": {
            "cache": value_of(&text("memory", "memory.stat"), "cache"),
            "usage": memory("memory"),
            "swap": memory("memory.memsw"),
            "raw": table_of(&text("memory", "memory.stat")),
            "oomKills": value_of(&text("memory", "memory.oom_control"), "oom_kill"),
        },
        "pids": pids(cgroup),
        "blkio": { "ioServiceBytesRecursive": devices_of(&text("blkio", "blkio.throttle.io_service_bytes")) },
    })
}

fn second(cgroup: &Cgroup) -> Value {
    let number =
        |controller: &str, file: &str| cgroup.read(controller, file).ok().and_then(|text| number_of(&text));
    let text = |controller: &str, file: &str| cgroup.read(controller, file).unwrap_or_default();
    let cpu = text("cpu", "cpu.stat");
    let micro = |key: &str| value_of(&cpu, key).map(|value| value * 1000);
    json!({
        "cpu": {
            "usage": { "total": micro("usage_usec"), "kernel": micro("system_usec"), "user": micro("user_usec") },
            "throttling": throttling(&cpu, "throttled_usec"),
        },
        "memory": {
            "usage": {
                "usage": number("memory", "memory.current"),
                "max": number("memory", "memory.peak"),
                "limit": number("memory", "memory.max").unwrap_or(u64::MAX),
                "failcnt": value_of(&text("memory", "memory.events"), "max"),
            },
            "swap": { "usage": number("memory", "memory.swap.current"), "limit": number("memory", "memory.swap.max") },
            "raw": table_of(&text("memory", "memory.stat")),
            "oomKills": value_of(&text("memory", "memory.events"), "oom_kill"),
        },
        "pids": pids(cgroup),
        "io": text("io", "io.stat"),
    })
}

fn pids(cgroup: &Cgroup) -> Value {
    let number = |file: &str| cgroup.read("pids", file).ok().and_then(|text| number_of(&text));
    json!({ "current": number("pids.current"), "limit": number("pids.max").unwrap_or_default() })
}

fn throttling(text: &str, time: &str) -> Value {
    json!({
        "periods": value_of(text, "nr_periods"),
        "throttledPeriods": value_of(text, "nr_throttled"),
        "throttledTime": value_of(text, time),
    })
}

fn number_of(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The kernel counts these in hundredths of a second.
const fn nanoseconds(ticks: u64) -> u64 {
    ticks * 10_000_000
}

fn value_of(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn table_of(text: &str) -> Value {
    let pair = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), json!(value.parse::<u64>().ok()?)))
    };
    Value::Object(text.lines().filter_map(pair).collect())
}

fn devices_of(text: &str) -> Vec<Value> {
    let entry = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (major, minor) = fields.next()?.split_once(':')?;
        let operation = fields.next()?;
        let value = fields.next()?.parse::<u64>().ok()?;
        let numbers = (major.parse::<u64>().ok()?, minor.parse::<u64>().ok()?);
        Some(json!({ "major": numbers.0, "minor": numbers.1, "op": operation, "value": value }))
    };
    text.lines().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::{table_of, value_of};

    #[test]
    fn a_value_is_found_by_its_whole_key() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(value_of(text, "oom_kill"), Some(3));
        assert_eq!(value_of(text, "oom"), None);
        assert_eq!(table_of(text)["oom_kill"], 3);
    }
}
