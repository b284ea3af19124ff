use knarr_base::{Architecture, Digest};
use knarr_oci::{Descriptor, Platform, media_type};
use knarr_store::{Store, StoreError, gc};

use super::tests_support::{Fault, Guard, Server, TestImage, Told, client, host_options, options};
use super::*;
use crate::credentials::{Credential, Secret};

struct Fixture {
    dir: tempfile::TempDir,
    server: Server,
    store: Store,
    told: Told,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, server: Server::new(), store, told: Told::default() }
    }

    /// One whose registry has an image.
    fn with(image: &TestImage) -> Self {
        let fixture = Self::new();
        fixture.server.put("app", "1", image);
        fixture
    }

    fn name(&self, rest: &str) -> Reference {
        Reference::parse(&format!("{}/{rest}", self.server.host)).unwrap()
    }

    fn client(&self) -> Client {
        client(self.dir.path())
    }

    fn pull(&self) -> Result<Pulled, RegistryError> {
        self.pull_with(&self.client())
    }

    fn pull_with(&self, client: &Client) -> Result<Pulled, RegistryError> {
        client.pull(&self.store, &self.name("app:1"), &native(), &self.told)
    }

    fn push(&self, name: &str) -> Result<Pushed, RegistryError> {
        let reference = self.name(name);
        let found = self.store.find(&reference.to_string()).unwrap();
        self.client().push(&self.store, &found.descriptor, &reference, &PUSH, &self.told)
    }

    /// An image of the store under a name of the registry.
    fn add(&self, name: &str, image: &TestImage) -> Descriptor {
        let ingest = self.store.ingest().unwrap();
        image.blobs.iter().for_each(|blob| drop(ingest.put("", blob).unwrap()));
        let descriptor = ingest.put(image.kind, &image.bytes).unwrap();
        let name = (!name.is_empty()).then(|| self.name(name).to_string());
        ingest.add(name.as_deref(), &descriptor).unwrap();
        descriptor
    }

    /// Files under `tmp/`.
    fn left(&self) -> Vec<u64> {
        let entries = std::fs::read_dir(self.store.path().join("tmp")).unwrap();
        entries.map(|entry| entry.unwrap().metadata().unwrap().len()).collect()
    }

    fn is_empty(&self) -> bool {
        self.store.entries().unwrap().is_empty()
    }

    fn login(&self, registry: &str, username: &str, password: &str) {
        let secret = Secret::Password(password.to_owned());
        let credential = Credential { username: username.to_owned(), secret };
        Credentials::open(&self.dir.path().join("docker")).set(registry, &credential).unwrap();
    }
}

const PUSH: Push = Push { platform: None, referrers: true };

fn native() -> Pull {
    Pull { which: Which::One(Platform::of(Architecture::native())), referrers: false, name: None }
}

fn all(referrers: bool) -> Pull {
    Pull { which: Which::All, referrers, name: None }
}

