//! A file in memory without reading it.

use std::fs::File;
use std::io;
use std::path::Path;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A read-only mapping of a whole file.
///
/// The file must never be changed in place while it is mapped: what is mapped here are cache
/// files, which are only ever replaced as a whole, by rename.
#[derive(Debug)]
pub struct MappedFile {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping is read-only and lives until drop; nothing of it is tied to a thread.
unsafe impl Send for MappedFile {}
// SAFETY: shared reads of read-only memory do not race.
unsafe impl Sync for MappedFile {}

impl MappedFile {
    /// Maps the file at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        if length == 0 {
            return Ok(Self { start: NonNull::dangling(), length });
        }
        // SAFETY: a null hint lets the kernel choose the place, so no mapping is replaced.
        let start =
            unsafe { mmap(std::ptr::null_mut(), length, ProtFlags::READ, MapFlags::PRIVATE, &file, 0)? };
        let start =
            NonNull::new(start.cast()).ok_or_else(|| io::Error::other("the kernel mapped to null"))?;
        Ok(Self { start, length })
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: start and length are those of a live mapping, or dangling and zero.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: this mapping was made by us and no reference to it outlives self.
            let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
        }
    }
}
