use std::io::Write;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::tests_support::{Fault, NOW, Server, Signer, amd64, mirror, options, release_text, source};

const TODAY: &str = "Mon, 21 Sep 2026 14:13:20 UTC";

struct Fixture {
    server: Server,
    cache: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self { server: Server::new(), cache: tempfile::tempdir().unwrap() }
    }

    fn mirror(&self) -> Mirror {
        mirror(self.cache.path())
    }

    /// What lies in the cache, by the ends of the names.
    fn left(&self, suffix: &str) -> usize {
        let mut count = 0;
        let mut directories = vec![self.cache.path().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap().flatten() {
                if entry.path().is_dir() {
                    directories.push(entry.path());
                } else if entry.file_name().to_string_lossy().ends_with(suffix) {
                    count += 1;
                }
            }
        }
        count
    }

    fn get(&self, file: PoolFile) -> Result<(), MirrorError> {
        get(&self.mirror(), file)
    }
}

fn get(mirror: &Mirror, file: PoolFile) -> Result<(), MirrorError> {
    mirror.pool(&[file], &|_, _| {}, &|_| {}, &AtomicBool::new(false))
}

fn content() -> Vec<u8> {
    (0..200_000_u32).flat_map(u32::to_le_bytes).collect()
}

fn deb(mirrors: &[&str], bytes: &[u8]) -> PoolFile {
    PoolFile {
        mirrors: mirrors.iter().map(|mirror| (*mirror).to_owned()).collect(),
        path: "pool/a_1+b~1_amd64.deb".to_owned(),
        size_bytes: bytes.len() as u64,
        digest: Digest::of(bytes),
    }
}

const PATH: &str = "pool/a_1+b~1_amd64.deb";

