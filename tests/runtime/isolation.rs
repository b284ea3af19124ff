//! Tries to get out of a container, or to see what it must not see. Each is blocked.

use std::os::unix::fs::OpenOptionsExt;

use super::*;

/// What a script prints inside, as root with docker's capabilities.
fn inside(script: &str) -> String {
    Bundle::new().script(script).says()
}

/// The script prints nothing but these words, and above all not `escaped`.
fn assert_blocked(script: &str, words: &str) {
    let text = inside(script);
    assert!(text.contains(words) && !text.contains("escaped"), "{text}");
}

#[test]
fn the_hosts_disk_cannot_be_opened_through_a_node() {
    needs_root!();
    assert_blocked(
        "mknod /tmp/disk b 254 0 && dd if=/tmp/disk of=/tmp/x count=1 && echo escaped",
        "not permitted",
    );
}

#[test]
fn memory_and_ports_cannot_be_opened_through_a_node() {
    needs_root!();
    assert_blocked(
        "mknod /tmp/mem c 1 1; mknod /tmp/port c 1 4; head -c1 /tmp/mem && echo escaped; head -c1 /tmp/port && echo escaped",
        "not permitted",
    );
}

#[test]
fn the_kernels_log_cannot_be_opened_through_a_node() {
    needs_root!();
    assert_blocked("mknod /tmp/kmsg c 1 11; timeout 1 head -c1 /tmp/kmsg && echo escaped", "not permitted");
    assert_blocked("dmesg && echo escaped", "not permitted");
}

#[test]
fn nothing_can_be_mounted() {
    needs_root!();
    assert_blocked("mount -t tmpfs x /mnt && echo escaped", "permission denied");
    assert_blocked("mount -t proc x /mnt && echo escaped", "permission denied");
    assert_blocked("mount --bind / /mnt && echo escaped", "permission denied");
}

#[test]
fn guards_cannot_be_taken_away() {
    needs_root!();
    assert_blocked("umount /proc/sys && echo escaped", "not permitted");
    assert_blocked("umount /proc/keys && echo escaped", "not permitted");
    assert_blocked("mount -o remount,rw /proc/sys && echo escaped", "permission denied");
}

#[test]
fn the_core_pattern_cannot_be_written() {
    needs_root!();
    assert_blocked(
        "echo '|/bin/sh' > /proc/sys/kernel/core_pattern && echo escaped",
        "Read-only file system",
    );
}

#[test]
fn sysrq_cannot_be_triggered() {
    needs_root!();
    // Not every kernel has the first.
    assert_blocked(
        "echo h > /proc/sysrq-trigger && echo escaped; echo 1 > /proc/irq/default_smp_affinity && echo escaped",
        "Read-only file system",
    );
}

#[test]
fn masked_paths_are_empty() {
    needs_root!();
    let text =
        inside("wc -c < /proc/keys; wc -c < /proc/timer_list; ls -A /sys/firmware /proc/acpi | grep -v :");
    assert_eq!(text.split_whitespace().collect::<String>(), "00", "{text}");
}

#[test]
fn masks_are_the_null_device_and_hold_what_is_written() {
    needs_root!();
    let text = inside(
        "stat -c '%t:%T %F' /proc/keys; echo secret > /proc/keys; cat /proc/keys; touch /sys/firmware/x",
    );
    assert!(text.starts_with("1:3 character special file\n"), "{text}");
    assert!(!text.contains("secret") && text.contains("Read-only file system"), "{text}");
}

#[test]
fn sys_cannot_be_written() {
    needs_root!();
    assert_blocked(
        "echo mem > /sys/power/state && echo escaped; mkdir /sys/x && echo escaped",
        "Read-only file system",
    );
    assert_blocked("echo 0 > /sys/kernel/mm/ksm/run && echo escaped", "Read-only file system");
}

