//! What the types cannot say: values that must mean something.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::RecipeError;
use crate::recipe::{Command, File, ImageTable, Recipe, Run, User, Verify};

/// Checks a recipe by itself.
pub fn check(place: &str, recipe: &Recipe) -> Result<(), RecipeError> {
    let bad = |key: &str, reason: String| RecipeError::BadValue {
        place: place.to_owned(),
        key: key.to_owned(),
        reason,
    };
    for (number, file) in all_files(recipe).enumerate() {
        check_file(file).map_err(|reason| bad(&format!("file {} ({})", number + 1, file.path), reason))?;
    }
    for user in &recipe.users {
        check_user(user).map_err(|reason| bad(&format!("user {:?}", user.name), reason))?;
    }
    for group in &recipe.groups {
        check_name(&group.name).map_err(|reason| bad(&format!("group {:?}", group.name), reason))?;
    }
    for run in recipe.runs.iter().chain(recipe.dev.iter().flat_map(|table| &table.runs)) {
        check_run(run).map_err(|reason| bad(&format!("run {:?}", run.command.text()), reason))?;
    }
    for verify in all_verifies(recipe) {
        check_verify(verify).map_err(|reason| bad(&format!("verify {:?}", verify.command.text()), reason))?;
    }
    for table in all_images(recipe) {
        check_image(table).map_err(|reason| bad("image", reason))?;
    }
    let tables = [
        Some(&recipe.files),
        recipe.dev.as_ref().map(|table| &table.files),
        recipe.production.as_ref().map(|table| &table.files),
    ];
    for files in tables.into_iter().flatten() {
        check_paths(files).map_err(|reason| bad("file", reason))?;
    }
    for copy in &recipe.copies {
        let key = format!("copy of {:?}", copy.from);
        let paths = [Some(&copy.from), copy.path.as_ref()];
        paths
            .into_iter()
            .flatten()
            .try_for_each(|path| absolute(path))
            .map_err(|reason| bad(&key, reason))?;
        copy.mode.as_deref().map_or(Ok(0), parse_mode).map_err(|reason| bad(&key, reason))?;
        if !copy.stage.contains(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c))
            && copy.stage.is_empty()
        {
            return Err(bad(&key, "it names no stage".to_owned()));
        }
    }
    for (name, stage) in &recipe.stages {
        if !stage.stages.is_empty() {
            return Err(bad(&format!("stage {name:?}"), "a stage cannot have stages of its own".to_owned()));
        }
        check(place, stage)?;
    }
    Ok(())
}

fn all_files(recipe: &Recipe) -> impl Iterator<Item = &File> {
    let dev = recipe.dev.iter().flat_map(|table| &table.files);
    let production = recipe.production.iter().flat_map(|table| &table.files);
    recipe.files.iter().chain(dev).chain(production)
}

fn all_verifies(recipe: &Recipe) -> impl Iterator<Item = &Verify> {
    let dev = recipe.dev.iter().flat_map(|table| &table.verifies);
    let production = recipe.production.iter().flat_map(|table| &table.verifies);
    recipe.verifies.iter().chain(dev).chain(production)
}

fn all_images(recipe: &Recipe) -> impl Iterator<Item = &ImageTable> {
    let dev = recipe.dev.iter().flat_map(|table| &table.image);
    let production = recipe.production.iter().flat_map(|table| &table.image);
    recipe.image.iter().chain(dev).chain(production)
}

/// Of two files with one path nobody could say which was meant.
fn check_paths(files: &[File]) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    let twice = files.iter().map(|file| file.path.trim_matches('/')).find(|path| !seen.insert(*path));
    twice.map_or(Ok(()), |path| Err(format!("/{path} is there twice: expected one file for each path")))
}

fn check_image(table: &ImageTable) -> Result<(), String> {
    table.ports.iter().try_for_each(|port| parse_port(port).map(drop))?;
    table.volumes.iter().chain(&table.workdir).try_for_each(|path| absolute(path))?;
    let Some(health) = &table.healthcheck else { return Ok(()) };
    check_command(&health.command).map_err(|reason| format!("healthcheck: {reason}"))?;
    let times = [
        ("interval", &health.interval),
        ("timeout", &health.timeout),
        ("start-period", &health.start_period),
    ];
    for (key, time) in times {
        time.as_deref()
            .map_or(Ok(Duration::ZERO), parse_time)
            .map_err(|reason| format!("{key}: {reason}"))?;
    }
    Ok(())
}

