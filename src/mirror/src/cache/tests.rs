use super::*;

fn with_cache(check: impl FnOnce(&Cache, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    check(&Cache::open(dir.path()).unwrap(), dir.path());
}

fn put(cache: &Cache, content: &[u8], age: Duration) -> PathBuf {
    let path = cache.pool_path(Digest::of(content));
    cache.write(&path, content).unwrap();
    File::open(&path).unwrap().set_modified(SystemTime::now() - age).unwrap();
    path
}

const HOUR: Duration = Duration::from_secs(3600);
const FOREVER: Duration = Duration::MAX;

#[test]
fn the_newest_date_is_kept_whatever_comes_later() {
    with_cache(|cache, _| {
        assert_eq!(cache.newest_seen("suite").unwrap(), None);
        for (date, newest) in [(5, 5), (9, 9), (7, 9)] {
            cache.remember("suite", Timestamp(date)).unwrap();
            assert_eq!(cache.newest_seen("suite").unwrap(), Some(Timestamp(newest)));
        }
        assert_eq!(cache.newest_seen("another").unwrap(), None);
        // Many at once, in any order.
        std::thread::scope(|scope| {
            for date in 10..40 {
                scope.spawn(move || cache.remember("suite", Timestamp(date)).unwrap());
            }
        });
        assert_eq!(cache.newest_seen("suite").unwrap(), Some(Timestamp(39)));
    });
}

#[test]
fn a_damaged_date_is_an_error_and_not_a_fresh_start() {
    with_cache(|cache, _| {
        fs::write(cache.seen_path("suite"), "").unwrap();
        let error = cache.newest_seen("suite").unwrap_err();
        assert!(error.to_string().contains(".date"), "{error}");
    });
}

#[test]
fn an_unfinished_file_leaves_no_trace() {
    with_cache(|cache, root| {
        let path = root.join("pool/x");
        let mut file = cache.create(&path).unwrap();
        file.write_all(b"half").unwrap();
        assert!(!path.exists());
        drop(file);
        assert_eq!(cache.usage().unwrap().iter().map(|usage| usage.files).sum::<u64>(), 0);
    });
}

#[test]
fn a_partial_file_goes_to_one_run_only() {
    with_cache(|cache, _| {
        let digest = Digest::of(b"whole");
        let (mut file, left) = cache.create_from_partial(digest).unwrap();
        assert!(left.is_none());
        file.write_all(b"who").unwrap();
        file.leave(&cache.partial_path(digest));
        let (mut first, left) = cache.create_from_partial(digest).unwrap();
        assert_eq!(io::read_to_string(left.unwrap()).unwrap(), "who");
        assert!(cache.create_from_partial(digest).unwrap().1.is_none());
        first.write_all(b"le").unwrap();
        first.finish().unwrap();
        assert_eq!(fs::read(cache.pool_path(digest)).unwrap(), b"whole");
        assert!(!cache.partial_path(digest).exists());
    });
}

#[test]
fn pruning_removes_the_longest_unused_first() {
    with_cache(|cache, _| {
        let old = put(cache, b"old.", 3 * HOUR);
        let mid = put(cache, b"mid.", 2 * HOUR);
        let new = put(cache, b"new.", HOUR);
        touch(&old);
        assert_eq!(cache.prune(8, FOREVER).unwrap(), (1, 4));
        assert_eq!([old.exists(), mid.exists(), new.exists()], [true, false, true]);
        assert_eq!(cache.prune(u64::MAX, HOUR / 2).unwrap(), (1, 4));
        assert_eq!([old.exists(), new.exists()], [true, false]);
    });
}

#[test]
fn pruning_leaves_dates_and_files_being_written() {
    with_cache(|cache, root| {
        cache.remember("suite", Timestamp(5)).unwrap();
        let mut writing = cache.create(&root.join("pool/x")).unwrap();
        writing.write_all(b"half").unwrap();
        let abandoned = root.join("pool/.new-abandoned");
        fs::write(&abandoned, "half").unwrap();
        let of_a_release = root.join("releases/.new-abandoned");
        fs::write(&of_a_release, "half").unwrap();
        assert_eq!(cache.leftovers().unwrap(), [abandoned, of_a_release]);
        assert_eq!(cache.prune(0, Duration::ZERO).unwrap(), (2, 8));
        assert_eq!(cache.leftovers().unwrap(), [""; 0].map(PathBuf::from));
        writing.finish().unwrap();
        assert_eq!(fs::read(root.join("pool/x")).unwrap(), b"half");
        assert_eq!(cache.newest_seen("suite").unwrap(), Some(Timestamp(5)));
    });
}

#[test]
fn usage_counts_by_kind() {
    with_cache(|cache, _| {
        put(cache, b"1234", HOUR);
        cache.write(&cache.index_path(Digest::of(b"")), b"12").unwrap();
        cache.remember("suite", Timestamp(5)).unwrap();
        let usage = cache.usage().unwrap();
        let found: Vec<_> = usage.iter().map(|usage| (usage.kind, usage.files, usage.bytes)).collect();
        assert_eq!(
            found,
            [("pool", 1, 4), ("indices", 1, 2), ("releases", 0, 0), ("products", 0, 0), ("builds", 0, 0)]
        );
    });
}
