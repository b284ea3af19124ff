//! Capabilities: root's rights in pieces.
//!
//! [`Capabilities`] are the five sets of a process; [`Capabilities::apply`] makes them this process's own.
//!
//! Spec: capabilities(7).

use std::io;

use crate::process::check;

/// The names, each at its number.
pub const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// A set of capabilities: bit n is the capability with number n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitySet(pub u64);

impl CapabilitySet {
    /// The set of one, by its name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        let number = NAMES.iter().position(|known| known.eq_ignore_ascii_case(name))?;
        Some(Self(1 << number))
    }

    /// Those of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those of either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The five sets of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// What can never be gained again once it is out.
    pub bounding: CapabilitySet,
    /// What counts.
    pub effective: CapabilitySet,
    /// What passes to programs whose file says so.
    pub inheritable: CapabilitySet,
    /// What may be made effective.
    pub permitted: CapabilitySet,
    /// What passes to ordinary programs.
    pub ambient: CapabilitySet,
}

/// What this process may give away: the permitted and the bounding set.
pub fn current() -> io::Result<(CapabilitySet, CapabilitySet)> {
    let mut data = [Data::default(); 2];
    let header = Header { version: VERSION_3, pid: 0 };
    // SAFETY: version 3 writes exactly two of these structures.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) })?;
    let permitted = u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32;
    Ok((CapabilitySet(permitted), bounding()))
}

fn bounding() -> CapabilitySet {
    let has = |number: &usize| {
        // SAFETY: plain numbers.
        unsafe { libc::prctl(libc::PR_CAPBSET_READ, *number, 0, 0, 0) == 1 }
    };
    CapabilitySet((0..NAMES.len()).filter(has).fold(0, |set, number| set | 1 << number))
}

impl Capabilities {
    /// Drops from the bounding set what is not in ours. Must happen while this process still may.
    pub fn limit(&self) -> io::Result<()> {
        for number in (0..64_u64).filter(|number| self.bounding.0 & (1 << number) == 0) {
            // SAFETY: plain numbers.
            let dropped = check(i64::from(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) }));
            match dropped {
                // The first number that the kernel does not know.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
                other => other?,
            };
        }
        Ok(())
    }

    /// Keeps what is permitted over a change of user.
    pub fn keep() -> io::Result<()> {
        // SAFETY: plain numbers.
        check(i64::from(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) }))?;
        Ok(())
    }

    /// Makes the other four sets this process's own.
    pub fn apply(&self) -> io::Result<()> {
        let half = |shift: u32| Data {
            effective: (self.effective.0 >> shift) as u32,
            permitted: (self.permitted.0 >> shift) as u32,
            inheritable: (self.inheritable.0 >> shift) as u32,
        };
        let (header, data) = (Header { version: VERSION_3, pid: 0 }, [half(0), half(32)]);
        // SAFETY: version 3 reads exactly two of these structures.
        check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })?;
        self.raise_ambient()
    }

    fn raise_ambient(&self) -> io::Result<()> {
        const CLEAR_ALL: u64 = 4;
        const RAISE: u64 = 2;
        // SAFETY: plain numbers.
        check(i64::from(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, CLEAR_ALL, 0, 0, 0) }))?;
        for number in (0..64_u64).filter(|number| self.ambient.0 & (1 << number) != 0) {
            // SAFETY: plain numbers.
            check(i64::from(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, RAISE, number, 0, 0) }))?;
        }
        Ok(())
    }
}

const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

#[cfg(test)]
mod tests {
    use super::CapabilitySet;

    #[test]
    fn a_name_is_a_bit_and_an_unknown_one_is_none() {
        assert_eq!(CapabilitySet::by_name("CAP_CHOWN"), Some(CapabilitySet(1)));
        assert_eq!(CapabilitySet::by_name("CAP_CHECKPOINT_RESTORE"), Some(CapabilitySet(1 << 40)));
        assert_eq!(CapabilitySet::by_name("CAP_TO_FLY"), None);
    }
}
