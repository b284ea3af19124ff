//! The shim's life: make, start, relay, bury.
//!
//! One loop waits for everything at once: signals of children, programs' streams, clients. Nothing in it blocks but writing to
//! the log. A client that does not read holds the program that it is attached to, as a pipe would, and nobody else.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use knarr_linux::mounts::Detached;
use knarr_linux::{memory, namespace, overlay, process, terminal};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::frame::{self, Kind};
use super::log::{Log, Stream};
use super::program::{PIECE_BYTES, Program, Streams, refusal};
use super::{Answer, EXIT_FILE, Exit, Overlay, Request, ShimConfig};
use crate::create::{CreateOptions, create};
use crate::exec::{ExecOptions, exec};
use crate::plan::process::Common;
use crate::plan::{Facts, Plan};
use crate::spec::{ProcessSpec, Spec};
use crate::state::{Container, replace};
use crate::{RuntimeError, lifecycle, stats};

/// What waits for a client; above it the programs that it listens to are not read.
const BACKLOG_BYTES: usize = 1 << 20;
const MAX_CLIENTS: usize = 256;
/// So much of the heap and of the stack a shim needs for making a container.
const HEAP_BYTES: usize = 96 << 10;
const STACK_BYTES: usize = 40 << 10;
/// So long nothing must have happened before memory is given back.
const RESTLESS_MS: u16 = 3000;
/// What is read from a client at once. All of it is touched each time, and this process is to be small.
const REQUEST_BYTES: usize = 8 << 10;
/// How long clients may take for the rest when all is over.
const FAREWELL: Duration = Duration::from_secs(10);

/// A shim's whole life, from its first connection on.
pub(crate) fn run(connection: UnixStream, signals: SignalFd) -> ! {
    let status = match live(connection, signals) {
        Ok(()) => 0,
        Err(error) => {
            // The daemon's log, while it is there.
            let _ = writeln!(io::stderr(), "knarr shim: {}", crate::chain(&error));
            1
        }
    };
    process::end_now(status)
}

/// What a shim does before anybody needs it.
pub(crate) fn get_ready() -> io::Result<SignalFd> {
    // Shims are not to be chosen when memory is short: the container's programs are.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-999");
    rustix::process::setsid()?;
    process::become_subreaper()?;
    std::env::set_current_dir("/")?;
    let signals = SigSet::all();
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Plans a container that will never be, in the launcher: so its heap is as large as those of shims will be.
pub(crate) fn rehearse() {
    let mut configuration = crate::example::configuration(false);
    let names = vec!["read"; 400];
    configuration["linux"]["seccomp"] = serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{ "names": names, "action": "SCMP_ACT_ALLOW" }],
    });
    let text = configuration.to_string();
    let facts = Facts { bundle: PathBuf::from("/"), ..Facts::default() };
    // Nothing is done with it, so nothing is lost when it fails.
    let _ = Spec::parse(text.as_bytes()).map(|spec| Plan::new(&spec, &facts).map(drop));
}

/// Writes to pages that this process shares with the launcher and will need: they are copied before somebody waits for it.
pub(crate) fn own_pages() {
    std::hint::black_box(vec![1_u8; HEAP_BYTES]);
    std::hint::black_box([1_u8; STACK_BYTES]);
}

fn live(mut connection: UnixStream, signals: SignalFd) -> Result<(), RuntimeError> {
    let config = match hear(&mut connection).map_err(RuntimeError::step("hear what to make"))? {
        Request::Make(config) => *config,
        other => {
            return Err(RuntimeError::Request(format!("a shim is told first what to make, not {other:?}")));
        }
    };
    match Shim::make(config, signals) {
        Ok(mut shim) => {
            shim.admit(connection, Role::Control);
            shim.tell(0, &Answer::Made);
            shim.serve()
        }
        Err(error) => {
            // A daemon that is gone does not hear it.
            let _ = connection.write_all(&answer(&refusal(&error)));
            Ok(())
        }
    }
}

/// The first frame, which may come in pieces.
fn hear(connection: &mut UnixStream) -> io::Result<Request> {
    let mut header = [0; frame::HEADER_BYTES];
    connection.read_exact(&mut header)?;
    let (_, length) = frame::parse_header(header).map_err(io::Error::other)?;
    let mut payload = vec![0; length];
    connection.read_exact(&mut payload)?;
    Ok(serde_json::from_slice(&payload)?)
}

