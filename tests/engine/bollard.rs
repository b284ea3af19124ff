//! Rust's SDK as a second client: each group of the API through crate `bollard`, whose types refuse what is not as described.

use std::collections::HashMap;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::{
    ContainerConfig, ContainerCreateBody, EndpointSettings, ExecConfig, HostConfig, NetworkConnectRequest,
    NetworkCreateRequest, NetworkDisconnectRequest, VolumeCreateRequest,
};
use bollard::query_parameters as query;
use futures_util::{Stream, StreamExt, TryStreamExt};
use tokio::io::AsyncWriteExt;

use crate::support::engine::Daemon;

/// Talks to a daemon of its own.
fn talk(conversation: impl AsyncFnOnce(&Docker)) {
    if !super::ready() {
        return;
    }
    let daemon = Daemon::start();
    let socket = daemon.socket().display().to_string();
    let docker = Docker::connect_with_unix(&socket, 60, bollard::API_DEFAULT_VERSION).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let docker = docker.negotiate_version().await.unwrap();
        conversation(&docker).await;
    });
}

async fn make(docker: &Docker, name: &str, body: ContainerCreateBody) -> String {
    let options = query::CreateContainerOptionsBuilder::default().name(name).build();
    let body = ContainerCreateBody { image: Some("bb".to_owned()), ..body };
    docker.create_container(Some(options), body).await.unwrap().id
}