#[test]
fn control_groups_cannot_be_written() {
    needs_root!();
    assert_blocked(
        "for f in /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs; do echo 1 > $f && echo escaped; done; mkdir /sys/fs/cgroup/*/x && echo escaped",
        "Read-only file system",
    );
    // The way of CVE-2022-0492, and devices for all.
    assert_blocked("echo a > /sys/fs/cgroup/devices/devices.allow && echo escaped; true", "");
    assert_blocked("echo /x > /sys/fs/cgroup/memory/release_agent && echo escaped; true", "");
}

#[test]
fn control_groups_of_others_are_not_seen() {
    needs_root!();
    let text = inside("cat /proc/self/cgroup; ls -d /sys/fs/cgroup/*/*/ 2>/dev/null | grep -c knarr-test-");
    assert!(!text.contains("knarr-test-") && text.trim().ends_with('0'), "{text}");
}

#[test]
fn no_new_cgroup_namespace_or_mount_leads_to_the_hosts_groups() {
    needs_root!();
    assert_blocked("mount -t cgroup -o devices x /mnt && echo escaped", "permission denied");
    assert_blocked("unshare -m mount -t cgroup2 x /mnt && echo escaped", "not permitted");
}

#[test]
fn processes_of_the_host_are_neither_seen_nor_hit() {
    needs_root!();
    let host = std::process::id();
    let text =
        inside(&format!("ls -d /proc/[0-9]* | wc -l; kill -0 {host} && echo escaped; kill -9 -1; echo end"));
    let count: u32 = text.lines().next().unwrap().parse().unwrap();
    assert!(count < 6 && !text.contains("escaped") && text.contains("end"), "{text}");
}

#[test]
fn the_root_of_process_1_is_the_containers_own() {
    needs_root!();
    let text = inside("ls /proc/1/root/; ls /proc/1/cwd/; ls /../../../..; ls /proc/1/root/../../..");
    assert!(!text.contains("boot") && text.contains("bin"), "{text}");
}

#[test]
fn namespaces_cannot_be_joined_or_made_without_the_right() {
    needs_root!();
    assert_blocked("nsenter -t 1 -m true && echo escaped", "not permitted");
    assert_blocked("unshare -m true && echo escaped", "not permitted");
    assert_blocked("unshare -n true && echo escaped", "not permitted");
}

#[test]
fn keys_of_the_caller_are_not_seen() {
    needs_root!();
    let text = inside("cat /proc/keys; cat /proc/key-users 2>/dev/null | wc -c");
    assert!(!text.contains("_ses") && !text.contains("keyring"), "{text}");
}

#[test]
fn the_keyring_of_the_session_is_a_new_one() {
    needs_root!();
    let mut bundle = Bundle::new();
    bundle.config["linux"]["maskedPaths"] = json!([]);
    let text = bundle.script("cat /proc/keys").says();
    assert!(text.contains(&format!("_ses.{}", bundle.id)), "{text}");
}

#[test]
fn the_network_of_the_host_is_not_seen() {
    needs_root!();
    let text = inside(
        "tail -n +3 /proc/net/dev | cut -d: -f1; ip addr show lo | grep -c 127.0.0.1; cat /proc/net/unix | wc -l",
    );
    let lines: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(lines, ["lo", "1", "1"], "{text}");
}

#[test]
fn raw_sockets_need_their_capability() {
    needs_root!();
    let mut bundle = Bundle::new();
    bundle.set_capabilities(&["CAP_CHOWN"]);
    let text =
        bundle.script("ping -c1 -w1 127.0.0.1 && echo escaped; arping -c1 127.0.0.1 && echo escaped").says();
    assert!(text.contains("ermission denied") && !text.contains("escaped"), "{text}");
}

#[test]
fn the_name_and_the_clock_of_the_machine_cannot_be_changed() {
    needs_root!();
    assert_blocked("hostname evil && echo escaped", "not permitted");
    assert_blocked("date -s 2001-01-01 >/dev/null; test $(date +%Y) = 2001 && echo escaped", "not permitted");
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let mut bundle = Bundle::new();
    bundle.set_capabilities(&["CAP_SYS_ADMIN"]);
    assert_eq!(bundle.script("hostname evil; hostname").says(), "evil\n");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), host);
}

