//! Recipes: what an image is to be, as a person writes it.
//!
//! [`Recipe::parse`] reads one file, [`load`] follows `extends` with a reader that the caller gives, and
//! [`Recipe::for_target`] answers with what is to be built for development or for production. Building is
//! `factory`'s work.
//!
//! Spec: docs/guide/recipes.md; docs/formats/recipe.schema.json is what [`schema`] answers.
#![forbid(unsafe_code)]

pub mod builtin;
pub mod check;
pub mod error;
pub mod load;
pub mod merge;
pub mod recipe;

pub use error::RecipeError;
pub use load::load;
pub use recipe::{Recipe, TargetName};

/// The JSON Schema of a recipe.
#[must_use]
pub fn schema() -> String {
    let schema = schemars::schema_for!(Recipe);
    // A schema has string keys and nothing that can fail.
    serde_json::to_string_pretty(&schema).unwrap_or_default()
}

#[cfg(test)]
mod tests;
