//! The layout: where blobs lie, and which names there are.
//!
//! [`Store::open`] opens or makes one. `index.json` is the only file that changes, under a lock, by rename.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use knarr_base::{Digest, near};
use knarr_oci::{Descriptor, ImageIndex, Platform, Reference, annotation, media_type};

use crate::StoreError;
use crate::image::Image;
use crate::ingest::Ingest;

/// Images on this machine.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

/// An image that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its manifest or index.
    pub descriptor: Descriptor,
    /// The name that it was found by; without one it was found by its digest.
    pub name: Option<String>,
}

/// The index may hold this many bytes: some 40,000 names.
const MAX_INDEX_BYTES: u64 = 16 << 20;
const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

impl Store {
    /// Opens the store in a directory, which is made when it is not there.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let store = Self { path: path.to_owned() };
        let layout = path.join("oci-layout");
        match fs::read_to_string(&layout) {
            Ok(text) if text.contains("\"imageLayoutVersion\"") => {}
            Ok(_) => {
                return Err(StoreError::NotAStore {
                    path: path.to_owned(),
                    reason: "its oci-layout names no imageLayoutVersion".to_owned(),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => store.create()?,
            Err(source) => return Err(StoreError::File { doing: "read", path: layout, source }),
        }
        for directory in ["blobs/sha256", "tmp", "layers"] {
            let path = store.path.join(directory);
            fs::create_dir_all(&path).map_err(fail("create", &path))?;
        }
        Ok(store)
    }

    /// A new layout. Two processes that make one at once write the same bytes.
    fn create(&self) -> Result<(), StoreError> {
        fs::create_dir_all(&self.path).map_err(fail("create", &self.path))?;
        let foreign = fs::read_dir(&self.path)
            .map_err(fail("read", &self.path))?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .find(|name| {
                !matches!(
                    name.as_str(),
                    "index.json" | "blobs" | "tmp" | "layers" | "leases" | ".lock" | ".index.lock"
                )
            });
        if let Some(name) = foreign {
            return Err(StoreError::NotAStore {
                path: self.path.clone(),
                reason: format!("it has no oci-layout, and holds {name}"),
            });
        }
        let tmp = self.path.join("tmp");
        fs::create_dir_all(&tmp).map_err(fail("create", &tmp))?;
        if !self.path.join("index.json").exists() {
            self.replace("index.json", &ImageIndex::of(Vec::new()).to_bytes())?;
        }
        self.replace("oci-layout", LAYOUT.as_bytes())
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a blob lies, whether it is there or not.
    #[must_use]
    pub fn blob_path(&self, digest: Digest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }

    /// The size of a blob that is there.
    #[must_use]
    pub fn blob_size(&self, digest: Digest) -> Option<u64> {
        fs::metadata(self.blob_path(digest)).ok().filter(fs::Metadata::is_file).map(|meta| meta.len())
    }

    /// Whether a blob is there with the size that its descriptor promises.
    #[must_use]
    pub fn has(&self, descriptor: &Descriptor) -> bool {
        self.blob_size(descriptor.digest) == Some(descriptor.size)
    }

    /// Opens a blob for reading.
    pub fn open_blob(&self, digest: Digest) -> Result<File, StoreError> {
        let path = self.blob_path(digest);
        File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => StoreError::MissingBlob { what: "blob".to_owned(), digest },
            _ => StoreError::File { doing: "open", path, source },
        })
    }

    /// The content of a small blob, checked against its descriptor.
    pub fn read(&self, descriptor: &Descriptor, limit_bytes: u64) -> Result<Vec<u8>, StoreError> {
        let digest = descriptor.digest;
        let mut bytes = Vec::new();
        let file = self.open_blob(digest)?;
        let size_bytes = file.metadata().map_err(fail("read", &self.blob_path(digest)))?.len();
        if size_bytes > limit_bytes {
            return Err(StoreError::TooLarge { digest, size_bytes, limit_bytes });
        }
        let mut file = file.take(limit_bytes);
        file.read_to_end(&mut bytes).map_err(fail("read", &self.blob_path(digest)))?;
        let found = Digest::of(&bytes);
        if found != digest {
            return Err(StoreError::WrongBytes {
                what: "blob".to_owned(),
                promised: digest.to_string(),
                found: format!("{found}, {} bytes", bytes.len()),
            });
        }
        Ok(bytes)
    }

    /// Begins to bring something in. As long as the answer lives nothing is removed.
    pub fn ingest(&self) -> Result<Ingest<'_>, StoreError> {
        Ok(Ingest::new(self, self.lock_shared()?))
    }

