//! Provenance: how an image was built, as others read it.
//!
//! [`statement`] is pure: an in-toto statement whose predicate is SLSA's. Nothing of the machine or of the hour is in
//! it, so that two builds of the same bytes say the same.
//!
//! Spec: in-toto Attestation Framework, Statement v1; SLSA Provenance v1; docs/formats/provenance.md.

use std::collections::BTreeSet;

use knarr_base::{Architecture, Digest, Timestamp};
use knarr_bootstrap::lock::Lock;
use knarr_mirror::suite::Suite;
use knarr_oci::Platform;
use knarr_recipe::{Recipe, recipe};
use serde_json::{Value, json};

use crate::FactoryError;
use crate::origin::{self, Origin};
use crate::sbom::{pool_url, public_mirror};

/// Media type, and artifact type of what carries it.
pub const MEDIA_TYPE: &str = "application/vnd.in-toto+json";
/// What the statement is about.
pub const PREDICATE: &str = "https://slsa.dev/provenance/v1";
/// The note by which others know what a statement is about.
pub const PREDICATE_ANNOTATION: &str = "in-toto.io/predicate-type";
const BUILD_TYPE: &str = "urn:knarr:build:v1";
const BUILDER: &str = "urn:knarr:builder:v1";

/// What a statement is made for.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// What the image is called without a registry.
    pub name: &'a str,
    /// Its manifest.
    pub image: Digest,
    /// For which machine it is.
    pub architecture: Architecture,
    /// Its time: what others take for the time of the build.
    pub created: Timestamp,
    /// The suite of its packages.
    pub suite: Option<&'a Suite>,
}

/// Writes the statement.
pub fn statement(subject: &Subject<'_>, origin: &Origin) -> Result<Vec<u8>, FactoryError> {
    let recipe = Digest::of(origin.recipe.to_text()?.as_bytes());
    let parameters = &origin.parameters;
    let time = subject.created.to_string();
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": subject.name, "digest": {"sha256": subject.image.hex()}}],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "recipe": {"name": subject.name, "digest": {"sha256": recipe.hex()}},
                    "target": origin.target().name(),
                    "platform": Platform::of(subject.architecture).to_string(),
                    "layers": parameters.layers,
                    "squash": parameters.squash,
                    "compression": parameters.compression,
                    "sourceDateEpoch": parameters.time,
                    "uid": parameters.uid,
                },
                "internalParameters": {},
                "resolvedDependencies": dependencies(subject, origin, recipe)?,
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"knarr": env!("CARGO_PKG_VERSION")}},
                "metadata": {"startedOn": time, "finishedOn": time},
            },
        },
    });
    Ok(statement.to_string().into_bytes())
}

fn dependencies(subject: &Subject<'_>, origin: &Origin, recipe: Digest) -> Result<Vec<Value>, FactoryError> {
    let mut all = vec![document("recipe.toml", recipe, origin::RECIPE)];
    let stages = origin.stages.iter().map(|(name, lock)| (format!("knarr.{name}.lock"), lock));
    let locks: Vec<(String, &Lock)> =
        origin.lock.iter().map(|lock| ("knarr.lock".to_owned(), lock)).chain(stages).collect();
    for (name, lock) in &locks {
        all.push(document(name, Digest::of(lock.to_text()?.as_bytes()), origin::LOCK));
        if let Some(suite) = subject.suite {
            all.extend(of_lock(suite, lock));
        }
    }
    all.extend(origin.parameters.context.iter().map(|file| {
        let kind = if file.directory { "knarrTree" } else { "sha256" };
        json!({"name": file.from, "digest": {kind: file.sha256.hex()}})
    }));
    all.extend(fetched(&origin.recipe));
    let mut seen = BTreeSet::new();
    // Stages have packages and releases in common with the image.
    all.retain(|one| seen.insert(one.to_string()));
    Ok(all)
}

fn document(name: &str, digest: Digest, media_type: &str) -> Value {
    json!({"name": name, "digest": {"sha256": digest.hex()}, "mediaType": media_type})
}

/// The signed releases, and each .deb, with the addresses where everybody finds them.
fn of_lock(suite: &Suite, lock: &Lock) -> Vec<Value> {
    let releases = lock.releases.iter().map(|release| {
        let mirror = public_mirror(suite, lock.architecture, release).trim_end_matches('/');
        let directory = if release.suite.ends_with('/') { "" } else { "dists/" };
        let place = release.suite.trim_start_matches("./").trim_matches('/');
        json!({
            "uri": format!("{mirror}/{directory}{place}{}Release", if place.is_empty() { "" } else { "/" }),
            "name": release.suite,
            // The digest is that of the signed text, which InRelease carries within its signature.
            "digest": {"sha256": release.digest.hex()},
            "annotations": {"date": release.date.to_string(), "keys": release.keys},
        })
    });
    let packages = lock.packages.iter().map(|package| {
        json!({
            "uri": pool_url(suite, lock.architecture, &lock.releases[package.release], &package.path),
            "name": format!("{} {} {}", package.name, package.version, package.architecture),
            "digest": {"sha256": package.sha256.hex()},
        })
    });
    releases.chain(packages).collect()
}

/// What the recipe and its stages say is fetched, by a digest that they say, too.
fn fetched(recipe: &Recipe) -> Vec<Value> {
    let stages = origin::reached_stages(recipe);
    let files = std::iter::once(recipe).chain(&stages).flat_map(|one| &one.files);
    let value = |file: &recipe::File| {
        let digest: Digest = file.sha256.as_deref()?.parse().ok()?;
        Some(json!({"uri": file.url.as_ref()?, "digest": {"sha256": digest.hex()}}))
    };
    files.filter_map(value).collect()
}