#[test]
fn the_machine_cannot_be_stopped_or_given_modules() {
    needs_root!();
    assert_blocked(
        "reboot -f && echo escaped; echo x > /tmp/x.ko; insmod /tmp/x.ko && echo escaped",
        "not permitted",
    );
    assert_blocked(
        "dd if=/dev/zero of=/tmp/s bs=1M count=1; mkswap /tmp/s; swapon /tmp/s && echo escaped",
        "not permitted",
    );
}

#[test]
fn a_setuid_program_gives_nothing_with_no_new_privileges() {
    needs_root!();
    let mut bundle = Bundle::new();
    fs::create_dir(bundle.path("rootfs/setuid")).unwrap();
    let program = bundle.path("rootfs/setuid/ping");
    fs::copy(bundle.path("rootfs/bin/busybox"), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    bundle.config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    bundle.script("/setuid/ping -c1 -w1 127.0.0.1");
    assert!(bundle.says().contains("1 packets received"));
    bundle.config["process"]["noNewPrivileges"] = json!(true);
    let text = bundle.says();
    assert!(text.contains("ermission denied") && !text.contains("received"), "{text}");
}

#[test]
fn groups_of_the_caller_are_dropped() {
    needs_root!();
    let mut bundle = Bundle::new();
    bundle.config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
    bundle.script("id -G; grep Groups /proc/self/status");
    bundle.write();
    let mut command = Command::new("setpriv");
    let oci = bundle.oci(&["run", &bundle.id]);
    command
        .args(["--groups", "0,4,6,20"])
        .arg(oci.get_program())
        .args(oci.get_args())
        .current_dir(bundle.dir.path());
    let output = succeed(&mut command);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).split_whitespace().collect::<Vec<_>>(),
        ["1000", "Groups:"]
    );
}

#[test]
fn a_working_directory_through_a_leaked_descriptor_is_refused() {
    needs_root!();
    // The way of CVE-2024-21626.
    for number in 3..9 {
        let mut bundle = Bundle::new();
        bundle.config["process"]["cwd"] = json!(format!("/proc/self/fd/{number}"));
        let text = bundle.refuses();
        assert!(text.contains("cwd") || text.contains("pivot"), "{text}");
    }
    let bundle = Bundle::new();
    bundle.start();
    for number in 3..9 {
        let cwd = format!("/proc/self/fd/{number}");
        fail(&mut bundle.oci(&["exec", "--cwd", &cwd, &bundle.id, "ls"]), 255);
    }
}

#[test]
fn no_descriptor_of_the_runtime_is_left_open() {
    needs_root!();
    let mut bundle = Bundle::new();
    // ls has one of its own.
    assert_eq!(bundle.script("ls /proc/self/fd | tr '\\n' ' '").says().trim(), "0 1 2 3");
    bundle.config["process"]["args"] = json!(["sleep", "1000"]);
    bundle.start();
    let output = succeed(&mut bundle.exec(&["sh", "-c", "ls /proc/self/fd | tr '\\n' ' '"]));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "0 1 2 3");
}

#[test]
fn the_program_of_the_runtime_cannot_be_written_through_proc() {
    needs_root!();
    // The way of CVE-2019-5736: the handle on what waits inside is of a mount that allows no writing.
    let mut bundle = Bundle::new();
    bundle.write();
    // A copy that nobody else runs: what runs cannot be written to anyway.
    let program = bundle.path("knarr-oci");
    fs::copy(env!("CARGO_BIN_EXE_knarr"), &program).unwrap();
    let mut create = Command::new(&program);
    create.arg("--root").arg(bundle.path("state")).args(["create", "one"]).current_dir(bundle.dir.path());
    create.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(create.status().unwrap().success());
    let state: Value =
        serde_json::from_slice(&fs::read(bundle.path("state/one/state.json")).unwrap()).unwrap();
    let handle = fs::OpenOptions::new()
        .read(true)
        .custom_flags(0o10_000_000)
        .open(format!("/proc/{}/exe", state["pid"]))
        .unwrap();
    succeed(Command::new(&program).arg("--root").arg(bundle.path("state")).args(["delete", "-f", "one"]));
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&handle));
    let opened = fs::OpenOptions::new().write(true).open(path).unwrap_err();
    assert_eq!(opened.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{opened}");
    assert!(fs::OpenOptions::new().write(true).open(&program).is_ok());
    bundle.config["process"]["args"] = json!(["/proc/self/exe", "--version"]);
    let text = bundle.says();
    assert!(!text.contains("escaped"), "{text}");
}

