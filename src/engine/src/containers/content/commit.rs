//! An image of what a container has changed.
//!
//! [`Engine::commit_container`] puts its upper directory onto the image as one more layer. Which image that
//! was stands in the new one's configuration.

use std::path::Path;

use knarr_base::Timestamp;
use knarr_oci::{History, ImageConfig, ImageIndex, MAX_MANIFEST_BYTES, RunConfig, media_type};
use knarr_store::store::familiar;
use knarr_store::{Image, Store, layers};
use knarr_tree::archive::{Pick, TarOptions, write_picks};
use knarr_tree::compress::Compression;
use knarr_tree::root::Root;

use super::changes::{self, Change, ChangeKind};
use super::{CommitRequest, Container};
use crate::containers::blocking;
use crate::containers::record::Record;
use crate::engine::now;
use crate::images::{Changes, PARENT, descriptor_of, image_of, new_name, put_image, run_config};
use crate::meters::Action;
use crate::{Engine, EngineError};

/// Its end is told so soon after it cannot be paused any more.
const END_PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

impl Engine {
    /// `POST /commit`: answers with the image's id.
    ///
    /// # Errors
    /// There is no such container, or a name or change is wrong.
    pub async fn commit_container(&self, request: CommitRequest) -> Result<String, EngineError> {
        let _timed = self.shared().meters.time(Action::Commit);
        let container = self.shared().containers.find(&request.container)?;
        let name = match request.repository.as_str() {
            "" => None,
            repository => Some(new_name(repository, &request.tag)?),
        };
        let wanted = wanted(&request, &container.record())?;
        let pauses = request.pause && {
            let state = &container.record().state;
            state.running && !state.paused
        };
        let pauses = pauses && self.paused_for(&container).await?;
        let outcome = self.commit(&container, request, wanted, name.clone()).await;
        // One that was ended meanwhile is not paused any more.
        if pauses && container.record().state.paused {
            self.unpause_container(&container.id).await?;
        }
        let id = outcome?;
        let shown = name.as_deref().map_or_else(String::new, familiar);
        let attributes = [("imageID", id.as_str()), ("imageRef", shown.as_str())];
        self.shared().events.container("commit", &container.record(), &attributes);
        Ok(id)
    }

    /// Pauses a container; one that ends just now needs none.
    async fn paused_for(&self, container: &std::sync::Arc<Container>) -> Result<bool, EngineError> {
        let Err(error) = self.pause_container(&container.id).await else { return Ok(true) };
        let mut phase = container.live.follow();
        let ended = tokio::time::timeout(END_PATIENCE, phase.wait_for(|phase| !phase.running)).await.is_ok();
        if ended { Ok(false) } else { Err(error) }
    }

    async fn commit(
        &self,
        container: &std::sync::Arc<Container>,
        request: CommitRequest,
        wanted: RunConfig,
        name: Option<String>,
    ) -> Result<String, EngineError> {
        let (record, directory) = self.files_of(container);
        let store = self.store().clone();
        blocking(move || {
            let base = base_of(&store, &record)?;
            let found = changes::find(&record, &directory.join("upper"))?;
            let config = described(base.config.clone(), &record, &request, wanted);
            put(&store, base, config, &directory.join("upper"), &found, name.as_deref())
        })
        .await
    }
}

/// What containers of the new image are to be: what was asked for, and for the rest what this one is.
fn wanted(request: &CommitRequest, record: &Record) -> Result<RunConfig, EngineError> {
    let mut wanted = request.config.as_ref().map(run_config).unwrap_or_default();
    Changes::parse(&request.changes)?.apply(&mut wanted)?;
    let own = run_config(&record.config);
    Ok(merged(wanted, own))
}

fn merged(mut new: RunConfig, own: RunConfig) -> RunConfig {
    let text = |new: &mut String, own: String| {
        if new.is_empty() {
            *new = own;
        }
    };
    text(&mut new.user, own.user);
    text(&mut new.working_dir, own.working_dir);
    text(&mut new.stop_signal, own.stop_signal);
    // Arguments of another program are none of this one.
    if new.entrypoint.is_empty() {
        if new.cmd.is_empty() {
            new.cmd = own.cmd;
        }
        new.entrypoint = own.entrypoint;
    }
    let key = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let set: Vec<String> = new.env.iter().map(|pair| key(pair)).collect();
    let mut env: Vec<String> = own.env.into_iter().filter(|pair| !set.contains(&key(pair))).collect();
    env.append(&mut new.env);
    new.env = env;
    new.exposed_ports.extend(own.exposed_ports);
    new.volumes.extend(own.volumes);
    for (key, value) in own.labels {
        new.labels.entry(key).or_insert(value);
    }
    for (key, value) in own.other {
        new.other.entry(key).or_insert(value);
    }
    new.healthcheck = new.healthcheck.or(own.healthcheck);
    if new.shell.is_empty() {
        new.shell = own.shell;
    }
    new
}

