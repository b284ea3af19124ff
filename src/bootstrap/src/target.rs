//! Targets: where a root filesystem goes and in what form.

use std::path::{Path, PathBuf};

/// The form of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A directory.
    Directory,
    /// A tarball, perhaps compressed.
    Tar,
    /// A squashfs image.
    Squashfs,
    /// An ext4 image.
    Ext4,
    /// An OCI image layout directory.
    Oci,
    /// An OCI image layout in one tarball.
    OciArchive,
}

/// Where the result goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The form of the result.
    pub format: Format,
    /// The file or directory; `None` is standard output.
    pub path: Option<PathBuf>,
}

/// A target that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// A name of a format that does not exist.
    #[error("unknown format {found:?}: expected one of {FORMATS}")]
    Format {
        /// What was found.
        found: String,
    },
    /// The name of a file that would not become one.
    #[error(
        "{name:?} looks like a {ending} file, which is no format here: expected one of {FORMATS}; --format directory makes a directory of this name"
    )]
    Ending {
        /// What was typed.
        name: String,
        /// How it ends.
        ending: &'static str,
    },
    /// Nothing at all.
    #[error("the target is empty: expected the name of a directory or file, or - for standard output")]
    Empty,
}

const FORMATS: &str = "directory, tar, squashfs, ext4, oci, oci-archive";

impl Target {
    /// Reads a target as a user types it: `-`, `oci:DIR`, `oci-archive:FILE`, `root.tar.zst`, `root.ext4`, `DIR`.
    /// `format` overrules what the name says.
    pub fn parse(text: &str, format: Option<&str>) -> Result<Self, TargetError> {
        if matches!(text, "" | "oci:" | "oci-archive:") {
            return Err(TargetError::Empty);
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            return Ok(Self { format: Format::OciArchive, path: Some(rest.into()) });
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            return Ok(Self { format: Format::Oci, path: Some(rest.into()) });
        }
        let format = format.map_or_else(|| Format::of_name(text), Format::parse)?;
        let path = (text != "-").then(|| PathBuf::from(text));
        Ok(Self { format, path })
    }

    /// The name shown to people.
    #[must_use]
    pub fn display(&self) -> String {
        self.path
            .as_deref()
            .map_or_else(|| "standard output".to_owned(), |path: &Path| path.display().to_string())
    }
}

impl Format {
    fn parse(name: &str) -> Result<Self, TargetError> {
        let found = match name {
            "directory" | "dir" => Self::Directory,
            "tar" => Self::Tar,
            "squashfs" | "sqfs" => Self::Squashfs,
            "ext4" => Self::Ext4,
            "oci" => Self::Oci,
            "oci-archive" => Self::OciArchive,
            _ => return Err(TargetError::Format { found: name.to_owned() }),
        };
        Ok(found)
    }

    fn of_name(name: &str) -> Result<Self, TargetError> {
        const STRANGE: [&str; 13] = [
            ".zip",
            ".7z",
            ".iso",
            ".img",
            ".raw",
            ".qcow2",
            ".vmdk",
            ".cpio",
            ".tar.bz2",
            ".tbz2",
            ".tar.lz4",
            ".tar.lzma",
            ".gz",
        ];
        const TARS: [&str; 8] =
            [".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.zst", ".tar.zstd", ".tzst"];
        let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
        if name == "-" || ends(&TARS) {
            return Ok(Self::Tar);
        } else if ends(&[".squashfs", ".sqfs", ".sfs"]) {
            return Ok(Self::Squashfs);
        } else if ends(&[".ext4"]) {
            return Ok(Self::Ext4);
        }
        match STRANGE.into_iter().find(|ending| name.ends_with(ending) && !Path::new(name).is_dir()) {
            Some(ending) => Err(TargetError::Ending { name: name.to_owned(), ending }),
            None => Ok(Self::Directory),
        }
    }
}
