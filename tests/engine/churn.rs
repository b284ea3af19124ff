//! A daemon that is killed at random moments while several clients do all that can be done.
//!
//! A round: clients do random things, the daemon is killed, another one starts (and is sometimes killed while it does). What
//! was answered must then be so; what was asked for and not answered may be so or not. After some rounds all is removed, and
//! nothing may be left. `KNARR_CHURN_ROUNDS` says how many rounds, `KNARR_CHURN_SEED` which ones.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::engine::{Api, Daemon, Holder, MARK};

const PATIENCE: Duration = Duration::from_secs(60);
const CLIENTS: u64 = 4;
const CONTAINERS_EACH: u64 = 3;
/// After so many rounds all is removed.
const ROUNDS_BETWEEN_CLEARINGS: u64 = 20;

#[test]
fn nothing_is_lost_or_left_by_a_daemon_that_is_killed_at_any_moment() {
    if !super::ready() {
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let rounds = number("KNARR_CHURN_ROUNDS").unwrap_or(12);
    let seed = number("KNARR_CHURN_SEED").unwrap_or(1);
    let mut churn = Churn::start(seed);
    for round in 1..=rounds {
        churn.round(round);
        if round % ROUNDS_BETWEEN_CLEARINGS == 0 || round == rounds {
            churn.clear();
        }
    }
}

/// What is known of a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// A question about it was not answered: it may be anything.
    Nothing,
    Absent,
    /// It is there, and whether it runs is not known.
    Present,
    Running,
    Stopped,
}

/// Things by their names: `containers/a`.
type Model = BTreeMap<String, Known>;

struct Churn {
    daemon: Daemon,
    holder: Holder,
    random: Random,
    models: Vec<Model>,
    links: Vec<String>,
    rules: usize,
    group: String,
}

impl Churn {
    fn start(seed: u64) -> Self {
        let daemon = Daemon::start();
        let holder = daemon.hold();
        let (links, rules) = (daemon.links(), daemon.rules());
        let group = format!("/knarr-churn-{}", daemon.pid());
        let models = vec![Model::new(); usize::try_from(CLIENTS).unwrap()];
        Self { daemon, holder, random: Random(seed), models, links, rules, group }
    }

