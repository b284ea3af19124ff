//! Recipes: what was read is written and read again without a difference.
#![no_main]

use knarr_recipe::Recipe;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(recipe) = Recipe::parse("recipe", text) else { return };
    let written = recipe.to_text().unwrap();
    assert_eq!(Recipe::parse("recipe", &written).unwrap(), recipe);
});
