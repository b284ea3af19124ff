//! A running program's streams, for clients that come and go.
//!
//! A client may attach before the container is started: it waits, and is connected before the program begins, so that
//! nothing that it writes is missed.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use super::Container;
use crate::logs::LogsRequest;
use crate::shim::{Prepared, Shim};
use crate::stream::{Attached, DEPTH, Frame};
use crate::{Engine, EngineError};

/// Which streams of a container a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachRequest {
    /// What was logged before.
    pub logs: bool,
    /// What comes from now on.
    pub stream: bool,
    /// Its input.
    pub stdin: bool,
    /// Its output.
    pub stdout: bool,
    /// Its errors.
    pub stderr: bool,
}

/// A client that attached to a container that does not run yet.
#[derive(Debug)]
pub(crate) struct Waiter {
    request: AttachRequest,
    output: mpsc::Sender<Result<Frame, EngineError>>,
    input: Option<mpsc::Receiver<Bytes>>,
    /// The client typed its keys: its stream ends.
    detached: Arc<Notify>,
}

impl Engine {
    /// `POST /containers/{id}/attach`; also before it is started: then the streams are those of its next start.
    /// `detach_keys` as `ctrl-p,ctrl-q`; they are taken out of the input and end the stream.
    ///
    /// # Errors
    /// There is no such container, it is paused, or the keys cannot be read.
    pub async fn attach_container(
        &self,
        name: &str,
        request: AttachRequest,
        detach_keys: Option<&str>,
    ) -> Result<Attached, EngineError> {
        let container = self.shared().containers.find(name)?;
        let keys = Keys::parse(detach_keys)?;
        let (tty, open_stdin) = {
            let record = container.record();
            if record.state.paused {
                let name = &record.name;
                return Err(EngineError::conflict(format!(
                    "container {name} is paused, unpause the container before attach"
                )));
            }
            if record.state.restarting {
                let name = &record.name;
                return Err(EngineError::conflict(format!(
                    "container {name} is restarting, wait until the container is running"
                )));
            }
            (record.config.tty == Some(true), record.config.open_stdin == Some(true))
        };
        let request = AttachRequest { stdin: request.stdin && open_stdin, ..request };
        let (output, frames) = mpsc::channel(DEPTH);
        let (typed, input) = mpsc::channel(DEPTH);
        let detached = Arc::new(Notify::new());
        let input = request.stdin.then_some(input);
        let waiter = Waiter { request, output: output.clone(), input, detached: detached.clone() };
        if request.logs {
            self.send_log(name, request, &output).await?;
        }
        if request.stream {
            connect_or_wait(&container, waiter).await?;
        }
        self.shared().events.container("attach", &container.record(), &[]);
        let input = request.stdin.then(|| keys.watch(typed, tty, self.detaching(&container, detached)));
        Ok(Attached { tty, output: frames, input })
    }

    /// What happens when the keys are typed: the client's stream ends, and it is told of.
    fn detaching(&self, container: &Arc<Container>, detached: Arc<Notify>) -> impl FnOnce() + Send + 'static {
        let (engine, container) = (self.clone(), container.clone());
        move || {
            engine.shared().events.container("detach", &container.record(), &[]);
            detached.notify_one();
        }
    }

    async fn send_log(
        &self,
        name: &str,
        request: AttachRequest,
        output: &mpsc::Sender<Result<Frame, EngineError>>,
    ) -> Result<(), EngineError> {
        let logs = LogsRequest { stdout: request.stdout, stderr: request.stderr, ..LogsRequest::default() };
        let (_, mut frames) = self.logs_container(name, logs).await?;
        let output = output.clone();
        tokio::spawn(async move {
            while let Some(frame) = frames.recv().await {
                if output.send(frame).await.is_err() {
                    return;
                }
            }
        });
        Ok(())
    }

    /// `POST /containers/{id}/resize`, in characters.
    ///
    /// # Errors
    /// There is no such container, or it does not run.
    pub async fn resize_container(&self, name: &str, width: u16, height: u16) -> Result<(), EngineError> {
        let container = self.shared().containers.find(name)?;
        let shim = container.live.shim().ok_or_else(|| not_running(&container))?;
        shim.resize(width, height).await?;
        let (width, height) = (width.to_string(), height.to_string());
        let extra = [("height", height.as_str()), ("width", width.as_str())];
        self.shared().events.container("resize", &container.record(), &extra);
        Ok(())
    }
}

/// 409 of a container that does not run.
pub(crate) fn not_running(container: &Container) -> EngineError {
    EngineError::conflict(format!("container {} is not running", container.id))
}

async fn connect_or_wait(container: &Container, waiter: Waiter) -> Result<(), EngineError> {
    let shim = {
        let mut live = container.live.lock();
        match live.shim.clone() {
            Some(shim) => shim,
            None => {
                live.waiting.push(waiter);
                return Ok(());
            }
        }
    };
    waiter.connect(&shim).await
}

impl Waiter {
    /// Connects the client to the streams of a program that runs.
    async fn connect(self, shim: &Shim) -> Result<(), EngineError> {
        let AttachRequest { stdin, stdout, stderr, .. } = self.request;
        let attached = shim.attach(stdin, stdout, stderr).await?;
        self.relay(attached);
        Ok(())
    }

