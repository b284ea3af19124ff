//! `knarr image sign` and `knarr image key`: keys, and signatures as cosign makes them.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Subcommand;
use knarr_bootstrap::BootstrapError;
use knarr_factory::FactoryError;
use knarr_factory::sign::keys::MAX_KEY_BYTES;
use knarr_factory::sign::{self, PrivateKey, PublicKey, SignError};
use knarr_oci::Reference;
use knarr_store::Store;

use crate::image::StoreArgs;
use crate::prompt::ask;
use crate::ui::Ui;

/// What `knarr image sign` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct SignArgs {
    /// Name or digest
    image: String,
    /// The private key: cosign's file or plain PKCS#8; its password comes from COSIGN_PASSWORD or is asked for
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    #[command(flatten)]
    store: StoreArgs,
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key: FILE.key, encrypted with a password, and FILE.pub
    Generate {
        /// Name of both files, without their endings
        #[arg(long, value_name = "FILE", default_value = "cosign")]
        output: PathBuf,
    },
}

pub(crate) fn sign(args: &SignArgs, ui: &Ui) -> anyhow::Result<()> {
    let store = args.store.open()?;
    let found = store.find(&args.image)?;
    let Some(name) = found.name.or_else(|| name_of(&store, &found.descriptor.digest.to_string())) else {
        bail!("image {} has no name: a signature lies beside a name (`knarr tag` gives one)", args.image);
    };
    let name = Reference::parse(&name)?;
    let key = private_key(&args.key)?;
    let signature = sign::sign(&store.ingest()?, &found.descriptor, &name, &key)?;
    ui.say(&format!("{} is signed", found.descriptor.digest));
    ui.print(&format!("{}\n", signature.digest))
}

/// The first name of an image.
fn name_of(store: &Store, digest: &str) -> Option<String> {
    let entries = store.entries().ok()?;
    let named = entries.iter().filter(|entry| entry.digest.to_string() == digest);
    named.filter_map(|entry| entry.ref_name()).find(|name| Reference::parse(name).is_ok()).map(str::to_owned)
}

/// Checks that a key signed an image.
pub(crate) fn check(store: &Store, image: &str, key: &Path, ui: &Ui) -> anyhow::Result<()> {
    let found = store.find(image)?;
    let key = PublicKey::parse(&key.display().to_string(), &read(key)?).map_err(FactoryError::from)?;
    let payloads = sign::verify(store, found.descriptor.digest, &key)?;
    for payload in payloads {
        let name = payload.critical.identity.docker_reference;
        ui.say(&format!("{} is signed by this key, as {name}", found.descriptor.digest));
    }
    Ok(())
}

pub(crate) fn key(command: &KeyCommand, ui: &Ui) -> anyhow::Result<()> {
    let KeyCommand::Generate { output } = command;
    let with = |ending: &str| {
        let mut name = output.clone().into_os_string();
        name.push(ending);
        PathBuf::from(name)
    };
    let (private, public) = (with(".key"), with(".pub"));
    for path in [&private, &public] {
        if path.exists() {
            return Err(FactoryError::from(SignError::KeyExists { path: path.clone() }).into());
        }
    }
    let key = PrivateKey::generate().map_err(FactoryError::from)?;
    let text = key.to_encrypted(&new_password()?).map_err(FactoryError::from)?;
    write(&private, &text, 0o600)?;
    write(&public, &key.public().to_text(), 0o644)?;
    ui.print(&format!("{}\n{}\n", private.display(), public.display()))
}

fn private_key(path: &Path) -> anyhow::Result<PrivateKey> {
    let name = path.display().to_string();
    let mut ask = || {
        password(&format!("Password for {name}: "))
            .map_err(|error| SignError::BadKey { name: name.clone(), reason: format!("{error:#}") })
    };
    Ok(PrivateKey::parse(&name, &read(path)?, &mut ask).map_err(FactoryError::from)?)
}

fn password(prompt: &str) -> anyhow::Result<String> {
    if let Ok(password) = std::env::var("COSIGN_PASSWORD") {
        return Ok(password);
    }
    ask(prompt, true).context("there is no terminal to ask at: set COSIGN_PASSWORD")
}

fn new_password() -> anyhow::Result<String> {
    let password = password("Password for the new key: ")?;
    if std::env::var_os("COSIGN_PASSWORD").is_none() && ask("The same once more: ", true)? != password {
        bail!("the two passwords differ");
    }
    Ok(password)
}

fn read(path: &Path) -> anyhow::Result<String> {
    let fail = |source| BootstrapError::File { path: path.to_owned(), doing: "read", source };
    let mut text = String::new();
    fs::File::open(path).map_err(fail)?.take(MAX_KEY_BYTES).read_to_string(&mut text).map_err(fail)?;
    Ok(text)
}

fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let fail = |source| BootstrapError::File { path: path.to_owned(), doing: "write", source };
    let mut file = fs::File::options().write(true).create_new(true).mode(mode).open(path).map_err(fail)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(fail)?;
    Ok(())
}
