//! Memory that a process which only waits does not need.
//!
//! [`rest_until`] is for small processes that live long: what they need again comes back by itself.
//!
//! Spec: madvise(2), malloc_trim(3), dl_iterate_phdr(3).

use std::ffi::{c_int, c_void};
use std::io;

use nix::poll::{PollFd, PollTimeout, poll};

/// So much of the stack below the caller's place may have been used.
const STACK_BYTES: usize = 256 << 10;
/// So much of it stays: this function's own frames, and those of what it calls.
const KEPT_BYTES: usize = 16 << 10;

/// Waits until something happens to a descriptor, for ever if need be, without memory that waiting does not need. Both
/// are done in one place: pages of the program come back around every place that runs in between.
pub fn rest_until(polled: &mut [PollFd<'_>]) -> io::Result<()> {
    give_back();
    poll(polled, PollTimeout::NONE)?;
    Ok(())
}

/// Gives free memory of the heap, unused parts of the stack and pages of programs and libraries back to the kernel.
fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only memory that was freed is given back.
    unsafe {
        libc::malloc_trim(0);
    }
    forget_stack();
    let mut places = Places { all: [(0, 0); MOST_PLACES], count: 0 };
    // SAFETY: the function has the type that is asked for, and what it is handed lives during the call.
    unsafe { libc::dl_iterate_phdr(Some(note_object), (&raw mut places).cast()) };
    // The program itself is the first: it goes last, as all that runs from here on brings pages of it back.
    for (start, bytes) in places.all[..places.count].iter().rev() {
        forget(*start, *bytes);
    }
}

/// What of the program and its libraries is never written to: where, and how many bytes.
struct Places {
    all: [(usize, usize); MOST_PLACES],
    count: usize,
}

const MOST_PLACES: usize = 64;

fn forget_stack() {
    let here = std::ptr::from_ref(&STACK_BYTES.to_ne_bytes()).addr() & !(page() - 1);
    forget(here - STACK_BYTES, STACK_BYTES - KEPT_BYTES);
}

/// What of an object of the program cannot be written to is read from its file again when it is needed.
unsafe extern "C" fn note_object(info: *mut libc::dl_phdr_info, _: usize, places: *mut c_void) -> c_int {
    // SAFETY: the loader hands over a description that is good during this call, and what we gave it.
    let (info, places) = unsafe { (&*info, &mut *places.cast::<Places>()) };
    // SAFETY: as above.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let loaded = headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
    for header in loaded.filter(|header| header.p_flags & libc::PF_W == 0) {
        let start = (info.dlpi_addr + header.p_vaddr) as usize;
        let aligned = start & !(page() - 1);
        if let Some(place) = places.all.get_mut(places.count) {
            *place = (aligned, start + header.p_memsz as usize - aligned);
            places.count += 1;
        }
    }
    0
}

fn forget(start: usize, bytes: usize) {
    // SAFETY: callers name pages of files that nobody has written to, or of the stack below all that is in use. Where
    // nothing is mapped the kernel says so, and nothing is lost.
    unsafe { libc::madvise(std::ptr::without_provenance_mut(start), bytes, libc::MADV_DONTNEED) };
}

fn page() -> usize {
    // SAFETY: a question about a number.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::poll::{PollFd, PollFlags};

    use super::rest_until;

    fn resident_kb() -> u64 {
        let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn what_was_given_back_is_there_again_when_it_is_needed() {
        let kept: Vec<u8> = (0..100_000_u32).map(|number| number as u8).collect();
        drop(vec![1_u8; 100_000]);
        let before = resident_kb();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut &theirs, b"x").unwrap();
        let mut polled = [PollFd::new(ours.as_fd(), PollFlags::POLLIN)];
        rest_until(&mut polled).unwrap();
        let after = resident_kb();
        assert!(after < before, "{before} kB, then {after} kB");
        assert_eq!(polled[0].revents(), Some(PollFlags::POLLIN));
        assert!(kept.iter().enumerate().all(|(index, byte)| *byte == index as u8));
        assert_eq!(format!("{:?}", ["a"; 2]), r#"["a", "a"]"#);
    }
}
