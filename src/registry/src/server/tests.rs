use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use knarr_base::{Architecture, Digest, Timestamp};
use knarr_oci::{Descriptor, ImageConfig, ImageIndex, Manifest, media_type};
use knarr_store::Store;
use knarr_store::gc::{self, Which};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::Value;

use super::range::{Chunk, Wanted};
use super::route::{Repository, Route, Version};
use super::{Access, Limits, Options, Scheme, Server, ServerError, TlsFiles};

/// A server on a port of its own, and a client.
struct Running {
    url: String,
    store: Store,
    client: Client,
    log: Arc<Mutex<Vec<Access>>>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
    directory: tempfile::TempDir,
}

fn client() -> reqwest::ClientBuilder {
    // Another test may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy()
}

async fn start(change: impl FnOnce(&mut Options, &std::path::Path)) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let mut options = Options::new(directory.path().join("store"));
    options.listen = "127.0.0.1:0".to_owned();
    change(&mut options, directory.path());
    let log = Arc::new(Mutex::new(Vec::new()));
    let own = Arc::clone(&log);
    let server =
        Server::bind(&options, Arc::new(move |access: &Access| own.lock().unwrap().push(access.clone())))
            .unwrap();
    let url = server.url();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let task = tokio::spawn(async move { server.run(async { drop(stopped.await) }).await.unwrap() });
    let store = Store::open(&options.directory).unwrap();
    Running { url, store, client: client().build().unwrap(), log, stop: Some(stop), task, directory }
}

async fn plain() -> Running {
    start(|_, _| {}).await
}

impl Running {
    async fn ask(&self, method: &str, path: &str, body: impl Into<reqwest::Body>) -> Response {
        self.client.request(method.parse().unwrap(), self.at(path)).body(body).send().await.unwrap()
    }

    fn at(&self, path: &str) -> String {
        if path.starts_with('/') { format!("{}{path}", self.url) } else { path.to_owned() }
    }

    async fn status(&self, method: &str, path: &str) -> u16 {
        self.ask(method, path, "").await.status().as_u16()
    }

    async fn blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let reply = self.ask("POST", &path, bytes.to_vec()).await;
        assert_eq!(reply.status(), StatusCode::CREATED);
        digest
    }

    async fn put(&self, repository: &str, version: &str, kind: &str, bytes: &[u8]) -> Response {
        self.client
            .put(self.at(&format!("/v2/{repository}/manifests/{version}")))
            .header("content-type", kind)
            .body(bytes.to_vec())
            .send()
            .await
            .unwrap()
    }

    /// Pushes an image of one layer.
    async fn image(&self, repository: &str, version: &str, content: &str) -> Digest {
        let bytes = self.parts(repository, content).await.to_bytes();
        let reply = self.put(repository, version, media_type::MANIFEST, &bytes).await;
        assert_eq!(reply.status(), StatusCode::CREATED, "{}", reply.text().await.unwrap());
        Digest::of(&bytes)
    }

    /// Pushes what an image consists of.
    async fn parts(&self, repository: &str, content: &str) -> Manifest {
        let mut config = ImageConfig::new(Architecture::native(), Timestamp(0));
        config.push_layer(Digest::of(content.as_bytes()), "test");
        let config = config.to_bytes();
        self.blob(repository, &config).await;
        self.blob(repository, content.as_bytes()).await;
        Manifest::of_image(
            Descriptor::of(media_type::CONFIG, &config),
            vec![Descriptor::of(media_type::LAYER, content.as_bytes())],
        )
    }

    async fn begin(&self, repository: &str) -> String {
        let reply = self.ask("POST", &format!("/v2/{repository}/blobs/uploads/"), "").await;
        assert_eq!(reply.status(), StatusCode::ACCEPTED);
        reply.headers()["location"].to_str().unwrap().to_owned()
    }

    async fn chunk(&self, location: &str, range: &str, bytes: &'static [u8]) -> Response {
        self.client.patch(self.at(location)).header("content-range", range).body(bytes).send().await.unwrap()
    }

    /// Files of uploads, and blobs that are held.
    fn waiting(&self) -> usize {
        let tmp = self.store.path().join("tmp");
        let own = std::fs::read_dir(tmp).unwrap().flatten().next().unwrap().path();
        std::fs::read_dir(own).unwrap().count() - 2
    }

    async fn stop(mut self) -> tempfile::TempDir {
        self.stop.take().unwrap().send(()).unwrap();
        drop(self.client);
        self.task.await.unwrap();
        self.directory
    }
}

async fn code(reply: Response) -> (u16, String) {
    let status = reply.status().as_u16();
    let body: Value = serde_json::from_str(&reply.text().await.unwrap()).unwrap();
    (status, body["errors"][0]["code"].as_str().unwrap().to_owned())
}

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[test]
fn paths_are_read_from_their_end() {
    let repository = |name: &str| Repository::parse(name).unwrap();
    let digest = Digest::of(b"");
    for (path, route) in [
        ("/v2", Some(Route::Ping)),
        ("/v2/", Some(Route::Ping)),
        ("/v2/_catalog", Some(Route::Catalog)),
        ("/v2/a/tags/list", Some(Route::Tags(repository("a")))),
        ("/v2/a/manifests/latest", Some(Route::Manifest(repository("a"), Version::Tag("latest".to_owned())))),
        (
            "/v2/a/blobs/manifests/x",
            Some(Route::Manifest(repository("a/blobs"), Version::Tag("x".to_owned()))),
        ),
        ("/v2/a/blobs/uploads/", Some(Route::Uploads(repository("a")))),
        ("/v2/a/blobs/uploads", Some(Route::Uploads(repository("a")))),
        ("/v2/blobs/blobs/uploads/x", Some(Route::Upload(repository("blobs"), "x".to_owned()))),
        ("/v2/a/manifests/.bad", Some(Route::Manifest(repository("a"), Version::Bad(".bad".to_owned())))),
        ("/", None),
        ("/v3/", None),
        ("/v2/manifests/latest", None),
        ("/v2/a%zz/tags/list", None),
        ("/v2/../tags/list", None),
        ("/v2/a/../b/manifests/latest", None),
        ("/v2/a//b/manifests/latest", None),
        ("/v2/A/manifests/latest", None),
    ] {
        assert_eq!(Route::parse(path).ok(), route, "{path}");
    }
    let encoded = format!("/v2/a/manifests/sha256%3A{}", digest.hex());
    assert_eq!(Route::parse(&encoded).unwrap(), Route::Manifest(repository("a"), Version::Digest(digest)));
    assert_eq!(repository("library/app"), repository("app"));
    assert_eq!(repository("docker.io/library/app"), repository("app"));
    assert_ne!(repository("team/app"), repository("app"));
}

