//! Filters of system calls, compiled and loaded.
//!
//! [`Filter::compile`] turns rules by name into the kernel's small machine code, as a search tree over the numbers, so
//! that a profile of four hundred calls costs some nine comparisons a call and microseconds to compile. [`load`] puts
//! it onto this process for good.
//!
//! Spec: seccomp(2); the OCI's runtime-spec, "Seccomp"; bpf in the kernel's documentation (classic BPF).
//! On an architecture that a filter does not name, calls end the process.

mod code;
mod numbers;

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

pub use code::Instruction;
use code::Program;

use crate::process::check;

/// What happens to a call: one of `SECCOMP_RET_*` with its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Action(pub u32);

impl Action {
    /// The call is made.
    pub const ALLOW: Self = Self(libc::SECCOMP_RET_ALLOW);
    /// The process ends.
    pub const KILL_PROCESS: Self = Self(libc::SECCOMP_RET_KILL_PROCESS);

    /// The call fails with this error.
    #[must_use]
    pub const fn error(number: u32) -> Self {
        Self(libc::SECCOMP_RET_ERRNO | (number & libc::SECCOMP_RET_DATA))
    }

    /// By its name in the OCI's specification; `error` is for those that carry a number.
    #[must_use]
    pub fn by_name(name: &str, error: u32) -> Option<Self> {
        Some(match name {
            "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Self(libc::SECCOMP_RET_KILL_THREAD),
            "SCMP_ACT_KILL_PROCESS" => Self::KILL_PROCESS,
            "SCMP_ACT_TRAP" => Self(libc::SECCOMP_RET_TRAP),
            "SCMP_ACT_ERRNO" => Self::error(error),
            "SCMP_ACT_TRACE" => Self(libc::SECCOMP_RET_TRACE | (error & libc::SECCOMP_RET_DATA)),
            "SCMP_ACT_ALLOW" => Self::ALLOW,
            "SCMP_ACT_LOG" => Self(libc::SECCOMP_RET_LOG),
            "SCMP_ACT_NOTIFY" => Self(libc::SECCOMP_RET_USER_NOTIF),
            _ => return None,
        })
    }

    /// Whether the call goes to a listener.
    #[must_use]
    pub const fn is_notify(self) -> bool {
        self.0 == libc::SECCOMP_RET_USER_NOTIF
    }

    const fn is_error(self) -> bool {
        self.0 & libc::SECCOMP_RET_ACTION_FULL == libc::SECCOMP_RET_ERRNO
    }
}

/// How an argument is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// It differs.
    NotEqual,
    /// It is less.
    Less,
    /// It is not more.
    LessOrEqual,
    /// It is the same.
    Equal,
    /// It is not less.
    GreaterOrEqual,
    /// It is more.
    Greater,
    /// Its bits under the mask are these.
    MaskedEqual(u64),
}

/// A condition on one argument of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Which argument, from 0 to 5.
    pub argument: u32,
    /// How it is compared.
    pub operator: Operator,
    /// With what.
    pub value: u64,
}

/// What happens to calls of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The call.
    pub name: String,
    /// What must hold for its arguments; all of it.
    pub conditions: Vec<Condition>,
    /// What happens then.
    pub action: Action,
}

/// A processor as the kernel tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// 64 bits of Intel and AMD.
    X86_64,
    /// 32 bits of them.
    X86,
    /// Their 64 bits with short pointers.
    X32,
    /// 64 bits of ARM.
    Aarch64,
    /// 32 bits of ARM.
    Arm,
}

impl Machine {
    /// The one that this program was made for.
    pub const NATIVE: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    /// By its name in the OCI's specification. None for those on which this program does not run.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "SCMP_ARCH_X86_64" => Self::X86_64,
            "SCMP_ARCH_X86" => Self::X86,
            "SCMP_ARCH_X32" => Self::X32,
            "SCMP_ARCH_AARCH64" => Self::Aarch64,
            "SCMP_ARCH_ARM" => Self::Arm,
            _ => return None,
        })
    }

    const fn column(self) -> usize {
        match self {
            Self::X86_64 => 0,
            Self::X86 => 1,
            Self::X32 => 2,
            Self::Aarch64 => 3,
            Self::Arm => 4,
        }
    }

    /// `AUDIT_ARCH_*`; x32 has none of its own.
    const fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    /// The number of a call in a row of the table.
    fn number_in(self, row: usize) -> Option<u32> {
        u32::try_from(numbers::SYSTEM_CALLS[row].1[self.column()]).ok()
    }
}

/// The row of a call in the table.
fn row_of(name: &str) -> Option<usize> {
    numbers::SYSTEM_CALLS.binary_search_by(|(known, _)| (*known).cmp(name)).ok()
}

/// A filter in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// What happens to calls without a rule.
    pub default: Action,
    /// On which machines; the native one is always among them.
    pub machines: Vec<Machine>,
    /// Rules, of which the first that holds counts.
    pub rules: Vec<Rule>,
}

