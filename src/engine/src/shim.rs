//! The shims of containers, as the engine talks to them.
//!
//! [`Launcher`] makes them, [`Shim`] is one. Each request has a connection of its own; that which came with the shim stays
//! open and tells of the end.
//!
//! Spec: docs/formats/shim.md.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as ChildStdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use knarr_linux::terminal::send_descriptor;
use knarr_runtime::shim::frame::{self, Kind};
use knarr_runtime::shim::{Answer, Refusal, Request, launcher};
use knarr_runtime::spec::ProcessSpec;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};

pub(crate) use knarr_runtime::shim::{Exit, ShimConfig};

use crate::EngineError;
use crate::stream::{Attached, DEPTH, Frame, Stdio};

/// How long a shim may take to go.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts shims.
#[derive(Debug)]
pub(crate) struct Launcher {
    program: PathBuf,
    /// Our side of the launcher's socket, while there is one.
    socket: Mutex<Option<OwnedFd>>,
}

/// Why a program does not run, in the runtime's words.
#[derive(Debug)]
pub(crate) enum LaunchError {
    /// There is no such program.
    NotFound(String),
    /// It cannot be executed.
    NotExecutable(String),
    /// Anything else.
    Failed(String),
}

impl Launcher {
    /// Starts the launcher.
    pub(crate) fn start(program: &Path) -> Result<Self, EngineError> {
        let socket = spawn(program)?;
        Ok(Self { program: program.to_owned(), socket: Mutex::new(Some(socket)) })
    }

    /// Makes a container with its shim; the program waits to be started.
    pub(crate) async fn prepare(&self, config: &ShimConfig) -> Result<Prepared, LaunchError> {
        let failed = |error: io::Error| LaunchError::Failed(format!("start a shim: {error}"));
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
        self.send(&theirs.into()).map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        let mut connection = Connection::new(UnixStream::from_std(ours).map_err(failed)?);
        match connection.ask(&Request::Make(Box::new(config.clone()))).await? {
            Answer::Made => Ok(Prepared { connection, config: config.clone() }),
            other => Err(refused(other)),
        }
    }

    /// Hands a connection to the launcher; one that has died is started again.
    fn send(&self, connection: &OwnedFd) -> io::Result<()> {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &*socket
            && send_descriptor(open.as_fd(), b"x", connection.as_fd()).is_ok()
        {
            return Ok(());
        }
        let fresh = spawn(&self.program).map_err(|error| io::Error::other(error.message()))?;
        send_descriptor(fresh.as_fd(), b"x", connection.as_fd())?;
        *socket = Some(fresh);
        Ok(())
    }
}

fn spawn(program: &Path) -> Result<OwnedFd, EngineError> {
    let fail = || EngineError::file("start the launcher with", program);
    let pair = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    );
    let (ours, theirs) = pair.map_err(io::Error::from).map_err(fail())?;
    let mut child = Command::new(program)
        .arg0(launcher::NAME)
        .stdin(ChildStdio::from(theirs))
        .stdout(ChildStdio::null())
        .process_group(0)
        .spawn()
        .map_err(fail())?;
    // It ends with this process; before that, its end leaves nothing but a number to be given back.
    std::thread::spawn(move || child.wait());
    Ok(ours)
}

/// A container that is made, and not started.
pub(crate) struct Prepared {
    connection: Connection,
    config: ShimConfig,
}

impl Prepared {
    /// Its shim, whose end is not watched yet: for clients that attach before it starts.
    pub(crate) async fn attach(
        &self,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    ) -> Result<Attached, EngineError> {
        attach(&self.config.socket, self.config.terminal, stdin, stdout, stderr).await
    }

    /// It will not be started: comes back when its shim has taken it away.
    pub(crate) async fn give_up(self) {
        let Connection { mut reader, writer } = self.connection;
        drop(writer);
        drain(&mut reader).await;
    }

    /// Starts its program.
    pub(crate) async fn start(mut self) -> Result<(Shim, i32), LaunchError> {
        match self.connection.ask(&Request::Start).await? {
            Answer::Started { pid } => Ok((
                Shim::of(self.connection, &self.config.socket, &self.config.directory, self.config.terminal),
                pid,
            )),
            other => Err(refused(other)),
        }
    }
}

/// A container's shim.
#[derive(Clone, Debug)]
pub(crate) struct Shim {
    socket: PathBuf,
    tty: bool,
    end: watch::Receiver<Option<Exit>>,
    /// Closed when it is gone, which it is a little after the program's end: it has to tidy up.
    gone: watch::Receiver<()>,
}

impl Shim {
    /// Finds the shim of a container again; `None` when it is gone.
    pub(crate) async fn connect(socket: &Path, directory: &Path, tty: bool) -> Option<(Self, i32)> {
        let mut connection = Connection::open(socket).await.ok()?;
        match connection.ask(&Request::Watch).await {
            Ok(Answer::Started { pid }) => Some((Self::of(connection, socket, directory, tty), pid)),
            _ => None,
        }
    }