    /// All entries of the index.
    pub fn entries(&self) -> Result<Vec<Descriptor>, StoreError> {
        Ok(self.index()?.manifests)
    }

    /// The index.
    pub fn index(&self) -> Result<ImageIndex, StoreError> {
        let path = self.path.join("index.json");
        let file = File::open(&path).map_err(fail("open", &path))?;
        let mut bytes = Vec::new();
        file.take(MAX_INDEX_BYTES + 1).read_to_end(&mut bytes).map_err(fail("read", &path))?;
        if bytes.len() as u64 > MAX_INDEX_BYTES {
            return Err(StoreError::NotAStore {
                path: self.path.clone(),
                reason: format!("its index is larger than {MAX_INDEX_BYTES} bytes"),
            });
        }
        serde_json::from_slice(&bytes).map_err(|error| StoreError::NotAStore {
            path: self.path.clone(),
            reason: format!("its index.json cannot be read: {error}"),
        })
    }

    /// Finds an image by its name, its digest or the beginning of it.
    pub fn find(&self, asked: &str) -> Result<Found, StoreError> {
        let entries = self.entries()?;
        let by_name = |name: &str| entries.iter().find(|entry| entry.ref_name() == Some(name));
        if let Ok(reference) = Reference::parse(asked) {
            let (plain, digest) = (reference.to_string(), reference.digest());
            if let Some(entry) = by_name(&plain) {
                return Ok(Found { descriptor: entry.clone(), name: Some(plain) });
            }
            if let Some(entry) = digest.and_then(|digest| entries.iter().find(|entry| entry.digest == digest))
            {
                return Ok(Found { descriptor: entry.clone(), name: None });
            }
        }
        // Layouts of other tools have names of their own making.
        if let Some(entry) = by_name(asked) {
            return Ok(Found { descriptor: entry.clone(), name: Some(asked.to_owned()) });
        }
        if let Some(found) = find_by_digest(&entries, asked)? {
            return Ok(found);
        }
        let names: Vec<String> = entries.iter().filter_map(|entry| entry.ref_name().map(familiar)).collect();
        let names: Vec<&str> =
            names.iter().map(|name| name.strip_suffix(":latest").unwrap_or(name)).collect();
        Err(StoreError::NoImage { name: asked.to_owned(), near: near(asked, names.into_iter()) })
    }

    /// The image of a manifest, or of an index's entry for `platform`.
    pub fn image(&self, descriptor: &Descriptor, platform: &Platform) -> Result<Image, StoreError> {
        Image::load(self, descriptor, platform)
    }

    /// Takes a name away. Answers with what had it.
    pub fn untag(&self, name: &str) -> Result<Option<Descriptor>, StoreError> {
        let mut gone = None;
        self.edit(|index| {
            let at = index.manifests.iter().position(|entry| entry.ref_name() == Some(name));
            gone = at.map(|at| index.manifests.remove(at));
            Ok(())
        })?;
        Ok(gone)
    }

    /// Takes all entries of a digest away. Answers with how many there were.
    pub fn forget(&self, digest: Digest) -> Result<usize, StoreError> {
        let mut count = 0;
        self.edit(|index| {
            let before = index.manifests.len();
            index.manifests.retain(|entry| entry.digest != digest);
            count = before - index.manifests.len();
            Ok(())
        })?;
        Ok(count)
    }

    /// Names an image. Another one that had the name stays, without it.
    pub fn tag(&self, descriptor: &Descriptor, name: &str) -> Result<(), StoreError> {
        let ingest = self.ingest()?;
        ingest.add(Some(name), descriptor)
    }

    /// Manifests that say something about `subject`.
    pub fn referrers(&self, subject: Digest) -> Result<Vec<Descriptor>, StoreError> {
        let mut found: Vec<Descriptor> = Vec::new();
        for entry in self.entries()? {
            let known = found.iter().any(|known| known.digest == entry.digest);
            if !known && let Some(referrer) = crate::gc::referrer(self, &entry, subject)? {
                found.push(referrer);
            }
        }
        Ok(found)
    }

    /// Every referrer with what it says something about.
    pub(crate) fn all_referrers(&self) -> Result<Vec<(Digest, Descriptor)>, StoreError> {
        let mut found: Vec<(Digest, Descriptor)> = Vec::new();
        for entry in self.entries()? {
            if found.iter().all(|(_, known)| known.digest != entry.digest) {
                found.extend(crate::gc::subject_of(self, &entry)?);
            }
        }
        Ok(found)
    }

