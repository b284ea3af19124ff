//! `knarr inspect`: everything about containers, images, volumes and networks, as JSON.

use serde_json::Value;

use crate::client::{ApiFailure, Client, encode};
use crate::container::InspectArgs;
use crate::exit::Answer;
use crate::template::render;
use crate::ui::Ui;

/// What `knarr inspect` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Of this kind only
    #[arg(long, value_name = "KIND", value_parser = ["container", "image", "volume", "network"])]
    r#type: Option<String>,
    #[command(flatten)]
    common: InspectArgs,
}

pub(crate) fn run(args: &Args, host: Option<&str>, ui: &Ui) -> anyhow::Result<()> {
    let client = Client::open(host)?;
    let kinds: Vec<&str> = match args.r#type.as_deref() {
        Some(kind) => vec![kind],
        None => vec!["container", "image", "volume", "network"],
    };
    show(&client, &kinds, &args.common, ui)
}

/// `knarr container inspect`.
pub(crate) fn containers(client: &Client, args: &InspectArgs, ui: &Ui) -> anyhow::Result<()> {
    show(client, &["container"], args, ui)
}

/// Shows what is found, and tells what is not.
pub(crate) fn show(client: &Client, kinds: &[&str], args: &InspectArgs, ui: &Ui) -> anyhow::Result<()> {
    let mut found = Vec::new();
    let mut failed = false;
    for name in &args.names {
        match client.run(find(client, kinds, name, args.size)) {
            Ok(value) => found.push(value),
            Err(error) => {
                ui.error(&format!("{error:#}"));
                failed = true;
            }
        }
    }
    match args.format.as_deref() {
        None | Some("json") => ui.print(&format!("{}\n", serde_json::to_string_pretty(&found)?))?,
        Some(format) => {
            for value in &found {
                ui.print(&format!("{}\n", render(format, value)?))?;
            }
        }
    }
    if failed { Err(Answer(1).into()) } else { Ok(()) }
}

async fn find(client: &Client, kinds: &[&str], name: &str, size: bool) -> anyhow::Result<Value> {
    let encoded = encode(name);
    for kind in kinds {
        let path = match *kind {
            "container" => format!("/containers/{encoded}/json{}", if size { "?size=1" } else { "" }),
            "image" => format!("/images/{name}/json"),
            "volume" => format!("/volumes/{encoded}"),
            _ => format!("/networks/{encoded}"),
        };
        match client.get(&path).await {
            Err(error) if kinds.len() > 1 && is_absent(&error) => {}
            other => return other,
        }
    }
    anyhow::bail!("no such object: {name}")
}

fn is_absent(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ApiFailure>().is_some_and(|failure| matches!(failure.status, 400 | 404))
}
