//! `knarr recipe`: what images can be made of.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Subcommand;
use knarr_base::near;
use knarr_recipe::load::Source;
use knarr_recipe::{Recipe, builtin, load, schema};

use crate::ui::Ui;

/// What to do with recipes.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the ready recipes
    #[command(alias = "list")]
    Ls,
    /// Show a recipe; with --merged with all that it extends
    Show {
        /// A file, or the name of a ready recipe
        recipe: String,
        /// Show what it comes to
        #[arg(long)]
        merged: bool,
    },
    /// Write a recipe to begin with
    Init {
        /// The new file
        #[arg(default_value = "recipe.toml")]
        file: PathBuf,
        /// The ready recipe that it extends
        #[arg(long, value_name = "NAME", default_value = "prod-base")]
        from: String,
    },
    /// Say whether recipes are sound
    Check {
        /// Files, or names of ready recipes
        #[arg(required = true)]
        recipes: Vec<String>,
    },
    /// Print the JSON Schema of recipes
    Schema,
}

/// A recipe that was read.
pub(crate) struct Opened {
    pub recipe: Recipe,
    /// The file; a ready recipe has none.
    pub path: Option<PathBuf>,
    /// The name that the image has when nobody says another.
    pub stem: String,
}

impl Opened {
    /// The directory that its files are relative to.
    pub(crate) fn context(&self) -> PathBuf {
        self.path.as_deref().map_or_else(|| PathBuf::from("."), crate::build::parent)
    }
}

pub(crate) fn run(command: &Command, ui: &Ui) -> anyhow::Result<()> {
    match command {
        Command::Ls => list(ui),
        Command::Show { recipe, merged: true } => ui.print(&open(recipe)?.recipe.to_text()?),
        Command::Show { recipe, merged: false } => {
            ui.print(&source("", recipe).map_err(anyhow::Error::msg)?.text)
        }
        Command::Init { file, from } => init(file, from, ui),
        Command::Check { recipes } => recipes.iter().try_for_each(|recipe| check(recipe, ui)),
        Command::Schema => ui.print(&format!("{}\n", schema())),
    }
}

/// Reads a recipe and all that it extends.
pub(crate) fn open(word: &str) -> anyhow::Result<Opened> {
    let first = source("", word).map_err(anyhow::Error::msg)?;
    let recipe = load(&first, &source)?;
    let path = is_path(word).then(|| PathBuf::from(word));
    let stem = Path::new(word)
        .file_stem()
        .map_or_else(|| "image".to_owned(), |stem| stem.to_string_lossy().into_owned());
    Ok(Opened { recipe, path, stem: stem.to_lowercase() })
}

fn is_path(word: &str) -> bool {
    word.contains('/') || word.ends_with(".toml")
}

const MAX_RECIPE_BYTES: u64 = 4 << 20;

/// The text of a recipe that the one at `place` asks for.
fn source(place: &str, word: &str) -> Result<Source, String> {
    if !is_path(word) {
        let names = builtin::ALL.iter().map(|(name, _)| *name);
        return match builtin::find(word) {
            Some(text) => Ok(Source { place: word.to_owned(), text: text.to_owned() }),
            None => {
                let close = near(word, names);
                let hint = if close.is_empty() {
                    "`knarr recipe ls` shows all".to_owned()
                } else {
                    format!("did you mean {}?", close.join(" or "))
                };
                Err(format!("there is no ready recipe {word:?}: {hint}; a file's name ends in .toml"))
            }
        };
    }
    let path = if Path::new(word).is_absolute() || place.is_empty() || !is_path(place) {
        PathBuf::from(word)
    } else {
        // Without `.`: one file has one name, however recipes spell it.
        let joined = crate::build::parent(Path::new(place)).join(word);
        joined.components().filter(|part| !matches!(part, std::path::Component::CurDir)).collect()
    };
    let shown = path.display();
    let size = std::fs::metadata(&path).map_err(|error| format!("cannot read {shown}: {error}"))?.len();
    if size > MAX_RECIPE_BYTES {
        return Err(format!("{shown} has {size} bytes: a recipe has at most {MAX_RECIPE_BYTES}"));
    }
    let text = std::fs::read_to_string(&path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    Ok(Source { place: shown.to_string(), text })
}

/// Adds keeps to a recipe's file, and leaves the rest of it as it is written.
pub(crate) fn add_keeps(path: &Path, table: &str, keeps: &[String]) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = with_keeps(&text, table, keeps)?;
    let mut new = tempfile::NamedTempFile::new_in(crate::build::parent(path))
        .with_context(|| format!("cannot write beside {}", path.display()))?;
    std::io::Write::write_all(&mut new, text.as_bytes())?;
    new.as_file().set_permissions(std::fs::metadata(path)?.permissions())?;
    new.as_file().sync_all()?;
    new.persist(path).with_context(|| format!("cannot replace {}", path.display()))?;
    Ok(())
}

