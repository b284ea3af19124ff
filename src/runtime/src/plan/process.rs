//! The program of a container: who it is, what it may, what it is called with.

use std::io;

use knarr_linux::capability::{Capabilities, CapabilitySet};
use knarr_linux::process::{Schedule, limit_number};
use knarr_linux::seccomp::{self, Action, Condition, Filter, Instruction, Machine, Operator, Rule};

use crate::RuntimeError;
use crate::spec::{CapabilityNames, Linux, ProcessSpec, Scheduler, Seccomp, SeccompArgument, SeccompRule};

/// What becomes of a process that is about to run the container's program.
#[derive(Clone, Debug, Default)]
pub struct ProcessPlan {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Its environment.
    pub env: Vec<String>,
    /// Where it starts.
    pub cwd: String,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// What new files are not.
    pub umask: Option<u32>,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// The five sets.
    pub capabilities: Capabilities,
    /// Limits: which, soft, hard.
    pub limits: Vec<(u32, u64, u64)>,
    /// Whether it can never gain rights.
    pub no_new_privileges: bool,
    /// How readily it is ended when memory is short.
    pub oom_score_adj: Option<i32>,
    /// Its place at the disk: class and priority.
    pub io_priority: Option<(u32, u32)>,
    /// Its place at the processor.
    pub schedule: Option<Schedule>,
    /// Which kernel it sees.
    pub personality: Option<u64>,
    /// Labels of security modules: the file below `/proc/self/attr`, and what is written there.
    pub labels: Vec<(&'static str, String)>,
    /// Which system calls it may make.
    pub seccomp: Option<SeccompPlan>,
    /// Whether an init stands before it.
    pub init: bool,
}

/// A compiled filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeccompPlan {
    /// The filter.
    pub filter: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u64,
    /// Who decides on some calls, and what it is told.
    pub listener: Option<(std::path::PathBuf, String)>,
}

/// What all processes of a container have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Common {
    personality: Option<u64>,
    seccomp: Option<SeccompPlan>,
}

impl Common {
    /// Of a configuration.
    pub fn of(linux: &Linux) -> Result<Self, RuntimeError> {
        Ok(Self {
            personality: linux.personality.as_ref().map(personality).transpose()?,
            seccomp: linux.seccomp.as_ref().map(seccomp_plan).transpose()?,
        })
    }
}

impl ProcessPlan {
    /// What a process of a container becomes.
    pub fn new(process: &ProcessSpec, linux: &Linux) -> Result<Self, RuntimeError> {
        Self::with(process, Common::of(linux)?)
    }

    /// What it has in common with others of its container.
    #[must_use]
    pub fn common(&self) -> Common {
        Common { personality: self.personality, seccomp: self.seccomp.clone() }
    }

    /// What a further process of a container becomes.
    pub fn with(process: &ProcessSpec, common: Common) -> Result<Self, RuntimeError> {
        check(process)?;
        Ok(Self {
            args: process.args.clone(),
            env: process.env.clone(),
            cwd: process.cwd.clone(),
            uid: process.user.uid,
            gid: process.user.gid,
            groups: process.user.additional_gids.clone(),
            umask: process.user.umask,
            terminal: process.terminal,
            capabilities: capabilities(process.capabilities.as_ref())?,
            limits: limits(process)?,
            no_new_privileges: process.no_new_privileges,
            oom_score_adj: process.oom_score_adj,
            io_priority: process.io_priority.as_ref().map(io_priority).transpose()?,
            schedule: process.scheduler.as_ref().map(schedule).transpose()?,
            personality: common.personality,
            labels: labels(process),
            seccomp: common.seccomp,
            init: false,
        })
    }
}

fn check(process: &ProcessSpec) -> Result<(), RuntimeError> {
    if process.args.first().is_none_or(String::is_empty) {
        return Err(RuntimeError::invalid("process.args", "names no program"));
    }
    if !process.cwd.starts_with('/') {
        return Err(RuntimeError::invalid("process.cwd", format!("{:?} is no absolute path", process.cwd)));
    }
    let words = process.args.iter().chain(&process.env).chain([&process.cwd]);
    if words.into_iter().any(|word| word.contains('\0')) {
        return Err(RuntimeError::invalid("process", "has a word with a zero byte"));
    }
    match process.oom_score_adj {
        Some(score) if !(-1000..=1000).contains(&score) => {
            Err(RuntimeError::invalid("process.oomScoreAdj", format!("{score} is not within -1000 and 1000")))
        }
        _ => Ok(()),
    }
}

