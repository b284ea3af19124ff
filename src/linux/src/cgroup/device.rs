//! Which devices a group may use: files in version 1, a program in version 2.
//!
//! [`DeviceRule`]s are taken in order, and the last one that fits a device decides. [`compile`] makes the program;
//! [`attach`] puts it onto a group's directory in place of the one before.
//!
//! Spec: devices in the kernel's documentation of cgroup-v1; bpf(2), `BPF_PROG_TYPE_CGROUP_DEVICE`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::process::check;

/// May be made.
pub const MKNOD: u32 = 1;
/// May be read.
pub const READ: u32 = 2;
/// May be written.
pub const WRITE: u32 = 4;

/// What is said of some devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRule {
    /// Whether they may be used.
    pub allow: bool,
    /// Which kind.
    pub kind: DeviceKind,
    /// Their number, or all.
    pub major: Option<u32>,
    /// Their number, or all.
    pub minor: Option<u32>,
    /// In which ways: [`MKNOD`], [`READ`], [`WRITE`].
    pub access: u32,
}

/// Kinds of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// Both.
    All,
    /// Those with blocks.
    Block,
    /// Those with characters.
    Character,
}

impl DeviceRule {
    /// The rule as version 1 reads it: which file, and what is written.
    #[must_use]
    pub fn to_file(self) -> (&'static str, String) {
        let file = if self.allow { "devices.allow" } else { "devices.deny" };
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        let kind = match self.kind {
            DeviceKind::All => 'a',
            DeviceKind::Block => 'b',
            DeviceKind::Character => 'c',
        };
        let ways = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')];
        let access: String =
            ways.iter().filter(|(bit, _)| self.access & bit != 0).map(|(_, way)| *way).collect();
        (file, format!("{kind} {}:{} {access}", number(self.major), number(self.minor)))
    }
}

/// An instruction of the kernel's machine.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub(super) code: u8,
    pub(super) registers: u8,
    pub(super) offset: i16,
    pub(super) value: i32,
}

const fn instruction(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, value }
}

pub(super) const LOAD_WORD: u8 = 0x61;
pub(super) const MOVE: u8 = 0xb7;
pub(super) const MOVE_REGISTER: u8 = 0xbf;
pub(super) const AND_WORD: u8 = 0x54;
pub(super) const SHIFT_RIGHT: u8 = 0x77;
pub(super) const JUMP_NOT_EQUAL: u8 = 0x55;
pub(super) const JUMP_EQUAL: u8 = 0x15;
pub(super) const EXIT: u8 = 0x95;

const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// The program that answers as the rules say; what none fits is denied.
#[must_use]
pub fn compile(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut program = vec![
        instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(MOVE_REGISTER, ACCESS, KIND, 0, 0),
        instruction(AND_WORD, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let block = block(rule);
        let is_final = block.len() == 2;
        program.extend(block);
        if is_final {
            return program;
        }
    }
    program.extend([instruction(MOVE, ANSWER, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    program
}

/// One rule: jumps over its answer when it does not fit.
fn block(rule: &DeviceRule) -> Vec<Instruction> {
    const ALL_WAYS: u32 = MKNOD | READ | WRITE;
    let mut tests = Vec::new();
    match rule.kind {
        DeviceKind::All => {}
        DeviceKind::Block => tests.push((JUMP_NOT_EQUAL, KIND, 1)),
        DeviceKind::Character => tests.push((JUMP_NOT_EQUAL, KIND, 2)),
    }
    let mut program = Vec::new();
    if rule.access & ALL_WAYS != ALL_WAYS {
        // An allowance holds when it covers all that is asked; a denial when it touches any of it.
        let mask = if rule.allow { !rule.access & ALL_WAYS } else { rule.access };
        program.push(instruction(MOVE_REGISTER, SCRATCH, ACCESS, 0, 0));
        program.push(instruction(AND_WORD, SCRATCH, 0, 0, mask as i32));
        tests.push((if rule.allow { JUMP_NOT_EQUAL } else { JUMP_EQUAL }, SCRATCH, 0));
    }
    tests.extend(rule.major.map(|major| (JUMP_NOT_EQUAL, MAJOR, major as i32)));
    tests.extend(rule.minor.map(|minor| (JUMP_NOT_EQUAL, MINOR, minor as i32)));
    let count = tests.len();
    for (index, (code, register, value)) in tests.into_iter().enumerate() {
        program.push(instruction(code, register, 0, (count - index + 1) as i16, value));
    }
    program.push(instruction(MOVE, ANSWER, 0, 0, i32::from(rule.allow)));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

const PROGRAM_LOAD: i32 = 5;
const PROGRAM_ATTACH: i32 = 8;
const PROGRAM_DETACH: i32 = 9;
const PROGRAM_FROM_ID: i32 = 13;
const PROGRAM_QUERY: i32 = 16;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    rest: [u64; 12],
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    rest: [u64; 2],
}

#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    rest: [u32; 7],
}

fn bpf<T>(command: i32, attributes: &mut T) -> io::Result<i64> {
    // SAFETY: each command reads and writes at most the structure made for it, whose size goes along; what it points
    // to outlives the call.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) })
}

fn owned(fd: i64) -> OwnedFd {
    // SAFETY: called with descriptors only that the kernel has just opened for us.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

/// From now on the rules decide for the group whose directory is open.
pub fn attach(directory: BorrowedFd<'_>, rules: &[DeviceRule]) -> io::Result<()> {
    let before = attached(directory)?;
    let program = load(&compile(rules))?;
    let target = directory.as_raw_fd() as u32;
    let mut change = Attach {
        target,
        program: program.as_raw_fd() as u32,
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
        ..Attach::default()
    };
    bpf(PROGRAM_ATTACH, &mut change)?;
    for old in before {
        let program = old.as_raw_fd() as u32;
        bpf(
            PROGRAM_DETACH,
            &mut Attach { target, program, kind: ATTACH_CGROUP_DEVICE, ..Attach::default() },
        )?;
    }
    Ok(())
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut attributes = Load {
        kind: TYPE_CGROUP_DEVICE,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    Ok(owned(bpf(PROGRAM_LOAD, &mut attributes)?))
}

fn attached(directory: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    let mut ids = [0_u32; 64];
    let mut query = Query {
        target: directory.as_raw_fd() as u32,
        kind: ATTACH_CGROUP_DEVICE,
        ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        ..Query::default()
    };
    bpf(PROGRAM_QUERY, &mut query)?;
    let open = |id: &u32| {
        let mut attributes = [*id, 0, 0, 0];
        bpf(PROGRAM_FROM_ID, &mut attributes).map(owned)
    };
    ids[..query.count as usize].iter().map(open).collect()
}