#[test]
fn ranges_are_parts_of_what_is_there() {
    let part = |start, length| Wanted::Part { start, length };
    for (header, wanted) in [
        ("bytes=0-0", part(0, 1)),
        ("bytes=5-", part(5, 5)),
        ("bytes=5-100", part(5, 5)),
        ("bytes=-3", part(7, 3)),
        ("bytes=-30", part(0, 10)),
        ("bytes=10-", Wanted::Outside),
        ("bytes=-0", Wanted::Outside),
        ("bytes=5-4", Wanted::Outside),
        ("bytes=0-1,3-4", Wanted::All),
        ("bytes=+1-2", Wanted::All),
        ("bytes=99999999999999999999-", Wanted::All),
        ("lines=1-2", Wanted::All),
    ] {
        assert_eq!(Wanted::parse(header, 10), wanted, "{header}");
    }
    assert_eq!(Wanted::parse("bytes=0-0", 0), Wanted::Outside);
    assert_eq!(Wanted::parse("bytes=-1", 0), Wanted::Outside);
    assert_eq!(Chunk::parse("10-19"), Some(Chunk { start: 10, length: 10 }));
    assert_eq!(Chunk::parse("bytes 0-4/10"), Some(Chunk { start: 0, length: 5 }));
    for bad in ["", "5", "5-4", "a-b", "0-18446744073709551615", "-5"] {
        assert_eq!(Chunk::parse(bad), None, "{bad}");
    }
}

#[tokio::test]
async fn what_is_pushed_lies_in_the_store_and_is_pulled_again() {
    let server = plain().await;
    let digest = server.image("team/app", "v1", "content").await;
    assert_eq!(server.store.find("team/app:v1").unwrap().descriptor.digest, digest);
    assert_eq!(gc::check(&server.store).unwrap(), []);
    let reply = server.ask("GET", "/v2/team/app/manifests/v1", "").await;
    assert_eq!(reply.headers()["docker-content-digest"], digest.to_string());
    assert_eq!(reply.headers()["content-type"], media_type::MANIFEST);
    assert_eq!(Digest::of(&reply.bytes().await.unwrap()), digest);
    let layer = format!("/v2/team/app/blobs/{}", Digest::of(b"content"));
    let reply = server.ask("HEAD", &layer, "").await;
    assert_eq!((reply.status().as_u16(), &reply.headers()["content-length"]), (200, &"7".parse().unwrap()));
    let reply = server.client.get(server.at(&layer)).header("range", "bytes=2-4").send().await.unwrap();
    assert_eq!(reply.headers()["content-range"], "bytes 2-4/7");
    assert_eq!((reply.status().as_u16(), reply.bytes().await.unwrap().as_ref()), (206, &b"nte"[..]));
    let reply = server.client.get(server.at(&layer)).header("range", "bytes=7-").send().await.unwrap();
    assert_eq!(reply.headers()["content-range"], "bytes */7");
    assert_eq!(reply.status().as_u16(), 416);
}

#[tokio::test]
async fn a_large_blob_comes_back_as_it_went() {
    let server = plain().await;
    let bytes: Vec<u8> = (0..3_000_001_u32).flat_map(u32::to_le_bytes).collect();
    let digest = server.blob("app", &bytes).await;
    let reply = server.ask("GET", &format!("/v2/app/blobs/{digest}"), "").await;
    assert_eq!(Digest::of(&reply.bytes().await.unwrap()), digest);
    let last = |access: &Access| (access.method.clone(), access.received_bytes, access.sent_bytes);
    let log: Vec<_> = server.log.lock().unwrap().iter().map(last).collect();
    assert_eq!(log, [("POST".to_owned(), 12_000_004, 0), ("GET".to_owned(), 0, 12_000_004)]);
}

#[tokio::test]
async fn a_blob_of_one_repository_is_not_in_another_until_it_is_mounted() {
    let server = plain().await;
    server.image("one/app", "v1", "content").await;
    let digest = Digest::of(b"content");
    assert_eq!(server.status("HEAD", &format!("/v2/two/app/blobs/{digest}")).await, 404);
    let mount = format!("/v2/two/app/blobs/uploads/?mount={digest}&from=three/app");
    assert_eq!(server.status("POST", &mount).await, 202);
    let mount = format!("/v2/two/app/blobs/uploads/?mount={digest}&from=one/app");
    assert_eq!(server.status("POST", &mount).await, 201);
    assert_eq!(server.status("HEAD", &format!("/v2/two/app/blobs/{digest}")).await, 200);
}

#[tokio::test]
async fn a_manifest_needs_its_blobs_in_its_own_repository() {
    let server = plain().await;
    let bytes = server.parts("one/app", "content").await.to_bytes();
    let reply = server.put("two/app", "v1", media_type::MANIFEST, &bytes).await;
    assert_eq!(code(reply).await, refused(400, "MANIFEST_BLOB_UNKNOWN"));
    assert!(server.store.entries().unwrap().is_empty());
    let index = ImageIndex::of(vec![Descriptor::of(media_type::MANIFEST, &bytes)]).to_bytes();
    let reply = server.put("one/app", "v1", media_type::INDEX, &index).await;
    assert_eq!(code(reply).await, refused(400, "MANIFEST_BLOB_UNKNOWN"));
}

