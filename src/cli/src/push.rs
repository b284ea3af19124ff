//! `knarr push`: an image goes from the store to a registry.

use anyhow::bail;
use knarr_base::HumanSize;
use knarr_oci::{Platform, Reference};
use knarr_registry::client::{Client, Push};
use knarr_store::Store;
use knarr_store::store::familiar;

use crate::image::StoreArgs;
use crate::remote::{RemoteArgs, Told};
use crate::settings::Settings;
use crate::ui::Ui;

/// What was typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A name that the image has in the store (`knarr tag` gives it one): it says where it goes
    name: String,
    /// Send all tags of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Of an image for several machines send only the one for this, such as linux/arm64
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// Do not send what speaks of the image: signatures, lists of its parts
    #[arg(long)]
    no_referrers: bool,
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(flatten)]
    store: StoreArgs,
}

pub(crate) fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let reference = Reference::parse(&args.name)?;
    let client = args.remote.client(&Settings::load()?)?;
    let store = args.store.open()?;
    let how = Push { platform: args.platform.clone(), referrers: !args.no_referrers };
    if !args.all_tags {
        return push(&client, &store, &reference, &how, ui);
    }
    let entries = store.entries()?;
    let names = entries.iter().filter_map(|entry| Reference::parse(entry.ref_name()?).ok());
    let tags: Vec<Reference> =
        names.filter(|known| known.name() == reference.name() && known.tag().is_some()).collect();
    if tags.is_empty() {
        bail!(knarr_store::StoreError::NoImage { name: reference.familiar_name(), near: Vec::new() });
    }
    tags.iter().try_for_each(|tag| push(&client, &store, tag, &how, ui))
}

fn push(client: &Client, store: &Store, reference: &Reference, how: &Push, ui: &Ui) -> anyhow::Result<()> {
    let found = store.find(&reference.to_string())?;
    let name = familiar(&reference.to_string());
    let progress = Told::new(ui, &format!("pushing {name}"));
    let pushed = client.push(store, &found.descriptor, reference, how, &progress)?;
    ui.clear();
    ui.say(&format!(
        "{} blobs sent ({}), {} already there, {} mounted, {} referrers",
        pushed.sent,
        HumanSize(pushed.bytes),
        pushed.known,
        pushed.mounted,
        pushed.referrers
    ));
    let digest = pushed.descriptor.digest;
    ui.print(&if ui.is_quiet() { format!("{reference}\n") } else { format!("{name}: digest: {digest}\n") })
}
