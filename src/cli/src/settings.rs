//! Settings: flags, `KNARR_*`, and where things lie.

use std::path::PathBuf;

use knarr_base::Timestamp;

/// Where the cache lies unless it is named.
pub(crate) fn cache_dir() -> PathBuf {
    if rustix_is_root() {
        return "/var/cache/knarr".into();
    }
    let home =
        || std::env::var_os("HOME").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from).join(".cache");
    std::env::var_os("XDG_CACHE_HOME")
        .filter(|path| !path.is_empty())
        .map_or_else(home, PathBuf::from)
        .join("knarr")
}

fn rustix_is_root() -> bool {
    !knarr_linux::namespace::is_unprivileged()
}

/// This machine's clock.
pub(crate) fn now() -> Timestamp {
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(elapsed.map_or(0, |elapsed| elapsed.as_secs() as i64))
}
