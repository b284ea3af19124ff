//! Unpacking: .debs into the root, several at once, as they arrive.
//!
//! [`Unpacker::unpack`] opens one verified .deb and streams it into the root once. Which of two
//! packages owns a path is decided by `Replaces`, never by which of them happened to come first.
//!
//! Spec: Debian Policy 7.6 (`Replaces`), dpkg(1) `--unpack`, dpkg-divert(1).

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use knarr_deb::package_file::with_package;
use knarr_deb::recode::Recoder;
use knarr_deb::relation::{Operator, parse_relations};
use knarr_mirror::cache::Cache;
use knarr_tree::TreeError;
use knarr_tree::root::Root;
use knarr_tree::unpack::{Decision, Entry, EntryHead, Kind, Limits, Policy, unpack};

use crate::filter::PathFilter;
use crate::lock::LockedPackage;
use crate::package::{Control, Package, State};
use crate::{BootstrapError, database};

/// Unpacks packages into one root; shared by the threads that do so.
pub struct Unpacker<'a> {
    root: &'a Root,
    filter: &'a PathFilter,
    /// The kernel would refuse device nodes.
    without_devices: bool,
    merged_usr: bool,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    controls: HashMap<usize, Arc<Control>>,
    owners: HashMap<String, usize>,
    lost: HashMap<usize, Vec<String>>,
    contested: Vec<(usize, String)>,
    /// Hard links of each package whose target was left out: the target and its links.
    orphans: HashMap<usize, HashMap<String, Vec<String>>>,
    /// What each package may unpack to.
    bounds: HashMap<usize, u64>,
    conflict: Option<BootstrapError>,
    diversions: HashMap<String, Diversion>,
}

struct Diversion {
    to: String,
    by: String,
}

/// How a package that may have a preinst is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preinst {
    /// Its files are unpacked at once: the preinst runs later.
    Later,
    /// Its files wait until the preinst ran.
    First,
}

impl<'a> Unpacker<'a> {
    /// An unpacker into `root`.
    #[must_use]
    pub fn new(root: &'a Root, filter: &'a PathFilter, without_devices: bool, merged_usr: bool) -> Self {
        Self { root, filter, without_devices, merged_usr, table: Mutex::new(Table::default()) }
    }

    /// Unpacks the .deb of `source`, which is package number `position` and must be what `locked` says.
    pub fn unpack(
        &self,
        position: usize,
        locked: &LockedPackage,
        source: &Source<'_>,
        preinst: Preinst,
    ) -> Result<Package, BootstrapError> {
        self.lock().bounds.insert(position, MIN_BOUND_BYTES + locked.size.saturating_mul(MAX_EXPANSION));
        let outcome = match self.open(position, locked, &source.recoded, None, preinst) {
            Err(BootstrapError::File { source, .. }) if source.kind() == ErrorKind::NotFound => None,
            // A damaged file of the cache is no reason to fail: the package itself was just verified.
            Err(BootstrapError::Deb(_) | BootstrapError::Tree(TreeError::Read(_))) => None,
            outcome => Some(outcome),
        };
        let keep = source.keep.then_some((source.cache, source.recoded.as_path()));
        let outcome = outcome.unwrap_or_else(|| self.open(position, locked, source.deb, keep, preinst));
        outcome.map_err(|source| BootstrapError::Package {
            package: locked.name.clone(),
            source: Box::new(source),
        })
    }

    /// Unpacks the files of a package whose preinst has run. Diversions that it made are honoured.
    pub fn unpack_deferred(
        &self,
        position: usize,
        package: &mut Package,
        path: &Path,
    ) -> Result<(), BootstrapError> {
        self.load_diversions()?;
        let open = |path: &Path| open_deb(path, |_, data| self.unpack_data(position, data));
        let recoded = path.with_extension(RECODED);
        let fast = if recoded.exists() { open(&recoded).ok() } else { None };
        let entries = fast.map_or_else(|| open(path), Ok)?;
        self.finish(package, entries)?;
        self.adopt(position, package, path)
    }

