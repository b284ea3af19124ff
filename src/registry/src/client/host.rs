//! Where a registry is: from its name to an address, and how it is spoken to.
//!
//! [`plan`] decides; nothing here touches the network.
//!
//! Spec: docker's rules for `docker.io`, insecure registries and `/etc/docker/certs.d`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use url::Url;

use crate::RegistryError;

/// What is known about one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostOptions {
    /// Registries that are asked before it, for pulls only: hosts or addresses, perhaps with a path.
    pub mirrors: Vec<String>,
    /// Plain HTTP and certificates of nobody known are good enough.
    pub insecure: bool,
    /// Certificates that may have signed its own.
    pub ca: Option<PathBuf>,
}

/// How a registry may be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Addresses, tried in this order until one speaks.
    pub bases: Vec<Url>,
    /// Put before repositories.
    pub prefix: String,
    /// Certificates are not looked at.
    pub unverified: bool,
    /// On this machine: no proxy is asked.
    pub is_local: bool,
    pub ca: Option<PathBuf>,
}

/// Finds the way to a registry or a mirror, by its name as people write it.
pub(crate) fn plan(name: &str, options: &HostOptions) -> Result<Plan, RegistryError> {
    let (schemes, rest) = match name.split_once("://") {
        Some(("https", rest)) => (vec!["https"], rest),
        Some(("http", rest)) => (vec!["http"], rest),
        Some((scheme, _)) => {
            return Err(RegistryError::Request(format!("{name}: {scheme} is nothing that registries speak")));
        }
        None => (Vec::new(), name),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let is_local = is_loopback(host);
    let schemes = match (&schemes[..], options.insecure, is_local) {
        (["http"], false, false) => {
            return Err(RegistryError::Request(format!(
                "{name} is plain HTTP: that needs insecure = true or --insecure"
            )));
        }
        ([_], ..) => schemes,
        // What was said to be insecure may be secure all the same.
        (_, true, _) => vec!["https", "http"],
        (_, false, true) if options.ca.is_none() => vec!["http", "https"],
        // One authority may be named for two registries of which only one speaks TLS.
        (_, false, true) => vec!["https", "http"],
        _ => vec!["https"],
    };
    let bases = schemes.iter().map(|scheme| base(scheme, host)).collect::<Result<_, _>>()?;
    let path = path.trim_matches('/');
    let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
    Ok(Plan { bases, prefix, unverified: options.insecure, is_local, ca: options.ca.clone() })
}

fn base(scheme: &str, host: &str) -> Result<Url, RegistryError> {
    let host = match host {
        "docker.io" | "index.docker.io" => "registry-1.docker.io",
        other => other,
    };
    let parsed = Url::parse(&format!("{scheme}://{host}/")).ok();
    let clean = parsed.filter(|url| url.username().is_empty() && url.password().is_none() && url.has_host());
    clean.ok_or_else(|| RegistryError::Request(format!("{host:?} is no host: expected NAME or NAME:PORT")))
}

/// Docker's rule for whom plain HTTP is good enough without a word.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The files of docker's `certs.d` for one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Certificates {
    /// May have signed the registry's certificate.
    pub authorities: Vec<PathBuf>,
    /// Prove who we are: certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Looks into `HOST/` of each directory for `*.crt`, and `*.cert` with its `*.key`.
pub(crate) fn certificates(directories: &[PathBuf], host: &str) -> Certificates {
    let mut found = Certificates::default();
    // A mirror's name may be an address: that names no directory.
    for directory in directories.iter().filter(|_| !host.contains('/')) {
        let mut files: Vec<PathBuf> = match std::fs::read_dir(directory.join(host)) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(_) => continue,
        };
        files.sort();
        for file in files {
            let kind = file.extension().and_then(|kind| kind.to_str());
            match kind {
                Some("crt") => found.authorities.push(file),
                Some("cert") if found.identity.is_none() => {
                    let key = file.with_extension("key");
                    found.identity = key.exists().then_some((file, key));
                }
                _ => {}
            }
        }
    }
    found
}

