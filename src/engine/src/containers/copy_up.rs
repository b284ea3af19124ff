//! What start-ups need beside the container itself: volumes filled from the image, images that are mounted, names of others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use knarr_runtime::shim::ExtraOverlay;
use knarr_tree::TreeError;
use knarr_tree::root::Root;
use knarr_tree::unpack::Kind;

use super::record::{Attachment, MountRecord, Record};
use super::spec::{self, Joined};
use super::{Container, blocking};
use crate::{Engine, EngineError};

impl Engine {
    /// Fills the volumes of a container that is being made, as far as they are empty.
    pub(super) async fn fill_volumes(&self, record: &Record) -> Result<(), EngineError> {
        for mount in record.mounts.iter().filter(|mount| mount.kind == "volume" && mount.copy_up) {
            let Some(name) = mount.name.as_deref() else { continue };
            let (layers, target) = (record.layers.clone(), mount.target.trim_matches('/').to_owned());
            let may_be = move || Ok(layers.iter().any(|layer| may_have(layer, &target)));
            if !blocking(may_be).await? {
                continue;
            }
            let place = self.shared().volumes.acquire(name, &record.id)?;
            let filled = self.copy_up(record, mount, place).await;
            self.shared().volumes.release(name, &record.id)?;
            filled?;
        }
        Ok(())
    }

