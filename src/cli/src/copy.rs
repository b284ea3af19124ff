//! `knarr image copy`: an image goes from one place to another, without being unpacked.

use std::fs::{self, File};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, bail};
use knarr_oci::{Descriptor, ImageIndex, MAX_MANIFEST_BYTES, Platform, Reference, media_type};
use knarr_registry::client::{Client, Pull, Push, Which};
use knarr_store::archive::{self, Format};
use knarr_store::gc::Reach;
use knarr_store::{Store, StoreError};

use crate::archive::deliver;
use crate::image::{PlatformArg, StoreArgs};
use crate::remote::{RemoteArgs, Told};
use crate::settings::Settings;
use crate::ui::Ui;

/// What was typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// NAME or docker://NAME at a registry, store:NAME, oci:DIR[:TAG], oci-archive:FILE[:TAG] or docker-archive:FILE[:NAME]
    source: Place,
    /// The same; NAME has the registry's host in front
    destination: Place,
    /// Copy what speaks of the image, too: signatures, lists of its parts
    #[arg(long)]
    referrers: bool,
    #[command(flatten)]
    platform: PlatformArg,
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(flatten)]
    store: StoreArgs,
}

/// Where an image is, or goes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Registry(Reference),
    Store(String),
    Layout { dir: PathBuf, tag: Option<String> },
    Archive { file: PathBuf, tag: Option<String>, format: Format },
}

impl FromStr for Place {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let Some((kind, rest)) = text.split_once(':') else {
            return Ok(Self::Registry(Reference::parse(text)?));
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') && !path.is_empty() => (path, Some(tag.to_owned())),
            _ => (rest, None),
        };
        let needs_path =
            || if path.is_empty() { bail!("{text:?} names no file") } else { Ok(PathBuf::from(path)) };
        Ok(match kind {
            "docker" => Self::Registry(Reference::parse(rest.trim_start_matches("//"))?),
            "store" => Self::Store(rest.to_owned()),
            "oci" => Self::Layout { dir: needs_path()?, tag },
            "oci-archive" => Self::Archive { file: needs_path()?, tag, format: Format::Oci },
            // Docker's archives have whole names behind the file.
            "docker-archive" => {
                let (file, tag) = rest.split_once(':').map_or((rest, None), |(file, tag)| (file, Some(tag)));
                let tag = tag.map(str::to_owned);
                Self::Archive { file: file.into(), tag, format: Format::Docker }
            }
            _ => Self::Registry(Reference::parse(text)?),
        })
    }
}

/// A store that is opened for one copy.
struct Local {
    store: Store,
    /// What the image is called there.
    name: Option<String>,
    /// Files that the store makes in somebody else's layout go again.
    is_foreign: bool,
    _temporary: Option<tempfile::TempDir>,
}

impl Drop for Local {
    fn drop(&mut self) {
        if self.is_foreign {
            // Only what is empty goes; another process that has it open makes it anew.
            for name in ["tmp", "layers"] {
                let _ = fs::remove_dir(self.store.path().join(name));
            }
            for name in [".lock", ".index.lock"] {
                let _ = fs::remove_file(self.store.path().join(name));
            }
        }
    }
}

pub(crate) fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let client = args.remote.client(&Settings::load()?)?;
    let platform = args.platform.platform.as_deref().map(str::parse::<Platform>).transpose()?;
    let progress = Told::new(ui, "copying");
    let which = platform.clone().map_or(Which::All, Which::One);
    let digest = match (&args.source, &args.destination) {
        (Place::Registry(from), Place::Registry(to)) => {
            client.copy(from, to, &which, args.referrers, &progress)?.descriptor.digest
        }
        (Place::Registry(from), to) => {
            let local = destination(to, args)?;
            let name = Some(local.name.clone().unwrap_or_else(|| from.to_string()));
            let how = Pull { which, referrers: args.referrers, name };
            if let Some(platform) = platform.as_ref().filter(|_| !matches!(to, Place::Store(_))) {
                let digest = fetch_one(&client, from, &local, &how, platform, args, &progress)?;
                finish(&local, how.name.as_deref().unwrap_or_default(), to, args)?;
                ui.clear();
                return ui.print(&format!("{digest}\n"));
            }
            let pulled = client.pull(&local.store, from, &how, &progress)?;
            finish(&local, &pulled.name, to, args)?;
            pulled.descriptor.digest
        }
        (from, Place::Registry(to)) => {
            let local = source(from, args)?;
            push(&client, &local, to, platform, args.referrers, &progress)?
        }
        (from, to) => {
            let (from, local) = (source(from, args)?, destination(to, args)?);
            let image = image(&from, platform.as_ref())?;
            let name = local.name.clone().or_else(|| from.name.clone());
            let name = name.unwrap_or_else(|| "latest".to_owned());
            transfer(&from.store, &local.store, &image, &name, args.referrers)?;
            finish(&local, &name, to, args)?;
            image.digest
        }
    };
    ui.clear();
    ui.print(&format!("{digest}\n"))
}

