//! The dpkg database: `status`, `info/*`, `triggers/*` and what else lies beside them.
//!
//! Everything here turns packages into the text that dpkg itself would have written; see
//! [`status_text`]. Writing it into the root is [`crate::configure`]'s.
//!
//! Spec: dpkg(1) "FILES", deb-triggers(5); the field order is that of dpkg's own writer.

use std::fmt::Write;

use knarr_deb::conffiles::parse_conffiles;
use knarr_deb::relation::parse_relations;
use knarr_deb::triggers::{Trigger, parse_triggers};
use knarr_tree::root::Root;
use knarr_tree::unpack::Kind;
use md5::{Digest as _, Md5};

use crate::BootstrapError;
use crate::package::{Conffile, Control, Package, State};

/// Where the database lies in the root.
pub const ADMIN_DIR: &str = "var/lib/dpkg";

/// Creates what every database has before the first package: directories, `info/format`, `arch`.
pub fn create(root: &Root, architecture: &str) -> Result<(), BootstrapError> {
    for directory in ["alternatives", "info", "parts", "triggers", "updates"] {
        root.create_dir_all(&format!("{ADMIN_DIR}/{directory}"), 0o755)?;
    }
    root.write(&format!("{ADMIN_DIR}/info/format"), b"1\n", 0o644)?;
    root.write(&format!("{ADMIN_DIR}/status"), b"", 0o644)?;
    root.write(&format!("{ADMIN_DIR}/arch"), format!("{architecture}\n").as_bytes(), 0o644)?;
    root.write(&format!("{ADMIN_DIR}/triggers/Unincorp"), b"", 0o644)?;
    for lock in ["lock", "lock-frontend", "triggers/Lock"] {
        root.write(&format!("{ADMIN_DIR}/{lock}"), b"", if lock == "triggers/Lock" { 0o600 } else { 0o640 })?;
    }
    Ok(())
}

/// Writes `status` as the packages stand now.
pub fn write_status(root: &Root, packages: &[Package]) -> Result<(), BootstrapError> {
    Ok(root.write(&format!("{ADMIN_DIR}/status"), status_text(packages)?.as_bytes(), 0o644)?)
}

/// Writes the package's files in `info/`.
pub fn write_info(root: &Root, package: &Package) -> Result<(), BootstrapError> {
    let stem = format!("{ADMIN_DIR}/info/{}", package.control.info_name());
    for file in &package.control.files {
        let mode = if SCRIPTS.contains(&file.name.as_str()) { 0o755 } else { 0o644 };
        root.write(&format!("{stem}.{}", file.name), &file.bytes, mode)?;
    }
    if package.control.file("md5sums").is_none() {
        let text = sums_text(root, package)?;
        root.write(&format!("{stem}.md5sums"), text.as_bytes(), 0o644)?;
    }
    write_list(root, package)
}

/// Writes `info/NAME.list`.
pub fn write_list(root: &Root, package: &Package) -> Result<(), BootstrapError> {
    let path = format!("{ADMIN_DIR}/info/{}.list", package.control.info_name());
    Ok(root.write(&path, list_text(package).as_bytes(), 0o644)?)
}

/// Writes `triggers/File` and the files of explicit triggers.
pub fn write_interests(root: &Root, interests: &Interests) -> Result<(), BootstrapError> {
    root.write(&format!("{ADMIN_DIR}/triggers/File"), interests.file_text().as_bytes(), 0o644)?;
    for (name, text) in interests.explicit_texts() {
        root.write(&format!("{ADMIN_DIR}/triggers/{name}"), text.as_bytes(), 0o644)?;
    }
    Ok(())
}

