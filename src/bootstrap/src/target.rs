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

/// A name of a format that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown format {found:?}: expected one of directory, tar, squashfs, ext4, oci, oci-archive")]
pub struct FormatError {
    /// What was found.
    pub found: String,
}

impl Target {
    /// Reads a target as a user types it: `-`, `oci:DIR`, `oci-archive:FILE`, `root.tar.zst`, `root.ext4`, `DIR`.
    /// `format` overrules what the name says.
    pub fn parse(text: &str, format: Option<&str>) -> Result<Self, FormatError> {
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            return Ok(Self { format: Format::OciArchive, path: Some(rest.into()) });
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            return Ok(Self { format: Format::Oci, path: Some(rest.into()) });
        }
        let format = format.map_or_else(|| Ok(Format::of_name(text)), Format::parse)?;
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
    fn parse(name: &str) -> Result<Self, FormatError> {
        let found = match name {
            "directory" | "dir" => Self::Directory,
            "tar" => Self::Tar,
            "squashfs" | "sqfs" => Self::Squashfs,
            "ext4" => Self::Ext4,
            "oci" => Self::Oci,
            "oci-archive" => Self::OciArchive,
            _ => return Err(FormatError { found: name.to_owned() }),
        };
        Ok(found)
    }

    fn of_name(name: &str) -> Self {
        const TARS: [&str; 8] =
            [".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.zst", ".tar.zstd", ".tzst"];
        let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
        if name == "-" || ends(&TARS) {
            Self::Tar
        } else if ends(&[".squashfs", ".sqfs", ".sfs"]) {
            Self::Squashfs
        } else if ends(&[".ext4"]) {
            Self::Ext4
        } else {
            Self::Directory
        }
    }
}
