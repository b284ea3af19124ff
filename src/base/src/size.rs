//! Sizes for people.

use std::fmt;

/// A number of bytes, displayed in decimal units as docker does: `32.8MB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanSize(pub u64);

impl fmt::Display for HumanSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1000.0 && unit + 1 < UNITS.len() {
            value /= 1000.0;
            unit += 1;
        }
        match (unit, value) {
            (0, _) => write!(f, "{}B", self.0),
            (_, v) if v < 10.0 => write!(f, "{v:.2}{}", UNITS[unit]),
            (_, v) if v < 100.0 => write!(f, "{v:.1}{}", UNITS[unit]),
            (_, v) => write!(f, "{v:.0}{}", UNITS[unit]),
        }
    }
}
