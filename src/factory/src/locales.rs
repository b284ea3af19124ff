//! Locales: from which definition and character set each is made, and where.
//!
//! Containers to work in have the program that makes locales; for production images [`with_stage`] has them made in a
//! stage of their own, of which only they are taken.
//!
//! Spec: glibc's localedef(1); locale(7) for names such as `ca_ES.UTF-8@valencia`.

use knarr_recipe::recipe::{Command, Copy, Mode, Recipe, Run, TargetName};

/// The locale that is always there.
pub const ALWAYS: &str = "C.UTF-8";
const STAGE: &str = "knarr-locales";

/// The locales that must be made.
pub fn wanted(recipe: &Recipe) -> Vec<&str> {
    let mut names: Vec<&str> = recipe.locales.iter().map(String::as_str).collect();
    names.retain(|name| *name != ALWAYS);
    names.sort_unstable();
    names.dedup();
    names
}

/// What makes a locale; without `archive` it is a directory of its own.
#[must_use]
pub fn command(name: &str, archive: bool) -> Vec<String> {
    let Parts { language, charset, modifier } = parts(name);
    let mut words = vec!["/usr/bin/localedef".to_owned()];
    if !archive {
        words.push("--no-archive".to_owned());
    }
    let input = format!("{language}{modifier}");
    words.extend(["-i", &input, "-f", charset, name].map(str::to_owned));
    words
}

/// A recipe of one target, with a stage that makes what a production image cannot.
#[must_use]
pub fn with_stage(mut recipe: Recipe) -> Recipe {
    let is_made_elsewhere =
        recipe.default_target() == TargetName::Production && recipe.mode() != Mode::Scratch;
    let names: Vec<String> = wanted(&recipe).into_iter().map(str::to_owned).collect();
    if !is_made_elsewhere || names.is_empty() || recipe.stages.contains_key(STAGE) {
        return recipe;
    }
    let run = |name: &String| Run { command: Command::Exec(command(name, false)), ..Run::default() };
    let stage = Recipe {
        suite: recipe.suite.clone(),
        target: Some(TargetName::Base),
        packages: vec!["locales".to_owned()],
        runs: names.iter().map(run).collect(),
        ..Recipe::default()
    };
    recipe.stages.insert(STAGE.to_owned(), stage);
    let copy = |name: &String| Copy { stage: STAGE.to_owned(), from: directory(name), ..Copy::default() };
    recipe.copies.extend(names.iter().map(copy));
    recipe
}

struct Parts<'a> {
    language: &'a str,
    charset: &'a str,
    /// With its `@`.
    modifier: &'a str,
}

fn parts(name: &str) -> Parts<'_> {
    let (rest, modifier) = name.find('@').map_or((name, ""), |at| name.split_at(at));
    let (language, charset) = rest.split_once('.').unwrap_or((rest, "UTF-8"));
    Parts { language, charset, modifier }
}

/// Where localedef puts a locale: the character set's name is reduced to small letters and digits.
fn directory(name: &str) -> String {
    let Parts { language, charset, modifier } = parts(name);
    let reduced: String =
        charset.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    let charset = if name.contains('.') { format!(".{reduced}") } else { String::new() };
    format!("/usr/lib/locale/{language}{charset}{modifier}")
}

#[cfg(test)]
mod tests {
    use knarr_recipe::Recipe;

    use super::{command, directory, with_stage};

    #[test]
    fn names_say_definition_character_set_and_place() {
        for (name, input, charset, place) in [
            ("nb_NO.UTF-8", "nb_NO", "UTF-8", "nb_NO.utf8"),
            ("de_DE.ISO-8859-15@euro", "de_DE@euro", "ISO-8859-15", "de_DE.iso885915@euro"),
            ("ca_ES.UTF-8@valencia", "ca_ES@valencia", "UTF-8", "ca_ES.utf8@valencia"),
            ("fr_FR", "fr_FR", "UTF-8", "fr_FR"),
        ] {
            assert_eq!(command(name, true)[1..], ["-i", input, "-f", charset, name].map(str::to_owned));
            assert_eq!(directory(name), format!("/usr/lib/locale/{place}"));
        }
    }

    #[test]
    fn production_images_take_locales_from_a_stage_and_others_make_them() {
        let recipe = |target: &str| {
            let text = format!(
                "suite = \"trixie\"\ntarget = \"{target}\"\nlocales = [\"C.UTF-8\", \"nb_NO.UTF-8\"]"
            );
            let recipe = Recipe::parse("x", &text).unwrap();
            let target = recipe.default_target();
            with_stage(recipe.for_target(target))
        };
        let made = recipe("production");
        assert_eq!(made.copies.len(), 1);
        assert_eq!(made.stages["knarr-locales"].runs.len(), 1);
        assert!(recipe("dev").stages.is_empty());
    }
}