    /// Fills an empty volume with what the image has at its place.
    async fn copy_up(&self, record: &Record, mount: &MountRecord, place: PathBuf) -> Result<(), EngineError> {
        let (layers, target) = (record.layers.clone(), mount.target.trim_matches('/').to_owned());
        let anonymous = mount.anonymous;
        blocking(move || {
            let empty =
                std::fs::read_dir(&place).map_err(EngineError::file("list", &place))?.next().is_none();
            if !empty {
                return Ok(());
            }
            crate::view::with_layers(&layers, |root| match root.stat(&target) {
                Ok(meta) if anonymous && meta.kind != Kind::Directory => Err(EngineError::failed(format!(
                    "cannot mount volume over existing file, file exists /{target}"
                ))),
                Ok(_) => crate::view::copy_directory(root, &target, &place),
                // A higher layer has taken it away, or a link leads nowhere.
                Err(TreeError::Path { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            })
        })
        .await
    }

    /// Containers whose namespaces a record's container joins.
    pub(super) fn joined_pids(&self, record: &Record) -> Result<Joined, EngineError> {
        let pid_of = |mode: &Option<String>, memory: bool| -> Result<Option<i32>, EngineError> {
            let Some(name) = mode.as_deref().and_then(|mode| mode.strip_prefix("container:")) else {
                return Ok(None);
            };
            let other = self.shared().containers.find(name)?;
            let (state, ipc) = {
                let record = other.record();
                (record.state.clone(), record.host.ipc_mode.clone().unwrap_or_default())
            };
            if !state.running {
                return Err(EngineError::conflict(format!(
                    "cannot join the namespaces of a non running container: {}",
                    other.id
                )));
            }
            if memory && !matches!(ipc.as_str(), "shareable" | "host") {
                return Err(EngineError::conflict(format!(
                    "can't join IPC of container {}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
                    other.id
                )));
            }
            Ok(Some(state.pid))
        };
        Ok(Joined { pid: pid_of(&record.host.pid_mode, false)?, ipc: pid_of(&record.host.ipc_mode, true)? })
    }

    /// Images that are mounted into a container, unpacked.
    pub(super) async fn image_mounts(&self, record: &Record) -> Result<Vec<ExtraOverlay>, EngineError> {
        let images: Vec<String> = record
            .mounts
            .iter()
            .filter(|mount| mount.kind == "image")
            .map(|mount| mount.source.clone())
            .collect();
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let store = self.shared().store.clone();
        let directory = self.container_dir(&record.id).join("images");
        blocking(move || {
            let platform = super::create::platform_of(None)?;
            let mut all = Vec::new();
            for (number, digest) in images.iter().enumerate() {
                let found = store.find(digest)?;
                let image = store.image(&found.descriptor, &platform)?;
                let target = directory.join(number.to_string());
                std::fs::create_dir_all(&target).map_err(EngineError::file("make", &target))?;
                all.push(ExtraOverlay {
                    lowers: knarr_store::layers::for_overlay(&store, &image, false)?,
                    target,
                });
            }
            Ok(all)
        })
        .await
    }

    /// Addresses and names of containers that a container is linked to in the default network.
    pub(super) fn linked_hosts(&self, record: &Record) -> Vec<(String, Vec<String>)> {
        let mut all = Vec::new();
        for link in record.host.links.iter().flatten() {
            let (name, alias) = link.split_once(':').unwrap_or((link, link));
            let alias = alias.rsplit('/').next().unwrap_or(alias);
            let Ok(other) = self.shared().containers.find(name) else { continue };
            let other = other.record();
            let endpoint = other.networks.get("bridge").and_then(|place| place.endpoint.as_ref());
            if let Some(address) = endpoint.and_then(|endpoint| endpoint.ipv4) {
                let mut names = vec![alias.to_owned(), other.hostname(), other.name.clone()];
                names.dedup();
                all.push((address.addr().to_string(), names));
            }
        }
        all
    }

    /// Names that only this container knows in a network that users made: those of its place, and those of its request when it is the
    /// network of its mode.
    pub(crate) fn links_of(
        &self,
        record: &Record,
        network: &str,
        place: &Attachment,
    ) -> BTreeMap<String, String> {
        let of_mode = record.host.links.iter().flatten().filter(|_| record.network_mode() == network);
        let of_place = place.asked.links.iter().flatten();
        let links = of_place.chain(of_mode).filter(|_| network != "bridge");
        links
            .map(|link| {
                let (name, alias) = link.split_once(':').unwrap_or((link, link));
                let alias = alias.rsplit('/').next().unwrap_or(alias);
                let known = self.shared().containers.find(name).map(|other| other.id.clone());
                (alias.to_owned(), known.unwrap_or_else(|_| name.trim_start_matches('/').to_owned()))
            })
            .collect()
    }

    /// Writes a running container's hosts anew: its places in networks have changed.
    pub(crate) async fn refresh_hosts(&self, container: &Arc<Container>) -> Result<(), EngineError> {
        let record = container.record().clone();
        let linked = self.linked_hosts(&record);
        let (directory, options) = (self.container_dir(&container.id), self.shared().options.clone());
        blocking(move || spec::write_files(&record, &directory, &options, &linked)).await
    }

    /// Serves names in a container's sandbox.
    pub(crate) async fn serve_names(&self, container: &Arc<Container>) -> Result<(), EngineError> {
        let given = container.record().host.dns.clone().unwrap_or_default();
        let servers = given.iter().chain(&self.shared().options.dns).filter_map(|text| text.parse().ok());
        Ok(self.shared().networks.serve_names(&container.id, servers.collect()).await?)
    }
}

/// Whether a layer has something at a path, or a link on the way to it: only all layers together tell where that leads.
fn may_have(layer: &Path, target: &str) -> bool {
    let Ok(root) = Root::open(layer) else { return false };
    let ends = target.match_indices('/').map(|(end, _)| end).chain([target.len()]);
    for end in ends {
        match root.lstat(&target[..end]) {
            Ok(meta) if meta.kind == Kind::Symlink => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    true
}

/// Whether the host's name servers are such that a container must ask ours.
pub(super) fn asks_own_server(record: &Record, options: &crate::Options) -> bool {
    let host = std::fs::read_to_string(Path::new("/etc/resolv.conf")).unwrap_or_default();
    spec::asks_own_server(record, &host, options)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::may_have;

    #[test]
    fn a_link_on_the_way_may_lead_there() {
        let layer = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(layer.path().join("run/data")).unwrap();
        std::fs::create_dir(layer.path().join("var")).unwrap();
        symlink("/run", layer.path().join("var/run")).unwrap();
        let has = |target: &str| may_have(layer.path(), target);
        assert!(has("run/data") && has("var/run/data") && has("var/run/other"));
        assert!(!has("run/other") && !has("data"));
    }
}