/// 3.2 MB that look like nothing else.
fn large() -> Vec<u8> {
    (0..800_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

const OTHER: &str = if cfg!(target_arch = "aarch64") { "amd64" } else { "arm64" };

#[test]
fn an_image_comes_whole_and_only_once() {
    let image = TestImage::new(&[b"one", b"two", &large()]);
    let fixture = Fixture::with(&image);
    let pulled = fixture.pull().unwrap();
    assert_eq!((pulled.descriptor.digest, pulled.fetched, pulled.known), (image.digest(), 4, 0));
    assert!(fixture.store.find(&pulled.name).unwrap().descriptor.platform.is_some());
    assert!(gc::check(&fixture.store).unwrap().is_empty());
    let (told, expected) = (&fixture.told.bytes, &fixture.told.expected);
    assert_eq!(told.load(Ordering::Relaxed), expected.load(Ordering::Relaxed));
    fixture.server.asked();
    let again = fixture.pull().unwrap();
    assert!(again.is_known && again.fetched == 0);
    // The tag's digest is all that has to be asked for.
    let asked = fixture.server.asked();
    assert!(asked.iter().all(|asked| asked.method == "HEAD" || asked.path == "/v2/"), "{asked:?}");
}

#[test]
fn a_tag_that_moved_is_fetched_and_the_old_image_stays_without_it() {
    let (old, new) = (TestImage::new(&[b"base", b"old"]), TestImage::new(&[b"base", b"new"]));
    let fixture = Fixture::with(&old);
    fixture.pull().unwrap();
    fixture.server.put("app", "1", &new);
    // Some registries answer no HEAD.
    fixture.server.fault("HEAD /v2/app/manifests/", 1, Fault::Status(405, "", ""));
    let pulled = fixture.pull().unwrap();
    assert_eq!((pulled.descriptor.digest, pulled.is_known), (new.digest(), false));
    assert_eq!(fixture.store.find(&pulled.name).unwrap().descriptor.digest, new.digest());
    assert!(fixture.store.find(&old.digest().to_string()).is_ok());
}

#[test]
fn a_pull_of_what_another_image_has_fetches_the_rest_only() {
    let fixture = Fixture::with(&TestImage::new(&[b"base", b"app"]));
    fixture.server.put("other", "1", &TestImage::new(&[b"base", b"other"]));
    fixture.pull().unwrap();
    let other = fixture.client().pull(&fixture.store, &fixture.name("other:1"), &native(), &fixture.told);
    assert_eq!(other.map(|pulled| (pulled.fetched, pulled.known)).unwrap(), (2, 1));
}

#[test]
fn a_blob_with_other_bytes_is_neither_kept_nor_named() {
    let image = TestImage::new(&[b"layer"]);
    let bytes = |bytes: &[u8]| Fault::Bytes(bytes.to_vec());
    for fault in [bytes(b"liars"), bytes(b"longer than promised"), bytes(b"abc"), Fault::ShortBy(1)] {
        let fixture = Fixture::with(&image);
        let path = format!("GET /v2/app/blobs/{}", Digest::of(b"layer"));
        fixture.server.fault(&path, usize::MAX, fault);
        let error = fixture.pull().unwrap_err();
        assert!(matches!(error, RegistryError::WrongBytes { .. }), "{error}");
        assert!(error.to_string().contains(&fixture.server.host), "{error}");
        assert!(fixture.is_empty() && fixture.store.blob_size(Digest::of(b"layer")).is_none());
        fixture.server.heal();
        fixture.pull().unwrap();
    }
}

#[test]
fn a_connection_that_breaks_is_resumed_where_it_broke() {
    let fixture = Fixture::with(&TestImage::new(&[&large()]));
    let path = format!("GET /v2/app/blobs/{}", Digest::of(&large()));
    fixture.server.fault(&path, 1, Fault::CutAfter(1_000_000));
    fixture.pull().unwrap();
    let asked = fixture.server.asked();
    let resumed = asked.iter().filter_map(|asked| asked.range.as_deref()).collect::<Vec<_>>();
    assert!(resumed.len() == 1 && resumed[0] != "bytes=0-", "{resumed:?}");
    assert_eq!(fixture.told.bytes.load(Ordering::Relaxed), fixture.told.expected.load(Ordering::Relaxed));
    assert!(fixture.left().is_empty());
}

#[test]
fn the_next_pull_goes_on_with_what_the_last_one_left() {
    let fixture = Fixture::with(&TestImage::new(&[&large()]));
    fixture.server.fault("GET /v2/app/blobs/", usize::MAX, Fault::CutAfter(100_000));
    assert!(matches!(fixture.pull(), Err(RegistryError::Connection { .. })));
    let left = fixture.left();
    assert!(left.len() == 1 && left[0] > 0, "{left:?}");
    // Whoever looks after the store sees it.
    assert!(gc::check(&fixture.store).unwrap().iter().any(|finding| finding.text.contains(".partial")));
    fixture.server.heal();
    fixture.server.asked();
    fixture.pull().unwrap();
    assert!(fixture.server.asked().iter().any(|asked| asked.range == Some(format!("bytes={}-", left[0]))));
}

#[test]
fn registries_that_cannot_resume_are_asked_for_everything() {
    for fault in [Fault::IgnoreRange, Fault::Status(416, "", "")] {
        let fixture = Fixture::with(&TestImage::new(&[&large()]));
        let blob = Descriptor::of("", &large());
        fixture.store.ingest().unwrap().partial(&blob).unwrap().push(&large()[..1000]).unwrap();
        fixture.server.fault(&format!("GET /v2/app/blobs/{}", blob.digest), 1, fault);
        fixture.pull().unwrap();
    }
    let fixture = Fixture::with(&TestImage::new(&[&large()]));
    let blob = Descriptor::of("", &large());
    fixture.store.ingest().unwrap().partial(&blob).unwrap().push(&large()[..1000]).unwrap();
    fixture.server.fault(&format!("GET /v2/app/blobs/{}", blob.digest), usize::MAX, Fault::WrongRange);
    let error = fixture.pull().unwrap_err();
    assert!(error.to_string().contains("asked for bytes from 1000 on"), "{error}");
}

#[test]
fn a_damaged_beginning_is_thrown_away() {
    for beginning in [vec![9; 1000], vec![9; large().len()], vec![9; large().len() + 1]] {
        let fixture = Fixture::with(&TestImage::new(&[&large()]));
        let blob = Descriptor::of("", &large());
        fixture.store.ingest().unwrap().partial(&blob).unwrap().push(&beginning).unwrap();
        fixture.pull().unwrap();
        assert!(gc::check(&fixture.store).unwrap().is_empty());
    }
}

#[test]
fn a_registry_that_stalls_is_given_up() {
    let fixture = Fixture::with(&TestImage::new(&[&large()]));
    fixture.server.fault("GET /v2/app/blobs/", usize::MAX, Fault::StallAfter(1000));
    let error = fixture.pull().unwrap_err();
    assert!(matches!(error, RegistryError::Stalled { .. }), "{error}");
    assert!(fixture.is_empty());
}

#[test]
fn each_refusal_has_an_error_of_its_own() {
    let body = r#"{"errors":[{"code":"DENIED","message":"because"}]}"#;
    let check = |status, headers, times, is_right: &dyn Fn(&RegistryError) -> bool| {
        let fixture = Fixture::with(&TestImage::new(&[b"layer"]));
        fixture.server.fault("GET /v2/app/manifests/", usize::MAX, Fault::Status(status, headers, body));
        let error = fixture.pull().unwrap_err();
        assert!(is_right(&error) && error.to_string().contains("DENIED (because)"), "{status}: {error}");
        assert!(error.to_string().contains("/v2/app/manifests/1"), "{error}");
        assert_eq!(fixture.server.count("GET /v2/app/manifests/"), times, "{status}");
    };
    check(401, "", 1, &|error| matches!(error, RegistryError::Refused { status: 401, .. }));
    check(403, "", 1, &|error| matches!(error, RegistryError::Refused { status: 403, .. }));
    check(404, "", 1, &|error| matches!(error, RegistryError::NotFound { .. }));
    check(416, "", 1, &|error| matches!(error, RegistryError::Status { status: 416, .. }));
    check(500, "", 3, &|error| matches!(error, RegistryError::Status { status: 500, .. }));
    check(429, "Retry-After: 0\r\n", 3, &|error| matches!(error, RegistryError::Busy { .. }));
    // Nobody waits for an hour.
    check(429, "Retry-After: 3600\r\n", 1, &|error| {
        matches!(error, RegistryError::Busy { seconds: Some(3600), .. })
    });
}

#[test]
fn what_passes_is_tried_again() {
    for status in [429, 500, 503] {
        let fixture = Fixture::with(&TestImage::new(&[b"layer"]));
        fixture.server.fault("GET /v2/app/manifests/", 1, Fault::Status(status, "Retry-After: 0\r\n", ""));
        fixture.server.fault("GET /v2/app/blobs/", 1, Fault::Status(status, "", ""));
        fixture.pull().unwrap();
    }
}

#[test]
fn a_manifest_with_another_digest_is_refused() {
    let (image, other) = (TestImage::new(&[b"layer"]), TestImage::new(&[b"other"]));
    let fixture = Fixture::with(&image);
    let pinned = fixture.name(&format!("app@{}", image.digest()));
    let pull = || fixture.client().pull(&fixture.store, &pinned, &native(), &fixture.told);
    fixture.server.fault("GET /v2/app/manifests/", usize::MAX, Fault::Bytes(other.bytes.clone()));
    let error = pull().unwrap_err();
    assert!(matches!(error, RegistryError::WrongBytes { .. }), "{error}");
    // Without a digest in the name the registry's own word counts.
    assert!(matches!(fixture.pull(), Err(RegistryError::WrongBytes { .. })));
    assert!(fixture.is_empty());
    fixture.server.heal();
    assert_eq!(pull().unwrap().name, pinned.to_string());
    fixture.server.asked();
    // What has a digest need not be asked for again.
    pull().unwrap();
    assert!(fixture.server.asked().iter().all(|asked| asked.path == "/v2/"));
}

#[test]
fn an_index_gives_one_machine_or_all() {
    let native_image = TestImage::new(&[b"native"]);
    let other_image = TestImage::of_architecture(OTHER.parse().unwrap(), &[b"other"], None);
    let entry = |image: &TestImage, architecture| Descriptor {
        platform: Some(Platform::of(architecture)),
        ..image.descriptor()
    };
    let index = TestImage::index(vec![
        entry(&other_image, OTHER.parse().unwrap()),
        entry(&native_image, Architecture::native()),
    ]);
    let fixture = Fixture::new();
    fixture.server.put("app", "native", &native_image);
    fixture.server.put("app", "other", &other_image);
    fixture.server.put("app", "1", &index);
    let pulled = fixture.pull().unwrap();
    assert_eq!((pulled.descriptor.digest, pulled.fetched), (index.digest(), 2));
    // Half an index cannot be pushed where the other half is missing.
    fixture.store.tag(&pulled.descriptor, &fixture.name("new:1").to_string()).unwrap();
    let error = fixture.push("new:1").unwrap_err();
    assert!(
        matches!(error, RegistryError::Incomplete { .. }) && error.to_string().contains(OTHER),
        "{error}"
    );
    let how = Push { platform: Some(Platform::of(Architecture::native())), referrers: false };
    let new = fixture.name("new:1");
    let pushed =
        fixture.client().push(&fixture.store, &pulled.descriptor, &new, &how, &fixture.told).unwrap();
    assert_eq!(pushed.descriptor.digest, native_image.digest());
    let whole =
        fixture.client().pull(&fixture.store, &fixture.name("app:1"), &all(false), &fixture.told).unwrap();
    assert_eq!((whole.descriptor.digest, whole.fetched), (index.digest(), 2));
    assert_eq!(fixture.push("new:1").unwrap().descriptor.digest, index.digest());
    let nowhere = Pull { which: Which::One("linux/s390x".parse().unwrap()), ..native() };
    let error = fixture.client().pull(&fixture.store, &fixture.name("app:1"), &nowhere, &fixture.told);
    assert!(matches!(error, Err(RegistryError::Store(StoreError::NoPlatform { .. }))));
}

#[test]
fn index_bombs_are_refused_before_anything_of_them_is_fetched() {
    let fixture = Fixture::new();
    let many = (0..5000_u32).map(|n| Descriptor::of(media_type::MANIFEST, &n.to_le_bytes())).collect();
    fixture.server.put("app", "1", &TestImage::index(many));
    let pull = |how: &Pull| fixture.client().pull(&fixture.store, &fixture.name("app:1"), how, &fixture.told);
    let error = pull(&all(false)).unwrap_err();
    assert!(error.to_string().contains("lists 5000 manifests, more than 1000"), "{error}");
    assert_eq!(fixture.server.count("GET /v2/app/manifests/sha256"), 0);
    // Each index lists another one.
    let mut inner = TestImage::new(&[b"layer"]);
    for _ in 0..10 {
        fixture.server.put("app", "inner", &inner);
        inner = TestImage::index(vec![inner.descriptor()]);
    }
    fixture.server.put("app", "1", &inner);
    for how in [all(false), native()] {
        assert!(pull(&how).unwrap_err().to_string().contains("nested more than 4 deep"));
    }
    // More than a manifest may be.
    fixture.server.fault("GET /v2/app/manifests/1", usize::MAX, Fault::Bytes(vec![b' '; (4 << 20) + 1]));
    assert!(matches!(pull(&native()), Err(RegistryError::TooLarge { .. })));
    assert!(fixture.is_empty());
}

#[test]
fn what_an_index_promises_of_a_manifest_is_checked() {
    let image = TestImage::new(&[b"layer"]);
    let fixture = Fixture::with(&image);
    let entry = Descriptor { size: image.bytes.len() as u64 + 1, ..image.descriptor() };
    fixture.server.put("app", "1", &TestImage::index(vec![entry]));
    let error = fixture.pull().unwrap_err();
    assert!(matches!(error, RegistryError::WrongBytes { .. }), "{error}");
}

#[test]
fn a_token_is_fetched_when_asked_for_and_the_password_goes_nowhere_else() {
    let fixture = Fixture::with(&TestImage::new(&[b"one", b"two"]));
    let password = Some("me:secret".to_owned());
    fixture.server.state().guard = Some(Guard { password, uses: 1000, ..Guard::default() });
    let error = fixture.pull().unwrap_err();
    assert!(matches!(error, RegistryError::Refused { status: 401, .. }), "{error}");
    fixture.login(&fixture.server.host, "me", "secret");
    fixture.server.asked();
    fixture.pull().unwrap();
    for asked in fixture.server.asked() {
        let sent = asked.authorization.unwrap_or_default();
        if asked.path.starts_with("/token") {
            assert!(sent.starts_with("Basic ") && asked.path.contains("scope=repository%3Aapp%3Apull"));
        } else {
            assert!(sent.is_empty() || sent.starts_with("Bearer "), "{} {sent}", asked.path);
        }
    }
}

#[test]
fn a_token_that_expires_in_the_middle_is_renewed() {
    let layers: Vec<Vec<u8>> = (0..12_u8).map(|n| vec![n; 100]).collect();
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let fixture = Fixture::with(&TestImage::new(&layers));
    fixture.server.state().guard = Some(Guard { uses: 3, ..Guard::default() });
    let options = Options { jobs: 1, ..options(fixture.dir.path()) };
    fixture.pull_with(&Client::new(options).unwrap()).unwrap();
    assert!(fixture.server.count("GET /token") >= 4);
    // In the middle of a push, too, when bytes are on their way.
    let fixture = Fixture::new();
    fixture.add("app:1", &TestImage::new(&[&large(), b"small"]));
    fixture.server.state().guard = Some(Guard { uses: 3, ..Guard::default() });
    fixture.push("app:1").unwrap();
    assert!(fixture.server.has("app", &large()));
}

#[test]
fn names_and_passwords_go_with_each_request_where_a_registry_wants_them() {
    let fixture = Fixture::with(&TestImage::new(&[b"layer"]));
    let password = Some("me:secret".to_owned());
    fixture.server.state().guard = Some(Guard { password, basic: true, ..Guard::default() });
    let error = fixture.pull().unwrap_err();
    assert!(error.to_string().contains("whoever is not logged in"), "{error}");
    fixture.login(&fixture.server.host, "me", "wrong");
    let error = fixture.pull().unwrap_err();
    assert!(matches!(error, RegistryError::Refused { .. }) && error.to_string().contains("to me"), "{error}");
    fixture.login(&fixture.server.host, "me", "secret");
    fixture.pull().unwrap();
}

#[test]
fn an_identity_token_gets_tokens_and_stays_at_the_token_server() {
    let fixture = Fixture::with(&TestImage::new(&[b"layer"]));
    fixture.server.state().guard =
        Some(Guard { password: Some("x:y".to_owned()), uses: 1000, ..Guard::default() });
    let credential =
        Credential { username: "me".to_owned(), secret: Secret::Identity("IDENTITY".to_owned()) };
    Credentials::open(&fixture.dir.path().join("docker")).set(&fixture.server.host, &credential).unwrap();
    fixture.pull().unwrap();
    for asked in fixture.server.asked() {
        let text = format!("{asked:?}{}", String::from_utf8_lossy(&asked.body));
        assert_eq!(text.contains("IDENTITY"), asked.path.starts_with("/token"), "{text}");
    }
}

#[test]
fn a_token_server_that_sends_elsewhere_gets_no_password() {
    let fixture = Fixture::with(&TestImage::new(&[b"layer"]));
    let other = Server::new();
    fixture.login(&fixture.server.host, "me", "secret");
    fixture.server.state().guard = Some(Guard { uses: 9, ..Guard::default() });
    fixture.server.fault("GET /token", 1, Fault::Redirect(format!("http://{}/token", other.host)));
    assert!(fixture.pull().is_err());
    assert!(other.asked().is_empty());
    fixture.server.state().guard =
        Some(Guard { realm: Some("ftp://elsewhere/token".to_owned()), uses: 9, ..Guard::default() });
    let error = fixture.pull().unwrap_err();
    assert!(error.to_string().contains("not safe"), "{error}");
}

#[test]
fn redirects_are_followed_without_credentials() {
    let image = TestImage::new(&[b"layer"]);
    let fixture = Fixture::with(&image);
    let elsewhere = Server::new();
    elsewhere.put("app", "1", &image);
    fixture.server.state().guard = Some(Guard { uses: 1000, ..Guard::default() });
    let path = format!("/v2/app/blobs/{}", Digest::of(b"layer"));
    let to = format!("http://user:word@{}{path}", elsewhere.host);
    fixture.server.fault(&format!("GET {path}"), usize::MAX, Fault::Redirect(to));
    fixture.pull().unwrap();
    let asked = elsewhere.asked();
    assert!(asked.len() == 1 && asked[0].authorization.is_none(), "{asked:?}");
}

#[test]
fn an_upload_that_goes_on_elsewhere_takes_no_credentials_there() {
    let fixture = Fixture::new();
    fixture.add("app:1", &TestImage::new(&[b"layer"]));
    let elsewhere = Server::new();
    for id in ["a", "b"] {
        elsewhere.state().uploads.insert(id.to_owned(), Vec::new());
        let place = format!("Location: http://{}/v2/app/blobs/uploads/{id}\r\n", elsewhere.host);
        fixture.server.fault("POST /v2/app/blobs/uploads/", 1, Fault::Status(202, place.leak(), ""));
    }
    fixture.server.state().guard = Some(Guard { uses: 1000, ..Guard::default() });
    // The first request shows that a token is wanted.
    fixture.client().tags(&fixture.name("app")).unwrap();
    fixture.push("app:1").unwrap();
    let asked = elsewhere.asked();
    assert!(asked.len() == 2 && asked.iter().all(|asked| asked.authorization.is_none()), "{asked:?}");
    assert!(elsewhere.has("app", b"layer"));
}

#[test]
fn redirects_come_to_an_end() {
    let fixture = Fixture::with(&TestImage::new(&[b"layer"]));
    fixture.server.fault(
        "GET /v2/app/manifests",
        usize::MAX,
        Fault::Redirect("/v2/app/manifests/1".to_owned()),
    );
    let error = fixture.pull().unwrap_err();
    assert!(error.to_string().contains("redirected more than"), "{error}");
    fixture.server.heal();
    fixture.server.fault(
        "GET /v2/app/manifests",
        usize::MAX,
        Fault::Redirect("file:///etc/passwd".to_owned()),
    );
    assert!(fixture.pull().unwrap_err().to_string().contains("not of the web"));
}

#[test]
fn mirrors_are_asked_first_and_need_not_be_honest() {
    let image = TestImage::new(&[b"layer"]);
    let check = |prepare: &dyn Fn(&Server)| {
        let fixture = Fixture::with(&image);
        let mirror = Server::new();
        mirror.put("hub/app", "1", &image);
        prepare(&mirror);
        let mut options = options(fixture.dir.path());
        let mirrors = [format!("http://{}/hub", mirror.host), "127.0.0.1:1".to_owned()];
        let mirrors = mirrors.each_ref().map(String::as_str);
        options.hosts.insert(fixture.server.host.clone(), host_options(&mirrors));
        fixture.pull_with(&Client::new(options).unwrap()).unwrap();
        assert!(mirror.count("GET /v2/hub/app/manifests/1") > 0);
        assert!(gc::check(&fixture.store).unwrap().is_empty());
        fixture.server.count("GET /v2/app/")
    };
    assert_eq!(check(&|_| {}), 0);
    assert!(check(&|mirror| mirror.fault("GET /v2/hub/app/blobs", 99, Fault::Bytes(b"liars".to_vec()))) > 0);
    assert!(check(&|mirror| mirror.fault("GET /v2/hub", 99, Fault::Status(404, "", ""))) > 0);
    assert!(check(&|mirror| mirror.fault("GET /v2/hub", 99, Fault::Status(500, "", ""))) > 0);
    assert!(check(&|mirror| mirror.fault("GET /v2/hub/app/blobs", 99, Fault::StallAfter(2))) > 0);
}

#[test]
fn a_push_sends_what_is_new_and_nothing_else() {
    let fixture = Fixture::new();
    let (one, two) = (TestImage::new(&[b"base", b"one"]), TestImage::new(&[b"base", b"two"]));
    fixture.add("app:1", &one);
    let pushed = fixture.push("app:1").unwrap();
    assert_eq!((pushed.sent, pushed.known, pushed.descriptor.digest), (3, 0, one.digest()));
    let there = fixture.server.state().manifests[&("app".to_owned(), "1".to_owned())].clone();
    assert_eq!(there.1, one.bytes);
    fixture.add("app:2", &two);
    let pushed = fixture.push("app:2").unwrap();
    assert_eq!((pushed.sent, pushed.known), (2, 1));
    fixture.server.asked();
    let pushed = fixture.push("app:2").unwrap();
    assert_eq!((pushed.sent, pushed.known), (0, 3));
    assert!(fixture.server.asked().iter().all(|asked| matches!(asked.method.as_str(), "HEAD" | "GET")));
}

#[test]
fn large_blobs_go_in_pieces_and_a_broken_one_is_gone_on_with() {
    let fixture = Fixture::new();
    fixture.add("app:1", &TestImage::new(&[&large()]));
    fixture.server.fault("PATCH /v2/app/blobs/uploads/", 1, Fault::CutBody(300_000));
    fixture.push("app:1").unwrap();
    assert!(fixture.server.has("app", &large()));
    let asked = fixture.server.asked();
    let sent: usize =
        asked.iter().filter(|asked| asked.method == "PATCH").map(|asked| asked.body.len()).sum();
    assert_eq!(sent, large().len());
    assert_eq!(fixture.told.bytes.load(Ordering::Relaxed), fixture.told.expected.load(Ordering::Relaxed));
}

#[test]
fn an_upload_that_the_registry_forgot_begins_anew() {
    let fixture = Fixture::new();
    fixture.add("app:1", &TestImage::new(&[&large(), b"small"]));
    let forgotten = Fault::Status(404, "", r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}"#);
    fixture.server.fault("PATCH /v2/app/blobs/uploads/", 1, forgotten.clone());
    fixture.server.fault("PUT /v2/app/blobs/uploads/", 1, forgotten);
    fixture.push("app:1").unwrap();
    assert!(fixture.server.has("app", &large()) && fixture.server.has("app", b"small"));
}

#[test]
fn a_registry_that_has_no_room_is_told_of_and_not_that_it_forgot_the_upload() {
    let fixture = Fixture::new();
    fixture.add("app:1", &TestImage::new(&[&large()]));
    fixture.server.fault("PATCH /v2/app/blobs/uploads/", usize::MAX, Fault::Status(507, "", ""));
    fixture.server.fault("GET /v2/app/blobs/uploads/", usize::MAX, Fault::Status(404, "", ""));
    let error = fixture.push("app:1").unwrap_err();
    assert!(matches!(error, RegistryError::Status { status: 507, .. }), "{error}");
}

#[test]
fn registries_that_know_no_pieces_get_the_whole() {
    for status in [400, 405, 416] {
        let fixture = Fixture::new();
        fixture.add("app:1", &TestImage::new(&[&large()]));
        fixture.server.fault("PATCH /v2/app/blobs/uploads/", usize::MAX, Fault::Status(status, "", ""));
        fixture.push("app:1").unwrap();
        assert!(fixture.server.has("app", &large()));
    }
}

#[test]
fn a_registry_that_takes_no_large_pieces_gets_smaller_ones() {
    let fixture = Fixture::new();
    let bytes: Vec<u8> = large().iter().cycle().take(20 << 20).copied().collect();
    let image = TestImage::new(&[&bytes]);
    fixture.add("app:1", &image);
    fixture.server.fault("PATCH /v2/app/blobs/uploads/", 1, Fault::Status(413, "", ""));
    let client = Client::new(Options { chunk_bytes: 64 << 20, ..options(fixture.dir.path()) }).unwrap();
    client.push(&fixture.store, &image.descriptor(), &fixture.name("app:1"), &PUSH, &fixture.told).unwrap();
    let asked = fixture.server.asked();
    let pieces = asked.iter().filter(|asked| asked.method == "PATCH").map(|asked| asked.body.len());
    assert_eq!(pieces.collect::<Vec<_>>(), [20 << 20, 16 << 20, 4 << 20]);
    assert!(fixture.server.has("app", &bytes));
}

#[test]
fn a_refused_push_says_why_and_names_nothing() {
    let fixture = Fixture::new();
    fixture.add("app:1", &TestImage::new(&[b"layer"]));
    let denied = r#"{"errors":[{"code":"DENIED","message":"not yours"}]}"#;
    fixture.server.fault("POST /v2/app/blobs/uploads/", usize::MAX, Fault::Status(403, "", denied));
    let error = fixture.push("app:1").unwrap_err();
    assert!(matches!(error, RegistryError::Refused { status: 403, .. }), "{error}");
    assert!(error.to_string().contains("not yours"));
    assert!(fixture.server.state().manifests.is_empty());
}

#[test]
fn a_registry_that_stores_other_bytes_than_were_sent_is_caught() {
    let fixture = Fixture::new();
    fixture.add("app:1", &TestImage::new(&[b"layer"]));
    let lie = format!("Docker-Content-Digest: {}\r\n", Digest::of(b"other"));
    fixture.server.fault(
        "PUT /v2/app/blobs/uploads/",
        usize::MAX,
        Fault::Status(201, "Location: /x\r\nDocker-Content-Digest: sha256:00\r\n", ""),
    );
    assert!(matches!(fixture.push("app:1"), Err(RegistryError::Answer { .. })));
    fixture.server.heal();
    fixture.server.fault("HEAD /v2/app/manifests/", usize::MAX, Fault::Header(lie));
    // A tag that stands for something else is moved.
    fixture.push("app:1").unwrap();
}

#[test]
fn a_blob_of_another_repository_is_mounted_where_the_registry_lends_it() {
    let image = TestImage::new(&[b"layer"]);
    for mounts in [true, false] {
        let fixture = Fixture::new();
        fixture.server.state().mounts = mounts;
        fixture.add("one:1", &image);
        fixture.push("one:1").unwrap();
        fixture.add("two:1", &image);
        let pushed = fixture.push("two:1").unwrap();
        let expected = if mounts { (0, 2) } else { (2, 0) };
        assert_eq!((pushed.sent, pushed.mounted), expected);
        assert!(fixture.server.has("two", b"layer"));
    }
}

#[test]
fn a_mount_that_is_forbidden_stops_nothing() {
    let fixture = Fixture::new();
    let image = TestImage::new(&[b"layer"]);
    fixture.add("one:1", &image);
    fixture.add("two:1", &image);
    fixture.server.fault("mount=", usize::MAX, Fault::Status(403, "", ""));
    assert_eq!(fixture.push("two:1").unwrap().sent, 2);
}

#[test]
fn what_speaks_of_an_image_goes_along_with_and_without_the_registrys_own_list() {
    let image = TestImage::new(&[b"layer"]);
    let signature =
        |word: &[u8]| TestImage::of_architecture(Architecture::native(), &[word], Some(image.descriptor()));
    for lists in [true, false] {
        let fixture = Fixture::new();
        fixture.server.state().lists_referrers = lists;
        fixture.add("app:1", &image);
        fixture.add("", &signature(b"one"));
        assert_eq!(fixture.push("app:1").unwrap().referrers, 1, "{lists}");
        fixture.add("", &signature(b"two"));
        assert_eq!(fixture.push("app:1").unwrap().referrers, 1, "{lists}");
        assert_eq!(fixture.push("app:1").unwrap().referrers, 0, "{lists}");
        let tag = format!("sha256-{}", image.digest().hex());
        assert_eq!(fixture.server.state().manifests.contains_key(&("app".to_owned(), tag)), !lists);
        // Fetched on request only.
        let store = Store::open(&fixture.dir.path().join("second")).unwrap();
        let pull = |how: &Pull| fixture.client().pull(&store, &fixture.name("app:1"), how, &fixture.told);
        assert_eq!(pull(&all(false)).unwrap().referrers, 0);
        assert!(store.referrers(image.digest()).unwrap().is_empty());
        assert_eq!(pull(&all(true)).unwrap().referrers, 2);
        assert_eq!(store.referrers(image.digest()).unwrap().len(), 2);
        assert!(gc::check(&store).unwrap().is_empty());
    }
}

#[test]
fn what_speaks_of_something_else_is_not_believed() {
    let (image, other) = (TestImage::new(&[b"layer"]), TestImage::new(&[b"other"]));
    let fixture = Fixture::with(&image);
    let stranger = TestImage::of_architecture(Architecture::native(), &[b"x"], Some(other.descriptor()));
    fixture.server.put("app", "stranger", &stranger);
    let list = TestImage::index(vec![stranger.descriptor()]);
    fixture.server.fault("GET /v2/app/referrers/", usize::MAX, Fault::Bytes(list.bytes));
    let pulled =
        fixture.client().pull(&fixture.store, &fixture.name("app:1"), &all(true), &fixture.told).unwrap();
    assert_eq!(pulled.referrers, 0);
    assert!(fixture.told.warnings.lock().unwrap()[0].contains("as if it spoke of"));
}

#[test]
fn an_image_is_copied_from_registry_to_registry_as_it_is() {
    let image = TestImage::new(&[&large(), b"small"]);
    let fixture = Fixture::with(&image);
    let signature = TestImage::of_architecture(Architecture::native(), &[b"s"], Some(image.descriptor()));
    fixture.server.put("app", "signature", &signature);
    let other = Server::new();
    // Both sides break once.
    let path = format!("GET /v2/app/blobs/{}", Digest::of(&large()));
    fixture.server.fault(&path, 1, Fault::CutAfter(500_000));
    other.fault("PATCH /v2/copy/blobs/uploads/", 1, Fault::CutBody(200_000));
    let to = Reference::parse(&format!("{}/copy:2", other.host)).unwrap();
    let copied =
        fixture.client().copy(&fixture.name("app:1"), &to, &Which::All, true, &fixture.told).unwrap();
    assert_eq!((copied.descriptor.digest, copied.referrers), (image.digest(), 1));
    assert!(other.has("copy", &large()) && other.has("copy", b"s"));
    assert!(fixture.is_empty());
    // Within one registry nothing has to move.
    let near = fixture.name("near:1");
    let copied =
        fixture.client().copy(&fixture.name("app:1"), &near, &Which::All, false, &fixture.told).unwrap();
    assert_eq!((copied.sent, copied.mounted), (0, 3));
}

#[test]
fn a_liar_cannot_copy_its_lies() {
    let fixture = Fixture::with(&TestImage::new(&[b"layer"]));
    fixture.server.fault(
        &format!("GET /v2/app/blobs/{}", Digest::of(b"layer")),
        99,
        Fault::Bytes(b"liars".to_vec()),
    );
    let other = Server::new();
    let to = Reference::parse(&format!("{}/copy:2", other.host)).unwrap();
    fixture.client().copy(&fixture.name("app:1"), &to, &Which::All, false, &fixture.told).unwrap_err();
    assert!(other.state().manifests.is_empty() && !other.has("copy", b"liars"));
}

#[test]
fn an_interrupt_stops_a_pull_and_leaves_what_can_be_gone_on_with() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let fixture = Fixture::with(&TestImage::new(&[&large()]));
    fixture.server.fault("GET /v2/app/blobs/", usize::MAX, Fault::StallAfter(50_000));
    let options =
        Options { cancel: &STOP, stall: Duration::from_secs(10), retries: 0, ..options(fixture.dir.path()) };
    let client = Client::new(options).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while fixture.told.bytes.load(Ordering::Relaxed) < 50_000 {
                std::thread::sleep(Duration::from_millis(1));
            }
            STOP.store(true, Ordering::Relaxed);
        });
        // Without it the stall would be the error.
        assert!(matches!(fixture.pull_with(&client), Err(RegistryError::Interrupted)));
    });
    assert!(fixture.is_empty() && fixture.left().iter().sum::<u64>() >= 50_000);
    fixture.server.heal();
    fixture.pull().unwrap();
}

