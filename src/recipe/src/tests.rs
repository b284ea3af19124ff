use crate::load::{Source, load};
use crate::{Recipe, RecipeError, TargetName, check};

fn error(text: &str) -> String {
    Recipe::parse("r.toml", text).map_or_else(|error| error.to_string(), |_| "it was accepted".to_owned())
}

#[test]
fn mistakes_are_named_with_their_place() {
    for (text, expected) in [
        (
            "suite = \"trixie\"\npakages = []\n",
            "r.toml:2:1: there is no key \"pakages\"; did you mean \"packages\"?",
        ),
        (
            "[image]\nentrypont = []\n",
            "r.toml:2:1: there is no key \"entrypont\"; did you mean \"entrypoint\"?",
        ),
        ("suite = 3\n", "r.toml:1:9: invalid type: integer `3`, expected a string"),
        ("suite = \n", "r.toml:1:"),
        ("target = \"prod\"\n", "r.toml:1:10: unknown variant `prod`"),
        ("[[file]]\npath = \"etc/x\"\ntext = \"\"\n", "no absolute path"),
        ("[[file]]\npath = \"/x\"\n", "exactly one of"),
        ("[[file]]\npath = \"/x\"\nfrom = \"../y\"\n", "leads out of the context"),
        ("[[file]]\npath = \"/x\"\nfrom = \"/y\"\n", "leads out of the context"),
        ("[[file]]\npath = \"/x\"\ntext = \"\"\nmode = \"9\"\n", "octal"),
        ("[[file]]\npath = \"/x\"\nurl = \"https://a\"\n", "needs sha256"),
        ("[[file]]\npath = \"/x\"\nurl = \"ftp://a\"\nsha256 = \"0\"\n", "https://"),
        ("[[user]]\nname = \"Root\"\n", "lower-case"),
        ("[[user]]\nname = \"a\"\ncomment = \"x:y\"\n", "colon"),
        ("[[run]]\ncommand = []\n", "empty"),
        ("[[verify]]\ncommand = \"true\"\ntimeout = \"5\"\n", "no time"),
        ("[stage.a.stage.b]\n", "stages of its own"),
    ] {
        let found = error(text);
        assert!(found.contains(expected), "{text}\n{found}");
    }
}

fn find(_: &str, name: &str) -> Result<Source, String> {
    let text = match name {
        "base" => {
            "suite = \"trixie\"\npackages = [\"a\", \"b\"]\n[image]\nenv = { A = \"1\" }\ncmd = [\"sh\"]\n"
        }
        "circle" => "extends = \"round\"\n",
        "round" => "extends = \"circle\"\n",
        _ => return Err("there is no such recipe".to_owned()),
    };
    Ok(Source { place: name.to_owned(), text: text.to_owned() })
}

fn loaded(text: &str) -> Result<Recipe, RecipeError> {
    load(&Source { place: "r.toml".to_owned(), text: text.to_owned() }, &find)
}

#[test]
fn what_extends_adds_and_has_the_last_word() {
    let text = "extends = \"base\"\npackages = [\"c\", \"a-\"]\n[image]\nenv = { B = \"2\" }\nentrypoint = [\"x\"]\n";
    let recipe = loaded(text).unwrap();
    assert_eq!(recipe.packages, ["b", "c"]);
    assert_eq!(recipe.suite.as_deref(), Some("trixie"));
    let image = recipe.image.unwrap();
    assert_eq!(image.env.len(), 2);
    assert_eq!((image.entrypoint, image.cmd), (Some(vec!["x".to_owned()]), None));
}

#[test]
fn circles_and_gaps_are_named() {
    let circle = loaded("extends = \"circle\"\n").unwrap_err().to_string();
    assert_eq!(circle, "recipes extend each other in a circle: r.toml -> circle -> round -> circle");
    let gap = loaded("extends = \"nothing\"\n").unwrap_err().to_string();
    assert_eq!(gap, "r.toml: it extends \"nothing\", which cannot be read: there is no such recipe");
}

#[test]
fn a_target_has_its_own_table_in_the_common_keys() {
    let text = "packages = [\"a\"]\n[dev]\npackages = [\"gdb\"]\n[production]\nmode = \"slim\"\n[[verify]]\ncommand = \"true\"\n";
    let recipe = Recipe::parse("r", text).unwrap();
    assert_eq!(recipe.default_target(), TargetName::Production);
    let dev = recipe.clone().for_target(TargetName::Dev);
    assert_eq!((dev.packages.len(), dev.verifies.len()), (2, 0));
    let production = recipe.for_target(TargetName::Production);
    assert_eq!((production.packages.len(), production.verifies.len()), (1, 1));
}

#[test]
fn values_that_a_build_would_refuse_are_refused_when_read() {
    let check = |text: &str, expected: &str| {
        let said = Recipe::parse("r", text).unwrap_err().to_string();
        assert!(said.contains(expected), "{said}");
    };
    check("[image]\nports = [\"0\"]", "port \"0\"");
    check("[image]\nports = [\"9-8\"]", "port \"9-8\"");
    check("[production.image]\nworkdir = \"app\"", "no absolute path");
    check("[image.healthcheck]\ncommand = \"true\"\ninterval = \"soon\"", "interval: \"soon\"");
    check("[image.healthcheck]\ninterval = \"1s\"", "healthcheck: its command is empty");
    let twice = "[[file]]\npath = \"/a\"\ntext = \"1\"\n[[file]]\npath = \"/a/\"\ntext = \"2\"";
    check(twice, "/a is there twice");
    assert_eq!(check::parse_port("8000-8010/udp").unwrap(), "8000-8010/udp");
}

#[test]
fn times_are_read() {
    assert_eq!(check::parse_time("1m30s").unwrap().as_secs(), 90);
    assert_eq!(check::parse_time("500ms").unwrap().as_millis(), 500);
    assert!(
        check::parse_time("").is_err() && check::parse_time("3").is_err() && check::parse_time("3y").is_err()
    );
}

#[test]
fn the_schema_names_every_key_and_forbids_others() {
    let schema: serde_json::Value = serde_json::from_str(&crate::schema()).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    for key in ["suite", "packages", "file", "stage", "production", "verify"] {
        assert!(schema["properties"].get(key).is_some(), "{key}");
    }
}

#[test]
fn a_recipe_survives_being_written_and_read() {
    let text = "suite = \"trixie\"\n[[run]]\ncommand = [\"true\"]\n[stage.build]\ntarget = \"dev\"\n[dev.customizations.vscode]\nextensions = [\"x\"]\n";
    let recipe = Recipe::parse("r", text).unwrap();
    assert_eq!(Recipe::parse("r", &recipe.to_text().unwrap()).unwrap(), recipe);
}

#[test]
fn the_published_schema_is_that_of_this_program() {
    let published = include_str!("../../../docs/formats/recipe.schema.json");
    assert!(
        published.trim_end() == crate::schema(),
        "write it anew: knarr recipe schema > docs/formats/recipe.schema.json"
    );
}
