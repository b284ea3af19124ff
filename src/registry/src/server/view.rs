//! What a store holds, seen as repositories.
//!
//! [`Shelves::view`] answers with the present [`View`]; its [`Contents`] say which manifests and blobs a
//! repository has. Nothing is written here: that is [`super::manifests`]'s work.
//!
//! Spec: docs/formats/registry.md.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use knarr_base::Digest;
use knarr_oci::{
    Descriptor, ImageIndex, MAX_MANIFEST_BYTES, Manifest, OciError, Reference, annotation, media_type,
};
use knarr_store::{Store, StoreError};

use super::route::Repository;

/// Where an entry of the store's index belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It has a tag in a repository.
    Tag(Repository, String),
    /// It is in a repository, known by its digest only.
    Untagged(Repository),
    /// It has no name: if it speaks of another manifest it is where that one is.
    Loose,
    /// Its name is none that a registry can have.
    Elsewhere,
}

impl Place {
    pub(crate) fn of(entry: &Descriptor) -> Self {
        if let Some(name) = entry.ref_name() {
            let Ok(name) = Reference::parse(name) else { return Self::Elsewhere };
            let Some(repository) = Repository::of(&name) else { return Self::Elsewhere };
            return match (name.tag(), name.digest()) {
                (Some(tag), None) => Self::Tag(repository, tag.to_owned()),
                _ => Self::Untagged(repository),
            };
        }
        let Some(repository) = entry.annotations.get(annotation::REPOSITORY) else { return Self::Loose };
        Repository::parse(repository).map_or(Self::Elsewhere, Self::Untagged)
    }

    /// Whether it is in a repository.
    pub(crate) fn is_in(&self, repository: &Repository) -> bool {
        matches!(self, Self::Tag(own, _) | Self::Untagged(own) if own == repository)
    }
}

/// What a manifest or index says of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Links {
    /// Manifests of an index.
    pub children: Vec<Descriptor>,
    /// Configuration and layers.
    pub blobs: Vec<Descriptor>,
    /// What it speaks of, and its descriptor as the referrers API gives it.
    pub subject: Option<(Digest, Descriptor)>,
}

impl Links {
    /// Reads a document of the type that `descriptor` says.
    pub(crate) fn parse(descriptor: &Descriptor, bytes: &[u8]) -> Result<Self, OciError> {
        let bare = Descriptor::new(&descriptor.media_type, descriptor.digest, descriptor.size);
        let given = |kind: Option<String>| kind.filter(|kind| !kind.is_empty());
        if media_type::is_index(&descriptor.media_type) {
            let index = ImageIndex::parse(bytes)?;
            let (artifact_type, annotations) = (given(index.artifact_type), index.annotations);
            let referrer = Descriptor { artifact_type, annotations, ..bare };
            let subject = index.subject.map(|subject| (subject.digest, referrer));
            return Ok(Self { children: index.manifests, blobs: Vec::new(), subject });
        }
        let manifest = Manifest::parse(bytes)?;
        let artifact_type =
            given(manifest.artifact_type).or_else(|| Some(manifest.config.media_type.clone()));
        let referrer = Descriptor { artifact_type, annotations: manifest.annotations, ..bare };
        let subject = manifest.subject.map(|subject| (subject.digest, referrer));
        let blobs = std::iter::once(manifest.config).chain(manifest.layers).collect();
        Ok(Self { children: Vec::new(), blobs, subject })
    }
}

/// What a repository has.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// By digest: those with tags, those without, and those that an index of the repository lists.
    pub manifests: HashMap<Digest, Descriptor>,
    /// Configurations and layers of these manifests.
    pub blobs: HashSet<Digest>,
    /// By the manifest that they speak of.
    pub referrers: HashMap<Digest, Vec<Descriptor>>,
    /// Manifests that an index of the repository lists.
    pub listed: HashSet<Digest>,
}

/// The store's index at one moment.
#[derive(Debug)]
pub(crate) struct View {
    /// As long as it is open no other file can have its number.
    file: File,
    tags: BTreeMap<Repository, BTreeMap<String, Descriptor>>,
    untagged: BTreeMap<Repository, Vec<Descriptor>>,
    loose: Vec<Descriptor>,
    contents: Mutex<HashMap<Repository, Arc<Contents>>>,
}

impl View {
    fn load(store: &Store) -> Result<Self, StoreError> {
        let path = store.path().join("index.json");
        let file = File::open(&path).map_err(|source| StoreError::File { doing: "open", path, source })?;
        // Read after it was opened: at worst it is newer than the file that stands for it, and read again.
        let (mut tags, mut untagged) = (BTreeMap::<_, BTreeMap<_, _>>::new(), BTreeMap::<_, Vec<_>>::new());
        let mut loose = Vec::new();
        for entry in store.entries()? {
            match Place::of(&entry) {
                Place::Tag(repository, tag) => {
                    tags.entry(repository).or_default().insert(tag, entry);
                }
                Place::Untagged(repository) => untagged.entry(repository).or_default().push(entry),
                Place::Loose => loose.push(entry),
                Place::Elsewhere => {}
            }
        }
        Ok(Self { file, tags, untagged, loose, contents: Mutex::default() })
    }