/// The sets, by name. A name that no kernel knows is an error: leaving it out would give less than was asked.
fn capabilities(names: Option<&CapabilityNames>) -> Result<Capabilities, RuntimeError> {
    let Some(names) = names else { return Ok(Capabilities::default()) };
    let set = |field: &str, names: &[String]| {
        names.iter().try_fold(CapabilitySet::default(), |set, name| {
            let one = CapabilitySet::by_name(name).ok_or_else(|| {
                RuntimeError::invalid(
                    format!("process.capabilities.{field}"),
                    format!("{name:?} is no capability"),
                )
            })?;
            Ok::<_, RuntimeError>(set.or(one))
        })
    };
    Ok(Capabilities {
        bounding: set("bounding", &names.bounding)?,
        effective: set("effective", &names.effective)?,
        inheritable: set("inheritable", &names.inheritable)?,
        permitted: set("permitted", &names.permitted)?,
        ambient: set("ambient", &names.ambient)?,
    })
}

fn limits(process: &ProcessSpec) -> Result<Vec<(u32, u64, u64)>, RuntimeError> {
    let mut limits: Vec<(u32, u64, u64)> = Vec::new();
    for limit in &process.rlimits {
        let bad = |reason: String| RuntimeError::invalid("process.rlimits", reason);
        let number = limit_number(&limit.kind).ok_or_else(|| bad(format!("{:?} is no limit", limit.kind)))?;
        if limit.soft > limit.hard {
            return Err(bad(format!("{}: {} is above {}", limit.kind, limit.soft, limit.hard)));
        }
        if limits.iter().any(|(known, ..)| *known == number) {
            return Err(bad(format!("{} is there twice", limit.kind)));
        }
        limits.push((number, limit.soft, limit.hard));
    }
    Ok(limits)
}

fn io_priority(priority: &crate::spec::IoPriority) -> Result<(u32, u32), RuntimeError> {
    let bad = |reason: String| RuntimeError::invalid("process.ioPriority", reason);
    let class = match priority.class.as_str() {
        "IOPRIO_CLASS_RT" => 1,
        "IOPRIO_CLASS_BE" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        other => return Err(bad(format!("{other:?} is no class"))),
    };
    if priority.priority > 7 {
        return Err(bad(format!("{} is not within 0 and 7", priority.priority)));
    }
    Ok((class, priority.priority))
}

fn schedule(scheduler: &Scheduler) -> Result<Schedule, RuntimeError> {
    let bad = |reason: String| RuntimeError::invalid("process.scheduler", reason);
    let policies = [
        ("SCHED_OTHER", 0),
        ("SCHED_FIFO", 1),
        ("SCHED_RR", 2),
        ("SCHED_BATCH", 3),
        ("SCHED_IDLE", 5),
        ("SCHED_DEADLINE", 6),
    ];
    let flags = [
        ("SCHED_FLAG_RESET_ON_FORK", 0x1),
        ("SCHED_FLAG_RECLAIM", 0x2),
        ("SCHED_FLAG_DL_OVERRUN", 0x4),
        ("SCHED_FLAG_KEEP_POLICY", 0x8),
        ("SCHED_FLAG_KEEP_PARAMS", 0x10),
        ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
        ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
    ];
    let policy = policies.iter().find(|(name, _)| *name == scheduler.policy);
    let (_, policy) = policy.ok_or_else(|| bad(format!("{:?} is no policy", scheduler.policy)))?;
    let flag = |name: &String| {
        let known = flags.iter().find(|(known, _)| known == name);
        known.map(|(_, bit)| *bit).ok_or_else(|| bad(format!("{name:?} is no flag")))
    };
    Ok(Schedule {
        policy: *policy,
        flags: scheduler.flags.iter().map(flag).try_fold(0, |all, flag| flag.map(|flag| all | flag))?,
        nice: scheduler.nice,
        priority: u32::try_from(scheduler.priority)
            .map_err(|_| bad("the priority is negative".to_owned()))?,
        runtime: scheduler.runtime,
        deadline: scheduler.deadline,
        period: scheduler.period,
    })
}

fn personality(personality: &crate::spec::Personality) -> Result<u64, RuntimeError> {
    let bad = |reason: String| RuntimeError::invalid("linux.personality", reason);
    if !personality.flags.is_empty() {
        return Err(bad("has flags, and none are defined".to_owned()));
    }
    match personality.domain.as_str() {
        "LINUX" => Ok(0),
        "LINUX32" => Ok(8),
        other => Err(bad(format!("{other:?} is neither LINUX nor LINUX32"))),
    }
}

