//! Recipes that extend others.

use crate::{Recipe, RecipeError};

/// A recipe's text, and the name by which it is known in errors and in circles.
pub struct Source {
    /// Where it is from.
    pub place: String,
    /// Its text.
    pub text: String,
}

const MAX_DEPTH: usize = 16;

/// Reads a recipe and all that it extends. `find` is given the place of the recipe that asks and the name it asks
/// for.
pub fn load(
    first: &Source,
    find: &dyn Fn(&str, &str) -> Result<Source, String>,
) -> Result<Recipe, RecipeError> {
    let mut chain = vec![first.place.clone()];
    let mut recipe = Recipe::parse(&first.place, &first.text)?;
    while let Some(name) = recipe.extends.take() {
        let place = chain.last().cloned().unwrap_or_default();
        let base = find(&place, &name).map_err(|reason| RecipeError::NoBase { place, name, reason })?;
        let seen = chain.contains(&base.place);
        chain.push(base.place.clone());
        if seen || chain.len() > MAX_DEPTH {
            return Err(RecipeError::Circle { chain });
        }
        recipe = recipe.over(Recipe::parse(&base.place, &base.text)?);
    }
    Ok(recipe)
}