    /// Gives contested paths to their owners, and each package the list of paths that it lost.
    pub fn settle(&self, packages: &mut [Package], debs: &[impl AsRef<Path>]) -> Result<(), BootstrapError> {
        let (contested, mut lost) = {
            let mut table = self.lock();
            (std::mem::take(&mut table.contested), std::mem::take(&mut table.lost))
        };
        for (winner, paths) in by_winner(contested) {
            let policy = Only { paths, merged_usr: self.merged_usr };
            open_deb(debs[winner].as_ref(), |_, data| {
                Ok(unpack(self.root, data, &policy, &Limits::default())?)
            })?;
        }
        for (position, (package, deb)) in packages.iter_mut().zip(debs).enumerate() {
            self.adopt(position, package, deb.as_ref())?;
            package.lost.append(&mut lost.remove(&position).unwrap_or_default());
        }
        Ok(())
    }

    /// Writes hard links whose target was left out: the first gets the content, the others become links to it.
    fn adopt(&self, position: usize, package: &mut Package, deb: &Path) -> Result<(), BootstrapError> {
        let Some(by_target) = self.lock().orphans.remove(&position) else { return Ok(()) };
        let policy = Adoption { by_target: &by_target };
        open_deb(deb, |_, data| Ok(unpack(self.root, data, &policy, &Limits::default())?))?;
        for (target, links) in &by_target {
            let size_bytes = package.entries.iter().find(|entry| entry.path == *target).map(|e| e.size_bytes);
            for entry in package.entries.iter_mut().filter(|entry| links.contains(&entry.path)) {
                entry.written = true;
                entry.link.clone_from(&links[0]);
                if entry.path == links[0] {
                    (entry.kind, entry.size_bytes, entry.link) =
                        (Kind::File, size_bytes.unwrap_or(0), String::new());
                }
            }
        }
        Ok(())
    }

    fn open(
        &self,
        position: usize,
        locked: &LockedPackage,
        path: &Path,
        keep: Option<(&Cache, &Path)>,
        preinst: Preinst,
    ) -> Result<Package, BootstrapError> {
        open_and_keep(path, keep, |control, data| {
            check_identity(&control, locked)?;
            let waits = preinst == Preinst::First && control.file("preinst").is_some();
            self.lock().controls.insert(position, Arc::new(control.clone()));
            let state = if waits { State::Deferred } else { State::Unpacked };
            let mut package = Package {
                control,
                entries: Vec::new(),
                lost: Vec::new(),
                state,
                base: locked.base,
                conffiles: Vec::new(),
                pending_triggers: Vec::new(),
            };
            if !waits {
                let entries = self.unpack_data(position, data)?;
                self.finish(&mut package, entries)?;
            }
            Ok(package)
        })
    }

    fn unpack_data(&self, position: usize, data: &mut dyn Read) -> Result<Vec<Entry>, BootstrapError> {
        let bound = self.lock().bounds.get(&position).copied();
        let limits = bound.map_or_else(Limits::default, |bytes| Limits { bytes, ..Limits::default() });
        let entries = unpack(self.root, data, &Claims { unpacker: self, position }, &limits)?;
        match self.lock().conflict.take() {
            Some(conflict) => Err(conflict),
            None => Ok(entries),
        }
    }

    fn finish(&self, package: &mut Package, entries: Vec<Entry>) -> Result<(), BootstrapError> {
        package.entries = entries;
        package.state = State::Unpacked;
        package.conffiles = database::conffiles(self.root, &package.control)?;
        database::write_info(self.root, package)
    }

    fn load_diversions(&self) -> Result<(), BootstrapError> {
        let path = "var/lib/dpkg/diversions";
        if !self.root.exists(path)? {
            return Ok(());
        }
        let text = self.root.read(path)?;
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let parse = |triple: &[&str]| match triple {
            [from, to, by] => Some((bare(from), Diversion { to: bare(to), by: (*by).to_owned() })),
            _ => None,
        };
        self.lock().diversions = lines.chunks(3).filter_map(parse).collect();
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `bin/x` and `usr/bin/x` are one file on a merged system.
    fn canonical(&self, path: &str) -> String {
        canonical(path, self.merged_usr)
    }
}

struct Claims<'a, 'b> {
    unpacker: &'b Unpacker<'a>,
    position: usize,
}

impl Policy for Claims<'_, '_> {
    fn decide(&self, head: &EntryHead<'_>) -> Decision {
        if self.unpacker.filter.excludes(head.path, head.kind == Kind::Directory) {
            return Decision::Skip;
        }
        if self.unpacker.without_devices && matches!(head.kind, Kind::CharDevice | Kind::BlockDevice) {
            let path = head.path.to_owned();
            self.unpacker.lock().conflict.get_or_insert(BootstrapError::DeviceNode { path });
            return Decision::Skip;
        }
        if head.kind == Kind::Directory {
            return Decision::Write;
        }
        let canonical = self.unpacker.canonical(head.path);
        let mut table = self.unpacker.lock();
        if let Some(to) = table.diverted(&canonical, self.position) {
            return Decision::WriteAs(to);
        }
        table.claim(self.position, canonical, head.path)
    }

