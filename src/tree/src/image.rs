//! File system images, both made from the tarball that [`write_tar`] writes.
//!
//! squashfs is its own tool's work, ext4 is [`crate::ext4`]'s.
//!
//! Spec: mksquashfs(1).

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::TreeError;
use crate::archive::{TarOptions, write_tar};
use crate::root::Root;

/// Writes `root` as a squashfs image at `out`.
pub fn write_squashfs(root: &Root, out: &Path, options: &TarOptions<'_>) -> Result<(), TreeError> {
    const PROGRAM: &str = "mksquashfs";
    let time = options.newest.0.to_string();
    let mut child = Command::new(PROGRAM)
        .arg("-")
        .arg(out)
        .args([
            "-tar",
            "-quiet",
            "-noappend",
            "-no-progress",
            "-reproducible",
            "-comp",
            "zstd",
            "-root-mode",
            "755",
        ])
        // Bounds the times of the image and of its top directory, which has no entry to say it.
        .env("SOURCE_DATE_EPOCH", time)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| missing(PROGRAM, "squashfs-tools", &error))?;
    let written = child.stdin.take().map(|stdin| write_tar(root, stdin, options));
    finish(PROGRAM, child)?;
    written.transpose().map(drop)
}

/// Writes `root` as an ext4 image at `out`, with half as much room again as its content takes.
pub fn write_ext4(root: &Root, out: &Path, options: &TarOptions<'_>) -> Result<(), TreeError> {
    let file = std::fs::File::create(out);
    let file = file.map_err(|source| TreeError::File { doing: "create", path: out.to_owned(), source })?;
    crate::ext4::write_through(&file, options.newest, |pipe| write_tar(root, pipe, options).map(drop))
}

fn missing(program: &'static str, package: &str, error: &std::io::Error) -> TreeError {
    TreeError::Tool {
        program,
        reason: format!("could not be started ({error}): it comes with the package {package}"),
    }
}

fn finish(program: &'static str, child: std::process::Child) -> Result<(), TreeError> {
    let output = child.wait_with_output().map_err(TreeError::Write)?;
    if output.status.success() {
        return Ok(());
    }
    let reason = format!("failed with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    // Whatever it printed is the best evidence there is.
    let _ = std::io::stderr().flush();
    Err(TreeError::Tool { program, reason })
}