/// The package's conffiles with the sums of what was just unpacked.
pub fn conffiles(root: &Root, control: &Control) -> Result<Vec<Conffile>, BootstrapError> {
    let Some(bytes) = control.file("conffiles") else { return Ok(Vec::new()) };
    let mut conffiles = Vec::new();
    for declared in parse_conffiles(bytes)? {
        let shipped = !declared.remove_on_upgrade && root.exists(&declared.path)?;
        let md5 = if shipped { md5_hex(&root.read(&declared.path)?) } else { "newconffile".to_owned() };
        conffiles.push(Conffile { path: declared.path, md5, remove_on_upgrade: declared.remove_on_upgrade });
    }
    Ok(conffiles)
}

fn sums_text(root: &Root, package: &Package) -> Result<String, BootstrapError> {
    let mut text = String::new();
    let is_conffile =
        |path: &str| package.conffiles.iter().any(|conffile| conffile.path.trim_start_matches('/') == path);
    for entry in package.entries.iter().filter(|entry| entry.kind == Kind::File && !is_conffile(&entry.path))
    {
        // A path filter may have left it out.
        if root.exists(&entry.path)? {
            let _ = writeln!(text, "{}  {}", md5_hex(&root.read(&entry.path)?), entry.path);
        }
    }
    Ok(text)
}

fn md5_hex(bytes: &[u8]) -> String {
    Md5::digest(bytes).iter().fold(String::with_capacity(32), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Control files that are programs.
pub const SCRIPTS: [&str; 5] = ["preinst", "postinst", "prerm", "postrm", "config"];

/// The text of `/var/lib/dpkg/status`. Packages are ordered by name, then architecture.
pub fn status_text(packages: &[Package]) -> Result<String, BootstrapError> {
    let mut sorted: Vec<&Package> =
        packages.iter().filter(|package| package.state != State::Deferred).collect();
    sorted.sort_by_key(|package| (package.control.name(), package.control.architecture()));
    let mut text = String::with_capacity(packages.len() * 1024);
    for package in sorted {
        write_stanza(&mut text, package)?;
        text.push('\n');
    }
    Ok(text)
}

/// The text of `info/NAME.list`: every path of the package, with `/.` for the root.
#[must_use]
pub fn list_text(package: &Package) -> String {
    let mut text = String::with_capacity(package.entries.len() * 40);
    for entry in package.entries.iter().filter(|entry| !package.lost.contains(&entry.path)) {
        text.push('/');
        text.push_str(if entry.path.is_empty() { "." } else { &entry.path });
        text.push('\n');
    }
    text
}

/// What `triggers/File` and the files named after explicit triggers hold.
#[derive(Debug, Default)]
pub struct Interests {
    /// `(trigger, package, noawait)`, in the order of packages and their files.
    pub all: Vec<(String, String, bool)>,
}

impl Interests {
    /// Collects the interests of `packages`.
    pub fn of<'a>(packages: impl Iterator<Item = &'a Control>) -> Result<Self, BootstrapError> {
        let mut all = Vec::new();
        for control in packages {
            for trigger in declared(control)? {
                if let Trigger::Interest { name, noawait } = trigger {
                    all.push((name, control.info_name(), noawait));
                }
            }
        }
        all.sort();
        Ok(Self { all })
    }

    /// The text of `triggers/File`.
    #[must_use]
    pub fn file_text(&self) -> String {
        self.all.iter().filter(|(name, ..)| name.starts_with('/')).fold(
            String::new(),
            |mut text, (name, package, noawait)| {
                let _ = writeln!(text, "{name} {package}{}", suffix(*noawait));
                text
            },
        )
    }

    /// Names of explicit triggers with the text of the file that bears the name.
    #[must_use]
    pub fn explicit_texts(&self) -> Vec<(&str, String)> {
        let mut texts: Vec<(&str, String)> = Vec::new();
        for (name, package, noawait) in self.all.iter().filter(|(name, ..)| !name.starts_with('/')) {
            let line = format!("{package}{}\n", suffix(*noawait));
            match texts.last_mut() {
                Some((last, text)) if last == name => text.push_str(&line),
                _ => texts.push((name, line)),
            }
        }
        texts
    }

    /// Packages (by `info_name`) interested in the explicit trigger `name`.
    pub fn interested<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.all.iter().filter(move |(trigger, ..)| trigger == name).map(|(_, package, _)| package.as_str())
    }

    /// `(trigger, package)` for each interest in a directory that holds `path` (without leading `/`).
    pub fn interested_in_path<'a>(&'a self, path: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let covers = move |trigger: &str| {
            let rest = trigger.strip_prefix('/').and_then(|trigger| path.strip_prefix(trigger));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.all.iter().filter(move |(trigger, ..)| covers(trigger)).map(|(t, p, _)| (t.as_str(), p.as_str()))
    }
}