#[test]
fn a_deb_is_fetched_once_and_checked_each_time() {
    let fixture = Fixture::new();
    fixture.server.put(PATH, content());
    let mirror = fixture.mirror();
    let file = deb(&[&fixture.server.url], &content());
    let (ready, bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
    let fetch = || {
        let on_ready = |_, path: PathBuf| {
            assert_eq!(std::fs::read(path).unwrap(), content());
            ready.fetch_add(1, Ordering::Relaxed);
        };
        let on_bytes = |more| {
            bytes.fetch_add(more, Ordering::Relaxed);
        };
        mirror.pool(std::slice::from_ref(&file), &on_ready, &on_bytes, &AtomicBool::new(false)).unwrap();
    };
    fetch();
    fetch();
    assert_eq!(fixture.server.asked().len(), 1);
    assert_eq!((ready.into_inner(), bytes.into_inner()), (2, 2 * file.size_bytes));
    // Same size, other bytes.
    let kept = mirror.cache().pool_path(file.digest);
    std::fs::write(&kept, vec![0; content().len()]).unwrap();
    get(&mirror, file).unwrap();
    assert_eq!(std::fs::read(kept).unwrap(), content());
    assert_eq!(fixture.server.asked().len(), 1);
}

#[test]
fn a_broken_connection_is_resumed_where_it_broke() {
    let fixture = Fixture::new();
    fixture.server.put(PATH, content());
    fixture.server.fault(PATH, Fault::CutOnceAfter(300_000));
    let bytes = AtomicU64::new(0);
    let on_bytes = |more| {
        bytes.fetch_add(more, Ordering::Relaxed);
    };
    let file = deb(&[&fixture.server.url], &content());
    fixture.mirror().pool(&[file], &|_, _| {}, &on_bytes, &AtomicBool::new(false)).unwrap();
    let asked = fixture.server.asked();
    assert!(asked.len() == 2 && asked[1].1 > 0, "{asked:?}");
    assert_eq!(bytes.into_inner(), 800_000);
    assert_eq!((fixture.left(".deb"), fixture.left(".partial")), (1, 0));
}

#[test]
fn the_next_run_goes_on_with_what_the_last_one_left() {
    let fixture = Fixture::new();
    fixture.server.put(PATH, content());
    fixture.server.fault(PATH, Fault::CutAfter(100_000));
    let file = deb(&[&fixture.server.url], &content());
    let error = fixture.get(file.clone()).unwrap_err();
    assert!(matches!(error, MirrorError::Connection { .. }), "{error}");
    assert_eq!((fixture.left(".deb"), fixture.left(".partial")), (0, 1));
    fixture.server.asked();
    fixture.server.fault(PATH, Fault::CutOnceAfter(usize::MAX));
    fixture.get(file).unwrap();
    assert!(fixture.server.asked()[0].1 > 0);
    assert_eq!((fixture.left(".deb"), fixture.left(".partial")), (1, 0));
}

#[test]
fn servers_that_cannot_resume_are_asked_for_everything() {
    for fault in [Fault::IgnoreRange, Fault::WrongRange, Fault::RefuseRange] {
        let fixture = Fixture::new();
        fixture.server.put(PATH, content());
        fixture.server.fault(PATH, fault);
        let file = deb(&[&fixture.server.url], &content());
        let partial = fixture.mirror().cache().partial_path(file.digest);
        std::fs::create_dir_all(partial.parent().unwrap()).unwrap();
        std::fs::write(&partial, &content()[..1000]).unwrap();
        fixture.get(file).unwrap();
        assert_eq!(fixture.server.asked()[0].1, 1000, "{fault:?}");
    }
}

#[test]
fn a_damaged_beginning_is_thrown_away() {
    // Other bytes; all bytes but wrong; more than all.
    for left in [vec![9; 1000], vec![9; 800_000], vec![9; 900_000]] {
        let fixture = Fixture::new();
        fixture.server.put(PATH, content());
        let file = deb(&[&fixture.server.url], &content());
        let partial = fixture.mirror().cache().partial_path(file.digest);
        std::fs::create_dir_all(partial.parent().unwrap()).unwrap();
        std::fs::write(&partial, left).unwrap();
        fixture.get(file).unwrap();
        assert_eq!((fixture.left(".deb"), fixture.left(".partial")), (1, 0));
    }
}

#[test]
fn the_next_mirror_helps_whatever_is_wrong_with_the_first() {
    let good = Server::new();
    good.put(PATH, content());
    let faults = [
        Fault::Status(404),
        Fault::Status(503),
        Fault::StallAfter(1000),
        Fault::CutAfter(1000),
        Fault::ShortBy(1000),
        Fault::Endless,
    ];
    for fault in faults {
        let fixture = Fixture::new();
        fixture.server.put(PATH, content());
        fixture.server.fault(PATH, fault);
        fixture.get(deb(&[&fixture.server.url, &good.url], &content())).unwrap();
        assert_eq!((fixture.left(".deb"), fixture.left(".partial")), (1, 0), "{fault:?}");
    }
    let fixture = Fixture::new();
    fixture.server.put(PATH, vec![0; content().len()]);
    fixture.get(deb(&[&fixture.server.url, "http://127.0.0.1:1", &good.url], &content())).unwrap();
}

#[test]
fn each_fault_of_a_deb_has_its_own_error_and_leaves_nothing_wrong() {
    let check = |fault: Option<Fault>, body: Vec<u8>, expected: fn(&MirrorError) -> bool| {
        let fixture = Fixture::new();
        fixture.server.put(PATH, body);
        fault.into_iter().for_each(|fault| fixture.server.fault(PATH, fault));
        let error = fixture.get(deb(&[&fixture.server.url], &content())).unwrap_err();
        assert!(expected(&error), "{fault:?}: {error:?}");
        assert!(error.to_string().contains(&fixture.server.url), "{error}");
        assert_eq!((fixture.left(".deb"), fixture.left(".new")), (0, 0));
    };
    let mut wrong = content();
    wrong[5] ^= 1;
    check(None, wrong, |error| matches!(error, MirrorError::DigestMismatch { .. }));
    check(None, [content(), vec![0]].concat(), |error| matches!(error, MirrorError::TooLarge { .. }));
    check(Some(Fault::Endless), content(), |error| matches!(error, MirrorError::TooLarge { .. }));
    check(Some(Fault::ShortBy(1)), content(), |error| matches!(error, MirrorError::Truncated { .. }));
    check(Some(Fault::StallAfter(9)), content(), |error| matches!(error, MirrorError::Stalled { .. }));
    check(Some(Fault::CutAfter(0)), content(), |error| matches!(error, MirrorError::Connection { .. }));
    check(Some(Fault::Status(404)), content(), |error| {
        matches!(error, MirrorError::Status { status: 404, .. })
    });
    check(Some(Fault::Status(500)), content(), |error| {
        matches!(error, MirrorError::Status { status: 500, .. })
    });
}

#[test]
fn of_several_failures_the_telling_one_is_told() {
    let (wrong, without) = (Fixture::new(), Server::new());
    wrong.server.put(PATH, vec![0; content().len()]);
    for mirrors in [[&wrong.server.url, &without.url], [&without.url, &wrong.server.url]] {
        let error = wrong.get(deb(&mirrors.map(String::as_str), &content())).unwrap_err();
        assert!(matches!(error, MirrorError::DigestMismatch { .. }), "{error}");
    }
    let error = wrong.get(deb(&[], &content())).unwrap_err();
    assert!(error.to_string().contains("no mirror is named"), "{error}");
}

#[test]
fn an_interrupt_is_noticed_while_nothing_comes() {
    let fixture = Fixture::new();
    fixture.server.put(PATH, content());
    fixture.server.fault(PATH, Fault::StallAfter(1000));
    let patient =
        Mirror::new(Options { stall: Duration::from_secs(20), ..options(fixture.cache.path()) }).unwrap();
    let cancel = AtomicBool::new(false);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(150));
            cancel.store(true, Ordering::Relaxed);
        });
        let file = deb(&[&fixture.server.url], &content());
        let error = patient.pool(&[file], &|_, _| {}, &|_| {}, &cancel).unwrap_err();
        assert!(matches!(error, MirrorError::Interrupted), "{error}");
    });
    assert!(begin.elapsed() < Duration::from_secs(5));
    // Ctrl-C keeps what was paid for.
    assert_eq!(fixture.left(".partial"), 1);
}

