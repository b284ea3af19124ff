//! One package on its way into the root filesystem.
//!
//! [`Control`] is what its .deb says of it; [`Package`] adds what was unpacked and how far it is.

use knarr_deb::package_file::ControlFile;
use knarr_deb::stanza;
use knarr_tree::unpack::Entry;

use crate::BootstrapError;

/// The control data of a .deb.
#[derive(Debug, Clone)]
pub struct Control {
    fields: Vec<(String, String)>,
    /// Maintainer scripts and the other files beside `control`.
    pub files: Vec<ControlFile>,
}

impl Control {
    /// Parses the `control` file's text, which must be one stanza.
    pub fn parse(text: &str, files: Vec<ControlFile>) -> Result<Self, BootstrapError> {
        let mut stanzas = stanza::stanzas(text.as_bytes());
        let stanza = stanzas.next().ok_or(BootstrapError::EmptyControl)??;
        let fields: Vec<_> =
            stanza.fields().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let control = Self { fields, files };
        match ["Package", "Version", "Architecture"].iter().find(|field| control.field(field).is_empty()) {
            Some(field) => Err(BootstrapError::MissingControlField { field: (*field).to_owned() }),
            None => Ok(control),
        }
    }

    /// The value of a field, empty when it is absent.
    #[must_use]
    pub fn field(&self, name: &str) -> &str {
        let found = self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value.as_str())
    }

    /// All fields in the file's order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The package's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.field("Package")
    }

    /// The package's architecture, `all` included.
    #[must_use]
    pub fn architecture(&self) -> &str {
        self.field("Architecture")
    }

    /// The package's version.
    #[must_use]
    pub fn version(&self) -> &str {
        self.field("Version")
    }

    /// Whether several architectures of it may be installed side by side.
    #[must_use]
    pub fn is_multi_arch_same(&self) -> bool {
        self.field("Multi-Arch") == "same"
    }

    /// The stem of its files in `/var/lib/dpkg/info`: the name, with `:arch` for `Multi-Arch: same`.
    #[must_use]
    pub fn info_name(&self) -> String {
        if self.is_multi_arch_same() {
            format!("{}:{}", self.name(), self.architecture())
        } else {
            self.name().to_owned()
        }
    }

    /// The bytes of a file beside `control`.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.iter().find(|file| file.name == name).map(|file| file.bytes.as_slice())
    }
}

/// How far a package is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Its files wait for its preinst.
    Deferred,
    /// Its files are there.
    Unpacked,
    /// Its postinst ran.
    Installed,
}

/// A package, its files and its state.
#[derive(Debug)]
pub struct Package {
    /// What its .deb says of it.
    pub control: Control,
    /// The entries of its data member, in the archive's order.
    pub entries: Vec<Entry>,
    /// Paths of its own that another package took over (`Replaces`).
    pub lost: Vec<String>,
    /// How far it is.
    pub state: State,
    /// Member of the closure of the essential packages.
    pub base: bool,
    /// MD5 sums of its conffiles as shipped: path (with `/`), hexadecimal sum.
    pub conffiles: Vec<Conffile>,
    /// Triggers that wait for its postinst.
    pub pending_triggers: Vec<String>,
}

/// A configuration file as dpkg remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conffile {
    /// Absolute path.
    pub path: String,
    /// MD5 of the file as shipped, or `newconffile`.
    pub md5: String,
    /// The next version will drop it.
    pub remove_on_upgrade: bool,
}
