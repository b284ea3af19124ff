//! What runs in a container, and how much of the machine it takes.

use std::collections::HashMap;
use std::process::Command;

use bollard_stubs::models::ContainerTopResponse;
use serde_json::{Value, json};

use super::attach::not_running;
use super::blocking;
use crate::{Engine, EngineError};

impl Engine {
    /// `GET /containers/{id}/top`.
    ///
    /// # Errors
    /// It does not run, or `ps` does not take the arguments.
    pub async fn top_container(
        &self,
        name: &str,
        ps_args: &str,
    ) -> Result<ContainerTopResponse, EngineError> {
        let container = self.shared().containers.find(name)?;
        if !container.record().state.running {
            return Err(not_running(&container));
        }
        let (root, id) = (self.runtime_root(), container.id.clone());
        let arguments = if ps_args.is_empty() { "-ef".to_owned() } else { ps_args.to_owned() };
        let answer = blocking(move || {
            let opened = knarr_runtime::state::Container::open(&root, &id)?;
            let pids = knarr_runtime::lifecycle::processes(&opened)?;
            drop(opened);
            let ps = Command::new("ps").args(arguments.split_whitespace()).output();
            let ps = ps
                .map_err(|error| EngineError::failed(format!("error running ps: {error}; install procps")))?;
            if !ps.status.success() {
                let why = String::from_utf8_lossy(&ps.stderr).trim().to_owned();
                return Err(EngineError::failed(format!("error running ps: {why}")));
            }
            table(&String::from_utf8_lossy(&ps.stdout), &pids)
        })
        .await?;
        self.shared().events.container("top", &container.record(), &[]);
        Ok(answer)
    }

    /// One sample for `GET /containers/{id}/stats`; only its name when it does not run. The caller keeps the sample before.
    ///
    /// # Errors
    /// There is no such container.
    pub async fn stats_container(&self, name: &str) -> Result<Value, EngineError> {
        let container = self.shared().containers.find(name)?;
        let (id, label, running, pid) = {
            let record = container.record();
            (record.id.clone(), format!("/{}", record.name), record.state.running, record.state.pid)
        };
        let mut sample = json!({
            "id": id, "name": label, "os_type": "linux", "num_procs": 0, "storage_stats": {},
            "read": "0001-01-01T00:00:00Z", "preread": "0001-01-01T00:00:00Z",
            "pids_stats": {}, "blkio_stats": empty_blkio(), "memory_stats": {},
            "cpu_stats": empty_cpu(), "precpu_stats": empty_cpu(),
        });
        if !running {
            return Ok(sample);
        }
        let (root, own) = (self.runtime_root(), id);
        let read = blocking(move || {
            let opened = knarr_runtime::state::Container::open(&root, &own)?;
            Ok(knarr_runtime::stats::stats(&opened)?)
        });
        let Ok(stats) = read.await else { return Ok(sample) };
        let data = &stats["data"];
        sample["read"] = json!(crate::engine::now());
        sample["cpu_stats"] = cpu(data);
        sample["memory_stats"] = memory(data);
        sample["pids_stats"] = json!({ "current": data["pids"]["current"], "limit": data["pids"]["limit"] });
        sample["blkio_stats"] = blkio(data);
        sample["networks"] = json!(interfaces(pid));
        Ok(sample)
    }
}

/// The lines of `ps` that are of these processes.
fn table(text: &str, pids: &[i32]) -> Result<ContainerTopResponse, EngineError> {
    let mut lines = text.lines();
    let titles: Vec<String> =
        lines.next().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let column = titles.iter().position(|title| title == "PID");
    let column = column.ok_or_else(|| EngineError::failed("Couldn't find PID field in ps output"))?;
    let mut processes = Vec::new();
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let pid = words.get(column).and_then(|word| word.parse::<i32>().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            let split = (titles.len() - 1).min(words.len());
            let mut row: Vec<String> = words[..split].iter().map(|word| (*word).to_owned()).collect();
            row.push(words[split..].join(" "));
            processes.push(row);
        }
    }
    Ok(ContainerTopResponse { titles: Some(titles), processes: Some(processes) })
}