    fn of(mut connection: Connection, socket: &Path, directory: &Path, tty: bool) -> Self {
        let (sender, end) = watch::channel(None);
        let (lives, gone) = watch::channel(());
        let directory = directory.to_owned();
        tokio::spawn(async move {
            let told = connection.hear_end().await;
            // A shim that was killed tells nothing; perhaps it had written it down.
            let exit = told.or_else(|| Exit::load(&directory)).unwrap_or_else(Exit::unknown);
            sender.send_replace(Some(exit));
            connection.hear_nothing_more().await;
            drop(lives);
        });
        Self { socket: socket.to_owned(), tty, end, gone }
    }

    /// Comes back when it has taken away all that it had made.
    pub(crate) async fn gone(&self) {
        let mut gone = self.gone.clone();
        while gone.changed().await.is_ok() {}
    }

    /// Connects to the program's streams.
    pub(crate) async fn attach(
        &self,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    ) -> Result<Attached, EngineError> {
        attach(&self.socket, self.tty, stdin, stdout, stderr).await
    }

    /// Changes the terminal's size.
    pub(crate) async fn resize(&self, width: u16, height: u16) -> Result<(), EngineError> {
        resize(&self.socket, None, width, height).await
    }

    /// Runs another program in the container.
    pub(crate) async fn exec(
        &self,
        id: &str,
        process: ProcessSpec,
        stdin: bool,
        attach: bool,
    ) -> Result<Exec, LaunchError> {
        let failed = |error: io::Error| LaunchError::Failed(format!("reach the shim: {error}"));
        let mut connection = Connection::open(&self.socket).await.map_err(failed)?;
        let tty = process.terminal;
        let request = Request::Exec { id: id.to_owned(), process: Box::new(process), stdin, attach };
        let pid = match connection.ask(&request).await? {
            Answer::Started { pid } => pid,
            other => return Err(refused(other)),
        };
        let (ended, end) = watch::channel(None);
        let streams = connection.relay(tty, stdin, Some(ended));
        let streams = (attach || stdin).then_some(streams);
        Ok(Exec { pid, streams, id: id.to_owned(), socket: self.socket.clone(), end })
    }

    /// Comes back when the program has ended, and all that it wrote is in its log.
    pub(crate) async fn exit(&self) -> Exit {
        ended(self.end.clone()).await
    }
}

async fn ended(mut end: watch::Receiver<Option<Exit>>) -> Exit {
    let exit = end.wait_for(Option::is_some).await;
    exit.ok().and_then(|exit| exit.clone()).unwrap_or_else(Exit::unknown)
}

/// A further program in a container.
#[derive(Debug)]
pub(crate) struct Exec {
    /// Its number on the host.
    pub(crate) pid: i32,
    /// Its streams, when they were asked for.
    pub(crate) streams: Option<Attached>,
    id: String,
    socket: PathBuf,
    end: watch::Receiver<Option<Exit>>,
}

impl Exec {
    /// The same program, without its streams.
    pub(crate) fn handle(&self) -> Self {
        Self {
            pid: self.pid,
            streams: None,
            id: self.id.clone(),
            socket: self.socket.clone(),
            end: self.end.clone(),
        }
    }

    /// Comes back when it has ended.
    pub(crate) async fn exit(&self) -> Exit {
        ended(self.end.clone()).await
    }

    /// How it has ended, if it has: known before its streams are at their end.
    pub(crate) fn ended(&self) -> Option<Exit> {
        self.end.borrow().clone()
    }

    /// Changes its terminal's size.
    pub(crate) async fn resize(&self, width: u16, height: u16) -> Result<(), EngineError> {
        resize(&self.socket, Some(self.id.clone()), width, height).await
    }
}

async fn attach(
    socket: &Path,
    tty: bool,
    stdin: bool,
    stdout: bool,
    stderr: bool,
) -> Result<Attached, EngineError> {
    let mut connection = Connection::open(socket).await.map_err(EngineError::file("connect to", socket))?;
    match connection.ask(&Request::Attach { stdin, stdout, stderr }).await.map_err(plain)? {
        Answer::Done => Ok(connection.relay(tty, stdin, None)),
        other => Err(plain(refused(other))),
    }
}

async fn resize(socket: &Path, exec: Option<String>, width: u16, height: u16) -> Result<(), EngineError> {
    let mut connection = Connection::open(socket).await.map_err(EngineError::file("connect to", socket))?;
    match connection.ask(&Request::Resize { exec, width, height }).await.map_err(plain)? {
        Answer::Done => Ok(()),
        other => Err(plain(refused(other))),
    }
}

fn plain(error: LaunchError) -> EngineError {
    let (LaunchError::NotFound(text) | LaunchError::NotExecutable(text) | LaunchError::Failed(text)) = error;
    EngineError::failed(text)
}

