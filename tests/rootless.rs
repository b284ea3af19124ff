//! An ordinary user: a root from a user namespace, with the same bytes.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::support::{Deb, Mirror, fail, needs_root, raw_tarball, succeed};

const USER: u32 = 4711;

/// The same command, run by a user that exists for it alone: the files that say so are covered in
/// a mount namespace, so the machine's own stay what they are.
fn as_user(mirror: &Mirror, command: &Command) -> Command {
    let write = |name: &str, text: &str| fs::write(mirror.path(name), text).unwrap();
    write("passwd", &format!("root:x:0:0::/root:/bin/sh\nsomebody:x:{USER}:{USER}::/:/bin/sh\n"));
    write("subids", "somebody:300000:65536\n");
    let script = "mount --bind passwd /etc/passwd && mount --bind subids /etc/subuid \
                  && mount --bind subids /etc/subgid \
                  && exec setpriv --reuid=4711 --regid=4711 --clear-groups -- \"$@\"";
    let mut wrapped = Command::new("unshare");
    wrapped.args(["--mount", "sh", "-c", script, "sh"]).arg(command.get_program()).args(command.get_args());
    wrapped.current_dir(mirror.dir.path());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(key, value),
            None => wrapped.env_remove(key),
        };
    }
    wrapped.env("KNARR_CACHE_DIR", mirror.path("home/cache")).env("TMPDIR", mirror.path("home"));
    wrapped
}

/// A place that belongs to the user.
fn make_home(mirror: &Mirror) {
    fs::create_dir(mirror.path("home")).unwrap();
    chown(mirror.path("home"), Some(USER), Some(USER)).unwrap();
    fs::set_permissions(mirror.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
}

fn essential(mirror: &Mirror, target: &str) -> Command {
    let mut command = mirror.bootstrap(target);
    command
        .args(["--variant", "essential", "--include", "application"])
        .env("SOURCE_DATE_EPOCH", "1700000000");
    command
}

#[test]
fn a_user_makes_the_same_bytes_as_root() {
    needs_root!();
    let mirror = Mirror::new();
    make_home(&mirror);
    succeed(essential(&mirror, "root.tar").arg("--lock").arg(mirror.path("lock")));
    let mut command = essential(&mirror, "home/user.tar");
    command.arg("--lock").arg(mirror.path("lock"));
    succeed(&mut as_user(&mirror, &command));
    assert!(fs::read(mirror.path("root.tar")).unwrap() == fs::read(mirror.path("home/user.tar")).unwrap());
}

#[test]
fn a_users_directory_belongs_to_the_ids_that_are_his() {
    needs_root!();
    let mirror = Mirror::new();
    make_home(&mirror);
    succeed(&mut as_user(&mirror, &essential(&mirror, "home/root")));
    let owner = |path: &str| fs::metadata(mirror.path("home/root").join(path)).unwrap().uid();
    assert_eq!(owner("etc/passwd"), USER);
    assert_eq!(
        fs::read_to_string(mirror.path("home/root/var/log/order")).unwrap(),
        "preinst\nlibrary\napplication\n"
    );
    assert!(!Path::new(&mirror.path("home/root/dev/null")).exists());
}

#[test]
fn a_device_node_is_refused_without_root() {
    needs_root!();
    let mut mirror = Mirror::new();
    let data = raw_tarball(&[("dev-x", tar::EntryType::Char, "", b"")]);
    mirror.debs.push(Deb { data: Some(data), ..Deb::new("nodes", "Essential: yes\n") });
    mirror.publish();
    make_home(&mirror);
    let text = fail(&mut as_user(&mirror, &essential(&mirror, "home/root")), 22);
    assert!(text.contains("nodes") && text.contains("dev-x"), "{text}");
    assert!(!mirror.path("home/root").exists());
    succeed(&mut essential(&mirror, "root"));
    assert_eq!(fs::metadata(mirror.path("root/dev-x")).unwrap().rdev(), 0x103);
}

#[test]
fn a_user_without_subordinate_ids_is_told_what_to_do() {
    needs_root!();
    let mirror = Mirror::new();
    make_home(&mirror);
    let mut command = as_user(&mirror, &essential(&mirror, "home/root"));
    fs::write(mirror.path("subids"), "").unwrap();
    let text = fail(&mut command, 21);
    assert!(text.contains("/etc/subuid") && text.contains("usermod"), "{text}");
}
