//! Recipes that come with the program.

macro_rules! recipes {
    ($($name:literal)*) => { &[$(($name, include_str!(concat!("../../../recipes/", $name, ".toml")))),*] };
}

/// Name and text of every ready recipe, sorted.
pub const ALL: &[(&str, &str)] = recipes! {
    "base-minbase"
    "base-slim"
    "dev-base"
    "dev-c"
    "dev-full"
    "dev-go"
    "dev-node"
    "dev-python"
    "dev-rust"
    "prod-app-rust"
    "prod-base"
    "prod-busybox"
    "prod-cc"
    "prod-java"
    "prod-nginx"
    "prod-nodejs"
    "prod-postgres"
    "prod-python3"
    "prod-redis"
    "prod-static"
};

/// The text of a ready recipe.
#[must_use]
pub fn find(name: &str) -> Option<&'static str> {
    ALL.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}
