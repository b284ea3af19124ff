//! Files between this machine and a container, by docker's rules of where they end up.
//!
//! A source that ends in `/.` stands for what is in it; a target that is a directory takes the source in, one that is not there
//! becomes it.
//!
//! Spec: docker's `cp`; Docker Engine API, "archive".

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use base64::Engine as _;
use http::Method;
use serde_json::Value;
use tokio::io::AsyncReadExt;

use crate::client::{ApiFailure, Client, encode, query, request};
use crate::container::{copy_out, put};

/// Go's mode of directories and links.
const GO_DIRECTORY: u64 = 1 << 31;
const GO_LINK: u64 = 1 << 27;

/// What a container has at a path.
struct Stat {
    directory: bool,
    link: Option<String>,
}

async fn stat(client: &Client, container: &str, path: &str) -> anyhow::Result<Option<Stat>> {
    let query = query(&[("path", Some(path.to_owned()))]);
    let asked = request(Method::HEAD, &format!("/containers/{}/archive{query}", encode(container)), None)?;
    let response = match client.send(asked).await {
        Err(error) if error.downcast_ref::<ApiFailure>().is_some_and(|failure| failure.status == 404) => {
            // Is it the path that is not there, or the container?
            client.get(&format!("/containers/{}/json", encode(container))).await?;
            return Ok(None);
        }
        other => other?,
    };
    let header = response
        .headers()
        .get("x-docker-container-path-stat")
        .context("the daemon says nothing of the path")?;
    let stat: Value =
        serde_json::from_slice(&base64::engine::general_purpose::STANDARD.decode(header.as_bytes())?)?;
    let mode = stat["mode"].as_u64().unwrap_or_default();
    let link = stat["linkTarget"].as_str().filter(|_| mode & GO_LINK != 0).map(str::to_owned);
    Ok(Some(Stat { directory: mode & GO_DIRECTORY != 0, link }))
}

/// From a container to here.
pub(crate) fn out(
    client: &Client,
    container: &str,
    path: &str,
    target: &str,
    follow: bool,
    owners: bool,
) -> anyhow::Result<()> {
    client.run(async {
        let mut path = path.to_owned();
        let mut found = stat(client, container, &path).await?;
        if follow && let Some(link) = found.as_ref().and_then(|stat| stat.link.clone()) {
            path = link;
            found = stat(client, container, &path).await?;
        }
        let found =
            found.with_context(|| format!("Could not find the file {path} in container {container}"))?;
        let content = path.ends_with("/.") || path == ".";
        let here = Path::new(target);
        let name = name_of(&path);
        let (place, rename) = match (here.is_dir(), content) {
            (true, true) => (here.to_owned(), Rename::Strip(name)),
            (true, false) => (here.to_owned(), Rename::Keep),
            (false, _) if here.exists() && found.directory => {
                bail!("cannot copy directory: {target} is no directory")
            }
            (false, _) => {
                if target.ends_with('/') && !found.directory {
                    bail!("no such directory: {target}");
                }
                let parent = here
                    .parent()
                    .filter(|parent| !parent.as_os_str().is_empty())
                    .unwrap_or_else(|| Path::new("."));
                if !parent.is_dir() {
                    bail!("invalid output path: directory {} does not exist", parent.display());
                }
                let new = here.file_name().context("the target has no name")?.to_string_lossy().into_owned();
                (parent.to_owned(), Rename::To(name, new))
            }
        };
        let mut reader = copy_out(client, container, &path).await?;
        let mut spool = tempfile::tempfile()?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = reader.read(&mut buffer).await?;
            if count == 0 {
                break;
            }
            spool.write_all(&buffer[..count])?;
        }
        std::io::Seek::rewind(&mut spool)?;
        unpack(spool, &place, &rename, owners)
    })
}

/// The first part of an archive's paths: the last of the path that was asked for.
fn name_of(path: &str) -> String {
    let parts = path.trim_end_matches("/.").trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    parts.to_owned()
}

/// What becomes of the first part of each path.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rename {
    Keep,
    Strip(String),
    To(String, String),
}

impl Rename {
    fn apply(&self, path: &Path) -> Option<PathBuf> {
        let mut parts = path.components().filter(|part| matches!(part, std::path::Component::Normal(_)));
        match self {
            Self::Keep => Some(parts.collect()),
            Self::Strip(name) => {
                let all: PathBuf = parts.collect();
                let rest = all.strip_prefix(name).map_or_else(|_| all.clone(), Path::to_owned);
                (!rest.as_os_str().is_empty()).then_some(rest)
            }
            Self::To(_, new) => {
                parts.next();
                Some(parts.fold(PathBuf::from(new), |path, part| path.join(part)))
            }
        }
    }
}