fn answer(answer: &Answer) -> Vec<u8> {
    let payload = serde_json::to_vec(answer).unwrap_or_default();
    frame::frame(Kind::Answer, &payload)
}

/// What a client is here for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Role {
    /// It has not said so yet.
    New,
    /// It made the container, or watches it.
    Control,
    /// It is connected to a program's streams: which, its input, its output, its errors.
    Streams { exec: Option<String>, stdin: bool, stdout: bool, stderr: bool },
}

struct Client {
    stream: UnixStream,
    role: Role,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// It is told all that is left, then it goes.
    leaving: bool,
    gone: bool,
}

struct Shim {
    config: ShimConfig,
    container: Option<Container>,
    /// What its execs have in common with it.
    common: Option<Common>,
    signals: SignalFd,
    listener: UnixListener,
    log: Log,
    /// The container's own is the first.
    programs: Vec<Program>,
    clients: Vec<Client>,
    started: bool,
    /// When all was over.
    over: Option<Instant>,
}

impl Shim {
    /// Mounts the root and makes the container; its program waits to be started.
    fn make(config: ShimConfig, signals: SignalFd) -> Result<Self, RuntimeError> {
        namespace::private_mounts()?;
        mount_all(&config)?;
        let log = Log::open(&config).map_err(RuntimeError::step("open the log"))?;
        let listener = listen(&config.socket)?;
        let streams = Streams::new(config.terminal, config.open_stdin, true);
        let mut streams = streams.map_err(RuntimeError::step("make the streams"))?;
        let options = CreateOptions {
            root: config.runtime_root.clone(),
            id: config.id.clone(),
            bundle: config.bundle.clone(),
            console: streams.console().map_err(RuntimeError::step("make the console"))?,
            ..CreateOptions::default()
        };
        let created = streams.lend(|| create(&options)).inspect_err(|_| remove(&config.socket))?;
        let program = streams.into_program(None, created.process.pid);
        let program = program.map_err(RuntimeError::step("take the terminal"))?;
        if let Some((width, height)) = config.console_size {
            // A size that the terminal does not take is no reason not to run.
            let _ = program.resize(width, height);
        }
        Ok(Self {
            config,
            container: Some(created.container),
            common: created.common,
            signals,
            listener,
            log,
            programs: vec![program],
            clients: Vec::new(),
            started: false,
            over: None,
        })
    }

    fn admit(&mut self, stream: UnixStream, role: Role) {
        // Else it would hold all others.
        if stream.set_nonblocking(true).is_ok() {
            let client =
                Client { stream, role, inbox: Vec::new(), outbox: Vec::new(), leaving: false, gone: false };
            self.clients.push(client);
        }
    }

    fn tell(&mut self, client: usize, what: &Answer) {
        self.clients[client].outbox.extend_from_slice(&answer(what));
        self.clients[client].flush();
    }

    fn serve(&mut self) -> Result<(), RuntimeError> {
        loop {
            self.clients.iter_mut().for_each(Client::flush);
            self.part_with_clients();
            if self.may_leave() {
                return Ok(());
            }
            let ready = self.wait().map_err(RuntimeError::step("wait for what happens"))?;
            for what in ready {
                self.handle(what)?;
            }
        }
    }

    fn may_leave(&self) -> bool {
        // Nobody will ever start it: the daemon that wanted to is gone.
        let orphan = !self.started
            && self.over.is_none()
            && !self.clients.iter().any(|client| client.role == Role::Control);
        if orphan {
            self.abandon();
            return true;
        }
        self.over.is_some_and(|over| self.clients.is_empty() || over.elapsed() > FAREWELL)
    }

    /// The container was made and will not be started.
    fn abandon(&self) {
        if let Some(container) = &self.container
            && let Err(error) = lifecycle::delete(container, true)
        {
            let _ = writeln!(io::stderr(), "knarr shim: {}", crate::chain(&error));
        }
        remove(&self.config.socket);
    }