fn empty_cpu() -> Value {
    json!({
        "cpu_usage": { "total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0 },
        "throttling_data": { "periods": 0, "throttled_periods": 0, "throttled_time": 0 },
    })
}

fn cpu(data: &Value) -> Value {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let usage = &data["cpu"]["usage"];
    let throttling = &data["cpu"]["throttling"];
    let mut shown = json!({
        "cpu_usage": {
            "total_usage": number(&usage["total"]),
            "usage_in_kernelmode": number(&usage["kernel"]),
            "usage_in_usermode": number(&usage["user"]),
        },
        "system_cpu_usage": system_nanoseconds(),
        "online_cpus": std::thread::available_parallelism().map_or(1, usize::from),
        "throttling_data": {
            "periods": number(&throttling["periods"]),
            "throttled_periods": number(&throttling["throttledPeriods"]),
            "throttled_time": number(&throttling["throttledTime"]),
        },
    });
    if let Some(each) = usage["percpu"].as_array().filter(|each| !each.is_empty()) {
        shown["cpu_usage"]["percpu_usage"] = json!(each);
    }
    shown
}

/// What all processors together have spent since the machine started.
fn system_nanoseconds() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = text.lines().next().unwrap_or_default().split_whitespace().skip(1).take(7);
    let ticks: u64 = ticks.filter_map(|word| word.parse::<u64>().ok()).sum();
    // The kernel shows hundredths of a second to programs.
    ticks * 10_000_000
}

fn memory(data: &Value) -> Value {
    let memory = &data["memory"];
    let mut limit = memory["usage"]["limit"].as_u64().unwrap_or(u64::MAX);
    let machine = machine_memory_bytes();
    if limit > machine {
        limit = machine;
    }
    json!({
        "usage": memory["usage"]["usage"].as_u64().unwrap_or_default(),
        "max_usage": memory["usage"]["max"].as_u64().unwrap_or_default(),
        "failcnt": memory["usage"]["failcnt"].as_u64().unwrap_or_default(),
        "stats": memory["raw"],
        "limit": limit,
    })
}

/// The machine's memory.
pub(crate) fn machine_memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or_default() * 1024
}

fn empty_blkio() -> Value {
    json!({
        "io_service_bytes_recursive": null, "io_serviced_recursive": null, "io_queue_recursive": null,
        "io_service_time_recursive": null, "io_wait_time_recursive": null, "io_merged_recursive": null,
        "io_time_recursive": null, "sectors_recursive": null,
    })
}

fn blkio(data: &Value) -> Value {
    let mut shown = empty_blkio();
    shown["io_service_bytes_recursive"] = operations(&data["blkio"]["ioServiceBytesRecursive"]);
    shown
}

/// With docker's names of operations.
fn operations(entries: &Value) -> Value {
    let Some(entries) = entries.as_array() else { return Value::Null };
    let renamed = entries.iter().map(|entry| {
        let operation = entry["op"].as_str().unwrap_or_default().to_ascii_lowercase();
        json!({ "major": entry["major"], "minor": entry["minor"], "op": operation, "value": entry["value"] })
    });
    renamed.collect()
}

/// What went through a container's interfaces, by name.
fn interfaces(pid: i32) -> HashMap<String, Value> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let mut shown = HashMap::new();
    for line in text.lines().skip(2) {
        let Some((name, rest)) = line.split_once(':') else { continue };
        let numbers: Vec<u64> = rest.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        if name.trim() == "lo" || numbers.len() < 12 {
            continue;
        }
        let value = json!({
            "rx_bytes": numbers[0], "rx_packets": numbers[1], "rx_errors": numbers[2], "rx_dropped": numbers[3],
            "tx_bytes": numbers[8], "tx_packets": numbers[9], "tx_errors": numbers[10], "tx_dropped": numbers[11],
        });
        shown.insert(name.trim().to_owned(), value);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn the_table_has_only_the_containers_processes() {
        let text = "UID PID PPID CMD\nroot 1 0 init\nroot 7 1 sleep 1 2\n";
        let shown = table(text, &[7]).unwrap();
        assert_eq!(shown.titles.unwrap(), ["UID", "PID", "PPID", "CMD"]);
        assert_eq!(shown.processes.unwrap(), [["root", "7", "1", "sleep 1 2"]]);
        assert!(table("UID CMD\n", &[1]).is_err());
    }
}
