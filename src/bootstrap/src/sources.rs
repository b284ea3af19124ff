//! The apt sources of the finished root: the mirrors that it was made from, in deb822.
//!
//! [`write`] puts the suite's own into one file and each repository into its own, with the keys
//! that they were checked against. [`deb822`] is the text of such a file.
//!
//! Spec: sources.list(5), "DEB822-STYLE FORMAT".

use std::collections::BTreeMap;
use std::fmt::Write;

use knarr_mirror::release::ByHash;
use knarr_mirror::repository::{Repository, SignedBy};
use knarr_pgp::Keyring;
use knarr_tree::root::Root;

use crate::lock::{Lock, LockedRelease};
use crate::options::Options;
use crate::{BootstrapError, plan};

/// One stanza to write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AptSource {
    /// Base addresses.
    pub mirrors: Vec<String>,
    /// Suites that these addresses, components and keys serve.
    pub suites: Vec<String>,
    /// Components.
    pub components: Vec<String>,
    /// Where the keyring lies in the root, and fingerprints; empty leaves the choice to apt.
    pub signed_by: String,
    /// Whatever else it says.
    pub fields: Vec<(&'static str, String)>,
}

/// Writes all of them.
pub fn write(options: &Options, lock: &Lock, root: &Root) -> Result<(), BootstrapError> {
    root.create_dir_all("etc/apt/sources.list.d", 0o755)?;
    let suite_keys = suite_keys(options, root)?;
    let own = lock.releases.iter().filter(|release| release.repository.is_empty());
    let own: Vec<AptSource> = own.map(|release| of_release(release, &suite_keys)).collect();
    if !own.is_empty() {
        write_file(root, &options.suite.distribution, &own)?;
    }
    let mut files: BTreeMap<&str, Vec<AptSource>> = BTreeMap::new();
    let mut keys = Keys { root, options, written: Vec::new() };
    for repository in &options.repositories {
        let signed_by = keys.signed_by(repository, &suite_keys)?;
        files.entry(&repository.name).or_default().push(of_repository(repository, signed_by));
    }
    files.iter().try_for_each(|(name, stanzas)| write_file(root, name, stanzas))
}

fn write_file(root: &Root, name: &str, stanzas: &[AptSource]) -> Result<(), BootstrapError> {
    let path = format!("etc/apt/sources.list.d/{name}.sources");
    Ok(root.write(&path, deb822(stanzas).as_bytes(), 0o644)?)
}

/// Where the suite's own keys lie in the root; empty when they lie nowhere.
fn suite_keys(options: &Options, root: &Root) -> Result<String, BootstrapError> {
    let signed_by = &options.suite.signed_by;
    if options.keyrings.is_empty() {
        let there = !signed_by.is_empty() && root.exists(signed_by)?;
        return Ok(if there { signed_by.clone() } else { String::new() });
    }
    write_keyring(root, "knarr", &plan::keyring(options)?)
}

fn write_keyring(root: &Root, name: &str, keyring: &Keyring) -> Result<String, BootstrapError> {
    root.create_dir_all("etc/apt/keyrings", 0o755)?;
    root.write(&format!("etc/apt/keyrings/{name}.gpg"), keyring.as_bytes(), 0o644)?;
    Ok(format!("/etc/apt/keyrings/{name}.gpg"))
}

/// The keyrings of repositories: one file for each `Signed-By`, however many stanzas share it.
struct Keys<'a> {
    root: &'a Root,
    options: &'a Options,
    written: Vec<(&'a SignedBy, String, String)>,
}

impl<'a> Keys<'a> {
    fn signed_by(&mut self, repository: &'a Repository, suite: &str) -> Result<String, BootstrapError> {
        let signed_by = &repository.signed_by;
        if *signed_by == SignedBy::default() {
            return Ok(suite.to_owned());
        }
        if let Some((_, _, value)) = self.written.iter().find(|(known, ..)| *known == signed_by) {
            return Ok(value.clone());
        }
        let mut value = self.place(repository)?;
        for fingerprint in &signed_by.fingerprints {
            let _ = write!(value, " {fingerprint}");
        }
        self.written.push((signed_by, repository.name.clone(), value.clone()));
        Ok(value)
    }

