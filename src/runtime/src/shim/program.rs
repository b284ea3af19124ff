//! A program of a container, its own or an exec, with its streams.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use knarr_linux::process;
use knarr_linux::terminal::{self, receive_descriptor};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::log::Stream;
use super::{Answer, Exit, Refusal};
use crate::RuntimeError;

/// A program's input waits here; above it nothing more is read from clients.
const INPUT_BYTES: usize = 64 << 10;
/// What is read at once.
pub(crate) const PIECE_BYTES: usize = 64 << 10;
/// What is read at once when it has ended: as a rule nothing is left.
const DRAIN_BYTES: usize = 8 << 10;
/// Of what is left in its streams when it has ended, at most so much is read: a process that it left may write for ever.
const LAST_BYTES: usize = 4 << 20;

/// A program, its streams, and its end.
pub(crate) struct Program {
    /// `None` is the container's own.
    pub(crate) exec: Option<String>,
    pub(crate) pid: i32,
    pub(crate) exit: Option<Exit>,
    terminal: Option<File>,
    outputs: [Option<File>; 2],
    input: Option<File>,
    pending: VecDeque<u8>,
    ends: bool,
}

/// The program's ends of its streams, until it has them; ours wait here.
pub(crate) struct Streams {
    theirs: [OwnedFd; 3],
    outputs: [Option<File>; 2],
    input: Option<File>,
    console: Option<(UnixStream, UnixStream)>,
}

impl Streams {
    /// Pipes, or what a terminal needs.
    pub(crate) fn new(tty: bool, stdin: bool, output: bool) -> io::Result<Self> {
        let null = || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
        if tty {
            return Ok(Self {
                theirs: [null()?, null()?, null()?],
                outputs: [None, None],
                input: None,
                console: Some(UnixStream::pair()?),
            });
        }
        let (input, written) = if stdin {
            let (read, write) = pipe()?;
            (read, Some(File::from(write)))
        } else {
            (null()?, None)
        };
        let sink = || -> io::Result<(Option<File>, OwnedFd)> {
            if !output {
                return Ok((None, null()?));
            }
            let (read, write) = pipe()?;
            Ok((Some(File::from(read)), write))
        };
        let (out, their_out) = sink()?;
        let (err, their_err) = sink()?;
        Ok(Self { theirs: [input, their_out, their_err], outputs: [out, err], input: written, console: None })
    }

    /// The socket over which the terminal comes.
    pub(crate) fn console(&mut self) -> io::Result<Option<UnixStream>> {
        self.console.as_ref().map(|(_, theirs)| theirs.try_clone()).transpose()
    }

    /// Makes them the streams of this process, for the time in which it makes the program.
    pub(crate) fn lend<T>(&self, make: impl FnOnce() -> Result<T, RuntimeError>) -> Result<T, RuntimeError> {
        let lend = || -> io::Result<()> {
            for (number, fd) in (0..).zip(&self.theirs) {
                process::duplicate_to(fd.as_fd(), number)?;
            }
            Ok(())
        };
        lend().map_err(RuntimeError::step("lend the streams"))?;
        let made = make();
        let null = File::options().read(true).write(true).open("/dev/null");
        let back = || -> io::Result<()> {
            let null = null?;
            (0..3).try_for_each(|number| process::duplicate_to(null.as_fd(), number))
        };
        back().map_err(RuntimeError::step("take the streams back"))?;
        made
    }

