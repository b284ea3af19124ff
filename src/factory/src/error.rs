//! What can go wrong while an image is built.

use std::io;
use std::path::PathBuf;

use knarr_base::Digest;
use knarr_bootstrap::BootstrapError;
use knarr_recipe::RecipeError;
use knarr_store::StoreError;
use knarr_tree::TreeError;

use crate::sign::SignError;

/// A fact that stopped a build, with its evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FactoryError {
    /// What was asked for cannot be done.
    #[error("{0}")]
    Request(String),
    /// The system refused something.
    #[error("cannot {doing} {path}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A file of the context that is none.
    #[error("the recipe adds {from:?}: {reason}")]
    Context {
        /// The path in the recipe.
        from: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A user or group that nobody knows.
    #[error("there is no {what} {name:?} in the image: add a [[{what}]], or use a number")]
    NoAccount {
        /// `user` or `group`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A number or name that is taken.
    #[error("{what} {name:?}: {reason}")]
    BadAccount {
        /// `user` or `group`.
        what: &'static str,
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A command of the recipe that failed.
    #[error("run {command:?} failed: {status}\n{output}")]
    Run {
        /// The command.
        command: String,
        /// How it ended.
        status: String,
        /// The last of its output.
        output: String,
    },
    /// An image that does not do what its recipe promises.
    #[error("verify {command:?} failed: {reason}{}{}", said(.output), lacks(.missing))]
    Verify {
        /// The command.
        command: String,
        /// How it failed.
        reason: String,
        /// The last of its output.
        output: String,
        /// Files that were looked for, that the image does not have and that its packages do.
        missing: Vec<Missing>,
    },
    /// An image of which nobody knows what it was made of.
    #[error(
        "nothing is known of where image {image} comes from: it was not made by `knarr build`, or with --no-attest"
    )]
    NoOrigin {
        /// Its manifest.
        image: Digest,
    },
    /// A file that an image does not have.
    #[error("there is no /{path} in image {image}")]
    NoFile {
        /// Without leading `/`.
        path: String,
        /// The image.
        image: String,
    },
    /// A file of the context that is not what it was when the image was built.
    #[error("{}: changed since the image was built; `knarr build` makes a new image of them", paths.join(", "))]
    ContextChanged {
        /// Paths in the context.
        paths: Vec<String>,
    },
    /// A key or a signature.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// A stage that is not there, or needs itself.
    #[error("stage {name:?}: {reason}")]
    Stage {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A .deb.
    #[error(transparent)]
    Deb(#[from] knarr_deb::DebError),
    /// A recipe.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// Packages.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// Images.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Trees.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// Namespaces.
    #[error(transparent)]
    Linux(#[from] knarr_linux::LinuxError),
    /// Fetching.
    #[error(transparent)]
    Mirror(#[from] knarr_mirror::MirrorError),
}

/// A file that a program looked for in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its path, with `/`.
    pub path: String,
    /// The package that has it, if one does.
    pub package: Option<String>,
}

fn said(output: &str) -> String {
    if output.trim().is_empty() { String::new() } else { format!("\n{}", output.trim_end()) }
}

/// The first is mostly the one that matters.
const SHOWN: usize = 10;

fn lacks(missing: &[Missing]) -> String {
    let line = |file: &Missing| match &file.package {
        Some(package) => format!("\nmissing: {} (package {package})", file.path),
        None => format!("\nmissing: {}", file.path),
    };
    let mut text: String = missing.iter().take(SHOWN).map(line).collect();
    if missing.len() > SHOWN {
        text.push_str(&format!("\nand {} more", missing.len() - SHOWN));
    }
    text
}
