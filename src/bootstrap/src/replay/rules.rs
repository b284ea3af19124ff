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

/// The effects of the script with this digest when it is installed or configured.
pub(super) fn effects_of(digest: &str) -> Option<&'static [Effect]> {
    rule_of(digest).map(|rule| rule.effects)
}

fn rule_of(digest: &str) -> Option<&'static Rule> {
    let digest = digest.rsplit(':').next()?;
    RULES.iter().find(|rule| rule.digests.contains(&digest))
}

const fn rule(script: &'static str, digests: &'static [&'static str], effects: &'static [Effect]) -> Rule {
    Rule { script, digests, effects, triggered: None }
}

const NOTHING: &[Effect] = &[];
const LOCAL: u32 = 0o755;

static RULES: &[Rule] = &[
    rule("apt preinst", &["a8007a3c0d266dcecef6b554083ac437871aee4f3c971c3d412cc9b71d518601"], NOTHING),
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
        &["964a417b9c330f80213fe8aebb1f44eaea307203962aecb0de493742583bb454"],
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
        &["87c5a9bcde481ad65bb699df2693b69756622e6d0a6592b2f2d5d881b97e0580"],
        &[Debconf(&[])],
    ),
    rule(
        "login preinst and postinst",
        &["d5ffa198cd5179281833da9ac72160c45c979644c111e90f9062ed7b4aa9fdd3"],
        NOTHING,
    ),
    rule("passwd preinst", &["dbca5850b8a06014e88ecf7b5c6441c0065d5383350c92fcaf6bb6842dadffdb"], NOTHING),
    rule(
        "apt postinst",
        &["799f93260841676d2eee8f4c132d2613ec6b0a84fd69e67ddaf0dc1689cbc041"],
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
        &[Debconf(&[]), MasterAccounts],
    ),
    rule(
        "bash postinst",
        &["6d1b5aafa381703582cefe6ba5e4b7b0cfa7f10b0b0a9b299361c4afd5172a21"],
        &[
            Without("usr/bin/update-menus"),
            Alternative(&Choice {
                name: "builtins.7.gz",
                link: "usr/share/man/man7/builtins.7.gz",
                path: "usr/share/man/man7/bash-builtins.7.gz",
                priority: 10,
                slaves: &[],
            }),
        ],
    ),
    rule(
        "dash postinst",
        &["7f90d7fdae7590c8ccbe36e8cca03909441afcf95c3e966b67a8097981b23c52"],
        &[IsLink("usr/bin/sh")],
    ),
    rule(
        "debconf postinst",
        &["5a2e9dd3174db7116b8baca7479df372bc898a04cf9136ebefca3c98de959f3c"],
        &[Debconf(&[
            Answer::new("debconf/frontend", "Dialog", false),
            Answer::new("debconf/priority", "high", false),
        ])],
    ),
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
    },
    rule(
        "dpkg postinst",
        &["46dccfe29646a5cd280aefcb889c78fe64246dd7a9cc8f0303d4c317a95c585b"],
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
    },
    rule(
        "libc6 postinst",
        &["ff2a3a7a0e74ceac331ca5ad22e7ef57c974a7b891a9b1e7f3def4377ec6f1b5"],
        // Its trigger wakes nobody here.
        &[Debconf(&[]), Without("var/lib/dpkg/triggers/libc-upgrade"), Without("run/systemd/system")],
    ),
    rule(
        "libpam-modules-bin postinst",
        &["d772cad158818805843cc24d0c7d2753886f774efc9e52f57e603dfcdca2ff9b"],
        &[Without("run/systemd/system")],
    ),
    rule(
        "libpam-modules postinst",
        &["ddf77f362eeeb9720f05fa59cc2583aeda90a25ec721dd6807e0eda568ce84d1"],
        &[
            Without("etc/security/opasswd"),
            Without("etc/environment"),
            Touch("etc/security/opasswd", 0o600, "root"),
            Touch("etc/environment", 0o644, "root"),
        ],
    ),
    rule(
        "libpam-runtime postinst",
        &["df5d1ba9ea9787e230eee0a0a8feaee02265cc30485b6bd9f6828bbedb4eb401"],
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
        &["216a91194494d22d4f72f5fd96e5b8c0649dee5c81dbaea342c7bb24f365a766"],
        &[Alternative(&Choice {
            name: "awk",
            link: "usr/bin/awk",
            path: "usr/bin/mawk",
            priority: 5,
            slaves: &[
                ("awk.1.gz", "usr/share/man/man1/awk.1.gz", "usr/share/man/man1/mawk.1.gz"),
                ("nawk", "usr/bin/nawk", "usr/bin/mawk"),
                ("nawk.1.gz", "usr/share/man/man1/nawk.1.gz", "usr/share/man/man1/mawk.1.gz"),
            ],
        })],
    ),
    rule(
        "passwd postinst",
        &["01d0ce8ac3b7cd30e42d588bddf13c3cede1c6c696550295bc83922a32938630"],
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
        &["555ed6cfc95b70d0e209ffcbfbcef31670cf50bea5e9ff686f6f9c456acb0f46"],
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
        &["d781477cac1b221378593aaacc180228b91cc8e17196a6f898e141b48dbd3109"],
        &[
            Without("run/systemd/system"),
            Alternative(&Choice {
                name: "pager",
                link: "usr/bin/pager",
                path: "bin/more",
                priority: 50,
                slaves: &[("pager.1.gz", "usr/share/man/man1/pager.1.gz", "usr/share/man/man1/more.1.gz")],
            }),
            Timer("fstrim.timer"),
        ],
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

macro_rules! base_files {
    ($($last:expr),*) => {
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
            Directory("usr/local/libexec", LOCAL, "root"),
            Directory("usr/local/include", LOCAL, "root"),
            Directory("usr/local/sbin", LOCAL, "root"),
            Directory("usr/local/src", LOCAL, "root"),
            Directory("usr/local/etc", LOCAL, "root"),
            Link("share/man", "usr/local/man"),
            Touch("var/log/wtmp", 0o664, "utmp"),
            Touch("var/log/btmp", 0o660, "utmp"),
            Touch("var/log/lastlog", 0o664, "utmp"),
            Copy("usr/share/base-files/info.dir", "usr/share/info/dir"),
            $($last),*
        ]
    };
}

static BASE_FILES: &[Effect] = base_files!(Undivert("/lib64"));
static BASE_FILES_WITHOUT_LIB64: &[Effect] = base_files!(Without("usr/lib64"));