#[test]
fn a_release_can_be_interrupted_too() {
    static FLAG: AtomicBool = AtomicBool::new(false);
    let fixture = Fixture::new();
    fixture.server.put("dists/test/InRelease", "x".repeat(100));
    fixture.server.fault("dists/test/InRelease", Fault::StallAfter(1));
    let patient = Options { stall: Duration::from_secs(20), ..options(fixture.cache.path()) };
    let patient = Mirror::new(patient).unwrap().cancelled_by(&FLAG);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(150));
            FLAG.store(true, Ordering::Relaxed);
        });
        let source = source(&[&fixture.server.url], knarr_pgp::Keyring::default());
        let error = patient.release(&source, amd64(), NOW).unwrap_err();
        assert!(matches!(error, MirrorError::Interrupted), "{error}");
    });
}

#[test]
fn files_of_this_machine_are_mirrors_too() {
    let (fixture, dir) = (Fixture::new(), tempfile::tempdir().unwrap());
    let base = dir.path().join("a mirror");
    std::fs::create_dir_all(base.join("pool")).unwrap();
    std::fs::write(base.join(PATH), content()).unwrap();
    let path = base.to_str().unwrap().replace(' ', "%20");
    for scheme in ["file:", "file://", "file://localhost"] {
        let missing = fixture.get(deb(&[&format!("{scheme}/nowhere")], &content())).unwrap_err();
        assert!(matches!(missing, MirrorError::Status { status: 404, .. }), "{missing}");
        fixture.get(deb(&[&format!("{scheme}{path}")], &content())).unwrap();
        std::fs::remove_file(fixture.mirror().cache().pool_path(Digest::of(&content()))).unwrap();
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_told() {
    let fixture = Fixture::new();
    fixture.server.put(PATH, content());
    let mirror = fixture.mirror();
    let file = deb(&[&fixture.server.url], &content());
    // A file where the directory belongs fails for root as well.
    let directory = mirror.cache().pool_path(file.digest).parent().unwrap().to_owned();
    std::fs::write(directory, "").unwrap();
    let error = get(&mirror, file).unwrap_err();
    assert!(matches!(error, MirrorError::Cache { .. }), "{error}");
}

#[test]
fn offline_uses_what_is_there_and_asks_nobody() {
    let fixture = Fixture::new();
    fixture.server.put(PATH, content());
    let offline = Mirror::new(Options { offline: true, ..options(fixture.cache.path()) }).unwrap();
    let file = deb(&[&fixture.server.url], &content());
    let error = get(&offline, file.clone()).unwrap_err();
    assert!(matches!(error, MirrorError::Offline { .. }), "{error}");
    assert!(fixture.server.asked().is_empty());
    fixture.get(file.clone()).unwrap();
    get(&offline, file).unwrap();
}

// ---- suites

const INDEX: &str = "Package: hello\nVersion: 1\nArchitecture: amd64\nFilename: pool/h.deb\nSize: 5\nSHA256: 2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824\n\n";
const NAME: &str = "main/binary-amd64/Packages";

fn gz(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn xz(text: &[u8]) -> Vec<u8> {
    let mut encoder = xz2::write::XzEncoder::new(Vec::new(), 0);
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// A suite whose Release promises `packed` under `NAME` and `suffix`.
struct Suite {
    fixture: Fixture,
    signer: Signer,
}

impl Suite {
    fn new(fields: &str, suffix: &str, packed: &[u8]) -> Self {
        let suite = Self { fixture: Fixture::new(), signer: Signer::new() };
        suite.publish(TODAY, fields, &[(NAME, INDEX.as_bytes()), (&format!("{NAME}{suffix}"), packed)]);
        suite.fixture.server.put(&format!("dists/test/{NAME}{suffix}"), packed);
        suite
    }

    fn publish(&self, date: &str, fields: &str, files: &[(&str, &[u8])]) {
        let text = release_text(date, fields, files);
        self.fixture.server.put("dists/test/InRelease", self.signer.sign(&text));
    }

    fn release(&self, mirror: &Mirror) -> Result<VerifiedRelease, MirrorError> {
        mirror.release(&source(&[&self.fixture.server.url], self.signer.keyring()), amd64(), NOW)
    }

    fn index(&self) -> Result<PackagesIndex, MirrorError> {
        let mirror = self.fixture.mirror();
        mirror.index(&self.release(&mirror)?, "main", "amd64", &|_| {})
    }
}

#[test]
fn an_index_is_fetched_in_each_compression_and_then_kept() {
    let zst = zstd::encode_all(INDEX.as_bytes(), 1).unwrap();
    for (suffix, packed) in
        [(".gz", gz(INDEX.as_bytes())), (".xz", xz(INDEX.as_bytes())), (".zst", zst), ("", INDEX.into())]
    {
        let suite = Suite::new("", suffix, &packed);
        for _ in 0..2 {
            let index = suite.index().unwrap();
            assert_eq!((index.len(), index.record(0).name()), (1, "hello"), "{suffix}");
        }
        let asked = suite.fixture.server.asked();
        assert_eq!(asked.iter().filter(|(path, _)| path.contains("Packages")).count(), 1, "{asked:?}");
    }
}

#[test]
fn an_empty_index_is_an_index() {
    let suite = Suite { fixture: Fixture::new(), signer: Signer::new() };
    suite.publish(TODAY, "", &[(NAME, b""), (&format!("{NAME}.gz"), &gz(b""))]);
    suite.fixture.server.put(&format!("dists/test/{NAME}.gz"), gz(b""));
    assert!(suite.index().unwrap().is_empty());
}

#[test]
fn by_hash_comes_first_and_the_name_second() {
    let packed = gz(INDEX.as_bytes());
    let suite = Suite::new("Acquire-By-Hash: yes\n", ".gz", &packed);
    suite.index().unwrap();
    let asked = suite.fixture.server.asked();
    let hash = format!("dists/test/main/binary-amd64/by-hash/SHA256/{}", Digest::of(&packed).hex());
    assert_eq!([&asked[1].0, &asked[2].0], [&hash, &format!("dists/test/{NAME}.gz")]);
    // In the middle of an update the name is of another index already.
    let suite = Suite::new("Acquire-By-Hash: yes\n", ".gz", &packed);
    suite.fixture.server.put(&hash, packed);
    suite.fixture.server.put(&format!("dists/test/{NAME}.gz"), gz(b"Package: other\n\n"));
    suite.index().unwrap();
}

#[test]
fn each_fault_of_an_index_has_its_own_error() {
    let path = format!("dists/test/{NAME}.gz");
    let packed = gz(INDEX.as_bytes());
    let check = |fault: Option<Fault>, body: &[u8], expected: fn(&MirrorError) -> bool| {
        let suite = Suite::new("", ".gz", &packed);
        suite.fixture.server.put(&path, body);
        fault.into_iter().for_each(|fault| suite.fixture.server.fault(&path, fault));
        let error = suite.index().err().unwrap();
        assert!(expected(&error), "{fault:?}: {error:?}");
        assert_eq!(suite.fixture.left(".idx"), 0);
    };
    let mut wrong = packed.clone();
    wrong[20] ^= 1;
    check(None, &wrong, |error| matches!(error, MirrorError::DigestMismatch { .. }));
    check(None, &[packed.clone(), vec![0]].concat(), |error| matches!(error, MirrorError::TooLarge { .. }));
    check(None, &packed[..30], |error| matches!(error, MirrorError::Truncated { .. }));
    check(Some(Fault::Endless), &packed, |error| matches!(error, MirrorError::TooLarge { .. }));
    check(Some(Fault::StallAfter(9)), &packed, |error| matches!(error, MirrorError::Stalled { .. }));
    check(Some(Fault::CutAfter(9)), &packed, |error| matches!(error, MirrorError::Connection { .. }));
    check(Some(Fault::Status(404)), &packed, |error| matches!(error, MirrorError::Status { .. }));
}

/// The signer itself promises a packed file that unpacks to something else: digest and size both count.
#[test]
fn what_an_index_unpacks_to_is_checked_too() {
    let other = INDEX.replace("hello", "hallo");
    let suite = Suite::new("", ".gz", &gz(other.as_bytes()));
    let error = suite.index().err().unwrap();
    assert!(
        matches!(&error, MirrorError::DigestMismatch { url, .. } if url.ends_with("(unpacked)")),
        "{error}"
    );
    let bomb = gz(&vec![b'\n'; 50_000_000]);
    let suite = Suite::new("", ".gz", &bomb);
    let error = suite.index().err().unwrap();
    assert!(matches!(error, MirrorError::TooLarge { .. }), "{error}");
}

#[test]
fn an_xz_that_wants_too_much_memory_is_refused() {
    let mut options = xz2::stream::LzmaOptions::new_preset(0).unwrap();
    options.dict_size(256 << 20);
    let mut filters = xz2::stream::Filters::new();
    filters.lzma2(&options);
    // The header of a stream asks for the memory, whatever follows.
    let stream = xz2::stream::Stream::new_stream_encoder(&filters, xz2::stream::Check::Crc32).unwrap();
    let mut encoder = xz2::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(INDEX.as_bytes()).unwrap();
    let packed = encoder.finish().unwrap();
    let suite = Suite::new("", ".xz", &packed);
    let error = suite.index().err().unwrap();
    assert!(matches!(error, MirrorError::Format { .. }), "{error}");
}

#[test]
fn another_mirror_helps_when_the_index_of_the_first_is_wrong() {
    let packed = gz(INDEX.as_bytes());
    let suite = Suite::new("", ".gz", &packed);
    let (mirror, good) = (suite.fixture.mirror(), Server::new());
    let path = format!("dists/test/{NAME}.gz");
    good.put(&path, packed.clone());
    suite.fixture.server.put(&path, vec![0; packed.len()]);
    let mirrors = source(&[&suite.fixture.server.url, &good.url], suite.signer.keyring());
    let release = mirror.release(&mirrors, amd64(), NOW).unwrap();
    mirror.index(&release, "main", "amd64", &|_| {}).unwrap();
}

#[test]
fn an_index_that_is_not_promised_is_not_asked_for() {
    let suite = Suite::new("", ".gz", &gz(INDEX.as_bytes()));
    let mirror = suite.fixture.mirror();
    let release = suite.release(&mirror).unwrap();
    let error = mirror.index(&release, "contrib", "amd64", &|_| {}).err().unwrap();
    assert!(matches!(error, MirrorError::MissingIndex { .. }), "{error}");
}

#[test]
fn a_release_and_its_signature_beside_it_do_as_well() {
    let suite = Suite::new("", ".gz", &gz(INDEX.as_bytes()));
    let server = &suite.fixture.server;
    let text = release_text(TODAY, "", &[(NAME, b"")]);
    server.remove("dists/test/InRelease");
    server.put("dists/test/Release", text.as_str());
    let error = suite.release(&suite.fixture.mirror()).unwrap_err();
    assert!(
        matches!(error, MirrorError::Untrusted { source: knarr_pgp::PgpError::NoSignature, .. }),
        "{error}"
    );
    server.put("dists/test/Release.gpg", suite.signer.gpg(&["--armor", "--detach-sign"], &text));
    suite.release(&suite.fixture.mirror()).unwrap();
    let offline = Mirror::new(Options { offline: true, ..options(suite.fixture.cache.path()) }).unwrap();
    suite.release(&offline).unwrap();
    server.put("dists/test/Release", text.replace("Origin: Test", "Origin: Evil"));
    let error = suite.release(&suite.fixture.mirror()).unwrap_err();
    assert!(
        matches!(error, MirrorError::Untrusted { source: knarr_pgp::PgpError::BadSignature, .. }),
        "{error}"
    );
}

#[test]
fn an_older_release_is_refused_from_whatever_mirror_it_comes() {
    let suite = Suite::new("", ".gz", &gz(INDEX.as_bytes()));
    suite.release(&suite.fixture.mirror()).unwrap();
    let elsewhere = Server::new();
    let old = release_text("Sun, 20 Sep 2026 14:13:20 UTC", "", &[(NAME, b"")]);
    elsewhere.put("dists/test/InRelease", suite.signer.sign(&old));
    let mirror = suite.fixture.mirror();
    let error = mirror.release(&source(&[&elsewhere.url], suite.signer.keyring()), amd64(), NOW).unwrap_err();
    assert!(matches!(error, MirrorError::Rollback { .. }), "{error}");
    suite.release(&mirror).unwrap();
}

#[test]
fn what_failed_a_check_is_neither_remembered_nor_kept() {
    let suite = Suite::new("", ".gz", &gz(INDEX.as_bytes()));
    suite.release(&suite.fixture.mirror()).unwrap();
    let good = suite.signer.sign(&release_text(TODAY, "", &[(NAME, INDEX.as_bytes())]));
    // Newer, but of the future; then a page of some captive portal.
    suite.publish("Tue, 22 Sep 2026 14:13:20 UTC", "", &[(NAME, b"")]);
    let error = suite.release(&suite.fixture.mirror()).unwrap_err();
    assert!(matches!(error, MirrorError::FromTheFuture { .. }), "{error}");
    suite.fixture.server.put("dists/test/InRelease", "<html>log in first</html>");
    let error = suite.release(&suite.fixture.mirror()).unwrap_err();
    assert!(matches!(error, MirrorError::Untrusted { .. }), "{error}");
    let offline = Mirror::new(Options { offline: true, ..options(suite.fixture.cache.path()) }).unwrap();
    suite.release(&offline).unwrap();
    suite.fixture.server.put("dists/test/InRelease", good);
    suite.release(&suite.fixture.mirror()).unwrap();
}

#[test]
fn an_endless_release_is_cut_off() {
    let suite = Suite::new("", ".gz", &gz(INDEX.as_bytes()));
    suite.fixture.server.fault("dists/test/InRelease", Fault::Endless);
    let error = suite.release(&suite.fixture.mirror()).unwrap_err();
    assert!(matches!(error, MirrorError::TooLarge { .. }), "{error}");
}

#[test]
fn the_rate_of_the_line_decides_between_gz_and_xz() {
    let text = release_text(
        TODAY,
        "",
        &[(NAME, b"t"), (&format!("{NAME}.gz"), b"g"), (&format!("{NAME}.xz"), b"x")],
    );
    let choose = |rate| {
        let release = VerifiedRelease {
            source: source(&[], knarr_pgp::Keyring::default()),
            release: Release::parse(text.as_bytes()).unwrap(),
            digest: Digest::of(b""),
            url: String::new(),
            rate,
            keys: Vec::new(),
            warnings: Vec::new(),
        };
        choose_compression(&release, NAME).0
    };
    assert_eq!([choose(5e6), choose(3e6)], [".gz", ".xz"]);
}
