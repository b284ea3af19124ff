//! Leases: what somebody uses stays, named or not.
//!
//! An engine [`hold`]s the image of each of its containers. A lease is a file in `leases/` with the descriptors that
//! [`crate::gc`] takes for reached.

use std::fs;
use std::io::{self, Write};

use knarr_oci::Descriptor;

use crate::store::{fail, set_public};
use crate::{Store, StoreError};

const DIRECTORY: &str = "leases";

/// Keeps what these descriptors reach, until the lease is released.
pub fn hold(store: &Store, name: &str, descriptors: &[Descriptor]) -> Result<(), StoreError> {
    check(name)?;
    let directory = store.path().join(DIRECTORY);
    fs::create_dir_all(&directory).map_err(fail("create", &directory))?;
    let path = directory.join(name);
    let error = fail("write", &path);
    let bytes = serde_json::to_vec(descriptors).map_err(io::Error::from).map_err(&error)?;
    let mut file = tempfile::NamedTempFile::new_in(store.path().join("tmp")).map_err(&error)?;
    file.write_all(&bytes).and_then(|()| set_public(file.as_file())).map_err(&error)?;
    file.persist(&path).map_err(|persist| error(persist.error))?;
    Ok(())
}

/// Lets it go. A lease that is not there is no error.
pub fn release(store: &Store, name: &str) -> Result<(), StoreError> {
    check(name)?;
    let path = store.path().join(DIRECTORY).join(name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fail("remove", &path)(error)),
        _ => Ok(()),
    }
}

/// All that is held.
pub fn held(store: &Store) -> Result<Vec<Descriptor>, StoreError> {
    let directory = store.path().join(DIRECTORY);
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(fail("read", &directory))?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.map_err(fail("read", &directory))?.path();
        let bytes = match fs::read(&path) {
            // It was released just now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(fail("read", &path))?,
        };
        let held: Vec<Descriptor> =
            serde_json::from_slice(&bytes).map_err(|error| StoreError::NotAStore {
                path: path.clone(),
                reason: format!("a lease cannot be read: {error}; remove the file if nothing uses the image"),
            })?;
        all.extend(held);
    }
    Ok(all)
}

/// A name becomes a file's name.
fn check(name: &str) -> Result<(), StoreError> {
    let good =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if good { Ok(()) } else { Err(StoreError::Request(format!("{name:?} is no name for a lease"))) }
}

#[cfg(test)]
mod tests {
    use knarr_oci::{Descriptor, media_type};

    use super::{held, hold, release};
    use crate::gc::{Which, prune};
    use crate::{Store, StoreError};

    #[test]
    fn what_is_held_survives_until_it_is_released() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let blob = store.ingest().unwrap().put(media_type::CONFIG, b"{}").unwrap();
        hold(&store, "holder", std::slice::from_ref(&blob)).unwrap();
        assert_eq!(held(&store).unwrap(), std::slice::from_ref(&blob));
        prune(&store, Which::All, true).unwrap();
        assert!(store.has(&blob));
        release(&store, "holder").unwrap();
        release(&store, "holder").unwrap();
        prune(&store, Which::All, true).unwrap();
        assert!(!store.has(&blob));
    }

    #[test]
    fn what_is_gone_holds_nothing_and_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        hold(&store, "a", &[Descriptor::of(media_type::MANIFEST, b"gone")]).unwrap();
        assert!(prune(&store, Which::None, true).unwrap().is_some());
        for holder in ["", "../a", "a/b"] {
            assert!(matches!(hold(&store, holder, &[]), Err(StoreError::Request(_))), "{holder}");
        }
    }
}
