//! Replay: the effect of a known maintainer script, made without running it.
//!
//! A rule belongs to the exact bytes of a script, by digest: a script that is not in the table
//! always really runs, so a rule can never outlive the script that it was proven equal to. Every
//! effect first looks whether the root is as it was when the rule was proven; if one is not, nothing
//! is touched and the script really runs.
//!
//! Spec: the scripts themselves; docs/decisions/005-replay.md.

mod accounts;
mod alternatives;
mod debconf;
mod diversions;
mod files;
pub mod loader_cache;
mod pam;
mod rules;
mod shells;
mod timers;

use knarr_base::{Architecture, Digest, Timestamp};
use knarr_tree::root::Root;

use crate::BootstrapError;
use crate::configure::Script;
use crate::package::Control;
use alternatives::Alternative;
use debconf::Answer;

/// What a script does. Paths are those of the root, without leading `/`.
#[derive(Clone, Copy, Debug)]
enum Effect {
    /// Nothing, but only while this is not there.
    Without(&'static str),
    /// Relies on a package having this path, with leading `/`.
    Ships(&'static str, &'static str),
    /// Relies on this user being there.
    HasUser(&'static str),
    /// Makes `etc/passwd` and `etc/group` of the texts that the script carries.
    AccountsOfScript,
    /// Makes what is missing of `etc/passwd` and `etc/group`.
    MasterAccounts,
    /// Moves passwords to `etc/shadow` and `etc/gshadow`.
    ShadowAccounts,
    /// Copies a file with its mode and time, unless the second is there.
    Copy(&'static str, &'static str),
    /// Makes an empty file of this mode and group, unless it is there.
    Touch(&'static str, u32, &'static str),
    /// Makes a file of this text.
    Text(&'static str, &'static str),
    /// Removes a file.
    Remove(&'static str),
    /// Makes a directory of this mode and group, unless it is there.
    Directory(&'static str, u32, &'static str),
    /// Makes a link to the first, unless the second is there.
    Link(&'static str, &'static str),
    /// Makes an empty directory a link.
    BecomesLink(&'static str, &'static str),
    /// Relies on this being a link.
    IsLink(&'static str),
    /// Diverts the first to the second, for this package.
    Divert(&'static str, &'static str, &'static str),
    /// Drops what [`Effect::Divert`] made.
    Undivert(&'static str),
    /// `update-alternatives --install`, the first of its name.
    Alternative(&'static Alternative),
    /// Loads the package's templates, then answers questions.
    Debconf(&'static [Answer]),
    /// `pam-auth-update` with the profiles of a new system.
    PamProfiles,
    /// Enables systemd timers.
    Timer(&'static str),
    /// `update-shells`.
    Shells,
    /// `ldconfig`.
    LoaderCache,
    /// Writes `arch-native` into dpkg's database.
    NativeArchitecture,
}

/// What effects work on.
struct Scene<'a> {
    root: &'a Root,
    architecture: Architecture,
    time: Timestamp,
    script: &'a Script<'a>,
}

/// Replays `script` if a rule for its digest exists and the root is as the rule expects; says
/// whether it did.
pub fn replay(
    root: &Root,
    architecture: Architecture,
    time: Timestamp,
    digest: &Digest,
    script: &Script<'_>,
) -> Result<bool, BootstrapError> {
    let Some(effects) = rules::find(&digest.to_string(), &script.args) else { return Ok(false) };
    let scene = Scene { root, architecture, time, script };
    for effect in effects {
        if !scene.is_as_expected(effect)? {
            return Ok(false);
        }
    }
    effects.iter().try_for_each(|effect| scene.apply(effect))?;
    Ok(true)
}

/// Whether a script of this digest was proven to do the same from outside, by `DPKG_ROOT`, for a
/// root of this architecture.
#[must_use]
pub fn runs_from_outside(architecture: Architecture, digest: &Digest) -> bool {
    let native = architecture == Architecture::native();
    // ldconfig leaves out the libraries of other architectures than its own.
    let is_for_natives =
        |effects: &[Effect]| effects.iter().any(|effect| matches!(effect, Effect::LoaderCache));
    rules::effects_of(&digest.to_string()).is_some_and(|effects| native || !is_for_natives(effects))
}

impl Scene<'_> {
    fn is_as_expected(&self, effect: &Effect) -> Result<bool, BootstrapError> {
        if tool_of(effect).is_some_and(|(package, versions)| !self.has_one_of(package, versions)) {
            return Ok(false);
        }
        match *effect {
            Effect::Without(path) => self.is_absent(path),
            Effect::Ships(package, path) => {
                let list = text_of(self.root, &format!("var/lib/dpkg/info/{package}.list"))?;
                Ok(list.lines().any(|line| line == path))
            }
            Effect::HasUser(user) => {
                let users = text_of(self.root, "etc/passwd")?;
                Ok(users.lines().any(|line| line.split(':').next() == Some(user)))
            }
            Effect::AccountsOfScript => accounts::can_be_made(self),
            Effect::ShadowAccounts => accounts::can_be_shadowed(self),
            Effect::Copy(from, to) => {
                let parent = to.rsplit_once('/').map_or("", |(parent, _)| parent);
                Ok(self.root.exists(from)? && self.root.exists(parent)?)
            }
            Effect::IsLink(path) => self.is_link(path),
            Effect::BecomesLink(path, _) => {
                Ok(self.is_link(path)? || (self.root.exists(path)? && self.root.list(path)?.is_empty()))
            }
            Effect::Directory(_, _, group) | Effect::Touch(_, _, group) => {
                Ok(accounts::group_id(self.root, group)?.is_some())
            }
            Effect::Alternative(alternative) => alternative.is_new(self.root),
            Effect::Debconf(answers) => debconf::can_answer(self.root, answers),
            Effect::PamProfiles => pam::is_new(self.root),
            Effect::Timer(unit) => timers::is_new(self.root, unit),
            Effect::LoaderCache => loader_cache::can_be_made(self.root, self.architecture),
            Effect::MasterAccounts
            | Effect::Text(..)
            | Effect::Remove(_)
            | Effect::Link(..)
            | Effect::Divert(..)
            | Effect::Undivert(_)
            | Effect::Shells
            | Effect::NativeArchitecture => Ok(true),
        }
    }

    fn apply(&self, effect: &Effect) -> Result<(), BootstrapError> {
        match *effect {
            Effect::Without(_) | Effect::IsLink(_) | Effect::Ships(..) | Effect::HasUser(_) => Ok(()),
            Effect::AccountsOfScript => accounts::make(self),
            Effect::MasterAccounts => accounts::make_missing(self.root),
            Effect::ShadowAccounts => accounts::shadow(self),
            Effect::Copy(from, to) => files::copy(self.root, from, to),
            Effect::Text(path, text) => Ok(self.root.write(path, text.as_bytes(), 0o644)?),
            Effect::Remove(path) if self.root.exists(path)? => Ok(self.root.remove_file(path)?),
            Effect::Remove(_) => Ok(()),
            Effect::Touch(path, mode, group) => files::touch(self.root, path, mode, group),
            Effect::Directory(path, mode, group) => files::make_directory(self.root, path, mode, group),
            Effect::BecomesLink(path, target) => files::become_link(self.root, path, target),
            Effect::Link(target, path) => files::link(self.root, target, path),
            Effect::Divert(path, to, package) => diversions::add(self.root, path, to, package),
            Effect::Undivert(path) => diversions::remove(self.root, path),
            Effect::Alternative(alternative) => alternative.install(self.root),
            Effect::Debconf(answers) => debconf::load_and_answer(self, answers),
            Effect::PamProfiles => pam::write(self.root),
            Effect::Timer(unit) => timers::enable(self.root, unit),
            Effect::Shells => shells::update(self.root),
            Effect::LoaderCache => loader_cache::write(self.root, self.architecture),
            Effect::NativeArchitecture => {
                let text = format!("{}\n", self.architecture);
                Ok(self.root.write("var/lib/dpkg/arch-native", text.as_bytes(), 0o644)?)
            }
        }
    }

    /// Whether a package is there in one of these versions, by how they begin.
    fn has_one_of(&self, package: &str, versions: &[&str]) -> bool {
        let is_it = |control: &Control| {
            control.name() == package && versions.iter().any(|start| control.version().starts_with(start))
        };
        self.script.packages.iter().any(|package| is_it(&package.control))
    }

    fn is_absent(&self, path: &str) -> Result<bool, BootstrapError> {
        Ok(!self.root.exists(path)?)
    }

    fn is_link(&self, path: &str) -> Result<bool, BootstrapError> {
        Ok(self.root.exists(path)? && self.root.lstat(path)?.kind == knarr_tree::unpack::Kind::Symlink)
    }
}

/// The package whose programs make an effect, and the versions that it was proven with: a script
/// may stay the same while these change.
const fn tool_of(effect: &Effect) -> Option<(&'static str, &'static [&'static str])> {
    match effect {
        Effect::Alternative(_) | Effect::Divert(..) | Effect::Undivert(_) => {
            Some(("dpkg", &["1.21.", "1.22.", "1.23."]))
        }
        Effect::Debconf(_) => Some(("debconf", &["1.5.82", "1.5.91", "1.5.92"])),
        // From 4.20 on, a minimum age of no days is written as nothing.
        Effect::ShadowAccounts => Some(("passwd", &["1:4.13+", "1:4.17."])),
        Effect::Timer(_) => Some(("init-system-helpers", &["1.65.", "1.69"])),
        Effect::PamProfiles => Some(("libpam-runtime", &["1.5.2-", "1.7.0-"])),
        Effect::LoaderCache => Some(("libc-bin", &["2.36-", "2.41-", "2.43-"])),
        Effect::Shells => Some(("debianutils", &["5.7-", "5.23", "5.24"])),
        _ => None,
    }
}

/// A file as text; empty when it is not there.
fn text_of(root: &Root, path: &str) -> Result<String, BootstrapError> {
    if !root.exists(path)? {
        return Ok(String::new());
    }
    Ok(String::from_utf8_lossy(&root.read(path)?).into_owned())
}
