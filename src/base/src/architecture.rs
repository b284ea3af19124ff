//! Architectures, by Debian's names and everybody else's.
//!
//! Spec: Debian Policy 11.1; OCI image-spec "platform" (GOARCH names); ELF `e_machine`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An architecture that Knarr can bootstrap, by its Debian name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Architecture(&'static Row);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Row {
    debian: &'static str,
    oci: (&'static str, Option<&'static str>),
    triplet: &'static str,
    qemu: &'static str,
    uname: &'static str,
    lib_links: &'static [&'static str],
}

/// A name that is no architecture Knarr knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown architecture {found:?}: expected one of {}", Architecture::names().join(", "))]
pub struct ArchitectureError {
    /// The name that was found.
    pub found: String,
}

impl Architecture {
    /// Debian's name: `amd64`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.0.debian
    }

    /// OCI's architecture and variant: `("arm", Some("v7"))`.
    #[must_use]
    pub const fn oci(self) -> (&'static str, Option<&'static str>) {
        self.0.oci
    }

    /// The multiarch triplet: `x86_64-linux-gnu`.
    #[must_use]
    pub const fn triplet(self) -> &'static str {
        self.0.triplet
    }

    /// The suffix of qemu's user emulator: `aarch64` for `qemu-aarch64`.
    #[must_use]
    pub const fn qemu(self) -> &'static str {
        self.0.qemu
    }

    /// Names under `/` that are links into `/usr` on a merged system, beside bin, sbin and lib.
    #[must_use]
    pub const fn extra_lib_links(self) -> &'static [&'static str] {
        self.0.lib_links
    }

    /// The architecture this binary was built for.
    #[must_use]
    pub fn native() -> Self {
        let uname = std::env::consts::ARCH;
        ROWS.iter().find(|row| row.uname == uname).map_or(Self(&ROWS[0]), Self)
    }

    /// All names, in the table's order.
    #[must_use]
    pub fn names() -> Vec<&'static str> {
        ROWS.iter().map(|row| row.debian).collect()
    }
}

impl FromStr for Architecture {
    type Err = ArchitectureError;

    fn from_str(text: &str) -> Result<Self, ArchitectureError> {
        let row = ROWS.iter().find(|row| row.debian == text);
        row.map(Self).ok_or_else(|| ArchitectureError { found: text.chars().take(100).collect() })
    }
}

impl TryFrom<String> for Architecture {
    type Error = ArchitectureError;

    fn try_from(text: String) -> Result<Self, ArchitectureError> {
        text.parse()
    }
}

impl From<Architecture> for String {
    fn from(architecture: Architecture) -> Self {
        architecture.name().to_owned()
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const fn row(
    debian: &'static str,
    oci: (&'static str, Option<&'static str>),
    triplet: &'static str,
    qemu: &'static str,
    uname: &'static str,
    lib_links: &'static [&'static str],
) -> Row {
    Row { debian, oci, triplet, qemu, uname, lib_links }
}

static ROWS: [Row; 10] = [
    row("amd64", ("amd64", None), "x86_64-linux-gnu", "x86_64", "x86_64", &["lib64"]),
    row("arm64", ("arm64", Some("v8")), "aarch64-linux-gnu", "aarch64", "aarch64", &[]),
    row("armhf", ("arm", Some("v7")), "arm-linux-gnueabihf", "arm", "arm", &[]),
    row("armel", ("arm", Some("v5")), "arm-linux-gnueabi", "arm", "", &[]),
    row("i386", ("386", None), "i386-linux-gnu", "i386", "x86", &[]),
    row("loong64", ("loong64", None), "loongarch64-linux-gnu", "loongarch64", "loongarch64", &["lib64"]),
    row("mips64el", ("mips64le", None), "mips64el-linux-gnuabi64", "mips64el", "mips64", &["lib64"]),
    row("ppc64el", ("ppc64le", None), "powerpc64le-linux-gnu", "ppc64le", "powerpc64", &["lib64"]),
    row("riscv64", ("riscv64", None), "riscv64-linux-gnu", "riscv64", "riscv64", &[]),
    row("s390x", ("s390x", None), "s390x-linux-gnu", "s390x", "s390x", &[]),
];
