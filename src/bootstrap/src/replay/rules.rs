//! The table of scripts whose effects are known.
//!
//! Each rule lists the digests of the scripts that it was proven equal to, and what they were run
//! with. `tests/replay.rs` proves all of them: a root of which every script was replayed has the
//! same bytes as one of which every script really ran.

use super::Effect::{self, *};
use super::alternatives::Alternative as Choice;
use super::debconf::Answer;

struct Rule {
    /// Whose script; only for the reader.
    #[expect(dead_code, reason = "the digest is what counts")]
    script: &'static str,
    digests: &'static [&'static str],
    effects: &'static [Effect],
    /// What it does when triggers wake it; `None` where that is not known.
    triggered: Option<&'static [Effect]>,
    /// Whether it was also proven to do the same from outside.
    outside: bool,
}

/// The effects of the script with this digest (64 hexadecimal digits), run with these arguments.
pub(super) fn find(digest: &str, args: &[String]) -> Option<&'static [Effect]> {
    let rule = rule_of(digest)?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["install"] | ["configure", ""] => Some(rule.effects),
        ["triggered", _] => rule.triggered,
        _ => None,
    }
}

/// The effects of the script with this digest when it is installed or configured, if it may run from
/// outside.
pub(super) fn effects_of(digest: &str) -> Option<&'static [Effect]> {
    rule_of(digest).filter(|rule| rule.outside).map(|rule| rule.effects)
}

fn rule_of(digest: &str) -> Option<&'static Rule> {
    let digest = digest.rsplit(':').next()?;
    RULES.iter().find(|rule| rule.digests.contains(&digest))
}