#[tokio::test]
async fn chunks_come_in_order_or_not_at_all() {
    let server = plain().await;
    let location = server.begin("app").await;
    assert_eq!(server.chunk(&location, "0-3", b"0123").await.headers()["range"], "0-3");
    for range in ["0-3", "5-8", "3-6"] {
        let reply = server.chunk(&location, range, b"4567").await;
        assert_eq!(reply.headers()["range"], "0-3");
        assert_eq!(code(reply).await, refused(416, "BLOB_UPLOAD_INVALID"), "{range}");
    }
    let reply = server.ask("GET", &location, "").await;
    assert_eq!((reply.status().as_u16(), &reply.headers()["range"]), (204, &"0-3".parse().unwrap()));
    assert_eq!(server.chunk(&location, "4-7", b"4567").await.status().as_u16(), 202);
    let digest = Digest::of(b"0123456789");
    assert_eq!(server.ask("PUT", &format!("{location}?digest={digest}"), "89").await.status().as_u16(), 201);
    assert_eq!(server.status("GET", &location).await, 404);
    let reply = server.ask("GET", &format!("/v2/app/blobs/{digest}"), "").await;
    assert_eq!(reply.bytes().await.unwrap().as_ref(), b"0123456789");
}

#[tokio::test]
async fn a_blob_with_other_bytes_is_not_kept() {
    let server = plain().await;
    let digest = Digest::of(b"right");
    let location = server.begin("app").await;
    let reply = server.ask("PUT", &format!("{location}?digest={digest}"), "wrong").await;
    assert_eq!(code(reply).await, refused(400, "DIGEST_INVALID"));
    let reply = server.ask("POST", &format!("/v2/app/blobs/uploads/?digest={digest}"), "wrong").await;
    assert_eq!(code(reply).await, refused(400, "DIGEST_INVALID"));
    let location = server.begin("app").await;
    let reply = server.chunk(&location, "0-3", b"right and more").await;
    assert_eq!(code(reply).await, refused(400, "SIZE_INVALID"));
    assert_eq!(server.status("GET", &location).await, 404);
    assert_eq!(server.status("HEAD", &format!("/v2/app/blobs/{digest}")).await, 404);
    assert_eq!(server.waiting(), 0);
    assert_eq!(std::fs::read_dir(server.store.path().join("blobs/sha256")).unwrap().count(), 0);
}

#[tokio::test]
async fn unknown_digests_and_methods_have_their_own_answers() {
    let server = plain().await;
    server.image("app", "v1", "content").await;
    let sha512 = format!("sha512:{}", "0".repeat(128));
    for (method, path, status, name) in [
        ("GET", "/v2/a%2F..%2Fb/tags/list".to_owned(), 400, "NAME_INVALID"),
        ("GET", "/v2/nothing/tags/list".to_owned(), 404, "NAME_UNKNOWN"),
        ("GET", "/v2/nothing/manifests/v1".to_owned(), 404, "NAME_UNKNOWN"),
        ("GET", "/v2/app/manifests/v2".to_owned(), 404, "MANIFEST_UNKNOWN"),
        ("GET", "/v2/app/manifests/.v2".to_owned(), 404, "MANIFEST_UNKNOWN"),
        ("PUT", "/v2/app/manifests/.v2".to_owned(), 400, "MANIFEST_INVALID"),
        ("GET", "/v2/app/blobs/sha256:00".to_owned(), 400, "DIGEST_INVALID"),
        ("GET", format!("/v2/app/blobs/{}", Digest::of(b"x")), 404, "BLOB_UNKNOWN"),
        ("POST", format!("/v2/app/blobs/uploads/?digest={sha512}"), 400, "DIGEST_INVALID"),
        ("GET", format!("/v2/app/blobs/{sha512}"), 404, "BLOB_UNKNOWN"),
        ("DELETE", format!("/v2/app/blobs/{sha512}"), 404, "BLOB_UNKNOWN"),
        ("PATCH", "/v2/app/blobs/uploads/x".to_owned(), 404, "BLOB_UPLOAD_UNKNOWN"),
        ("GET", "/v2/app/referrers/sha256:00".to_owned(), 400, "DIGEST_INVALID"),
        ("POST", "/v2/app/manifests/v1".to_owned(), 405, "UNSUPPORTED"),
        ("GET", "/v2/app/tags/list?n=many".to_owned(), 400, "SIZE_INVALID"),
        ("GET", "/elsewhere".to_owned(), 404, "UNSUPPORTED"),
        ("GET", "/token".to_owned(), 404, "UNSUPPORTED"),
    ] {
        assert_eq!(code(server.ask(method, &path, "").await).await, refused(status, name), "{method} {path}");
    }
}

/// Sends bytes as they are, and answers with what comes back until the end.
fn raw(url: &str, request: &[u8], end: bool) -> String {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).unwrap();
    stream.write_all(request).unwrap();
    if end {
        stream.shutdown(std::net::Shutdown::Both).unwrap();
        return String::new();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_with_dots_is_no_repository() {
    let server = plain().await;
    let answer = raw(
        &server.url,
        b"GET /v2/a/../../b/manifests/latest HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        false,
    );
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("NAME_INVALID"), "{answer}");
}