    /// Waits until something happens, and tells what.
    fn wait(&self) -> io::Result<Vec<Ready>> {
        let mut watched = Watched::default();
        watched.add(self.signals.as_fd(), PollFlags::POLLIN, Ready::Signal);
        if self.over.is_none() && self.clients.len() < MAX_CLIENTS {
            watched.add(self.listener.as_fd(), PollFlags::POLLIN, Ready::Knock);
        }
        for (number, program) in self.programs.iter().enumerate() {
            if !self.is_held(program) {
                for (stream, fd) in program.outputs() {
                    watched.add(fd, PollFlags::POLLIN, Ready::Output(number, stream));
                }
            }
            if let Some(fd) = program.hungry() {
                watched.add(fd, PollFlags::POLLOUT, Ready::Hungry(number));
            }
        }
        for (number, client) in self.clients.iter().enumerate() {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, self.listens_to(client));
            flags.set(PollFlags::POLLOUT, !client.outbox.is_empty());
            watched.add(client.stream.as_fd(), flags, Ready::Client(number));
        }
        if self.over.is_some() { watched.wait(100) } else { watched.wait_or_rest() }
    }

    /// Whether a program must wait for a client that does not read.
    fn is_held(&self, program: &Program) -> bool {
        let holds =
            |client: &Client| client.is_at(program.exec.as_deref()) && client.outbox.len() > BACKLOG_BYTES;
        self.clients.iter().any(holds)
    }

    /// Whether more is read from a client: not as long as its program takes no more.
    fn listens_to(&self, client: &Client) -> bool {
        let Role::Streams { exec, stdin: true, .. } = &client.role else { return true };
        let program = self.programs.iter().find(|program| program.exec == *exec);
        program.is_none_or(Program::has_room)
    }

    fn handle(&mut self, ready: Ready) -> Result<(), RuntimeError> {
        match ready {
            Ready::Signal => self.hear_signals()?,
            Ready::Knock => self.open(),
            Ready::Output(number, stream) => self.relay(number, stream),
            Ready::Hungry(number) => self.programs[number].push(),
            Ready::Client(number) => self.hear_client(number),
        }
        Ok(())
    }

    fn open(&mut self) {
        match self.listener.accept() {
            Ok((stream, _)) => self.admit(stream, Role::New),
            // No descriptors are left: the next round would only find the same.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(_) => {}
        }
    }

    /// What a program wrote goes to the log and to its clients.
    fn relay(&mut self, number: usize, stream: Stream) {
        let mut piece = [0; REQUEST_BYTES];
        let count = self.programs[number].read(stream, &mut piece);
        if count == 0 {
            return;
        }
        let exec = self.programs[number].exec.clone();
        if count < piece.len() {
            return self.spread(exec.as_deref(), stream, &piece[..count]);
        }
        // It has a lot to say.
        let mut large = piece.to_vec();
        large.resize(PIECE_BYTES, 0);
        let more = self.programs[number].read(stream, &mut large[count..]);
        self.spread(exec.as_deref(), stream, &large[..count + more]);
    }

    fn spread(&mut self, exec: Option<&str>, stream: Stream, bytes: &[u8]) {
        if exec.is_none() {
            self.log.write(stream, bytes);
        }
        for client in self.clients.iter_mut().filter(|client| client.wants(exec, stream)) {
            let kind = if stream == Stream::Err { Kind::Errors } else { Kind::Output };
            client.outbox.extend_from_slice(&frame::header(kind, bytes.len()));
            client.outbox.extend_from_slice(bytes);
        }
    }

    /// A child has ended, or somebody wants us to: that we do not hear.
    fn hear_signals(&mut self) -> Result<(), RuntimeError> {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid.as_raw(), code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid.as_raw(), 128 + signal as i32),
                _ => return Ok(()),
            };
            match self.programs.iter().position(|program| program.pid == pid && program.exit.is_none()) {
                Some(0) => self.bury(code)?,
                Some(number) => self.end_exec(number, code),
                // An orphan of the container.
                None => {}
            }
        }
    }

    /// An exec has ended.
    fn end_exec(&mut self, number: usize, code: i32) {
        let mut program = self.programs.remove(number);
        let exec = program.exec.clone();
        program.drain(|stream, bytes| self.spread(exec.as_deref(), stream, bytes));
        let exit = Exit { code, oom: false, at: crate::state::now() };
        for client in self.clients.iter_mut().filter(|client| client.is_at(exec.as_deref())) {
            client.outbox.extend_from_slice(&answer(&Answer::Ended { exit: exit.clone() }));
            client.leaving = true;
        }
    }

    /// The container's program has ended, and so has all that ran in it.
    fn bury(&mut self, code: i32) -> Result<(), RuntimeError> {
        let mut program = self.programs.remove(0);
        program.drain(|stream, bytes| self.spread(None, stream, bytes));
        self.log.finish();
        while let Some(number) = self.programs.len().checked_sub(1) {
            self.end_exec(number, 137);
        }
        let oom = self
            .container
            .as_ref()
            .is_some_and(|container| stats::out_of_memory_kills(container).is_ok_and(|kills| kills > 0));
        let exit = Exit { code, oom, at: crate::state::now() };
        if let Some(failure) = &self.log.failed {
            let _ = writeln!(io::stderr(), "knarr shim: {}: {failure}", self.config.id);
        }
        // Who shares processes with others leaves some behind, and they must have ended before it is said.
        let is_alone = self
            .container
            .as_ref()
            .is_none_or(|container| container.state.cgroup().is_empty().unwrap_or_default());
        if !is_alone {
            self.delete()?;
        }
        self.tell_end(&exit);
        if is_alone {
            self.delete()?;
        }
        self.clients.iter_mut().for_each(|client| client.leaving = true);
        self.over = Some(Instant::now());
        Ok(())
    }

    /// Takes away what the runtime has of the container.
    fn delete(&self) -> Result<(), RuntimeError> {
        let Some(container) = &self.container else { return Ok(()) };
        for error in lifecycle::delete(container, true)? {
            let _ = writeln!(io::stderr(), "knarr shim: {}", crate::chain(&error));
        }
        Ok(())
    }

    /// Writes down how it ended, and tells everybody. Who controls us stays connected until all is taken away.
    fn tell_end(&mut self, exit: &Exit) {
        if self.started {
            let text = serde_json::to_vec(exit).unwrap_or_default();
            // On a full disk nobody else will find out; all the same it has ended, and must be tidied up.
            if let Err(error) = replace(&self.config.directory.join(EXIT_FILE), &text, 0o600) {
                let _ = writeln!(io::stderr(), "knarr shim: {}", crate::chain(&error));
            }
        }
        remove(&self.config.socket);
        let ended = answer(&Answer::Ended { exit: exit.clone() });
        for client in &mut self.clients {
            let controls = client.role == Role::Control;
            if controls {
                client.outbox.extend_from_slice(&ended);
            }
            client.flush();
            client.leaving = !controls;
        }
        self.part_with_clients();
    }

    fn part_with_clients(&mut self) {
        self.clients.retain(|client| !client.gone && (!client.leaving || !client.outbox.is_empty()));
    }

    /// What a client says, and whether it has left.
    fn hear_client(&mut self, number: usize) {
        let mut buffer = [0; REQUEST_BYTES];
        let client = &mut self.clients[number];
        match client.stream.read(&mut buffer) {
            Ok(0) => self.lose(number),
            Ok(count) => {
                client.inbox.extend_from_slice(&buffer[..count]);
                self.understand(number);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.lose(number),
        }
    }

    fn lose(&mut self, number: usize) {
        self.clients[number].gone = true;
        if let Role::Streams { exec, stdin: true, .. } = self.clients[number].role.clone() {
            self.end_input(exec.as_deref());
        }
    }

    /// A client has no more input. A container's program has more clients to come, unless it was made for one.
    fn end_input(&mut self, exec: Option<&str>) {
        if exec.is_none() && !self.config.stdin_once {
            return;
        }
        if let Some(program) = self.programs.iter_mut().find(|program| program.exec.as_deref() == exec) {
            program.end_input();
        }
    }

    fn understand(&mut self, number: usize) {
        loop {
            let inbox = &mut self.clients[number].inbox;
            let (kind, payload) = match frame::parse(inbox) {
                Ok(Some((kind, place))) => {
                    let payload = inbox[place.clone()].to_vec();
                    inbox.drain(..place.end);
                    (kind, payload)
                }
                Ok(None) => return,
                Err(_) => return self.lose(number),
            };
            match kind {
                Kind::Request => match serde_json::from_slice(&payload) {
                    Ok(request) => self.answer(number, request),
                    Err(error) => self.refuse(number, &RuntimeError::Request(error.to_string())),
                },
                Kind::Input | Kind::End => self.take_input(number, kind, &payload),
                Kind::Answer | Kind::Output | Kind::Errors => return self.lose(number),
            }
        }
    }

    fn take_input(&mut self, number: usize, kind: Kind, bytes: &[u8]) {
        let Role::Streams { exec, stdin: true, .. } = self.clients[number].role.clone() else { return };
        if kind == Kind::End {
            return self.end_input(exec.as_deref());
        }
        if let Some(program) = self.programs.iter_mut().find(|program| program.exec == exec) {
            program.feed(bytes);
        }
    }

    fn refuse(&mut self, number: usize, error: &RuntimeError) {
        self.tell(number, &refusal(error));
    }

    fn answer(&mut self, number: usize, request: Request) {
        if self.over.is_some() || self.programs.is_empty() {
            self.refuse(number, &RuntimeError::Vanished);
            return;
        }
        match request {
            Request::Make(_) => self.refuse(number, &RuntimeError::Request("it is made already".to_owned())),
            Request::Start => self.start(number),
            // Nobody will start it any more: it is about to go.
            Request::Watch if !self.started => self.refuse(number, &RuntimeError::Vanished),
            Request::Watch => {
                self.clients[number].role = Role::Control;
                self.tell(number, &Answer::Started { pid: self.programs[0].pid });
            }
            Request::Attach { stdin, stdout, stderr } => {
                self.clients[number].role = Role::Streams { exec: None, stdin, stdout, stderr };
                self.tell(number, &Answer::Done);
            }
            Request::Resize { exec, width, height } => {
                let program = self.programs.iter().find(|program| program.exec == exec);
                let resized = program.map_or(Ok(()), |program| program.resize(width, height));
                match resized {
                    Ok(()) => self.tell(number, &Answer::Done),
                    Err(error) => {
                        self.refuse(number, &RuntimeError::step("change the terminal's size")(error));
                    }
                }
            }
            Request::Exec { id, process, stdin, attach } => match self.exec(&id, *process, stdin, attach) {
                Ok(pid) => {
                    self.clients[number].role =
                        Role::Streams { exec: Some(id), stdin, stdout: attach, stderr: attach };
                    self.tell(number, &Answer::Started { pid });
                }
                Err(error) => self.refuse(number, &error),
            },
        }
    }

    fn start(&mut self, number: usize) {
        if self.started {
            return self.refuse(number, &RuntimeError::Request("it is started already".to_owned()));
        }
        let started = match &self.container {
            Some(container) => lifecycle::start(container),
            None => Err(RuntimeError::Vanished),
        };
        match started {
            Ok(complaints) => {
                for error in complaints {
                    let _ = writeln!(io::stderr(), "knarr shim: {}", crate::chain(&error));
                }
                self.started = true;
                // What is done to a container that runs is the engine's: it locks it each time.
                if let Some(container) = &mut self.container {
                    container.unlock();
                }
                self.tell(number, &Answer::Started { pid: self.programs[0].pid });
            }
            Err(error) => self.refuse(number, &error),
        }
    }

    fn exec(
        &mut self,
        id: &str,
        process: ProcessSpec,
        stdin: bool,
        attach: bool,
    ) -> Result<i32, RuntimeError> {
        let container = self.container.as_ref().ok_or(RuntimeError::Vanished)?;
        let mut streams =
            Streams::new(process.terminal, stdin, attach).map_err(RuntimeError::step("make the streams"))?;
        let options = ExecOptions {
            console: streams.console().map_err(RuntimeError::step("make the console"))?,
            process,
            common: self.common.clone(),
            ..ExecOptions::default()
        };
        // Frozen in the midst of it, the new process would hold us, and us all who ask.
        let turn = container.turn()?;
        let made = streams.lend(|| exec(container, &options));
        turn.unlock().map_err(RuntimeError::step("let others have the container"))?;
        let made = made?;
        let program = streams.into_program(Some(id.to_owned()), made.pid);
        self.programs.push(program.map_err(RuntimeError::step("take the terminal"))?);
        Ok(made.pid)
    }
}

