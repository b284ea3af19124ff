//! Images against skopeo, podman, buildah and umoci, in turn, by medians.
//!
//! The image is trixie's minbase, made once; the registry is Debian's docker-registry on the loopback. A peer that is
//! not installed is left out.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::bench::median;
use crate::{knarr, output, report};

/// One thing that is done by several programs.
struct Task {
    name: &'static str,
    ways: Vec<Way>,
}

/// How one program does it.
struct Way {
    program: &'static str,
    /// Not measured.
    before: String,
    script: String,
    times: Vec<f64>,
}

/// Where everything lies.
struct Scene {
    top: PathBuf,
    registry: String,
    /// Ends with the scene.
    _server: Server,
}

/// A registry that ends when it is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // One that has ended already needs nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs every way of every task once a round and prints medians and ratios.
pub(crate) fn run(rounds: usize) -> Result<()> {
    let holder = tempfile::tempdir()?;
    let scene = Scene::prepare(holder.path())?;
    let mut tasks = tasks();
    for round in 0..=rounds {
        for task in &mut tasks {
            for way in &mut task.ways {
                scene.shell(&way.before)?;
                let start = Instant::now();
                scene.shell(&way.script)?;
                // The first round fills the page cache and does not count.
                if round > 0 {
                    way.times.push(start.elapsed().as_secs_f64());
                }
            }
        }
    }
    tasks.iter_mut().for_each(print);
    Ok(())
}

impl Scene {
    fn prepare(top: &Path) -> Result<Self> {
        let (server, registry) = serve(top)?;
        let scene = Self { top: top.to_owned(), registry, _server: server };
        scene.shell(
            "knarr -q build base-minbase --store store --lock lock >/dev/null
            knarr -q build base-minbase --compression gzip -t gz --store store >/dev/null
            knarr -q save base-minbase -o image.tar --store store
            knarr -q save gz -o gz.tar --store store
            skopeo --insecure-policy copy -q oci-archive:gz.tar oci:gz:x
            knarr -q save base-minbase --format docker -o docker.tar --store store
            knarr -q export base-minbase -o root.tar --store store
            skopeo --insecure-policy copy -q oci-archive:image.tar oci:layout:x
            skopeo --insecure-policy copy -q --dest-tls-verify=false oci:layout:x docker://$REGISTRY/ready:1",
        )?;
        Ok(scene)
    }

    fn shell(&self, script: &str) -> Result<()> {
        let binary = knarr()?;
        let path = format!(
            "{}:{}",
            binary.parent().unwrap_or_else(|| Path::new("/")).display(),
            std::env::var("PATH").unwrap_or_default()
        );
        let mut command = Command::new("bash");
        command.args(["-euc", script]).current_dir(&self.top).env("PATH", path);
        command.env("REGISTRY", &self.registry).env("CACHE", "cache");
        output(&mut command).map(drop)
    }
}

/// Debian's registry on a free port.
fn serve(top: &Path) -> Result<(Server, String)> {
    let config = top.join("registry.yml");
    let root = top.join("registry");
    std::fs::write(
        &config,
        format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n",
            root.display()
        ),
    )?;
    let mut child = Command::new("docker-registry")
        .arg("serve")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("docker-registry")?;
    let lines = BufReader::new(child.stderr.take().context("docker-registry has no standard error")?);
    let mut lines = lines.lines();
    let address = loop {
        let line = lines.next().context("docker-registry ended before it listened")??;
        if let Some((_, rest)) = line.split_once("listening on ") {
            break rest.split(['"', ' ']).next().unwrap_or_default().to_owned();
        }
    };
    // Its log must be read, or it stops.
    std::thread::spawn(move || lines.for_each(drop));
    Ok((Server(child), address))
}

fn way(program: &'static str, before: &str, script: &str) -> Option<Way> {
    let installed = program == "knarr"
        || std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .any(|directory| File::open(directory.join(program)).is_ok());
    installed.then(|| Way {
        program,
        before: before.to_owned(),
        script: script.to_owned(),
        times: Vec::new(),
    })
}

const PODMAN: &str = "podman --root $PWD/podman --runroot $PWD/podman-run";
const BUILDAH: &str = "buildah --root $PWD/podman --runroot $PWD/podman-run";

