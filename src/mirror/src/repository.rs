//! Repositories as apt writes them down: where packages come from, and who may sign them.
//!
//! [`load`] reads a file or a line as a user types it into [`Repository`] values. Every field that
//! changes what is trusted is either obeyed or refused with its line. Checking signatures is
//! [`crate::client::Mirror`]'s work, writing such files `bootstrap`'s.
//!
//! Spec: sources.list(5), both forms.

use std::path::{Path, PathBuf};

use knarr_base::{Architecture, near};
use knarr_deb::stanza::stanzas;
use knarr_pgp::Keyring;

use crate::MirrorError;
use crate::release::{ByHash, Source};
use crate::suite::builtin_keyrings;

/// One stanza or line: every address with every suite is a repository of its own, as for apt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// Name of its file in a root, without ending; several stanzas may share it.
    pub name: String,
    /// File and line, for messages.
    pub place: String,
    /// Base addresses.
    pub uris: Vec<String>,
    /// Names below `dists/`; one that ends in `/` is a directory of its own.
    pub suites: Vec<String>,
    /// Components; none where the suites are directories.
    pub components: Vec<String>,
    /// For which machines.
    pub architectures: Architectures,
    /// Who may sign.
    pub signed_by: SignedBy,
    /// How indices are asked for.
    pub by_hash: ByHash,
    /// It may be past its `Valid-Until`: `Check-Valid-Until: no`.
    pub ignore_valid_until: bool,
}

/// Which architectures a repository is used for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Architectures {
    /// These alone, when any is named.
    pub only: Vec<String>,
    /// And not these.
    pub without: Vec<String>,
}

/// The value of `Signed-By`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignedBy {
    /// Keyring files.
    pub files: Vec<PathBuf>,
    /// Only these keys of them; without files, of the keyrings that this machine has.
    pub fingerprints: Vec<String>,
    /// Keys that stand in the stanza itself.
    pub armoured: Option<String>,
}

/// What stands for a path where a line was typed.
const TYPED: &str = "";

/// Reads what was typed: a one-line entry, or the path of a `.sources` or `.list` file. Entries that
/// are switched off or of source packages only are left out.
pub fn load(word: &str) -> Result<Vec<Repository>, MirrorError> {
    if is_line(word) {
        return parse_lines(TYPED, word);
    }
    let text = std::fs::read_to_string(word)
        .map_err(|source| MirrorError::SourcesFile { path: word.into(), source })?;
    let deb822 =
        if word.ends_with(".list") { false } else { word.ends_with(".sources") || !has_lines(&text) };
    let found = if deb822 { parse_deb822(word, &text)? } else { parse_lines(word, &text)? };
    if found.is_empty() {
        return Err(bad(word, "it names no repository of binary packages that is enabled"));
    }
    Ok(found)
}

/// Whether a word is a one-line entry rather than a path or an address.
#[must_use]
pub fn is_line(word: &str) -> bool {
    let first = word.split(|c: char| c.is_ascii_whitespace() || c == '[').next().unwrap_or_default();
    first.len() < word.len() && matches!(first, "deb" | "deb-src")
}

/// Whether a word is what [`load`] reads, rather than an address.
#[must_use]
pub fn is_sources(word: &str) -> bool {
    let is_file = word.ends_with(".sources") || word.ends_with(".list");
    is_line(word) || (is_file && !word.contains("://"))
}

fn has_lines(text: &str) -> bool {
    text.lines().any(is_line)
}

/// Reads the text of a deb822 file.
pub fn parse_deb822(path: &str, text: &str) -> Result<Vec<Repository>, MirrorError> {
    let mut found = Vec::new();
    for stanza in stanzas(text.as_bytes()) {
        let stanza = stanza.map_err(|error| bad(path, &error.to_string()))?;
        let place = format!("{path}, line {}", stanza.line());
        let fields = stanza.fields().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let fields = Fields { place, base: directory_of(path), all: fields.collect() };
        found.extend(fields.repository(&name_of(path))?);
    }
    Ok(found)
}

/// Reads lines of the old form.
pub fn parse_lines(path: &str, text: &str) -> Result<Vec<Repository>, MirrorError> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split_once('#').map_or(line, |(line, _)| line).trim();
        if line.is_empty() {
            continue;
        }
        let place = if path == TYPED { format!("{line:?}") } else { format!("{path}, line {}", number + 1) };
        let fields = Fields::of_line(place, directory_of(path), line)?;
        let name = if path == TYPED { name_of_address(fields.get("URIs")) } else { name_of(path) };
        found.extend(fields.repository(&name)?);
    }
    Ok(found)
}

