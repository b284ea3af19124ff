use std::collections::BTreeMap;
use std::path::Path;

use knarr_base::{Architecture, Digest, Timestamp};
use knarr_bootstrap::lock::Lock;
use knarr_mirror::suite::Suite;
use serde_json::Value;

use super::{Bill, cyclonedx, person, spdx, web_address};
use crate::image_inventory::{FileRecord, INVENTORY_VERSION, ImageInventory, LayerNote};
use crate::inventory::Record;

fn record(name: &str, depends: &[&str], licence: &str) -> Record {
    Record {
        name: name.to_owned(),
        version: "1:2.0+b~1".to_owned(),
        architecture: "amd64".to_owned(),
        source: "src".to_owned(),
        source_version: "2.0".to_owned(),
        maintainer: "Some Team <team@example.org>".to_owned(),
        homepage: "https://example.org/".to_owned(),
        licence: licence.to_owned(),
        depends: depends.iter().map(|name| (*name).to_owned()).collect(),
        provides: vec![format!("{name}-virtual")],
        files: Vec::new(),
    }
}

fn file(path: &str, package: Option<usize>, step: Option<usize>) -> FileRecord {
    FileRecord {
        path: path.to_owned(),
        package,
        step,
        sha256: Some(Digest::of(path.as_bytes())),
        sha1: format!("{:040x}", path.len()),
        ..FileRecord::default()
    }
}

fn inventory() -> ImageInventory {
    ImageInventory {
        version: INVENTORY_VERSION,
        layers: vec![LayerNote { digest: Digest::of(b"layer"), created_by: "x".to_owned() }],
        steps: vec!["RUN x".to_owned()],
        packages: vec![
            record("a", &["b-virtual", "gone"], "MIT"),
            record("b", &[], "LicenseRef-own-1"),
            record("c", &[], ""),
        ],
        files: vec![
            FileRecord { link: "usr/bin".to_owned(), path: "bin".to_owned(), ..FileRecord::default() },
            file("etc/own", None, Some(0)),
            file("usr/bin/a", Some(0), None),
            file("usr/bin/changed", Some(1), Some(0)),
            file("usr/lib/b.so", Some(1), None),
        ],
    }
}

fn lock() -> Lock {
    let text = format!(
        "version = 1\nsuite = \"trixie\"\narchitecture = \"amd64\"\nvariant = \"custom\"\ntime = 1\n\
         [[release]]\nsuite = \"trixie-security\"\nmirrors = [\"http://near.example\"]\ncomponents = []\ndate = 5\ndigest = \"{0:064}\"\n\
         [[package]]\nname = \"a\"\nversion = \"1:2.0+b~1\"\narchitecture = \"amd64\"\nrelease = 0\npath = \"pool/a_2.0+b~1.deb\"\nsize = 1\nsha256 = \"{0:064}\"\n",
        0
    );
    Lock::parse(Path::new("test"), &text).unwrap()
}

/// Both documents of one bill.
fn documents() -> (Value, Value) {
    let (inventory, lock, suite) = (inventory(), lock(), Suite::find("trixie").unwrap());
    let texts = BTreeMap::from([("LicenseRef-own-1".to_owned(), "Do as you like.".to_owned())]);
    let bill = Bill {
        name: "App",
        image: Digest::of(b"image"),
        architecture: Architecture::native(),
        created: Timestamp(0),
        inventory: &inventory,
        texts: &texts,
        packages: Some((&lock, &suite)),
    };
    assert_eq!(spdx::write(&bill), spdx::write(&bill));
    let parse = |bytes: Vec<u8>| serde_json::from_slice(&bytes).unwrap();
    (parse(spdx::write(&bill)), parse(cyclonedx::write(&bill)))
}

fn by<'a>(list: &'a Value, key: &str, value: &str) -> &'a Value {
    list.as_array().unwrap().iter().find(|one| one[key] == value).unwrap()
}

const PURL: &str = "pkg:deb/debian/a@1%3A2.0%2Bb~1?arch=amd64&distro=debian-13";
const POOL: &str = "/pool/a_2.0+b~1.deb";

#[test]
fn an_spdx_document_has_what_the_specification_asks_for() {
    let (document, _) = documents();
    for (key, value) in
        [("spdxVersion", "SPDX-2.3"), ("dataLicense", "CC0-1.0"), ("SPDXID", "SPDXRef-DOCUMENT")]
    {
        assert_eq!(document[key], value);
    }
    let a = by(&document["packages"], "name", "a");
    assert_eq!(a["externalRefs"][0]["referenceLocator"], PURL);
    assert!(a["downloadLocation"].as_str().unwrap().ends_with(POOL));
    assert!(!a["downloadLocation"].as_str().unwrap().contains("near.example"), "{a}");
    assert_eq!(
        (&a["supplier"], &a["licenseDeclared"]),
        (&"Organization: Some Team (team@example.org)".into(), &"MIT".into())
    );
    // Clause 7.9: SHA-1 over the files' sums, sorted; here of one file.
    let code = &a["packageVerificationCode"]["packageVerificationCodeValue"];
    assert_eq!((code.as_str().unwrap().len(), &a["filesAnalyzed"]), (40, &true.into()));
    let c = by(&document["packages"], "name", "c");
    assert_eq!((&c["filesAnalyzed"], &c["packageVerificationCode"]), (&false.into(), &Value::Null));
    assert_eq!(document["hasExtractedLicensingInfos"][0]["licenseId"], "LicenseRef-own-1");
    for file in document["files"].as_array().unwrap() {
        assert_eq!(file["checksums"][0]["algorithm"], "SHA1", "clause 8.4 asks for it");
        assert!(file["fileName"].as_str().unwrap().starts_with("./"));
    }
}