/// Whether two addresses are of one server: only then are credentials for both.
pub(crate) fn same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host() == other.host()
        && one.port_or_known_default() == other.port_or_known_default()
}

/// Where docker looks for certificates.
#[must_use]
pub fn docker_certs_dirs() -> Vec<PathBuf> {
    let mut directories = vec![PathBuf::from("/etc/docker/certs.d")];
    if let Some(home) = std::env::var_os("HOME").filter(|home| !home.is_empty()) {
        directories.push(Path::new(&home).join(".config/docker/certs.d"));
    }
    directories
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(name: &str, insecure: bool) -> Vec<String> {
        let options = HostOptions { insecure, ..HostOptions::default() };
        plan(name, &options).unwrap().bases.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn plain_http_is_used_unasked_on_this_machine_only() {
        for name in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000"] {
            assert_eq!(bases(name, false)[0], format!("http://{name}/"), "{name}");
        }
        for name in ["10.0.0.1:5000", "localhost.example", "reg.example:5000", "[fe80::1]:5000", "128.0.0.1"]
        {
            assert_eq!(bases(name, false), [format!("https://{name}/")], "{name}");
        }
        assert_eq!(
            bases("reg.example:5000", true),
            ["https://reg.example:5000/", "http://reg.example:5000/"]
        );
        let with_ca = HostOptions { ca: Some("/ca.pem".into()), ..HostOptions::default() };
        let bases_with_ca = plan("localhost:5000", &with_ca).unwrap().bases;
        assert_eq!(bases_with_ca.iter().map(Url::scheme).collect::<Vec<_>>(), ["https", "http"]);
        assert!(plan("http://mirror.example", &HostOptions::default()).is_err());
        assert_eq!(bases("http://mirror.example", true), ["http://mirror.example/"]);
        assert_eq!(bases("http://localhost:1", false), ["http://localhost:1/"]);
    }

    #[test]
    fn docker_hub_lives_elsewhere_than_its_name_says() {
        assert_eq!(bases("docker.io", false), ["https://registry-1.docker.io/"]);
    }

    #[test]
    fn a_mirror_may_keep_repositories_below_a_path() {
        let plan = plan("https://mirror.example/cache/hub/", &HostOptions::default()).unwrap();
        assert_eq!((plan.bases[0].as_str(), plan.prefix.as_str()), ("https://mirror.example/", "cache/hub/"));
    }

    #[test]
    fn names_that_are_no_hosts_are_refused() {
        for name in ["ftp://a", "user:word@host", "https://u@host", ""] {
            assert!(plan(name, &HostOptions::default()).is_err(), "{name}");
        }
    }

    #[test]
    fn another_port_or_scheme_is_another_server() {
        let same =
            |one: &str, other: &str| same_origin(&Url::parse(one).unwrap(), &Url::parse(other).unwrap());
        assert!(same("https://a/x", "https://a:443/y"));
        assert!(!same("https://a/", "http://a/") && !same("https://a/", "https://a:444/"));
        assert!(!same("https://a/", "https://b.a/"));
    }

    #[test]
    fn certificates_are_found_by_host_and_port() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("reg.example:5000");
        std::fs::create_dir(&host).unwrap();
        for name in ["ca.crt", "client.cert", "client.key", "alone.cert", "README"] {
            std::fs::write(host.join(name), "").unwrap();
        }
        let directories = [dir.path().join("nowhere"), dir.path().to_owned()];
        let found = certificates(&directories, "reg.example:5000");
        assert_eq!(found.authorities, [host.join("ca.crt")]);
        assert_eq!(found.identity, Some((host.join("client.cert"), host.join("client.key"))));
        assert_eq!(certificates(&directories, "reg.example"), Certificates::default());
        assert_eq!(certificates(&directories, "../reg.example:5000"), Certificates::default());
    }
}