impl Client {
    fn is_at(&self, program: Option<&str>) -> bool {
        matches!(&self.role, Role::Streams { exec, .. } if exec.as_deref() == program)
    }

    fn wants(&self, program: Option<&str>, stream: Stream) -> bool {
        matches!(&self.role, Role::Streams { exec, stdout, stderr, .. }
            if exec.as_deref() == program && if stream == Stream::Err { *stderr } else { *stdout })
    }

    /// Sends what waits, as much as the socket takes.
    fn flush(&mut self) {
        let mut sent = 0;
        while sent < self.outbox.len() {
            match self.stream.write(&self.outbox[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.gone |= error.kind() != io::ErrorKind::WouldBlock;
                    break;
                }
            }
        }
        self.outbox.drain(..sent);
    }
}

/// What can be handled without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ready {
    Signal,
    Knock,
    Output(usize, Stream),
    Hungry(usize),
    Client(usize),
}

#[derive(Default)]
struct Watched<'a> {
    polled: Vec<PollFd<'a>>,
    whats: Vec<Ready>,
}

impl<'a> Watched<'a> {
    fn add(&mut self, fd: BorrowedFd<'a>, flags: PollFlags, what: Ready) {
        self.polled.push(PollFd::new(fd, flags));
        self.whats.push(what);
    }