/// Nothing that a container sends leaves the place: paths are resolved inside it.
fn unpack(tarball: std::fs::File, place: &Path, rename: &Rename, owners: bool) -> anyhow::Result<()> {
    let mut archive = tar::Archive::new(tarball);
    archive.set_preserve_mtime(true);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(owners);
    let root = knarr_tree::root::Root::open(place)?;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let Some(path) = rename.apply(&entry.path()?) else { continue };
        let told = || path.display().to_string();
        if path.as_os_str().is_empty() {
            continue;
        }
        // A link that came before must not lead a later entry elsewhere.
        let mut above = PathBuf::new();
        for part in path.parent().into_iter().flat_map(Path::components) {
            above.push(part);
            let text = above.to_string_lossy();
            if root.exists(&text)? && root.lstat(&text)?.kind == knarr_tree::unpack::Kind::Symlink {
                bail!("{}: a link in the archive leads elsewhere", above.display());
            }
        }
        if entry.header().entry_type().is_hard_link() {
            let link = entry.link_name()?.with_context(told)?.into_owned();
            let from = rename.apply(&link).with_context(told)?;
            root.hard_link(&from.to_string_lossy(), &path.to_string_lossy())?;
            continue;
        }
        entry.unpack(place.join(&path)).with_context(told)?;
    }
    Ok(())
}

/// From here into a container.
pub(crate) fn into(
    client: &Client,
    source: &str,
    container: &str,
    path: &str,
    follow: bool,
    owners: bool,
) -> anyhow::Result<()> {
    let here = PathBuf::from(source);
    let meta = if follow { std::fs::metadata(&here) } else { std::fs::symlink_metadata(&here) };
    let meta = meta.with_context(|| source.to_owned())?;
    let directory = meta.is_dir() || (source.ends_with('/') && here.is_dir());
    client.run(async {
        let mut target = path.to_owned();
        let mut found = stat(client, container, &target).await?;
        if let Some(link) = found.as_ref().and_then(|stat| stat.link.clone()) {
            target = link;
            found = stat(client, container, &target).await?;
        }
        let content = source.ends_with("/.") || source == ".";
        let own = std::path::absolute(&here)?
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let (place, name) = match found {
            Some(stat) if stat.directory => (target.clone(), if content { String::new() } else { own }),
            Some(_) if directory => bail!("cannot copy directory: {container}:{path} is no directory"),
            None if target.ends_with('/') && !directory => bail!("no such directory: {container}:{path}"),
            _ => {
                let trimmed = target.trim_end_matches("/.").trim_end_matches('/');
                let (parent, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
                (if parent.is_empty() { "/".to_owned() } else { parent.to_owned() }, name.to_owned())
            }
        };
        let spool = pack(&here, &name, follow, directory)?;
        put(client, container, &place, owners, tokio::fs::File::from_std(spool)).await
    })
}

/// A tarball of a path, whose first part is `name`; without one it has what is in the directory.
fn pack(here: &Path, name: &str, follow: bool, directory: bool) -> anyhow::Result<std::fs::File> {
    let mut builder = tar::Builder::new(tempfile::tempfile()?);
    builder.follow_symlinks(false);
    if directory {
        builder.append_dir_all(if name.is_empty() { "." } else { name }, here)?;
    } else {
        let from = if follow { std::fs::canonicalize(here)? } else { here.to_owned() };
        builder.append_path_with_name(from, name)?;
    }
    let mut spool = builder.into_inner()?;
    std::io::Seek::rewind(&mut spool)?;
    Ok(spool)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Rename, name_of};

    #[test]
    fn the_first_part_is_renamed() {
        let renamed = |rename: &Rename, path: &str| rename.apply(Path::new(path));
        let to = Rename::To("etc".to_owned(), "new".to_owned());
        assert_eq!(renamed(&to, "etc/passwd"), Some(PathBuf::from("new/passwd")));
        assert_eq!(renamed(&Rename::Strip("etc".to_owned()), "etc/"), None);
        assert_eq!(renamed(&Rename::Keep, "../etc/../x"), Some(PathBuf::from("etc/x")));
    }

    #[test]
    fn names_are_the_last_part() {
        assert_eq!(
            (name_of("/etc/."), name_of("/a/b/"), name_of("/")),
            ("etc".to_owned(), "b".to_owned(), String::new())
        );
    }
}
