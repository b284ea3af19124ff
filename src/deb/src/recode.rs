//! A .deb in a form that unpacks fast: the same members, data compressed by zstd at its fastest.
//!
//! xz takes most of the time of unpacking; a cache may keep this form beside the package that it
//! was made of. It is a .deb like any other, so [`crate::package_file::with_package`] reads it.
//!
//! Spec: deb(5), ar's common format.

use std::io::{self, Seek, SeekFrom, Write};

use crate::package_file::ControlMember;

const LEVEL: i32 = 1;
const HEADER_BYTES: u64 = 60;

/// Writes one; what is written into it is the data member's tar.
pub struct Recoder<W: Write + Seek> {
    data: zstd::Encoder<'static, W>,
    /// Where the data member's header begins: its size is known in the end.
    header: u64,
}

impl<W: Write + Seek> Recoder<W> {
    /// Begins with the control member, uncompressed.
    pub fn new(mut out: W, control: &ControlMember) -> io::Result<Self> {
        out.write_all(b"!<arch>\n")?;
        write_member(&mut out, "debian-binary", b"2.0\n")?;
        write_member(&mut out, "control.tar", &control_tar(control)?)?;
        let header = out.stream_position()?;
        out.write_all(member_header("data.tar.zst", 0).as_bytes())?;
        let mut data = zstd::Encoder::new(out, LEVEL)?;
        // What a disk damaged must not come out as a package's file.
        data.include_checksum(true)?;
        Ok(Self { data, header })
    }

    /// Ends the data member.
    pub fn finish(self) -> io::Result<W> {
        let mut out = self.data.finish()?;
        let end = out.stream_position()?;
        let size = end - self.header - HEADER_BYTES;
        if size % 2 == 1 {
            out.write_all(b"\n")?;
        }
        out.seek(SeekFrom::Start(self.header))?;
        out.write_all(member_header("data.tar.zst", size).as_bytes())?;
        out.flush()?;
        Ok(out)
    }
}

impl<W: Write + Seek> Write for Recoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.data.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.data.flush()
    }
}

fn member_header(name: &str, size: u64) -> String {
    format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, "100644")
}

fn write_member(out: &mut impl Write, name: &str, bytes: &[u8]) -> io::Result<()> {
    out.write_all(member_header(name, bytes.len() as u64).as_bytes())?;
    out.write_all(bytes)?;
    out.write_all(if bytes.len() % 2 == 1 { b"\n" } else { b"" })
}

fn control_tar(control: &ControlMember) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut append = |name: &str, mode: u32, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(mode);
        tar.append_data(&mut header, name, bytes)
    };
    append("control", 0o644, control.control.as_bytes())?;
    control.files.iter().try_for_each(|file| append(&file.name, file.mode, &file.bytes))?;
    tar.into_inner()
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read, Write};

    use super::Recoder;
    use crate::DebError;
    use crate::package_file::{ControlFile, ControlMember, with_package};

    #[test]
    fn what_was_recoded_reads_as_before() {
        let file = ControlFile { name: "postinst".to_owned(), mode: 0o755, bytes: b"#!/bin/sh\n".to_vec() };
        let control = ControlMember { control: "Package: x\n".to_owned(), files: vec![file] };
        for length in [0_usize, 1, 70_001] {
            let data: Vec<u8> = (0..length).map(|number| (number % 251) as u8).collect();
            let mut recoder = Recoder::new(Cursor::new(Vec::new()), &control).unwrap();
            recoder.write_all(&data).unwrap();
            let bytes = recoder.finish().unwrap().into_inner();
            let read = |found: ControlMember, tar: &mut dyn Read| {
                assert_eq!((&found.control, &found.files), (&control.control, &control.files));
                let mut found = Vec::new();
                tar.read_to_end(&mut found).unwrap();
                Ok::<_, DebError>(found)
            };
            assert_eq!(with_package(&bytes[..], read).unwrap(), data);
            let mut damaged = bytes;
            let middle = damaged.len() - 5;
            damaged[middle] ^= 0xff;
            let outcome = with_package(&damaged[..], |_, tar| {
                std::io::copy(tar, &mut std::io::sink())
                    .map_err(|source| DebError::Read { member: "data", source })
            });
            assert!(outcome.is_err(), "{length}");
        }
    }
}
