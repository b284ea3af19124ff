//! `knarr volume`: directories that outlive containers.

use clap::Subcommand;
use serde_json::{Map, Value, json};

use crate::client::{Client, encode, query};
use crate::container::{InspectArgs, PruneArgs, each, filters, print_rows, prune};
use crate::table::table;
use crate::ui::Ui;

/// What can be done with volumes.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a volume
    Create {
        /// The driver
        #[arg(short, long, default_value = "local")]
        driver: String,
        /// Label it: KEY=VALUE (may be given again)
        #[arg(long, value_name = "LABEL")]
        label: Vec<String>,
        /// An option of the driver: type, device, o (may be given again)
        #[arg(short, long, value_name = "OPTION")]
        opt: Vec<String>,
        /// Its name; a random one without
        name: Option<String>,
    },
    /// List volumes
    #[command(alias = "list")]
    Ls {
        /// Those that fit: KEY=VALUE (may be given again)
        #[arg(short, long, value_name = "FILTER")]
        filter: Vec<String>,
        /// A template, table TEMPLATE, or json
        #[arg(long, value_name = "FORMAT")]
        format: Option<String>,
    },
    /// Show everything about volumes, as JSON
    Inspect(InspectArgs),
    /// Remove volumes
    #[command(alias = "remove")]
    Rm {
        /// One that is not there is no error
        #[arg(short, long)]
        force: bool,
        /// Names
        #[arg(required = true, value_name = "VOLUME")]
        volumes: Vec<String>,
    },
    /// Remove volumes that no container has
    Prune(PruneArgs),
}

pub(crate) fn run(command: &Command, host: Option<&str>, ui: &Ui) -> anyhow::Result<()> {
    let client = Client::open(host)?;
    match command {
        Command::Create { driver, label, opt, name } => {
            let body = json!({ "Name": name.clone().unwrap_or_default(), "Driver": driver, "Labels": pairs(label), "DriverOpts": pairs(opt) });
            let made = client.run(client.post("/volumes/create", Some(&body)))?;
            ui.print(&format!("{}\n", made["Name"].as_str().unwrap_or_default()))
        }
        Command::Ls { filter, format } => list(&client, filter, format.as_deref(), ui),
        Command::Inspect(args) => crate::inspect::show(&client, &["volume"], args, ui),
        Command::Rm { force, volumes } => each(&client, volumes, ui, async |client, name| {
            let query = query(&[("force", force.then(|| "1".to_owned()))]);
            client.delete(&format!("/volumes/{}{query}", encode(name))).await.map(drop)
        }),
        Command::Prune(args) => prune(&client, "volumes", args, ui),
    }
}

/// `KEY=VALUE`s as an object.
pub(crate) fn pairs(texts: &[String]) -> Map<String, Value> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (key.to_owned(), json!(value))
    };
    texts.iter().map(pair).collect()
}

fn list(client: &Client, filter: &[String], format: Option<&str>, ui: &Ui) -> anyhow::Result<()> {
    let query = query(&[("filters", filters(filter)?)]);
    let found = client.run(client.get(&format!("/volumes{query}")))?;
    let rows: Vec<Value> = found["Volumes"].as_array().cloned().unwrap_or_default();
    if let Some(format) = format {
        return print_rows(&rows, format, ui);
    }
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if ui.is_quiet() {
        return rows.iter().try_for_each(|row| ui.print(&format!("{}\n", word(&row["Name"]))));
    }
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| vec![word(&row["Driver"]), word(&row["Name"])]).collect();
    ui.print(&table(&["DRIVER", "VOLUME NAME"], &cells))
}
