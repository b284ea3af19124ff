//! The recipe as it is written.
//!
//! [`Recipe`] has a field for each key; what is not written is empty and decided later.

use std::collections::BTreeMap;

use knarr_base::near;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::RecipeError;

/// What an image is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Recipe {
    /// The image's name; without one the file's
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is for, in one line
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The recipe that this one adds to: the name of a ready one, or a path relative to this file
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extends: Option<String>,
    /// The suite whose packages it is made of, such as "trixie"
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suite: Option<String>,
    /// The machines it is for, such as ["amd64", "arm64"]; without any this machine's
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<String>,
    /// What is built when the command line does not say: "dev", "production" or "base"
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetName>,
    /// Packages
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<String>,
    /// Packages that must not be there
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Components of the suite, such as ["main", "contrib"]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<String>,
    /// Repositories beside the suite's own: a one-line entry, or the path of a .sources or .list file
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub repositories: Vec<String>,
    /// Files of packages that are left out: patterns in which * stands for anything
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drop: Vec<String>,
    /// Files of packages that stay although a pattern leaves them out
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<String>,
    /// Whether recommended packages come along
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recommends: Option<bool>,
    /// Priorities of packages, suites and pockets, as apt's pins
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pins: BTreeMap<String, i32>,
    /// Locales, such as ["en_US.UTF-8"]; C.UTF-8 is always there
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub locales: Vec<String>,
    /// The time zone, such as "Europe/Oslo"; with one, time zone data is there
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// Whether the certificates of public authorities are there
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificates: Option<bool>,
    /// Further certificates to trust: PEM files of the context
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra_certificates: Vec<String>,
    /// Users
    #[serde(rename = "user", skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<User>,
    /// Groups
    #[serde(rename = "group", skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    /// Files, links and directories to add
    #[serde(rename = "file", skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<File>,
    /// What other stages made and this image takes
    #[serde(rename = "copy", skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<Copy>,
    /// Commands that run in the image while it is built
    #[serde(rename = "run", skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<Run>,
    /// Images that are built on the way and not kept
    #[serde(rename = "stage", skip_serializing_if = "BTreeMap::is_empty")]
    pub stages: BTreeMap<String, Self>,
    /// How containers of it start
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageTable>,
    /// What must work in the finished image
    #[serde(rename = "verify", skip_serializing_if = "Vec::is_empty")]
    pub verifies: Vec<Verify>,
    /// What is different in the image for development
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dev: Option<Box<DevTable>>,
    /// What is different in the image for production
    #[serde(skip_serializing_if = "Option::is_none")]
    pub production: Option<Box<ProductionTable>>,
}

/// What is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TargetName {
    /// A container to work in: apt, shell, tools and a user who may do everything
    Dev,
    /// What runs the program, and nothing else
    Production,
    /// A plain Debian that others build on
    Base,
}

impl TargetName {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Production => "production",
            Self::Base => "base",
        }
    }
}

/// A user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct User {
    /// Its name
    pub name: String,
    /// Its number
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The number of its group; without one the user's
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Further groups by name
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Its home; without one /home/NAME
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// Its shell
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<String>,
    /// Its full name
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether it may do everything with sudo, without a password
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sudo: bool,
}

/// A group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Group {
    /// Its name
    pub name: String,
    /// Its number
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Users that belong to it, by name
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
}

/// A file, link or directory to add. Exactly one of from, text, url, link and directory says what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct File {
    /// Where it is put, absolute
    pub path: String,
    /// A file or directory of the context
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Its content
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Where it is fetched from; sha256 says what it must be
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The digest of what is fetched
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The target of a symbolic link
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Whether it is a directory
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub directory: bool,
    /// Permissions, octal, such as "0644"
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Owner and group by name or number, such as "www-data:www-data"
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// What is taken from another stage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Copy {
    /// The stage
    pub stage: String,
    /// A file or directory of the stage, absolute
    pub from: String,
    /// Where it is put, absolute; without it the same place
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Permissions, octal
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Owner and group by name or number
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// A command, as a text for the shell or as a list of its words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Command {
    /// A text for /bin/sh
    Shell(String),
    /// The program and its arguments
    Exec(Vec<String>),
}

impl Default for Command {
    fn default() -> Self {
        Self::Exec(Vec::new())
    }
}

impl Command {
    /// The words that run it.
    #[must_use]
    pub fn argv(&self) -> Vec<String> {
        match self {
            Self::Shell(text) => vec!["/bin/sh".to_owned(), "-ec".to_owned(), text.clone()],
            Self::Exec(words) => words.clone(),
        }
    }