fn tasks() -> Vec<Task> {
    let forget_podman = format!("{PODMAN} rmi -af >/dev/null 2>&1 || true");
    let task = |name, ways: Vec<Option<Way>>| Task { name, ways: ways.into_iter().flatten().collect() };
    let skopeo = "skopeo --insecure-policy copy -q";
    vec![
        task("build, nothing changed", vec![way("knarr", "", "knarr -q build base-minbase --store store --lock lock")]),
        task(
            "a root's tarball becomes an image",
            vec![
                way("knarr", "rm -rf s1", "knarr -q import root.tar x --store s1"),
                way("podman", &forget_podman, &format!("{PODMAN} import -q root.tar x")),
                way(
                    "buildah",
                    &forget_podman,
                    &format!(
                        "c=$({BUILDAH} from scratch); {BUILDAH} add -q $c root.tar / >/dev/null; {BUILDAH} commit -q --rm $c oci:$PWD/b1:x"
                    ),
                ),
                way("gzip", "", "gzip -6 < root.tar > root.tar.gz"),
            ],
        ),
        task(
            "save",
            vec![
                way("knarr", "rm -f out.tar", "knarr -q save base-minbase -o out.tar --store store"),
                way("skopeo", "rm -f out.tar", &format!("{skopeo} oci:layout:x oci-archive:out.tar")),
                way(
                    "podman",
                    &format!(
                        "rm -f out.tar; {PODMAN} load -q -i docker.tar >/dev/null; {PODMAN} images -q | head -1 > id"
                    ),
                    &format!("{PODMAN} save -q --format oci-archive -o out.tar $(cat id)"),
                ),
            ],
        ),
        task(
            "load",
            vec![
                way("knarr", "rm -rf s2", "knarr -q load -i image.tar --store s2"),
                way("skopeo", "rm -rf l2", &format!("{skopeo} oci-archive:image.tar oci:l2:x")),
                way("podman", &forget_podman, &format!("{PODMAN} load -q -i image.tar")),
                way("tar", "rm -rf t && mkdir t", "tar -xf root.tar -C t"),
            ],
        ),
        task(
            "load and have it ready to run",
            vec![
                way(
                    "knarr",
                    "rm -rf s3; mkdir -p mnt",
                    "knarr -q load -i image.tar --store s3 && knarr -q image mount base-minbase mnt --store s3 && knarr image unmount mnt",
                ),
                way("podman", &forget_podman, &format!("{PODMAN} load -q -i image.tar")),
                way("umoci", "rm -rf u", "umoci unpack --image gz:x u"),
                way("tar", "rm -rf t && mkdir t", "tar -xf root.tar -C t && sync -f t"),
            ],
        ),
        task(
            "push, new",
            vec![
                way(
                    "knarr",
                    // With another name at this registry it would have blobs mounted.
                    "if [ -f name ]; then knarr -q rmi $(cat name) --store store >/dev/null; fi
                    name=$REGISTRY/k$RANDOM$RANDOM:1; echo $name > name; knarr -q tag base-minbase $name --store store",
                    "knarr -q push $(cat name) --no-referrers --store store",
                ),
                way(
                    "skopeo",
                    // It remembers which repository has what, and would have blobs mounted.
                    "rm -f /var/lib/containers/cache/blob-info-cache-v1.*",
                    &format!("{skopeo} --dest-tls-verify=false oci:layout:x docker://$REGISTRY/s$RANDOM$RANDOM:1"),
                ),
            ],
        ),
        task(
            "pull, new",
            vec![
                way("knarr", "rm -rf s4", "knarr -q pull $REGISTRY/ready:1 --store s4"),
                way(
                    "skopeo",
                    "rm -rf l4",
                    &format!("{skopeo} --src-tls-verify=false docker://$REGISTRY/ready:1 oci:l4:x"),
                ),
                way(
                    "podman",
                    &forget_podman,
                    &format!("{PODMAN} pull -q --tls-verify=false $REGISTRY/ready:1"),
                ),
            ],
        ),
    ]
}

fn print(task: &mut Task) {
    report(task.name);
    let ours = task.ways.iter_mut().find(|way| way.program == "knarr").map(|way| median(&mut way.times));
    for way in &mut task.ways {
        let time = median(&mut way.times);
        let ratio = ours
            .filter(|_| way.program != "knarr")
            .map_or_else(String::new, |ours| format!("   {:>6.1} times as long as ours", time / ours));
        report(&format!("  {:<10} {:>8.0} ms{ratio}", way.program, time * 1000.0));
    }
}