fn labels(process: &ProcessSpec) -> Vec<(&'static str, String)> {
    let said = |label: &Option<String>| label.clone().filter(|label| !label.is_empty());
    let apparmor =
        said(&process.apparmor_profile).map(|profile| ("apparmor/exec", format!("exec {profile}")));
    let selinux = said(&process.selinux_label).map(|label| ("exec", label));
    apparmor.into_iter().chain(selinux).collect()
}

/// Compiles a profile. Calls and machines that this kernel's family does not have are passed over, as profiles name
/// those of all; actions, operators and flags must be known.
pub fn seccomp_plan(seccomp: &Seccomp) -> Result<SeccompPlan, RuntimeError> {
    let bad = |reason: String| RuntimeError::invalid("linux.seccomp", reason);
    let action = |name: &str, error: Option<u32>| {
        let number = error.unwrap_or(nix::errno::Errno::EPERM as u32);
        Action::by_name(name, number).ok_or_else(|| bad(format!("{name:?} is no action")))
    };
    let default = action(&seccomp.default_action, seccomp.default_errno_ret)?;
    if default.is_notify() {
        return Err(bad("SCMP_ACT_NOTIFY cannot be the default".to_owned()));
    }
    let mut rules = Vec::with_capacity(512);
    for rule in &seccomp.syscalls {
        let action = action(&rule.action, rule.errno_ret)?;
        for conditions in alternatives(rule).map_err(bad)? {
            rules.extend(rule.names.iter().map(|name| Rule {
                name: name.clone(),
                conditions: conditions.clone(),
                action,
            }));
        }
    }
    let listener = listener(seccomp, &rules)?;
    let flags = seccomp.flags.iter().try_fold(0, |all, name| {
        seccomp::flag_by_name(name).map(|flag| all | flag).ok_or_else(|| bad(format!("{name:?} is no flag")))
    })?;
    let machines = seccomp.architectures.iter().filter_map(|name| Machine::by_name(name)).collect();
    let filter =
        Filter { default, machines, rules }.compile().map_err(|error: io::Error| bad(error.to_string()))?;
    Ok(SeccompPlan { filter, flags, listener })
}

fn listener(seccomp: &Seccomp, rules: &[Rule]) -> Result<Option<(std::path::PathBuf, String)>, RuntimeError> {
    let metadata = seccomp.listener_metadata.clone().unwrap_or_default();
    if !rules.iter().any(|rule| rule.action.is_notify()) {
        return Ok(None);
    }
    if rules.iter().any(|rule| rule.action.is_notify() && rule.name == "write") {
        let reason = "SCMP_ACT_NOTIFY for write would stop the container before anybody listens";
        return Err(RuntimeError::invalid("linux.seccomp", reason));
    }
    let path = seccomp.listener_path.clone().filter(|path| !path.as_os_str().is_empty());
    let missing =
        || RuntimeError::invalid("linux.seccomp.listenerPath", "is missing, and SCMP_ACT_NOTIFY needs it");
    path.map(|path| Some((path, metadata))).ok_or_else(missing)
}

/// Conditions on one argument several times are alternatives; on different ones all must hold. (So it has come to be
/// among runtimes, and profiles count on it.)
fn alternatives(rule: &SeccompRule) -> Result<Vec<Vec<Condition>>, String> {
    let conditions = rule.args.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
    let repeats = (0..6).any(|index| conditions.iter().filter(|one| one.argument == index).count() > 1);
    Ok(if repeats { conditions.into_iter().map(|one| vec![one]).collect() } else { vec![conditions] })
}

fn condition(argument: &SeccompArgument) -> Result<Condition, String> {
    if argument.index > 5 {
        return Err(format!("a call has 6 arguments, none at {}", argument.index));
    }
    let (operator, value) = match argument.op.as_str() {
        "SCMP_CMP_NE" => (Operator::NotEqual, argument.value),
        "SCMP_CMP_LT" => (Operator::Less, argument.value),
        "SCMP_CMP_LE" => (Operator::LessOrEqual, argument.value),
        "SCMP_CMP_EQ" => (Operator::Equal, argument.value),
        "SCMP_CMP_GE" => (Operator::GreaterOrEqual, argument.value),
        "SCMP_CMP_GT" => (Operator::Greater, argument.value),
        "SCMP_CMP_MASKED_EQ" => (Operator::MaskedEqual(argument.value), argument.value_two),
        other => return Err(format!("{other:?} is no comparison")),
    };
    Ok(Condition { argument: argument.index, operator, value })
}