#[test]
fn a_proc_that_is_a_link_is_refused() {
    needs_root!();
    // The way of CVE-2019-19921 and CVE-2023-27561.
    let bundle = Bundle::new();
    fs::remove_dir(bundle.path("rootfs/proc")).unwrap();
    symlink("/tmp/elsewhere", bundle.path("rootfs/proc")).unwrap();
    let text = bundle.refuses();
    assert!(text.contains("symbolic link"), "{text}");
}

#[test]
fn a_destination_that_leads_out_stays_inside() {
    needs_root!();
    // The way of CVE-2021-30465, without the race: by descriptor there is none to win.
    let mut bundle = Bundle::new();
    let (outside, second) = (bundle.path("outside"), bundle.path("second"));
    fs::create_dir(&outside).unwrap();
    fs::create_dir(&second).unwrap();
    symlink(&outside, bundle.path("rootfs/link")).unwrap();
    symlink("../../../../../../../..", bundle.path("rootfs/up")).unwrap();
    bundle.add_mount(json!({ "destination": "/link/below", "type": "tmpfs", "source": "tmpfs" }));
    bundle.add_mount(
        json!({ "destination": format!("/up{}", second.display()), "type": "tmpfs", "source": "tmpfs" }),
    );
    let text = bundle.script("touch /link/below/x && mount | grep -c below").says();
    assert_eq!(text, "1\n");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert!(bundle.path("rootfs").join(second.strip_prefix("/").unwrap()).exists());
}

#[test]
fn a_destination_that_is_moved_meanwhile_stays_inside() {
    needs_root!();
    let mut bundle = Bundle::new();
    let outside = bundle.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::create_dir(bundle.path("rootfs/race")).unwrap();
    symlink(&outside, bundle.path("rootfs/race-link")).unwrap();
    for number in 0..10 {
        bundle.add_mount(
            json!({ "destination": format!("/race/{number}"), "type": "tmpfs", "source": "tmpfs" }),
        );
    }
    let (race, link, swap) =
        (bundle.path("rootfs/race"), bundle.path("rootfs/race-link"), bundle.path("rootfs/swap"));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                let _ = fs::rename(&race, &swap);
                let _ = fs::rename(&link, &race);
                let _ = fs::rename(&race, &link);
                let _ = fs::rename(&swap, &race);
            }
        });
        bundle.script("true");
        for _ in 0..20 {
            // It may fail, as the directory may be gone for a moment; it may not reach the outside.
            bundle.run();
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_false_null_device_of_an_image_masks_nothing() {
    needs_root!();
    // The way of CVE-2025-31133: masks come from the host's device, whatever the image has there.
    let mut bundle = Bundle::new();
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    symlink("/proc/sys/kernel/core_pattern", bundle.path("rootfs/dev/null")).unwrap();
    let text = bundle.refuses();
    assert!(text.contains("/dev/null") && text.contains("something else"), "{text}");
}

#[test]
fn a_console_that_is_a_link_leads_nowhere() {
    needs_root!();
    // The way of CVE-2025-52565.
    let mut bundle = Bundle::new();
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| mount["destination"] != "/dev");
    symlink("/tmp/target", bundle.path("rootfs/dev/console")).unwrap();
    bundle.config["process"]["terminal"] = json!(true);
    let text = bundle.script("ls -l /tmp/target /proc/sys/kernel/core_pattern").says();
    assert!(text.contains("136,"), "{text}");
    assert!(text.contains("-rw-r--r--"), "{text}");
}

