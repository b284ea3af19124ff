//! Programs and files that a text names.
//!
//! Pure: [`shebang`] reads a script's first line, [`words`] splits a script into what could be programs, [`paths`]
//! finds what could be files.
//!
//! Spec: execve(2), "Interpreter scripts"; POSIX shell, "Token Recognition", as far as it is needed.

/// The interpreter and its arguments.
#[must_use]
pub fn shebang(text: &[u8]) -> Option<Vec<String>> {
    let line = text.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let line = std::str::from_utf8(line.get(..MAX_SHEBANG_BYTES).unwrap_or(line)).ok()?;
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    (!words.is_empty()).then_some(words)
}

const MAX_SHEBANG_BYTES: usize = 255;

/// The program behind `env`, past its options and variables.
#[must_use]
pub fn behind_env(words: &[String]) -> &[String] {
    let is_word = |word: &String| !word.starts_with('-') && !word.contains('=');
    let start = words.iter().position(is_word).unwrap_or(words.len());
    &words[start..]
}

/// What a shell script could run: words that are names or absolute paths, comments left out.
#[must_use]
pub fn words(script: &str) -> Vec<&str> {
    let lines = script.lines().map(|line| line.split(" #").next().unwrap_or_default());
    let lines = lines.filter(|line| !line.trim_start().starts_with('#'));
    let separates = |c: char| c.is_whitespace() || "\"'`|&;()<>{}$=".contains(c);
    let mut words: Vec<&str> =
        lines.flat_map(|line| line.split(separates)).filter(|word| is_name(word)).collect();
    words.sort_unstable();
    words.dedup();
    words
}

fn is_name(word: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "/._+-@".contains(c);
    !word.is_empty() && word.len() < 4096 && word.chars().all(good) && !word.starts_with('-')
}

/// Absolute paths that a text names, such as those of a configuration file.
#[must_use]
pub fn paths(text: &str) -> Vec<&str> {
    let separates = |c: char| c.is_whitespace() || "\"'`|&;()<>{}$=,:".contains(c);
    let mut paths: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#') || line.starts_with("#!"))
        .flat_map(|line| line.split(separates))
        .filter(|word| word.starts_with('/') && word.len() > 1 && word.len() < 4096)
        .collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

#[cfg(test)]
mod tests {
    use super::{behind_env, paths, shebang, words};

    #[test]
    fn a_first_line_names_an_interpreter_or_nothing() {
        let words = shebang(b"#! /usr/bin/env -S LANG=C python3 -I\nimport os\n").unwrap();
        assert_eq!(words[0], "/usr/bin/env");
        assert_eq!(behind_env(&words[1..]), ["python3", "-I"]);
        assert_eq!(shebang(b"#!\n"), None);
        assert_eq!(shebang(b"\x7fELF"), None);
        assert_eq!(shebang(b"#!\xff\n"), None);
    }

    #[test]
    fn a_script_names_what_it_runs() {
        let script = "#!/bin/sh\n# not this one\nset -e\nif ! initdb --x; then exec /usr/bin/postgres \"$@\"; fi # nor this\n";
        let found = words(script);
        for word in ["initdb", "/usr/bin/postgres", "exec"] {
            assert!(found.contains(&word), "{word}: {found:?}");
        }
        assert!(!found.contains(&"not") && !found.contains(&"nor"), "{found:?}");
    }

    #[test]
    fn a_configuration_names_files() {
        let text = "include /etc/nginx/mime.types;\n# /etc/none\nroot \"/srv/www\";\n";
        assert_eq!(paths(text), ["/etc/nginx/mime.types", "/srv/www"]);
    }
}