    fn adopts(&self, link: &EntryHead<'_>) -> bool {
        let mut table = self.unpacker.lock();
        let orphans = table.orphans.entry(self.position).or_default();
        orphans.entry(link.link.to_owned()).or_default().push(link.path.to_owned());
        true
    }
}

impl Table {
    fn diverted(&self, path: &str, position: usize) -> Option<String> {
        let diversion = self.diversions.get(path)?;
        let own = self.controls.get(&position).is_some_and(|control| control.name() == diversion.by);
        (!own).then(|| diversion.to.clone())
    }

    fn claim(&mut self, claimant: usize, canonical: String, path: &str) -> Decision {
        let Some(&owner) = self.owners.get(&canonical) else {
            self.owners.insert(canonical, claimant);
            return Decision::Write;
        };
        if owner == claimant {
            return Decision::Write;
        }
        let (new, old) = (Arc::clone(&self.controls[&claimant]), Arc::clone(&self.controls[&owner]));
        if new.name() == old.name() {
            return Decision::Skip; // two architectures of one Multi-Arch: same package
        }
        let diverted_away =
            self.diversions.get(&canonical).is_some_and(|diversion| diversion.by == new.name());
        if diverted_away || replaces(&new, &old) {
            self.owners.insert(canonical, claimant);
            if !diverted_away {
                self.lost.entry(owner).or_default().push(path.to_owned());
                self.contested.push((claimant, path.to_owned()));
            }
            return Decision::Write;
        }
        if replaces(&old, &new) {
            self.lost.entry(claimant).or_default().push(path.to_owned());
            self.contested.push((owner, path.to_owned()));
            return Decision::Skip;
        }
        self.conflict.get_or_insert_with(|| {
            let mut names = [old.name().to_owned(), new.name().to_owned()];
            names.sort();
            let [first, second] = names;
            BootstrapError::FileConflict { path: path.to_owned(), first, second }
        });
        Decision::Skip
    }
}

/// Writes the given paths only: how a contested path gets its owner's bytes.
struct Only {
    paths: HashSet<String>,
    merged_usr: bool,
}

impl Policy for Only {
    fn decide(&self, head: &EntryHead<'_>) -> Decision {
        let path = canonical(head.path, self.merged_usr);
        if self.paths.iter().any(|wanted| canonical(wanted, self.merged_usr) == path) {
            Decision::Write
        } else {
            Decision::Skip
        }
    }
}

/// Writes what was left out under the name of the first hard link to it, and the other links beside.
struct Adoption<'a> {
    by_target: &'a HashMap<String, Vec<String>>,
}

impl Policy for Adoption<'_> {
    fn decide(&self, head: &EntryHead<'_>) -> Decision {
        let links = self.by_target.get(head.path).or_else(|| self.by_target.get(head.link));
        match links {
            Some(links) if head.path == links[0] => Decision::Skip,
            Some(links) if head.kind == Kind::File => Decision::WriteAs(links[0].clone()),
            Some(links) if links.iter().any(|link| link == head.path) => Decision::Write,
            _ => Decision::Skip,
        }
    }
}

fn by_winner(contested: Vec<(usize, String)>) -> HashMap<usize, HashSet<String>> {
    let mut winners: HashMap<usize, HashSet<String>> = HashMap::new();
    for (winner, path) in contested {
        winners.entry(winner).or_default().insert(path);
    }
    winners
}