#[test]
fn relationships_name_elements_that_are_there_and_each_file_once() {
    let (document, _) = documents();
    let mut ids: Vec<&str> = vec!["SPDXRef-DOCUMENT"];
    for list in ["packages", "files"] {
        ids.extend(document[list].as_array().unwrap().iter().map(|one| one["SPDXID"].as_str().unwrap()));
    }
    let relations = document["relationships"].as_array().unwrap();
    let mut contained = Vec::new();
    for relation in relations {
        for end in ["spdxElementId", "relatedSpdxElement"] {
            assert!(ids.contains(&relation[end].as_str().unwrap()), "{relation}");
        }
        if relation["relatedSpdxElement"].as_str().unwrap().starts_with("SPDXRef-File-") {
            contained.push((
                relation["spdxElementId"].as_str().unwrap(),
                relation["relatedSpdxElement"].as_str().unwrap(),
            ));
        }
    }
    assert_eq!(contained.len(), 4);
    let owner = |name: &str| {
        let id = &by(&document["files"], "fileName", name)["SPDXID"];
        contained.iter().find(|(_, file)| file == id).unwrap().0
    };
    assert_eq!(owner("./usr/bin/a"), "SPDXRef-Package-0");
    // What a step changed is no longer the package's.
    assert_eq!((owner("./usr/bin/changed"), owner("./etc/own")), ("SPDXRef-Image", "SPDXRef-Image"));
    let needs: Vec<_> = relations.iter().filter(|one| one["relationshipType"] == "DEPENDS_ON").collect();
    assert_eq!(needs.len(), 1);
    assert_eq!(needs[0]["relatedSpdxElement"], "SPDXRef-Package-1");
}

#[test]
fn a_cyclonedx_document_has_what_the_specification_asks_for() {
    let (_, document) = documents();
    assert_eq!((&document["bomFormat"], &document["specVersion"]), (&"CycloneDX".into(), &"1.6".into()));
    let serial = document["serialNumber"].as_str().unwrap();
    assert!(
        serial.starts_with("urn:uuid:") && serial.len() == 45 && serial.as_bytes()[23] == b'8',
        "{serial}"
    );
    let a = by(&document["components"], "name", "a");
    assert_eq!((&a["purl"], &a["bom-ref"]), (&PURL.into(), &PURL.into()));
    assert_eq!(a["licenses"][0]["expression"], "MIT");
    assert_eq!(a["components"][0]["name"], "/usr/bin/a");
    assert_eq!(by(&document["components"], "name", "/etc/own")["properties"][0]["value"], "RUN x");
    let changed = by(&document["components"], "name", "/usr/bin/changed");
    assert_eq!(changed["properties"][0]["value"], "RUN x, in place of a file of b");
    let b = by(&document["components"], "name", "b")["purl"].clone();
    assert_eq!(by(&document["dependencies"], "ref", PURL)["dependsOn"], Value::Array(vec![b]));
    assert_eq!(by(&document["components"], "type", "operating-system")["version"], "13");
    let mut refs: Vec<String> = Vec::new();
    collect_refs(&document, &mut refs);
    let count = refs.len();
    refs.sort();
    refs.dedup();
    assert_eq!(refs.len(), count, "each bom-ref once");
}

fn collect_refs(value: &Value, refs: &mut Vec<String>) {
    if let Some(own) = value["bom-ref"].as_str() {
        refs.push(own.to_owned());
    }
    let inner = value["components"].as_array().into_iter().flatten();
    inner
        .chain(value["metadata"]["component"].as_object().map(|_| &value["metadata"]["component"]))
        .for_each(|one| collect_refs(one, refs));
}

#[test]
fn what_people_typed_is_used_only_where_it_fits() {
    assert_eq!(person("A B <a@b.c>"), ("A B", Some("a@b.c")));
    assert_eq!(person("nobody"), ("nobody", None));
    assert_eq!(web_address("https://example.org/x?y=1#z"), Some("https://example.org/x?y=1#z"));
    for bad in ["example.org", "https://a b", "javascript:x", "https://x/\"", "https://[x"] {
        assert_eq!(web_address(bad), None, "{bad}");
    }
}
