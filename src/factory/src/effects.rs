//! What a root needs beside the files of its packages.
//!
//! In a production image no script runs: [`apply`] does itself what scripts would have done, as far as programs that
//! run need it. In the other images scripts ran, and only the recipe's own wishes are left.
//!
//! Spec: distroless' PACKAGE_METADATA for `status.d`; update-ca-certificates(8); sysusers.d(5); nsswitch.conf(5).

use knarr_bootstrap::package::Package;
use knarr_bootstrap::replay::loader_cache;
use knarr_linux::sandbox::{Program, Status, Writes};
use knarr_recipe::recipe::{Recipe, TargetName, User};
use knarr_tree::root::Root;
use knarr_tree::unpack::Kind;

use crate::accounts::{Accounts, NONROOT};
use crate::locales;
use crate::packages::Scene;
use crate::steps::session;
use crate::{FactoryError, keystore};

/// Does all that is needed; answers with the files about each package, by its position.
pub fn apply(scene: &Scene<'_>, root: &Root, packages: &[Package]) -> Result<Vec<Vec<String>>, FactoryError> {
    let is_production = scene.recipe.default_target() == TargetName::Production;
    let records = if is_production {
        make_directories(root)?;
        let records = write_status(root, packages)?;
        alternatives(root, packages)?;
        drop_empty_directories(root)?;
        records
    } else {
        packages.iter().map(|package| info_files(root, package)).collect::<Result<_, _>>()?
    };
    let mut accounts = if is_production { Accounts::minimal() } else { Accounts::read(root)? };
    if is_production {
        system_users(root, &mut accounts)?;
    }
    people(scene.recipe, root, &mut accounts)?;
    accounts.write(root)?;
    certificates(scene, root, is_production)?;
    time_zone(scene.recipe, root)?;
    locales(scene, root, is_production)?;
    if is_production {
        name_service(root)?;
        busybox(scene.recipe, root)?;
        loader_directories(root)?;
        loader_cache::write_without_tool(root, scene.lock.architecture)?;
    }
    Ok(records)
}

/// Directories that programs and people expect, with the modes that Debian gives them.
fn make_directories(root: &Root) -> Result<(), FactoryError> {
    for path in [
        "etc",
        "home",
        "opt",
        "proc",
        "run",
        "srv",
        "sys",
        "dev",
        "usr/bin",
        "usr/sbin",
        "var/lib",
        "var/cache",
        "var/log",
    ] {
        root.create_dir_all(path, 0o755)?;
    }
    for (path, mode) in [("tmp", 0o1777), ("var/tmp", 0o1777), ("root", 0o700), ("run/lock", 0o1777)] {
        root.create_dir_all(path, mode)?;
        root.set_mode(path, mode)?;
    }
    for (path, target) in [("var/run", "/run"), ("var/lock", "/run/lock")] {
        // base-files ships directories, which its script turns into these links.
        root.remove_dir_all(path)?;
        root.symlink(target, path)?;
    }
    root.create_dir_all("home/nonroot", 0o700)?;
    Ok(root.set_owner("home/nonroot", NONROOT, NONROOT)?)
}

/// Where scanners look for the packages of an image without dpkg.
fn write_status(root: &Root, packages: &[Package]) -> Result<Vec<Vec<String>>, FactoryError> {
    root.remove_dir_all("var/lib/dpkg")?;
    root.create_dir_all("var/lib/dpkg/status.d", 0o755)?;
    let mut records = Vec::new();
    for package in packages {
        let name = package.control.name();
        let status = format!("var/lib/dpkg/status.d/{name}");
        let fields = package.control.fields().map(|(field, value)| format!("{field}: {value}\n"));
        root.write(&status, fields.collect::<String>().as_bytes(), 0o644)?;
        let mut own = vec![status.clone()];
        if let Some(sums) = package.control.file("md5sums") {
            let path = format!("{status}.md5sums");
            root.write(&path, sums, 0o644)?;
            own.push(path);
        }
        records.push(own);
    }
    Ok(records)
}

/// The files of dpkg's database that speak of one package alone.
fn info_files(root: &Root, package: &Package) -> Result<Vec<String>, FactoryError> {
    let stem = format!("var/lib/dpkg/info/{}", package.control.info_name());
    let mut own = Vec::new();
    let shipped = package.control.files.iter().map(|file| file.name.as_str());
    for name in shipped.chain(["list", "md5sums"]) {
        let path = format!("{stem}.{name}");
        if root.exists(&path)? {
            own.push(path);
        }
    }
    own.sort();
    own.dedup();
    Ok(own)
}

