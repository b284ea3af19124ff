use super::process::ProcessPlan;
use super::resources::{devices, settings};
use super::{Facts, Plan};
use crate::RuntimeError;
use crate::spec::{ProcessSpec, Resources, Seccomp, Spec};

fn spec(text: &str) -> Spec {
    let base = r#"{"ociVersion": "1.2.0", "root": {"path": "rootfs", "readonly": true},
        "process": {"args": ["sh"], "cwd": "/"}"#;
    Spec::parse(format!("{base}{text}}}").as_bytes()).unwrap()
}

fn facts() -> Facts {
    Facts { id: "one".into(), bundle: "/bundle".into(), ..Facts::default() }
}

fn steps(text: &str) -> String {
    let plan = Plan::new(&spec(text), &facts()).unwrap();
    plan.steps.iter().map(|step| format!("{step}\n")).collect()
}

fn refusal(text: &str) -> String {
    match Plan::new(&spec(text), &facts()) {
        Err(error @ RuntimeError::Invalid { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

const MOUNT: &str = r#""namespaces": [{"type": "mount"}]"#;

#[test]
fn a_small_container_is_these_steps() {
    let found = steps(
        r#", "hostname": "box", "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/data", "type": "bind", "source": "data", "options": ["rbind", "ro", "rnosuid", "rslave"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=1m", "tmpcopyup"]}
        ], "linux": {"namespaces": [{"type": "uts"}, {"type": "mount"}, {"type": "network"}, {"type": "cgroup"}],
            "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"], "sysctl": {"net.ipv4.ip_forward": "1"},
            "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438}]}"#,
    );
    let expected = "\
make the keyring _ses.one
raise the loopback
set the host name to box
make the mounts rslave
open the root /bundle/rootfs
mount proc on /proc
show /bundle/data with all in it on /data (ro,rnosuid,rslave)
mount tmpfs on /tmp (nosuid,size=1m,tmpcopyup)
make the device /dev/fuse (c 10:229 0666 0:0)
make the device /dev/null (c 1:3 0666 0:0)
make the device /dev/zero (c 1:5 0666 0:0)
make the device /dev/full (c 1:7 0666 0:0)
make the device /dev/random (c 1:8 0666 0:0)
make the device /dev/urandom (c 1:9 0666 0:0)
make the device /dev/tty (c 5:0 0666 0:0)
link /dev/fd to /proc/self/fd
link /dev/stdin to /proc/self/fd/0
link /dev/stdout to /proc/self/fd/1
link /dev/stderr to /proc/self/fd/2
link /dev/ptmx to pts/ptmx
set net.ipv4.ip_forward to 1
make /proc/sys read-only
hide /proc/kcore
pivot into the root
make the root read-only
make the control group the root of those seen
wait for the number outside
";
    assert_eq!(found, expected);
}

#[test]
fn hooks_outside_are_waited_for_where_there_are_any() {
    let found = steps(&format!(
        r#", "hooks": {{"createRuntime": [{{"path": "/bin/true"}}], "createContainer": [{{"path": "/bin/true"}}]}},
        "linux": {{{MOUNT}}}"#
    ));
    assert!(found.contains("wait for the hooks outside\nrun the createContainer hooks\npivot"), "{found}");
}

#[test]
fn the_cgroup_namespace_comes_before_the_mount_that_shows_it() {
    let found = steps(
        r#", "mounts": [{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}],
        "linux": {"namespaces": [{"type": "mount"}, {"type": "cgroup"}]}"#,
    );
    let place = |word: &str| found.lines().position(|line| line.contains(word)).unwrap();
    assert!(place("root of those seen") < place("show the control groups"), "{found}");
    assert_eq!(found.matches("root of those seen").count(), 1);
}

#[test]
fn devices_are_shown_where_they_cannot_be_made() {
    let found = steps(
        r#", "linux": {"namespaces": [{"type": "mount"}, {"type": "user"}],
        "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
        "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}]}"#,
    );
    assert!(found.contains("show the device /dev/null") && !found.contains("make the device"), "{found}");
}

#[test]
fn what_would_change_the_host_is_refused() {
    assert!(refusal("").contains("root: would change the host's own: add the mnt namespace"));
    assert!(refusal(&format!(r#", "hostname": "x", "linux": {{{MOUNT}}}"#)).contains("uts namespace"));
    let sysctl = |key: &str| refusal(&format!(r#", "linux": {{{MOUNT}, "sysctl": {{"{key}": "1"}}}}"#));
    assert!(sysctl("net.ipv4.ip_forward").contains("host's own"));
    assert!(sysctl("kernel.panic").contains("not kept apart"));
    let uts = |key: &str| {
        let kinds = r#""namespaces": [{"type": "mount"}, {"type": "uts"}]"#;
        refusal(&format!(r#", "domainname": "a", "linux": {{{kinds}, "sysctl": {{"{key}": "x"}}}}"#))
    };
    assert!(uts("kernel.hostname").contains("field of its own"));
    assert!(uts("kernel/domainname").contains("field of its own"));
    assert!(sysctl("vm.swappiness").contains("not kept apart"));
}

#[test]
fn what_is_not_offered_is_refused_by_its_name() {
    let cases = [
        (r#""intelRdt": {"closID": "x"}"#, "linux.intelRdt"),
        (r#""netDevices": {"eth0": {}}"#, "linux.netDevices"),
        (r#""cgroupsPath": "a/../../b""#, "linux.cgroupsPath"),
        (r#""cgroupsPath": "system.slice:knarr:one""#, "cgroupfs"),
        (r#""seccomp": {"defaultAction": "SCMP_ACT_SING"}"#, "SCMP_ACT_SING"),
        (r#""rootfsPropagation": "sideways""#, "sideways"),
        (r#""maskedPaths": ["proc/kcore"]"#, "absolute"),
        (r#""devices": [{"path": "/dev/x", "type": "z"}]"#, "kind of device"),
        (r#""personality": {"domain": "PLAN9"}"#, "PLAN9"),
        (r#""timeOffsets": {"monotonic": {"secs": 1}}"#, "time namespace"),
    ];
    for (field, words) in cases {
        let text = refusal(&format!(r#", "linux": {{{MOUNT}, {field}}}"#));
        assert!(text.contains(words), "{field}: {text}");
    }
}

#[test]
fn namespaces_are_known_and_there_once() {
    let kinds = |kinds: &str| refusal(&format!(r#", "linux": {{"namespaces": [{kinds}]}}"#));
    assert!(kinds(r#"{"type": "mount"}, {"type": "mount"}"#).contains("twice"));
    assert!(kinds(r#"{"type": "mnt"}"#).contains("no kind"));
    assert!(kinds(r#"{"type": "mount"}, {"type": "network", "path": "proc/1/ns/net"}"#).contains("absolute"));
    assert!(kinds(r#"{"type": "mount"}, {"type": "user"}"#).contains("uidMappings"));
}

#[test]
fn versions_from_1_0_are_followed() {
    let check = |version: &str| super::check_version(version).is_ok();
    assert!(check("1.0.0") && check("1.0.2-dev") && check("1.9.0"));
    assert!(!check("") && !check("1") && !check("0.9.0") && !check("2.0.0"));
}

#[test]
fn a_process_in_between_is_needed_for_who_must_be_born_inside() {
    let staged = |kinds: &str| {
        let maps = r#""uidMappings": [{"size": 1}], "gidMappings": [{"size": 1}]"#;
        let text = format!(r#", "linux": {{{maps}, "namespaces": [{{"type": "mount"}}, {kinds}]}}"#);
        Plan::new(&spec(&text), &facts()).unwrap().launch.is_staged()
    };
    assert!(!staged(r#"{"type": "user"}, {"type": "pid"}"#));
    assert!(staged(r#"{"type": "user"}, {"type": "time"}"#));
    assert!(staged(r#"{"type": "user", "path": "/proc/9/ns/user"}, {"type": "pid"}"#));
    assert!(!staged(r#"{"type": "user", "path": "/proc/9/ns/user"}"#));
}

fn limits(text: &str, unified: bool) -> Result<String, RuntimeError> {
    let resources: Resources = serde_json::from_str(text).unwrap();
    let line = |setting: &super::resources::Setting| format!("{}={}\n", setting.file, setting.value);
    settings(&resources, unified).map(|settings| settings.iter().map(line).collect())
}

const LIMITS: &str = r#"{"memory": {"limit": 1048576, "swap": 2097152, "reservation": 524288},
    "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0-1"}, "pids": {"limit": 10},
    "blockIO": {"weight": 100, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}]},
    "hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}"#;

#[test]
fn limits_are_files_of_version_1() {
    let expected = "\
memory.limit_in_bytes=1048576
memory.memsw.limit_in_bytes=2097152
memory.soft_limit_in_bytes=524288
cpu.shares=1024
cpu.cfs_period_us=100000
cpu.cfs_quota_us=50000
cpuset.cpus=0-1
pids.max=10
blkio.bfq.weight=100
blkio.throttle.read_bps_device=8:0 1000
hugetlb.2MB.limit_in_bytes=0
";
    assert_eq!(limits(LIMITS, false).unwrap(), expected);
}

#[test]
fn limits_are_files_of_version_2() {
    let expected = "\
memory.max=1048576
memory.low=524288
memory.swap.max=1048576
cpu.weight=39
cpu.max=50000 100000
cpuset.cpus=0-1
pids.max=10
io.bfq.weight=100
io.max=8:0 rbps=1000
hugetlb.2MB.max=0
";
    assert_eq!(limits(LIMITS, true).unwrap(), expected);
}

#[test]
fn what_a_version_lacks_is_refused() {
    assert!(limits(r#"{"unified": {"memory.high": "1"}}"#, false).is_err());
    assert_eq!(limits(r#"{"unified": {"memory.high": "1"}}"#, true).unwrap(), "memory.high=1\n");
    assert!(limits(r#"{"unified": {"../memory.high": "1"}}"#, true).is_err());
    assert!(limits(r#"{"network": {"classID": 1}}"#, true).is_err());
    assert!(limits(r#"{"memory": {"swap": 10}}"#, true).is_err());
    assert_eq!(
        limits(r#"{"memory": {"limit": -1, "swap": -1}, "pids": {"limit": -1}}"#, true).unwrap(),
        "memory.max=max\nmemory.swap.max=max\npids.max=max\n"
    );
}

#[test]
fn devices_are_denied_first_and_what_all_need_comes_last() {
    let resources = |text: &str| serde_json::from_str::<Resources>(text).unwrap();
    let words = |text: &str| -> Vec<String> {
        let rules = devices(&resources(text), false).unwrap();
        rules
            .iter()
            .map(|rule| {
                let (file, value) = rule.to_file();
                format!("{file} {value}")
            })
            .collect()
    };
    let found =
        words(r#"{"devices": [{"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}]}"#);
    assert_eq!(found[0], "devices.deny a *:* rwm");
    assert_eq!(found[1], "devices.allow c 10:229 rw");
    assert!(found.contains(&"devices.allow c 1:3 rwm".to_owned()) && found.len() == 12, "{found:?}");
    let all =
        words(r#"{"devices": [{"allow": true}, {"allow": false, "type": "b", "major": 8, "minor": 0}]}"#);
    assert_eq!(all[1..], ["devices.allow a *:* rwm", "devices.deny b 8:0 rwm"]);
    assert!(devices(&resources(r#"{"devices": [{"allow": true, "access": "rx"}]}"#), false).is_err());
    assert_eq!(devices(&resources("{}"), true).unwrap(), []);
}

fn process(text: &str) -> Result<ProcessPlan, RuntimeError> {
    let process: ProcessSpec = serde_json::from_str(text).unwrap();
    ProcessPlan::new(&process, &crate::spec::Linux::default())
}

#[test]
fn a_process_is_checked_on_paper() {
    assert!(process(r#"{"args": ["a"], "cwd": "/"}"#).is_ok());
    let bad = [
        r#"{"args": [], "cwd": "/"}"#,
        r#"{"args": ["a"], "cwd": "relative"}"#,
        r#"{"args": ["a"], "cwd": "/", "oomScoreAdj": 1001}"#,
        r#"{"args": ["a\u0000b"], "cwd": "/"}"#,
        r#"{"args": ["a"], "cwd": "/", "capabilities": {"bounding": ["CAP_FLY"]}}"#,
        r#"{"args": ["a"], "cwd": "/", "rlimits": [{"type": "RLIMIT_MOOD", "soft": 1, "hard": 1}]}"#,
        r#"{"args": ["a"], "cwd": "/", "rlimits": [{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]}"#,
        r#"{"args": ["a"], "cwd": "/", "rlimits": [{"type": "RLIMIT_CORE"}, {"type": "RLIMIT_CORE"}]}"#,
        r#"{"args": ["a"], "cwd": "/", "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8}}"#,
        r#"{"args": ["a"], "cwd": "/", "scheduler": {"policy": "SCHED_MAYBE"}}"#,
    ];
    for text in bad {
        assert!(process(text).is_err(), "{text}");
    }
}

#[test]
fn conditions_on_one_argument_are_alternatives() {
    let compile = |rules: &[String]| {
        let rule = |args: &String| {
            format!(
                r#"{{"names": ["personality", "no_such_call"], "action": "SCMP_ACT_ERRNO", "args": [{args}]}}"#
            )
        };
        let rules: Vec<String> = rules.iter().map(rule).collect();
        let text = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{}]}}"#, rules.join(","));
        let seccomp: Seccomp = serde_json::from_str(&text).unwrap();
        super::process::seccomp_plan(&seccomp).unwrap().filter
    };
    let argument =
        |index: u32, value: u32| format!(r#"{{"index": {index}, "value": {value}, "op": "SCMP_CMP_EQ"}}"#);
    let (one, other, different) = (argument(0, 8), argument(0, 9), argument(1, 9));
    let both = |second: &String| format!("{one},{second}");
    assert_eq!(compile(&[both(&other)]), compile(&[one.clone(), other.clone()]));
    assert_ne!(compile(&[both(&different)]), compile(&[one.clone(), different.clone()]));
}

#[test]
fn null_is_what_is_not_said() {
    let text = r#"{"ociVersion": "1.0.0", "mounts": null, "linux": {"resources": null, "seccomp": null, "devices": null},
        "process": {"args": null, "capabilities": {"bounding": null}, "user": {"additionalGids": null}}}"#;
    assert!(Spec::parse(text.as_bytes()).is_ok());
}
