//! Writing the finished root as what was asked for.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use knarr_base::Timestamp;
use knarr_oci::ImageConfig;
use knarr_tree::archive::{ExtraEntry, TarOptions, TarStats, dev_entries, write_tar};
use knarr_tree::compress::{Compression, writer};
use knarr_tree::layout::{LayoutWriter, pack_archive};
use knarr_tree::root::Root;
use knarr_tree::{TreeError, image};

use crate::BootstrapError;
use crate::lock::Lock;
use crate::target::{Format, Target};

/// Writes `root` to a target that is no directory.
pub fn write(
    root: &Root,
    target: &Target,
    lock: &Lock,
    newest: Timestamp,
    started: Timestamp,
) -> Result<(), BootstrapError> {
    let mut dev = dev_entries();
    dev.push(directory("dev"));
    // Containers get a /dev of their own: in an image it stays empty.
    let empty_dev = [directory("dev")];
    let options = TarOptions { newest, started, skip: &|path| path.starts_with("dev/"), extra: &empty_dev };
    match (target.format, &target.path) {
        (Format::Tar, None) => {
            write_stream(root, io::stdout(), Compression::None, &tar_options(newest, started, &dev))
        }
        (Format::Tar, Some(path)) => {
            let options = tar_options(newest, started, &dev);
            replace_file(path, |temporary| {
                write_stream(root, create(temporary)?, Compression::of_path(path), &options)
            })
        }
        (Format::Squashfs, Some(path)) => {
            let options = tar_options(newest, started, &dev);
            replace_file(path, |temporary| Ok(image::write_squashfs(root, temporary, &options)?))
        }
        (Format::Ext4, Some(path)) => {
            let options = tar_options(newest, started, &dev);
            replace_file(path, |temporary| Ok(image::write_ext4(root, temporary, &options)?))
        }
        (Format::Oci, Some(path)) => {
            replace_directory(path, |temporary| write_oci(root, temporary, lock, &options))
        }
        (Format::OciArchive, Some(path)) => replace_file(path, |temporary| {
            let holder = temporary.with_extension("layout");
            fs::create_dir(&holder).map_err(|source| file_error(&holder, "create", source))?;
            let packed = write_oci(root, &holder, lock, &options)
                .and_then(|()| Ok(pack_archive(&holder, create(temporary)?, newest)?));
            let removed = fs::remove_dir_all(&holder).map_err(|source| file_error(&holder, "remove", source));
            packed.and(removed)
        }),
        (Format::Directory, _) | (_, None) => {
            Err(BootstrapError::Request("only a tarball can be written to standard output".to_owned()))
        }
    }
}

fn tar_options<'a>(newest: Timestamp, started: Timestamp, extra: &'a [ExtraEntry]) -> TarOptions<'a> {
    TarOptions { newest, started, skip: &|path| path.starts_with("dev/") && !is_standard_device(path), extra }
}

fn is_standard_device(path: &str) -> bool {
    dev_entries().iter().any(|entry| entry.path == path)
}

fn directory(path: &str) -> ExtraEntry {
    ExtraEntry {
        path: path.to_owned(),
        kind: knarr_tree::unpack::Kind::Directory,
        mode: 0o755,
        device: (0, 0),
        link: String::new(),
    }
}

fn write_stream(
    root: &Root,
    out: impl Write + Send + 'static,
    compression: Compression,
    options: &TarOptions<'_>,
) -> Result<(), BootstrapError> {
    let mut out =
        writer(compression, io::BufWriter::with_capacity(1 << 20, out)).map_err(TreeError::Write)?;
    let _: TarStats = write_tar(root, &mut out, options)?;
    Ok(out.finish().map_err(TreeError::Write)?)
}

fn write_oci(
    root: &Root,
    directory: &Path,
    lock: &Lock,
    options: &TarOptions<'_>,
) -> Result<(), BootstrapError> {
    let mut layout = LayoutWriter::create(directory)?;
    let created_by = format!("knarr bootstrap --variant={} {}", lock.variant, lock.suite);
    layout.add_layer(Compression::Zstd(3), &created_by, |out| write_tar(root, out, options).map(drop))?;
    let mut config = ImageConfig::new(lock.architecture, options.newest);
    config.config.env = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    config.config.cmd = vec!["bash".to_owned()];
    layout.finish(config, &lock.suite)?;
    Ok(())
}

fn create(path: &Path) -> Result<File, BootstrapError> {
    File::create(path).map_err(|source| file_error(path, "create", source))
}

fn file_error(path: &Path, doing: &'static str, source: io::Error) -> BootstrapError {
    BootstrapError::File { path: path.to_owned(), doing, source }
}

/// Writes a file under another name, brings it to the disk, and renames it.
pub(crate) fn replace_file(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), BootstrapError>,
) -> Result<(), BootstrapError> {
    let temporary = temporary_beside(path);
    let outcome = write(&temporary).and_then(|()| {
        let synced = File::open(&temporary)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&temporary, path));
        synced.map_err(|source| file_error(path, "create", source))
    });
    if outcome.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    outcome
}

pub(crate) fn replace_directory(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), BootstrapError>,
) -> Result<(), BootstrapError> {
    let temporary = temporary_beside(path);
    fs::create_dir(&temporary).map_err(|source| file_error(&temporary, "create", source))?;
    let outcome = write(&temporary).and_then(|()| {
        let synced = sync_tree(&temporary).and_then(|()| fs::rename(&temporary, path));
        synced.map_err(|source| file_error(path, "create", source))
    });
    if outcome.is_err() {
        let _ = fs::remove_dir_all(&temporary);
    }
    outcome
}

/// Brings a directory of few files to the disk; to sync its whole file system would wait for others.
fn sync_tree(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            sync_tree(&entry?.path())?;
        }
    }
    File::open(path)?.sync_all()
}

fn temporary_beside(path: &Path) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.knarr-{}", std::process::id()))
}