fn with_keeps(text: &str, table: &str, keeps: &[String]) -> anyhow::Result<String> {
    let mut document: toml_edit::DocumentMut = text.parse()?;
    let mut at: &mut dyn toml_edit::TableLike = document.as_table_mut();
    if !table.is_empty() {
        let entry = at.entry(table).or_insert_with(toml_edit::table);
        at = entry.as_table_like_mut().with_context(|| format!("[{table}] is no table"))?;
    }
    let list = at.entry("keep").or_insert_with(|| toml_edit::value(toml_edit::Array::new()));
    let list = list.as_array_mut().context("keep is no list")?;
    for keep in keeps {
        let mut value = toml_edit::Value::from(keep.as_str());
        value.decor_mut().set_prefix("\n    ");
        list.push_formatted(value);
    }
    list.set_trailing("\n");
    list.set_trailing_comma(true);
    Ok(document.to_string())
}

fn list(ui: &Ui) -> anyhow::Result<()> {
    let mut text = format!("{:<16} {:<11} {:<8} {}\n", "RECIPE", "TARGET", "SUITE", "DESCRIPTION");
    for (name, _) in builtin::ALL {
        let recipe = open(name)?.recipe;
        let (suite, description) = (recipe.suite.as_deref(), recipe.description.as_deref());
        let target = recipe.default_target().name();
        writeln!(
            text,
            "{name:<16} {target:<11} {:<8} {}",
            suite.unwrap_or("-"),
            description.unwrap_or_default()
        )?;
    }
    ui.print(&text)
}

/// What was to be made is there already.
#[derive(Debug, thiserror::Error)]
#[error("{} is there already", .0.display())]
pub(crate) struct Exists(PathBuf);

fn init(file: &Path, from: &str, ui: &Ui) -> anyhow::Result<()> {
    if builtin::find(from).is_none() {
        bail!(source("", from).err().unwrap_or_else(|| format!("{from:?} is a file: name a ready recipe")));
    }
    let text = format!(
        "# What keys there are: `knarr recipe schema`. Build it: `knarr build {}`.\n\
         extends = \"{from}\"\n\n\
         # packages = [\"curl\"]\n\n\
         # [[file]]\n# path = \"/app/hello\"\n# from = \"hello\"\n# mode = \"0755\"\n\n\
         # [image]\n# entrypoint = [\"/app/hello\"]\n\n\
         # [[verify]]\n# command = [\"/app/hello\", \"--version\"]\n",
        file.display()
    );
    let mut new = match std::fs::File::options().write(true).create_new(true).open(file) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => bail!(Exists(file.to_owned())),
        outcome => outcome.with_context(|| format!("cannot create {}", file.display()))?,
    };
    std::io::Write::write_all(&mut new, text.as_bytes())?;
    ui.say(&format!("{} is there: edit it, then `knarr build {}`", file.display(), file.display()));
    Ok(())
}

fn check(word: &str, ui: &Ui) -> anyhow::Result<()> {
    let opened = open(word)?;
    if let Some(suite) = &opened.recipe.suite {
        crate::suite::find(suite)?;
    }
    for file in &opened.recipe.files {
        if let Some(from) = &file.from
            && !opened.context().join(from).exists()
        {
            bail!("{word}: file {}: there is no {from} in {}", file.path, opened.context().display());
        }
    }
    ui.say(&format!("{word}: sound, builds for {}", opened.recipe.default_target().name()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::with_keeps;

    fn check(text: &str, table: &str, expected: &str) {
        let keeps = ["/a".to_owned(), "/b/*".to_owned()];
        assert_eq!(with_keeps(text, table, &keeps).unwrap(), expected);
    }

    #[test]
    fn keeps_are_added_and_the_rest_stays_as_it_is_written() {
        check(
            "# mine\nsuite =  \"x\" # so\n",
            "",
            "# mine\nsuite =  \"x\" # so\nkeep = [\n    \"/a\",\n    \"/b/*\",\n]\n",
        );
        check(
            "[production] # slim\nmode = \"slim\"\nkeep = [\"/z\"]\n\n[[verify]]\ncommand = \"x\"\n",
            "production",
            "[production] # slim\nmode = \"slim\"\nkeep = [\"/z\",\n    \"/a\",\n    \"/b/*\",\n]\n\n[[verify]]\ncommand = \"x\"\n",
        );
        check(
            "suite = \"x\"\n",
            "production",
            "suite = \"x\"\n\n[production]\nkeep = [\n    \"/a\",\n    \"/b/*\",\n]\n",
        );
    }
}
