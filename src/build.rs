//! How the program is linked: at a fixed address.
//!
//! 44,000 pointers in its tables need no correction then at each start, and the pages that they are in stay shared by
//! all shims. docs/decisions/012-fixed-address.md says what that costs.

fn main() {
    // Only for the program: libraries of procedural macros must be movable.
    println!("cargo:rustc-link-arg-bins=-no-pie");
    println!("cargo:rerun-if-changed=src/build.rs");
}
