//! Programs of another architecture, run by qemu's user emulation.
//!
//! Since Linux 6.7 every user namespace has handlers of its own, so nothing of the machine is
//! changed: the handler is registered in the sandbox's namespace and goes with it. It is opened when
//! it is registered, so the root needs no copy of it.
//!
//! Spec: Linux's admin-guide/binfmt-misc.rst; ELF gABI for the magic.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::LinuxError;

/// Where the kernel's handlers are mounted.
pub const HANDLERS: &str = "/proc/sys/fs/binfmt_misc";

/// An emulator of one architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emulator {
    /// The architecture, as qemu calls it.
    pub name: String,
    /// The program.
    pub program: PathBuf,
}

impl Emulator {
    /// Whether this machine runs programs of qemu's architecture `name` by a handler of its own.
    #[must_use]
    pub fn is_registered(name: &str) -> bool {
        Path::new(HANDLERS).join(format!("qemu-{name}")).exists()
    }

    /// The emulator of qemu's architecture `name`, if it is installed and the kernel can use it.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        magic_of(name)?;
        let directories = ["/usr/local/bin", "/usr/bin"].into_iter().map(PathBuf::from);
        let programs = directories.flat_map(|directory| {
            [format!("qemu-{name}-static"), format!("qemu-{name}")].map(|program| directory.join(program))
        });
        let program = programs.into_iter().find(|program| program.exists())?;
        Path::new(HANDLERS).is_dir().then(|| Self { name: name.to_owned(), program })
    }

    pub(crate) fn to_arguments(&self) -> [OsString; 2] {
        [OsString::from(&self.name), self.program.clone().into_os_string()]
    }

    pub(crate) fn from_arguments(arguments: &mut dyn Iterator<Item = OsString>) -> Option<Self> {
        let (name, program) = (arguments.next()?, arguments.next()?);
        if name.is_empty() {
            return None;
        }
        Some(Self { name: name.into_string().ok()?, program: program.into() })
    }

    /// Registers the emulator in this process's user namespace.
    pub(crate) fn register(&self) -> Result<(), LinuxError> {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let mounted = mount(Some("knarr"), HANDLERS, Some("binfmt_misc"), flags, None::<&str>);
        mounted
            .map_err(io::Error::from)
            .map_err(LinuxError::step("mount the handlers of other architectures (this needs Linux 6.7)"))?;
        let (magic, mask) = magic_of(&self.name).unwrap_or_default();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
        let program = self.program.display();
        let line = format!(":qemu-{}:M::{}:{}:{program}:F", self.name, hex(&magic), hex(&mask));
        let registered = std::fs::write(Path::new(HANDLERS).join("register"), line);
        registered.map_err(LinuxError::step(format!("register {program}")))
    }
}

/// The first 20 bytes of the architecture's programs, and which of their bits count.
fn magic_of(name: &str) -> Option<([u8; 20], [u8; 20])> {
    let (is_64, is_big, machine) = match name {
        "aarch64" => (true, false, 183),
        "arm" => (false, false, 40),
        "i386" => (false, false, 3),
        "loongarch64" => (true, false, 258),
        "mips64el" => (true, false, 8),
        "ppc64le" => (true, false, 21),
        "riscv64" => (true, false, 243),
        "s390x" => (true, true, 22),
        "x86_64" => (true, false, 62),
        _ => return None,
    };
    let order = |number: u16| if is_big { number.to_be_bytes() } else { number.to_le_bytes() };
    let mut magic = [0; 20];
    magic[..4].copy_from_slice(b"\x7fELF");
    magic[4..7].copy_from_slice(&[if is_64 { 2 } else { 1 }, if is_big { 2 } else { 1 }, 1]);
    magic[16..18].copy_from_slice(&order(2));
    magic[18..].copy_from_slice(&order(machine));
    let mut mask = [0xff; 20];
    // The ABI is free, and position-independent programs have the type 3 instead of 2.
    mask[7] = 0;
    mask[16..18].copy_from_slice(&order(0xfffe));
    Some((magic, mask))
}

#[cfg(test)]
mod tests {
    use super::magic_of;

    #[test]
    fn magic_has_the_byte_order_of_the_architecture() {
        let (arm, mask) = magic_of("aarch64").unwrap();
        assert_eq!(arm[..8], [0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
        assert_eq!((arm[16..].to_vec(), mask[16]), (vec![2, 0, 183, 0], 0xfe));
        let (s390, mask) = magic_of("s390x").unwrap();
        assert_eq!((s390[5], s390[16..].to_vec(), mask[17]), (2, vec![0, 2, 0, 22], 0xfe));
        assert_eq!(magic_of("vax"), None);
    }
}