    /// The tags of a repository, if it has any.
    pub(crate) fn tags(&self, repository: &Repository) -> Option<&BTreeMap<String, Descriptor>> {
        self.tags.get(repository)
    }

    /// Whether there is such a repository.
    pub(crate) fn has(&self, repository: &Repository) -> bool {
        self.tags.contains_key(repository) || self.untagged.contains_key(repository)
    }

    /// All repositories, sorted.
    pub(crate) fn repositories(&self) -> Vec<&Repository> {
        let mut names: Vec<&Repository> = self.tags.keys().chain(self.untagged.keys()).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// The store, and what is known of it.
#[derive(Debug)]
pub(crate) struct Shelves {
    pub store: Store,
    view: Mutex<Option<Arc<View>>>,
    links: Mutex<HashMap<Digest, Arc<Links>>>,
}

/// What manifests say is kept for so many of them: some 40 MB if all are large.
const MAX_LINKS: usize = 20_000;

impl Shelves {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, view: Mutex::default(), links: Mutex::default() }
    }

    /// The present state. It is read again when another file has taken the index's place.
    pub(crate) fn view(&self) -> Result<Arc<View>, StoreError> {
        let path = self.store.path().join("index.json");
        let mut known = lock(&self.view);
        if let Some(view) = &*known
            && let (Ok(old), Ok(new)) = (view.file.metadata(), fs::metadata(&path))
            && (old.ino(), old.dev()) == (new.ino(), new.dev())
        {
            return Ok(Arc::clone(view));
        }
        let fresh = Arc::new(View::load(&self.store)?);
        *known = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    /// What a repository has.
    pub(crate) fn contents(&self, view: &View, repository: &Repository) -> Result<Arc<Contents>, StoreError> {
        if let Some(known) = lock(&view.contents).get(repository) {
            return Ok(Arc::clone(known));
        }
        let contents = Arc::new(self.collect(view, repository)?);
        lock(&view.contents).insert(repository.clone(), Arc::clone(&contents));
        Ok(contents)
    }

    fn collect(&self, view: &View, repository: &Repository) -> Result<Contents, StoreError> {
        let mut contents = Contents::default();
        let tagged = view.tags.get(repository).into_iter().flat_map(BTreeMap::values);
        let untagged = view.untagged.get(repository).into_iter().flatten();
        for entry in tagged.chain(untagged) {
            self.gather(&mut contents, entry)?;
        }
        // A referrer may be spoken of by another one.
        let mut loose: Vec<&Descriptor> = view.loose.iter().collect();
        loop {
            let before = loose.len();
            let mut left = Vec::new();
            for entry in loose {
                let subject = self.links(entry)?.and_then(|links| links.subject.as_ref().map(|of| of.0));
                match subject {
                    Some(subject) if contents.manifests.contains_key(&subject) => {
                        self.gather(&mut contents, entry)?;
                    }
                    Some(_) => left.push(entry),
                    None => {}
                }
            }
            if left.is_empty() || left.len() == before {
                return Ok(contents);
            }
            loose = left;
        }
    }

    /// Adds a manifest and all that it lists. What is missing or damaged is not in the repository.
    fn gather(&self, contents: &mut Contents, entry: &Descriptor) -> Result<(), StoreError> {
        let mut waiting = vec![entry.clone()];
        while let Some(entry) = waiting.pop() {
            if contents.manifests.contains_key(&entry.digest) {
                continue;
            }
            let Some(links) = self.links(&entry)? else { continue };
            contents.blobs.extend(links.blobs.iter().map(|blob| blob.digest));
            contents.listed.extend(links.children.iter().map(|child| child.digest));
            waiting.extend(links.children.iter().cloned());
            if let Some((subject, referrer)) = &links.subject {
                contents.referrers.entry(*subject).or_default().push(referrer.clone());
            }
            contents.manifests.insert(entry.digest, entry);
        }
        Ok(())
    }

    /// What a manifest of the store says; `None` when it is missing, damaged or none.
    pub(crate) fn links(&self, entry: &Descriptor) -> Result<Option<Arc<Links>>, StoreError> {
        let is_ours = media_type::is_index(&entry.media_type) || media_type::is_manifest(&entry.media_type);
        if !is_ours {
            return Ok(None);
        }
        if let Some(known) = lock(&self.links).get(&entry.digest) {
            return Ok(Some(Arc::clone(known)));
        }
        let bytes = match self.store.read(entry, MAX_MANIFEST_BYTES) {
            Err(StoreError::MissingBlob { .. } | StoreError::WrongBytes { .. }) => return Ok(None),
            bytes => bytes?,
        };
        let Ok(links) = Links::parse(entry, &bytes) else { return Ok(None) };
        let links = Arc::new(links);
        let mut known = lock(&self.links);
        if known.len() >= MAX_LINKS {
            known.clear();
        }
        known.insert(entry.digest, Arc::clone(&links));
        Ok(Some(links))
    }
}

/// Nothing here panics while it holds a lock; if it did, what it guards is still whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
