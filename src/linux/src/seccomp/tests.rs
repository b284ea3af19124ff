use super::code::{AND, JUMP, JUMP_AT_LEAST, JUMP_EQUAL, JUMP_GREATER, LOAD, RETURN};
use super::{Action, Condition, Filter, Instruction, Machine, Operator, Rule, numbers};

impl Machine {
    fn number(self, name: &str) -> Option<u32> {
        self.number_in(super::row_of(name)?)
    }
}

const DENY: Action = Action::error(1);

/// Runs a filter as the kernel would.
fn run(program: &[Instruction], machine: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_ne_bytes());
    data.extend(machine.to_ne_bytes());
    data.extend(0_u64.to_ne_bytes());
    arguments.iter().for_each(|argument| data.extend(argument.to_ne_bytes()));
    let (mut loaded, mut at) = (0_u32, 0);
    loop {
        let instruction = program[at];
        let value = instruction.value;
        let jump = |holds: bool| usize::from(if holds { instruction.if_true } else { instruction.if_false });
        at += 1;
        match instruction.code {
            LOAD => {
                let at = value as usize;
                loaded = u32::from_ne_bytes(data[at..at + 4].try_into().unwrap());
            }
            AND => loaded &= value,
            JUMP => at += value as usize,
            JUMP_EQUAL => at += jump(loaded == value),
            JUMP_GREATER => at += jump(loaded > value),
            JUMP_AT_LEAST => at += jump(loaded >= value),
            RETURN => return value,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn rule(name: &str, action: Action) -> Rule {
    Rule { name: name.to_owned(), conditions: vec![], action }
}

fn filter(default: Action, machines: &[Machine], rules: Vec<Rule>) -> Vec<Instruction> {
    Filter { default, machines: machines.to_vec(), rules }.compile().unwrap()
}

fn call(program: &[Instruction], machine: Machine, name: &str, arguments: [u64; 6]) -> u32 {
    let bit = if machine == Machine::X32 { super::X32_BIT } else { 0 };
    run(program, machine.audit(), machine.number(name).unwrap() | bit, arguments)
}

#[test]
fn names_are_sorted_so_that_they_are_found() {
    assert!(numbers::SYSTEM_CALLS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert_eq!(Machine::X86_64.number("clone3"), Some(435));
    assert_eq!(Machine::Aarch64.number("open"), None);
}

#[test]
fn every_call_of_a_large_profile_gets_its_own_answer() {
    let machine = Machine::NATIVE;
    let known =
        || numbers::SYSTEM_CALLS.iter().map(|(name, _)| *name).filter(|name| machine.number(name).is_some());
    let rules =
        known().enumerate().map(|(index, name)| rule(name, Action::error(index as u32 + 1))).collect();
    let program = filter(DENY, &[machine], rules);
    for (index, name) in known().enumerate() {
        assert_eq!(call(&program, machine, name, [0; 6]), Action::error(index as u32 + 1).0, "{name}");
    }
    assert!(program.len() < 2000, "{}", program.len());
}

#[test]
fn neighbours_that_are_answered_alike_are_one_range() {
    let machine = Machine::NATIVE;
    let known = || numbers::SYSTEM_CALLS.iter().map(|(name, _)| *name);
    let here = || known().filter(|name| machine.number(name).is_some());
    let machines = [Machine::X86_64, Machine::X86, Machine::X32, Machine::Aarch64, Machine::Arm];
    let all = filter(DENY, &machines, here().map(|name| rule(name, Action::ALLOW)).collect());
    for name in here() {
        assert_eq!(call(&all, machine, name, [0; 6]), Action::ALLOW.0, "{name}");
    }
    assert!(all.len() < 700, "{}", all.len());
    // Every second one: decisions are far away from where they are needed.
    let half = filter(DENY, &machines, here().step_by(2).map(|name| rule(name, Action::ALLOW)).collect());
    let newest = here().step_by(2).filter_map(|name| machine.number(name)).max();
    for (index, name) in here().enumerate() {
        let beyond = machine.number(name) > newest;
        let expected = if beyond { Action::error(38) } else { [Action::ALLOW, DENY][index % 2] };
        assert_eq!(call(&half, machine, name, [0; 6]), expected.0, "{name}");
    }
}

#[test]
fn a_call_without_a_rule_gets_the_default() {
    let program = filter(DENY, &[], vec![rule("read", Action::ALLOW), rule("openat2", Action::ALLOW)]);
    assert_eq!(call(&program, Machine::NATIVE, "read", [0; 6]), Action::ALLOW.0);
    assert_eq!(call(&program, Machine::NATIVE, "write", [0; 6]), DENY.0);
    assert_eq!(call(&program, Machine::NATIVE, "mount", [0; 6]), DENY.0);
}

#[test]
fn a_call_newer_than_the_profile_does_not_exist() {
    let program = filter(DENY, &[], vec![rule("openat2", Action::ALLOW)]);
    assert_eq!(call(&program, Machine::NATIVE, "mseal", [0; 6]), Action::error(38).0);
    let blocks = filter(Action::ALLOW, &[], vec![rule("openat2", DENY)]);
    assert_eq!(call(&blocks, Machine::NATIVE, "mseal", [0; 6]), Action::ALLOW.0);
}

#[test]
fn another_machine_ends_the_process() {
    let program = filter(Action::ALLOW, &[], vec![rule("read", DENY)]);
    assert_eq!(run(&program, 0x1234, 0, [0; 6]), Action::KILL_PROCESS.0);
    let foreign = if Machine::NATIVE == Machine::X86_64 { Machine::X86 } else { Machine::Arm };
    assert_eq!(call(&program, foreign, "read", [0; 6]), Action::KILL_PROCESS.0);
}

#[test]
fn numbers_of_x32_pass_only_when_it_is_named() {
    if Machine::NATIVE != Machine::X86_64 {
        return;
    }
    let alone = filter(Action::ALLOW, &[Machine::X86_64], vec![]);
    assert_eq!(call(&alone, Machine::X32, "read", [0; 6]), Action::KILL_PROCESS.0);
    let rules = vec![rule("read", Action::ALLOW), rule("openat2", Action::ALLOW)];
    let both = filter(DENY, &[Machine::X86, Machine::X32], rules);
    for machine in [Machine::X86_64, Machine::X86, Machine::X32] {
        assert_eq!(call(&both, machine, "read", [0; 6]), Action::ALLOW.0, "{machine:?}");
        assert_eq!(call(&both, machine, "getpid", [0; 6]), DENY.0, "{machine:?}");
    }
}

#[test]
fn arguments_are_compared_in_all_64_bits() {
    let high = 5 << 32;
    let cases = [
        (Operator::Equal, high + 7, [(high + 7, true), (7, false), (high, false), (high + 8, false)]),
        (Operator::NotEqual, high + 7, [(high + 7, false), (7, true), (high, true), (high + 8, true)]),
        (Operator::Less, high + 7, [(high + 7, false), (9, true), (high + 6, true), (2 * high, false)]),
        (
            Operator::LessOrEqual,
            high + 7,
            [(high + 7, true), (9, true), (high + 8, false), (2 * high, false)],
        ),
        (Operator::Greater, high + 7, [(high + 7, false), (9, false), (high + 8, true), (2 * high, true)]),
        (
            Operator::GreaterOrEqual,
            high + 7,
            [(high + 7, true), (9, false), (high + 6, false), (2 * high, true)],
        ),
        (
            Operator::MaskedEqual(high + 1),
            high,
            [(high, true), (high + 2, true), (high + 1, false), (0, false)],
        ),
    ];
    for (operator, value, tries) in cases {
        let condition = Condition { argument: 2, operator, value };
        let rule = Rule { name: "clone".into(), conditions: vec![condition], action: Action::ALLOW };
        let program = filter(DENY, &[], vec![rule]);
        for (argument, allowed) in tries {
            let expected = if allowed { Action::ALLOW } else { DENY };
            let found = call(&program, Machine::NATIVE, "clone", [1, 1, argument, 1, 1, 1]);
            assert_eq!(found, expected.0, "{operator:?} {argument:#x}");
        }
    }
}

#[test]
fn of_several_rules_the_first_that_holds_counts() {
    let condition = |argument, value| Condition { argument, operator: Operator::Equal, value };
    let with = |conditions, action| Rule { name: "clone".into(), conditions, action };
    let rules = vec![
        with(vec![condition(0, 1), condition(1, 2)], Action::error(11)),
        with(vec![condition(0, 1)], Action::error(12)),
        with(vec![], Action::error(13)),
    ];
    let program = filter(Action::ALLOW, &[], rules);
    let answer = |first, second| call(&program, Machine::NATIVE, "clone", [first, second, 0, 0, 0, 0]);
    assert_eq!(
        [answer(1, 2), answer(1, 3), answer(2, 2)],
        [11, 12, 13].map(|number| Action::error(number).0)
    );
}
