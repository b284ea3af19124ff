//! The bill as SPDX 2.3 JSON.
//!
//! Files of a package are those that are in the image as the package brought them; a package of which no file is there
//! says that its files were not analysed, as the specification asks. All other files are the image's own.
//!
//! Spec: SPDX 2.3, clauses 6 to 11; its JSON Schema.

use serde_json::{Value, json};
use sha1::{Digest as _, Sha1};

use super::{Bill, Part, TOOL, TOOL_VERSION, person, system, web_address};
use crate::contents::hex;
use crate::image_inventory::FileRecord;

const NONE: &str = "NOASSERTION";
const IMAGE: &str = "SPDXRef-Image";
const SYSTEM: &str = "SPDXRef-OperatingSystem";

/// Media type, and artifact type of what carries it.
pub const MEDIA_TYPE: &str = "application/spdx+json";

/// Writes the document.
#[must_use]
pub fn write(bill: &Bill<'_>) -> Vec<u8> {
    let parts = bill.parts();
    let mut document = Document::default();
    document.image(bill);
    parts.iter().for_each(|part| document.part(bill, part));
    for (position, needs) in bill.needs().iter().enumerate() {
        needs.iter().for_each(|needed| document.relate(&package(position), "DEPENDS_ON", &package(*needed)));
    }
    let texts = bill.texts.iter().map(|(name, text)| json!({"licenseId": name, "extractedText": text}));
    let value = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": bill.name,
        "documentNamespace": format!("https://spdx.org/spdxdocs/{TOOL}-{}", bill.uuid("spdx")),
        "creationInfo": {
            "created": bill.created.to_string(),
            "creators": [format!("Tool: {TOOL}-{TOOL_VERSION}")],
        },
        "packages": document.packages,
        "files": document.files,
        "hasExtractedLicensingInfos": texts.collect::<Vec<_>>(),
        "relationships": document.relations,
    });
    value.to_string().into_bytes()
}

#[derive(Default)]
struct Document {
    packages: Vec<Value>,
    files: Vec<Value>,
    relations: Vec<Value>,
}

fn package(position: usize) -> String {
    format!("SPDXRef-Package-{position}")
}

impl Document {
    fn relate(&mut self, from: &str, kind: &str, to: &str) {
        self.relations.push(json!({
            "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to,
        }));
    }

    fn image(&mut self, bill: &Bill<'_>) {
        self.relate("SPDXRef-DOCUMENT", "DESCRIBES", IMAGE);
        let own: Vec<&FileRecord> = bill.own_files().collect();
        let mut image = json!({
            "SPDXID": IMAGE,
            "name": bill.name,
            "versionInfo": bill.image.to_string(),
            "primaryPackagePurpose": "CONTAINER",
            "downloadLocation": NONE,
            "licenseConcluded": NONE,
            "licenseDeclared": NONE,
            "copyrightText": NONE,
            "checksums": [{"algorithm": "SHA256", "checksumValue": bill.image.hex()}],
            "externalRefs": [purl(&bill.purl())],
        });
        analysed(&mut image, &own);
        self.packages.push(image);
        if let Some((_, suite)) = bill.packages {
            let (name, version) = system(suite);
            self.packages.push(json!({
                "SPDXID": SYSTEM,
                "name": name,
                "versionInfo": version,
                "primaryPackagePurpose": "OPERATING_SYSTEM",
                "downloadLocation": NONE,
                "filesAnalyzed": false,
                "licenseConcluded": NONE,
                "licenseDeclared": NONE,
                "copyrightText": NONE,
                "comment": format!("suite {}", suite.name),
            }));
            self.relate(IMAGE, "CONTAINS", SYSTEM);
        }
        for file in own {
            self.file(IMAGE, file, Some(&bill.made_by(file)));
        }
    }

    fn part(&mut self, bill: &Bill<'_>, part: &Part<'_>) {
        let (id, record) = (package(part.position), part.record);
        let files: Vec<&FileRecord> = bill.inventory.files_of(part.position).collect();
        let licence = if record.licence.is_empty() { NONE } else { &record.licence };
        let mut value = json!({
            "SPDXID": id,
            "name": record.name,
            "versionInfo": record.version,
            "primaryPackagePurpose": "LIBRARY",
            "supplier": supplier(&record.maintainer),
            "downloadLocation": part.url.as_deref().unwrap_or(NONE),
            "licenseConcluded": NONE,
            "licenseDeclared": licence,
            "licenseComments": format!("what /usr/share/doc/{}/copyright of the package says", record.name),
            "copyrightText": NONE,
            "sourceInfo": format!("built from: {} {}", record.source, record.source_version),
            "externalRefs": [purl(&part.purl)],
        });
        if let Some(homepage) = web_address(&record.homepage) {
            value["homepage"] = json!(homepage);
        }
        if let Some(locked) = part.locked {
            value["packageFileName"] = json!(locked.path.rsplit('/').next());
            value["checksums"] = json!([{"algorithm": "SHA256", "checksumValue": locked.sha256.hex()}]);
        }
        analysed(&mut value, &files);
        self.packages.push(value);
        self.relate(IMAGE, "CONTAINS", &id);
        for file in files {
            self.file(&id, file, None);
        }
    }

    fn file(&mut self, of: &str, file: &FileRecord, comment: Option<&str>) {
        let id = format!("SPDXRef-File-{}", self.files.len());
        let mut value = json!({
            "SPDXID": id,
            "fileName": format!("./{}", file.path),
            "checksums": [
                {"algorithm": "SHA1", "checksumValue": file.sha1},
                {"algorithm": "SHA256", "checksumValue": file.sha256.map(|digest| digest.hex())},
            ],
            "licenseConcluded": NONE,
            "licenseInfoInFiles": [NONE],
            "copyrightText": NONE,
        });
        if let Some(comment) = comment {
            value["comment"] = json!(comment);
        }
        self.files.push(value);
        self.relate(of, "CONTAINS", &id);
    }
}

/// Says that the files were looked at, with the code over all of them; without any file they were not.
fn analysed(package: &mut Value, files: &[&FileRecord]) {
    package["filesAnalyzed"] = json!(!files.is_empty());
    if files.is_empty() {
        return;
    }
    package["licenseInfoFromFiles"] = json!([NONE]);
    let mut sums: Vec<&str> = files.iter().map(|file| file.sha1.as_str()).collect();
    sums.sort_unstable();
    let code = hex(&Sha1::digest(sums.concat().as_bytes()));
    package["packageVerificationCode"] = json!({"packageVerificationCodeValue": code});
}

fn purl(locator: &str) -> Value {
    json!({"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": locator})
}

/// SPDX wants to know whether it is a person: teams have names that say so.
fn supplier(maintainer: &str) -> String {
    let (name, address) = person(maintainer);
    if name.is_empty() {
        return NONE.to_owned();
    }
    const TEAMS: [&str; 8] =
        ["team", "maintainers", "group", "developers", "project", "packagers", "debian", "ubuntu"];
    let lower = name.to_lowercase();
    let kind = if TEAMS.iter().any(|word| lower.contains(word)) { "Organization" } else { "Person" };
    // Parentheses enclose the address.
    let name: String = name.chars().filter(|c| !matches!(c, '(' | ')')).collect();
    format!("{kind}: {name}{}", address.map(|address| format!(" ({address})")).unwrap_or_default())
}
