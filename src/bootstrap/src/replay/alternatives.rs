//! Alternatives: `update-alternatives --install` of a name that has none yet.
//!
//! Spec: update-alternatives(1) "FILES"; the database's lines are master link, slaves by name, an
//! empty line, then each choice with its priority and its slaves' files.

use std::fmt::Write;

use knarr_tree::root::Root;
use knarr_tree::unpack::Kind;

use crate::BootstrapError;

/// A choice with its slaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alternative {
    pub(super) name: &'static str,
    pub(super) link: &'static str,
    pub(super) path: &'static str,
    pub(super) priority: i32,
    /// Name, link and path, sorted by name.
    pub(super) slaves: &'static [(&'static str, &'static str, &'static str)],
}

impl Alternative {
    /// Whether this is the first choice of its name and nothing stands in its way.
    pub(super) fn is_new(&self, root: &Root) -> Result<bool, BootstrapError> {
        let known = root.exists(&self.database())?;
        if known || !root.exists(self.path)? {
            return Ok(false);
        }
        for link in self.links(root)? {
            let parent = link.rsplit_once('/').map_or("", |(parent, _)| parent);
            let taken = root.exists(link)? && root.lstat(link)?.kind != Kind::Symlink;
            if taken || !root.exists(parent)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn install(&self, root: &Root) -> Result<(), BootstrapError> {
        root.create_dir_all("etc/alternatives", 0o755)?;
        let mtime = root.stat(self.path)?.mtime;
        let slaves = self.slaves.iter().copied();
        for (name, link, path) in std::iter::once((self.name, self.link, self.path)).chain(slaves) {
            if !root.exists(path)? {
                continue;
            }
            let middle = format!("etc/alternatives/{name}");
            for (target, link) in [(path, middle.as_str()), (middle.as_str(), link)] {
                root.symlink(&format!("/{target}"), link)?;
                root.set_mtime(link, mtime)?;
            }
        }
        Ok(root.write(&self.database(), self.text().as_bytes(), 0o644)?)
    }

    /// The links that will be made: those of slaves without a file are not.
    fn links(&self, root: &Root) -> Result<Vec<&'static str>, BootstrapError> {
        let mut links = vec![self.link];
        for (_, link, path) in self.slaves {
            if root.exists(path)? {
                links.push(link);
            }
        }
        Ok(links)
    }

    fn database(&self) -> String {
        format!("var/lib/dpkg/alternatives/{}", self.name)
    }

    fn text(&self) -> String {
        let mut text = format!("auto\n/{}\n", self.link);
        for (name, link, _) in self.slaves {
            let _ = writeln!(text, "{name}\n/{link}");
        }
        let _ = writeln!(text, "\n/{}\n{}", self.path, self.priority);
        for (_, _, path) in self.slaves {
            let _ = writeln!(text, "/{path}");
        }
        text.push('\n');
        text
    }
}