/// Waits until something is so, which it must be before long.
async fn until(mut holds: impl FnMut() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it never came to be");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_leaves_nothing_visible() {
    let server = plain().await;
    let digest = Digest::of(&[b'x'; 1000]);
    let head = format!(
        "POST /v2/app/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf"
    );
    raw(&server.url, head.as_bytes(), true);
    until(|| server.log.lock().unwrap().iter().any(|access| access.method == "POST")).await;
    assert_eq!(server.waiting(), 0);
    // In chunks it can go on where it was, and nobody sees it before its end.
    let location = server.begin("app").await;
    let head =
        format!("PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{}", "x".repeat(10));
    raw(&server.url, head.as_bytes(), true);
    until(|| server.log.lock().unwrap().iter().any(|access| access.method == "PATCH")).await;
    assert_eq!(server.status("GET", &location).await, 204);
    assert_eq!(server.status("HEAD", &format!("/v2/app/blobs/{digest}")).await, 404);
    assert_eq!(server.status("DELETE", &location).await, 204);
    assert_eq!(server.waiting(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stalls_is_sent_away() {
    let server = start(|options, _| options.limits.stall = Duration::from_millis(100)).await;
    let answer = raw(
        &server.url,
        b"PUT /v2/app/manifests/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf",
        false,
    );
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let server = start(|options, _| options.limits.head = Duration::from_millis(100)).await;
    assert_eq!(raw(&server.url, b"GET /v2/ HTTP/1.1\r\nHost", false), "");
}

#[tokio::test]
async fn manifests_are_bounded_and_must_be_what_they_say() {
    let server = plain().await;
    let large = format!("{{\"schemaVersion\":2,\"x\":\"{}\"}}", "x".repeat(5 << 20));
    let reply = server.put("app", "v1", media_type::MANIFEST, large.as_bytes()).await;
    assert_eq!(code(reply).await, refused(413, "SIZE_INVALID"));
    let manifest = server.parts("app", "content").await;
    let bytes = manifest.to_bytes();
    for (kind, bytes) in [
        (media_type::INDEX, &bytes[..]),
        (media_type::MANIFEST, b"{".as_slice()),
        ("text/html", &bytes),
        (media_type::MANIFEST, br#"{"schemaVersion":1,"config":{}}"#),
    ] {
        let reply = server.put("app", "v1", kind, bytes).await;
        assert_eq!(code(reply).await, refused(400, "MANIFEST_INVALID"), "{kind}");
    }
    let mut lies = manifest.clone();
    lies.layers[0].size += 1;
    let reply = server.put("app", "v1", media_type::MANIFEST, &lies.to_bytes()).await;
    assert_eq!(code(reply).await, refused(400, "MANIFEST_INVALID"));
    let other = Digest::of(b"other").to_string();
    let reply = server.put("app", &other, media_type::MANIFEST, &bytes).await;
    assert_eq!(code(reply).await, refused(400, "DIGEST_INVALID"));
    assert!(server.store.entries().unwrap().is_empty());
    let reply = server.put("app", "v1", &format!("{}; charset=utf-8", media_type::MANIFEST), &bytes).await;
    assert_eq!(reply.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn a_manifest_that_would_stop_garbage_collection_is_refused() {
    let server = plain().await;
    server.blob("app", b"no configuration").await;
    let config = Descriptor::of(media_type::CONFIG, b"no configuration");
    let bytes = Manifest::of_image(config, Vec::new()).to_bytes();
    let reply = server.put("app", "v1", media_type::MANIFEST, &bytes).await;
    assert_eq!(code(reply).await, refused(400, "MANIFEST_INVALID"));
    assert!(gc::prune(&server.store, Which::None, false).unwrap().is_some());
}

#[tokio::test]
async fn an_image_whose_tag_moves_or_goes_stays_by_its_digest() {
    let server = plain().await;
    let (old, new) = (server.image("app", "v1", "one").await, server.image("app", "v1", "two").await);
    assert_eq!(server.store.find("app:v1").unwrap().descriptor.digest, new);
    assert_eq!(server.status("GET", &format!("/v2/app/manifests/{old}")).await, 200);
    assert_eq!(server.status("GET", &format!("/v2/other/manifests/{old}")).await, 404);
    assert_eq!(server.status("DELETE", "/v2/app/manifests/v1").await, 202);
    assert_eq!(server.status("GET", "/v2/app/manifests/v1").await, 404);
    assert_eq!(server.status("GET", &format!("/v2/app/manifests/{new}")).await, 200);
    assert_eq!(server.status("DELETE", &format!("/v2/app/manifests/{new}")).await, 202);
    assert_eq!(server.status("GET", &format!("/v2/app/manifests/{new}")).await, 404);
    assert_eq!(server.status("DELETE", &format!("/v2/app/manifests/{new}")).await, 404);
}

#[tokio::test]
async fn a_digest_goes_with_all_its_tags_and_only_from_its_repository() {
    let server = plain().await;
    let digest = server.image("app", "v1", "one").await;
    server.image("app", "v2", "one").await;
    server.image("other", "v1", "one").await;
    assert_eq!(server.status("DELETE", &format!("/v2/app/manifests/{digest}")).await, 202);
    assert_eq!(server.status("GET", "/v2/app/manifests/v2").await, 404);
    assert_eq!(server.status("GET", "/v2/other/manifests/v1").await, 200);
}

#[tokio::test]
async fn what_something_needs_is_not_deleted() {
    let server = plain().await;
    let digest = server.image("app", "one", "content").await;
    let bytes = std::fs::read(server.store.blob_path(digest)).unwrap();
    let index = ImageIndex::of(vec![Descriptor::of(media_type::MANIFEST, &bytes)]).to_bytes();
    assert_eq!(server.put("app", "all", media_type::INDEX, &index).await.status(), StatusCode::CREATED);
    assert_eq!(server.status("DELETE", &format!("/v2/app/manifests/{digest}")).await, 405);
    assert_eq!(server.status("DELETE", &format!("/v2/app/blobs/{}", Digest::of(b"content"))).await, 405);
    assert_eq!(server.status("DELETE", &format!("/v2/app/manifests/{}", Digest::of(&index))).await, 202);
    assert_eq!(server.status("DELETE", &format!("/v2/app/manifests/{digest}")).await, 202);
    assert_eq!(server.status("DELETE", &format!("/v2/app/blobs/{}", Digest::of(b"content"))).await, 202);
    assert_eq!(server.status("HEAD", &format!("/v2/app/blobs/{}", Digest::of(b"content"))).await, 404);
}

#[tokio::test]
async fn referrers_are_listed_by_subject_and_type() {
    let server = plain().await;
    // They may come before what they speak of.
    let mut manifest = server.parts("app", "sbom").await;
    manifest.subject = Some(Descriptor::of(media_type::MANIFEST, b"to come"));
    manifest.artifact_type = Some("application/spdx+json".to_owned());
    manifest.annotations.insert("key".to_owned(), "value".to_owned());
    let bytes = manifest.to_bytes();
    let version = Digest::of(&bytes).to_string();
    let reply = server.put("app", &version, media_type::MANIFEST, &bytes).await;
    assert_eq!(reply.headers()["oci-subject"], Digest::of(b"to come").to_string());
    let list = |path: String| {
        let server = &server;
        async move {
            let reply = server.ask("GET", &path, "").await;
            let filtered = reply.headers().contains_key("oci-filters-applied");
            (filtered, ImageIndex::parse(&reply.bytes().await.unwrap()).unwrap().manifests)
        }
    };
    let at = format!("/v2/app/referrers/{}", Digest::of(b"to come"));
    let (filtered, found) = list(at.clone()).await;
    assert_eq!((filtered, found.len()), (false, 1));
    assert_eq!(found[0].artifact_type, manifest.artifact_type);
    assert_eq!(found[0].annotations, manifest.annotations);
    assert_eq!(list(format!("{at}?artifactType=application/spdx%2Bjson")).await.1.len(), 1);
    assert_eq!(list(format!("{at}?artifactType=application/spdx+json")).await, (true, found));
    assert_eq!(list(format!("{at}?artifactType=other")).await, (true, Vec::new()));
    assert_eq!(list(format!("/v2/nothing/referrers/{version}")).await, (false, Vec::new()));
}

#[tokio::test]
async fn tags_and_repositories_come_in_pages() {
    let server = plain().await;
    for tag in ["b", "a", "C", "d"] {
        server.image("team/app", tag, "content").await;
    }
    server.image("other", "x", "content").await;
    let tags = |query: &'static str| {
        let server = &server;
        async move {
            let reply = server.ask("GET", &format!("/v2/team/app/tags/list{query}"), "").await;
            let link = reply.headers().get("link").map(|link| link.to_str().unwrap().to_owned());
            let body: Value = serde_json::from_str(&reply.text().await.unwrap()).unwrap();
            (body["tags"].to_string(), link)
        }
    };
    assert_eq!(tags("").await, (r#"["C","a","b","d"]"#.to_owned(), None));
    let next = "</v2/team/app/tags/list?n=2&last=a>; rel=\"next\"".to_owned();
    assert_eq!(tags("?n=2").await, (r#"["C","a"]"#.to_owned(), Some(next)));
    assert_eq!(tags("?n=2&last=a").await, (r#"["b","d"]"#.to_owned(), None));
    assert_eq!(tags("?n=0").await, ("[]".to_owned(), None));
    let reply = server.ask("GET", "/v2/_catalog", "").await;
    assert_eq!(reply.text().await.unwrap(), r#"{"repositories":["other","team/app"]}"#);
}

/// An image that another command brought in, with something that speaks of it.
fn local(store: &Store, name: &str) -> (Descriptor, Descriptor) {
    let ingest = store.ingest().unwrap();
    let config = ImageConfig::new(Architecture::native(), Timestamp(0));
    let config = ingest.put(media_type::CONFIG, &config.to_bytes()).unwrap();
    let manifest = Manifest::of_image(config, Vec::new());
    let image = ingest.put(media_type::MANIFEST, &manifest.to_bytes()).unwrap();
    ingest.add(Some(name), &image).unwrap();
    let sbom = ingest.attach(&image, "application/spdx+json", &[("text/plain", b"x".to_vec())]).unwrap();
    (image, sbom)
}

#[tokio::test]
async fn images_of_the_store_are_served_under_their_names() {
    let server = plain().await;
    let (image, sbom) = local(&server.store, "docker.io/library/app:latest");
    local(&server.store, "ghcr.io/team/app:v1");
    local(&server.store, "localhost:5000/team/hidden:v1");
    for name in ["app", "library/app", "docker.io/library/app"] {
        let reply = server.ask("GET", &format!("/v2/{name}/manifests/latest"), "").await;
        assert_eq!(reply.headers()["docker-content-digest"], image.digest.to_string(), "{name}");
    }
    assert_eq!(server.status("GET", &format!("/v2/app/manifests/{}", sbom.digest)).await, 200);
    let reply = server.ask("GET", &format!("/v2/app/referrers/{}", image.digest), "").await;
    assert!(reply.text().await.unwrap().contains(&sbom.digest.to_string()));
    let reply = server.ask("GET", "/v2/_catalog", "").await;
    assert_eq!(reply.text().await.unwrap(), r#"{"repositories":["app","ghcr.io/team/app"]}"#);
    assert_eq!(server.store.untag("docker.io/library/app:latest").unwrap().unwrap().digest, image.digest);
    assert_eq!(server.status("GET", "/v2/app/manifests/latest").await, 404);
}

#[tokio::test]
async fn a_push_survives_garbage_collection_by_others() {
    let server = plain().await;
    let bytes = server.parts("app", "content").await.to_bytes();
    let location = server.begin("app").await;
    server.chunk(&location, "0-3", b"0123").await;
    let pruned = gc::prune(&server.store, Which::All, false).unwrap().unwrap();
    assert_eq!((pruned.blobs, pruned.leftovers), (2, 0));
    assert_eq!(server.status("HEAD", &format!("/v2/app/blobs/{}", Digest::of(b"content"))).await, 200);
    gc::prune(&server.store, Which::All, false).unwrap();
    assert_eq!(server.put("app", "v1", media_type::MANIFEST, &bytes).await.status(), StatusCode::CREATED);
    assert_eq!(gc::check(&server.store).unwrap(), []);
    let digest = Digest::of(b"0123");
    assert_eq!(server.status("PUT", &format!("{location}?digest={digest}")).await, 201);
}

#[tokio::test]
async fn what_no_tag_needs_goes_when_nothing_comes_in() {
    let server = start(|options, _| options.gc_after = Some(Duration::from_millis(400))).await;
    let (old, new) = (server.image("app", "v1", "one").await, server.image("app", "v1", "two").await);
    until(|| server.store.blob_size(old).is_none()).await;
    assert_eq!(server.status("GET", &format!("/v2/app/manifests/{old}")).await, 404);
    assert_eq!(server.store.blob_size(Digest::of(b"one")), None);
    assert_eq!(server.status("GET", &format!("/v2/app/manifests/{new}")).await, 200);
    assert_eq!(gc::check(&server.store).unwrap(), []);
}

#[tokio::test]
async fn uploads_are_bounded_in_number_and_age() {
    let server = start(|options, _| options.limits.max_uploads = 2).await;
    let location = server.begin("app").await;
    server.begin("app").await;
    let reply = server.ask("POST", "/v2/app/blobs/uploads/", "").await;
    assert_eq!(code(reply).await, refused(429, "TOOMANYREQUESTS"));
    assert_eq!(server.status("DELETE", &location).await, 204);
    server.begin("app").await;
    let server = start(|options, _| {
        options.limits = Limits { upload_age: Duration::ZERO, hold_age: Duration::ZERO, ..options.limits };
        options.gc_after = Some(Duration::from_millis(200));
    })
    .await;
    let location = server.begin("app").await;
    until(|| server.waiting() == 0).await;
    assert_eq!(server.status("GET", &location).await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pushes_of_one_blob_both_succeed() {
    let server = plain().await;
    let bytes = vec![7; 5_000_000];
    let pushes = (0..8).map(|number| {
        let (server, bytes) = (&server, &bytes);
        async move { server.blob(if number % 2 == 0 { "one" } else { "two" }, bytes).await }
    });
    let digests = futures_util::future::join_all(pushes).await;
    let reply = server.ask("GET", &format!("/v2/two/blobs/{}", digests[0]), "").await;
    assert_eq!(reply.bytes().await.unwrap(), bytes);
    assert_eq!(server.waiting(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_at_once_lose_no_tag() {
    let server = plain().await;
    let pushes = (0..20).map(|number| {
        let server = &server;
        async move { server.image("app", &format!("v{number}"), &format!("content {}", number % 5)).await }
    });
    futures_util::future::join_all(pushes).await;
    let reply = server.ask("GET", "/v2/app/tags/list", "").await;
    let body: Value = serde_json::from_str(&reply.text().await.unwrap()).unwrap();
    assert_eq!(body["tags"].as_array().unwrap().len(), 20);
    assert_eq!(gc::check(&server.store).unwrap(), []);
}

#[tokio::test]
async fn a_read_only_registry_changes_nothing() {
    let server = start(|options, path| {
        options.read_only = true;
        local(&Store::open(&path.join("store")).unwrap(), "docker.io/library/app:v1");
    })
    .await;
    let before = server.store.entries().unwrap();
    assert_eq!(server.status("GET", "/v2/app/manifests/v1").await, 200);
    for (method, path) in [
        ("POST", "/v2/app/blobs/uploads/"),
        ("PUT", "/v2/app/manifests/v1"),
        ("DELETE", "/v2/app/manifests/v1"),
        ("DELETE", "/v2/app/blobs/sha256:00"),
    ] {
        assert_eq!(
            code(server.ask(method, path, "").await).await,
            refused(405, "UNSUPPORTED"),
            "{method} {path}"
        );
    }
    assert_eq!(server.store.entries().unwrap(), before);
}

/// A password file that knows `user` with `secret`.
fn htpasswd(options: &mut Options, directory: &std::path::Path) {
    let path = directory.join("htpasswd");
    let hash = bcrypt::hash("secret", 4).unwrap();
    std::fs::write(&path, format!("# users\nuser:{hash}\n")).unwrap();
    options.htpasswd = Some(path);
}

impl Running {
    async fn as_user(&self, method: Method, path: &str, name: &str, password: &str) -> Response {
        self.client.request(method, self.at(path)).basic_auth(name, Some(password)).send().await.unwrap()
    }

    async fn with_token(&self, method: Method, path: &str, token: &str) -> Response {
        self.client.request(method, self.at(path)).bearer_auth(token).send().await.unwrap()
    }

    async fn token(&self, scope: &str) -> String {
        let path = format!("/token?service=knarr&scope={scope}");
        let reply = self.as_user(Method::GET, &path, "user", "secret").await;
        let body: Value = serde_json::from_str(&reply.text().await.unwrap()).unwrap();
        body["token"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn passwords_are_asked_for_and_checked() {
    let server = start(htpasswd).await;
    let reply = server.ask("GET", "/v2/", "").await;
    assert!(reply.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic realm="));
    assert_eq!(code(reply).await, refused(401, "UNAUTHORIZED"));
    for (name, password, status) in
        [("user", "secret", 200), ("user", "secret", 200), ("user", "Secret", 401), ("nobody", "secret", 401)]
    {
        assert_eq!(
            server.as_user(Method::GET, "/v2/", name, password).await.status().as_u16(),
            status,
            "{name}"
        );
    }
    assert_eq!(server.status("GET", "/v2/_catalog").await, 401);
    assert_eq!(server.status("POST", "/v2/app/blobs/uploads/").await, 401);
    assert_eq!(server.log.lock().unwrap()[1].user.as_deref(), Some("user"));
    // A password that is taken away is good no longer, although it was seen.
    std::fs::write(server.directory.path().join("htpasswd"), "").unwrap();
    assert_eq!(server.as_user(Method::GET, "/v2/", "user", "secret").await.status().as_u16(), 401);
}

#[tokio::test]
async fn anybody_may_pull_where_that_is_said() {
    let server = start(|options, path| {
        htpasswd(options, path);
        options.anonymous_pull = true;
        local(&Store::open(&path.join("store")).unwrap(), "docker.io/library/app:v1");
    })
    .await;
    assert_eq!(server.status("GET", "/v2/app/manifests/v1").await, 200);
    assert_eq!(server.status("GET", "/v2/app/tags/list").await, 200);
    assert_eq!(server.status("DELETE", "/v2/app/manifests/v1").await, 401);
    assert_eq!(server.status("POST", "/v2/app/blobs/uploads/").await, 401);
    assert_eq!(server.as_user(Method::GET, "/v2/app/manifests/v1", "", "").await.status().as_u16(), 200);
    // Credentials that are wrong are not the same as none.
    let reply = server.as_user(Method::GET, "/v2/app/manifests/v1", "user", "wrong").await;
    assert_eq!(reply.status().as_u16(), 401);
}

fn tokens(options: &mut Options, directory: &std::path::Path) {
    htpasswd(options, directory);
    options.scheme = Scheme::Token;
    local(&Store::open(&directory.join("store")).unwrap(), "docker.io/library/app:v1");
    local(&Store::open(&directory.join("store")).unwrap(), "docker.io/team/other:v1");
}

#[tokio::test]
async fn a_token_allows_what_it_was_asked_for() {
    let server = start(tokens).await;
    let reply = server.ask("GET", "/v2/app/manifests/v1", "").await;
    let challenge = reply.headers()["www-authenticate"].to_str().unwrap().to_owned();
    let realm =
        format!("Bearer realm=\"{}/token\",service=\"knarr\",scope=\"repository:app:pull\"", server.url);
    assert_eq!(challenge, realm);
    let token = server.token("repository:library/app:pull").await;
    let status = |method: Method, path: &'static str| {
        let (server, token) = (&server, &token);
        async move { server.with_token(method, path, token).await.status().as_u16() }
    };
    assert_eq!(status(Method::GET, "/v2/").await, 200);
    assert_eq!(status(Method::GET, "/v2/app/manifests/v1").await, 200);
    assert_eq!(status(Method::GET, "/v2/library/app/manifests/v1").await, 200);
    assert_eq!(status(Method::GET, "/v2/team/other/manifests/v1").await, 401);
    assert_eq!(status(Method::POST, "/v2/app/blobs/uploads/").await, 401);
    assert_eq!(status(Method::GET, "/v2/_catalog").await, 401);
    let token = server.token("repository:team/other:pull,push").await;
    let image = server.store.find("app:v1").unwrap().descriptor;
    let config = server.store.image(&image, &knarr_oci::Platform::of(Architecture::native())).unwrap();
    let config = config.manifest.config.digest;
    // What a token does not let its holder see cannot be mounted either, and not be guessed.
    server.store.untag("docker.io/team/other:v1").unwrap();
    server.store.forget(image.digest).unwrap();
    let ingest = server.store.ingest().unwrap();
    ingest.add(Some("docker.io/library/app:v1"), &image).unwrap();
    drop(ingest);
    for from in ["&from=app", ""] {
        let path = format!("/v2/team/other/blobs/uploads/?mount={config}{from}");
        assert_eq!(server.with_token(Method::POST, &path, &token).await.status().as_u16(), 202, "{from}");
    }
    let token = server.token("repository:app:pull&scope=repository:team/other:pull,push").await;
    let path = format!("/v2/team/other/blobs/uploads/?mount={config}&from=app");
    assert_eq!(server.with_token(Method::POST, &path, &token).await.status().as_u16(), 201);
}

#[tokio::test]
async fn tokens_that_are_old_or_changed_are_worth_nothing() {
    let server = start(|options, path| {
        tokens(options, path);
        options.token_age = Duration::ZERO;
    })
    .await;
    let token = server.token("repository:app:pull").await;
    assert_eq!(server.with_token(Method::GET, "/v2/app/manifests/v1", &token).await.status().as_u16(), 401);
    let server = start(tokens).await;
    let token = server.token("repository:app:pull").await;
    let reply = server.as_user(Method::GET, "/token?scope=repository:app:pull", "user", "wrong").await;
    assert_eq!(code(reply).await, refused(401, "UNAUTHORIZED"));
    assert_eq!(server.status("GET", "/token?scope=repository:app:pull").await, 401);
    let other = start(tokens).await;
    assert_eq!(other.with_token(Method::GET, "/v2/app/manifests/v1", &token).await.status().as_u16(), 401);
    let unsigned = format!("{}.", token.rsplit_once('.').unwrap().0);
    for token in [&unsigned, "x", "", "a.b.c", &token[1..]] {
        let reply = server.with_token(Method::GET, "/v2/app/manifests/v1", token).await;
        assert_eq!(reply.status().as_u16(), 401, "{token}");
    }
}

#[tokio::test]
async fn nobody_gets_a_token_for_what_anybody_may() {
    let server = start(|options, path| {
        tokens(options, path);
        options.anonymous_pull = true;
    })
    .await;
    let reply = server.ask("GET", "/token?scope=repository:app:pull,push,delete", "").await;
    let body: Value = serde_json::from_str(&reply.text().await.unwrap()).unwrap();
    let token = body["token"].as_str().unwrap();
    assert_eq!(server.with_token(Method::GET, "/v2/app/manifests/v1", token).await.status().as_u16(), 200);
    assert_eq!(server.with_token(Method::DELETE, "/v2/app/manifests/v1", token).await.status().as_u16(), 401);
}

/// A certificate for the loopback, and its key.
fn certificate(directory: &std::path::Path, name: &str) -> (String, TlsFiles) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned(), name.to_owned()]).unwrap();
    let files = TlsFiles {
        certificate: directory.join(format!("{name}.pem")),
        key: directory.join(format!("{name}.key")),
        client_ca: None,
    };
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
    (made.cert.pem(), files)
}

fn trusting(pem: &str) -> reqwest::ClientBuilder {
    client().tls_certs_only([reqwest::Certificate::from_pem(pem.as_bytes()).unwrap()])
}

#[tokio::test]
async fn tls_protects_and_speaks_http2() {
    let mut pem = String::new();
    let server = start(|options, path| {
        let (own, files) = certificate(path, "server");
        (pem, options.tls) = (own, Some(files));
    })
    .await;
    let reply = trusting(&pem).build().unwrap().get(server.at("/v2/")).send().await.unwrap();
    assert_eq!((reply.version(), reply.status().as_u16()), (http::Version::HTTP_2, 200));
    let reply = trusting(&pem).http1_only().build().unwrap().get(server.at("/v2/")).send().await.unwrap();
    assert_eq!((reply.version(), reply.status().as_u16()), (http::Version::HTTP_11, 200));
    assert!(server.client.get(server.at("/v2/")).send().await.is_err());
}

#[tokio::test]
async fn clients_without_a_certificate_are_not_served_where_one_is_asked_for() {
    let (mut pem, mut identity) = (String::new(), String::new());
    let server = start(|options, path| {
        let (own, mut files) = certificate(path, "server");
        let (theirs, client) = certificate(path, "client");
        identity = format!("{}{theirs}", std::fs::read_to_string(&client.key).unwrap());
        files.client_ca = Some(client.certificate);
        (pem, options.tls) = (own, Some(files));
    })
    .await;
    let known = trusting(&pem).identity(reqwest::Identity::from_pem(identity.as_bytes()).unwrap());
    assert_eq!(known.build().unwrap().get(server.at("/v2/")).send().await.unwrap().status().as_u16(), 200);
    assert!(trusting(&pem).build().unwrap().get(server.at("/v2/")).send().await.is_err());
}

fn refuses_to_start(change: impl FnOnce(&mut Options, &std::path::Path)) -> ServerError {
    let directory = tempfile::tempdir().unwrap();
    let mut options = Options::new(directory.path().join("store"));
    options.listen = "127.0.0.1:0".to_owned();
    change(&mut options, directory.path());
    Server::bind(&options, Arc::new(|_| {})).err().expect("it started")
}

#[test]
fn a_server_does_not_start_half() {
    let error = refuses_to_start(|options, _| options.listen = "0.0.0.0:0".to_owned());
    assert!(matches!(error, ServerError::Exposed { .. }), "{error}");
    let error = refuses_to_start(|options, _| options.listen = "nowhere".to_owned());
    assert!(matches!(error, ServerError::Listen { .. }), "{error}");
    let error = refuses_to_start(|options, _| options.scheme = Scheme::Token);
    assert!(matches!(error, ServerError::Options(_)), "{error}");
    let error = refuses_to_start(|options, path| options.htpasswd = Some(path.join("missing")));
    assert!(matches!(error, ServerError::File { .. }), "{error}");
    let error = refuses_to_start(|options, path| {
        std::fs::write(path.join("plain"), "\nuser:secret\n").unwrap();
        options.htpasswd = Some(path.join("plain"));
    });
    assert!(error.to_string().contains("line 2: \"user\" has no bcrypt hash"), "{error}");
    let error = refuses_to_start(|options, path| {
        let (_, files) = certificate(path, "server");
        std::fs::write(&files.key, "no key").unwrap();
        options.tls = Some(files);
    });
    assert!(matches!(error, ServerError::Tls { .. }), "{error}");
    let error = refuses_to_start(|_, path| {
        std::fs::create_dir(path.join("store")).unwrap();
        std::fs::write(path.join("store/precious"), "").unwrap();
    });
    assert!(matches!(error, ServerError::Store(_)), "{error}");
}

#[tokio::test]
async fn a_server_that_ends_leaves_only_the_store() {
    let server = plain().await;
    server.begin("app").await;
    server.blob("app", b"never named").await;
    let store = server.store.clone();
    let _directory = server.stop().await;
    assert_eq!(std::fs::read_dir(store.path().join("tmp")).unwrap().count(), 0);
    let findings = gc::check(&store).unwrap();
    assert!(findings.iter().all(|finding| !finding.broken) && findings.len() == 1, "{findings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_clients_are_served_at_once() {
    let server = start(|options, _| options.limits.max_connections = 50).await;
    let digest = server.blob("app", &vec![1; 1_000_000]).await;
    // Without a pool each request has a connection of its own.
    let client = client().pool_max_idle_per_host(0).build().unwrap();
    let clients = (0..200).map(|_| {
        let request = client.get(server.at(&format!("/v2/app/blobs/{digest}")));
        async move { request.send().await.unwrap().bytes().await.unwrap().len() }
    });
    let sizes = futures_util::future::join_all(clients).await;
    assert!(sizes.iter().all(|size| *size == 1_000_000));
}

#[tokio::test]
async fn what_a_client_has_already_is_not_sent_again() {
    let running = plain().await;
    let digest = running.blob("a", b"content").await;
    let ask = |etag: String| {
        let request = running.client.get(running.at(&format!("/v2/a/blobs/{digest}")));
        request.header("if-none-match", etag).send()
    };
    for (etag, status) in
        [(format!("\"{digest}\""), 304), (format!("\"x\", W/\"{digest}\""), 304), ("\"x\"".to_owned(), 200)]
    {
        let reply = ask(etag).await.unwrap();
        assert_eq!(reply.status().as_u16(), status);
        assert_eq!(reply.bytes().await.unwrap().is_empty(), status == 304);
    }
    running.stop().await;
}
