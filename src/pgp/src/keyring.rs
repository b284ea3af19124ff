//! The keys that may sign.

use std::path::{Path, PathBuf};

use crate::{PgpError, armor, verify};

/// Public keys in binary form, and perhaps which of them count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyring {
    pub(crate) keys: Vec<u8>,
    pub(crate) pinned: Vec<String>,
}

impl Keyring {
    /// The keys of files, binary or armoured.
    pub fn from_files(paths: &[PathBuf]) -> Result<Self, PgpError> {
        let mut keyring = Self::default();
        paths.iter().try_for_each(|path| keyring.add_file(path))?;
        Ok(keyring)
    }

    /// The keys of a file's bytes; `name` is shown when they are damaged.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self, PgpError> {
        let mut keyring = Self::default();
        keyring.add_bytes(name, bytes)?;
        Ok(keyring)
    }

    /// Adds the keys of a file's bytes, binary or armoured; `name` is shown when they are damaged.
    pub fn add_bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), PgpError> {
        self.keys.extend(armor::keys(name, bytes)?);
        Ok(())
    }

    /// Adds the keys of a file.
    pub fn add_file(&mut self, path: &Path) -> Result<(), PgpError> {
        let bytes =
            std::fs::read(path).map_err(|source| PgpError::Keyring { path: path.to_owned(), source })?;
        self.add_bytes(&path.display().to_string(), &bytes)
    }

    /// From now on only pinned keys count: this one, by its fingerprint or that of its primary key. A `!`
    /// at the end means this very key, as it does for apt.
    pub fn pin(&mut self, fingerprint: &str) -> Result<(), PgpError> {
        let digits: String = fingerprint.chars().filter(|digit| !digit.is_ascii_whitespace()).collect();
        let digits = digits.trim_start_matches("0x").to_ascii_uppercase();
        let (digits, exact) = digits.strip_suffix('!').map_or((digits.as_str(), ""), |digits| (digits, "!"));
        // Version 4 and version 6 keys; shorter names of keys can be forged.
        if !matches!(digits.len(), 40 | 64) || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(PgpError::BadFingerprint { found: fingerprint.chars().take(100).collect() });
        }
        self.pinned.push(format!("{digits}{exact}"));
        Ok(())
    }

    /// The fingerprints that are pinned.
    #[must_use]
    pub fn pinned(&self) -> &[String] {
        &self.pinned
    }

    /// The same pins, and no keys but those that are pinned; each of them must be there.
    pub fn narrowed(&self) -> Result<Self, PgpError> {
        Ok(Self { keys: verify::export(self, &self.pinned)?, pinned: self.pinned.clone() })
    }

    /// Whether it holds no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys in binary form, as apt's `.gpg` files have them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.keys
    }
}
