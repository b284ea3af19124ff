//! Keeps for an image that lacks something: builds it again and again until its promises hold.
//!
//! [`fix`] adds what the failing command looked for in vain, and when everything holds takes away again what is not
//! needed for it. What to write into the recipe is the answer; writing it is the caller's work.

use std::collections::BTreeSet;

use crate::error::Missing;
use crate::{Built, Factory, FactoryError, Request};

/// An image whose promises hold.
#[derive(Clone, Debug)]
pub struct Fixed {
    /// The image.
    pub built: Built,
    /// What the recipe must keep for it, sorted; nothing when it held as it was.
    pub keeps: Vec<String>,
}

/// More rounds than an image can sensibly need.
const MAX_ROUNDS: usize = 24;
/// So many builds find out what is not needed.
const MAX_TRIALS: usize = 40;

/// Builds until the recipe's promises hold.
pub fn fix(factory: &Factory<'_>, request: &Request) -> Result<Fixed, FactoryError> {
    let mut keeps: BTreeSet<String> = BTreeSet::new();
    let mut built = None;
    for _ in 0..MAX_ROUNDS {
        match factory.build(&with_keeps(request, &keeps)) {
            Ok(done) => {
                built = Some(done);
                break;
            }
            Err(FactoryError::Verify { command, reason, output, missing }) => {
                let new: Vec<String> =
                    missing.iter().filter(|file| is_worth_it(file)).map(|file| file.path.clone()).collect();
                let before = keeps.len();
                keeps.extend(new);
                if keeps.len() == before {
                    return Err(FactoryError::Verify { command, reason, output, missing });
                }
                factory.progress.phase(&format!("fixing: {} files kept", keeps.len()));
            }
            Err(error) => return Err(error),
        }
    }
    let Some(built) = built else {
        return Err(FactoryError::Request(format!(
            "it does not hold after {MAX_ROUNDS} rounds of keeping files"
        )));
    };
    if keeps.is_empty() {
        return Ok(Fixed { built, keeps: Vec::new() });
    }
    let keeps = needed(factory, request, keeps)?;
    let built = factory.build(&with_keeps(request, &keeps))?;
    Ok(Fixed { built, keeps: keeps.into_iter().collect() })
}

/// Messages in other languages are looked for by every program that fails.
fn is_worth_it(file: &Missing) -> bool {
    !file.path.ends_with(".mo")
}

/// Halves, quarters and single keeps are left out as long as everything holds without them.
fn needed(
    factory: &Factory<'_>,
    request: &Request,
    keeps: BTreeSet<String>,
) -> Result<BTreeSet<String>, FactoryError> {
    let mut left: Vec<String> = keeps.into_iter().collect();
    let mut size = left.len().div_ceil(2);
    let mut trials = 0;
    while left.len() > 1 && size > 0 {
        let mut at = 0;
        while at < left.len() && left.len() > 1 && trials < MAX_TRIALS {
            let end = (at + size).min(left.len());
            let rest: BTreeSet<String> = left[..at].iter().chain(&left[end..]).cloned().collect();
            trials += 1;
            match factory.build(&with_keeps(request, &rest)) {
                Ok(_) => drop(left.drain(at..end)),
                Err(FactoryError::Verify { .. }) => at = end,
                Err(error) => return Err(error),
            }
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
    Ok(left.into_iter().collect())
}

fn with_keeps(request: &Request, keeps: &BTreeSet<String>) -> Request {
    let mut request = request.clone();
    request.recipe.keep.extend(keeps.iter().cloned());
    request
}
