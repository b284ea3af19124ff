//! Stanzas: the paragraphs of `Name: value` lines that all of Debian's control data is made of.
//!
//! [`stanzas`] walks a text and yields one [`Stanza`] after another, borrowing every value. What
//! the fields mean is for others to know.
//!
//! Spec: Debian Policy 5.1; deb822(5).

use crate::DebError;

/// One paragraph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stanza<'a> {
    fields: Vec<(&'a str, &'a str)>,
    line: usize,
}

impl<'a> Stanza<'a> {
    /// The value of a field, names compared without case. Continuation lines keep their indent.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }

    /// All fields in the order of the text.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, &'a str)> + '_ {
        self.fields.iter().copied()
    }

    /// The line, from 1, on which it starts.
    #[must_use]
    pub const fn line(&self) -> usize {
        self.line
    }
}

/// A line longer than this is no control data.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// Walks the stanzas of `text`. After the first error nothing more comes.
pub fn stanzas(text: &[u8]) -> impl Iterator<Item = Result<Stanza<'_>, DebError>> {
    let mut reader = match std::str::from_utf8(text) {
        Ok(text) => Ok(Reader { text, at: 0, line: 0 }),
        Err(error) => Err(Some(DebError::NotText { line: line_at(text, error.valid_up_to()) })),
    };
    std::iter::from_fn(move || match &mut reader {
        Err(error) => error.take().map(Err),
        Ok(walk) => {
            let next = walk.next_stanza().transpose()?;
            if next.is_err() {
                reader = Err(None);
            }
            Some(next)
        }
    })
}

fn line_at(text: &[u8], position: usize) -> usize {
    1 + text[..position].iter().filter(|&&byte| byte == b'\n').count()
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl<'a> Reader<'a> {
    fn next_line(&mut self) -> Result<Option<&'a str>, DebError> {
        let rest = &self.text[self.at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let end = memchr::memchr(b'\n', rest.as_bytes()).unwrap_or(rest.len());
        self.at += (end + 1).min(rest.len());
        self.line += 1;
        let line = &rest[..end];
        if line.len() > MAX_LINE_BYTES {
            return Err(DebError::LineTooLong { line: self.line, size_bytes: line.len() });
        }
        if memchr::memchr(0, line.as_bytes()).is_some() {
            return Err(DebError::NotText { line: self.line });
        }
        Ok(Some(line))
    }

    fn next_stanza(&mut self) -> Result<Option<Stanza<'a>>, DebError> {
        let mut stanza = Stanza { fields: Vec::new(), line: 0 };
        while let Some(line) = self.next_line()? {
            if line.trim_end().is_empty() {
                if stanza.fields.is_empty() {
                    continue;
                }
                return Ok(Some(stanza));
            }
            if line.starts_with('#') {
                continue;
            }
            self.take_line(&mut stanza, line)?;
        }
        Ok((!stanza.fields.is_empty()).then_some(stanza))
    }

    fn take_line(&self, stanza: &mut Stanza<'a>, line: &'a str) -> Result<(), DebError> {
        if line.starts_with([' ', '\t']) {
            let (_, value) =
                stanza.fields.last_mut().ok_or(DebError::StrayContinuation { line: self.line })?;
            *value = self.extended(value, line);
            return Ok(());
        }
        let colon = memchr::memchr(b':', line.as_bytes()).filter(|&colon| colon > 0);
        let (name, value) =
            line.split_at(colon.ok_or_else(|| DebError::NoColon { line: self.line, found: shorten(line) })?);
        if !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(DebError::NoColon { line: self.line, found: shorten(line) });
        }
        if stanza.get(name).is_some() {
            return Err(DebError::DuplicateField { line: self.line, field: name.to_owned() });
        }
        if stanza.fields.is_empty() {
            stanza.line = self.line;
        }
        stanza.fields.push((name, value[1..].trim()));
        Ok(())
    }

    /// `value` stretched over `line`, which follows it in the same text.
    fn extended(&self, value: &'a str, line: &'a str) -> &'a str {
        let start = value.as_ptr() as usize - self.text.as_ptr() as usize;
        let end = line.as_ptr() as usize - self.text.as_ptr() as usize + line.trim_end().len();
        &self.text[start..end]
    }
}

fn shorten(line: &str) -> String {
    line.chars().take(100).collect()
}

#[cfg(test)]
mod tests;
