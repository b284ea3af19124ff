//! Namespaces of this process itself: private mounts, and being root without being root.
//!
//! Both must happen while the process has one thread. [`become_root`] maps the user to root and
//! the subordinate ids of `/etc/subuid` and `/etc/subgid` to the others.
//!
//! Spec: user_namespaces(7), newuidmap(1), subuid(5).

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, User, setgroups, setresgid, setresuid};

use crate::LinuxError;

/// The name under which this program runs `newuidmap` for its parent.
pub const MAPPER_NAME: &str = "knarr-idmap";
const IDS: u32 = 65_536;

/// Whether this process must enter a user namespace to do root's work.
#[must_use]
pub fn is_unprivileged() -> bool {
    !Uid::effective().is_root()
}

/// Whether this process is in a user namespace that is not the machine's own.
#[must_use]
pub fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_ascii_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"])
}

/// Mounts made from now on are seen by this process and its children only, and end with them.
pub fn private_mounts() -> Result<(), LinuxError> {
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(io::Error::from)
        .map_err(LinuxError::step("make a mount namespace (this needs CAP_SYS_ADMIN)"))?;
    make_private()
}

/// Enters a user and a mount namespace in which this user is root and 65,535 other ids exist.
pub fn become_root() -> Result<(), LinuxError> {
    enter_user_namespace(&user_name())?;
    let become_root = || -> nix::Result<()> {
        setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0))?;
        setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0))?;
        setgroups(&[])
    };
    become_root().map_err(io::Error::from).map_err(LinuxError::step("become root in the user namespace"))?;
    make_private()
}

/// Enters a user and a mount namespace in which every id is what it was: root has its rights over
/// what it makes there, and over nothing else.
pub(crate) fn enter_own_user_namespace() -> Result<(), LinuxError> {
    enter_user_namespace(EVERYBODY)
}

/// Stands for a user where all ids are mapped to themselves; no user can have this name.
const EVERYBODY: &str = "0:0";

fn enter_user_namespace(user: &str) -> Result<(), LinuxError> {
    let mut mapper = Command::new("/proc/self/exe")
        .arg0(MAPPER_NAME)
        .args([&std::process::id().to_string(), user])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(LinuxError::step("start the program that maps ids"))?;
    let unshared = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS);
    unshared
        .map_err(io::Error::from)
        .map_err(LinuxError::step("make a user namespace (user.max_user_namespaces may forbid it)"))?;
    let mut stdin = mapper.stdin.take();
    if let Some(stdin) = &mut stdin {
        stdin.write_all(b"x").map_err(LinuxError::step("talk to the program that maps ids"))?;
    }
    drop(stdin);
    let answer = mapper.wait_with_output().map_err(LinuxError::step("wait for the program that maps ids"))?;
    if !answer.status.success() {
        return Err(decode(&String::from_utf8_lossy(&answer.stdout)));
    }
    Ok(())
}

fn make_private() -> Result<(), LinuxError> {
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    let made = mount(None::<&str>, "/", None::<&str>, flags, None::<&str>);
    made.map_err(io::Error::from).map_err(LinuxError::step("make mounts private"))
}

/// Mounts a tmpfs at `path`, in this process's own mount namespace.
pub fn mount_tmpfs(path: &Path, size_bytes: u64) -> Result<(), LinuxError> {
    let options = format!("mode=0755,size={size_bytes}");
    let mounted = mount(Some("knarr"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()));
    mounted.map_err(io::Error::from).map_err(LinuxError::step(format!("mount a tmpfs on {}", path.display())))
}

/// Takes the mount at `path` away.
pub fn unmount(path: &Path) -> Result<(), LinuxError> {
    let gone = nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH);
    gone.map_err(io::Error::from).map_err(LinuxError::step(format!("unmount {}", path.display())))
}

