//! Variants: which packages a root filesystem has before anything is named.
//!
//! Spec: the variants of the same names in mmdebstrap(1) and debootstrap(8).

use std::str::FromStr;

/// Which packages a root filesystem starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Essential packages and what they need.
    Essential,
    /// Essential packages and apt.
    Apt,
    /// Essential, required priority, and apt.
    Minbase,
    /// minbase and build-essential.
    Buildd,
    /// Required and important priority.
    Important,
    /// Required, important and standard priority.
    Standard,
    /// Essential packages, unpacked and not configured.
    Extract,
    /// Only what is named.
    Custom,
}

/// A name that is no variant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown variant {found:?}: expected one of {}", Variant::NAMES.map(|(name, _)| name).join(", "))]
pub struct VariantError {
    /// What was found.
    pub found: String,
}

impl Variant {
    /// Every name with its variant; aliases after the name they stand for.
    pub const NAMES: [(&'static str, Self); 11] = [
        ("essential", Self::Essential),
        ("apt", Self::Apt),
        ("minbase", Self::Minbase),
        ("required", Self::Minbase),
        ("buildd", Self::Buildd),
        ("important", Self::Important),
        ("debootstrap", Self::Important),
        ("standard", Self::Standard),
        ("extract", Self::Extract),
        ("custom", Self::Custom),
        ("-", Self::Important),
    ];

    /// The name used in messages and locks.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, variant)| *variant == self).map_or("custom", |(name, _)| name)
    }

    /// Whether every `Essential: yes` package belongs to it.
    #[must_use]
    pub const fn has_essential(self) -> bool {
        !matches!(self, Self::Custom)
    }

    /// Packages of these priorities belong to it.
    #[must_use]
    pub const fn priorities(self) -> &'static [&'static str] {
        match self {
            Self::Essential | Self::Apt | Self::Extract | Self::Custom => &[],
            Self::Minbase | Self::Buildd => &["required"],
            Self::Important => &["required", "important"],
            Self::Standard => &["required", "important", "standard"],
        }
    }

    /// Packages that belong to it by name.
    #[must_use]
    pub const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Apt | Self::Minbase | Self::Important | Self::Standard => &["apt"],
            Self::Buildd => &["apt", "build-essential"],
            Self::Essential | Self::Extract | Self::Custom => &[],
        }
    }

    /// Whether maintainer scripts are left alone.
    #[must_use]
    pub const fn only_unpacks(self) -> bool {
        matches!(self, Self::Extract)
    }
}

impl FromStr for Variant {
    type Err = VariantError;

    fn from_str(text: &str) -> Result<Self, VariantError> {
        let found = Self::NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, variant)| *variant).ok_or_else(|| VariantError { found: text.to_owned() })
    }
}
