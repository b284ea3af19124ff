//! debconf: its databases, and what loading a package's templates does to them.
//!
//! Items are sorted by name, their fields by key. A template's keys are lower case, what follows
//! its first line is the field `extended_…`; a question belongs to every package that loaded it.
//!
//! Spec: debconf-devel(7) for templates; the databases' format is that of debconf's `822` driver.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use knarr_tree::root::Root;

use super::{Scene, text_of};
use crate::BootstrapError;

const QUESTIONS: &str = "var/cache/debconf/config.dat";
const TEMPLATES: &str = "var/cache/debconf/templates.dat";

/// An answer that a script's questions end with when nobody is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) question: &'static str,
    pub(super) value: &'static str,
    pub(super) is_seen: bool,
    pub(super) variables: &'static [(&'static str, &'static str)],
}

impl Answer {
    pub(super) const fn new(question: &'static str, value: &'static str, is_seen: bool) -> Self {
        Self { question, value, is_seen, variables: &[] }
    }
}

/// Whether debconf is there and nobody answered the questions before.
pub(super) fn can_answer(root: &Root, answers: &[Answer]) -> Result<bool, BootstrapError> {
    let has_debconf = root.exists("usr/share/debconf/confmodule")? && root.exists("usr/bin/perl")?;
    let questions = Items::parse(&text_of(root, QUESTIONS)?);
    let is_known = |answer: &Answer| {
        questions.0.get(answer.question).is_some_and(|item| item.fields.contains_key("value"))
    };
    Ok(has_debconf && !answers.iter().any(is_known))
}

/// Loads the templates of the script's package, then sets the answers.
pub(super) fn load_and_answer(scene: &Scene<'_>, answers: &[Answer]) -> Result<(), BootstrapError> {
    let root = scene.root;
    let control = scene.script.control;
    // A preinst knows its package from the control file, where the architecture is a field of its own.
    let owner = if scene.script.name == "preinst" { control.name().to_owned() } else { control.info_name() };
    let mut questions = Items::parse(&text_of(root, QUESTIONS)?);
    let mut templates = Items::parse(&text_of(root, TEMPLATES)?);
    let text = String::from_utf8_lossy(control.file("templates").unwrap_or_default()).into_owned();
    for template in text.split("\n\n").filter(|stanza| !stanza.trim().is_empty()) {
        load(template.trim_matches('\n'), &owner, &mut questions, &mut templates);
    }
    for answer in answers {
        let question = questions.0.entry(answer.question.to_owned()).or_default();
        question.fields.insert("value".to_owned(), answer.value.to_owned());
        if answer.is_seen {
            question.flags.insert("seen".to_owned());
        }
        let variables = answer.variables.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        question.variables.extend(variables);
    }
    root.create_dir_all("var/cache/debconf", 0o755)?;
    if !root.exists("var/cache/debconf/passwords.dat")? {
        root.write("var/cache/debconf/passwords.dat", b"", 0o600)?;
    }
    root.write(TEMPLATES, templates.to_text().as_bytes(), 0o644)?;
    Ok(root.write(QUESTIONS, questions.to_text().as_bytes(), 0o644)?)
}

fn load(stanza: &str, owner: &str, questions: &mut Items, templates: &mut Items) {
    let mut fields = template_fields(stanza);
    let Some(name) = fields.remove("template") else { return };
    let question = questions.0.entry(name.clone()).or_default();
    question.fields.insert("template".to_owned(), name.clone());
    question.owners.insert(owner.to_owned());
    let template = templates.0.entry(name.clone()).or_default();
    template.owners.insert(name);
    template.fields = fields;
}

