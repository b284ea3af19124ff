use std::fs;
use std::path::PathBuf;

use super::device::{DeviceKind, DeviceRule, MKNOD, READ, WRITE, compile};
use super::{Cgroup, Directory, Hierarchies, Mounted};

const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

#[test]
fn version_1_counts_where_it_has_controllers() {
    let mounted = Mounted {
        controllers: vec!["cpu".into(), "cpuacct".into()],
        path: PathBuf::from("/sys/fs/cgroup/cpu"),
    };
    assert_eq!(Hierarchies::parse(HYBRID), Some(Hierarchies::V1(vec![mounted])));
    let unified = "30 1 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    assert_eq!(Hierarchies::parse(unified), Some(Hierarchies::V2("/sys/fs/cgroup".into())));
    assert_eq!(Hierarchies::parse(""), None);
}

/// A directory that looks like version 2's root.
fn fake_root(name: &str) -> PathBuf {
    let root = std::env::temp_dir().join(format!("knarr-cgroup-{name}-{}", std::process::id()));
    fs::create_dir_all(&root).unwrap();
    fs::write(root.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
    fs::write(root.join("cgroup.subtree_control"), "cpu\n").unwrap();
    root
}

#[test]
fn version_2_enables_what_is_there_and_makes_one_directory() {
    let root = fake_root("enable");
    let hierarchies = Hierarchies::V2(root.clone());
    let cgroup = hierarchies.plan("/one");
    cgroup.make().unwrap();
    assert!(cgroup.unified && root.join("one").is_dir());
    // A file keeps the last word at its start; the kernel would keep all.
    assert!(fs::read_to_string(root.join("cgroup.subtree_control")).unwrap().starts_with("+pids"));
    assert_eq!(cgroup.directories[0].made, Some(root.join("one")));
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn what_was_there_before_is_not_removed() {
    let root = fake_root("keep");
    fs::create_dir(root.join("theirs")).unwrap();
    let hierarchies = Hierarchies::V2(root.clone());
    let cgroup = hierarchies.plan("/theirs");
    cgroup.make().unwrap();
    cgroup.remove().unwrap();
    assert!(root.join("theirs").is_dir());
    let cgroup = hierarchies.plan("/ours");
    cgroup.make().unwrap();
    assert!(root.join("ours").is_dir());
    cgroup.remove().unwrap();
    assert!(!root.join("ours").exists());
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_missing_controller_is_named() {
    let directory = Directory { controllers: vec!["cpu".into()], ..Directory::default() };
    let cgroup = Cgroup { unified: false, directories: vec![directory] };
    let error = cgroup.write("memory", "memory.limit_in_bytes", "1").unwrap_err();
    let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
    assert_eq!(text, "cannot set memory.limit_in_bytes: this machine has no memory controller");
}

fn rule(allow: bool, kind: DeviceKind, major: Option<u32>, minor: Option<u32>, access: u32) -> DeviceRule {
    DeviceRule { allow, kind, major, minor, access }
}

#[test]
fn a_rule_reads_as_version_1_wants_it() {
    let all = rule(false, DeviceKind::All, None, None, READ | WRITE | MKNOD);
    assert_eq!(all.to_file(), ("devices.deny", "a *:* rwm".to_owned()));
    let null = rule(true, DeviceKind::Character, Some(1), Some(3), READ);
    assert_eq!(null.to_file(), ("devices.allow", "c 1:3 r".to_owned()));
}

/// Runs the few instructions that such programs have.
fn allows(rules: &[DeviceRule], kind: u32, access: u32, major: u32, minor: u32) -> bool {
    let program = compile(rules);
    let mut registers = [0_u64; 8];
    let mut at = 0_usize;
    loop {
        let now = program[at];
        let (to, from) = (usize::from(now.registers & 15), usize::from(now.registers >> 4));
        at += 1;
        match now.code {
            super::device::LOAD_WORD => {
                registers[to] = u64::from([access << 16 | kind, major, minor][now.offset as usize / 4]);
            }
            super::device::MOVE => registers[to] = now.value as u64,
            super::device::MOVE_REGISTER => registers[to] = registers[from],
            super::device::AND_WORD => registers[to] &= now.value as u64,
            super::device::SHIFT_RIGHT => registers[to] >>= now.value,
            super::device::JUMP_NOT_EQUAL if registers[to] != now.value as u64 => at += now.offset as usize,
            super::device::JUMP_EQUAL if registers[to] == now.value as u64 => at += now.offset as usize,
            super::device::JUMP_NOT_EQUAL | super::device::JUMP_EQUAL => {}
            super::device::EXIT => return registers[0] == 1,
            other => panic!("instruction {other:#x}"),
        }
    }
}

#[test]
fn the_last_rule_that_fits_decides() {
    let (block, character) = (1, 2);
    let rules = [
        rule(false, DeviceKind::All, None, None, READ | WRITE | MKNOD),
        rule(true, DeviceKind::Character, Some(1), Some(3), READ | WRITE | MKNOD),
        rule(true, DeviceKind::Character, Some(5), None, READ | WRITE),
        rule(false, DeviceKind::Character, Some(5), Some(9), WRITE),
        rule(true, DeviceKind::Block, None, None, MKNOD),
    ];
    let answer = |kind, access, major, minor| allows(&rules, kind, access, major, minor);
    assert!(answer(character, READ | WRITE | MKNOD, 1, 3));
    assert!(!answer(character, READ, 1, 4));
    assert!(!answer(block, READ, 1, 3));
    assert!(answer(character, READ | WRITE, 5, 1));
    assert!(!answer(character, READ | MKNOD, 5, 1));
    assert!(answer(character, READ, 5, 9));
    assert!(!answer(character, READ | WRITE, 5, 9));
    assert!(answer(block, MKNOD, 8, 0));
    assert!(!answer(block, MKNOD | READ, 8, 0));
}

#[test]
fn what_no_rule_fits_is_denied_and_a_last_rule_for_all_ends_the_program() {
    assert!(!allows(&[], 1, READ, 8, 0));
    let everything = [rule(true, DeviceKind::All, None, None, READ | WRITE | MKNOD)];
    assert!(allows(&everything, 1, READ | WRITE | MKNOD, 8, 0));
    assert_eq!(compile(&everything).len(), 8);
}

#[test]
fn weights_of_block_devices_have_other_names_without_their_scheduler() {
    let io = |file: &str, value: &str| super::without_bfq(file, value).unwrap();
    assert_eq!(io("blkio.bfq.weight", "300"), ("blkio.weight", "300".to_owned()));
    assert_eq!(io("io.bfq.weight", "10"), ("io.weight", "default 1".to_owned()));
    assert_eq!(io("io.bfq.weight", "8:0 1000"), ("io.weight", "8:0 10000".to_owned()));
    assert_eq!(super::without_bfq("io.max", "1"), None);
}