fn shell(text: &str) -> ContainerCreateBody {
    ContainerCreateBody { cmd: Some(words(&["sh", "-c", text])), ..ContainerCreateBody::default() }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

async fn start(docker: &Docker, name: &str) {
    docker.start_container(name, None::<query::StartContainerOptions>).await.unwrap();
}

/// Waits for a container's end: its status.
async fn end(docker: &Docker, name: &str) -> i64 {
    match docker.wait_container(name, None::<query::WaitContainerOptions>).next().await.unwrap() {
        Ok(answer) => answer.status_code,
        Err(Error::DockerContainerWaitError { code, .. }) => code,
        Err(error) => panic!("{error}"),
    }
}

async fn remove(docker: &Docker, name: &str) {
    let options = query::RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    docker.remove_container(name, Some(options)).await.unwrap();
}

/// All that comes, by stream.
async fn collect(output: impl Stream<Item = Result<LogOutput, Error>>) -> (String, String) {
    let all: Vec<LogOutput> = output.try_collect().await.unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    for piece in all {
        match piece {
            LogOutput::StdErr { message } => err.push_str(&String::from_utf8_lossy(&message)),
            other => out.push_str(&other.to_string()),
        }
    }
    (out, err)
}

fn status_of(error: Error) -> u16 {
    match error {
        Error::DockerResponseServerError { status_code, .. } => status_code,
        other => panic!("{other}"),
    }
}

async fn bytes(stream: impl Stream<Item = Result<bytes::Bytes, Error>>) -> Vec<u8> {
    let pieces: Vec<_> = stream.try_collect().await.unwrap();
    pieces.concat()
}

fn tarball(path: &str, content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, path, content).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn containers_through_bollard() {
    talk(async |docker| {
        assert_eq!(docker.ping().await.unwrap(), "OK");
        assert!(docker.version().await.unwrap().api_version.is_some());
        let id = make(docker, "one", shell("echo out; echo err >&2; exit 3")).await;
        start(docker, "one").await;
        assert_eq!(end(docker, "one").await, 3);
        let logs = query::LogsOptionsBuilder::default().stdout(true).stderr(true).build();
        assert_eq!(collect(docker.logs("one", Some(logs))).await, ("out\n".to_owned(), "err\n".to_owned()));
        let found = docker.inspect_container("one", None::<query::InspectContainerOptions>).await.unwrap();
        assert_eq!((found.id.as_deref(), found.state.unwrap().exit_code), (Some(id.as_str()), Some(3)));
        make(docker, "two", shell("sleep 1000")).await;
        start(docker, "two").await;
        let all = query::ListContainersOptionsBuilder::default().all(true).build();
        assert_eq!(docker.list_containers(Some(all)).await.unwrap().len(), 2);
        docker.pause_container("two").await.unwrap();
        docker.unpause_container("two").await.unwrap();
        let top = docker.top_processes("two", None::<query::TopOptions>).await.unwrap();
        assert!(top.processes.unwrap().iter().any(|row| row.iter().any(|cell| cell.contains("sleep 1000"))));
        let once = query::StatsOptionsBuilder::default().stream(false).build();
        let stats = docker.stats("two", Some(once)).next().await.unwrap().unwrap();
        assert_eq!(stats.name.as_deref(), Some("/two"));
        let two =
            docker.stats("two", None::<query::StatsOptions>).take(2).try_collect::<Vec<_>>().await.unwrap();
        assert!(two[1].cpu_stats.as_ref().unwrap().cpu_usage.as_ref().unwrap().total_usage.is_some());
        let new = query::RenameContainerOptionsBuilder::default().name("zwei").build();
        docker.rename_container("two", new).await.unwrap();
        let stop = query::StopContainerOptionsBuilder::default().t(0).build();
        docker.stop_container("zwei", Some(stop)).await.unwrap();
        assert_eq!(end(docker, "zwei").await, 137);
        let gone = docker.inspect_container("two", None::<query::InspectContainerOptions>).await;
        assert_eq!(status_of(gone.unwrap_err()), 404);
        remove(docker, "one").await;
        remove(docker, "zwei").await;
        assert!(docker.prune_containers(None::<query::PruneContainersOptions>).await.is_ok());
    });
}

#[test]
fn streams_through_bollard() {
    talk(async |docker| {
        let body = ContainerCreateBody {
            open_stdin: Some(true),
            stdin_once: Some(true),
            attach_stdin: Some(true),
            ..shell("cat; echo end >&2")
        };
        make(docker, "cat", body).await;
        let all = query::AttachContainerOptionsBuilder::default();
        let all = all.stdin(true).stdout(true).stderr(true).stream(true).build();
        let mut attached = docker.attach_container("cat", Some(all)).await.unwrap();
        start(docker, "cat").await;
        attached.input.write_all(b"typed\n").await.unwrap();
        attached.input.shutdown().await.unwrap();
        assert_eq!(collect(attached.output).await, ("typed\n".to_owned(), "end\n".to_owned()));
        assert_eq!(end(docker, "cat").await, 0);
        remove(docker, "cat").await;
        make(docker, "host", shell("sleep 1000")).await;
        start(docker, "host").await;
        let config = ExecConfig {
            cmd: Some(words(&["sh", "-c", "read line; echo got $line; echo err >&2; exit 4"])),
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..ExecConfig::default()
        };
        let exec = docker.create_exec("host", config).await.unwrap().id;
        match docker.start_exec(&exec, None).await.unwrap() {
            StartExecResults::Attached { output, mut input } => {
                input.write_all(b"this\n").await.unwrap();
                assert_eq!(collect(output).await, ("got this\n".to_owned(), "err\n".to_owned()));
            }
            StartExecResults::Detached => panic!("it is not attached"),
        }
        assert_eq!(docker.inspect_exec(&exec).await.unwrap().exit_code, Some(4));
        let config = ExecConfig { cmd: Some(words(&["touch", "/made"])), ..ExecConfig::default() };
        let exec = docker.create_exec("host", config).await.unwrap().id;
        let detached = StartExecOptions { detach: true, ..StartExecOptions::default() };
        docker.start_exec(&exec, Some(detached)).await.unwrap();
        while docker.inspect_exec(&exec).await.unwrap().running == Some(true) {}
        let changes = docker.container_changes("host").await.unwrap().unwrap();
        assert!(changes.iter().any(|change| change.path == "/made"));
        remove(docker, "host").await;
    });
}

#[test]
fn files_and_images_through_bollard() {
    talk(async |docker| {
        make(docker, "files", shell("cat /etc/given")).await;
        let to = query::UploadToContainerOptionsBuilder::default().path("/etc").build();
        let body = bollard::body_full(tarball("given", b"from outside").into());
        docker.upload_to_container("files", Some(to), body).await.unwrap();
        start(docker, "files").await;
        assert_eq!(end(docker, "files").await, 0);
        let from = query::DownloadFromContainerOptionsBuilder::default().path("/etc/given").build();
        let tarball = bytes(docker.download_from_container("files", Some(from))).await;
        let mut archive = tar::Archive::new(tarball.as_slice());
        let mut text = String::new();
        std::io::Read::read_to_string(&mut archive.entries().unwrap().next().unwrap().unwrap(), &mut text)
            .unwrap();
        assert_eq!(text, "from outside");
        assert!(bytes(docker.export_container("files")).await.len() > 1 << 19);
        let commit =
            query::CommitContainerOptionsBuilder::default().container("files").repo("kept").tag("1").build();
        let config =
            ContainerConfig { cmd: Some(words(&["cat", "/etc/given"])), ..ContainerConfig::default() };
        docker.commit_container(commit, config).await.unwrap();
        let tag = query::TagImageOptionsBuilder::default().repo("other").tag("2").build();
        docker.tag_image("kept:1", Some(tag)).await.unwrap();
        assert!(!docker.image_history("kept:1").await.unwrap().is_empty());
        let saved = bytes(docker.export_image("kept:1")).await;
        remove(docker, "files").await;
        for name in ["kept:1", "other:2"] {
            docker.remove_image(name, None::<query::RemoveImageOptions>, None).await.unwrap();
        }
        assert_eq!(status_of(docker.inspect_image("kept:1").await.unwrap_err()), 404);
        let load = query::ImportImageOptionsBuilder::default().build();
        let loaded: Vec<_> =
            docker.import_image(load, bollard::body_full(saved.into()), None).try_collect().await.unwrap();
        assert!(loaded.iter().any(|line| line.stream.as_ref().is_some_and(|text| text.contains("kept:1"))));
        let body = ContainerCreateBody { image: Some("kept:1".to_owned()), ..ContainerCreateBody::default() };
        docker.create_container(None::<query::CreateContainerOptions>, body.clone()).await.unwrap();
        let named = query::CreateContainerOptionsBuilder::default().name("again").build();
        docker.create_container(Some(named), body).await.unwrap();
        start(docker, "again").await;
        assert_eq!(end(docker, "again").await, 0);
        let broken = bollard::body_full(b"no archive".to_vec().into());
        let load = query::ImportImageOptionsBuilder::default().build();
        assert!(docker.import_image(load, broken, None).try_collect::<Vec<_>>().await.is_err());
        let images = docker.list_images(None::<query::ListImagesOptions>).await.unwrap();
        assert!(images.iter().any(|image| image.repo_tags.contains(&"kept:1".to_owned())));
        let nowhere =
            query::CreateImageOptionsBuilder::default().from_image("127.0.0.1:1/nowhere").tag("1").build();
        assert!(docker.create_image(Some(nowhere), None, None).try_collect::<Vec<_>>().await.is_err());
    });
}

#[test]
fn volumes_networks_and_events_through_bollard() {
    talk(async |docker| {
        let labels = HashMap::from([("color".to_owned(), "red".to_owned())]);
        let volume = VolumeCreateRequest {
            name: Some("data".to_owned()),
            labels: Some(labels),
            ..VolumeCreateRequest::default()
        };
        assert_eq!(docker.create_volume(volume).await.unwrap().name, "data");
        assert_eq!(docker.inspect_volume("data").await.unwrap().labels["color"], "red");
        let near = NetworkCreateRequest { name: "near".to_owned(), ..NetworkCreateRequest::default() };
        docker.create_network(near).await.unwrap();
        let host = HostConfig {
            binds: Some(words(&["data:/data"])),
            network_mode: Some("near".to_owned()),
            ..HostConfig::default()
        };
        let body =
            ContainerCreateBody { host_config: Some(host), ..shell("echo kept > /data/file; sleep 1000") };
        make(docker, "user", body).await;
        start(docker, "user").await;
        let used = docker.remove_volume("data", None::<query::RemoveVolumeOptions>).await;
        assert_eq!(status_of(used.unwrap_err()), 409);
        assert_eq!(status_of(docker.remove_network("near").await.unwrap_err()), 403);
        let inspect = docker.inspect_network("near", None::<query::InspectNetworkOptions>).await.unwrap();
        assert_eq!(inspect.containers.unwrap().len(), 1);
        let connect = NetworkConnectRequest {
            container: "user".to_owned(),
            endpoint_config: Some(EndpointSettings::default()),
        };
        docker.connect_network("bridge", connect).await.unwrap();
        let disconnect = NetworkDisconnectRequest { container: "user".to_owned(), force: Some(false) };
        docker.disconnect_network("near", disconnect).await.unwrap();
        docker.remove_network("near").await.unwrap();
        remove(docker, "user").await;
        docker.remove_volume("data", None::<query::RemoveVolumeOptions>).await.unwrap();
        let volumes = docker.list_volumes(None::<query::ListVolumesOptions>).await.unwrap().volumes;
        assert!(volumes.unwrap_or_default().is_empty());
        let networks = docker.list_networks(None::<query::ListNetworksOptions>).await.unwrap();
        assert_eq!(networks.len(), 3);
        let filters = HashMap::from([("type".to_owned(), words(&["container"]))]);
        let options = query::EventsOptionsBuilder::default().since("0").filters(&filters).build();
        let begun: Vec<_> = docker.events(Some(options)).take(3).try_collect().await.unwrap();
        let actions: Vec<_> = begun.iter().map(|event| event.action.clone().unwrap()).collect();
        assert_eq!(actions, ["create", "start", "kill"]);
        assert_eq!(docker.info().await.unwrap().containers, Some(0));
        docker.df(None::<query::DataUsageOptions>).await.unwrap();
    });
}
