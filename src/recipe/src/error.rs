//! What can be wrong with a recipe.

/// What can be wrong with a recipe, with the place where it stands.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// It cannot be read.
    #[error("{place}:{line}:{column}: {reason}")]
    Syntax {
        /// The file.
        place: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong there.
        reason: String,
    },
    /// A key that recipes do not have.
    #[error("{place}:{line}:{column}: there is no key {key:?}{}", meant(.near))]
    UnknownKey {
        /// The file.
        place: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// The key.
        key: String,
        /// Keys like it, or all that may stand there.
        near: Vec<String>,
    },
    /// A value that means nothing.
    #[error("{place}: {key}: {reason}")]
    BadValue {
        /// The file.
        place: String,
        /// Where it stands.
        key: String,
        /// What is wrong with it, and what was expected.
        reason: String,
    },
    /// Recipes that extend each other in a circle.
    #[error("recipes extend each other in a circle: {}", chain.join(" -> "))]
    Circle {
        /// The files, the first twice.
        chain: Vec<String>,
    },
    /// A recipe that extends one that is not there.
    #[error("{place}: it extends {name:?}, which cannot be read: {reason}")]
    NoBase {
        /// The file.
        place: String,
        /// What it extends.
        name: String,
        /// Why it cannot be read.
        reason: String,
    },
}

fn meant(near: &[String]) -> String {
    match near {
        [] => String::new(),
        [one] => format!("; did you mean {one:?}?"),
        several => format!("; expected one of {}", several.join(", ")),
    }
}