const fn rule(script: &'static str, digests: &'static [&'static str], effects: &'static [Effect]) -> Rule {
    Rule { script, digests, effects, triggered: None, outside: true }
}

/// Of a script that does not honour `DPKG_ROOT`.
const fn inside(script: &'static str, digests: &'static [&'static str], effects: &'static [Effect]) -> Rule {
    Rule { script, digests, effects, triggered: None, outside: false }
}

const NOTHING: &[Effect] = &[];
const LOCAL: u32 = 0o755;

/// What base-files makes: directories of its own, logs, and what comes last differ between releases.
macro_rules! base_files {
    ([$($libexec:expr),*], LOGS, [$($last:expr),*]) => {
        base_files!(
            [$($libexec),*],
            [
                Touch("var/log/wtmp", 0o664, "utmp"),
                Touch("var/log/btmp", 0o660, "utmp"),
                Touch("var/log/lastlog", 0o664, "utmp")
            ],
            [$($last),*]
        )
    };
    ([$($libexec:expr),*], [$($log:expr),*], [$($last:expr),*]) => {
        &[
            Without("etc/staff-group-for-usr-local"),
            Without("usr/info/dir"),
            Without("usr/lib32"),
            Without("usr/libo32"),
            Without("usr/libx32"),
            Link("debian", "etc/dpkg/origins/default"),
            Copy("usr/share/base-files/dot.profile", "root/.profile"),
            Copy("usr/share/base-files/dot.bashrc", "root/.bashrc"),
            Copy("usr/share/base-files/profile", "etc/profile"),
            Copy("usr/share/base-files/motd", "etc/motd"),
            Directory("mnt", 0o755, "root"),
            Directory("srv", 0o755, "root"),
            Directory("opt", 0o755, "root"),
            Directory("etc/opt", 0o755, "root"),
            Directory("var/opt", 0o755, "root"),
            Directory("media", 0o755, "root"),
            Directory("var/mail", 0o2775, "mail"),
            Link("../mail", "var/spool/mail"),
            Directory("run/lock", 0o1777, "root"),
            BecomesLink("var/run", "/run"),
            BecomesLink("var/lock", "/run/lock"),
            Directory("usr/local", LOCAL, "root"),
            Directory("usr/local/share", LOCAL, "root"),
            Directory("usr/local/share/man", LOCAL, "root"),
            Directory("usr/local/bin", LOCAL, "root"),
            Directory("usr/local/games", LOCAL, "root"),
            Directory("usr/local/lib", LOCAL, "root"),
            $($libexec,)*
            Directory("usr/local/include", LOCAL, "root"),
            Directory("usr/local/sbin", LOCAL, "root"),
            Directory("usr/local/src", LOCAL, "root"),
            Directory("usr/local/etc", LOCAL, "root"),
            Link("share/man", "usr/local/man"),
            $($log,)*
            Copy("usr/share/base-files/info.dir", "usr/share/info/dir"),
            $($last),*
        ]
    };
}

static RULES: &[Rule] = &[
    rule(
        "apt preinst",
        &[
            "a8007a3c0d266dcecef6b554083ac437871aee4f3c971c3d412cc9b71d518601",
            "c1cadc3eecec67af8e1d2f178d187f8d00d498563ab56bea974c8baee388309a",
        ],
        NOTHING,
    ),
    rule(
        "base-files preinst, amd64",
        &["e593a5b0e3be354a3c0c0c0b5905de242da960e50bc0bb6d8f128247f125088a"],
        &[
            IsLink("bin"),
            IsLink("lib"),
            IsLink("sbin"),
            IsLink("lib64"),
            Without("lib32"),
            Without("libo32"),
            Without("libx32"),
            Divert("/lib32", "/.lib32.usr-is-merged", "base-files"),
            Divert("/libo32", "/.libo32.usr-is-merged", "base-files"),
            Divert("/libx32", "/.libx32.usr-is-merged", "base-files"),
        ],
    ),
    rule(
        "base-files preinst, arm64",
        &["c6619854af6ee14357e5d81a56f6424a23909170251de2380b1f7caeb1cf2fb7"],
        &[
            IsLink("bin"),
            IsLink("lib"),
            IsLink("sbin"),
            Without("lib32"),
            Without("lib64"),
            Without("libo32"),
            Without("libx32"),
            Divert("/lib32", "/.lib32.usr-is-merged", "base-files"),
            Divert("/lib64", "/.lib64.usr-is-merged", "base-files"),
            Divert("/libo32", "/.libo32.usr-is-merged", "base-files"),
            Divert("/libx32", "/.libx32.usr-is-merged", "base-files"),
        ],
    ),
    rule(
        "base-passwd preinst",
        &["47f6f8ee55faa32f7ff23337772c05bfcc7c01aa0804e1ffeffd71ebff0e21b9"],
        &[AccountsOfScript],
    ),
    rule("dash preinst", &["07dfa54d9a3f59a86e1e04705ceaa2596a05fc00a08bb964792dc8e8dc517108"], NOTHING),
    rule(
        "debian-archive-keyring preinst",
        &["50a32cd821b7355a098bc93b7c336f1d6ecc58453e7c8a7b83a7fe0782c4f257"],
        NOTHING,
    ),
    rule(
        "gzip preinst",
        &["09dbf6d394e92c0c694fd8c17cfcbc198af5072f605dc006205a172293fa977d"],
        &[Without("var/lib/dpkg/info/zutils.list")],
    ),
    rule(
        "libc6 preinst, amd64",
        &[
            "964a417b9c330f80213fe8aebb1f44eaea307203962aecb0de493742583bb454",
            "408921fde21b87876169bfcd396c60d04eb1f8c859e31f8d10d65bc06d934e5b",
        ],
        &[
            IsLink("lib"),
            IsLink("lib64"),
            Ships("base-files", "/lib64"),
            Debconf(&[]),
            Divert("/lib64/ld-linux-x86-64.so.2", "/lib64/ld-linux-x86-64.so.2.usr-is-merged", "libc6"),
        ],
    ),
    rule(
        "libc6 preinst, arm64",
        &["47f047126448416b1f94d48a9bb9c26d39b7806c3a1aedbd3f24ccbc64b45eb6"],
        &[
            IsLink("lib"),
            Debconf(&[]),
            Divert("/lib/ld-linux-aarch64.so.1", "/lib/ld-linux-aarch64.so.1.usr-is-merged", "libc6"),
        ],
    ),
    rule(
        "libpam-modules preinst",
        &[
            "87c5a9bcde481ad65bb699df2693b69756622e6d0a6592b2f2d5d881b97e0580",
            "6e492e2ad98551f179cc10062a3708ff22b6119e86702e8a224cd4f9c983e7a5",
        ],
        &[Debconf(&[])],
    ),
    rule(
        "login preinst and postinst",
        &[
            "d5ffa198cd5179281833da9ac72160c45c979644c111e90f9062ed7b4aa9fdd3",
            "a2472092a9742812000b0c00a13b315aa7970c9211ee50e3d285f4836b4c75cc",
        ],
        NOTHING,
    ),
    rule(
        "passwd preinst",
        &[
            "dbca5850b8a06014e88ecf7b5c6441c0065d5383350c92fcaf6bb6842dadffdb",
            "d365c7fb8d8671194c5033ef493f2e674e2ea00aaf80fbbe38df8ac07845e46c",
        ],
        NOTHING,
    ),
    rule(
        "apt postinst",
        &[
            "799f93260841676d2eee8f4c132d2613ec6b0a84fd69e67ddaf0dc1689cbc041",
            "25b07c821526a251e542032b6f7ad78390792fa44fcda9c892c878a849094236",
        ],
        &[HasUser("_apt"), Timer("apt-daily-upgrade.timer"), Timer("apt-daily.timer")],
    ),
    rule(
        "base-files postinst, amd64",
        &["c3afcbe1aa12e56b62955e75bbf432f21446c4901e66f19468f68351791b08be"],
        BASE_FILES,
    ),
    rule(
        "base-files postinst, arm64",
        &["40d3b9308c8e180dbb0d8cdf3a2bb4d795b37815807a864e474e84bbc56a2660"],
        BASE_FILES_WITHOUT_LIB64,
    ),
    rule(
        "base-passwd postinst",
        &["1cff0ea9b8dd12bcb4f6da505bdbd225c905df423f89f4a1be871667ab40c7c6"],
        &[
            Debconf(&[]),
            MasterAccounts,
            Touch("etc/subuid", 0o644, "root"),
            Touch("etc/subgid", 0o644, "root"),
        ],
    ),
    rule(
        "bash postinst",
        &[
            "6d1b5aafa381703582cefe6ba5e4b7b0cfa7f10b0b0a9b299361c4afd5172a21",
            "ab8fae410c7baf10544bd54884277066c41f7ddd91a32cad21d3e33ab6ebe5bc",
        ],
        BASH,
    ),
    rule(
        "dash postinst",
        &["7f90d7fdae7590c8ccbe36e8cca03909441afcf95c3e966b67a8097981b23c52"],
        &[IsLink("usr/bin/sh")],
    ),
    rule("debconf postinst", &["5a2e9dd3174db7116b8baca7479df372bc898a04cf9136ebefca3c98de959f3c"], DEBCONF),
    rule(
        "debian-archive-keyring postinst",
        &["cc68ada3c2373196f47756341237d59b7dc6929627adeaeaf4ac5ba39349cc37"],
        NOTHING,
    ),
    Rule {
        script: "debianutils postinst",
        digests: &["d15926d4a2130c02b368e2a609fbeb563455355e717007937e36893f88668eff"],
        effects: &[Copy("usr/share/debianutils/shells", "etc/shells"), Shells, Alternative(&WHICH)],
        triggered: Some(&[Shells]),
        outside: true,
    },
    rule(
        "dpkg postinst",
        &[
            "46dccfe29646a5cd280aefcb889c78fe64246dd7a9cc8f0303d4c317a95c585b",
            "096c522b5916219993bf4c6440d390e6fb96708f4f6f388aaebf96d2800da11b",
        ],
        &[IsLink("sbin"), NativeArchitecture, Timer("dpkg-db-backup.timer")],
    ),
    rule(
        "gzip postinst",
        &["cddcb049fa57988f1be16035569af310a7f9cb6bc401dd9c732ee01d956f97d8"],
        &[Without("var/lib/dpkg/info/zutils.list")],
    ),
    rule(
        "init-system-helpers postinst",
        &["22b1db010859db57c9bbc2ff275774375204043884a79f9b55368b21a7d46006"],
        NOTHING,
    ),
    Rule {
        script: "libc-bin postinst",
        digests: &["3daa7e3ffd429c1d77287f0fc840a490a607697906d2303452f70578647ce0d4"],
        effects: &[Copy("usr/share/libc-bin/nsswitch.conf", "etc/nsswitch.conf"), LoaderCache],
        triggered: Some(&[LoaderCache]),
        outside: true,
    },
    rule(
        "libc6 postinst",
        &[
            "ff2a3a7a0e74ceac331ca5ad22e7ef57c974a7b891a9b1e7f3def4377ec6f1b5",
            "1ad334c35c5ac6d6bd7653eba6ffce53849c29c5401051f53b473fb434cfb22f",
        ],
        // Its trigger wakes nobody here.
        &[Debconf(&[]), Without("var/lib/dpkg/triggers/libc-upgrade"), Without("run/systemd/system")],
    ),
    rule(
        "libpam-modules-bin postinst",
        &[
            "d772cad158818805843cc24d0c7d2753886f774efc9e52f57e603dfcdca2ff9b",
            "85ebd1d0ea2c4d182d6bb93e1b80c4cba33ac3f528cbc20b11f2630be1612639",
        ],
        &[Without("run/systemd/system")],
    ),
    rule(
        "libpam-modules postinst",
        &[
            "ddf77f362eeeb9720f05fa59cc2583aeda90a25ec721dd6807e0eda568ce84d1",
            "6af7c1b85f4659abc4b5de65b19b005b7a7be9f64f70f806cb37c26a1a3bbacb",
        ],
        NEW_PAM_FILES,
    ),
    rule(
        "libpam-runtime postinst",
        &[
            "df5d1ba9ea9787e230eee0a0a8feaee02265cc30485b6bd9f6828bbedb4eb401",
            "ffa647a4a52ca437b4ba95880767f10c7c4a90eda592cac1582aab317918b9ba",
        ],
        &[
            Debconf(&[
                Answer::new("libpam-runtime/override", "false", false),
                Answer {
                    question: "libpam-runtime/profiles",
                    value: "unix",
                    is_seen: false,
                    variables: &[
                        ("profile_names", "unix, mkhomedir"),
                        ("profiles", "Unix authentication, Create home directory on login"),
                    ],
                },
            ]),
            PamProfiles,
        ],
    ),
    rule(
        "libpam0g postinst",
        &["115eb8d446552fa63d3dff297ab1c69c065c44a50f7dd69c34284c8991b589c6"],
        &[Debconf(&[])],
    ),
    rule(
        "libselinux1 postinst",
        &["d12ce1c34fbc5460fd38659e871fb0018db5f6114d4a7ef4556b017c823c61b4"],
        &[Without("usr/bin/systemd-tmpfiles")],
    ),
    rule(
        "login.defs postinst",
        &["b6a6ee46fff116770120ec86c39a1c2bdf3485699d4213c47596327d57a65d0a"],
        &[Without("etc/login.defs.dpkg-bak")],
    ),
    rule(
        "mawk postinst",
        &[
            "216a91194494d22d4f72f5fd96e5b8c0649dee5c81dbaea342c7bb24f365a766",
            "57f880c9e8c38360370cb57eed12a70f806604d2ba52bc686cfdb278b09a590c",
        ],
        MAWK,
    ),
    rule(
        "passwd postinst",
        &[
            "01d0ce8ac3b7cd30e42d588bddf13c3cede1c6c696550295bc83922a32938630",
            "dc086b9bfa075c1176e66848f64a42b6db64fc8780b8c8c52ead007ecdf9e715",
        ],
        &[Without("usr/bin/systemd-tmpfiles"), ShadowAccounts],
    ),
    rule(
        "tar postinst",
        &["4eed7466e8f44c6b480002d80becc0d998c462b759c0118e285170a93f4b3dca"],
        &[Alternative(&Choice {
            name: "rmt",
            link: "usr/sbin/rmt",
            path: "usr/sbin/rmt-tar",
            priority: 50,
            slaves: &[("rmt.8.gz", "usr/share/man/man8/rmt.8.gz", "usr/share/man/man8/rmt-tar.8.gz")],
        })],
    ),
    rule(
        "tzdata postinst",
        &[
            "555ed6cfc95b70d0e209ffcbfbcef31670cf50bea5e9ff686f6f9c456acb0f46",
            "841d7098902ae567be91629073fb7ce972e922efa9ef304edde329a7875e181b",
        ],
        &[
            Without("etc/localtime"),
            Without("etc/timezone"),
            Debconf(&[
                Answer::new("tzdata/Areas", "Etc", true),
                Answer::new("tzdata/Zones/Etc", "UTC", true),
            ]),
            Link("/usr/share/zoneinfo/Etc/UTC", "etc/localtime"),
        ],
    ),
    rule(
        "util-linux postinst",
        &[
            "d781477cac1b221378593aaacc180228b91cc8e17196a6f898e141b48dbd3109",
            "b0039b33dd181c3cbb25c6cef55209d63f527d32627339480c081c3ba912b3ca",
        ],
        UTIL_LINUX,
    ),
    rule(
        "base-files postinst, amd64, without logs",
        &["facec5b6c1ce43221d9afd170314d7195152f41ab21a5dfc3abb127c7d522620"],
        base_files!([Directory("usr/local/libexec", LOCAL, "root")], [], [Undivert("/lib64")]),
    ),
    // bookworm
    inside(
        "preinsts and postinsts that only know upgrades",
        &[
            "6e251344a8a5379a8b4248a30ff85e687a612f5d91dfcfd9d5a39897735da6eb",
            "e1e98cd3f11c0443681ec347f34763582ec16fee9d9f393e4d4f54aad131694b",
            "bf2c3d594623e16b440d8a80eb4a6badffc085d47b51b8a6b20408dee3de476d",
            "0ac4873d936cbf6ea2c958b686aa5097f82306e1bd50fa6eff1b95337664dac1",
            "e047cbfffa87159958ee705ba04c31151236a7290ce1072a5632005603f346ca",
            "403af1142cc07ad15bc47344ded36618b2fdf5753874652e416a5855b5bd54ca",
            "0dd1293f4208e384c0fb2b504692f022a68188d82020eeb086ad775a32b0ec1d",
            "f7221ad6bf379417a14267e3e23a84eeff67d2cbb8b7bdfbe5d04c74ac94beed",
            "a262551f3548c2882ec9388fc83368146012a09c398f8e6e39c625b8656ab449",
            "f58cda9e9bd7d31f1ace74a0dd3da6175f1149a3a9984e2cf93a2e8fd0cb3399",
            "b8ccd8524c389b644c072df2e66b376ec243c8c9159b9b6be66136f94be9a687",
        ],
        NOTHING,
    ),
    inside(
        "apt postinst",
        &["e305b2e6580bd834d88640a04d83706a8b6e9138424e7273b02e36606655b79d"],
        &[HasUser("_apt"), Timer("apt-daily-upgrade.timer"), Timer("apt-daily.timer")],
    ),
    inside(
        "base-files postinst, amd64",
        &["9d835f80f3815b5e5f49034027e9126e40d74c725e11cd37d4ae95dc490d209f"],
        base_files!([], LOGS, []),
    ),
    inside(
        "base-passwd postinst",
        &["c372532e5cba8abf8fd60fba244ddb537fef4807ce0624698dafb4d21866710c"],
        &[Debconf(&[]), MasterAccounts],
    ),
    inside("bash postinst", &["4ee998c2d9d3b5f7bb6870a1c0be598c7e426d8af3efc2c89b5b175ec36e755c"], BASH),
    inside(
        "debconf postinst",
        &["a68350a8b685d1389704e246bcd25b25efaadda846d188ec4cd2ef7870636c10"],
        DEBCONF,
    ),
    Rule {
        script: "debianutils postinst",
        digests: &["a29569bd90a26a6eb8338afefbd7772b9dec3200379896a3d2d523fcc7a134d8"],
        effects: &[Copy("usr/share/debianutils/shells", "etc/shells"), Shells, Alternative(&WHICH)],
        triggered: Some(&[Shells]),
        outside: false,
    },
    inside(
        "dpkg postinst",
        &["2f3d6715ff26f9615ea9d10312a54fc48af53d95b09ff407f78ec367faca37e2"],
        &[Timer("dpkg-db-backup.timer")],
    ),
    inside(
        "e2fsprogs postinst",
        &["b6d9039fec880922df6797ef741c3fdc9419947f7a2ac6863dd90e7fcef1f721"],
        &[
            Without("usr/sbin/update-initramfs"),
            Timer("e2scrub_all.timer"),
            Timer("e2scrub_reap.service"),
            Without("run/systemd/system"),
        ],
    ),
    inside(
        "libc6 preinst, amd64",
        &["77692462251006a8b8161b442c5b0b75b9580d70fd3d85c066a5c9a412c1ce9b"],
        &[IsLink("lib"), IsLink("lib64"), Debconf(&[]), Touch("etc/ld.so.nohwcap", 0o644, "root")],
    ),
    inside(
        "libc6 postinst, amd64",
        &["21a471a4fb29dd983b61999088fa3d26b892147f729049db648eb839a464beda"],
        &[
            Remove("etc/ld.so.nohwcap"),
            Debconf(&[]),
            Without("run/systemd/system"),
            Without("usr/sbin/telinit"),
        ],
    ),
    inside(
        "libpam-modules postinst",
        &["35c3c5ed8aa0db4849cde8bb585a6a86736e4894ef2983002dbd037408c13c44"],
        NEW_PAM_FILES,
    ),
    inside(
        "login postinst",
        &["e9a6ed50ca21329434b74ebbcb397923eecda0948e4c066476dac00bc4aa71c4"],
        &[
            Without("var/log/faillog"),
            Touch("var/log/faillog", 0o644, "root"),
            Touch("etc/subuid", 0o644, "root"),
            Touch("etc/subgid", 0o644, "root"),
        ],
    ),
    inside("mawk postinst", &["0daa7ced1404005288d316043ed56f15c3c21060a765cf262393fc2be840024d"], MAWK),
    inside(
        "passwd postinst",
        &["8088b1d481c11fde982629697e3e62a5126437d75b744f76e854481c38d5af8c"],
        &[Without("usr/bin/systemd-tmpfiles"), ShadowAccounts],
    ),
    inside(
        "tzdata postinst",
        &["8160b6fd593c06872ad43767e3cb80d1a216ef05274a4b32e4ca878bcfc3ade2"],
        &[
            Without("etc/localtime"),
            Without("etc/timezone"),
            Debconf(TIME_ZONE),
            Link("/usr/share/zoneinfo/Etc/UTC", "etc/localtime"),
            Text("etc/timezone", "Etc/UTC\n"),
        ],
    ),
    inside(
        "util-linux postinst",
        &["be8ee511ad25120d138b2146f94b5e47c6fe42bb84f9bd6ba3a641339af97828"],
        UTIL_LINUX,
    ),
];

static WHICH: Choice = Choice {
    name: "which",
    link: "usr/bin/which",
    path: "usr/bin/which.debianutils",
    priority: 0,
    slaves: &[
        ("which.1.gz", "usr/share/man/man1/which.1.gz", "usr/share/man/man1/which.debianutils.1.gz"),
        ("which.de1.gz", "usr/share/man/de/man1/which.1.gz", "usr/share/man/de/man1/which.debianutils.1.gz"),
        ("which.es1.gz", "usr/share/man/es/man1/which.1.gz", "usr/share/man/es/man1/which.debianutils.1.gz"),
        ("which.fr1.gz", "usr/share/man/fr/man1/which.1.gz", "usr/share/man/fr/man1/which.debianutils.1.gz"),
        ("which.it1.gz", "usr/share/man/it/man1/which.1.gz", "usr/share/man/it/man1/which.debianutils.1.gz"),
        ("which.ja1.gz", "usr/share/man/ja/man1/which.1.gz", "usr/share/man/ja/man1/which.debianutils.1.gz"),
        ("which.pl1.gz", "usr/share/man/pl/man1/which.1.gz", "usr/share/man/pl/man1/which.debianutils.1.gz"),
        ("which.sl1.gz", "usr/share/man/sl/man1/which.1.gz", "usr/share/man/sl/man1/which.debianutils.1.gz"),
    ],
};

static BASH: &[Effect] = &[
    Without("usr/bin/update-menus"),
    Alternative(&Choice {
        name: "builtins.7.gz",
        link: "usr/share/man/man7/builtins.7.gz",
        path: "usr/share/man/man7/bash-builtins.7.gz",
        priority: 10,
        slaves: &[],
    }),
];

static DEBCONF: &[Effect] = &[Debconf(&[
    Answer::new("debconf/frontend", "Dialog", false),
    Answer::new("debconf/priority", "high", false),
])];

static NEW_PAM_FILES: &[Effect] = &[
    Without("etc/security/opasswd"),
    Without("etc/environment"),
    Touch("etc/security/opasswd", 0o600, "root"),
    Touch("etc/environment", 0o644, "root"),
];

static MAWK: &[Effect] = &[Alternative(&Choice {
    name: "awk",
    link: "usr/bin/awk",
    path: "usr/bin/mawk",
    priority: 5,
    slaves: &[
        ("awk.1.gz", "usr/share/man/man1/awk.1.gz", "usr/share/man/man1/mawk.1.gz"),
        ("nawk", "usr/bin/nawk", "usr/bin/mawk"),
        ("nawk.1.gz", "usr/share/man/man1/nawk.1.gz", "usr/share/man/man1/mawk.1.gz"),
    ],
})];

static UTIL_LINUX: &[Effect] = &[
    Without("run/systemd/system"),
    Alternative(&Choice {
        name: "pager",
        link: "usr/bin/pager",
        path: "bin/more",
        priority: 50,
        slaves: &[("pager.1.gz", "usr/share/man/man1/pager.1.gz", "usr/share/man/man1/more.1.gz")],
    }),
    Timer("fstrim.timer"),
];

static TIME_ZONE: &[Answer] =
    &[Answer::new("tzdata/Areas", "Etc", true), Answer::new("tzdata/Zones/Etc", "UTC", true)];

static BASE_FILES: &[Effect] =
    base_files!([Directory("usr/local/libexec", LOCAL, "root")], LOGS, [Undivert("/lib64")]);
static BASE_FILES_WITHOUT_LIB64: &[Effect] =
    base_files!([Directory("usr/local/libexec", LOCAL, "root")], LOGS, [Without("usr/lib64")]);
