//! Paths in a container, as docker's clients write them.
//!
//! [`Place`] is one: a slash at its end means a directory, `/.` what is in it.

use knarr_tree::TreeError;
use knarr_tree::root::{Meta, Root};
use knarr_tree::unpack::Kind;
use serde_json::{Value, json};

use crate::EngineError;
use crate::containers::record::Record;

const MAX_PATH_BYTES: usize = 4096;
/// The kernel's own limit for links in one path.
const MAX_LINKS: usize = 40;

/// A path in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// As it was asked for.
    asked: String,
    /// Without leading `/`, `.` and `..`; empty for the root.
    pub(super) inside: String,
    /// The name that it has in an archive.
    pub(super) base: String,
    /// A directory is meant, or what a link to one leads to.
    follows: bool,
}

impl Place {
    pub(super) fn parse(asked: &str) -> Result<Self, EngineError> {
        if asked.is_empty() {
            return Err(EngineError::invalid("Path cannot be empty"));
        }
        if asked.len() > MAX_PATH_BYTES || asked.contains('\0') {
            return Err(EngineError::invalid("the path is longer than 4096 bytes, or has a NUL byte in it"));
        }
        let inside = clean(asked);
        let content = asked == "." || asked.ends_with("/.");
        let name = inside.rsplit('/').next().unwrap_or_default().to_owned();
        let base = match (content, name.is_empty()) {
            (true, _) => ".".to_owned(),
            (false, true) => "/".to_owned(),
            (false, false) => name,
        };
        let follows = inside.is_empty() || content || asked.ends_with('/');
        Ok(Self { asked: asked.to_owned(), inside, base, follows })
    }

    /// What is there, a link at the end as such.
    fn meta(&self, root: &Root, container: &str) -> Result<Meta, EngineError> {
        let meta = if self.follows { root.stat(&self.inside) } else { root.lstat(&self.inside) };
        let meta = meta.map_err(|error| self.refused(error, container))?;
        if self.follows && meta.kind != Kind::Directory {
            return Err(EngineError::invalid(format!("stat {}: not a directory", self.asked)));
        }
        Ok(meta)
    }

    /// Where that lies which is to be copied.
    pub(super) fn source(&self, root: &Root) -> Result<String, EngineError> {
        if self.follows { follow(root, &self.inside) } else { Ok(self.inside.clone()) }
    }

    /// What docker's clients are told of it.
    pub(super) fn stat(&self, root: &Root, container: &str) -> Result<Value, EngineError> {
        let meta = self.meta(root, container)?;
        let target = match meta.kind {
            Kind::Symlink => format!("/{}", follow(root, &self.inside)?),
            _ => String::new(),
        };
        let mtime = jiff::Timestamp::from_second(meta.mtime).unwrap_or_default();
        Ok(json!({
            "name": self.base,
            "size": meta.size_bytes,
            "mode": go_mode(&meta),
            "mtime": mtime.to_string(),
            "linkTarget": target,
        }))
    }

    /// Whether something can be put there.
    pub(super) fn check_writable(
        &self,
        root: &Root,
        record: &Record,
        container: &str,
    ) -> Result<(), EngineError> {
        let meta = root.stat(&self.inside).map_err(|error| self.refused(error, container))?;
        if meta.kind != Kind::Directory {
            return Err(EngineError::invalid("extraction point is not a directory"));
        }
        let resolved = follow(root, &self.inside)?;
        let holds = |target: &str| {
            let target = clean(target);
            resolved == target || resolved.strip_prefix(&target).is_some_and(|rest| rest.starts_with('/'))
        };
        let mounts = record.mounts.iter().filter(|mount| holds(&mount.target));
        if let Some(mount) = mounts.max_by_key(|mount| clean(&mount.target).len()) {
            return match mount.writable {
                true => Ok(()),
                false => Err(EngineError::invalid("mounted volume is marked read-only")),
            };
        }
        let temporary = record.host.tmpfs.iter().flatten().any(|(target, _)| holds(target));
        if record.host.readonly_rootfs == Some(true) && !temporary {
            return Err(EngineError::invalid("container rootfs is marked read-only"));
        }
        Ok(())
    }

    fn refused(&self, error: TreeError, container: &str) -> EngineError {
        match error {
            TreeError::Path { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                EngineError::not_found(format!(
                    "Could not find the file {} in container {container}",
                    self.asked
                ))
            }
            TreeError::Path { source, .. } if source.kind() == std::io::ErrorKind::NotADirectory => {
                EngineError::invalid(format!("stat {}: not a directory", self.asked))
            }
            error => error.into(),
        }
    }
}

/// A path without leading `/`, `.`, `..` and empty parts.
pub(super) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

