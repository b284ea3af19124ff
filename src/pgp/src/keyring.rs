//! The keys that may sign.

use std::path::Path;

use crate::{PgpError, armor};

/// Public keys in binary form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyring {
    pub(crate) keys: Vec<u8>,
}

impl Keyring {
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