impl Repository {
    /// The keys that may sign; `fallback` where it does not say, `directories` are searched for fingerprints.
    pub fn keyring(&self, fallback: &Keyring, directories: &[PathBuf]) -> Result<Keyring, MirrorError> {
        let signed_by = &self.signed_by;
        if *signed_by == SignedBy::default() {
            return Ok(fallback.clone());
        }
        let mut keyring = Keyring::from_files(&signed_by.files)?;
        if let Some(text) = &signed_by.armoured {
            keyring.add_bytes(&format!("of {}", self.place), text.as_bytes())?;
        }
        if keyring.is_empty() {
            keyring = known_keys(directories);
        }
        signed_by.fingerprints.iter().try_for_each(|fingerprint| keyring.pin(fingerprint))?;
        if signed_by.fingerprints.is_empty() { Ok(keyring) } else { Ok(keyring.narrowed()?) }
    }

    /// Where to fetch from for an architecture: address by suite; nothing when it is for others.
    #[must_use]
    pub fn sources(&self, architecture: Architecture, keyring: &Keyring) -> Vec<Source> {
        if !self.architectures.include(architecture) {
            return Vec::new();
        }
        let fill = |text: &String| text.replace("$(ARCH)", architecture.name());
        let source = |uri: &String, suite: &String| Source {
            mirrors: vec![fill(uri)],
            suite: fill(suite),
            components: self.components.clone(),
            keyring: keyring.clone(),
            repository: self.name.clone(),
            by_hash: self.by_hash,
            ignore_valid_until: self.ignore_valid_until,
        };
        self.uris.iter().flat_map(|uri| self.suites.iter().map(move |suite| source(uri, suite))).collect()
    }
}

impl Architectures {
    fn include(&self, architecture: Architecture) -> bool {
        let names = |list: &[String]| list.iter().any(|name| name == architecture.name());
        (self.only.is_empty() || names(&self.only)) && !names(&self.without)
    }
}

/// Every key that this machine's apt knows or that comes with Knarr: of use with pins only.
fn known_keys(directories: &[PathBuf]) -> Keyring {
    let mut keyring = Keyring::default();
    // A file that is no keyring may lie there, too: whether the pinned key was found is checked later.
    for (name, bytes) in builtin_keyrings() {
        let _ = keyring.add_bytes(name, bytes);
    }
    let places = directories.iter().map(PathBuf::as_path).chain(KEY_DIRECTORIES.iter().map(Path::new));
    for file in places.filter_map(|place| std::fs::read_dir(place).ok()).flatten().flatten() {
        if file.path().extension().is_some_and(|ending| ending == "gpg" || ending == "asc") {
            let _ = keyring.add_file(&file.path());
        }
    }
    keyring
}

const KEY_DIRECTORIES: [&str; 3] = ["/etc/apt/trusted.gpg.d", "/etc/apt/keyrings", "/usr/share/keyrings"];

/// The fields of one entry, by their deb822 names.
struct Fields {
    place: String,
    /// What relative paths are relative to.
    base: PathBuf,
    all: Vec<(String, String)>,
}

impl Fields {
    /// `deb [option=value …] uri suite [component…]`.
    fn of_line(place: String, base: PathBuf, line: &str) -> Result<Self, MirrorError> {
        let (kind, rest) = line.split_at(line.find([' ', '\t', '[']).unwrap_or(line.len()));
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            None => ("", rest),
            Some(rest) => {
                rest.split_once(']').ok_or_else(|| bad(&place, "the [ of its options is never closed"))?
            }
        };
        let mut words = rest.split_ascii_whitespace();
        let mut all = vec![("Types".to_owned(), kind.to_owned())];
        all.extend(
            ["URIs", "Suites"].iter().filter_map(|name| Some(((*name).to_owned(), words.next()?.to_owned()))),
        );
        let components: Vec<&str> = words.collect();
        if !components.is_empty() {
            all.push(("Components".to_owned(), components.join(" ")));
        }
        for option in options.split_ascii_whitespace() {
            let (name, value) = option
                .split_once('=')
                .ok_or_else(|| bad(&place, &format!("its option {option:?} has no =")))?;
            all.push((long_name(name), value.to_owned()));
        }
        Ok(Self { place, base, all })
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.all.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Words between spaces, and between commas where apt allows both.
    fn words(&self, name: &str, commas: bool) -> Vec<String> {
        let value = self.get(name).unwrap_or_default();
        let words = value.split(|c: char| c.is_ascii_whitespace() || (commas && c == ','));
        words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, MirrorError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.to_ascii_lowercase().as_str() {
            "yes" | "true" | "with" | "on" | "enable" | "1" => Ok(Some(true)),
            "no" | "false" | "without" | "off" | "disable" | "0" => Ok(Some(false)),
            _ => Err(bad(&self.place, &format!("{name} is {value:?}: expected yes or no"))),
        }
    }

