//! A shorter way for the verbs that people type all day: only the one that was typed is built.
//!
//! All subcommands with all their flags take some milliseconds to build, which is a part of what `exec` takes. What cannot be
//! understood here, and every question for help, goes the long way, which has the whole picture.

use std::ffi::OsString;

use clap::{Args, FromArgMatches, Subcommand};

use crate::{Cli, Command, Globals, VerbOfContainer as V};

/// The command line, when it begins with such a verb and is right.
pub(crate) fn parse(arguments: &[OsString]) -> Option<Cli> {
    match arguments.get(1)?.to_str()? {
        "run" => one(arguments, |args| V::Run(Box::new(args))),
        "create" => one(arguments, |args| V::Create(Box::new(args))),
        "start" => one(arguments, V::Start),
        "stop" => one(arguments, V::Stop),
        "restart" => one(arguments, V::Restart),
        "kill" => one(arguments, V::Kill),
        "rm" => one(arguments, V::Rm),
        "ps" => one(arguments, V::Ps),
        "exec" => one(arguments, V::Exec),
        "logs" => one(arguments, V::Logs),
        "wait" => one(arguments, V::Wait),
        "pause" => one(arguments, V::Pause),
        "unpause" => one(arguments, V::Unpause),
        "network" => group(arguments, Command::Network),
        "volume" => group(arguments, Command::Volume),
        "version" => single(arguments, Command::Version),
        "info" => single(arguments, Command::Info),
        "inspect" => single(arguments, Command::Inspect),
        _ => None,
    }
}

fn one<A: Args + FromArgMatches>(arguments: &[OsString], verb: impl FnOnce(A) -> V) -> Option<Cli> {
    single(arguments, |args| Command::OfContainer(verb(args)))
}

fn single<A: Args + FromArgMatches>(
    arguments: &[OsString],
    command: impl FnOnce(A) -> Command,
) -> Option<Cli> {
    with(arguments, A::augment_args, command)
}

/// A noun with its own verbs.
fn group<A: Subcommand + FromArgMatches>(
    arguments: &[OsString],
    command: impl FnOnce(A) -> Command,
) -> Option<Cli> {
    let required = |command| A::augment_subcommands(command).subcommand_required(true);
    with(arguments, required, command)
}

fn with<A: FromArgMatches>(
    arguments: &[OsString],
    augment: impl FnOnce(clap::Command) -> clap::Command,
    command: impl FnOnce(A) -> Command,
) -> Option<Cli> {
    let name = arguments.get(1)?.to_str()?.to_owned();
    let whole = Globals::augment_args(clap::Command::new("knarr"));
    let whole = whole.subcommand(augment(clap::Command::new(name)));
    let matches = whole.try_get_matches_from(arguments).ok()?;
    let globals = Globals::from_arg_matches(&matches).ok()?;
    let args = A::from_arg_matches(matches.subcommand()?.1).ok()?;
    Some(Cli { command: command(args), globals })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::parse;

    fn parsed(line: &str) -> Option<String> {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        parse(&words).map(|cli| format!("{cli:?}"))
    }

    fn long(line: &str) -> String {
        let cli = <crate::Cli as clap::Parser>::try_parse_from(line.split(' ')).unwrap();
        format!("{cli:?}")
    }

    #[test]
    fn both_ways_understand_the_same() {
        for line in [
            "knarr run --rm -it -p 80:80 img sh -c true",
            "knarr ps -a -q",
            "knarr exec -it one sh",
            "knarr rm -f a b -H unix:///x",
            "knarr logs -f --tail 3 one",
            "knarr network create --subnet 10.9.0.0/24 near",
            "knarr network rm near far -q",
            "knarr volume ls -q",
            "knarr version --format json",
            "knarr inspect one",
        ] {
            assert_eq!(parsed(line).as_deref(), Some(long(line).as_str()), "{line}");
        }
    }

    #[test]
    fn what_is_wrong_goes_the_long_way() {
        for line in [
            "knarr run",
            "knarr run --nonsense img",
            "knarr ps --help",
            "knarr images",
            "knarr network",
            "knarr volume ls -h",
        ] {
            assert_eq!(parsed(line), None, "{line}");
        }
    }
}
