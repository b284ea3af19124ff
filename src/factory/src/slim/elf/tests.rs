use std::path::Path;
use std::process::Command;

use super::{Elf, parse};

/// Compiles a text with the machine's compiler.
fn compiled(directory: &Path, source: &str, arguments: &[&str]) -> Vec<u8> {
    let (from, to) = (directory.join("source.c"), directory.join("made"));
    std::fs::write(&from, source).unwrap();
    let status = Command::new("gcc").arg(&from).arg("-o").arg(&to).args(arguments).status().unwrap();
    assert!(status.success());
    std::fs::read(to).unwrap()
}

fn read(bytes: &[u8]) -> Elf {
    parse(bytes).unwrap().unwrap()
}

#[test]
fn a_program_names_its_interpreter_libraries_and_paths() {
    let directory = tempfile::tempdir().unwrap();
    let own = "-Wl,--no-as-needed,-lm,--enable-new-dtags,-rpath,$ORIGIN/../lib:/opt/x";
    let program = read(&compiled(directory.path(), "int main(void) { return 0; }\n", &[own]));
    assert!(program.interpreter.unwrap().starts_with("/lib"));
    assert!(
        program.needed.contains(&"libm.so.6".to_owned()) && program.needed.contains(&"libc.so.6".to_owned())
    );
    assert_eq!(program.runpath, ["$ORIGIN/../lib", "/opt/x"]);
    assert!(program.rpath.is_empty() && program.soname.is_none() && !program.unwinds);
    let old = ["-Wl,--disable-new-dtags,-rpath,/old"];
    let program = read(&compiled(directory.path(), "int main(void) { return 0; }\n", &old));
    assert_eq!((program.rpath, program.runpath), (vec!["/old".to_owned()], Vec::new()));
}

#[test]
fn a_library_names_itself_and_what_it_opens() {
    let directory = tempfile::tempdir().unwrap();
    let note = r#"[{\"feature\":\"zip\",\"priority\":\"required\",\"soname\":[\"libz.so.2\",\"libz.so.1\"]},{\"soname\":[\"libb.so\"],\"priority\":\"suggested\"}]"#;
    let source = format!(
        "#include <pthread.h>\nvoid *end(void *x) {{ pthread_exit(x); }}\n\
         __asm__(\".pushsection .note.dlopen,\\\"a\\\",@note\\n.balign 4\\n.long 4, 2f-1f, 0x407c0c0a\\n.asciz \\\"FDO\\\"\\n\
         1: .asciz \\\"{}\\\"\\n2: .balign 4\\n.popsection\\n\");\n",
        note.replace("\\\"", "\\\\\\\"")
    );
    let library =
        read(&compiled(directory.path(), &source, &["-shared", "-fPIC", "-Wl,-soname,libown.so.3"]));
    assert_eq!(library.soname.as_deref(), Some("libown.so.3"));
    assert_eq!(library.interpreter, None);
    assert!(library.unwinds);
    let opened: Vec<(&str, bool)> =
        library.dlopens.iter().map(|one| (one.soname[0].as_str(), one.is_optional())).collect();
    assert_eq!(opened, [("libz.so.2", false), ("libb.so", true)]);
}

#[test]
fn a_static_program_asks_for_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let program = read(&compiled(directory.path(), "int main(void) { return 0; }\n", &["-static"]));
    assert_eq!((program.interpreter, program.needed), (None, Vec::new()));
}

#[test]
fn what_is_no_elf_file_is_none_and_what_is_damaged_is_told() {
    assert_eq!(parse(&b"#!/bin/sh\n"[..]).unwrap(), None);
    assert_eq!(parse(&b""[..]).unwrap(), None);
    let directory = tempfile::tempdir().unwrap();
    let whole = compiled(directory.path(), "int main(void) { return 0; }\n", &[]);
    let mut told = 0;
    for end in (64..whole.len()).step_by(whole.len() / 64) {
        told += usize::from(parse(&whole[..end]).is_err());
    }
    assert!(told > 0);
    for at in (0..whole.len().min(4096)).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0xff;
        let _ = parse(damaged.as_slice());
    }
}