/// Links that scripts make with `update-alternatives`, where the script says so in plain words.
fn alternatives(root: &Root, packages: &[Package]) -> Result<(), FactoryError> {
    for package in packages {
        let Some(script) = package.control.file("postinst") else { continue };
        let script = String::from_utf8_lossy(script).replace("\\\n", " ");
        for line in script.lines() {
            let Some(at) = line.find("update-alternatives") else { continue };
            let words: Vec<&str> = line[at..].split_whitespace().collect();
            let groups = words.windows(4).filter(|words| matches!(words[0], "--install" | "--slave"));
            for words in groups {
                link_alternative(root, words[1], words[2], words[3])?;
            }
        }
    }
    Ok(())
}

fn link_alternative(root: &Root, link: &str, name: &str, target: &str) -> Result<(), FactoryError> {
    let plain = |text: &str| !text.contains(['$', '"', '\'', '`', '*']) && !text.contains("..");
    let (Some(link), Some(file)) = (link.strip_prefix('/'), target.strip_prefix('/')) else { return Ok(()) };
    if ![link, name, file].into_iter().all(plain)
        || name.contains('/')
        || !root.exists(file)?
        || root.exists(link)?
    {
        return Ok(());
    }
    root.create_dir_all("etc/alternatives", 0o755)?;
    root.symlink(target, &format!("etc/alternatives/{name}"))?;
    if let Some((parent, _)) = link.rsplit_once('/') {
        root.create_dir_all(parent, 0o755)?;
    }
    Ok(root.symlink(&format!("/etc/alternatives/{name}"), link)?)
}

/// Trees of which only directories are left, because their files are left out.
const HOLLOW: [&str; 14] = [
    "usr/share",
    "usr/lib",
    "etc",
    "usr/include",
    "usr/games",
    "usr/local",
    "usr/src",
    "usr/libexec",
    "usr/lib64",
    "media",
    "mnt",
    "opt",
    "srv",
    "var/backups",
];

fn drop_empty_directories(root: &Root) -> Result<(), FactoryError> {
    for path in HOLLOW {
        if root.exists(path)? && root.lstat(path)?.kind == Kind::Directory {
            drop_empty(root, path)?;
        }
    }
    Ok(())
}

/// Removes directories without files below them; says whether this one is gone.
fn drop_empty(root: &Root, path: &str) -> Result<bool, FactoryError> {
    let mut left = 0;
    for name in root.list(path)? {
        let inside = format!("{path}/{name}");
        let gone = root.lstat(&inside)?.kind == Kind::Directory && drop_empty(root, &inside)?;
        left += usize::from(!gone);
    }
    let top = HOLLOW.contains(&path) && path.contains('/');
    if left == 0 && !(top && path != "usr/include") && path != "etc" {
        root.remove_dir_all(path)?;
        return Ok(true);
    }
    Ok(false)
}

/// Users that packages declare. The files that say so are of no use later.
fn system_users(root: &Root, accounts: &mut Accounts) -> Result<(), FactoryError> {
    let directory = "usr/lib/sysusers.d";
    if !root.exists(directory)? {
        return Ok(());
    }
    for name in root.list(directory)? {
        let text = root.read(&format!("{directory}/{name}"))?;
        for line in String::from_utf8_lossy(&text).lines() {
            declared(line, accounts)?;
        }
    }
    Ok(root.remove_dir_all(directory)?)
}

/// One line of sysusers.d: `u name id "comment" home shell`, `g name id`, `m user group`.
fn declared(line: &str, accounts: &mut Accounts) -> Result<(), FactoryError> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let quoted = line.split('"').nth(1);
    match words.as_slice() {
        [kind, name, rest @ ..] if kind.starts_with('u') && accounts.user(name).is_none() => {
            if accounts.add_fixed(name) {
                return Ok(());
            }
            let id = rest.first().and_then(|id| id.split(':').next()?.parse().ok());
            let after = line.rsplit('"').next().unwrap_or_default();
            let home = after.split_whitespace().find(|word| word.starts_with('/'));
            accounts.add_user(&User {
                name: (*name).to_owned(),
                uid: Some(id.unwrap_or_else(|| system_number(accounts))),
                comment: quoted.map(str::to_owned),
                home: Some(home.unwrap_or("/").to_owned()),
                ..User::default()
            })
        }
        ["g", name, ..] if accounts.group(name).is_none() => {
            let gid = Some(system_number(accounts));
            let group = knarr_recipe::recipe::Group { name: (*name).to_owned(), gid, members: Vec::new() };
            if accounts.add_fixed_group(name) { Ok(()) } else { accounts.add_group(&group) }
        }
        _ => Ok(()),
    }
}