fn template_fields(stanza: &str) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let (mut field, mut extended) = (String::new(), String::new());
    for line in stanza.lines() {
        if let Some((key, value)) = head(line) {
            save_extended(&mut fields, &field, &mut extended);
            field = key.to_ascii_lowercase();
            fields.insert(field.clone(), value.trim_end().to_owned());
        } else if line == " ." {
            extended.push_str("\n\n");
        } else if let Some(more) = line.strip_prefix(' ') {
            extend(&mut extended, more);
        }
    }
    save_extended(&mut fields, &field, &mut extended);
    fields
}

/// Paragraphs are joined by spaces; a line that is indented stays a line.
fn extend(extended: &mut String, line: &str) {
    let is_verbatim = line.starts_with([' ', '\t']);
    if !extended.is_empty() && !extended.ends_with(['\n', ' ']) {
        extended.push(if is_verbatim { '\n' } else { ' ' });
    }
    extended.push_str(line.trim_end());
    if is_verbatim {
        extended.push('\n');
    }
}

fn save_extended(fields: &mut BTreeMap<String, String>, field: &str, extended: &mut String) {
    let text = std::mem::take(extended);
    let text = text.trim_end_matches('\n');
    if !text.is_empty() {
        fields.insert(format!("extended_{field}"), text.to_owned());
    }
}

fn head(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(':')?;
    let is_key = |byte: u8| byte.is_ascii_alphanumeric() || b"-_@.".contains(&byte);
    key.bytes().all(is_key).then(|| (key, value.strip_prefix(char::is_whitespace).unwrap_or(value)))
}

#[derive(Debug, Default)]
struct Items(BTreeMap<String, Item>);

#[derive(Debug, Default)]
struct Item {
    fields: BTreeMap<String, String>,
    owners: BTreeSet<String>,
    flags: BTreeSet<String>,
    variables: BTreeMap<String, String>,
}

impl Items {
    fn parse(text: &str) -> Self {
        let stanzas = text.split("\n\n").filter(|stanza| !stanza.trim().is_empty());
        Self(stanzas.filter_map(Item::parse).collect())
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        for (name, item) in &self.0 {
            item.write(name, &mut text);
        }
        text
    }
}

impl Item {
    fn parse(stanza: &str) -> Option<(String, Self)> {
        let (mut name, mut item, mut in_variables) = (None, Self::default(), false);
        let list = |value: &str| value.split(", ").map(str::to_owned).collect::<BTreeSet<_>>();
        for line in stanza.lines() {
            if in_variables && let Some(line) = line.strip_prefix(' ') {
                let (key, value) = line.split_once(" =").unwrap_or((line, ""));
                item.variables.insert(key.to_owned(), value.strip_prefix(' ').unwrap_or(value).to_owned());
                continue;
            }
            let (key, value) = line.split_once(':')?;
            let value = value.strip_prefix(' ').unwrap_or(value);
            in_variables = key == "Variables";
            match key.to_lowercase().as_str() {
                "name" => name = Some(value.to_owned()),
                "owners" => item.owners = list(value),
                "flags" => item.flags = list(value),
                "variables" => {}
                key => {
                    item.fields.insert(key.to_owned(), value.replace("\\n", "\n"));
                }
            }
        }
        Some((name?, item))
    }

    fn write(&self, name: &str, text: &mut String) {
        let list = |items: &BTreeSet<String>| items.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let _ = writeln!(text, "Name: {name}");
        for (key, value) in &self.fields {
            let (first, rest) = key.split_at(key.len().min(1));
            let _ = writeln!(text, "{}{rest}: {}", first.to_uppercase(), value.replace('\n', "\\n"));
        }
        if !self.owners.is_empty() {
            let _ = writeln!(text, "Owners: {}", list(&self.owners));
        }
        if !self.flags.is_empty() {
            let _ = writeln!(text, "Flags: {}", list(&self.flags));
        }
        if !self.variables.is_empty() {
            text.push_str("Variables:\n");
            for (key, value) in &self.variables {
                let _ = writeln!(text, " {key} = {}", value.replace('\n', "\\n"));
            }
        }
        text.push('\n');
    }
}