    /// Changes the index under its lock. An entry that is put there must be whole: [`Ingest::add`] looks.
    pub fn edit<T>(
        &self,
        change: impl FnOnce(&mut ImageIndex) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let lock = self.open_lock(".index.lock")?;
        lock.lock().map_err(fail("lock", &self.path.join(".index.lock")))?;
        let mut index = self.index()?;
        let before = index.clone();
        let answer = change(&mut index)?;
        index.media_type = media_type::INDEX.to_owned();
        if index != before {
            self.replace("index.json", &index.to_bytes())?;
        }
        Ok(answer)
    }

    /// Keeps garbage from being collected.
    pub(crate) fn lock_shared(&self) -> Result<File, StoreError> {
        let lock = self.open_lock(".lock")?;
        lock.lock_shared().map_err(fail("lock", &self.path.join(".lock")))?;
        Ok(lock)
    }

    /// Waits until nobody brings anything in, and keeps it so; `None` when somebody does and `wait` is not set.
    pub(crate) fn lock_alone(&self, wait: bool) -> Result<Option<File>, StoreError> {
        let path = self.path.join(".lock");
        let lock = self.open_lock(".lock")?;
        if wait {
            lock.lock().map_err(fail("lock", &path))?;
            return Ok(Some(lock));
        }
        match lock.try_lock() {
            Ok(()) => Ok(Some(lock)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(source)) => Err(StoreError::File { doing: "lock", path, source }),
        }
    }

    fn open_lock(&self, name: &str) -> Result<File, StoreError> {
        let path = self.path.join(name);
        File::options().create(true).truncate(false).write(true).open(&path).map_err(fail("open", &path))
    }

    /// Writes a file of the layout so that nobody ever sees half of it.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path.join(name);
        let error = fail("write", &path);
        let mut file = tempfile::NamedTempFile::new_in(self.path.join("tmp")).map_err(&error)?;
        file.write_all(bytes).map_err(&error)?;
        set_public(file.as_file()).map_err(&error)?;
        file.as_file().sync_all().map_err(&error)?;
        file.persist(&path).map_err(|persist| error(persist.error))?;
        let directory = File::open(&self.path).map_err(&error)?;
        directory.sync_all().map_err(&error)
    }
}

/// Layouts are for others to read, too: a temporary file is not.
pub(crate) fn set_public(file: &File) -> io::Result<()> {
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
}

/// A name as people type it.
#[must_use]
pub fn familiar(name: &str) -> String {
    Reference::parse(name).map_or_else(
        |_| name.to_owned(),
        |reference| {
            let tag = reference.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
            let digest = reference.digest().map(|digest| format!("@{digest}")).unwrap_or_default();
            format!("{}{tag}{digest}", reference.familiar_name())
        },
    )
}

fn find_by_digest(entries: &[Descriptor], asked: &str) -> Result<Option<Found>, StoreError> {
    let prefix = asked.strip_prefix("sha256:").unwrap_or(asked).to_ascii_lowercase();
    if prefix.len() < 3 || !prefix.chars().all(|c| c.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let mut matching: Vec<&Descriptor> =
        entries.iter().filter(|entry| entry.digest.hex().starts_with(&prefix)).collect();
    matching.sort_by_key(|entry| entry.digest);
    matching.dedup_by_key(|entry| entry.digest);
    match matching[..] {
        [] => Ok(None),
        [one] => Ok(Some(Found { descriptor: one.clone(), name: None })),
        _ => Err(StoreError::Ambiguous {
            prefix: asked.to_owned(),
            candidates: matching.iter().map(|entry| entry.digest.hex()[..12].to_owned()).collect(),
        }),
    }
}

/// The annotations by which other tools know the name.
pub(crate) fn named(descriptor: &Descriptor, name: Option<&str>) -> Descriptor {
    let mut entry = descriptor.clone();
    entry.annotations.remove(annotation::REF_NAME);
    if let Some(name) = name {
        entry.annotations.insert(annotation::REF_NAME.to_owned(), name.to_owned());
    }
    entry
}

pub(crate) fn fail<'a>(doing: &'static str, path: &'a Path) -> impl Fn(io::Error) -> StoreError + 'a {
    move |source| StoreError::File { doing, path: path.to_owned(), source }
}