    /// Connects the client to the streams of a program that is about to be started.
    pub(crate) async fn join(self, prepared: &Prepared) -> Result<(), EngineError> {
        let AttachRequest { stdin, stdout, stderr, .. } = self.request;
        let attached = prepared.attach(stdin, stdout, stderr).await?;
        self.relay(attached);
        Ok(())
    }

    /// Its output's channel is closed when the program's is.
    fn relay(self, attached: Attached) {
        let Self { output, input, detached, .. } = self;
        let (mut frames, typed) = (attached.output, attached.input);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    frame = frames.recv() => match frame {
                        Some(frame) => if output.send(frame).await.is_err() {
                            return;
                        },
                        None => return,
                    },
                    () = output.closed() => return,
                    () = detached.notified() => return,
                }
            }
        });
        if let (Some(mut input), Some(typed)) = (input, typed) {
            tokio::spawn(async move {
                while let Some(bytes) = input.recv().await {
                    if typed.send(bytes).await.is_err() {
                        return;
                    }
                }
            });
        }
    }
}

/// The keys that part a client from a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keys(Vec<u8>);

impl Keys {
    /// Reads `ctrl-p,ctrl-q`: letters, and `ctrl-` before a letter or one of `@[\]^_`. `None` is just those two.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, EngineError> {
        let text = text.filter(|text| !text.is_empty()).unwrap_or("ctrl-p,ctrl-q");
        let key = |word: &str| -> Option<u8> {
            let (control, letter) = match word.strip_prefix("ctrl-") {
                Some(letter) => (true, letter),
                None => (false, word),
            };
            match (control, letter.as_bytes()) {
                (false, [byte]) => Some(*byte),
                (true, [byte @ (b'a'..=b'z' | b'@' | b'['..=b'_')]) => Some(byte.to_ascii_uppercase() & 0x1f),
                _ => None,
            }
        };
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        keys.map(Self)
            .ok_or_else(|| EngineError::invalid(format!("Unknown character: '{text}' in the detach keys")))
    }

    /// Hands input on, without the keys. `detach` is called when all of them came one after the other; the program
    /// keeps its input then. Without a terminal nothing is looked for.
    pub(crate) fn watch(
        self,
        typed: mpsc::Sender<Bytes>,
        tty: bool,
        detach: impl FnOnce() + Send + 'static,
    ) -> mpsc::Sender<Bytes> {
        if !tty {
            return typed;
        }
        let (sender, mut receiver) = mpsc::channel::<Bytes>(DEPTH);
        tokio::spawn(async move {
            let mut seen = 0;
            while let Some(bytes) = receiver.recv().await {
                let (passed, detached) = self.pass(&mut seen, &bytes);
                if !passed.is_empty() && typed.send(Bytes::from(passed)).await.is_err() {
                    return;
                }
                if detached {
                    return detach();
                }
            }
        });
        sender
    }

    /// Streams that end when the keys are typed; the program goes on.
    pub(crate) fn part(self, attached: Attached) -> Attached {
        let Attached { tty, output: mut frames, input } = attached;
        let Some(input) = input else { return Attached { tty, output: frames, input: None } };
        if !tty {
            return Attached { tty, output: frames, input: Some(input) };
        }
        let detached = Arc::new(Notify::new());
        let (sender, output) = mpsc::channel(DEPTH);
        let typed = detached.clone();
        let input = self.watch(input, tty, move || typed.notify_one());
        tokio::spawn(async move {
            loop {
                let frame = tokio::select! {
                    frame = frames.recv() => frame,
                    () = detached.notified() => return,
                };
                let Some(frame) = frame else { return };
                if sender.send(frame).await.is_err() {
                    return;
                }
            }
        });
        Attached { tty, output, input: Some(input) }
    }

    /// What of some input goes to the program, and whether the keys are complete. `seen` is how many of them came before.
    fn pass(&self, seen: &mut usize, bytes: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if *byte == self.0[*seen] {
                *seen += 1;
                if *seen == self.0.len() {
                    return (passed, true);
                }
                continue;
            }
            passed.extend_from_slice(&self.0[..*seen]);
            *seen = usize::from(*byte == self.0[0]);
            if *seen == 0 {
                passed.push(*byte);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::Keys;

    #[test]
    fn detach_keys_are_read_as_docker_writes_them() {
        assert_eq!(Keys::parse(None).unwrap().0, [16, 17]);
        assert_eq!(Keys::parse(Some("ctrl-a,a,ctrl-_")).unwrap().0, [1, b'a', 31]);
        assert!(Keys::parse(Some("ctrl-")).is_err() && Keys::parse(Some("ctrl-p,,")).is_err());
    }

    #[test]
    fn input_passes_until_all_keys_came_in_a_row() {
        let keys = Keys::parse(None).unwrap();
        let mut seen = 0;
        assert_eq!(keys.pass(&mut seen, b"a\x10b"), (b"a\x10b".to_vec(), false));
        assert_eq!(keys.pass(&mut seen, b"\x10"), (Vec::new(), false));
        assert_eq!(keys.pass(&mut seen, b"\x11rest"), (Vec::new(), true));
        let mut seen = 0;
        assert_eq!(keys.pass(&mut seen, b"\x10\x10\x11"), (b"\x10".to_vec(), true));
    }
}