fn user_name() -> String {
    let uid = Uid::current();
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// What runs under [`MAPPER_NAME`]: waits until its parent is in its namespace, then maps ids.
pub(crate) fn map_ids() -> i32 {
    let mut arguments = std::env::args().skip(1);
    let (Some(pid), Some(user)) = (arguments.next(), arguments.next()) else { return 2 };
    let mut byte = [0];
    if io::stdin().read_exact(&mut byte).is_err() {
        return 2;
    }
    let (uid, gid) = (Uid::current(), Gid::current());
    let outcome = if user == EVERYBODY { map_all(&pid) } else { map_user(&pid, &user, uid, gid) };
    report(outcome)
}

fn map_user(pid: &str, user: &str, uid: Uid, gid: Gid) -> Result<(), LinuxError> {
    map("newuidmap", "/etc/subuid", pid, user, uid.as_raw())
        .and_then(|()| map("newgidmap", "/etc/subgid", pid, user, gid.as_raw()))
}

fn map_all(pid: &str) -> Result<(), LinuxError> {
    for file in ["uid_map", "gid_map"] {
        let written = std::fs::write(format!("/proc/{pid}/{file}"), "0 0 4294967295");
        written.map_err(LinuxError::step("map ids to themselves"))?;
    }
    Ok(())
}

fn report(outcome: Result<(), LinuxError>) -> i32 {
    match outcome {
        Ok(()) => 0,
        Err(error) => {
            let text = match &error {
                LinuxError::NoSubordinateIds { file, user } => format!("ids\n{file}\n{user}"),
                LinuxError::Mapper { program, reason } => format!("mapper\n{program}\n{reason}"),
                other => format!("mapper\nnewuidmap\n{other}"),
            };
            let _ = io::stdout().write_all(text.as_bytes());
            1
        }
    }
}

fn decode(text: &str) -> LinuxError {
    let mut lines = text.splitn(3, '\n');
    let (kind, what, rest) = (
        lines.next().unwrap_or_default(),
        lines.next().unwrap_or_default(),
        lines.next().unwrap_or_default(),
    );
    if kind == "ids" {
        let file = if what == "/etc/subgid" { "/etc/subgid" } else { "/etc/subuid" };
        return LinuxError::NoSubordinateIds { file, user: rest.to_owned() };
    }
    let program = if what == "newgidmap" { "newgidmap" } else { "newuidmap" };
    let reason = if rest.is_empty() { "it ended without a word".to_owned() } else { rest.to_owned() };
    LinuxError::Mapper { program, reason }
}

fn map(program: &'static str, file: &'static str, pid: &str, user: &str, id: u32) -> Result<(), LinuxError> {
    let first = subordinate(file, user, id)
        .ok_or_else(|| LinuxError::NoSubordinateIds { file, user: user.to_owned() })?;
    let numbers = [0, id, 1, 1, first, IDS - 1].map(|number| number.to_string());
    let output = Command::new(program).arg(pid).args(numbers).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(LinuxError::Mapper {
            program,
            reason: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }),
        Err(error) => Err(LinuxError::Mapper { program, reason: error.to_string() }),
    }
}

/// The first id of the first range of at least 65,536 that the file gives to the user.
fn subordinate(file: &str, user: &str, id: u32) -> Option<u32> {
    find_range(&std::fs::read_to_string(file).ok()?, user, id)
}

fn find_range(text: &str, user: &str, id: u32) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, first, count) =
            (fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse::<u64>().ok()?);
        ((name == user || name == id.to_string()) && count >= u64::from(IDS)).then_some(first)
    })
}

#[cfg(test)]
mod tests {
    use super::find_range;

    #[test]
    fn the_first_range_that_is_large_enough_counts() {
        let text = "a:1:10\nb:100000:65536\na:200000:65536\n1000:300000:70000\n";
        assert_eq!(find_range(text, "a", 5), Some(200_000));
        assert_eq!(find_range(text, "x", 1000), Some(300_000));
        assert_eq!(find_range(text, "x", 1), None);
    }
}