#[test]
fn labels_and_sysctls_are_written_to_the_kernels_tables_only() {
    needs_root!();
    // The way of CVE-2025-52881: a /proc that is something else gets nothing.
    let mut bundle = Bundle::new();
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| mount["destination"] != "/proc");
    fs::create_dir_all(bundle.path("rootfs/proc/sys/net/ipv4")).unwrap();
    fs::write(bundle.path("rootfs/proc/sys/net/ipv4/ip_forward"), "mine").unwrap();
    bundle.config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
    assert!(bundle.script("true").run().status.success());
    assert_eq!(fs::read_to_string(bundle.path("rootfs/proc/sys/net/ipv4/ip_forward")).unwrap(), "mine");
}

#[test]
fn a_read_only_root_is_read_only() {
    needs_root!();
    let mut bundle = Bundle::new();
    bundle.config["root"]["readonly"] = json!(true);
    let text = bundle.script("touch /x /etc/x /bin/x; echo ok > /dev/shm/x && cat /dev/shm/x").says();
    assert_eq!(text.matches("Read-only file system").count(), 3, "{text}");
    assert!(text.contains("ok\n"), "{text}");
}

#[test]
fn mounts_inside_do_not_reach_the_host() {
    needs_root!();
    let mut bundle = Bundle::new();
    bundle.set_capabilities(&["CAP_SYS_ADMIN"]);
    bundle.script("mount -t tmpfs knarr-inside /mnt && grep -c knarr-inside /proc/mounts; sleep 1000");
    bundle.start();
    let pid = bundle.state()["pid"].to_string();
    let end = Instant::now() + Duration::from_secs(20);
    while !fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap().contains("knarr-inside") {
        assert!(Instant::now() < end);
    }
    assert!(!fs::read_to_string("/proc/self/mounts").unwrap().contains("knarr-inside"));
}

#[test]
fn what_the_host_mounts_later_does_not_come_in_unasked() {
    needs_root!();
    let bundle = Bundle::new();
    bundle.start();
    let pid = bundle.state()["pid"].to_string();
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap();
    assert!(!root.contains("shared:"), "{root}");
    // Nothing of the host's own tree is left below the root.
    assert!(
        mounts.lines().all(|line| !line.contains("/var/lib") && !line.contains("/run/knarr")),
        "{mounts}"
    );
}

#[test]
fn the_score_and_limits_cannot_be_raised() {
    needs_root!();
    let mut bundle = Bundle::new();
    bundle.config["process"]["oomScoreAdj"] = json!(500);
    let text = bundle
        .script("echo -1000 > /proc/self/oom_score_adj && echo escaped; ulimit -Hn 2000 && echo escaped")
        .says();
    assert!(text.contains("ermission denied") && !text.contains("escaped"), "{text}");
}

#[test]
fn a_waiting_process_cannot_be_looked_into() {
    needs_root!();
    // Whoever shares its process namespace sees it before the program runs; its descriptors are closed to him.
    let first = Bundle::new();
    first.start();
    let mut second = Bundle::new();
    let path = format!("/proc/{}/ns/pid", first.state()["pid"]);
    second.config["linux"]["namespaces"][0] = json!({ "type": "pid", "path": path });
    second.create();
    let script = "for p in /proc/[0-9]*; do case $(cat $p/comm) in *knarr*) ls $p/fd/ $p/root/ && echo escaped; readlink $p/exe && echo escaped;; esac; done; echo end";
    let output = first.exec(&["sh", "-c", script]).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("ermission denied") && text.contains("end") && !text.contains("escaped"), "{text}");
}

#[test]
fn chroot_does_not_lead_out() {
    needs_root!();
    let text = inside(
        "mkdir -p /a/bin; cp /bin/busybox /a/bin/sh; cd /a; chroot /a /bin/sh -c 'cd ../../../../..; echo *' ; cd ../../../..; ls",
    );
    assert!(!text.contains("boot") && text.contains("bin"), "{text}");
}