    /// Nothing when it is switched off, or has source packages only.
    fn repository(&self, name: &str) -> Result<Option<Repository>, MirrorError> {
        self.check_names()?;
        self.check_trust()?;
        if self.flag("Enabled")? == Some(false) || !self.has_binaries()? {
            return Ok(None);
        }
        let only = self.words("Architectures", true).into_iter().chain(self.words("Architectures-Add", true));
        let only = if self.get("Architectures").is_some() { only.collect() } else { Vec::new() };
        let repository = Repository {
            name: name.to_owned(),
            place: self.place.clone(),
            uris: self.uris()?,
            suites: self.needed("Suites")?,
            components: self.words("Components", false),
            architectures: Architectures { only, without: self.words("Architectures-Remove", true) },
            signed_by: self.signed_by()?,
            by_hash: self.by_hash()?,
            ignore_valid_until: self.flag("Check-Valid-Until")? == Some(false),
        };
        check_components(&repository)?;
        Ok(Some(repository))
    }

    /// A field that nobody knows may be one that was meant to keep somebody out.
    fn check_names(&self) -> Result<(), MirrorError> {
        let known = |name: &str| OBEYED.iter().chain(&IDLE).any(|known| known.eq_ignore_ascii_case(name));
        let private = |name: &str| name.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("X-"));
        let Some((name, _)) = self.all.iter().find(|(name, _)| !known(name) && !private(name)) else {
            return Ok(());
        };
        let close = near(name, OBEYED.iter().chain(&IDLE).copied());
        let hint = close.first().map(|close| format!("; perhaps {close} is meant")).unwrap_or_default();
        Err(bad(&self.place, &format!("it has the field {name}, which knarr does not know{hint}")))
    }

    fn check_trust(&self) -> Result<(), MirrorError> {
        if let Some(value) = self.get("Trusted") {
            let reason = "knarr checks every signature; name the keys with Signed-By instead";
            return Err(bad(&self.place, &format!("it says Trusted: {value}, which is refused: {reason}")));
        }
        for name in WEAKENING {
            if self.flag(name)? == Some(true) {
                return Err(bad(&self.place, &format!("it says {name}, which is refused")));
            }
        }
        Ok(())
    }

    fn has_binaries(&self) -> Result<bool, MirrorError> {
        let types = self.needed("Types")?;
        match types.iter().find(|kind| !matches!(kind.as_str(), "deb" | "deb-src")) {
            Some(other) => Err(bad(&self.place, &format!("its type is {other:?}: expected deb or deb-src"))),
            None => Ok(types.iter().any(|kind| kind == "deb")),
        }
    }

    fn needed(&self, name: &str) -> Result<Vec<String>, MirrorError> {
        let words = self.words(name, false);
        if words.is_empty() { Err(bad(&self.place, &format!("it has no {name}"))) } else { Ok(words) }
    }

    fn uris(&self) -> Result<Vec<String>, MirrorError> {
        let uris = self.needed("URIs")?;
        let usable =
            |uri: &String| ["http://", "https://", "file:/"].iter().any(|start| uri.starts_with(start));
        match uris.iter().find(|uri| !usable(uri)) {
            Some(uri) => Err(bad(
                &self.place,
                &format!("{uri} cannot be fetched: expected http://, https:// or file:/"),
            )),
            None => Ok(uris.iter().map(|uri| uri.trim_end_matches('/').to_owned()).collect()),
        }
    }

    fn by_hash(&self) -> Result<ByHash, MirrorError> {
        if self.get("By-Hash").is_some_and(|value| value.eq_ignore_ascii_case("force")) {
            return Ok(ByHash::Always);
        }
        Ok(if self.flag("By-Hash")? == Some(false) { ByHash::Never } else { ByHash::Promised })
    }

    fn signed_by(&self) -> Result<SignedBy, MirrorError> {
        let Some(value) = self.get("Signed-By") else { return Ok(SignedBy::default()) };
        if value.contains("-----BEGIN PGP") {
            return Ok(SignedBy { armoured: Some(unfold(value)), ..SignedBy::default() });
        }
        let words = self.words("Signed-By", true);
        if words.is_empty() {
            return Err(bad(&self.place, "its Signed-By is empty"));
        }
        let (files, fingerprints): (Vec<_>, Vec<_>) =
            words.into_iter().partition(|word| word.contains(['/', '.']));
        let files = files.into_iter().map(|file| self.base.join(file)).collect();
        Ok(SignedBy { files, fingerprints, armoured: None })
    }
}