/// System users without a fixed number have 999 and down, as Debian's tools give them.
fn system_number(accounts: &Accounts) -> u32 {
    let taken = |id: &u32| {
        accounts.users.iter().any(|user| user.uid == *id)
            || accounts.groups.iter().any(|group| group.gid == *id)
    };
    (100..=999).rev().find(|id| !taken(id)).unwrap_or(999)
}

/// The recipe's groups and users, with their homes.
fn people(recipe: &Recipe, root: &Root, accounts: &mut Accounts) -> Result<(), FactoryError> {
    recipe.groups.iter().try_for_each(|group| accounts.add_group(group))?;
    // Fixed numbers first: who has none of its own takes what is left.
    let (fixed, free): (Vec<&User>, Vec<&User>) = recipe.users.iter().partition(|user| user.uid.is_some());
    for user in fixed.into_iter().chain(free) {
        accounts.add_user(user)?;
        make_home(root, accounts, &user.name)?;
        if user.sudo {
            root.create_dir_all("etc/sudoers.d", 0o750)?;
            let path = format!("etc/sudoers.d/{}", user.name);
            root.write(&path, format!("{} ALL=(ALL:ALL) NOPASSWD:ALL\n", user.name).as_bytes(), 0o440)?;
        }
    }
    // Who runs it, and who owns its files, must have a name: Debian's fixed ones have one for the asking.
    let owners = recipe.files.iter().filter_map(|file| file.owner.as_deref());
    let copies = recipe.copies.iter().filter_map(|copy| copy.owner.as_deref());
    let user = recipe.image.as_ref().and_then(|image| image.user.as_deref());
    for owner in owners.chain(copies).chain(user) {
        accounts.owner(owner)?;
    }
    Ok(())
}

fn make_home(root: &Root, accounts: &Accounts, name: &str) -> Result<(), FactoryError> {
    let Some(user) = accounts.user(name) else { return Ok(()) };
    let home = user.home.trim_matches('/');
    if home.is_empty() || home == "nonexistent" || root.exists(home)? {
        return Ok(());
    }
    root.create_dir_all(home, 0o755)?;
    root.set_mode(home, 0o700)?;
    root.set_owner(home, user.uid, user.gid)?;
    if user.shell.ends_with("nologin") || !root.exists("etc/skel")? {
        return Ok(());
    }
    for file in root.list("etc/skel")? {
        let bytes = root.read(&format!("etc/skel/{file}"))?;
        root.write(&format!("{home}/{file}"), &bytes, 0o644)?;
        root.set_owner(&format!("{home}/{file}"), user.uid, user.gid)?;
    }
    Ok(())
}

/// Where programs look for certificates.
pub(crate) const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";
const AUTHORITIES: &str = "usr/share/ca-certificates";

/// The bundle of all certificates: what OpenSSL, GnuTLS, Go and most others read.
fn certificates(scene: &Scene<'_>, root: &Root, is_production: bool) -> Result<(), FactoryError> {
    let mut bundle = Vec::new();
    if is_production && root.exists(AUTHORITIES)? {
        append_certificates(root, AUTHORITIES, &mut bundle)?;
        root.remove_dir_all(AUTHORITIES)?;
        // What manages the bundle is of no use where nothing manages it.
        for path in ["usr/sbin/update-ca-certificates", "etc/ca-certificates", "etc/ca-certificates.conf"] {
            root.remove_dir_all(path)?;
        }
    } else if root.exists(BUNDLE)? {
        bundle = root.read(BUNDLE)?;
    }
    for (name, pem) in scene.certificates {
        if !is_production {
            root.create_dir_all("usr/local/share/ca-certificates", 0o755)?;
            root.write(&format!("usr/local/share/ca-certificates/{name}"), pem, 0o644)?;
        }
        bundle.extend_from_slice(pem);
        if !pem.ends_with(b"\n") {
            bundle.push(b'\n');
        }
    }
    if bundle.is_empty() || (!is_production && scene.certificates.is_empty()) {
        return Ok(());
    }
    root.create_dir_all("etc/ssl/certs", 0o755)?;
    root.write(BUNDLE, &bundle, 0o644)?;
    if !is_production || !root.exists("usr/lib/jvm")? {
        return Ok(());
    }
    root.create_dir_all("etc/ssl/certs/java", 0o755)?;
    let time_ms = scene.lock.time.0.saturating_mul(1000);
    let store = keystore::of_bundle(&String::from_utf8_lossy(&bundle), time_ms);
    Ok(root.write("etc/ssl/certs/java/cacerts", &store, 0o644)?)
}

