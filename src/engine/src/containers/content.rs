//! A container's files: copied in and out, compared, exported, made an image of.
//!
//! All of it looks at a container's root through [`view`], which nothing leads out of. What differs from the image is
//! found by [`changes`], and becomes an image in [`commit`].
//!
//! Spec: Docker Engine API, "Containers", archive, changes, export; "Images", commit.

mod changes;
mod commit;
mod path;
mod view;

use std::cell::RefCell;
use std::io::{self, Read};
use std::sync::Arc;

use bollard_stubs::models::{ChangeType, ContainerConfig, FilesystemChange};
use knarr_tree::TreeError;
use knarr_tree::archive::write_subtree;
use knarr_tree::root::Root;
use knarr_tree::unpack::{Decision, Entry, EntryHead, Kind, Limits, Policy, unpack};
use serde_json::Value;

use super::record::Record;
use super::spec::accounts::Accounts;
use super::{Container, blocking};
use crate::meters::Action;
use crate::stream::{ByteStream, StreamReader, produce};
use crate::{Engine, EngineError};

pub(crate) use changes::Change;
use path::Place;

/// So much of a refused archive is read, so that its sender sees the answer.
const MAX_DRAIN_BYTES: u64 = 1 << 30;

/// What an image made of a container is to be.
#[derive(Clone, Debug, Default)]
pub struct CommitRequest {
    /// Its container.
    pub container: String,
    /// `repository`, perhaps none.
    pub repository: String,
    /// Its tag.
    pub tag: String,
    /// A remark.
    pub comment: String,
    /// Who.
    pub author: String,
    /// Stop its processes meanwhile.
    pub pause: bool,
    /// Instructions of a Dockerfile: `CMD …`, `ENV …`.
    pub changes: Vec<String>,
    /// Laid over the container's own.
    pub config: Option<ContainerConfig>,
}

impl Engine {
    /// `HEAD /containers/{id}/archive`: name, size, mode (Go's), mtime, linkTarget.
    ///
    /// # Errors
    /// There is no such container or file.
    pub async fn stat_path(&self, name: &str, path: &str) -> Result<Value, EngineError> {
        let container = self.shared().containers.find(name)?;
        let place = Place::parse(path)?;
        let (engine, name) = (self.clone(), name.to_owned());
        blocking(move || engine.look(&container, |root| place.stat(root, &name))).await
    }

    /// `GET /containers/{id}/archive`: a tarball, and what [`Self::stat_path`] says of it.
    ///
    /// # Errors
    /// There is no such container or file.
    pub async fn copy_out(&self, name: &str, path: &str) -> Result<(Value, ByteStream), EngineError> {
        let container = self.shared().containers.find(name)?;
        let stat = self.stat_path(name, path).await?;
        let place = Place::parse(path)?;
        let (engine, copied) = (self.clone(), container.clone());
        let stream = produce(move |out| {
            engine.look(&copied, |root| {
                Ok(write_subtree(root, &place.source(root)?, &place.base, out).map(drop)?)
            })
        });
        self.shared().events.container("archive-path", &container.record(), &[]);
        Ok((stat, stream))
    }

    /// `PUT /containers/{id}/archive`: a tarball, plain or compressed, into a directory.
    ///
    /// # Errors
    /// There is no such container or directory, it cannot be written to, or the tarball is none.
    pub async fn copy_in(
        &self,
        name: &str,
        path: &str,
        no_overwrite_dir_non_dir: bool,
        copy_uid_gid: bool,
        tarball: StreamReader,
    ) -> Result<(), EngineError> {
        let (engine, name, path) = (self.clone(), name.to_owned(), path.to_owned());
        let container = blocking(move || {
            let mut tarball = tarball;
            let copied =
                engine.put_archive(&name, &path, no_overwrite_dir_non_dir, copy_uid_gid, &mut tarball);
            if copied.is_err() {
                // Who still sends would not see the answer. What fails here has been told of already.
                let _ = io::copy(&mut tarball.take(MAX_DRAIN_BYTES), &mut io::sink());
            }
            copied
        })
        .await?;
        self.shared().events.container("extract-to-dir", &container.record(), &[]);
        Ok(())
    }

