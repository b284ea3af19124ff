//! Room: free memory and file systems.

use std::io;
use std::path::Path;

/// Bytes free for an ordinary user on the file system of `path`.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail * stat.f_frsize)
}

/// Bytes of memory that could be used now without swapping.
pub fn available_memory_bytes() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_ascii_whitespace().next()?.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("/proc/meminfo has no MemAvailable line"))
}

/// Waits until everything on the file system of `path` is on the disk.
pub fn sync_file_system(path: &Path) -> io::Result<()> {
    let file = std::fs::File::open(path)?;
    Ok(rustix::fs::syncfs(file)?)
}
