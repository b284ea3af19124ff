//! The factory: from a recipe to an image in the store.
//!
//! [`Factory::build`] does all of it. A build is a chain of steps, each with a key made of all that it depends on;
//! a step whose key is known is not done again. Choosing and unpacking packages is `bootstrap`'s work, keeping
//! images `store`'s.
//!
//! Spec: docs/guide/recipes.md; docs/formats/inventory.md and provenance.md for what is said of an image.
#![forbid(unsafe_code)]

pub mod accounts;
pub mod attest;
pub mod build;
pub mod cache;
pub mod config;
mod contents;
pub mod effects;
pub mod error;
pub mod files;
pub mod fix;
pub mod groups;
pub mod image_inventory;
pub mod inventory;
pub mod keystore;
pub mod layers;
pub mod locales;
pub mod origin;
pub mod packages;
pub mod provenance;
pub mod sbom;
pub mod sign;
pub mod slim;
pub mod state;
pub mod steps;
pub mod tools;
pub mod updates;
pub mod verify;

pub use build::{Built, Factory, Request};
pub use error::FactoryError;