fn append_certificates(root: &Root, directory: &str, bundle: &mut Vec<u8>) -> Result<(), FactoryError> {
    for name in root.list(directory)? {
        let path = format!("{directory}/{name}");
        match root.lstat(&path)?.kind {
            Kind::Directory => append_certificates(root, &path, bundle)?,
            Kind::File if name.ends_with(".crt") => {
                bundle.extend_from_slice(&root.read(&path)?);
                if !bundle.ends_with(b"\n") {
                    bundle.push(b'\n');
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn time_zone(recipe: &Recipe, root: &Root) -> Result<(), FactoryError> {
    let Some(zone) = &recipe.timezone else { return Ok(()) };
    let path = format!("usr/share/zoneinfo/{zone}");
    if zone.contains("..") || !root.exists(&path)? {
        let reason = format!(
            "there is no time zone {zone:?} in tzdata: expected such as \"Europe/Oslo\" or \"Etc/UTC\""
        );
        return Err(FactoryError::Request(reason));
    }
    root.symlink(&format!("/{path}"), "etc/localtime")?;
    Ok(root.write("etc/timezone", format!("{zone}\n").as_bytes(), 0o644)?)
}

/// Production images take theirs from a stage.
fn locales(scene: &Scene<'_>, root: &Root, is_production: bool) -> Result<(), FactoryError> {
    let wanted = locales::wanted(scene.recipe);
    if wanted.is_empty() || is_production {
        return Ok(());
    }
    let mut session = session(root, scene.lock.architecture, false, Writes::Kept)?;
    for name in wanted {
        let outcome = session.run(&Program { argv: locales::command(name, true), ..Program::default() })?;
        if outcome.status != Status::Exited(0) {
            let text = String::from_utf8_lossy(&outcome.output).into_owned();
            return Err(FactoryError::Request(format!("locale {name:?} cannot be made: {}", text.trim())));
        }
    }
    let first = scene.recipe.locales.first().map_or(locales::ALWAYS, String::as_str);
    Ok(root.write("etc/default/locale", format!("LANG={first}\n").as_bytes(), 0o644)?)
}

/// How names are looked up. Without this file glibc asks for services that production images do not have.
fn name_service(root: &Root) -> Result<(), FactoryError> {
    let path = "etc/nsswitch.conf";
    if root.exists(path)? {
        return Ok(());
    }
    let text = "passwd:    files\ngroup:     files\nshadow:    files\ngshadow:   files\n\nhosts:     files dns\nnetworks:  files\n\n\
                protocols: files\nservices:  files\nethers:    files\nrpc:       files\n";
    Ok(root.write(path, text.as_bytes(), 0o644)?)
}

/// The loader's configuration is libc-bin's, what it names are other packages' files.
fn loader_directories(root: &Root) -> Result<(), FactoryError> {
    if root.exists("etc/ld.so.conf")? || !root.exists("etc/ld.so.conf.d")? {
        return Ok(());
    }
    Ok(root.write("etc/ld.so.conf", b"include /etc/ld.so.conf.d/*.conf\n", 0o644)?)
}

/// A shell for a look around, where nothing else is in its way.
fn busybox(recipe: &Recipe, root: &Root) -> Result<(), FactoryError> {
    if recipe.production.as_ref().and_then(|table| table.debug) != Some(true) {
        return Ok(());
    }
    let from = ["usr/bin/busybox", "bin/busybox"];
    let mut found = None;
    for path in from {
        if found.is_none() && root.exists(path)? {
            found = Some(path);
        }
    }
    let Some(program) = found else { return Ok(()) };
    root.create_dir_all("busybox", 0o755)?;
    for name in APPLETS {
        root.symlink(&format!("/{program}"), &format!("busybox/{name}"))?;
    }
    Ok(())
}

/// What is of use in a look around.
const APPLETS: [&str; 44] = [
    "sh", "ash", "awk", "base64", "basename", "cat", "chmod", "chown", "clear", "cp", "cut", "date", "dd",
    "df", "dirname", "du", "echo", "env", "find", "free", "grep", "head", "hexdump", "id", "ip", "kill",
    "less", "ln", "ls", "mkdir", "mv", "nc", "nslookup", "od", "ping", "ps", "pwd", "rm", "sed", "sleep",
    "stat", "tail", "top", "wget",
];