    fn wait(mut self, timeout_ms: u16) -> io::Result<Vec<Ready>> {
        poll_on(&mut self.polled, timeout_ms)?;
        Ok(self.ready())
    }

    /// Containers may run for months, and their shims do nothing in that time: then they are to be small.
    fn wait_or_rest(mut self) -> io::Result<Vec<Ready>> {
        if poll_on(&mut self.polled, RESTLESS_MS)? == 0 {
            match memory::rest_until(&mut self.polled) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Vec::new()),
                other => other?,
            }
        }
        Ok(self.ready())
    }

    fn ready(&self) -> Vec<Ready> {
        let happened = |polled: &PollFd<'_>| polled.revents().is_some_and(|events| !events.is_empty());
        let ready = self.polled.iter().zip(&self.whats).filter(|(polled, _)| happened(polled));
        let mut ready: Vec<Ready> = ready.map(|(_, what)| *what).collect();
        // Children are looked at last: what they wrote comes before their end, and programs keep their numbers till then.
        ready.sort_by_key(|what| *what == Ready::Signal);
        ready
    }
}

/// How many descriptors have something; -1 when a signal came first.
fn poll_on(polled: &mut [PollFd<'_>], timeout_ms: u16) -> io::Result<i32> {
    match poll(polled, timeout_ms) {
        Err(nix::errno::Errno::EINTR) => Ok(-1),
        other => Ok(other?),
    }
}

fn mount_all(config: &ShimConfig) -> Result<(), RuntimeError> {
    if let Some(root) = &config.overlay {
        let mut options: Vec<(String, Option<String>)> = Vec::new();
        let text = |path: &Path| path.to_string_lossy().into_owned();
        for lower in root.lowers.iter().rev() {
            options.push(("lowerdir+".to_owned(), Some(text(lower))));
        }
        options.push(("upperdir".to_owned(), Some(text(&root.upper))));
        options.push(("workdir".to_owned(), Some(text(&root.work))));
        let mount = if root.volatile { mount_volatile(root, &options) } else { mount_root(&options) };
        let mounted = mount.and_then(|mount| {
            let target = std::fs::File::open(&root.target)?;
            mount.attach(target.as_fd())
        });
        mounted.map_err(RuntimeError::step(format!("mount the root on {}", root.target.display())))?;
    }
    for image in &config.extra {
        let lowers: Vec<PathBuf> = image.lowers.iter().rev().cloned().collect();
        overlay::mount_read_only(&lowers, &image.target)?;
    }
    Ok(())
}

type Setting = (String, Option<String>);

fn mount_root(options: &[Setting]) -> io::Result<Detached> {
    Detached::file_system("overlay", "knarr", options, 0)
}

/// Nothing is written to the disk for the root's sake. The kernel marks such a root and takes it only once, as after a
/// crash it might not be whole; that such a container does not survive anyway.
fn mount_volatile(root: &Overlay, options: &[Setting]) -> io::Result<Detached> {
    match std::fs::remove_dir_all(root.work.join("work/incompat")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let marked = [options, &[("volatile".to_owned(), None)]].concat();
    // Older kernels do not know it.
    mount_root(&marked).or_else(|_| mount_root(options))
}

fn listen(path: &Path) -> Result<UnixListener, RuntimeError> {
    remove(path);
    let listener = terminal::listen(path).map_err(RuntimeError::file("make", path))?;
    let ready = || -> io::Result<()> {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)
    };
    ready().map_err(RuntimeError::file("open up", path))?;
    Ok(listener)
}

fn remove(socket: &Path) {
    // One that is not there is as good.
    let _ = std::fs::remove_file(socket);
}
