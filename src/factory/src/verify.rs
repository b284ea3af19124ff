//! Commands that must succeed in the finished image.

use knarr_base::Architecture;
use knarr_linux::sandbox::{Program, Status};
use knarr_oci::RunConfig;
use knarr_recipe::check::parse_time;
use knarr_recipe::recipe::Verify;

use crate::FactoryError;
use crate::state::Live;
use crate::steps::{describe, session, tail};

const DEFAULT_TIMEOUT_S: u64 = 60;

/// Runs one command; an error says how it failed.
pub fn verify(
    live: &Live,
    verify: &Verify,
    config: &RunConfig,
    architecture: Architecture,
) -> Result<(), FactoryError> {
    let timeout = verify.timeout.as_deref().map(parse_time).transpose().map_err(FactoryError::Request)?;
    let program = Program {
        argv: verify.command.argv(),
        env: config
            .env
            .iter()
            .filter_map(|pair| pair.split_once('='))
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .collect(),
        timeout: Some(timeout.unwrap_or(std::time::Duration::from_secs(DEFAULT_TIMEOUT_S))),
    };
    let outcome = session(live, architecture, verify.network)?.run(&program)?;
    let expected = verify.status.unwrap_or(0);
    let said = String::from_utf8_lossy(&outcome.output).into_owned();
    let lacks = verify.expect.as_ref().filter(|text| !said.contains(text.as_str()));
    let reason = match (outcome.status, lacks) {
        (Status::Exited(code), None) if code == expected => return Ok(()),
        (Status::Exited(code), Some(text)) if code == expected => format!("its output lacks {text:?}"),
        (status, _) => describe(status),
    };
    Err(FactoryError::Verify {
        command: verify.command.text(),
        reason,
        output: tail(&outcome),
        missing: Vec::new(),
    })
}
