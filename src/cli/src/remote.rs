//! What every subcommand that speaks with registries takes.

use std::path::PathBuf;
use std::time::Duration;

use knarr_bootstrap::Progress as _;
use knarr_registry::client::{Client, Options, Progress, docker_certs_dirs};
use knarr_registry::credentials::Credentials;

use crate::settings::Settings;
use crate::system::parse_age;
use crate::ui::Ui;

/// How registries are asked.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RemoteArgs {
    /// Accept plain HTTP, and certificates of nobody known
    #[arg(long)]
    pub insecure: bool,
    /// Certificates, in PEM, that may have signed the registry's own
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Blobs at once
    #[arg(long, value_name = "N", default_value_t = 6)]
    pub jobs: usize,
    /// How often something is tried again
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub retries: u32,
    /// Give up when nothing moves for this long
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_age)]
    pub timeout: Duration,
}

impl RemoteArgs {
    pub(crate) fn client(&self, settings: &Settings) -> anyhow::Result<Client> {
        let options = Options {
            hosts: settings.registries.clone(),
            insecure: self.insecure,
            ca: self.ca.clone(),
            certs_dirs: docker_certs_dirs(),
            jobs: self.jobs,
            retries: self.retries,
            stall: self.timeout,
            cancel: knarr_linux::signals::interrupted(),
            ..Options::new(Credentials::of_caller())
        };
        Ok(Client::new(options)?)
    }
}

/// The terminal, as registries' work sees it.
pub(crate) struct Told<'a> {
    ui: &'a Ui,
    expected: std::sync::atomic::AtomicU64,
}

impl<'a> Told<'a> {
    pub(crate) fn new(ui: &'a Ui, what: &str) -> Self {
        ui.phase(what);
        Self { ui, expected: std::sync::atomic::AtomicU64::new(0) }
    }
}

impl Progress for Told<'_> {
    fn expect_bytes(&self, bytes: u64) {
        // Bars know their whole length only.
        let before = self.expected.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        if before + bytes > 0 {
            self.ui.expect_bytes(before + bytes);
        }
    }

    fn bytes(&self, bytes: u64) {
        knarr_bootstrap::Progress::bytes(self.ui, bytes);
    }

    fn note(&self, text: &str) {
        self.ui.say(text);
    }

    fn warn(&self, text: &str) {
        knarr_bootstrap::Progress::warn(self.ui, text);
    }
}
