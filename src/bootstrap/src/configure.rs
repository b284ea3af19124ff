//! Configuration: maintainer scripts in the order that dependencies demand, then triggers.
//!
//! [`Configurator`] walks packages from unpacked to installed as dpkg would. How a script runs is
//! the business of the [`ScriptRunner`] that it is given; what state a package is in, its own.
//!
//! Spec: Debian Policy 6.5 and 6.6, deb-triggers(5), dpkg's doc/triggers.txt.

use std::collections::BTreeSet;
use std::path::PathBuf;

use knarr_deb::triggers::Trigger;
use knarr_tree::root::Root;

use crate::BootstrapError;
use crate::database::{self, ADMIN_DIR, Interests};
use crate::order::{closure, configure_order, dependency_edges};
use crate::package::{Control, Package, State};
use crate::unpack::Unpacker;

/// Runs one maintainer script and reports what became of it.
pub trait ScriptRunner {
    /// Runs `script` of `package`, which lies at `path` in the root, with `args`.
    fn run(&mut self, script: &Script<'_>) -> Result<(), BootstrapError>;
}

/// One run of a maintainer script.
#[derive(Debug)]
pub struct Script<'a> {
    /// Whose script.
    pub control: &'a Control,
    /// `preinst` or `postinst`.
    pub name: &'static str,
    /// Where it lies in the root, with leading `/`.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// All packages of the root: what a script does depends on the programs that it calls.
    pub packages: &'a [Package],
}

impl Script<'_> {
    /// The step's name in messages: `postinst configure`.
    #[must_use]
    pub fn step(&self) -> String {
        let first = self.args.first().map_or("", String::as_str);
        format!("{} {first}", self.name)
    }
}

/// Takes packages from unpacked to installed.
pub struct Configurator<'a> {
    root: &'a Root,
    unpacker: &'a Unpacker<'a>,
    packages: &'a mut Vec<Package>,
    debs: &'a [PathBuf],
    runner: &'a mut dyn ScriptRunner,
    interests: Interests,
    edges: Vec<Vec<usize>>,
    pre_edges: Vec<Vec<usize>>,
    order: Vec<usize>,
    status_is_stale: bool,
}

/// A trigger that was processed this many times in one bootstrap is a loop.
const MAX_TRIGGER_ROUNDS: usize = 50;

impl<'a> Configurator<'a> {
    /// Prepares the work on `packages`; `debs` are their files, by the same positions.
    pub fn new(
        root: &'a Root,
        unpacker: &'a Unpacker<'a>,
        packages: &'a mut Vec<Package>,
        debs: &'a [PathBuf],
        runner: &'a mut dyn ScriptRunner,
    ) -> Result<Self, BootstrapError> {
        let controls: Vec<&Control> = packages.iter().map(|package| &package.control).collect();
        let edges = dependency_edges(&controls, &["Pre-Depends", "Depends"])?;
        let pre_edges = dependency_edges(&controls, &["Pre-Depends"])?;
        let order = configure_order(&controls, &edges);
        let unpacked = packages.iter().filter(|package| package.state != State::Deferred);
        let interests = Interests::of(unpacked.map(|package| &package.control))?;
        Ok(Self {
            root,
            unpacker,
            packages,
            debs,
            runner,
            interests,
            edges,
            pre_edges,
            order,
            status_is_stale: true,
        })
    }

    /// Configures the base (the closure of the essential packages): all is unpacked already, so
    /// their preinsts run first, then their postinsts, then triggers.
    pub fn configure_base(&mut self) -> Result<(), BootstrapError> {
        database::write_interests(self.root, &self.interests)?;
        let base: Vec<usize> = self.order.iter().copied().filter(|&i| self.packages[i].base).collect();
        // base-passwd's preinst makes the users that all others may name.
        let (users, others): (Vec<usize>, Vec<usize>) =
            base.iter().partition(|&&i| self.packages[i].control.name() == "base-passwd");
        for position in users.into_iter().chain(others) {
            self.run_preinst(position)?;
        }
        for &position in &base {
            self.configure(position)?;
        }
        self.process_triggers()
    }

    /// Unpacks what was deferred, configures everything that is left, and processes triggers.
    pub fn configure_rest(&mut self) -> Result<(), BootstrapError> {
        for position in self.order.clone() {
            if self.packages[position].state == State::Deferred {
                self.configure_needs(position)?;
                self.run_preinst(position)?;
                self.unpack_deferred(position)?;
            }
        }
        for position in self.order.clone() {
            self.configure(position)?;
        }
        self.process_triggers()?;
        database::write_status(self.root, self.packages)
    }

    /// What a preinst may rely on: its `Pre-Depends` and all that they need are configured.
    fn configure_needs(&mut self, position: usize) -> Result<(), BootstrapError> {
        let start = self.pre_edges[position].clone();
        let needed = closure(start, &self.edges);
        for candidate in self.order.clone() {
            let ready = needed[candidate]
                && candidate != position
                && self.packages[candidate].state == State::Unpacked;
            if ready {
                self.configure(candidate)?;
            }
        }
        Ok(())
    }

    fn unpack_deferred(&mut self, position: usize) -> Result<(), BootstrapError> {
        self.unpacker.unpack_deferred(position, &mut self.packages[position], &self.debs[position])?;
        let unpacked = self.packages.iter().filter(|package| package.state != State::Deferred);
        self.interests = Interests::of(unpacked.map(|package| &package.control))?;
        database::write_interests(self.root, &self.interests)?;
        self.activate_by_files(position);
        self.status_is_stale = true;
        Ok(())
    }

