//! Copies: an image goes from one registry to another, through this machine and not into it.

use knarr_base::Digest;
use knarr_oci::{Descriptor, Reference};

use crate::RegistryError;
use crate::client::pull::{Sources, subject_of};
use crate::client::push::{Delivery, Mounts, Pushed, as_referrer};
use crate::client::repository::Repository;
use crate::client::tree::{Tree, Which};
use crate::client::upload::Content;
use crate::client::{Client, Progress};

/// What a copy came to.
pub type Copied = Pushed;

/// What speaks of something that speaks of an image is looked for this deep.
const MAX_REFERRER_DEPTH: usize = 3;

impl Client {
    /// Copies an image from one registry to another, or within one.
    pub fn copy(
        &self,
        from: &Reference,
        to: &Reference,
        which: &Which,
        referrers: bool,
        progress: &dyn Progress,
    ) -> Result<Copied, RegistryError> {
        let wire = self.wire();
        let repositories = self.repositories_of(&wire, from, progress)?;
        let sources = Sources { client: self, wire: &wire, repositories: &repositories, progress };
        let (root, bytes) = sources.fetch_root(from)?;
        let mut read = |entry: &Descriptor| sources.fetch_document(entry).map(Some);
        let (root, bytes) = match which {
            Which::All => (root, bytes),
            Which::One(_) => chosen(&root, bytes, which, &mut read)?,
        };
        if let Some(promised) = to.digest().filter(|promised| *promised != root.digest) {
            let (what, found) = (from.to_string(), root.digest.to_string());
            return Err(RegistryError::WrongBytes { what, promised: promised.to_string(), found });
        }
        let tree = Tree::gather(&root, bytes, &Which::All, &mut read)?;
        let destination = self.endpoint(&wire, to.registry())?;
        let destination = Repository::new(destination, to.repository(), "pull,push");
        let Some(source) = repositories.last() else { return Err(RegistryError::Interrupted) };
        let open = |_: &Descriptor| Ok(Content::There(source));
        let mounts =
            |tree: &Tree| match from.registry() == to.registry() && from.repository() != to.repository() {
                true => Mounts::from_all(from.repository(), &tree.blobs),
                false => Mounts::default(),
            };
        let delivery = Delivery::new(self, &wire, &destination, to, progress);
        delivery.tree(&tree, &to.version(), &mounts(&tree), &open)?;
        let mut count = 0;
        let mut subjects: Vec<Digest> = tree.manifests.iter().map(|(known, _)| known.digest).collect();
        for _ in 0..if referrers { MAX_REFERRER_DEPTH } else { 0 } {
            let mut next = Vec::new();
            for subject in subjects {
                for listed in sources.referrers_of(subject)? {
                    let bytes = sources.fetch_document(&listed)?;
                    if subject_of(&listed, &bytes)? != Some(subject) {
                        continue;
                    }
                    let referrer = as_referrer(&listed, &bytes)?;
                    let tree = Tree::gather(&listed, bytes, &Which::All, &mut read)?;
                    count +=
                        usize::from(delivery.referrer(&tree, &referrer, subject, &mounts(&tree), &open)?);
                    next.push(listed.digest);
                }
            }
            subjects = next;
        }
        Ok(delivery.done(root, count))
    }
}

/// The one manifest of an index that is wanted.
fn chosen(
    root: &Descriptor,
    bytes: bytes::Bytes,
    which: &Which,
    read: crate::client::tree::Read<'_>,
) -> Result<(Descriptor, bytes::Bytes), RegistryError> {
    let tree = Tree::gather(root, bytes, which, read)?;
    // What an index lists comes before it: the first one is the manifest.
    tree.manifests.into_iter().next().ok_or_else(|| RegistryError::Request("the image is empty".to_owned()))
}