/// The image that a container was made of: of an index the one whose layers it has.
fn base_of(store: &Store, record: &Record) -> Result<Image, EngineError> {
    let root = descriptor_of(store, &record.image)?;
    let first = image_of(store, &root)?;
    let fits = |image: &Image| {
        let top = layers::unpacked_path(store, &image.config.rootfs.diff_ids);
        top.as_ref() == record.layers.last()
    };
    if fits(&first) || !media_type::is_index(&root.media_type) {
        return Ok(first);
    }
    let index = ImageIndex::parse(&store.read(&root, MAX_MANIFEST_BYTES)?)?;
    let others = index.manifests.iter().filter(|entry| store.has(entry)).filter_map(|entry| {
        let platform = entry.platform.as_ref()?;
        store.image(entry, platform).ok()
    });
    Ok(others.into_iter().find(fits).unwrap_or(first))
}

fn described(
    mut config: ImageConfig,
    record: &Record,
    request: &CommitRequest,
    wanted: RunConfig,
) -> ImageConfig {
    let created = Some(now());
    let said = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    config.config = wanted;
    config.created.clone_from(&created);
    config.author = said(&request.author).or(config.author);
    // What docker notes there of the container before is not true any more.
    config
        .other
        .retain(|key, _| !matches!(key.as_str(), "container" | "container_config" | "docker_version"));
    config.other.insert(PARENT.to_owned(), record.image.clone().into());
    config.history.push(History {
        created,
        created_by: Some(record.config.cmd.iter().flatten().cloned().collect::<Vec<_>>().join(" ")),
        author: said(&request.author),
        comment: said(&request.comment),
        empty_layer: true,
    });
    config
}

fn put(
    store: &Store,
    base: Image,
    mut config: ImageConfig,
    upper: &Path,
    found: &[Change],
    name: Option<&str>,
) -> Result<String, EngineError> {
    let ingest = store.ingest()?;
    let mut layers = base.manifest.layers;
    if !found.is_empty() {
        let root = Root::open(upper)?;
        let picks: Vec<Pick> = found.iter().map(pick).filter(|pick| is_kept(&root, pick)).collect();
        let newest = Timestamp(i64::MAX);
        let options = TarOptions { newest, started: newest, skip: &|_| false, extra: &[] };
        let layer =
            ingest.layer(Compression::Zstd(3), |out| write_picks(&root, out, &picks, &options).map(drop))?;
        config.rootfs.diff_ids.push(layer.diff_id);
        if let Some(step) = config.history.last_mut() {
            step.empty_layer = false;
        }
        layers.push(layer.descriptor);
    }
    Ok(put_image(&ingest, &config, layers, name)?.digest.to_string())
}

fn pick(change: &Change) -> Pick {
    match change.kind {
        ChangeKind::Deleted => Pick::Whiteout(change.path.clone()),
        ChangeKind::Modified | ChangeKind::Added => Pick::Path(change.path.clone()),
    }
}

/// A socket is nothing without its program.
fn is_kept(root: &Root, pick: &Pick) -> bool {
    match pick {
        Pick::Path(path) => root.lstat(path).is_ok_and(|meta| meta.kind != knarr_tree::unpack::Kind::Socket),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use knarr_oci::RunConfig;

    use super::merged;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn what_is_asked_for_wins_and_the_rest_is_the_containers() {
        let own = RunConfig {
            cmd: words("old"),
            env: words("A=1 B=2"),
            user: "u".to_owned(),
            ..RunConfig::default()
        };
        let new = RunConfig { env: words("B=3"), ..RunConfig::default() };
        let both = merged(new, own.clone());
        assert_eq!((both.cmd, both.env, both.user.as_str()), (words("old"), words("A=1 B=3"), "u"));
        let new = RunConfig { entrypoint: words("run"), ..RunConfig::default() };
        let both = merged(new, own);
        assert_eq!((both.entrypoint, both.cmd), (words("run"), Vec::new()));
    }
}