/// Brings the image for one machine into a layout, and nothing of the index that lists it: other tools take
/// an index for whole.
fn fetch_one(
    client: &Client,
    from: &Reference,
    local: &Local,
    how: &Pull,
    platform: &Platform,
    args: &Args,
    progress: &Told<'_>,
) -> anyhow::Result<knarr_base::Digest> {
    let beside = crate::build::parent(local.store.path());
    let temporary = tempfile::Builder::new().prefix(".knarr-copy-").tempdir_in(&beside);
    let temporary = temporary.with_context(|| format!("cannot write to {}", beside.display()))?;
    let store = Store::open(&temporary.path().join("store"))?;
    let pulled = client.pull(&store, from, how, progress)?;
    let image = knarr_store::image::choose(&store, &pulled.descriptor, platform)?;
    transfer(&store, &local.store, &image, &pulled.name, args.referrers)?;
    Ok(image.digest)
}

fn push(
    client: &Client,
    local: &Local,
    to: &Reference,
    platform: Option<Platform>,
    referrers: bool,
    progress: &Told<'_>,
) -> anyhow::Result<knarr_base::Digest> {
    let image = image(local, None)?;
    let pushed = client.push(&local.store, &image, to, &Push { platform, referrers }, progress)?;
    Ok(pushed.descriptor.digest)
}

/// Opens where an image comes from.
fn source(place: &Place, args: &Args) -> anyhow::Result<Local> {
    match place {
        Place::Registry(_) => bail!("a registry is no store"),
        Place::Store(name) => Ok(Local {
            store: args.store.open()?,
            name: Some(name.clone()),
            is_foreign: false,
            _temporary: None,
        }),
        Place::Layout { dir, tag } => {
            if !dir.join("oci-layout").exists() {
                bail!(StoreError::NotAStore { path: dir.clone(), reason: "it has no oci-layout".to_owned() });
            }
            let is_foreign = !dir.join("tmp").exists();
            Ok(Local { store: Store::open(dir)?, name: tag.clone(), is_foreign, _temporary: None })
        }
        Place::Archive { file, tag, .. } => {
            let temporary =
                tempfile::tempdir().context("cannot make a directory for the archive's content")?;
            let store = Store::open(&temporary.path().join("store"))?;
            let input = File::open(file).with_context(|| format!("cannot open {}", file.display()))?;
            let loaded = archive::load(&store, &file.display().to_string(), input)?;
            let name = match (tag, &loaded[..]) {
                (Some(tag), _) => Some(tag.clone()),
                (None, [one]) => Some(one.name.clone().unwrap_or_else(|| one.descriptor.digest.to_string())),
                (None, _) => {
                    bail!("{} holds {} images: name one behind another colon", file.display(), loaded.len())
                }
            };
            Ok(Local { store, name, is_foreign: false, _temporary: Some(temporary) })
        }
    }
}