fn canonical(path: &str, merged_usr: bool) -> String {
    let top = path.split('/').next().unwrap_or_default();
    let aliased =
        merged_usr && path.len() > top.len() && (matches!(top, "bin" | "sbin") || top.starts_with("lib"));
    if aliased { format!("usr/{path}") } else { path.to_owned() }
}

fn bare(path: &str) -> String {
    path.trim_start_matches('/').to_owned()
}

/// Whether `new` declares `Replaces` on the installed version of `old`.
fn replaces(new: &Control, old: &Control) -> bool {
    let groups = parse_relations(new.field("Replaces")).unwrap_or_default();
    let holds = |constraint: Option<(Operator, &str)>, version: &str| {
        constraint.is_none_or(|(operator, wanted)| operator.holds(version, wanted))
    };
    groups.iter().flatten().any(|relation| {
        let by_name = relation.name == old.name() && holds(relation.constraint, old.version());
        by_name || (relation.constraint.is_none() && provides(old, relation.name))
    })
}

fn provides(control: &Control, name: &str) -> bool {
    let groups = parse_relations(control.field("Provides")).unwrap_or_default();
    groups.iter().flatten().any(|relation| relation.name == name)
}

fn check_identity(control: &Control, locked: &LockedPackage) -> Result<(), BootstrapError> {
    let found = (control.name(), control.version(), control.architecture());
    if found == (locked.name.as_str(), locked.version.as_str(), locked.architecture.as_str()) {
        return Ok(());
    }
    let show = |name: &str, version: &str, architecture: &str| format!("{name} {version} {architecture}");
    Err(BootstrapError::WrongPackage {
        path: locked.path.clone(),
        promised: show(&locked.name, &locked.version, &locked.architecture),
        found: show(found.0, found.1, found.2),
    })
}

/// Real packages unpack to some 3 to 30 times their size; what goes far beyond was made to fill disks.
const MAX_EXPANSION: u64 = 200;
const MIN_BOUND_BYTES: u64 = 64 << 20;

const RECODED: &str = "recoded";

/// A .deb, and where the cache may have it in a form that unpacks faster.
pub struct Source<'a> {
    cache: &'a Cache,
    deb: &'a Path,
    recoded: PathBuf,
    keep: bool,
}

impl<'a> Source<'a> {
    /// The .deb at `deb`. With `keep`, its faster form is put into the cache: worth it for a package
    /// that is used again and again.
    #[must_use]
    pub fn new(cache: &'a Cache, deb: &'a Path, keep: bool) -> Self {
        Self { cache, deb, recoded: deb.with_extension(RECODED), keep }
    }
}

fn open_deb<T>(
    path: &Path,
    then: impl FnOnce(Control, &mut dyn Read) -> Result<T, BootstrapError>,
) -> Result<T, BootstrapError> {
    open_and_keep(path, None, then)
}

/// Opens a .deb; with `keep` it is recoded into that file of the cache on the way.
fn open_and_keep<T>(
    path: &Path,
    keep: Option<(&Cache, &Path)>,
    then: impl FnOnce(Control, &mut dyn Read) -> Result<T, BootstrapError>,
) -> Result<T, BootstrapError> {
    let fail = |doing| move |source| BootstrapError::File { path: path.to_owned(), doing, source };
    let file = File::open(path).map_err(fail("open"))?;
    with_package(BufReader::with_capacity(256 << 10, file), |member, data| {
        let Some((cache, recoded)) = keep else {
            return then(Control::parse(&member.control, member.files)?, data);
        };
        let mut new = cache.create(recoded)?;
        let outcome = {
            let recoder = Recoder::new(BufWriter::with_capacity(256 << 10, new.file()), &member);
            let mut tee = Tee { inner: data, out: recoder.map_err(fail("recode"))? };
            let outcome = then(Control::parse(&member.control, member.files)?, &mut tee)?;
            // A package that waits for its preinst was not read to its end.
            io::copy(&mut tee, &mut io::sink()).map_err(fail("recode"))?;
            tee.out.finish().map_err(fail("recode"))?;
            outcome
        };
        new.finish()?;
        Ok(outcome)
    })
}

/// Writes down what is read.
struct Tee<'a, W: Write> {
    inner: &'a mut dyn Read,
    out: W,
}

impl<W: Write> Read for Tee<'_, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.out.write_all(&buffer[..read])?;
        Ok(read)
    }
}