/// What the package's `triggers` file declares.
pub fn declared(control: &Control) -> Result<Vec<Trigger>, BootstrapError> {
    control.file("triggers").map_or_else(|| Ok(Vec::new()), |bytes| Ok(parse_triggers(bytes)?))
}

const fn suffix(noawait: bool) -> &'static str {
    if noawait { "/noawait" } else { "" }
}

fn write_stanza(text: &mut String, package: &Package) -> Result<(), BootstrapError> {
    let control = &package.control;
    for field in LEADING {
        match *field {
            "Status" => text.push_str(status_line(package.state)),
            "Config-Version" | "Triggers-Pending" => {}
            "Conffiles" => write_conffiles(text, package),
            _ if RELATIONS.contains(field) => write_relation(text, control, field)?,
            _ => write_field(text, field, control.field(field)),
        }
    }
    let known = |name: &str| LEADING.iter().any(|field| field.eq_ignore_ascii_case(name));
    for (name, value) in control.fields().filter(|(name, _)| !known(name)) {
        write_field(text, name, value);
    }
    Ok(())
}

const fn status_line(state: State) -> &'static str {
    match state {
        State::Deferred => "Status: install ok not-installed\n",
        State::Unpacked => "Status: install ok unpacked\n",
        State::Installed => "Status: install ok installed\n",
    }
}

fn write_field(text: &mut String, name: &str, value: &str) {
    let absent =
        value.is_empty() || (matches!(name, "Essential" | "Protected" | "Multi-Arch") && value == "no");
    if !absent {
        let _ = writeln!(text, "{name}: {}", value.trim_end());
    }
}

fn write_conffiles(text: &mut String, package: &Package) {
    if package.conffiles.is_empty() {
        return;
    }
    text.push_str("Conffiles:\n");
    for conffile in &package.conffiles {
        let flag = if conffile.remove_on_upgrade { " remove-on-upgrade" } else { "" };
        let _ = writeln!(text, " {} {}{flag}", conffile.path, conffile.md5);
    }
}

/// dpkg writes relations in its own spacing, whatever the package's author typed.
fn write_relation(text: &mut String, control: &Control, field: &str) -> Result<(), BootstrapError> {
    let groups = parse_relations(control.field(field))?;
    if groups.is_empty() {
        return Ok(());
    }
    let groups: Vec<String> = groups
        .iter()
        .map(|group| group.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | "))
        .collect();
    let _ = writeln!(text, "{field}: {}", groups.join(", "));
    Ok(())
}

const RELATIONS: &[&str] = &[
    "Replaces",
    "Provides",
    "Depends",
    "Pre-Depends",
    "Recommends",
    "Suggests",
    "Breaks",
    "Conflicts",
    "Enhances",
];

const LEADING: &[&str] = &[
    "Package",
    "Essential",
    "Protected",
    "Status",
    "Priority",
    "Section",
    "Installed-Size",
    "Origin",
    "Maintainer",
    "Bugs",
    "Architecture",
    "Multi-Arch",
    "Source",
    "Version",
    "Config-Version",
    "Replaces",
    "Provides",
    "Depends",
    "Pre-Depends",
    "Recommends",
    "Suggests",
    "Breaks",
    "Conflicts",
    "Enhances",
    "Conffiles",
    "Description",
    "Triggers-Pending",
];
