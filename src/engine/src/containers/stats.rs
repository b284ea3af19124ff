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
        let arguments = if ps_args.is_empty() { "-ef".to_owned() } else { ps_args.to_owned() };
        check_arguments(&arguments)?;
        let container = self.shared().containers.find(name)?;
        let (running, restarting) = {
            let record = container.record();
            (record.state.running, record.state.restarting)
        };
        if restarting {
            return Err(EngineError::conflict(format!(
                "Container {} is restarting, wait until the container is running",
                container.id
            )));
        }
        if !running {
            return Err(not_running(&container));
        }
        let (root, id) = (self.runtime_root(), container.id.clone());
        let answer = blocking(move || {
            let opened = knarr_runtime::state::Container::open(&root, &id)?;
            let pids = knarr_runtime::lifecycle::processes(&opened)?;
            drop(opened);
            let ps = Command::new("ps").args(arguments.split_whitespace()).output();
            let ps = ps
                .map_err(|error| EngineError::failed(format!("error running ps: {error}; install procps")))?;
            if !ps.status.success() {
                let said = String::from_utf8_lossy(&ps.stderr);
                return Err(EngineError::failed(format!("ps: {}", said.lines().next().unwrap_or_default())));
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
        let (id, label, running, pid, on_host) = {
            let record = container.record();
            let on_host = record.network_mode() == "host";
            (record.id.clone(), format!("/{}", record.name), record.state.running, record.state.pid, on_host)
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
        // What goes through the host's interfaces is not the container's.
        if !on_host {
            sample["networks"] = json!(interfaces(pid));
        }
        Ok(sample)
    }
}

/// Refuses what would give another column the name by which processes are found: `-o cmd=PID`.
fn check_arguments(arguments: &str) -> Result<(), EngineError> {
    for word in arguments.split_whitespace().skip(1) {
        if let Some((key, title)) = word.split_once('=')
            && key != "pid"
            && title.starts_with("PID")
        {
            return Err(EngineError::failed(format!("specifying \"{key}={title}\" is not allowed")));
        }
    }
    Ok(())
}

/// The lines of `ps` that are of these processes, and with `m` those of their threads.
fn table(text: &str, pids: &[i32]) -> Result<ContainerTopResponse, EngineError> {
    let mut lines = text.lines();
    let titles: Vec<String> =
        lines.next().unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
    let column = titles.iter().position(|title| title == "PID");
    let column = column.ok_or_else(|| EngineError::failed("Couldn't find PID field in ps output"))?;
    let mut processes = Vec::new();
    let mut inside = false;
    for line in lines {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let Some(pid) = words.get(column) else { continue };
        if *pid != "-" {
            inside = pid.parse().is_ok_and(|pid: i32| pids.contains(&pid));
        }
        if inside {
            processes.push(row(&words, titles.len()));
        }
    }
    Ok(ContainerTopResponse { titles: Some(titles), processes: Some(processes) })
}

/// As many cells as there are titles: the last one takes what is left.
fn row(words: &[&str], cells: usize) -> Vec<String> {
    let (first, rest) = words.split_at((cells - 1).min(words.len()));
    let mut row: Vec<String> = first.iter().map(|word| (*word).to_owned()).collect();
    row.push(rest.join(" "));
    row
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
    // The second version of control groups counts it in microseconds, the first in nanoseconds.
    let unit = if data["io"].is_string() { 1000 } else { 1 };
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
            "throttled_time": number(&throttling["throttledTime"]) * unit,
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
    shown["io_service_bytes_recursive"] = match data["io"].as_str() {
        Some(text) => devices(text),
        None => operations(&data["blkio"]["ioServiceBytesRecursive"]),
    };
    shown
}

/// Lines of the second version of control groups: `8:0 rbytes=1 wbytes=2 rios=3 …`.
fn devices(text: &str) -> Value {
    let mut shown = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let device = words.next().and_then(|device| device.split_once(':'));
        let Some((Ok(major), Ok(minor))) = device.map(|(a, b)| (a.parse::<u64>(), b.parse::<u64>())) else {
            continue;
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let operation = match key {
                "rbytes" => "read",
                "wbytes" => "write",
                _ => continue,
            };
            let value = value.parse::<u64>().unwrap_or_default();
            shown.push(json!({ "major": major, "minor": minor, "op": operation, "value": value }));
        }
    }
    json!(shown)
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
    use serde_json::json;

    use super::{blkio, check_arguments, cpu, table};

    #[test]
    fn the_table_has_only_the_containers_processes() {
        let text = "UID PID PPID CMD\nroot 1 0 init\nroot 7 1 sleep 1 2\n";
        let shown = table(text, &[7]).unwrap();
        assert_eq!(shown.titles.unwrap(), ["UID", "PID", "PPID", "CMD"]);
        assert_eq!(shown.processes.unwrap(), [["root", "7", "1", "sleep 1 2"]]);
        assert!(table("UID CMD\n", &[1]).is_err());
    }

    #[test]
    fn threads_follow_their_process() {
        let shown = table("PID CMD\n1 init\n- -\n7 sleep\n- a\n- b\n8 x\n- c\n", &[7]).unwrap();
        assert_eq!(shown.processes.unwrap(), [["7", "sleep"], ["-", "a"], ["-", "b"]]);
    }

    #[test]
    fn no_other_column_is_called_pid() {
        assert!(check_arguments("-eo pid=PID,cmd").is_ok() && check_arguments("aux").is_ok());
        let error = check_arguments("-eo cmd=PID").unwrap_err();
        assert_eq!(error.message(), "specifying \"cmd=PID\" is not allowed");
    }

    #[test]
    fn both_versions_of_control_groups_give_the_same_shape() {
        let second = json!({
            "io": "8:0 rbytes=5 wbytes=6 rios=1\nx\n",
            "cpu": { "usage": { "total": 9 }, "throttling": { "throttledTime": 3 } },
        });
        let expected = json!([
            { "major": 8, "minor": 0, "op": "read", "value": 5 },
            { "major": 8, "minor": 0, "op": "write", "value": 6 },
        ]);
        assert_eq!(blkio(&second)["io_service_bytes_recursive"], expected);
        assert_eq!(cpu(&second)["throttling_data"]["throttled_time"], 3000);
        let first = json!({
            "blkio": { "ioServiceBytesRecursive": [{ "major": 8, "minor": 0, "op": "Read", "value": 5 }] },
            "cpu": { "usage": { "total": 9, "percpu": [4, 5] }, "throttling": { "throttledTime": 3 } },
        });
        assert_eq!(blkio(&first)["io_service_bytes_recursive"], json!([expected[0]]));
        assert_eq!(cpu(&first)["throttling_data"]["throttled_time"], 3);
        assert_eq!(cpu(&first)["cpu_usage"]["percpu_usage"], json!([4, 5]));
    }
}