/// Opens where an image goes; an archive is written from a store beside it.
fn destination(place: &Place, args: &Args) -> anyhow::Result<Local> {
    match place {
        Place::Registry(_) => bail!("a registry is no store"),
        Place::Store(name) => {
            let name = (!name.is_empty()).then(|| Reference::parse(name)).transpose()?;
            let name = name.map(|name| name.to_string());
            Ok(Local { store: args.store.open()?, name, is_foreign: false, _temporary: None })
        }
        Place::Layout { dir, tag } => {
            let is_foreign = !dir.join("tmp").exists();
            Ok(Local { store: Store::open(dir)?, name: tag.clone(), is_foreign, _temporary: None })
        }
        Place::Archive { file, tag, .. } => {
            let parent = crate::build::parent(file);
            let temporary = tempfile::Builder::new().prefix(".knarr-copy-").tempdir_in(&parent);
            let temporary = temporary.with_context(|| format!("cannot write to {}", parent.display()))?;
            let store = Store::open(&temporary.path().join("store"))?;
            Ok(Local { store, name: tag.clone(), is_foreign: false, _temporary: Some(temporary) })
        }
    }
}

/// Writes the archive, when one is wanted.
fn finish(local: &Local, name: &str, place: &Place, args: &Args) -> anyhow::Result<()> {
    let Place::Archive { file, format, .. } = place else { return Ok(()) };
    let platform = args.platform.get()?;
    deliver(Some(file), |out| Ok(archive::save(&local.store, &[name.to_owned()], &platform, *format, out)?))
}

/// The image that is meant: by its name, or the only one.
fn image(local: &Local, platform: Option<&Platform>) -> anyhow::Result<Descriptor> {
    let found = match &local.name {
        Some(name) => local.store.find(name)?.descriptor,
        None => {
            let entries = local.store.entries()?;
            let mut named: Vec<&Descriptor> =
                entries.iter().filter(|entry| entry.ref_name().is_some()).collect();
            if named.is_empty() {
                named = entries.iter().collect();
            }
            match named[..] {
                [one] => one.clone(),
                _ => bail!(
                    "{} holds {} images: name one behind a colon",
                    local.store.path().display(),
                    named.len()
                ),
            }
        }
    };
    match platform {
        Some(platform) if media_type::is_index(&found.media_type) => {
            Ok(knarr_store::image::choose(&local.store, &found, platform)?)
        }
        _ => Ok(found),
    }
}

/// Copies an image from one store to another.
fn transfer(from: &Store, to: &Store, image: &Descriptor, name: &str, referrers: bool) -> anyhow::Result<()> {
    let ingest = to.ingest()?;
    let blobs = |image: &Descriptor| -> anyhow::Result<()> {
        let mut reach = Reach::default();
        reach.add(from, image)?;
        for (digest, size) in reach.blobs {
            let blob = Descriptor::new("", digest, size);
            if !to.has(&blob) {
                ingest.copy(&blob, &mut from.open_blob(digest)?)?;
            }
        }
        Ok(())
    };
    blobs(image)?;
    ingest.add(Some(name), image)?;
    let mut subjects = vec![image.digest];
    if media_type::is_index(&image.media_type) {
        let index = ImageIndex::parse(&from.read(image, MAX_MANIFEST_BYTES)?)?;
        subjects.extend(index.manifests.iter().map(|entry| entry.digest));
    }
    for subject in subjects.into_iter().filter(|_| referrers) {
        for referrer in from.referrers(subject)? {
            blobs(&referrer)?;
            ingest.add(None, &referrer)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart_by_what_stands_before_the_colon() {
        let parse = |text: &str| text.parse::<Place>().unwrap();
        let registry = |name: &str| Place::Registry(Reference::parse(name).unwrap());
        assert_eq!(parse("debian:trixie"), registry("debian:trixie"));
        assert_eq!(parse("docker://localhost:5000/a:1"), registry("localhost:5000/a:1"));
        assert_eq!(parse("localhost:5000/a:1"), registry("localhost:5000/a:1"));
        assert_eq!(parse("store:app:1"), Place::Store("app:1".to_owned()));
        assert_eq!(parse("oci:/tmp/x:1"), Place::Layout { dir: "/tmp/x".into(), tag: Some("1".to_owned()) });
        assert_eq!(parse("oci:x"), Place::Layout { dir: "x".into(), tag: None });
        assert!("oci:".parse::<Place>().is_err());
        let format = Format::Docker;
        let tag = Some("reg.example:5000/a:1".to_owned());
        assert_eq!(
            parse("docker-archive:a.tar:reg.example:5000/a:1"),
            Place::Archive { file: "a.tar".into(), tag, format }
        );
    }
}
