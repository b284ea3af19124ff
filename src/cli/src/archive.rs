//! `knarr save`, `load`, `import` and `export`: images as files.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use knarr_base::Architecture;
use knarr_linux::namespace;
use knarr_oci::{ImageConfig, Reference};
use knarr_store::archive::{self, Format};
use knarr_store::store::familiar;
use knarr_tree::compress::{Compression, FinishWrite, writer};

use crate::image::{PlatformArg, StoreArgs, become_owner, find};
use crate::settings::now;
use crate::ui::Ui;

/// What `knarr save` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct SaveArgs {
    /// Names or digests
    #[arg(required = true)]
    images: Vec<String>,
    /// The file; its ending says how it is compressed. Without it standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// oci (which docker and podman read, too), or docker (layers unpacked, for old tools)
    #[arg(long, default_value = "oci", value_parser = parse_format)]
    format: Format,
    #[command(flatten)]
    platform: PlatformArg,
    #[command(flatten)]
    store: StoreArgs,
}

/// What `knarr load` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct LoadArgs {
    /// The archive, compressed or not; without it standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
}

/// What `knarr import` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// A root's tarball, compressed or not; - for standard input
    file: PathBuf,
    /// The name of the image
    name: Option<String>,
    /// A remark for its history
    #[arg(short, long)]
    message: Option<String>,
    /// Settings of the image: CMD, ENTRYPOINT, ENV, USER, WORKDIR, LABEL, EXPOSE, VOLUME or STOPSIGNAL and the value
    #[arg(short, long, value_name = "SETTING")]
    change: Vec<String>,
    #[command(flatten)]
    platform: PlatformArg,
    #[command(flatten)]
    store: StoreArgs,
}

/// What `knarr export` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// Name or digest
    image: String,
    /// The file; its ending says how it is compressed. Without it standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    platform: PlatformArg,
    #[command(flatten)]
    store: StoreArgs,
}

fn parse_format(text: &str) -> anyhow::Result<Format> {
    match text {
        "oci" | "oci-archive" => Ok(Format::Oci),
        "docker" | "docker-archive" => Ok(Format::Docker),
        _ => bail!("{text:?} is no format: expected oci or docker"),
    }
}

pub(crate) fn save(args: &SaveArgs) -> anyhow::Result<()> {
    let (store, platform) = (args.store.open()?, args.platform.get()?);
    deliver(args.output.as_deref(), |out| {
        Ok(archive::save(&store, &args.images, &platform, args.format, out)?)
    })
}

pub(crate) fn load(args: &LoadArgs, ui: &Ui) -> anyhow::Result<()> {
    let store = args.store.open()?;
    let loaded = match &args.input {
        Some(path) => archive::load(&store, &path.display().to_string(), open(path)?)
            .with_context(|| format!("cannot load the archive {}", path.display()))?,
        None if io::stdin().is_terminal() => bail!("standard input is a terminal: name a file with -i"),
        None => archive::load(&store, "standard input", io::stdin().lock())?,
    };
    for image in loaded {
        match image.name {
            Some(name) => ui.print(&format!("Loaded image: {}\n", familiar(&name)))?,
            None => ui.print(&format!("Loaded image ID: {}\n", image.descriptor.digest))?,
        }
    }
    Ok(())
}

pub(crate) fn import(args: &ImportArgs, ui: &Ui) -> anyhow::Result<()> {
    let store = args.store.open()?;
    let platform = args.platform.get()?;
    let architecture = platform.debian().unwrap_or_else(Architecture::native);
    let time = crate::bootstrap::source_date_epoch()?.unwrap_or_else(now);
    let mut config = ImageConfig::new(architecture, time);
    (config.architecture, config.variant) = (platform.architecture, platform.variant);
    args.change.iter().try_for_each(|text| change(&mut config, text))?;
    let name = args.name.as_deref().map(Reference::parse).transpose()?.map(|name| name.to_string());
    let created_by = args.message.clone().unwrap_or_else(|| format!("knarr import {}", args.file.display()));
    let descriptor = if args.file == Path::new("-") {
        archive::import(&store, name.as_deref(), config, &created_by, io::stdin().lock())?
    } else {
        archive::import(&store, name.as_deref(), config, &created_by, open(&args.file)?)?
    };
    ui.print(&format!("{}\n", descriptor.digest))
}

pub(crate) fn export(args: &ExportArgs) -> anyhow::Result<()> {
    let store = args.store.open()?;
    let rootless = namespace::is_unprivileged();
    become_owner()?;
    let image = find(&store, &args.image, &args.platform)?;
    let rootless = rootless || namespace::in_user_namespace();
    deliver(args.output.as_deref(), |out| Ok(archive::export(&store, &image, rootless, out)?))
}

fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}

/// Writes a file so that nobody sees half of it, or to standard output, which must not be a terminal.
pub(crate) fn deliver(
    path: Option<&Path>,
    write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let Some(path) = path else {
        if io::stdout().is_terminal() {
            bail!("standard output is a terminal: name a file with -o, or send it somewhere");
        }
        return write(&mut io::stdout().lock());
    };
    let directory = crate::build::parent(path);
    let cannot = || format!("cannot write {}", path.display());
    let file = tempfile::NamedTempFile::new_in(&directory).with_context(cannot)?;
    let mut out: Box<dyn FinishWrite> =
        writer(Compression::of_path(path), file.reopen()?).with_context(cannot)?;
    write(&mut out)?;
    out.finish().with_context(cannot)?;
    file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    file.as_file().sync_all().with_context(cannot)?;
    file.persist(path).with_context(cannot).map(drop)
}

/// One setting as a Dockerfile has it.
fn change(config: &mut ImageConfig, text: &str) -> anyhow::Result<()> {
    let (key, value) = text.trim().split_once(char::is_whitespace).unwrap_or((text, ""));
    let value = value.trim();
    let run = &mut config.config;
    let words = || -> anyhow::Result<Vec<String>> {
        if value.starts_with('[') {
            return serde_json::from_str(value).with_context(|| format!("{text:?} is no list of words"));
        }
        Ok(vec!["/bin/sh".to_owned(), "-c".to_owned(), value.to_owned()])
    };
    match key.to_ascii_uppercase().as_str() {
        "CMD" => run.cmd = words()?,
        "ENTRYPOINT" => run.entrypoint = words()?,
        "USER" => value.clone_into(&mut run.user),
        "WORKDIR" => value.clone_into(&mut run.working_dir),
        "STOPSIGNAL" => value.clone_into(&mut run.stop_signal),
        "EXPOSE" => {
            let port = if value.contains('/') { value.to_owned() } else { format!("{value}/tcp") };
            run.exposed_ports.insert(port, knarr_oci::config::Empty {});
        }
        "VOLUME" => {
            run.volumes.insert(value.to_owned(), knarr_oci::config::Empty {});
        }
        "ENV" | "LABEL" => {
            let (name, value) =
                value.split_once('=').with_context(|| format!("{text:?}: expected NAME=VALUE"))?;
            let value = value.trim_matches('"').to_owned();
            if key.eq_ignore_ascii_case("ENV") {
                run.env.push(format!("{name}={value}"));
            } else {
                run.labels.insert(name.to_owned(), value);
            }
        }
        _ => bail!(
            "{key:?} is no setting of an image: expected CMD, ENTRYPOINT, ENV, USER, WORKDIR, LABEL, EXPOSE, VOLUME or STOPSIGNAL"
        ),
    }
    Ok(())
}
