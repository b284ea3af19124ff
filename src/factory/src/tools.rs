//! A shell and small tools, lent to commands that put an image to the test.
//!
//! [`recipe`] says what they are made of, [`Tools::of`] takes them from its root, [`Tools::lend`] shows them to a
//! command. The image does not get them: what is tested is what is shipped.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use knarr_recipe::recipe::{Mode, ProductionTable, Recipe, TargetName};
use knarr_tree::root::Root;
use tempfile::TempDir;

use crate::FactoryError;

/// Where commands see them, without leading `/`.
const PLACE: &str = ".knarr";
const PACKAGE: &str = "busybox-static";
/// What is of use in a test.
const APPLETS: [&str; 41] = [
    "sh",
    "awk",
    "base64",
    "cat",
    "chmod",
    "cp",
    "cut",
    "date",
    "dd",
    "diff",
    "env",
    "expr",
    "false",
    "find",
    "grep",
    "head",
    "httpd",
    "id",
    "kill",
    "ls",
    "md5sum",
    "mkdir",
    "mv",
    "nc",
    "od",
    "printf",
    "ps",
    "pwd",
    "rm",
    "sed",
    "seq",
    "sha256sum",
    "sleep",
    "sort",
    "tail",
    "test",
    "timeout",
    "touch",
    "true",
    "wc",
    "wget",
];

/// The image that they are taken from: of the suite of the one that is tested.
#[must_use]
pub fn recipe(tested: &Recipe) -> Recipe {
    let recipe = Recipe {
        suite: tested.suite.clone(),
        components: tested.components.clone(),
        repositories: tested.repositories.clone(),
        packages: vec!["base-files-".to_owned(), PACKAGE.to_owned()],
        production: Some(Box::new(ProductionTable {
            mode: Some(Mode::Minimal),
            ..ProductionTable::default()
        })),
        ..Recipe::default()
    };
    recipe.for_target(TargetName::Production)
}

/// Tools in a directory of the host.
#[derive(Debug)]
pub struct Tools {
    directory: TempDir,
}

impl Tools {
    /// Takes them from a root of [`recipe`].
    pub fn of(root: &Root) -> Result<Self, FactoryError> {
        let program =
            ["usr/bin/busybox", "bin/busybox"].into_iter().find(|path| root.exists(path).is_ok_and(|is| is));
        let Some(program) = program else {
            return Err(FactoryError::Request(format!("the package {PACKAGE} has no busybox")));
        };
        let directory = TempDir::new().map_err(fail("create", Path::new(PLACE)))?;
        let path = directory.path().join("busybox");
        set_mode(directory.path())?;
        fs::write(&path, root.read(program)?).map_err(fail("write", &path))?;
        set_mode(&path)?;
        for applet in APPLETS {
            let link = directory.path().join(applet);
            symlink("busybox", &link).map_err(fail("link", &link))?;
        }
        Ok(Self { directory })
    }

    /// Shows them to a command; answers with what its sandbox binds. A shell of theirs runs a text, because the image
    /// may have none.
    pub fn lend(&self, argv: &mut [String], env: &mut Vec<(String, String)>) -> (PathBuf, String) {
        if argv.first().is_some_and(|program| program == "/bin/sh") {
            argv[0] = format!("/{PLACE}/sh");
        }
        match env.iter_mut().find(|(name, _)| name == "PATH") {
            Some((_, path)) => path.push_str(&format!(":/{PLACE}")),
            None => env.push(("PATH".to_owned(), format!("/{PLACE}"))),
        }
        (self.directory.path().to_owned(), PLACE.to_owned())
    }
}

fn set_mode(path: &Path) -> Result<(), FactoryError> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(fail("set the mode of", path))
}

fn fail(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> FactoryError {
    let path = path.to_owned();
    move |source| FactoryError::File { doing, path, source }
}