    fn round(&mut self, round: u64) {
        let pause = Duration::from_millis(5 + self.random.below(700));
        let seeds: Vec<u64> = (0..CLIENTS).map(|_| self.random.next()).collect();
        let daemon = &self.daemon;
        let group = self.group.as_str();
        std::thread::scope(|scope| {
            for (number, model) in self.models.iter_mut().enumerate() {
                let mark = daemon.dir().display().to_string();
                let random = Random(seeds[number]);
                let api = daemon.api();
                scope.spawn(move || Client { api, number, model, random, mark, group }.work());
            }
            std::thread::sleep(pause);
            let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.pid()).unwrap());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        });
        self.daemon.kill_is_done();
        self.daemon.start_again(&self.holder);
        while self.random.below(4) == 0 {
            std::thread::sleep(Duration::from_millis(self.random.below(150)));
            self.daemon.kill();
            self.daemon.start_again(&self.holder);
        }
        self.daemon.is_ready();
        let log = self.daemon.log();
        assert!(!log.contains("panicked"), "round {round}: {log}");
        for model in &self.models {
            for (name, known) in model {
                self.check(round, name, *known);
            }
        }
    }

    /// What was answered before is so.
    fn check(&self, round: u64, name: &str, known: Known) {
        let api = self.daemon.api();
        let found = |name: &str| {
            let path =
                if name.starts_with("containers") { format!("/{name}/json") } else { format!("/{name}") };
            api.ask("GET", &path, "").unwrap()
        };
        let answer = found(name);
        let told = || format!("round {round}: {name} is {known:?}: {answer:?}\n{}", self.daemon.log());
        match known {
            Known::Nothing => assert!(matches!(answer.status, 200 | 404), "{}", told()),
            Known::Absent => assert_eq!(answer.status, 404, "{}", told()),
            Known::Present | Known::Running | Known::Stopped => assert_eq!(answer.status, 200, "{}", told()),
        }
        if !name.starts_with("containers") || answer.status != 200 {
            return;
        }
        let state = answer.json()["State"].clone();
        let restarting = state["Status"] == "restarting";
        let running = state["Running"] == true && !restarting;
        match known {
            Known::Running => assert!(running || restarting, "{}", told()),
            // Who is always to run does again with each daemon.
            Known::Stopped if answer.body.contains("\"Name\":\"always\"") => {}
            Known::Stopped => assert!(!running, "{}", told()),
            _ => {}
        }
        let pid = state["Pid"].as_u64().unwrap();
        assert_eq!(running, pid != 0, "{}", told());
        if running {
            let alive = Path::new("/proc").join(pid.to_string()).exists();
            // It may have ended since.
            assert!(alive || found(name).json()["State"]["Pid"] != pid, "{}", told());
        }
    }

    /// Removes all, and looks for what is left.
    fn clear(&mut self) {
        let api = self.daemon.api();
        let list = |path: &str| api.ask("GET", path, "").unwrap().json();
        // Those that remove themselves may do so meanwhile.
        for container in list("/containers/json?all=1").as_array().unwrap() {
            let id = container["Id"].as_str().unwrap();
            let removed = api.ask("DELETE", &format!("/containers/{id}?force=1&v=1"), "").unwrap();
            assert!(matches!(removed.status, 204 | 404 | 409), "{removed:?}\n{}", self.daemon.log());
        }
        let networks = list("/networks?filters=%7B%22type%22%3A%5B%22custom%22%5D%7D");
        for network in networks.as_array().unwrap() {
            let removed = api.ask("DELETE", &format!("/networks/{}", network["Id"].as_str().unwrap()), "");
            assert_eq!(removed.unwrap().status, 204, "{network}\n{}", self.daemon.log());
        }
        for volume in list("/volumes")["Volumes"].as_array().unwrap() {
            let removed = api.ask("DELETE", &format!("/volumes/{}", volume["Name"].as_str().unwrap()), "");
            assert_eq!(removed.unwrap().status, 204, "{volume}\n{}", self.daemon.log());
        }
        self.models.iter_mut().for_each(Model::clear);
        self.await_nothing_left();
        let log = self.daemon.log();
        self.daemon.kill();
        self.daemon.restart(&self.holder);
        self.await_nothing_left();
        let refused = self.daemon.log().split_off(log.len());
        assert!(!refused.contains("WARN") && !refused.contains("ERROR"), "{refused}");
    }

    fn await_nothing_left(&self) {
        let begun = Instant::now();
        loop {
            let left = self.left();
            if left.is_empty() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "left: {left:#?}\n{}", self.daemon.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn left(&self) -> Vec<String> {
        let mut left = self.daemon.leftovers();
        left.extend(self.daemon.processes());
        left.extend(self.daemon.links().into_iter().filter(|link| !self.links.contains(link)));
        let rules = self.daemon.rules();
        if rules != self.rules {
            left.push(format!("{rules} rules, {} before", self.rules));
        }
        for directory in ["root/volumes", "root/store/leases", "root/store/tmp", "run/names", "run/shm"] {
            left.extend(entries(&self.daemon.dir().join(directory)));
        }
        let networks = entries(&self.daemon.dir().join("root/networks"));
        if networks.len() != 3 {
            left.extend(networks);
        }
        for controller in entries(Path::new("/sys/fs/cgroup")) {
            let group = Path::new(&controller).join(&self.group[1..]);
            left.extend(entries(&group).into_iter().filter(|path| Path::new(path).is_dir()));
        }
        let containers = self.daemon.api().ask("GET", "/containers/json?all=1", "").unwrap();
        if containers.body.trim() != "[]" {
            left.push(containers.body);
        }
        left
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        for controller in entries(Path::new("/sys/fs/cgroup")) {
            let group = Path::new(&controller).join(&self.group[1..]);
            for frozen in entries(&group) {
                // There is one only where there is a freezer, and something is left only when the test has failed.
                let _ = std::fs::write(Path::new(&frozen).join("freezer.state"), "THAWED");
            }
            let _ = std::fs::remove_dir(group);
        }
    }
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().display().to_string()).collect()
}