/// A port or a range of ports with its protocol, such as `80/tcp` or `8000-8010/udp`; without one it is TCP's.
pub fn parse_port(port: &str) -> Result<String, String> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let numbers: Option<Vec<u16>> =
        number.split('-').map(|text| text.parse().ok().filter(|number| *number > 0)).collect();
    let known = matches!(protocol, "tcp" | "udp" | "sctp");
    match numbers.as_deref() {
        Some([_]) if known => Ok(format!("{number}/{protocol}")),
        Some([first, last]) if known && first <= last => Ok(format!("{number}/{protocol}")),
        _ => Err(format!("port {port:?}: expected a number with /tcp, /udp or /sctp, such as \"80/tcp\"")),
    }
}

fn check_file(file: &File) -> Result<(), String> {
    absolute(&file.path)?;
    let kinds =
        [file.from.is_some(), file.text.is_some(), file.url.is_some(), file.link.is_some(), file.directory];
    if kinds.iter().filter(|given| **given).count() != 1 {
        return Err("exactly one of from, text, url, link and directory says what it is".to_owned());
    }
    match (&file.url, &file.sha256) {
        (Some(_), None) => {
            return Err("what is fetched needs sha256, the digest that it must have".to_owned());
        }
        (None, Some(_)) => return Err("sha256 belongs to url".to_owned()),
        (Some(url), Some(digest)) => {
            if !(url.starts_with("https://") || url.starts_with("http://")) {
                return Err(format!("url is {url:?}, expected https:// or http://"));
            }
            digest.parse::<knarr_base::Digest>().map_err(|error| error.to_string())?;
        }
        (None, None) => {}
    }
    if let Some(from) = &file.from {
        inside(from)?;
    }
    file.mode.as_deref().map_or(Ok(0), parse_mode).map(drop)
}

/// A path of the context must not lead out of it.
pub fn inside(path: &str) -> Result<(), String> {
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return Err(format!(
            "{path:?} leads out of the context: expected a path relative to the recipe, without \"..\""
        ));
    }
    Ok(())
}

fn absolute(path: &str) -> Result<(), String> {
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") || path.contains('\0') {
        return Err(format!("{path:?} is no absolute path without \"..\""));
    }
    Ok(())
}

fn check_user(user: &User) -> Result<(), String> {
    check_name(&user.name)?;
    let fields = [user.comment.as_deref(), user.home.as_deref(), user.shell.as_deref()];
    match fields.into_iter().flatten().find(|text| text.contains([':', '\n'])) {
        Some(text) => Err(format!("{text:?} holds a colon or a line break, which /etc/passwd cannot")),
        None => Ok(()),
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
    let good = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_') && name.chars().all(word);
    if good && name.len() <= 32 {
        return Ok(());
    }
    Err("its name must be 1 to 32 lower-case letters, digits, - and _, and begin with a letter or _"
        .to_owned())
}

fn check_run(run: &Run) -> Result<(), String> {
    check_command(&run.command)?;
    run.workdir.as_deref().map_or(Ok(()), absolute)
}

fn check_verify(verify: &Verify) -> Result<(), String> {
    check_command(&verify.command)?;
    verify.timeout.as_deref().map_or(Ok(Duration::ZERO), parse_time).map(drop)
}

fn check_command(command: &Command) -> Result<(), String> {
    let words = command.argv();
    if words.is_empty() || words[0].is_empty() || command.text().trim().is_empty() {
        return Err("its command is empty".to_owned());
    }
    if words.iter().any(|word| word.contains('\0')) {
        return Err("its command holds a NUL".to_owned());
    }
    Ok(())
}

/// Permission bits, octal.
pub fn parse_mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err(format!("mode is {text:?}, expected octal digits such as \"0644\"")),
    }
}

/// A time such as `90s`, `1m30s`, `500ms`, `2h`.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is no time: expected such as \"500ms\", \"30s\", \"1m30s\" or \"2h\"");
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit_ms: u64 = match &rest[..end] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(bad()),
        };
        total = total.saturating_add(Duration::from_millis(number.saturating_mul(unit_ms)));
        rest = &rest[end..];
    }
    if text.is_empty() { Err(bad()) } else { Ok(total) }
}
