//! Lists and logins: what a registry has, and whether it knows us.

use knarr_base::Digest;
use knarr_oci::{
    Descriptor, ImageConfig, ImageIndex, MAX_CONFIG_BYTES, Manifest, Platform, Reference, media_type,
};
use reqwest::Method;
use serde::Deserialize;

use crate::RegistryError;
use crate::client::Client;
use crate::client::endpoint::{Call, read};
use crate::client::repository::{Repository, too_many};
use crate::credentials::Credential;

#[derive(Deserialize)]
struct Tags {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Catalog {
    #[serde(default)]
    repositories: Option<Vec<String>>,
}

/// Names in a list.
const MAX_NAMES: usize = 500_000;

impl Client {
    /// The tags of a repository.
    pub fn tags(&self, reference: &Reference) -> Result<Vec<String>, RegistryError> {
        let wire = self.wire();
        let repository =
            Repository::new(self.endpoint(&wire, reference.registry())?, reference.repository(), "pull");
        let url = repository.endpoint.repository_url(&repository.name, "tags/list?n=1000")?;
        let mut found = Vec::new();
        self.runtime.block_on(repository.pages(&wire, url, &repository.scope, &mut |what, bytes| {
            let page: Tags = parse(what, bytes)?;
            found.extend(
                page.tags.unwrap_or_default().into_iter().filter(|tag| knarr_oci::reference::is_tag(tag)),
            );
            too_many(what, found.len(), MAX_NAMES, "tags")
        }))?;
        // The specification wants them sorted; not every registry knows.
        found.sort_unstable();
        Ok(found)
    }

    /// The repositories of a registry, if it tells.
    pub fn repositories(&self, registry: &str) -> Result<Vec<String>, RegistryError> {
        let wire = self.wire();
        let endpoint = self.endpoint(&wire, registry)?;
        let url = endpoint.url("v2/_catalog?n=1000")?;
        let repository = Repository::new(endpoint, "", "");
        let mut found = Vec::new();
        self.runtime.block_on(repository.pages(&wire, url, "registry:catalog:*", &mut |what, bytes| {
            let page: Catalog = parse(what, bytes)?;
            let names = page.repositories.unwrap_or_default().into_iter();
            found.extend(names.filter(|name| knarr_oci::reference::is_repository(name)));
            too_many(what, found.len(), MAX_NAMES, "repositories")
        }))?;
        found.sort_unstable();
        Ok(found)
    }

    /// What has a name at a registry: its manifest or index, and for which machines it is.
    pub fn inspect(&self, reference: &Reference) -> Result<(Descriptor, Vec<Platform>), RegistryError> {
        let wire = self.wire();
        let repository =
            Repository::new(self.endpoint(&wire, reference.registry())?, reference.repository(), "pull");
        let (root, bytes) =
            self.runtime.block_on(repository.manifest(&wire, &reference.version(), reference.digest()))?;
        if media_type::is_index(&root.media_type) {
            let entries = ImageIndex::parse(&bytes)?.manifests;
            return Ok((root, entries.into_iter().filter_map(|entry| entry.platform).collect()));
        }
        let config = Manifest::parse(&bytes)?.config;
        if !media_type::is_config(&config.media_type) || config.size > MAX_CONFIG_BYTES {
            return Ok((root, Vec::new()));
        }
        let what = format!("configuration {} of {reference}", config.digest);
        let bytes = self.runtime.block_on(async {
            let response = repository.blob(&wire, &config, 0, None).await?;
            read(&wire, response, &what, MAX_CONFIG_BYTES).await
        })?;
        if Digest::of(&bytes) != config.digest {
            let (promised, found) = (config.digest.to_string(), Digest::of(&bytes).to_string());
            return Err(RegistryError::WrongBytes { what, promised, found });
        }
        Ok((root, vec![ImageConfig::parse(&bytes)?.platform()]))
    }

    /// Whether a registry lets this user in. Answers whether it asked at all.
    pub fn login(&self, registry: &str, credential: &Credential) -> Result<bool, RegistryError> {
        let wire = self.wire();
        let endpoint = self.endpoint(&wire, registry)?;
        self.runtime.block_on(async {
            endpoint.set_credential(credential.clone()).await;
            let call = Call::new(Method::GET, endpoint.url("v2/")?, "");
            endpoint.ask(&wire, &call, &[200]).await?;
            Ok(endpoint.has_asked().await)
        })
    }
}

fn parse<'de, T: Deserialize<'de>>(what: &str, bytes: &'de [u8]) -> Result<T, RegistryError> {
    let bad =
        |error: serde_json::Error| RegistryError::Answer { what: what.to_owned(), reason: error.to_string() };
    serde_json::from_slice(bytes).map_err(bad)
}