#[test]
fn tls_needs_a_known_authority_unless_it_is_said_to_be_insecure() {
    let image = TestImage::new(&[b"layer"]);
    let (server, pem) = Server::tls();
    server.put("app", "1", &image);
    let dir = tempfile::tempdir().unwrap();
    let reference = Reference::parse(&format!("{}/app:1", server.host)).unwrap();
    let pull = |name: &str, options: Options| {
        let store = Store::open(&dir.path().join(name)).unwrap();
        Client::new(options).unwrap().pull(&store, &reference, &native(), &Told::default())
    };
    let error = pull("unknown", options(dir.path())).unwrap_err();
    assert!(matches!(error, RegistryError::Connection { .. }), "{error}");
    pull("insecure", Options { insecure: true, ..options(dir.path()) }).unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, &pem).unwrap();
    pull("ca", Options { ca: Some(ca.clone()), ..options(dir.path()) }).unwrap();
    let certs = dir.path().join("certs.d");
    std::fs::create_dir_all(certs.join(&server.host)).unwrap();
    std::fs::write(certs.join(&server.host).join("ca.crt"), &pem).unwrap();
    pull("by-host", Options { certs_dirs: vec![certs], ..options(dir.path()) }).unwrap();
    std::fs::write(&ca, "no certificate").unwrap();
    let error = pull("bad", Options { ca: Some(ca), ..options(dir.path()) }).unwrap_err();
    assert!(error.to_string().contains("ca.pem"), "{error}");
}

