use super::*;

fn tarball(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn deb(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = ar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let header = ar::Header::new(name.as_bytes().to_vec(), bytes.len() as u64);
        builder.append(&header, bytes.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn open(bytes: &[u8]) -> Result<(ControlMember, Vec<u8>), DebError> {
    with_package(bytes, |control, data| {
        let mut all = Vec::new();
        data.read_to_end(&mut all).map_err(|source| DebError::Read { member: "data", source })?;
        Ok((control, all))
    })
}

fn parts() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let control = tarball(&[("./control", b"Package: a\n"), ("./postinst", b"#!/bin/sh\n")]);
    (b"2.0\n".to_vec(), control, tarball(&[("./usr/a", b"x")]))
}

#[test]
fn every_compression_gives_the_same_data() {
    let (format, control, data) = parts();
    let packed: [(&str, Vec<u8>); 4] = [
        ("data.tar", data.clone()),
        ("data.tar.gz", {
            let mut gz = flate2::read::GzEncoder::new(data.as_slice(), flate2::Compression::fast());
            let mut out = Vec::new();
            gz.read_to_end(&mut out).unwrap();
            out
        }),
        ("data.tar.xz", {
            let mut out = Vec::new();
            xz2::read::XzEncoder::new(data.as_slice(), 1).read_to_end(&mut out).unwrap();
            out
        }),
        ("data.tar.zst", zstd::encode_all(data.as_slice(), 1).unwrap()),
    ];
    for (name, bytes) in packed {
        let bytes = deb(&[
            ("debian-binary", format.clone()),
            ("_extra", vec![1]),
            ("control.tar", control.clone()),
            (name, bytes),
        ]);
        let (member, found) = open(&bytes).unwrap();
        assert_eq!(found, data, "{name}");
        assert_eq!(member.control, "Package: a\n");
        assert_eq!((member.files[0].name.as_str(), member.files[0].mode), ("postinst", 0o755));
    }
}

#[test]
fn broken_packages_are_refused_with_a_reason() {
    let (format, control, data) = parts();
    let check = |members: &[(&str, Vec<u8>)], expected: &str| {
        let error = open(&deb(members)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(&[("debian-binary", b"3.0\n".to_vec())], "3.0");
    check(&[("control.tar", control.clone())], "debian-binary");
    check(&[("debian-binary", format.clone())], "control.tar");
    check(&[("debian-binary", format.clone()), ("data.tar", data.clone())], "control.tar");
    check(&[("debian-binary", format.clone()), ("control.tar", tarball(&[("./../x", b"")]))], "plain files");
    check(&[("debian-binary", format.clone()), ("control.tar", tarball(&[]))], "no control file");
    check(&[("debian-binary", format), ("control.tar", control), ("data.tar.bz2", data)], "bz2");
    assert!(open(b"not an archive at all").is_err());
}