/// Numbers that a seed gives.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }
}

/// One that works on its own things until the daemon is gone.
struct Client<'a> {
    api: Api,
    number: usize,
    model: &'a mut Model,
    random: Random,
    mark: String,
    group: &'a str,
}

impl Client<'_> {
    fn work(mut self) {
        // The daemon is killed in the midst of it.
        while self.act().is_some() {}
    }

    fn act(&mut self) -> Option<()> {
        let name = format!("c{}-{}", self.number, self.random.below(CONTAINERS_EACH));
        let container = format!("containers/{name}");
        match self.random.below(32) {
            0..8 => self.make(&name)?,
            8..12 => drop(self.change(&container, "POST", "/start", "", Known::Running)?),
            12 | 13 => drop(self.change(&container, "POST", "/stop?t=0", "", Known::Stopped)?),
            14 => drop(self.change(&container, "POST", "/restart?t=0", "", Known::Running)?),
            15 => drop(self.change(&container, "POST", "/kill", "", Known::Stopped)?),
            16 | 17 => drop(self.change(&container, "DELETE", "?force=1&v=1", "", Known::Absent)?),
            18 => drop(self.change(&container, "DELETE", "", "", Known::Absent)?),
            19 => drop(self.change(&container, "POST", "/pause", "", Known::Running)?),
            20 => drop(self.change(&container, "POST", "/unpause", "", Known::Running)?),
            21..24 => self.run_inside(&container)?,
            24 => self.make_network()?,
            25 => self.connect(&name)?,
            26 => self.remove("networks", "n")?,
            27 => self.make_volume()?,
            28 => self.remove("volumes", "v")?,
            29 => drop(self.api.ask("GET", "/containers/json?all=1&size=1", "").ok()?),
            30 => drop(self.api.ask("GET", &format!("/{container}/logs?stdout=1"), "").ok()?),
            _ => self.run_briefly()?,
        }
        Some(())
    }

    /// Asks for a change. When it is done the thing is `then`; when there is no answer it may be anything.
    fn change(&mut self, thing: &str, method: &str, what: &str, body: &str, then: Known) -> Option<u16> {
        let before = self.model.insert(thing.to_owned(), Known::Nothing);
        let answer = self.api.ask(method, &format!("/{thing}{what}"), body).ok()?;
        let known = match answer.status {
            200..300 | 304 => then,
            404 if method == "DELETE" || answer.body.contains("No such container") => Known::Absent,
            // Refused: it is as it was, or somebody else is at it.
            _ => before.unwrap_or(Known::Nothing),
        };
        assert!(answer.status < 500, "{method} {thing}{what}: {answer:?}");
        self.model.insert(thing.to_owned(), known);
        Some(answer.status)
    }

    fn make(&mut self, name: &str) -> Option<()> {
        let thing = format!("containers/{name}");
        let before = self.model.insert(thing.clone(), Known::Nothing);
        let body = self.body();
        // A volume that is not there is made.
        self.model.insert(format!("volumes/v{}", self.number), Known::Nothing);
        let answer =
            self.api.ask("POST", &format!("/containers/create?name={name}"), &body.to_string()).ok()?;
        let known = match answer.status {
            201 => Known::Stopped,
            409 => before.unwrap_or(Known::Present),
            _ => Known::Absent,
        };
        self.model.insert(thing.clone(), known);
        if answer.status == 201 {
            self.change(&thing, "POST", "/start", "", Known::Running)?;
        }
        Some(())
    }

    fn body(&mut self) -> Value {
        let network = [
            "bridge".to_owned(),
            "none".to_owned(),
            "host".to_owned(),
            format!("n{}", self.number),
            format!("n{}", self.number),
        ];
        let volume = format!("v{}:/data", self.number);
        let binds: &[&[&str]] = &[&[], &["/anonymous"], &[&volume]];
        let ports = [json!({}), json!({ "80/tcp": [{ "HostIp": "127.0.0.1", "HostPort": "" }] })];
        let health = [json!(null), json!({ "Test": ["CMD", "true"], "Interval": 100_000_000 })];
        json!({
            "Image": "bb",
            "Cmd": ["sh", "-c", "trap 'exit 0' TERM; echo begun; sleep 100000 & wait"],
            "Env": [format!("{MARK}={}", self.mark)],
            "Tty": self.random.below(4) == 0,
            "Healthcheck": self.random.pick(&health),
            "HostConfig": {
                "CgroupParent": self.group,
                "NetworkMode": self.random.pick(&network),
                "Binds": self.random.pick(binds),
                "PortBindings": self.random.pick(&ports),
                "IpcMode": self.random.pick(&["", "shareable"]),
                "RestartPolicy": { "Name": self.random.pick(&["no", "always", "unless-stopped"]) },
            },
        })
    }

    /// One that ends by itself and is then to be gone.
    fn run_briefly(&mut self) -> Option<()> {
        let mut body = self.body();
        body["Cmd"] = json!(["sleep", "0.2"]);
        self.model.insert(format!("volumes/v{}", self.number), Known::Nothing);
        body["HostConfig"]["AutoRemove"] = json!(true);
        body["HostConfig"]["RestartPolicy"] = json!({ "Name": "no" });
        let made = self.api.ask("POST", "/containers/create", &body.to_string()).ok()?;
        if made.status == 201 {
            let id = made.json()["Id"].as_str().unwrap().to_owned();
            self.api.ask("POST", &format!("/containers/{id}/start"), "").ok()?;
        }
        Some(())
    }

    fn run_inside(&mut self, container: &str) -> Option<()> {
        let command = *self.random.pick(&["echo inside", "sleep 1000"]);
        let detached = command.starts_with("sleep");
        let body = json!({
            "Cmd": ["sh", "-c", command], "AttachStdout": !detached, "Env": [format!("{MARK}={}", self.mark)],
        });
        let made = self.api.ask("POST", &format!("/{container}/exec"), &body.to_string()).ok()?;
        if made.status == 201 {
            let id = made.json()["Id"].as_str().unwrap().to_owned();
            let start = json!({ "Detach": detached }).to_string();
            self.api.ask("POST", &format!("/exec/{id}/start"), &start).ok()?;
        }
        Some(())
    }

    fn make_network(&mut self) -> Option<()> {
        let thing = format!("networks/n{}", self.number);
        self.make_named("/networks/create", &thing, &json!({ "Name": format!("n{}", self.number) }))
    }

    fn make_volume(&mut self) -> Option<()> {
        let options = [json!({}), json!({ "type": "tmpfs", "device": "tmpfs" })];
        let body = json!({ "Name": format!("v{}", self.number), "DriverOpts": self.random.pick(&options) });
        self.make_named("/volumes/create", &format!("volumes/v{}", self.number), &body)
    }

    fn make_named(&mut self, path: &str, thing: &str, body: &Value) -> Option<()> {
        self.model.insert(thing.to_owned(), Known::Nothing);
        let answer = self.api.ask("POST", path, &body.to_string()).ok()?;
        assert!(matches!(answer.status, 201 | 409), "{path} {body}: {answer:?}");
        self.model.insert(thing.to_owned(), Known::Present);
        Some(())
    }

    fn remove(&mut self, kind: &str, letter: &str) -> Option<()> {
        let thing = format!("{kind}/{letter}{}", self.number);
        self.change(&thing, "DELETE", "", "", Known::Absent).map(drop)
    }

    fn connect(&mut self, name: &str) -> Option<()> {
        let what = *self.random.pick(&["connect", "disconnect"]);
        let body = json!({ "Container": name }).to_string();
        self.api.ask("POST", &format!("/networks/n{}/{what}", self.number), &body).ok().map(drop)
    }
}
