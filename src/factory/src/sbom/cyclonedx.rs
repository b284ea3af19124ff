//! The bill as CycloneDX 1.6 JSON.
//!
//! A package's files are components in it, the image's own beside the packages.
//!
//! Spec: CycloneDX 1.6 (ECMA-424); its JSON Schema.

use serde_json::{Value, json};

use super::{Bill, Part, TOOL, TOOL_VERSION, person, system, web_address};
use crate::image_inventory::FileRecord;

/// Media type, and artifact type of what carries it.
pub const MEDIA_TYPE: &str = "application/vnd.cyclonedx+json";

/// Writes the document.
#[must_use]
pub fn write(bill: &Bill<'_>) -> Vec<u8> {
    let parts = bill.parts();
    let image = bill.purl();
    let mut components: Vec<Value> = Vec::new();
    if let Some((_, suite)) = bill.packages {
        let (name, version) = system(suite);
        components.push(json!({
            "type": "operating-system", "bom-ref": "operating-system", "name": name, "version": version,
            "properties": [{"name": "knarr:suite", "value": suite.name}],
        }));
    }
    components.extend(parts.iter().map(|part| component(bill, part)));
    components.extend(bill.own_files().map(|file| self::file(file, Some(&bill.made_by(file)))));
    let mut dependencies = vec![json!({
        "ref": image, "dependsOn": parts.iter().map(|part| &part.purl).collect::<Vec<_>>(),
    })];
    for (part, needs) in parts.iter().zip(bill.needs()) {
        let needs: Vec<&String> = needs.iter().map(|position| &parts[*position].purl).collect();
        dependencies.push(json!({"ref": part.purl, "dependsOn": needs}));
    }
    let value = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": format!("urn:uuid:{}", bill.uuid("cyclonedx")),
        "version": 1,
        "metadata": {
            "timestamp": bill.created.to_string(),
            "tools": {"components": [{"type": "application", "name": TOOL, "version": TOOL_VERSION}]},
            "component": {
                "type": "container",
                "bom-ref": image,
                "name": bill.name,
                "version": bill.image.to_string(),
                "purl": image,
                "hashes": [sha256(&bill.image.hex())],
            },
        },
        "components": components,
        "dependencies": dependencies,
    });
    value.to_string().into_bytes()
}

fn sha256(hex: &str) -> Value {
    json!({"alg": "SHA-256", "content": hex})
}

fn component(bill: &Bill<'_>, part: &Part<'_>) -> Value {
    let record = part.record;
    let mut value = json!({
        "type": "library",
        "bom-ref": part.purl,
        "name": record.name,
        "version": record.version,
        "purl": part.purl,
        "properties": [
            {"name": "knarr:architecture", "value": record.architecture},
            {"name": "knarr:source", "value": record.source},
            {"name": "knarr:source-version", "value": record.source_version},
        ],
    });
    if let Some(supplier) = supplier(&record.maintainer) {
        value["supplier"] = supplier;
    }
    if !record.licence.is_empty() {
        value["licenses"] = json!([{"expression": record.licence}]);
    }
    if let Some(locked) = part.locked {
        value["hashes"] = json!([sha256(&locked.sha256.hex())]);
    }
    let references = [("website", web_address(&record.homepage)), ("distribution", part.url.as_deref())];
    let references: Vec<Value> = references
        .into_iter()
        .filter_map(|(kind, url)| url.map(|url| json!({"type": kind, "url": url})))
        .collect();
    if !references.is_empty() {
        value["externalReferences"] = json!(references);
    }
    let files: Vec<Value> = bill.inventory.files_of(part.position).map(|one| file(one, None)).collect();
    if !files.is_empty() {
        value["components"] = json!(files);
    }
    value
}

fn supplier(maintainer: &str) -> Option<Value> {
    let (name, address) = person(maintainer);
    if name.is_empty() {
        return None;
    }
    let contact = address.map(|address| json!([{"email": address}]));
    Some(contact.map_or_else(|| json!({"name": name}), |contact| json!({"name": name, "contact": contact})))
}

fn file(file: &FileRecord, made_by: Option<&str>) -> Value {
    let mut value = json!({
        "type": "file",
        "bom-ref": format!("file:/{}", file.path),
        "name": format!("/{}", file.path),
        "hashes": [
            sha256(&file.sha256.map(|digest| digest.hex()).unwrap_or_default()),
            {"alg": "SHA-1", "content": file.sha1},
        ],
    });
    if let Some(made_by) = made_by {
        value["properties"] = json!([{"name": "knarr:made-by", "value": made_by}]);
    }
    value
}