/// The bit that tells x32's numbers from those of x86_64.
const X32_BIT: u32 = 0x4000_0000;

impl Filter {
    /// The filter as the kernel wants it.
    pub fn compile(&self) -> io::Result<Vec<Instruction>> {
        let mut program = Program::default();
        let named: Vec<(usize, &Rule)> =
            self.rules.iter().filter_map(|rule| Some((row_of(&rule.name)?, rule))).collect();
        let wrong_machine = program.end(Action::KILL_PROCESS);
        let mut next = wrong_machine;
        let has = |machine| machine == Machine::NATIVE || self.machines.contains(&machine);
        for machine in
            [Machine::Arm, Machine::Aarch64, Machine::X86].into_iter().filter(|machine| has(*machine))
        {
            let calls = self.calls(&mut program, machine, &named);
            next = program.if_equal(machine.audit(), calls, next);
        }
        if has(Machine::X86_64) || has(Machine::X32) {
            let mut side = |machine| {
                if has(machine) { self.calls(&mut program, machine, &named) } else { wrong_machine }
            };
            let (wide, short) = (side(Machine::X86_64), side(Machine::X32));
            let which = program.if_at_least(X32_BIT, short, wide);
            let which = program.load_number(which);
            next = program.if_equal(Machine::X86_64.audit(), which, next);
        }
        program.load_architecture(next);
        program.finish()
    }

    /// Code that decides on a call of one machine. Comes back with the place where it starts.
    fn calls(&self, program: &mut Program, machine: Machine, named: &[(usize, &Rule)]) -> usize {
        let bit = if machine == Machine::X32 { X32_BIT } else { 0 };
        let mut rules: Vec<(u32, Vec<&Rule>)> = Vec::with_capacity(self.rules.len());
        let mut named: Vec<(u32, &Rule)> =
            named.iter().filter_map(|(row, rule)| Some((machine.number_in(*row)? | bit, *rule))).collect();
        named.sort_by_key(|(number, _)| *number);
        for (number, rule) in named {
            match rules.last_mut() {
                Some((last, list)) if *last == number => list.push(rule),
                _ => rules.push((number, vec![rule])),
            }
        }
        let default = program.end(self.default);
        let beyond = self.beyond(program, default);
        let places = self.places(program, &rules, default, beyond, bit);
        let start = program.search(&places);
        program.load_number(start)
    }

    /// What happens to calls that are newer than all that the filter names. A program that asks for one must hear that
    /// the kernel lacks it, or it will not fall back to what it did before.
    fn beyond(&self, program: &mut Program, default: usize) -> usize {
        let denies = self.default.is_error() && !self.rules.is_empty();
        if denies { program.end(Action::error(libc::ENOSYS as u32)) } else { default }
    }

    /// From which number on which place decides.
    fn places(
        &self,
        program: &mut Program,
        rules: &[(u32, Vec<&Rule>)],
        default: usize,
        beyond: usize,
        bit: u32,
    ) -> Vec<(u32, usize)> {
        let mut places = vec![(bit, default)];
        for (number, list) in rules {
            let place = list.iter().rev().fold(default, |next, rule| program.rule(rule, next));
            if places.last().is_some_and(|(last, _)| last == number) {
                places.pop();
            }
            places.push((*number, place));
            places.push((*number + 1, default));
        }
        if let Some(last) = places.last_mut() {
            last.1 = beyond;
        }
        // Neighbours for which the same is decided are one range, wherever it is decided.
        places.dedup_by_key(|(_, place)| program.decision(*place).ok_or(*place));
        places
    }
}

/// Puts a filter onto this process. A filter with [`Action::is_notify`] in it comes back with the listener's side, when
/// `listen` says so. `flags` are `SECCOMP_FILTER_FLAG_*`.
pub fn load(filter: &[Instruction], flags: u64, listen: bool) -> io::Result<Option<OwnedFd>> {
    const NEW_LISTENER: u64 = 1 << 3;
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_ptr().cast_mut().cast(),
    };
    let flags = if listen { flags | NEW_LISTENER } else { flags };
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: Instruction has the layout of sock_filter, and the kernel only reads as many as `len` says.
    let loaded = check(unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) })?;
    // SAFETY: with that flag the answer is a descriptor that was just opened for us.
    Ok(listen.then(|| unsafe { OwnedFd::from_raw_fd(loaded as RawFd) }))
}

/// The number of a flag, as the OCI names it.
#[must_use]
pub fn flag_by_name(name: &str) -> Option<u64> {
    Some(match name {
        "SECCOMP_FILTER_FLAG_TSYNC" => 1,
        "SECCOMP_FILTER_FLAG_LOG" => 1 << 1,
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => 1 << 2,
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => 1 << 5,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
