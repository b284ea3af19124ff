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
    /// Run from outside what was proven to be equal, the rest inside.
    Outside,
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
    /// `replayed`, `outside`, `inside`.
    pub way: &'static str,
    /// Digest of the script.
    pub digest: Digest,
    /// How long it took, in milliseconds.
    pub time_ms: u128,
}

type MakeSandbox<'a> = &'a dyn Fn() -> Result<Sandbox, BootstrapError>;

/// Where the root lies for scripts that run from outside.
pub const OUTSIDE_ROOT: &str = "mnt";

/// Runs scripts in `root`.
pub struct Runner<'a> {
    root: &'a Root,
    architecture: Architecture,
    policy: ScriptPolicy,
    time: Timestamp,
    timeout: Option<Duration>,
    make_sandbox: MakeSandbox<'a>,
    session: Option<Session>,
    make_tools: MakeSandbox<'a>,
    tools: Option<Session>,
    /// How each script ran, in order.
    pub explanations: Vec<Explanation>,
}

impl<'a> Runner<'a> {
    /// A runner; `make_sandbox` is called when the first program must really run, `make_tools` when
    /// the first must run from outside: there, the root lies at [`OUTSIDE_ROOT`].
    pub fn new(
        root: &'a Root,
        architecture: Architecture,
        policy: ScriptPolicy,
        time: Timestamp,
        timeout: Option<Duration>,
        make_sandbox: MakeSandbox<'a>,
        make_tools: MakeSandbox<'a>,
    ) -> Self {
        Self {
            root,
            architecture,
            policy,
            time,
            timeout,
            make_sandbox,
            session: None,
            make_tools,
            tools: None,
            explanations: Vec::new(),
        }
    }

    /// Runs a shell command of the user's inside the root.
    pub fn shell(&mut self, stage: &'static str, command: &str) -> Result<(), BootstrapError> {
        let argv = vec!["/bin/sh".to_owned(), "-c".to_owned(), command.to_owned()];
        let outcome = self.run_program(Way::Inside, argv, self.environment(None))?;
        describe_failure(&outcome).map_or(Ok(()), |status| {
            Err(BootstrapError::Hook { stage, hook: command.to_owned(), status, output: text_of(&outcome) })
        })
    }

    fn run_program(
        &mut self,
        way: Way,
        argv: Vec<String>,
        env: Vec<(String, String)>,
    ) -> Result<Outcome, BootstrapError> {
        let (session, make) = match way {
            Way::Outside => (&mut self.tools, self.make_tools),
            Way::Inside | Way::Replayed => (&mut self.session, self.make_sandbox),
        };
        let session = match session {
            Some(session) => session,
            None => session.insert(Session::start(&make()?)?),
        };
        Ok(session.run(&Program { argv, env, timeout: self.timeout, ..Program::default() })?)
    }

    /// Replays where that is allowed and possible; else says how the script must run.
    fn choose(&self, digest: &Digest, script: &Script<'_>) -> Result<Way, BootstrapError> {
        let may_replay = self.policy == ScriptPolicy::Replay;
        if may_replay && replay::replay(self.root, self.architecture, self.time, digest, script)? {
            return Ok(Way::Replayed);
        }
        // A native script runs inside just as well; another one would need an emulator.
        let is_foreign = self.architecture != Architecture::native();
        let wants_outside = self.policy == ScriptPolicy::Outside || (may_replay && is_foreign);
        let is_proven = replay::runs_from_outside(self.architecture, digest);
        Ok(if wants_outside && is_proven { Way::Outside } else { Way::Inside })
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
        let way = self.choose(&digest, script)?;
        if way != Way::Replayed {
            self.really_run(way, script)?;
        }
        self.explanations.push(Explanation {
            package: script.control.name().to_owned(),
            step: script.step(),
            way: way.name(),
            digest,
            time_ms: start.elapsed().as_millis(),
        });
        Ok(())
    }
}

impl Runner<'_> {
    fn really_run(&mut self, way: Way, script: &Script<'_>) -> Result<(), BootstrapError> {
        let mut env = self.environment(Some(script));
        let mut argv = vec![script.path.clone()];
        argv.extend(script.args.iter().cloned());
        if way == Way::Outside {
            argv[0] = format!("/{OUTSIDE_ROOT}{}", script.path);
            env.retain(|(key, _)| key != "DPKG_ROOT" && key != "DPKG_ADMINDIR");
            env.push(("DPKG_ROOT".to_owned(), format!("/{OUTSIDE_ROOT}")));
            env.push(("DPKG_ADMINDIR".to_owned(), format!("/{OUTSIDE_ROOT}/var/lib/dpkg")));
        }
        let outcome = self.run_program(way, argv, env)?;
        describe_failure(&outcome).map_or(Ok(()), |status| {
            let (package, step) = (script.control.name().to_owned(), script.step());
            Err(BootstrapError::Script { package, step, status, output: text_of(&outcome) })
        })
    }
}

/// How a script runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Not at all: its effect is made.
    Replayed,
    /// In another root, with this one below it.
    Outside,
    /// In the root.
    Inside,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Outside => "outside",
            Self::Inside => "inside",
        }
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