    fn run_preinst(&mut self, position: usize) -> Result<(), BootstrapError> {
        let Some(bytes) = self.packages[position].control.file("preinst").map(<[u8]>::to_vec) else {
            return Ok(());
        };
        let directory = format!("{ADMIN_DIR}/tmp.ci");
        self.write_control_files(position, &directory)?;
        let path = format!("/{directory}/preinst");
        self.run(position, "preinst", path, vec!["install".to_owned()], &bytes)?;
        Ok(self.root.remove_dir_all(&directory)?)
    }

    fn write_control_files(&self, position: usize, directory: &str) -> Result<(), BootstrapError> {
        self.root.create_dir_all(directory, 0o755)?;
        for file in &self.packages[position].control.files {
            let mode = if database::SCRIPTS.contains(&file.name.as_str()) { 0o755 } else { 0o644 };
            self.root.write(&format!("{directory}/{}", file.name), &file.bytes, mode)?;
        }
        // debconf reads there whose preinst is running.
        let fields = self.packages[position].control.fields();
        let text = fields.fold(String::new(), |text, (name, value)| format!("{text}{name}: {value}\n"));
        self.root.write(&format!("{directory}/control"), text.as_bytes(), 0o644)?;
        Ok(())
    }

    fn configure(&mut self, position: usize) -> Result<(), BootstrapError> {
        if self.packages[position].state != State::Unpacked {
            return Ok(());
        }
        self.activate_declared(position)?;
        if let Some(bytes) = self.packages[position].control.file("postinst").map(<[u8]>::to_vec) {
            let path = format!("/{ADMIN_DIR}/info/{}.postinst", self.packages[position].control.info_name());
            self.run(position, "postinst", path, vec!["configure".to_owned(), String::new()], &bytes)?;
        }
        self.packages[position].state = State::Installed;
        self.packages[position].pending_triggers.clear();
        self.status_is_stale = true;
        Ok(())
    }

    fn run(
        &mut self,
        position: usize,
        name: &'static str,
        path: String,
        args: Vec<String>,
        bytes: &[u8],
    ) -> Result<(), BootstrapError> {
        if std::mem::take(&mut self.status_is_stale) {
            database::write_status(self.root, self.packages)?;
        }
        let packages = self.packages.as_slice();
        let script = Script { control: &packages[position].control, name, path, args, bytes, packages };
        self.runner.run(&script)?;
        self.incorporate()
    }

    /// Takes in what `dpkg-trigger` left in `triggers/Unincorp`.
    fn incorporate(&mut self) -> Result<(), BootstrapError> {
        let path = format!("{ADMIN_DIR}/triggers/Unincorp");
        let text = if self.root.exists(&path)? { self.root.read(&path)? } else { Vec::new() };
        if text.is_empty() {
            return Ok(());
        }
        for line in String::from_utf8_lossy(&text).lines() {
            let trigger = line.split_ascii_whitespace().next().unwrap_or_default().to_owned();
            self.activate(&trigger);
        }
        Ok(self.root.write(&path, b"", 0o644)?)
    }

    fn activate_declared(&mut self, position: usize) -> Result<(), BootstrapError> {
        for trigger in database::declared(&self.packages[position].control)? {
            if let Trigger::Activate { name, .. } = trigger {
                self.activate(&name);
            }
        }
        Ok(())
    }

    fn activate(&mut self, trigger: &str) {
        let mut interested: Vec<String> = self.interests.interested(trigger).map(str::to_owned).collect();
        if let Some(path) = trigger.strip_prefix('/') {
            interested.extend(self.interests.interested_in_path(path).map(|(_, package)| package.to_owned()));
        }
        for package in interested {
            self.make_pending(&package, trigger);
        }
    }

    fn activate_by_files(&mut self, position: usize) {
        let mut found = BTreeSet::new();
        for entry in &self.packages[position].entries {
            found.extend(
                self.interests.interested_in_path(&entry.path).map(|(t, p)| (t.to_owned(), p.to_owned())),
            );
        }
        for (trigger, package) in found {
            self.make_pending(&package, &trigger);
        }
    }

    /// A package that is not configured yet will see everything when it is: nothing to remember.
    fn make_pending(&mut self, info_name: &str, trigger: &str) {
        let installed = |package: &&mut Package| {
            package.state == State::Installed && package.control.info_name() == info_name
        };
        if let Some(package) = self.packages.iter_mut().find(installed)
            && !package.pending_triggers.iter().any(|pending| pending == trigger)
        {
            package.pending_triggers.push(trigger.to_owned());
        }
    }

    fn process_triggers(&mut self) -> Result<(), BootstrapError> {
        for _ in 0..MAX_TRIGGER_ROUNDS {
            let pending = |&position: &usize| !self.packages[position].pending_triggers.is_empty();
            let waiting: Vec<usize> = self.order.iter().copied().filter(pending).collect();
            if waiting.is_empty() {
                return Ok(());
            }
            for position in waiting {
                self.process_pending(position)?;
            }
        }
        let looping = self.packages.iter().filter(|package| !package.pending_triggers.is_empty());
        let packages = looping.map(|package| package.control.name()).collect::<Vec<_>>().join(", ");
        Err(BootstrapError::TriggerLoop { packages })
    }

    fn process_pending(&mut self, position: usize) -> Result<(), BootstrapError> {
        let mut triggers = std::mem::take(&mut self.packages[position].pending_triggers);
        triggers.sort();
        let Some(bytes) = self.packages[position].control.file("postinst").map(<[u8]>::to_vec) else {
            return Ok(());
        };
        let path = format!("/{ADMIN_DIR}/info/{}.postinst", self.packages[position].control.info_name());
        self.run(position, "postinst", path, vec!["triggered".to_owned(), triggers.join(" ")], &bytes)
    }
}
