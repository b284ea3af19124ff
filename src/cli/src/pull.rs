//! `knarr pull`: an image comes from a registry into the store.

use knarr_base::HumanSize;
use knarr_oci::Reference;
use knarr_registry::client::{Pull, Pulled, Which};
use knarr_store::store::familiar;

use crate::image::{PlatformArg, StoreArgs};
use crate::remote::{RemoteArgs, Told};
use crate::settings::Settings;
use crate::ui::Ui;

/// What was typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names, such as debian:trixie or registry.example/app@sha256:…
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Fetch an image for several machines whole
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// Fetch what speaks of the image, too: signatures, lists of its parts
    #[arg(long)]
    referrers: bool,
    #[command(flatten)]
    platform: PlatformArg,
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(flatten)]
    store: StoreArgs,
}

pub(crate) fn run(args: &Args, ui: &Ui) -> anyhow::Result<()> {
    let references = args.names.iter().map(|name| Reference::parse(name)).collect::<Result<Vec<_>, _>>()?;
    let which = if args.all_platforms { Which::All } else { Which::One(args.platform.get()?) };
    let client = args.remote.client(&Settings::load()?)?;
    let store = args.store.open()?;
    let how = Pull { which, referrers: args.referrers, name: None };
    for reference in references {
        let progress = Told::new(ui, &format!("pulling {}", familiar(&reference.to_string())));
        let pulled = client.pull(&store, &reference, &how, &progress)?;
        ui.clear();
        ui.say(&format!(
            "{} blobs fetched ({}), {} already here{}",
            pulled.fetched,
            HumanSize(pulled.bytes),
            pulled.known,
            if args.referrers { format!(", {} referrers", pulled.referrers) } else { String::new() }
        ));
        ui.print(&result(&pulled, ui))?;
    }
    Ok(())
}

/// What docker's users read there.
fn result(pulled: &Pulled, ui: &Ui) -> String {
    if ui.is_quiet() {
        return format!("{}\n", pulled.name);
    }
    let status = match pulled.is_known {
        true if pulled.fetched == 0 => "Image is up to date for",
        _ => "Downloaded newer image for",
    };
    let (digest, name) = (pulled.descriptor.digest, &pulled.name);
    format!("Digest: {digest}\nStatus: {status} {}\n{name}\n", familiar(name))
}