    /// As a person would type it.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Shell(text) => text.clone(),
            Self::Exec(words) => words.join(" "),
        }
    }
}

/// A command that runs while the image is built.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Run {
    /// The command
    pub command: Command,
    /// Whether it may use the network; what it fetches then is not pinned by the lock
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub network: bool,
    /// Its environment beside the image's
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Where it starts
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
}

/// How containers start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ImageTable {
    /// Environment
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// What runs
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Its arguments, or what runs without an entrypoint
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Labels
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Ports it listens on, such as ["80/tcp"]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    /// Directories whose content outlives containers
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// Where processes start
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// Who runs it, by name or number
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What asks it to end, such as "SIGQUIT"
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// How its health is asked for
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
}

/// How a container's health is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Healthcheck {
    /// The command
    pub command: Command,
    /// Between two checks, such as "30s"
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// Of one check
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// While failures do not count
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_period: Option<String>,
    /// Failures in a row that make it unhealthy
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
}

/// A command that must succeed in the finished image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Verify {
    /// The command
    pub command: Command,
    /// What its output must contain
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
    /// The exit status that it must have
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
    /// Whether it may use the network
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub network: bool,
    /// Whether it may write to the root
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub writable: bool,
    /// Whether busybox is lent to it, with a shell and small tools in its PATH; the image does not get it
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub tools: bool,
    /// Who runs it; without it the image's user
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// After how long it is ended, such as "30s"
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

/// What is different in the image for development.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct DevTable {
    /// Further packages
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<String>,
    /// Commands that run in it while it is built
    #[serde(rename = "run", skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<Run>,
    /// Files to add
    #[serde(rename = "file", skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<File>,
    /// How its containers start
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageTable>,
    /// Who works in it; may use sudo. Without one "dev"
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What must work in it
    #[serde(rename = "verify", skip_serializing_if = "Vec::is_empty")]
    pub verifies: Vec<Verify>,
    /// Extensions and settings for editors: the customizations of devcontainer.metadata
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub customizations: BTreeMap<String, serde_json::Value>,
}

/// What is different in the image for production.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct ProductionTable {
    /// How much is left out: "minimal" keeps named packages and what they need, "slim" only the files that
    /// the entrypoint and keeps reach, "scratch" takes no packages at all
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Further packages
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<String>,
    /// Files to add
    #[serde(rename = "file", skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<File>,
    /// How its containers start
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageTable>,
    /// Packages that others may need and that are left out all the same
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub assume: Vec<String>,
    /// Paths and globs that are kept although nothing reaches them; a directory with all that is in it
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<String>,
    /// Paths and globs that are left out
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drop: Vec<String>,
    /// Whether a shell for a look around is there: busybox, at /busybox
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debug: Option<bool>,
    /// Whether copyright files are kept; the licences of many packages ask for it
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copyright: Option<bool>,
    /// What must work in it
    #[serde(rename = "verify", skip_serializing_if = "Vec::is_empty")]
    pub verifies: Vec<Verify>,
}

/// How much a production image leaves out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Named packages and what they need
    #[default]
    Minimal,
    /// Only files that are reached
    Slim,
    /// No packages at all
    Scratch,
}

impl Recipe {
    /// Reads a recipe. `place` names it in errors.
    pub fn parse(place: &str, text: &str) -> Result<Self, RecipeError> {
        let recipe: Self = toml::from_str(text).map_err(|error| explain(place, text, &error))?;
        crate::check::check(place, &recipe)?;
        Ok(recipe)
    }

    /// The text of a recipe like this one.
    pub fn to_text(&self) -> Result<String, RecipeError> {
        toml::to_string(self).map_err(|error| RecipeError::BadValue {
            place: "(recipe)".to_owned(),
            key: "(all)".to_owned(),
            reason: error.to_string(),
        })
    }
}

fn explain(place: &str, text: &str, error: &toml::de::Error) -> RecipeError {
    let start = error.span().map_or(0, |span| span.start).min(text.len());
    let before = &text.as_bytes()[..start];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    let place = place.to_owned();
    let message = error.message();
    let Some(rest) = message.strip_prefix("unknown field `") else {
        return RecipeError::Syntax { place, line, column, reason: message.replace('\n', " ") };
    };
    let mut names = rest.split('`').step_by(2).map(str::to_owned);
    let key = names.next().unwrap_or_default();
    let known: Vec<String> = names.collect();
    let close = near(&key, known.iter().map(String::as_str));
    let near = if close.is_empty() { known } else { close };
    RecipeError::UnknownKey { place, line, column, key, near }
}
