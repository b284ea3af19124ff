//! The shims of containers, as the engine talks to them.

/// Starts shims.
#[derive(Debug)]
pub(crate) struct Launcher {}
