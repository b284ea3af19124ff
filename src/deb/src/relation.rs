//! Relations between packages: `libc6 (>= 2.38) | libc6-udeb`.
//!
//! [`parse_relations`] turns the value of a field such as `Depends` into groups of alternatives
//! that borrow from it. Choosing among them is [`crate::resolve`]'s work.
//!
//! Spec: Debian Policy 7.1 and 7.5.

use std::cmp::Ordering;
use std::fmt;

use crate::{DebError, version};

/// One package, perhaps of certain versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Relation<'a> {
    /// The package's name.
    pub name: &'a str,
    /// What follows the colon: `any`, `native` or an architecture.
    pub qualifier: Option<&'a str>,
    /// The versions that will do.
    pub constraint: Option<(Operator, &'a str)>,
}

/// How a version must stand to the one that is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `<<`
    Earlier,
    /// `<=`, and the old `<`
    EarlierEqual,
    /// `=`
    Equal,
    /// `>=`, and the old `>`
    LaterEqual,
    /// `>>`
    Later,
}

impl Operator {
    /// Whether `found` stands to `wanted` as it must.
    #[must_use]
    pub fn holds(self, found: &str, wanted: &str) -> bool {
        let order = version::compare(found, wanted);
        match self {
            Self::Earlier => order == Ordering::Less,
            Self::EarlierEqual => order != Ordering::Greater,
            Self::Equal => order == Ordering::Equal,
            Self::LaterEqual => order != Ordering::Less,
            Self::Later => order == Ordering::Greater,
        }
    }

    /// How Policy writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Earlier => "<<",
            Self::EarlierEqual => "<=",
            Self::Equal => "=",
            Self::LaterEqual => ">=",
            Self::Later => ">>",
        }
    }
}

impl fmt::Display for Relation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        if let Some(qualifier) = self.qualifier {
            write!(f, ":{qualifier}")?;
        }
        if let Some((operator, version)) = self.constraint {
            write!(f, " ({} {version})", operator.as_str())?;
        }
        Ok(())
    }
}

/// Parses a relation field: all groups must be met, each by any one of its alternatives.
pub fn parse_relations(text: &str) -> Result<Vec<Vec<Relation<'_>>>, DebError> {
    let groups = text.split(',').map(str::trim).filter(|group| !group.is_empty());
    groups.map(|group| group.split('|').map(|one| parse_relation(one, group)).collect()).collect()
}

/// Parses one relation; `context` is shown when it is wrong.
fn parse_relation<'a>(text: &'a str, context: &str) -> Result<Relation<'a>, DebError> {
    let bad = |reason| DebError::BadRelation { found: context.chars().take(200).collect(), reason };
    let text = text.trim();
    let end = text
        .find(|c: char| c.is_ascii_whitespace() || matches!(c, '(' | ':' | '[' | '<'))
        .unwrap_or(text.len());
    let (name, mut rest) = text.split_at(end);
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte)) {
        return Err(bad("expected a package's name of letters, digits and + - ."));
    }
    let mut relation = Relation { name, qualifier: None, constraint: None };
    if let Some(after) = rest.strip_prefix(':') {
        let end = after
            .find(|c: char| c.is_ascii_whitespace() || matches!(c, '(' | '[' | '<'))
            .unwrap_or(after.len());
        relation.qualifier = Some(&after[..end]);
        rest = &after[end..];
    }
    rest = rest.trim_start();
    if let Some(after) = rest.strip_prefix('(') {
        let (inside, after) = after.split_once(')').ok_or_else(|| bad("the parenthesis is never closed"))?;
        relation.constraint = Some(
            parse_constraint(inside)
                .ok_or_else(|| bad("expected an operator and a version in parentheses"))?,
        );
        rest = after.trim_start();
    }
    match rest.chars().next() {
        None | Some('[' | '<') => Ok(relation),
        Some(_) => Err(bad("something follows the relation")),
    }
}

fn parse_constraint(text: &str) -> Option<(Operator, &str)> {
    const OPERATORS: [(&str, Operator); 7] = [
        ("<<", Operator::Earlier),
        ("<=", Operator::EarlierEqual),
        (">>", Operator::Later),
        (">=", Operator::LaterEqual),
        ("=", Operator::Equal),
        ("<", Operator::EarlierEqual),
        (">", Operator::LaterEqual),
    ];
    let text = text.trim();
    let (sign, operator) = OPERATORS.iter().find(|(sign, _)| text.starts_with(sign))?;
    let version = text[sign.len()..].trim();
    (!version.is_empty()).then_some((*operator, version))
}

#[cfg(test)]
mod tests;
