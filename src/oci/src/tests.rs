use knarr_base::{Architecture, Digest, Timestamp};

use crate::{Descriptor, ImageConfig, ImageIndex, Manifest, Platform, Reference, manifest, media_type};

fn full(text: &str) -> String {
    Reference::parse(text).map_or_else(|error| error.to_string(), |reference| reference.to_string())
}

#[test]
fn short_names_become_full_as_docker_has_them() {
    let hex = "a".repeat(64);
    for (text, expected) in [
        ("busybox", "docker.io/library/busybox:latest"),
        ("me/app:1.2", "docker.io/me/app:1.2"),
        ("index.docker.io/me/app", "docker.io/me/app:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/a/b:t", "localhost:5000/a/b:t"),
        ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest"),
        ("[::1]:5000/a:t", "[::1]:5000/a:t"),
        ("ghcr.io/x/y", "ghcr.io/x/y:latest"),
        ("a__b/c-d--e.f", "docker.io/a__b/c-d--e.f:latest"),
    ] {
        assert_eq!(full(text), expected);
        assert_eq!(full(expected), expected);
    }
    assert_eq!(full(&format!("x@sha256:{hex}")), format!("docker.io/library/x@sha256:{hex}"));
    assert_eq!(full(&format!("x:t@sha256:{hex}")), format!("docker.io/library/x:t@sha256:{hex}"));
}

#[test]
fn what_is_no_name_is_refused_with_its_reason() {
    for (text, reason) in [
        ("", "empty"),
        ("Busybox", "lower case"),
        ("a/../b", "parts of a repository"),
        ("a//b", "parts of a repository"),
        ("a___b", "parts of a repository"),
        ("-a", "parts of a repository"),
        ("a:", "a tag is"),
        ("a:.b", "a tag is"),
        ("a@md5:00", "after @"),
        ("a@sha256:12", "64 hexadecimal"),
        ("localhost:99999/a", "parts of a repository"),
        (&"a".repeat(300), "longer than"),
    ] {
        assert!(full(text).contains(reason), "{text}: {}", full(text));
    }
}

#[test]
fn familiar_names_leave_out_what_is_understood() {
    let familiar = |text: &str| Reference::parse(text).unwrap().familiar_name();
    assert_eq!(familiar("docker.io/library/nginx"), "nginx");
    assert_eq!(familiar("docker.io/me/app"), "me/app");
    assert_eq!(familiar("localhost/app"), "localhost/app");
}

#[test]
fn debian_names_are_platforms_too() {
    let shown = |text: &str| text.parse::<Platform>().unwrap().to_string();
    assert_eq!(shown("armhf"), "linux/arm/v7");
    assert_eq!(shown("linux/arm64/v8"), "linux/arm64/v8");
    assert!("linux/arm64".parse::<Platform>().unwrap().serves(&"linux/arm64/v8".parse().unwrap()));
    assert!("//".parse::<Platform>().is_err());
    assert_eq!("linux/arm64/v8".parse::<Platform>().unwrap().debian().unwrap().name(), "arm64");
}

#[test]
fn configurations_of_others_are_read_with_their_nulls() {
    let text = br#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Cmd":["sh"],"ExposedPorts":{"80/tcp":{}},
        "Labels":null,"Entrypoint":null,"ArgsEscaped":true},"rootfs":{"type":"layers","diff_ids":null},"history":null,"docker_version":"1"}"#;
    let config = ImageConfig::parse(text).unwrap();
    assert_eq!(config.config.cmd, ["sh"]);
    assert!(config.config.exposed_ports.contains_key("80/tcp"));
    assert!(config.other.contains_key("docker_version") && config.config.other.contains_key("ArgsEscaped"));
}

#[test]
fn documents_survive_being_written_and_read() {
    let mut config = ImageConfig::new(Architecture::native(), Timestamp(0));
    config.push_layer(Digest::of(b"layer"), "made");
    assert_eq!(ImageConfig::parse(&config.to_bytes()).unwrap(), config);
    let blob = Descriptor::of(media_type::CONFIG, &config.to_bytes());
    let image = Manifest::of_image(blob.clone(), vec![Descriptor::of(media_type::LAYER, b"layer")]);
    assert_eq!(Manifest::parse(&image.to_bytes()).unwrap(), image);
    assert_eq!(manifest::sniff(&image.to_bytes()), Some(media_type::MANIFEST));
    let index = ImageIndex::of(vec![Descriptor::of(media_type::MANIFEST, &image.to_bytes())]);
    assert_eq!(ImageIndex::parse(&index.to_bytes()).unwrap(), index);
    assert_eq!(manifest::sniff(&index.to_bytes()), Some(media_type::INDEX));
    assert!(Manifest::parse(&index.to_bytes()).is_err());
    assert!(ImageIndex::parse(br#"{"schemaVersion":1}"#).unwrap_err().to_string().contains("expected 2"));
}
