use std::os::unix::fs::PermissionsExt;

use super::*;

fn file(text: &str) -> (tempfile::TempDir, Credentials) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), text).unwrap();
    let credentials = Credentials::open(dir.path());
    (dir, credentials)
}

fn password(name: &str, word: &str) -> Credential {
    Credential { username: name.to_owned(), secret: Secret::Password(word.to_owned()) }
}

#[test]
fn a_login_is_found_again_and_only_there() {
    let dir = tempfile::tempdir().unwrap();
    let credentials = Credentials::open(&dir.path().join("new"));
    assert_eq!(credentials.get("reg.example").unwrap(), None);
    credentials.set("reg.example", &password("me", "a:b")).unwrap();
    assert_eq!(credentials.get("reg.example").unwrap(), Some(password("me", "a:b")));
    assert_eq!(credentials.get("reg.example:5000").unwrap(), None);
    let mode = fs::metadata(credentials.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(credentials.remove("reg.example").unwrap());
    assert!(!credentials.remove("reg.example").unwrap());
    assert_eq!(credentials.get("reg.example").unwrap(), None);
}

#[test]
fn keys_that_are_not_ours_stay_as_they_are() {
    let (_dir, credentials) =
        file(r#"{"psFormat":"x","auths":{"a.example":{"auth":"bTpw","extra":1}},"z":[1]}"#);
    credentials.set("b.example", &password("me", "p")).unwrap();
    let text = fs::read_to_string(credentials.path()).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&value["psFormat"], &value["z"]), (&json!("x"), &json!([1])));
    assert_eq!(value["auths"]["a.example"], json!({"auth": "bTpw", "extra": 1}));
    assert_eq!(value.as_object().unwrap().keys().next().unwrap(), "psFormat");
}

#[test]
fn docker_hub_has_its_old_name_and_keys_may_be_addresses() {
    let (_dir, credentials) = file(
        r#"{"auths":{"https://index.docker.io/v1/":{"auth":"bTpw"},"https://reg.example/v2/":{"username":"n","password":"w"},
        "t.example":{"auth":"bTo=","identitytoken":"T"}}}"#,
    );
    assert_eq!(credentials.get("docker.io").unwrap(), Some(password("m", "p")));
    assert_eq!(credentials.get("reg.example").unwrap(), Some(password("n", "w")));
    assert!(credentials.get("t.example").unwrap().unwrap().secret == Secret::Identity("T".to_owned()));
    credentials.set("reg.example", &password("new", "w")).unwrap();
    assert_eq!(credentials.get("reg.example").unwrap(), Some(password("new", "w")));
}

#[test]
fn a_damaged_file_is_named_and_not_replaced() {
    for text in ["{", "[]", r#"{"auths":{"a.example":{"auth":"%%"}}}"#] {
        let (_dir, credentials) = file(text);
        let error = credentials.get("a.example").unwrap_err().to_string();
        assert!(error.contains("config.json"), "{error}");
    }
    let (_dir, credentials) = file("{");
    credentials.set("a.example", &password("m", "p")).unwrap_err();
    assert_eq!(fs::read_to_string(credentials.path()).unwrap(), "{");
}

#[test]
fn a_secret_is_not_shown_by_accident() {
    assert!(!format!("{:?}", password("me", "hunter2")).contains("hunter2"));
}

#[test]
fn helpers_without_a_program_and_with_a_path_are_refused() {
    for name in ["knarr-test-does-not-exist", "../../bin/sh"] {
        let (_dir, credentials) = file(&format!(r#"{{"credHelpers":{{"a.example":"{name}"}}}}"#));
        let error = credentials.get("a.example").unwrap_err();
        assert!(matches!(error, RegistryError::Helper { .. }), "{error}");
        assert_eq!(credentials.get("b.example").unwrap(), None);
    }
}