fn refused(answer: Answer) -> LaunchError {
    match answer {
        Answer::Refused { why: Refusal::NotFound, text } => LaunchError::NotFound(text),
        Answer::Refused { why: Refusal::NotExecutable, text } => LaunchError::NotExecutable(text),
        Answer::Refused { text, .. } => LaunchError::Failed(text),
        other => LaunchError::Failed(format!("the shim answered {other:?}")),
    }
}

/// A connection to a shim.
struct Connection {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
}

impl Connection {
    fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader, writer }
    }

    async fn open(socket: &Path) -> io::Result<Self> {
        Ok(Self::new(UnixStream::connect(socket).await?))
    }

    async fn ask(&mut self, request: &Request) -> Result<Answer, LaunchError> {
        let asked = async {
            let payload = serde_json::to_vec(request)?;
            if payload.len() > frame::MAX_BYTES {
                return Err(io::Error::other("the request is too large"));
            }
            self.writer.write_all(&frame::frame(Kind::Request, &payload)).await?;
            loop {
                match read_frame(&mut self.reader).await? {
                    Some((Kind::Answer, payload)) => return Ok(serde_json::from_slice(&payload)?),
                    Some(_) => {}
                    None => return Err(io::ErrorKind::UnexpectedEof.into()),
                }
            }
        };
        asked.await.map_err(|error| LaunchError::Failed(format!("the shim went away: {error}")))
    }

    async fn hear_end(&mut self) -> Option<Exit> {
        while let Ok(Some((kind, payload))) = read_frame(&mut self.reader).await {
            if kind == Kind::Answer
                && let Ok(Answer::Ended { exit }) = serde_json::from_slice(&payload)
            {
                return Some(exit);
            }
        }
        None
    }

    async fn hear_nothing_more(mut self) {
        drain(&mut self.reader).await;
    }

    /// Data both ways, until one side has enough.
    fn relay(self, tty: bool, stdin: bool, ended: Option<watch::Sender<Option<Exit>>>) -> Attached {
        let (sender, output) = mpsc::channel(DEPTH);
        let (typed, input) = mpsc::channel(DEPTH);
        tokio::spawn(forward(self.reader, sender, ended));
        tokio::spawn(feed(input, self.writer));
        Attached { tty, output, input: stdin.then_some(typed) }
    }
}

/// From the shim to the client. The end of an exec is waited for even when nobody listens any more.
async fn forward(
    mut reader: OwnedReadHalf,
    sender: mpsc::Sender<Result<Frame, EngineError>>,
    ended: Option<watch::Sender<Option<Exit>>>,
) {
    let mut listens = true;
    loop {
        let read = tokio::select! {
            read = read_frame(&mut reader) => read,
            () = sender.closed(), if listens && ended.is_none() => return,
        };
        let (kind, payload) = match read {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(error) => {
                // A client that is gone does not hear it.
                let _ =
                    sender.send(Err(EngineError::failed(format!("the shim's stream broke: {error}")))).await;
                break;
            }
        };
        let stream = match kind {
            Kind::Output => Stdio::Out,
            Kind::Errors => Stdio::Err,
            Kind::Answer => {
                if let (Some(ended), Ok(Answer::Ended { exit })) = (&ended, serde_json::from_slice(&payload))
                {
                    ended.send_replace(Some(exit));
                }
                continue;
            }
            Kind::Request | Kind::Input | Kind::End => continue,
        };
        if listens {
            listens = sender.send(Ok(Frame { stream, bytes: payload })).await.is_ok();
            if !listens && ended.is_none() {
                return;
            }
        }
    }
    if let Some(ended) = ended.filter(|ended| ended.borrow().is_none()) {
        ended.send_replace(Some(Exit::unknown()));
    }
}

/// From the client to the shim.
async fn feed(mut input: mpsc::Receiver<Bytes>, mut writer: OwnedWriteHalf) {
    while let Some(bytes) = input.recv().await {
        for piece in bytes.chunks(frame::MAX_BYTES) {
            let header = frame::header(Kind::Input, piece.len());
            if writer.write_all(&header).await.is_err() || writer.write_all(piece).await.is_err() {
                return;
            }
        }
    }
    // The shim may be gone, and so may who had typed.
    let _ = writer.write_all(&frame::header(Kind::End, 0)).await;
    // The connection's other half is still read from: this one is closed with it.
    writer.forget();
}

/// Reads until a shim is gone.
async fn drain(reader: &mut OwnedReadHalf) {
    let gone = async { while let Ok(Some(_)) = read_frame(reader).await {} };
    if tokio::time::timeout(PATIENCE, gone).await.is_err() {
        tracing::warn!("a shim does not go");
    }
}

async fn read_frame(reader: &mut OwnedReadHalf) -> io::Result<Option<(Kind, Bytes)>> {
    let mut header = [0; frame::HEADER_BYTES];
    match reader.read_exact(&mut header).await {
        // A shim that leaves with something unread resets the connection.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) =>
        {
            return Ok(None);
        }
        other => other?,
    };
    let (kind, length) = frame::parse_header(header).map_err(io::Error::other)?;
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload).await?;
    Ok(Some((kind, payload.into())))
}