    /// The program that has them.
    pub(crate) fn into_program(self, exec: Option<String>, pid: i32) -> io::Result<Program> {
        let terminal = match self.console {
            Some((ours, _)) => Some(File::from(receive_descriptor(ours.as_fd())?)),
            None => None,
        };
        let all = [&terminal, &self.outputs[0], &self.outputs[1], &self.input];
        for file in all.into_iter().flatten() {
            set_nonblocking(file.as_fd())?;
        }
        Ok(Program {
            exec,
            pid,
            exit: None,
            terminal,
            outputs: self.outputs,
            input: self.input,
            pending: VecDeque::new(),
            ends: false,
        })
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

impl Program {
    /// Descriptors that may have output, with their stream.
    pub(crate) fn outputs(&self) -> impl Iterator<Item = (Stream, BorrowedFd<'_>)> {
        let terminal = self.terminal.iter().map(|file| (Stream::Out, file.as_fd()));
        let pipes = [Stream::Out, Stream::Err].into_iter().zip(&self.outputs);
        terminal.chain(pipes.filter_map(|(stream, file)| Some((stream, file.as_ref()?.as_fd()))))
    }

    /// The descriptor that takes input which waits.
    pub(crate) fn hungry(&self) -> Option<BorrowedFd<'_>> {
        if self.pending.is_empty() {
            return None;
        }
        self.terminal.as_ref().or(self.input.as_ref()).map(AsFd::as_fd)
    }

    /// Whether it takes more input now.
    pub(crate) fn has_room(&self) -> bool {
        self.pending.len() < INPUT_BYTES
    }

    /// Input comes.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        if self.terminal.is_some() || self.input.is_some() {
            self.pending.extend(bytes);
            self.push();
        }
    }

    /// No more input comes. A terminal stays open.
    pub(crate) fn end_input(&mut self) {
        self.ends = true;
        self.push();
    }

    /// Hands over what input it takes now.
    pub(crate) fn push(&mut self) {
        while !self.pending.is_empty() {
            let Some(file) = self.terminal.as_mut().or(self.input.as_mut()) else {
                self.pending.clear();
                return;
            };
            match file.write(self.pending.make_contiguous()) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // It has closed its input: the rest has no reader.
                Err(_) => {
                    self.pending.clear();
                    self.input = None;
                }
            }
        }
        if self.ends {
            self.input = None;
        }
    }

    /// Reads what came on a stream: nothing when nothing is there or the stream is at its end.
    pub(crate) fn read(&mut self, stream: Stream, buffer: &mut [u8]) -> usize {
        let file = match &mut self.terminal {
            Some(_) => &mut self.terminal,
            None => &mut self.outputs[stream as usize],
        };
        let Some(reader) = file else { return 0 };
        match reader.read(buffer) {
            Ok(0) => {
                *file = None;
                0
            }
            Ok(count) => count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            // A terminal whose other side is closed says EIO.
            Err(_) => {
                *file = None;
                0
            }
        }
    }

    /// Reads what is left when it has ended.
    pub(crate) fn drain(&mut self, mut see: impl FnMut(Stream, &[u8])) {
        let mut buffer = [0; DRAIN_BYTES];
        let mut left = LAST_BYTES;
        for stream in [Stream::Out, Stream::Err] {
            loop {
                let count = self.read(stream, &mut buffer);
                if count == 0 || left == 0 {
                    break;
                }
                left = left.saturating_sub(count);
                see(stream, &buffer[..count]);
            }
        }
        (self.terminal, self.outputs, self.input) = (None, [None, None], None);
    }

    /// Changes its terminal's size.
    pub(crate) fn resize(&self, width: u16, height: u16) -> io::Result<()> {
        match &self.terminal {
            Some(file) => terminal::resize(file.as_fd(), width, height),
            None => Ok(()),
        }
    }
}

/// The refusal that an error of making or starting a program is.
pub(crate) fn refusal(error: &RuntimeError) -> Answer {
    let text = crate::chain(error);
    let of_program = matches!(error, RuntimeError::Step { step, .. } if step.starts_with("exec "));
    let says = |words: &[&str]| of_program && words.iter().any(|word| text.contains(word));
    let why = if says(&["executable file not found", "no such file or directory"]) {
        Refusal::NotFound
    } else if says(&["permission denied", "is a directory", "exec format error"]) {
        Refusal::NotExecutable
    } else {
        Refusal::Failed
    };
    Answer::Refused { why, text }
}
