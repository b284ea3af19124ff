//! `knarr network`: what containers reach each other by.

use clap::Subcommand;
use serde_json::{Map, Value, json};

use crate::client::{Client, encode, query};
use crate::container::{InspectArgs, PruneArgs, each, filters, print_rows, prune};
use crate::table::table;
use crate::ui::Ui;
use crate::volume::pairs;

/// What can be done with networks.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a network
    Create(CreateArgs),
    /// List networks
    #[command(alias = "list")]
    Ls {
        /// Those that fit: KEY=VALUE (may be given again)
        #[arg(short, long, value_name = "FILTER")]
        filter: Vec<String>,
        /// A template, table TEMPLATE, or json
        #[arg(long, value_name = "FORMAT")]
        format: Option<String>,
        /// Show ids whole
        #[arg(long)]
        no_trunc: bool,
    },
    /// Show everything about networks, as JSON
    Inspect(InspectArgs),
    /// Remove networks
    #[command(alias = "remove")]
    Rm {
        /// Names or ids
        #[arg(required = true, value_name = "NETWORK")]
        networks: Vec<String>,
    },
    /// Put a container into a network
    Connect {
        /// Another name there (may be given again)
        #[arg(long, value_name = "NAME")]
        alias: Vec<String>,
        /// A fixed IPv4 address
        #[arg(long, value_name = "ADDRESS")]
        ip: Option<String>,
        /// A fixed IPv6 address
        #[arg(long, value_name = "ADDRESS")]
        ip6: Option<String>,
        /// The network
        network: String,
        /// The container
        container: String,
    },
    /// Take a container out of a network
    Disconnect {
        /// Whatever it does
        #[arg(short, long)]
        force: bool,
        /// The network
        network: String,
        /// The container
        container: String,
    },
    /// Remove networks that no container is in
    Prune(PruneArgs),
}

/// What `knarr network create` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// bridge, macvlan or ipvlan
    #[arg(short, long, default_value = "bridge")]
    driver: String,
    /// Let nothing out of it or into it
    #[arg(long)]
    internal: bool,
    /// Accepted as docker's
    #[arg(long)]
    attachable: bool,
    /// Give IPv6 addresses, too
    #[arg(long)]
    ipv6: bool,
    /// Its addresses: ADDRESS/PREFIX (may be given again)
    #[arg(long, value_name = "SUBNET")]
    subnet: Vec<String>,
    /// Those that are given out (may be given again)
    #[arg(long, value_name = "SUBNET")]
    ip_range: Vec<String>,
    /// The way out (may be given again)
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<String>,
    /// Never given out: NAME=ADDRESS (may be given again)
    #[arg(long, value_name = "ADDRESS")]
    aux_address: Vec<String>,
    /// Label it: KEY=VALUE (may be given again)
    #[arg(long, value_name = "LABEL")]
    label: Vec<String>,
    /// An option of the driver (may be given again)
    #[arg(short, long, value_name = "OPTION")]
    opt: Vec<String>,
    /// Its name
    name: String,
}

impl CreateArgs {
    fn body(&self) -> Value {
        let pools: Vec<Value> = self
            .subnet
            .iter()
            .enumerate()
            .map(|(number, subnet)| {
                let mut pool = Map::new();
                pool.insert("Subnet".to_owned(), json!(subnet));
                if let Some(range) = self.ip_range.get(number) {
                    pool.insert("IPRange".to_owned(), json!(range));
                }
                if let Some(gateway) = self.gateway.get(number) {
                    pool.insert("Gateway".to_owned(), json!(gateway));
                }
                if number == 0 && !self.aux_address.is_empty() {
                    pool.insert("AuxiliaryAddresses".to_owned(), Value::Object(pairs(&self.aux_address)));
                }
                Value::Object(pool)
            })
            .collect();
        json!({
            "Name": self.name, "Driver": self.driver, "Internal": self.internal, "Attachable": self.attachable,
            "EnableIPv6": self.ipv6, "IPAM": { "Driver": "default", "Config": pools }, "Labels": pairs(&self.label),
            "Options": pairs(&self.opt),
        })
    }
}

pub(crate) fn run(command: &Command, host: Option<&str>, ui: &Ui) -> anyhow::Result<()> {
    let client = Client::open(host)?;
    match command {
        Command::Create(args) => {
            let made = client.run(client.post("/networks/create", Some(&args.body())))?;
            ui.print(&format!("{}\n", made["Id"].as_str().unwrap_or_default()))
        }
        Command::Ls { filter, format, no_trunc } => list(&client, filter, format.as_deref(), *no_trunc, ui),
        Command::Inspect(args) => crate::inspect::show(&client, &["network"], args, ui),
        Command::Rm { networks } => each(&client, networks, ui, async |client, name| {
            client.delete(&format!("/networks/{}", encode(name))).await.map(drop)
        }),
        Command::Connect { alias, ip, ip6, network, container } => {
            let mut endpoint = json!({ "Aliases": alias });
            for (key, address) in [("IPv4Address", ip), ("IPv6Address", ip6)] {
                if let Some(address) = address {
                    endpoint["IPAMConfig"][key] = json!(address);
                }
            }
            let body = json!({ "Container": container, "EndpointConfig": endpoint });
            client.run(client.post(&format!("/networks/{}/connect", encode(network)), Some(&body))).map(drop)
        }
        Command::Disconnect { force, network, container } => {
            let body = json!({ "Container": container, "Force": force });
            client
                .run(client.post(&format!("/networks/{}/disconnect", encode(network)), Some(&body)))
                .map(drop)
        }
        Command::Prune(args) => prune(&client, "networks", args, ui),
    }
}

fn list(
    client: &Client,
    filter: &[String],
    format: Option<&str>,
    whole: bool,
    ui: &Ui,
) -> anyhow::Result<()> {
    let query = query(&[("filters", filters(filter)?)]);
    let found = client.run(client.get(&format!("/networks{query}")))?;
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let short = |id: String| if whole { id } else { id.chars().take(12).collect() };
    let mut rows: Vec<Value> = found.as_array().into_iter().flatten().map(|one| json!({
        "ID": short(word(&one["Id"])), "Name": one["Name"], "Driver": one["Driver"], "Scope": one["Scope"],
        "IPv6": one["EnableIPv6"].to_string(), "Internal": one["Internal"].to_string(), "CreatedAt": one["Created"],
    })).collect();
    rows.sort_by_key(|row| word(&row["Name"]));
    if let Some(format) = format {
        return print_rows(&rows, format, ui);
    }
    if ui.is_quiet() {
        return rows.iter().try_for_each(|row| ui.print(&format!("{}\n", word(&row["ID"]))));
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| ["ID", "Name", "Driver", "Scope"].iter().map(|key| word(&row[*key])).collect())
        .collect();
    ui.print(&table(&["NETWORK ID", "NAME", "DRIVER", "SCOPE"], &cells))
}
