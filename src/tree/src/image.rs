//! File system images, made by the file systems' own tools.
//!
//! Spec: mksquashfs(1), mke2fs(8).

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use knarr_base::{Digest, Timestamp};

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
pub fn write_ext4(root: &Root, out: &Path, content_bytes: u64, time: Timestamp) -> Result<(), TreeError> {
    const PROGRAM: &str = "mkfs.ext4";
    let size = (content_bytes + content_bytes / 2 + (64 << 20)).next_multiple_of(1 << 20);
    let file = std::fs::File::create(out).and_then(|file| file.set_len(size));
    file.map_err(|source| TreeError::File { doing: "create", path: out.to_owned(), source })?;
    // Ids made from the time: two images of one tree are the same.
    let uuid = uuid_of(Digest::of(format!("ext4 {time}").as_bytes()));
    let child = Command::new(PROGRAM)
        .args([
            "-q",
            "-F",
            "-U",
            &uuid,
            "-E",
            &format!("hash_seed={uuid},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0"),
            "-d",
        ])
        .arg(root.path())
        .arg(out)
        .env("E2FSPROGS_FAKE_TIME", time.0.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| missing(PROGRAM, "e2fsprogs", &error))?;
    finish(PROGRAM, child)
}

fn uuid_of(digest: Digest) -> String {
    let hex = digest.hex();
    format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
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