/// Fields that are obeyed, or refused where their value asks for less safety.
const OBEYED: [&str; 16] = [
    "Types",
    "URIs",
    "Suites",
    "Components",
    "Architectures",
    "Architectures-Add",
    "Architectures-Remove",
    "Signed-By",
    "Enabled",
    "By-Hash",
    "Check-Valid-Until",
    "Trusted",
    "Allow-Insecure",
    "Allow-Weak",
    "Allow-Downgrade-To-Insecure",
    "Check-Date",
];

/// Fields that mean nothing to a bootstrap.
const IDLE: [&str; 10] = [
    "Languages",
    "Languages-Add",
    "Languages-Remove",
    "Targets",
    "PDiffs",
    "Description",
    "Date-Max-Future",
    "Valid-Until-Min",
    "Valid-Until-Max",
    "InRelease-Path",
];

const WEAKENING: [&str; 3] = ["Allow-Insecure", "Allow-Weak", "Allow-Downgrade-To-Insecure"];

/// The deb822 name of a one-line option.
fn long_name(option: &str) -> String {
    let (name, change) = match option.strip_suffix('+').or_else(|| option.strip_suffix('-')) {
        Some(name) => (name, if option.ends_with('+') { "-Add" } else { "-Remove" }),
        None => (option, ""),
    };
    let long = match name.to_ascii_lowercase().as_str() {
        "arch" => "Architectures".to_owned(),
        "lang" => "Languages".to_owned(),
        "target" => "Targets".to_owned(),
        other => OBEYED
            .iter()
            .chain(&IDLE)
            .find(|known| known.eq_ignore_ascii_case(other))
            .map_or_else(|| name.to_owned(), |known| (*known).to_owned()),
    };
    long + change
}

fn check_components(repository: &Repository) -> Result<(), MirrorError> {
    let (flat, named): (Vec<_>, Vec<_>) = repository.suites.iter().partition(|suite| suite.ends_with('/'));
    match (flat.first(), named.first()) {
        (Some(suite), _) if !repository.components.is_empty() => Err(bad(
            &repository.place,
            &format!("its suite {suite} is a directory, and a directory has no components"),
        )),
        (_, Some(suite)) if repository.components.is_empty() => Err(bad(
            &repository.place,
            &format!("it names no components of {suite}; a directory is written with a / at its end"),
        )),
        _ => Ok(()),
    }
}

/// A folded value as it was before: without the indent, and with its empty lines.
fn unfold(value: &str) -> String {
    let lines = value.lines().filter(|line| !line.starts_with('#')).map(str::trim);
    lines.map(|line| if line == "." { "\n".to_owned() } else { format!("{line}\n") }).collect()
}

fn directory_of(path: &str) -> PathBuf {
    Path::new(path).parent().unwrap_or_else(|| Path::new("")).to_owned()
}

/// What apt allows in names of its files.
fn name_of(path: &str) -> String {
    let stem = Path::new(path).file_stem().unwrap_or_default().to_string_lossy();
    stem.chars().map(|c| if c.is_ascii_alphanumeric() || "_-.".contains(c) { c } else { '_' }).collect()
}

fn name_of_address(uris: Option<&str>) -> String {
    let uri = uris.unwrap_or_default();
    let bare = uri.split_once(':').map_or(uri, |(_, rest)| rest).trim_matches('/');
    bare.chars().map(|c| if c.is_ascii_alphanumeric() || "-.".contains(c) { c } else { '_' }).collect()
}

fn bad(place: &str, reason: &str) -> MirrorError {
    MirrorError::BadSources { place: place.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests;
