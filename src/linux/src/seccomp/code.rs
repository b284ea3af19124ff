//! The filter's machine code, written from its end to its start, because jumps only go forwards.

use std::io;

use super::{Action, Condition, Operator, Rule};

/// One instruction, as the kernel lays it out.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What is done.
    pub code: u16,
    /// How far to jump when it holds.
    pub if_true: u8,
    /// How far to jump when it does not.
    pub if_false: u8,
    /// A constant.
    pub value: u32,
}

/// Instructions in reverse. A place is how many there were when an instruction had been written.
#[derive(Debug, Default)]
pub(super) struct Program(Vec<Instruction>);

pub(super) const LOAD: u16 = 0x20;
pub(super) const AND: u16 = 0x54;
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const JUMP_GREATER: u16 = 0x25;
pub(super) const JUMP_AT_LEAST: u16 = 0x35;
pub(super) const RETURN: u16 = 0x06;
/// What the kernel takes at most.
const MOST_INSTRUCTIONS: usize = 4096;
/// How far back a decision is looked for.
const NEAR: usize = 200;
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

impl Program {
    fn write(&mut self, code: u16, if_true: u8, if_false: u8, value: u32) -> usize {
        self.0.push(Instruction { code, if_true, if_false, value });
        self.0.len()
    }

    /// Decides. One that decides so already and is near serves again: what is loaded takes the kernel time by its length.
    pub(super) fn end(&mut self, action: Action) -> usize {
        let same = |instruction: &Instruction| instruction.code == RETURN && instruction.value == action.0;
        let near = self.0.len().saturating_sub(NEAR);
        match self.0[near..].iter().rposition(same) {
            Some(index) => near + index + 1,
            None => self.write(RETURN, 0, 0, action.0),
        }
    }

    /// What is decided at a place, when it is decided there for all calls.
    pub(super) fn decision(&self, place: usize) -> Option<u32> {
        let instruction = self.0.get(place.checked_sub(1)?)?;
        (instruction.code == RETURN).then_some(instruction.value)
    }

    /// Loads the call's number, then goes on at `next`.
    pub(super) fn load_number(&mut self, next: usize) -> usize {
        self.load(NUMBER, next)
    }

    /// Loads the machine, then goes on at `next`.
    pub(super) fn load_architecture(&mut self, next: usize) -> usize {
        self.load(ARCHITECTURE, next)
    }

    fn load(&mut self, offset: u32, next: usize) -> usize {
        self.go_to(next);
        self.write(LOAD, 0, 0, offset)
    }

    /// Makes sure that what is written now is followed by `next`.
    fn go_to(&mut self, next: usize) {
        if next != self.0.len() {
            self.write(JUMP, 0, 0, (self.0.len() - next) as u32);
        }
    }

    /// A place within reach of a conditional jump from the instruction after the next two.
    fn near(&mut self, place: usize) -> usize {
        const REACH: usize = 250;
        if self.0.len() - place <= REACH {
            return place;
        }
        match self.decision(place) {
            Some(decision) => self.end(Action(decision)),
            None => self.write(JUMP, 0, 0, (self.0.len() - place) as u32),
        }
    }

    fn test(&mut self, code: u16, value: u32, yes: usize, no: usize) -> usize {
        let (yes, no) = (self.near(yes), self.near(no));
        let here = self.0.len();
        self.write(code, (here - yes) as u8, (here - no) as u8, value)
    }

    /// Goes on at `yes` when what is loaded is `value`.
    pub(super) fn if_equal(&mut self, value: u32, yes: usize, no: usize) -> usize {
        self.test(JUMP_EQUAL, value, yes, no)
    }

    /// Goes on at `yes` when what is loaded is at least `value`.
    pub(super) fn if_at_least(&mut self, value: u32, yes: usize, no: usize) -> usize {
        self.test(JUMP_AT_LEAST, value, yes, no)
    }

    /// Finds the last of the sorted numbers that is not above what is loaded, and goes on at its place.
    pub(super) fn search(&mut self, places: &[(u32, usize)]) -> usize {
        if let [(_, place)] = places {
            return *place;
        }
        let (low, high) = places.split_at(places.len() / 2);
        let (less, more) = (self.search(low), self.search(high));
        self.if_at_least(high[0].0, more, less)
    }

    /// Decides when all conditions of a rule hold, and goes on at `next` when one does not.
    pub(super) fn rule(&mut self, rule: &Rule, next: usize) -> usize {
        let start = self.end(rule.action);
        rule.conditions.iter().rev().fold(start, |yes, condition| self.condition(condition, yes, next))
    }

    fn condition(&mut self, condition: &Condition, yes: usize, no: usize) -> usize {
        let (high, low) = ((condition.value >> 32) as u32, condition.value as u32);
        let offset = 16 + condition.argument * 8;
        let at = |half: Half| offset + half.offset();
        match condition.operator {
            Operator::Equal => self.both(offset, u64::MAX, condition.value, yes, no),
            Operator::NotEqual => self.both(offset, u64::MAX, condition.value, no, yes),
            Operator::MaskedEqual(mask) => self.both(offset, mask, condition.value, yes, no),
            Operator::Greater | Operator::LessOrEqual => {
                let (more, rest) =
                    if condition.operator == Operator::Greater { (yes, no) } else { (no, yes) };
                let below = self.test(JUMP_GREATER, low, more, rest);
                let below = self.load(at(Half::Low), below);
                self.compare_high(at(Half::High), high, more, rest, below)
            }
            Operator::GreaterOrEqual | Operator::Less => {
                let (more, rest) =
                    if condition.operator == Operator::GreaterOrEqual { (yes, no) } else { (no, yes) };
                let below = self.test(JUMP_AT_LEAST, low, more, rest);
                let below = self.load(at(Half::Low), below);
                self.compare_high(at(Half::High), high, more, rest, below)
            }
        }
    }

    fn compare_high(&mut self, at: u32, high: u32, more: usize, less: usize, same: usize) -> usize {
        let equal = self.if_equal(high, same, less);
        let start = self.test(JUMP_GREATER, high, more, equal);
        self.load(at, start)
    }

    fn both(&mut self, offset: u32, mask: u64, value: u64, yes: usize, no: usize) -> usize {
        let second = self.half(offset + Half::Low.offset(), mask as u32, value as u32, yes, no);
        self.half(offset + Half::High.offset(), (mask >> 32) as u32, (value >> 32) as u32, second, no)
    }

    fn half(&mut self, at: u32, mask: u32, value: u32, yes: usize, no: usize) -> usize {
        let mut start = self.if_equal(value, yes, no);
        if mask != u32::MAX {
            self.go_to(start);
            start = self.write(AND, 0, 0, mask);
        }
        self.load(at, start)
    }

    /// The program in the order in which it runs.
    pub(super) fn finish(mut self) -> io::Result<Vec<Instruction>> {
        if self.0.len() > MOST_INSTRUCTIONS {
            let found = self.0.len();
            return Err(io::Error::other(format!(
                "the seccomp filter has {found} instructions, the kernel takes {MOST_INSTRUCTIONS}"
            )));
        }
        self.0.reverse();
        Ok(self.0)
    }
}

enum Half {
    Low,
    High,
}

impl Half {
    const fn offset(self) -> u32 {
        match (self, cfg!(target_endian = "big")) {
            (Self::Low, false) | (Self::High, true) => 0,
            _ => 4,
        }
    }
}