#[test]
fn what_is_wrong_with_the_tls_of_this_machine_is_told_and_not_that_it_speaks_nothing_else() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    // As Go's servers do; what begins a TLS handshake gets no answer that makes sense either.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    let fixture = Fixture::new();
    let reference = Reference::parse(&format!("{host}/app:1")).unwrap();
    let error = fixture.client().pull(&fixture.store, &reference, &native(), &fixture.told).unwrap_err();
    assert!(matches!(error, RegistryError::Connection { .. }), "{error}");
    assert!(error.to_string().contains("https://"), "{error}");
}

#[test]
fn tags_come_in_pages_that_must_be_the_registrys_own() {
    let fixture = Fixture::with(&TestImage::new(&[b"layer"]));
    fixture.server.state().tags = ["a", "b", "c", "d", "e"].map(str::to_owned).to_vec();
    let tags = || fixture.client().tags(&fixture.name("app"));
    assert_eq!(tags().unwrap(), ["a", "b", "c", "d", "e"]);
    assert_eq!(fixture.client().repositories(&fixture.server.host).unwrap(), ["app"]);
    for link in ["<http://elsewhere.invalid/v2/app/tags/list>", "</v2/app/tags/list?n=1000>"] {
        fixture.server.heal();
        fixture.server.fault(
            "GET /v2/app/tags/",
            usize::MAX,
            Fault::Header(format!("Link: {link}; rel=next\r\n")),
        );
        fixture.server.state().tags.truncate(1);
        let error = tags().unwrap_err();
        assert!(error.to_string().contains("next page"), "{error}");
    }
}

#[test]
fn a_login_is_put_to_the_test() {
    let fixture = Fixture::new();
    let login = |word: &str| {
        let secret = Secret::Password(word.to_owned());
        let credential = Credential { username: "me".to_owned(), secret };
        fixture.client().login(&fixture.server.host, &credential)
    };
    // Who asks nobody knows nothing.
    assert!(!login("any").unwrap());
    for basic in [true, false] {
        let password = Some("me:right".to_owned());
        fixture.server.state().guard = Some(Guard { password, basic, uses: 9, ..Guard::default() });
        assert!(login("right").unwrap());
        assert!(matches!(login("wrong"), Err(RegistryError::Refused { .. })));
    }
}

#[test]
fn progress_never_counts_a_byte_twice() {
    let fixture = Fixture::new();
    fixture.add("app:1", &TestImage::new(&[&large(), b"a", b"b"]));
    fixture.server.fault("PUT /v2/app/blobs/uploads/", 1, Fault::Status(500, "", ""));
    fixture.push("app:1").unwrap();
    assert_eq!(fixture.told.bytes.load(Ordering::Relaxed), fixture.told.expected.load(Ordering::Relaxed));
}
