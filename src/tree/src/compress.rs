//! Compression of outputs, with the same bytes on any number of cores.
//!
//! [`writer`] wraps a writer; [`FinishWrite::finish`] ends the stream.
//!
//! Spec: RFC 1952 (gzip), RFC 8878 (zstd), the .xz file format.

use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// How an output is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip at this level.
    Gzip(u32),
    /// xz at this level.
    Xz(u32),
    /// zstd at this level.
    Zstd(i32),
}

impl Compression {
    /// What the name of a file asks for.
    #[must_use]
    pub fn of_path(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz" | "tgz") => Self::Gzip(6),
            Some("xz" | "txz") => Self::Xz(6),
            Some("zst" | "zstd" | "tzst") => Self::Zstd(3),
            _ => Self::None,
        }
    }
}

/// A writer whose stream must be ended.
pub trait FinishWrite: Write + Send {
    /// Ends the stream and flushes.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// Wraps `out` so that what is written comes out compressed.
pub fn writer<'a>(
    compression: Compression,
    out: impl Write + Send + 'static,
) -> io::Result<Box<dyn FinishWrite + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(Plain(out)),
        Compression::Gzip(level) => Box::new(Gzip::new(out, level)?),
        Compression::Xz(level) => Box::new(Xz(xz_encoder(out, level)?)),
        Compression::Zstd(level) => {
            let mut encoder = zstd::Encoder::new(out, level)?;
            // With one worker or more the bytes are the same for every number of workers.
            encoder.multithread(workers() as u32)?;
            encoder.include_checksum(true)?;
            Box::new(Zstd(encoder))
        }
    })
}

fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

struct Plain<W>(W);

impl<W: Write> Write for Plain<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<W: Write + Send> FinishWrite for Plain<W> {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.0.flush()
    }
}

struct Zstd<W: Write>(zstd::Encoder<'static, W>);

impl<W: Write> Write for Zstd<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<W: Write + Send> FinishWrite for Zstd<W> {
    fn finish(self: Box<Self>) -> io::Result<()> {
        self.0.finish()?.flush()
    }
}

struct Xz<W: Write>(xz2::write::XzEncoder<W>);

fn xz_encoder<W: Write>(out: W, level: u32) -> io::Result<xz2::write::XzEncoder<W>> {
    let mut builder = xz2::stream::MtStreamBuilder::new();
    // A fixed block size makes the bytes independent of the number of threads.
    builder.preset(level).threads(workers() as u32).block_size(16 << 20).check(xz2::stream::Check::Crc64);
    Ok(xz2::write::XzEncoder::new_stream(out, builder.encoder()?))
}

impl<W: Write> Write for Xz<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<W: Write + Send> FinishWrite for Xz<W> {
    fn finish(self: Box<Self>) -> io::Result<()> {
        self.0.finish()?.flush()
    }
}

const BLOCK_BYTES: usize = 1 << 20;

/// One gzip member whose blocks are deflated side by side.
struct Gzip<W> {
    out: W,
    level: u32,
    block: Vec<u8>,
    crc: flate2::Crc,
    /// Blocks under way, first come first.
    under_way: std::collections::VecDeque<Receiver<io::Result<Vec<u8>>>>,
    jobs: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

struct Job {
    block: Vec<u8>,
    last: bool,
    answer: SyncSender<io::Result<Vec<u8>>>,
}

impl<W: Write> Gzip<W> {
    fn new(mut out: W, level: u32) -> io::Result<Self> {
        out.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff])?;
        let (jobs, queue) = sync_channel::<Job>(workers() * 2);
        let queue = std::sync::Arc::new(std::sync::Mutex::new(queue));
        let threads = (0..workers())
            .map(|_| {
                let queue = std::sync::Arc::clone(&queue);
                std::thread::spawn(move || work(&queue, level))
            })
            .collect();
        Ok(Self {
            out,
            level,
            block: Vec::with_capacity(BLOCK_BYTES),
            crc: flate2::Crc::new(),
            under_way: std::collections::VecDeque::new(),
            jobs: Some(jobs),
            threads,
        })
    }

    fn submit(&mut self, last: bool) -> io::Result<()> {
        let block = std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK_BYTES));
        let (answer, result) = sync_channel(1);
        self.under_way.push_back(result);
        let gone = || io::Error::other("a compression thread ended early");
        self.jobs.as_ref().ok_or_else(gone)?.send(Job { block, last, answer }).map_err(|_| gone())?;
        while self.under_way.len() > if last { 0 } else { workers() * 2 } {
            let Some(next) = self.under_way.pop_front() else { break };
            let bytes = next.recv().map_err(|_| gone())??;
            self.out.write_all(&bytes)?;
        }
        Ok(())
    }
}

fn work(queue: &std::sync::Mutex<Receiver<Job>>, level: u32) {
    loop {
        let job = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // The receiver is gone only when the writer failed: its error is the one that counts.
        let _ = job.answer.send(deflate(&job.block, job.last, level));
    }
}

fn deflate(block: &[u8], last: bool, level: u32) -> io::Result<Vec<u8>> {
    use flate2::{Compress, FlushCompress, Status};
    let mut compress = Compress::new(flate2::Compression::new(level), false);
    let mut out = Vec::with_capacity(block.len() / 2 + 1024);
    let flush = if last { FlushCompress::Finish } else { FlushCompress::Sync };
    loop {
        let from = compress.total_in() as usize;
        let before = out.len();
        let status = compress.compress_vec(&block[from..], &mut out, flush).map_err(io::Error::other)?;
        let all_in = compress.total_in() as usize == block.len();
        let done = status == Status::StreamEnd || (!last && all_in && out.len() < out.capacity());
        if done {
            return Ok(out);
        }
        if out.len() == out.capacity() || out.len() == before {
            out.reserve(64 << 10);
        }
    }
}

impl<W: Write> Write for Gzip<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = BLOCK_BYTES - self.block.len();
        let taken = &bytes[..bytes.len().min(room)];
        self.block.extend_from_slice(taken);
        self.crc.update(taken);
        if self.block.len() == BLOCK_BYTES {
            self.submit(false)?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write + Send> FinishWrite for Gzip<W> {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        debug_assert!(self.level <= 9);
        self.submit(true)?;
        self.jobs = None;
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| io::Error::other("a compression thread panicked"))?;
        }
        self.out.write_all(&self.crc.sum().to_le_bytes())?;
        self.out.write_all(&self.crc.amount().to_le_bytes())?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests;
