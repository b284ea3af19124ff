//! Commands that must succeed in the finished image.
//!
//! Each runs as a container of the image would: as its user, in its environment, without a network and with a
//! read-only root unless it says otherwise. What fails is run once more under a trace, to find which files it
//! looked for that the image does not have and that its packages do.

use std::collections::BTreeMap;
use std::time::Duration;

use knarr_base::Architecture;
use knarr_linux::sandbox::{Identity, Outcome, Program, Status, Writes};
use knarr_oci::RunConfig;
use knarr_recipe::check::parse_time;
use knarr_recipe::recipe::Verify;
use knarr_tree::root::Root;

use crate::FactoryError;
use crate::accounts::Accounts;
use crate::error::Missing;
use crate::slim::elf;
use crate::slim::words::shebang;
use crate::steps::{describe, lent_session, tail};
use crate::tools::Tools;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// So many missing files are told.
const MAX_TOLD: usize = 200;

/// The image that is put to the test.
pub struct Scene<'a> {
    /// Its files.
    pub root: &'a Root,
    /// How its containers start.
    pub config: &'a RunConfig,
    /// For which machine it is.
    pub architecture: Architecture,
    /// Files that were left out, without leading `/`, and whose they are.
    pub left_out: &'a BTreeMap<String, String>,
    /// What is lent to commands that ask for it.
    pub tools: Option<&'a Tools>,
}

impl Scene<'_> {
    /// Runs one command; an error says how it failed.
    pub fn verify(&self, verify: &Verify) -> Result<(), FactoryError> {
        let outcome = self.run(verify, false)?;
        let Some(reason) = failure(verify, &outcome) else { return Ok(()) };
        let traced = self.run(verify, true)?;
        let missing = self.missing(&traced);
        let command = verify.command.text();
        Err(FactoryError::Verify { command, reason, output: tail(&outcome), missing })
    }

    fn run(&self, verify: &Verify, trace: bool) -> Result<Outcome, FactoryError> {
        let timeout = verify.timeout.as_deref().map(parse_time).transpose().map_err(FactoryError::Request)?;
        let pairs = self.config.env.iter().filter_map(|pair| pair.split_once('='));
        let mut env: Vec<_> = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let (user, home) = self.identity(verify.user.as_deref().unwrap_or(&self.config.user))?;
        if env.iter().all(|(name, _)| name != "HOME") {
            env.push(("HOME".to_owned(), home));
        }
        let mut argv = verify.command.argv();
        let mut binds = Vec::new();
        if let Some(tools) = self.tools.filter(|_| verify.tools) {
            binds.push(tools.lend(&mut argv, &mut env));
        }
        let directory = Some(self.config.working_dir.clone()).filter(|path| !path.is_empty());
        let program = Program {
            argv,
            env,
            timeout: Some(timeout.unwrap_or(DEFAULT_TIMEOUT)),
            user: Some(user),
            directory,
            trace,
        };
        let writes = if verify.writable { Writes::Discarded } else { Writes::Refused };
        Ok(lent_session(self.root, self.architecture, verify.network, writes, binds)?.run(&program)?)
    }

    /// Who a user is, and its home.
    fn identity(&self, user: &str) -> Result<(Identity, String), FactoryError> {
        let mut accounts = Accounts::read(self.root)?;
        let user = if user.is_empty() { "0" } else { user };
        let (uid, gid) = accounts.owner(user)?;
        let line = accounts.users.iter().find(|line| line.uid == uid);
        let home = line.map_or_else(|| "/".to_owned(), |line| line.home.clone());
        let groups = line.map(|line| accounts.groups_of(&line.name)).unwrap_or_default();
        Ok((Identity { uid, gid, groups }, home))
    }

    /// What was looked for in vain and could be there.
    fn missing(&self, outcome: &Outcome) -> Vec<Missing> {
        let mut found: Vec<Missing> = Vec::new();
        for path in
            outcome.missing.iter().flat_map(|path| [Some(path.clone()), self.interpreter(path)]).flatten()
        {
            let known = self.package_of(path.trim_start_matches('/'));
            if let Some(package) = known.filter(|_| found.iter().all(|file| file.path != path)) {
                found.push(Missing { path, package: Some(package) });
            }
        }
        found.truncate(MAX_TOLD);
        found
    }

    /// What starts a program: the system says of a program without it that the program itself is not there.
    fn interpreter(&self, path: &str) -> Option<String> {
        let bytes = self.root.read(path).ok()?;
        let of_elf = elf::parse(bytes.as_slice()).ok().flatten().and_then(|elf| elf.interpreter);
        of_elf.or_else(|| shebang(&bytes)?.into_iter().next())
    }

    fn package_of(&self, path: &str) -> Option<String> {
        let direct = self.left_out.get(path);
        // On a merged system a program may know a file by its old name.
        let merged = || self.left_out.get(&format!("usr/{path}"));
        direct.or_else(merged).cloned()
    }
}

fn failure(verify: &Verify, outcome: &Outcome) -> Option<String> {
    let expected = verify.status.unwrap_or(0);
    let said = String::from_utf8_lossy(&outcome.output);
    let lacks = verify.expect.as_ref().filter(|text| !said.contains(text.as_str()));
    match (outcome.status, lacks) {
        (Status::Exited(code), None) if code == expected => None,
        (Status::Exited(code), Some(text)) if code == expected => Some(format!("its output lacks {text:?}")),
        (status, _) => Some(describe(status)),
    }
}
