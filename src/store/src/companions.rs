//! What belongs to an image without being part of it: referrers, and signatures under a tag of their own.
//!
//! [`companions`] lists all of it, for whoever takes an image elsewhere. Signatures have the tag that cosign looks
//! for, [`signature_tag`]; that name goes when its image goes.
//!
//! Spec: OCI distribution-spec, "Listing Referrers"; cosign's SIGNATURE_SPEC, "Tag-based Discovery".

use std::collections::BTreeSet;

use knarr_base::Digest;
use knarr_oci::{Descriptor, ImageIndex, MAX_MANIFEST_BYTES, Reference, media_type};

use crate::{Store, StoreError};

/// Something that belongs to an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Companion {
    /// Its manifest.
    pub descriptor: Descriptor,
    /// The manifest or index that it belongs to.
    pub subject: Digest,
    /// The tag that it has in the repository of its image; a referrer needs none.
    pub tag: Option<String>,
}

/// Companions of companions are looked for this deep.
const MAX_DEPTH: usize = 4;

/// All that belongs to a manifest, or to an index and each of its manifests; what says something about a companion
/// comes after it.
pub fn companions(store: &Store, descriptor: &Descriptor) -> Result<Vec<Companion>, StoreError> {
    let mut subjects = vec![descriptor.digest];
    if media_type::is_index(&descriptor.media_type) {
        let index = ImageIndex::parse(&store.read(descriptor, MAX_MANIFEST_BYTES)?)?;
        subjects.extend(index.manifests.iter().map(|manifest| manifest.digest));
    }
    let (entries, referrers) = (store.entries()?, store.all_referrers()?);
    let mut seen: BTreeSet<Digest> = BTreeSet::new();
    let mut found = Vec::new();
    for _ in 0..MAX_DEPTH {
        let mut next = Vec::new();
        for (subject, referrer) in referrers.iter().filter(|(subject, _)| subjects.contains(subject)) {
            if seen.insert(referrer.digest) {
                next.push(referrer.digest);
                let tag = tag_of(&entries, referrer, *subject);
                found.push(Companion { descriptor: referrer.clone(), subject: *subject, tag });
            }
        }
        subjects = next;
    }
    Ok(found)
}

/// The tag by which a companion is found without referrers, if it is a signature.
fn tag_of(entries: &[Descriptor], companion: &Descriptor, subject: Digest) -> Option<String> {
    let is_named = |entry: &Descriptor| {
        entry.digest == companion.digest
            && entry.ref_name().is_some_and(|name| subject_of_name(name) == Some(subject))
    };
    entries.iter().any(is_named).then(|| signature_tag(subject))
}

/// The tag of the signatures of an image.
#[must_use]
pub fn signature_tag(subject: Digest) -> String {
    format!("sha256-{}.sig", subject.hex())
}

/// What the name of a signature speaks of; `None` for every other name.
#[must_use]
pub fn subject_of_name(name: &str) -> Option<Digest> {
    let reference = Reference::parse(name).ok()?;
    reference.tag()?.strip_prefix("sha256-")?.strip_suffix(".sig")?.parse().ok()
}