pub(super) fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

/// Where a path leads when all links are followed inside the root; what is not there stays as it is.
fn follow(root: &Root, path: &str) -> Result<String, EngineError> {
    let mut left: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    let (mut done, mut links) = (String::new(), 0);
    while let Some(part) = left.pop() {
        match part.as_str() {
            "" | "." => continue,
            ".." => {
                done = done.rsplit_once('/').map_or_else(String::new, |(parent, _)| parent.to_owned());
                continue;
            }
            _ => {}
        }
        let next = join(&done, &part);
        let is_link = root.lstat(&next).is_ok_and(|meta| meta.kind == Kind::Symlink);
        if !is_link {
            done = next;
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(EngineError::invalid(format!("/{path}: too many levels of symbolic links")));
        }
        let target = String::from_utf8_lossy(&root.read_link(&next)?).into_owned();
        if target.starts_with('/') {
            done.clear();
        }
        left.extend(target.split('/').rev().map(str::to_owned));
    }
    Ok(done)
}

/// Bits of Go's `os.FileMode`.
fn go_mode(meta: &Meta) -> u32 {
    const DIRECTORY: u32 = 1 << 31;
    const SYMLINK: u32 = 1 << 27;
    const DEVICE: u32 = 1 << 26;
    const PIPE: u32 = 1 << 25;
    const SOCKET: u32 = 1 << 24;
    const SETUID: u32 = 1 << 23;
    const SETGID: u32 = 1 << 22;
    const CHARACTER: u32 = 1 << 21;
    const STICKY: u32 = 1 << 20;
    let kind = match meta.kind {
        Kind::Directory => DIRECTORY,
        Kind::Symlink => SYMLINK,
        Kind::BlockDevice => DEVICE,
        Kind::CharDevice => DEVICE | CHARACTER,
        Kind::Fifo => PIPE,
        Kind::Socket => SOCKET,
        Kind::File | Kind::HardLink => 0,
    };
    let special = [(0o4000, SETUID), (0o2000, SETGID), (0o1000, STICKY)];
    let special = special.iter().filter(|(bit, _)| meta.mode & bit != 0).map(|(_, bit)| bit);
    kind | meta.mode & 0o777 | special.sum::<u32>()
}

#[cfg(test)]
mod tests {
    use knarr_tree::root::Root;

    use super::{Place, follow};
    use crate::Kind;

    #[test]
    fn the_end_of_a_path_says_what_is_meant() {
        for (asked, inside, base, follows) in [
            ("/etc", "etc", "etc", false),
            ("etc/../usr/lib", "usr/lib", "lib", false),
            ("/etc/", "etc", "etc", true),
            ("/etc/.", "etc", ".", true),
            ("/", "", "/", true),
            ("/../..", "", "/", true),
        ] {
            let place = Place::parse(asked).unwrap();
            assert_eq!(
                (place.inside.as_str(), place.base.as_str(), place.follows),
                (inside, base, follows),
                "{asked}"
            );
        }
        assert!(Place::parse("").is_err());
    }

    #[test]
    fn links_are_followed_inside_the_root_only() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        root.create_dir_all("a/b", 0o755).unwrap();
        root.write("a/b/f", b"x", 0o4755).unwrap();
        root.symlink("../../../../a/b", "out").unwrap();
        root.symlink("/out/f", "file").unwrap();
        root.symlink("loop", "loop").unwrap();
        assert_eq!(follow(&root, "file").unwrap(), "a/b/f");
        assert_eq!(follow(&root, "out/gone").unwrap(), "a/b/gone");
        assert!(follow(&root, "loop").is_err());
        let stat = Place::parse("/file").unwrap().stat(&root, "c").unwrap();
        assert_eq!(stat["linkTarget"], "/a/b/f");
        assert_eq!(stat["mode"], (1_u32 << 27) | 0o777);
        let stat = Place::parse("/a/b/f").unwrap().stat(&root, "c").unwrap();
        assert_eq!((&stat["mode"], &stat["size"]), (&((1_u32 << 23) | 0o755).into(), &1.into()));
        assert_eq!(Place::parse("/out/.").unwrap().stat(&root, "c").unwrap()["name"], ".");
    }

    #[test]
    fn what_is_not_there_is_said_in_dockers_words() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        root.write("f", b"", 0o644).unwrap();
        let gone = Place::parse("/dne").unwrap().stat(&root, "c").unwrap_err();
        assert_eq!(
            (gone.kind(), gone.message().as_str()),
            (Kind::NotFound, "Could not find the file /dne in container c")
        );
        let file = Place::parse("/f/").unwrap().stat(&root, "c").unwrap_err();
        assert_eq!(file.kind(), Kind::Invalid);
    }
}
