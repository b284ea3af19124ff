//! Figures for Prometheus: `GET /metrics` on an address of its own.
//!
//! [`serve`] answers there until its task ends. Names that begin with `engine_daemon_` are those that dashboards of docker
//! know; all others that are ours begin with `knarr_`.
//!
//! Spec: Prometheus text exposition format 0.0.4; docs/guide/daemon.md.

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use knarr_engine::Engine;
use knarr_engine::meters::{Histogram, Measures};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::serve::{ACCEPT_PAUSE, HEAD_PATIENCE};

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// No more ask for figures at once.
const MOST_CLIENTS: usize = 64;

/// Listens at an address, so that what is wrong with it is known at once.
///
/// # Errors
/// The address cannot be listened on.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
}

/// Answers with the figures of an engine; `active` counts the open requests of its API.
pub async fn serve(engine: Engine, listener: TcpListener, active: Arc<AtomicUsize>) {
    let router = Router::new().route("/metrics", get(metrics)).with_state((engine, active));
    let room = Arc::new(Semaphore::new(MOST_CLIENTS));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let service = TowerToHyperService::new(router.clone());
                let served = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_PATIENCE)
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(async move {
                    if let Err(error) = served.await {
                        tracing::debug!(%error, "a connection for figures ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "no connection for figures can be taken now");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn metrics(State((engine, active)): State<(Engine, Arc<AtomicUsize>)>) -> Response {
    let (measures, info) = match tokio::try_join!(engine.measures(), engine.info()) {
        Ok(found) => found,
        Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, error.message()).into_response(),
    };
    let mut page = Page::default();
    page.engine(&measures);
    let text = |text: Option<String>| text.unwrap_or_default();
    let labels = [
        ("architecture", text(info.architecture)),
        ("daemon_id", measures.id.clone()),
        ("graphdriver", text(info.driver)),
        ("kernel", text(info.kernel_version)),
        ("os", text(info.operating_system)),
        ("os_type", text(info.os_type)),
        ("version", text(info.server_version)),
    ];
    let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
    page.gauge("engine_daemon_engine_info", "What the engine is and runs on", &[(&labels, 1)]);
    let number = |number: Option<i64>| number.unwrap_or_default().unsigned_abs();
    page.gauge("engine_daemon_engine_cpus_cpus", "Processors of the machine", &[(&[], number(info.ncpu))]);
    page.gauge(
        "engine_daemon_engine_memory_bytes",
        "Memory of the machine",
        &[(&[], number(info.mem_total))],
    );
    let version = env!("CARGO_PKG_VERSION");
    page.gauge("knarr_build_info", "Which Knarr this is", &[(&[("version", version)], 1)]);
    let open = active.load(Ordering::Relaxed) as u64;
    page.gauge("knarr_requests_open", "Requests of the API that are open", &[(&[], open)]);
    page.process();
    ([(header::CONTENT_TYPE, TEXT)], page.0).into_response()
}

/// Labels and a value.
type Sample<'s> = (&'s [(&'s str, &'s str)], u64);

/// What is answered, as it grows.
#[derive(Default)]
struct Page(String);

impl Page {
    fn engine(&mut self, measures: &Measures) {
        let [running, paused, stopped] = measures.containers;
        let states = [("running", running), ("paused", paused), ("stopped", stopped)];
        let states = states.map(|(state, count)| ([("state", state)], count));
        let states = states.each_ref().map(|(labels, count)| (&labels[..], *count));
        self.gauge("engine_daemon_container_states_containers", "Containers by what they do", &states);
        let name = "engine_daemon_container_actions_seconds";
        self.histograms(
            name,
            "How long it takes to do something with a container",
            &measures.container_actions,
        );
        let name = "engine_daemon_network_actions_seconds";
        self.histograms(name, "How long it takes to do something with a network", &measures.network_actions);
        let checks = [
            ("engine_daemon_health_checks_total", "Checks of health", measures.checks),
            (
                "engine_daemon_health_checks_failed_total",
                "Checks of health that failed",
                measures.failed_checks,
            ),
            ("engine_daemon_events_total", "Events", measures.events),
        ];
        for (name, help, count) in checks {
            self.head(name, help, "counter");
            self.sample(name, &[], count);
        }
        let gauges = [
            ("engine_daemon_events_subscribers_total", "Who listens to events", measures.listeners),
            ("knarr_images", "Images that are here", measures.images),
            ("knarr_volumes", "Volumes that are here", measures.volumes),
            ("knarr_networks", "Networks that are here", measures.networks),
        ];
        for (name, help, count) in gauges {
            self.gauge(name, help, &[(&[], count)]);
        }
    }

    /// What the kernel knows of this process. What it does not tell is left out.
    fn process(&mut self) {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kib = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        for (name, help, key) in [
            ("process_resident_memory_bytes", "Memory that this process has in use", "VmRSS"),
            ("process_virtual_memory_bytes", "Addresses that this process has in use", "VmSize"),
        ] {
            if let Some(kib) = kib(key) {
                self.gauge(name, help, &[(&[], kib * 1024)]);
            }
        }
        if let Some(threads) = kib("Threads") {
            self.gauge("knarr_threads", "Threads of this process", &[(&[], threads)]);
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            self.gauge("process_open_fds", "Descriptors that are open", &[(&[], open.count() as u64)]);
        }
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        // A text takes all that is written.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn gauge(&mut self, name: &str, help: &str, samples: &[Sample<'_>]) {
        self.head(name, help, "gauge");
        samples.iter().for_each(|(labels, value)| self.sample(name, labels, *value));
    }

    fn histograms(&mut self, name: &str, help: &str, all: &[Histogram]) {
        self.head(name, help, "histogram");
        for Histogram { action, buckets, count, sum_s } in all {
            let bucket = format!("{name}_bucket");
            for (bound, below) in buckets {
                self.sample(&bucket, &[("action", action), ("le", &bound.to_string())], *below);
            }
            self.sample(&bucket, &[("action", action), ("le", "+Inf")], *count);
            self.sample(&format!("{name}_sum"), &[("action", action)], sum_s);
            self.sample(&format!("{name}_count"), &[("action", action)], *count);
        }
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (number, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if number == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

#[cfg(test)]
mod tests {
    use knarr_engine::meters::{Histogram, Measures};

    use super::Page;

    #[test]
    fn labels_hold_anything() {
        let mut page = Page::default();
        page.gauge("a", "Help", &[(&[("b", "x\"\\\ny"), ("c", "")], 7), (&[], 8)]);
        assert_eq!(page.0, "# HELP a Help\n# TYPE a gauge\na{b=\"x\\\"\\\\\\ny\",c=\"\"} 7\na 8\n");
    }

    #[test]
    fn states_and_times_have_dockers_names() {
        let start = Histogram { action: "start", buckets: vec![(0.005, 1)], count: 2, sum_s: 1.5 };
        let measures =
            Measures { containers: [1, 2, 3], container_actions: vec![start], ..Measures::default() };
        let mut page = Page::default();
        page.engine(&measures);
        for line in [
            "engine_daemon_container_states_containers{state=\"paused\"} 2",
            "# TYPE engine_daemon_container_actions_seconds histogram",
            "engine_daemon_container_actions_seconds_bucket{action=\"start\",le=\"0.005\"} 1",
            "engine_daemon_container_actions_seconds_bucket{action=\"start\",le=\"+Inf\"} 2",
            "engine_daemon_container_actions_seconds_sum{action=\"start\"} 1.5",
            "engine_daemon_container_actions_seconds_count{action=\"start\"} 2",
            "engine_daemon_health_checks_failed_total 0",
        ] {
            assert!(page.0.lines().any(|found| found == line), "{line} is not in\n{}", page.0);
        }
    }
}