    /// A keyring that a package has put there stays that package's to update.
    fn place(&self, repository: &Repository) -> Result<String, BootstrapError> {
        if let [file] = repository.signed_by.files.as_slice()
            && let Some(path) = file.to_str().filter(|path| path.starts_with("/usr/"))
            && self.root.exists(path)?
        {
            return Ok(path.to_owned());
        }
        let keyring = repository.keyring(&Keyring::default(), &self.options.key_directories)?;
        let before = self.written.iter().filter(|(_, name, _)| *name == repository.name).count();
        let number = if before == 0 { String::new() } else { format!("-{}", before + 1) };
        write_keyring(self.root, &format!("{}{number}", repository.name), &keyring)
    }
}

fn of_release(release: &LockedRelease, signed_by: &str) -> AptSource {
    AptSource {
        mirrors: release.mirrors.clone(),
        suites: vec![release.suite.clone()],
        components: release.components.clone(),
        signed_by: signed_by.to_owned(),
        fields: Vec::new(),
    }
}

fn of_repository(repository: &Repository, signed_by: String) -> AptSource {
    let mut fields = Vec::new();
    let architectures = &repository.architectures;
    if !architectures.only.is_empty() {
        fields.push(("Architectures", architectures.only.join(" ")));
    }
    if !architectures.without.is_empty() {
        fields.push(("Architectures-Remove", architectures.without.join(" ")));
    }
    match repository.by_hash {
        ByHash::Promised => {}
        ByHash::Always => fields.push(("By-Hash", "force".to_owned())),
        ByHash::Never => fields.push(("By-Hash", "no".to_owned())),
    }
    if repository.ignore_valid_until {
        fields.push(("Check-Valid-Until", "no".to_owned()));
    }
    AptSource {
        mirrors: repository.uris.clone(),
        suites: repository.suites.clone(),
        components: repository.components.clone(),
        signed_by,
        fields,
    }
}

/// Merges sources that differ in the suite only, and writes all as deb822.
#[must_use]
pub fn deb822(sources: &[AptSource]) -> String {
    let mut merged: Vec<AptSource> = Vec::new();
    for source in sources {
        let same = |other: &&mut AptSource| {
            (&other.mirrors, &other.components, &other.signed_by, &other.fields)
                == (&source.mirrors, &source.components, &source.signed_by, &source.fields)
        };
        match merged.iter_mut().find(same) {
            Some(other) => other.suites.extend(source.suites.iter().cloned()),
            None => merged.push(source.clone()),
        }
    }
    merged.iter().map(stanza).collect::<Vec<_>>().join("\n")
}

fn stanza(source: &AptSource) -> String {
    let mut text = String::from("Types: deb\n");
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "{name}: {value}");
        }
    };
    line("URIs", &source.mirrors.join(" "));
    line("Suites", &source.suites.join(" "));
    line("Components", &source.components.join(" "));
    source.fields.iter().for_each(|(name, value)| line(name, value));
    line("Signed-By", &source.signed_by);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_that_differ_in_the_suite_only_are_merged() {
        let one = |suite: &str, fields: &[(&'static str, &str)]| AptSource {
            mirrors: vec!["http://x".to_owned()],
            suites: vec![suite.to_owned()],
            components: vec!["main".to_owned()],
            signed_by: "/k.gpg".to_owned(),
            fields: fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
        };
        let text = deb822(&[one("a", &[]), one("b", &[]), one("c", &[("By-Hash", "no")])]);
        let head = "Types: deb\nURIs: http://x\nSuites:";
        let (end, with) =
            ("Components: main\nSigned-By: /k.gpg\n", "Components: main\nBy-Hash: no\nSigned-By: /k.gpg\n");
        assert_eq!(text, format!("{head} a b\n{end}\n{head} c\n{with}"));
    }
}
