//! Platforms: for which machines an image is.
//!
//! Spec: OCI image-spec, "Image Index", property `platform`.

use std::fmt;
use std::str::FromStr;

use knarr_base::Architecture;
use serde::{Deserialize, Serialize};

use crate::OciError;

/// For which machines an image is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, by Go's names.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// `v7` of `arm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Windows' build.
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
}

impl Platform {
    /// The platform of a Debian architecture.
    #[must_use]
    pub fn of(architecture: Architecture) -> Self {
        let (name, variant) = architecture.oci();
        Self {
            architecture: name.to_owned(),
            os: "linux".to_owned(),
            variant: variant.map(str::to_owned),
            os_version: None,
        }
    }

    /// Whether an image for `self` is wanted where `wanted` is asked for. arm64's only variant is v8, said or not.
    #[must_use]
    pub fn serves(&self, wanted: &Self) -> bool {
        let variant = |platform: &Self| match (platform.architecture.as_str(), platform.variant.as_deref()) {
            ("arm64", None | Some("v8")) => None,
            ("arm", None) => Some("v7".to_owned()),
            (_, variant) => variant.map(str::to_owned),
        };
        (&self.os, &self.architecture) == (&wanted.os, &wanted.architecture)
            && variant(self) == variant(wanted)
    }

    /// Debian's name of the architecture, if it has one.
    #[must_use]
    pub fn debian(&self) -> Option<Architecture> {
        let architectures = Architecture::names().into_iter().filter_map(|name| name.parse().ok());
        architectures.into_iter().find(|architecture| Self::of(*architecture).serves(self))
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = OciError;

    fn from_str(text: &str) -> Result<Self, OciError> {
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant.to_owned())),
            [architecture] => ("linux", architecture, None),
            _ => return Err(OciError::BadPlatform { found: text.to_owned() }),
        };
        if os.is_empty() || architecture.is_empty() {
            return Err(OciError::BadPlatform { found: text.to_owned() });
        }
        // Debian's names are what our users type: armhf is arm/v7 to everybody else.
        let debian = parts.len() == 1 || variant.is_none();
        if let (true, Ok(known)) = (debian, architecture.parse::<Architecture>()) {
            return Ok(Self { os: os.to_owned(), ..Self::of(known) });
        }
        Ok(Self { architecture: architecture.to_owned(), os: os.to_owned(), variant, os_version: None })
    }
}
