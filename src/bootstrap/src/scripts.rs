//! How a maintainer script runs: replayed, from outside, or inside a sandbox.
//!
//! [`Runner`] is the [`ScriptRunner`] of a real bootstrap. It starts its sandbox when the first
//! script needs it, so a bootstrap whose scripts are all replayed never makes one.
//!
//! Spec: Debian Policy 6.1; dpkg(1) "ENVIRONMENT"; deb-maintscript environment in dpkg's manual.

use std::time::Duration;

use knarr_base::{Architecture, Digest, Timestamp};
use knarr_linux::sandbox::{Outcome, Program, Sandbox, Session, Status};
use knarr_tree::root::Root;

use crate::BootstrapError;
use crate::configure::{Script, ScriptRunner};
use crate::replay;

/// Which ways a script may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ScriptPolicy {
    /// Replay what is proven, run the rest.
    #[default]
    Replay,
    /// Run everything inside the sandbox.
    Inside,
}

/// How one script ran, for `--explain`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The package.
    pub package: String,
    /// `preinst install`, `postinst configure`, …
    pub step: String,
    /// `replayed`, `inside`.
    pub way: &'static str,
    /// Digest of the script.
    pub digest: Digest,
    /// How long it took, in milliseconds.
    pub time_ms: u128,
}

/// Runs scripts in `root`.
pub struct Runner<'a> {
    root: &'a Root,
    architecture: Architecture,
    policy: ScriptPolicy,
    time: Timestamp,
    timeout: Option<Duration>,
    make_sandbox: &'a dyn Fn() -> Result<Sandbox, BootstrapError>,
    session: Option<Session>,
    /// How each script ran, in order.
    pub explanations: Vec<Explanation>,
}

impl<'a> Runner<'a> {
    /// A runner; `make_sandbox` is called when the first program must really run.
    pub fn new(
        root: &'a Root,
        architecture: Architecture,
        policy: ScriptPolicy,
        time: Timestamp,
        timeout: Option<Duration>,
        make_sandbox: &'a dyn Fn() -> Result<Sandbox, BootstrapError>,
    ) -> Self {
        Self {
            root,
            architecture,
            policy,
            time,
            timeout,
            make_sandbox,
            session: None,
            explanations: Vec::new(),
        }
    }

    /// Runs a shell command of the user's inside the root.
    pub fn shell(&mut self, stage: &'static str, command: &str) -> Result<(), BootstrapError> {
        let argv = vec!["/bin/sh".to_owned(), "-c".to_owned(), command.to_owned()];
        let outcome = self.run_program(argv, self.environment(None))?;
        describe_failure(&outcome).map_or(Ok(()), |status| {
            Err(BootstrapError::Hook { stage, hook: command.to_owned(), status, output: text_of(&outcome) })
        })
    }

    fn run_program(
        &mut self,
        argv: Vec<String>,
        env: Vec<(String, String)>,
    ) -> Result<Outcome, BootstrapError> {
        let session = match &mut self.session {
            Some(session) => session,
            None => self.session.insert(Session::start(&(self.make_sandbox)()?)?),
        };
        let program = Program { argv, env, timeout: self.timeout };
        Ok(session.run(&program)?)
    }

    fn environment(&self, script: Option<&Script<'_>>) -> Vec<(String, String)> {
        let mut env: Vec<(String, String)> =
            BASE_ENVIRONMENT.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        env.push(("SOURCE_DATE_EPOCH".to_owned(), self.time.0.to_string()));
        if let Some(script) = script {
            let control = script.control;
            let mut set = |key: &str, value: &str| env.push((key.to_owned(), value.to_owned()));
            set("DPKG_MAINTSCRIPT_NAME", script.name);
            set("DPKG_MAINTSCRIPT_PACKAGE", control.name());
            set("DPKG_MAINTSCRIPT_ARCH", control.architecture());
            set("DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT", "1");
            set("DPKG_MAINTSCRIPT_DEBUG", "0");
        }
        env
    }
}

impl ScriptRunner for Runner<'_> {
    fn run(&mut self, script: &Script<'_>) -> Result<(), BootstrapError> {
        let start = std::time::Instant::now();
        let digest = Digest::of(script.bytes);
        let replayed = self.policy == ScriptPolicy::Replay
            && replay::replay(self.root, self.architecture, self.time, &digest, script)?;
        if !replayed {
            let mut argv = vec![script.path.clone()];
            argv.extend(script.args.iter().cloned());
            let outcome = self.run_program(argv, self.environment(Some(script)))?;
            if let Some(status) = describe_failure(&outcome) {
                let package = script.control.name().to_owned();
                return Err(BootstrapError::Script {
                    package,
                    step: script.step(),
                    status,
                    output: text_of(&outcome),
                });
            }
        }
        self.explanations.push(Explanation {
            package: script.control.name().to_owned(),
            step: script.step(),
            way: if replayed { "replayed" } else { "inside" },
            digest,
            time_ms: start.elapsed().as_millis(),
        });
        Ok(())
    }
}

fn describe_failure(outcome: &Outcome) -> Option<String> {
    match outcome.status {
        Status::Exited(0) => None,
        Status::Exited(code) => Some(format!("ended with exit status {code}")),
        Status::Signaled(signal) => Some(format!("was ended by signal {signal}")),
        Status::TimedOut => Some("took longer than --script-timeout allows and was ended".to_owned()),
    }
}

fn text_of(outcome: &Outcome) -> String {
    String::from_utf8_lossy(&outcome.output).into_owned()
}

const BASE_ENVIRONMENT: [(&str, &str); 12] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("SHELL", "/bin/sh"),
    ("LC_ALL", "C.UTF-8"),
    ("DEBIAN_FRONTEND", "noninteractive"),
    ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
    ("DEBCONF_NOWARNINGS", "yes"),
    ("DPKG_ADMINDIR", "/var/lib/dpkg"),
    ("DPKG_ROOT", ""),
    ("DPKG_RUNNING_VERSION", "1.22.0"),
    // As dpkg sets it: a preinst may meet libraries that are half unpacked.
    ("PERL_DL_NONLAZY", "1"),
    ("TZ", "UTC"),
];