    fn put_archive(
        &self,
        name: &str,
        path: &str,
        keeps: bool,
        owns: bool,
        tarball: &mut StreamReader,
    ) -> Result<Arc<Container>, EngineError> {
        let container = self.shared().containers.find(name)?;
        let place = Place::parse(path)?;
        let record = container.record().clone();
        self.look_and_write(&container, |root| {
            place.check_writable(root, &record, name)?;
            let mut tar = knarr_store::archive::decompressed(tarball)
                .map_err(|error| EngineError::invalid(format!("the archive cannot be read: {error}")))?;
            let written = extract(root, &place.inside, keeps, &mut tar)?;
            if owns { own(root, &place.inside, &written, &record) } else { Ok(()) }
        })?;
        Ok(container)
    }

    /// `GET /containers/{id}/changes`.
    ///
    /// # Errors
    /// There is no such container, or its files cannot be read.
    pub async fn changes_container(&self, name: &str) -> Result<Vec<FilesystemChange>, EngineError> {
        let _timed = self.shared().meters.time(Action::Changes);
        let container = self.shared().containers.find(name)?;
        let (record, directory) = self.files_of(&container);
        let found = blocking(move || changes::find(&record, &directory.join("upper"))).await?;
        let shown = |change: Change| FilesystemChange {
            path: format!("/{}", change.path),
            kind: match change.kind {
                changes::ChangeKind::Modified => ChangeType::_0,
                changes::ChangeKind::Added => ChangeType::_1,
                changes::ChangeKind::Deleted => ChangeType::_2,
            },
        };
        Ok(found.into_iter().map(shown).collect())
    }

    /// `GET /containers/{id}/export`: the root without what is mounted in it.
    ///
    /// # Errors
    /// There is no such container.
    pub async fn export_container(&self, name: &str) -> Result<ByteStream, EngineError> {
        let container = self.shared().containers.find(name)?;
        let (record, directory) = self.files_of(&container);
        self.shared().events.container("export", &record, &[]);
        Ok(produce(move |out| {
            view::bare(&record, &directory, |root| Ok(write_subtree(root, "", "", out).map(drop)?))
        }))
    }

    fn files_of(&self, container: &Arc<Container>) -> (Record, std::path::PathBuf) {
        (container.record().clone(), self.container_dir(&container.id))
    }
}

/// Unpacks below a directory, as docker does: what is there gives way.
fn extract(root: &Root, below: &str, keeps: bool, tar: &mut dyn Read) -> Result<Vec<Entry>, EngineError> {
    let policy = Below { root, below, keeps, refused: RefCell::new(None) };
    let entries = unpack(root, tar, &policy, &Limits::default());
    if let Some(refused) = policy.refused.into_inner() {
        return Err(EngineError::invalid(refused));
    }
    entries.map_err(|error| match error {
        TreeError::HostilePath { .. } | TreeError::Read(_) | TreeError::UnknownKind { .. } => {
            EngineError::invalid(EngineError::from(error).message())
        }
        error => error.into(),
    })
}

/// Puts all entries below a directory.
struct Below<'a> {
    root: &'a Root,
    below: &'a str,
    /// A directory does not give way to something else, nor something else to a directory.
    keeps: bool,
    refused: RefCell<Option<String>>,
}

impl Policy for Below<'_> {
    fn decide(&self, head: &EntryHead<'_>) -> Decision {
        // The directory itself stays what it is.
        if head.path.is_empty() || self.refused.borrow().is_some() {
            return Decision::Skip;
        }
        let path = path::join(self.below, head.path);
        if self.keeps
            && let Ok(there) = self.root.lstat(&path)
            && (there.kind == Kind::Directory) != (head.kind == Kind::Directory)
        {
            let words = match there.kind {
                Kind::Directory => format!("cannot overwrite directory \"/{path}\" with non-directory"),
                _ => format!("cannot overwrite non-directory \"/{path}\" with directory"),
            };
            *self.refused.borrow_mut() = Some(words);
            return Decision::Skip;
        }
        Decision::WriteAs(path)
    }

    fn replaces_everything(&self) -> bool {
        true
    }
}

/// Gives what was written to the user that the container's programs run as.
fn own(root: &Root, below: &str, written: &[Entry], record: &Record) -> Result<(), EngineError> {
    let read = |path: &str| root.read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let accounts =
        Accounts::of_texts(read("etc/passwd").unwrap_or_default(), read("etc/group").unwrap_or_default());
    let user = accounts.find(record.config.user.as_deref().unwrap_or_default(), &[])?;
    for entry in written.iter().filter(|entry| entry.written) {
        let path = path::join(below, &entry.path);
        root.set_owner(&path, user.uid, user.gid)?;
        // chown clears setuid and setgid.
        if entry.mode & 0o6000 != 0 && matches!(entry.kind, Kind::File | Kind::Directory) {
            root.set_mode(&path, entry.mode)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
