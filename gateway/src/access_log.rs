//! The access log: one JSON line a request, written off the hot path.
//!
//! A worker formats its lines into a buffer of its own and hands it on when it is full or a moment has passed; one
//! thread writes. The way between them is bounded: when the disk or the reader of standard output is too slow, lines
//! are dropped and counted, and requests go on.

mod choice;
mod line;

use std::{
    cell::RefCell,
    fs::{File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
pub use choice::{ALL, Choice, Field};

use crate::{config::access_log::Destination, record::Record};

/// A worker hands its buffer on when it holds so many bytes, about 100 lines.
const BUFFER_BYTES: usize = 32 << 10;
/// Buffers on their way to the writer: 64 × 32 KiB = 2 MiB at most.
const BUFFERS_MAX: usize = 64;

/// Where workers leave their lines.
#[derive(Debug)]
pub struct AccessLog {
    writer: Option<SyncSender<Order>>,
    /// [`ALL`], where none is set.
    choice: ArcSwapOption<Choice>,
    lines: AtomicU64,
    dropped: AtomicU64,
    errors: AtomicU64,
}

enum Order {
    Lines(Lines),
    Reopen,
    /// Write what was ordered before, and answer.
    Finish(SyncSender<()>),
}

#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    count: u64,
}

/// No log.
pub static OFF: AccessLog = AccessLog::with(None);

thread_local! {
    static BUFFER: RefCell<Option<Lines>> = const { RefCell::new(None) };
}

impl AccessLog {
    const fn with(writer: Option<SyncSender<Order>>) -> Self {
        Self {
            writer,
            choice: ArcSwapOption::const_empty(),
            lines: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        }
    }

    /// Opens the destination, and starts the thread that writes to it.
    ///
    /// # Errors
    /// The file cannot be opened, or no thread started.
    pub fn start(destination: &Destination) -> io::Result<&'static Self> {
        let sink = match destination {
            Destination::Off => return Ok(&OFF),
            Destination::Stdout => Sink::Stdout(io::stdout()),
            Destination::File(path) => Sink::File(path.clone(), open(path)?),
        };
        let (writer, orders) = sync_channel(BUFFERS_MAX);
        // One for the process, as long as it lives; the writer counts into it.
        let log: &'static Self = Box::leak(Box::new(Self::with(Some(writer))));
        thread::Builder::new().name("access-log".into()).spawn(move || log.write(sink, &orders))?;
        Ok(log)
    }

    /// Notes a request that is over.
    pub fn note(&self, record: &Record) {
        if self.writer.is_none() {
            return;
        }
        let choice = self.choice.load();
        let choice = choice.as_deref().unwrap_or(&ALL);
        if choice.takes(record) {
            self.append(|out| line::write(out, record, SystemTime::now(), choice));
        }
    }

    /// Which requests have a line from now on, and what stands in it.
    pub fn choose(&self, choice: &Choice) {
        if self.writer.is_some() {
            self.choice.store((*choice != ALL).then(|| Arc::new(choice.clone())));
        }
    }

    /// Lets lines of this thread wait for each other; whoever asks for it calls [`Self::hand_on`] from time to time.
    pub fn buffer_here() {
        BUFFER.with_borrow_mut(|buffer| *buffer = Some(Lines::default()));
    }

    /// Hands this thread's lines to the writer.
    pub fn hand_on(&self) {
        let lines = BUFFER.with_borrow_mut(|buffer| buffer.as_mut().map(std::mem::take));
        if let Some(lines) = lines.filter(|lines| lines.count > 0) {
            self.send(lines);
        }
    }

    /// Opens the file anew, after it was moved away.
    pub fn reopen(&self) {
        if let Some(writer) = &self.writer {
            // A writer that is so far behind is asked again by the next signal; it is counted as an error.
            if writer.try_send(Order::Reopen).is_err() {
                self.errors.fetch_add(1, Relaxed);
            }
        }
    }

    /// Waits until all that was handed on is written, at most for `patience`.
    pub fn finish(&self, patience: Duration) {
        self.hand_on();
        let Some(writer) = &self.writer else { return };
        let (done, finished) = sync_channel(1);
        if writer.try_send(Order::Finish(done)).is_ok() {
            let _ = finished.recv_timeout(patience).inspect_err(|error| {
                debug_assert!(matches!(error, RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected));
            });
        }
    }

    /// Lines handed to the writer.
    pub fn lines(&self) -> u64 {
        self.lines.load(Relaxed)
    }

    /// Lines dropped because the writer was too slow.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Failures to write or to open the file.
    pub fn errors(&self) -> u64 {
        self.errors.load(Relaxed)
    }

    fn append(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let full = BUFFER.with_borrow_mut(|buffer| match buffer {
            Some(lines) => {
                if lines.bytes.capacity() == 0 {
                    lines.bytes.reserve(BUFFER_BYTES + 1024);
                }
                write(&mut lines.bytes);
                lines.count += 1;
                (lines.bytes.len() >= BUFFER_BYTES).then(|| std::mem::take(lines))
            }
            None => {
                let mut lines = Lines { bytes: Vec::new(), count: 1 };
                write(&mut lines.bytes);
                Some(lines)
            }
        });
        if let Some(lines) = full {
            self.send(lines);
        }
    }

    fn send(&self, lines: Lines) {
        let Some(writer) = &self.writer else { return };
        let count = lines.count;
        match writer.try_send(Order::Lines(lines)) {
            Ok(()) => self.lines.fetch_add(count, Relaxed),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.fetch_add(count, Relaxed)
            }
        };
    }

    fn write(&self, mut sink: Sink, orders: &Receiver<Order>) {
        while let Ok(order) = orders.recv() {
            let written = match order {
                Order::Lines(lines) => sink.write(&lines.bytes),
                Order::Reopen => sink.reopen(),
                Order::Finish(done) => {
                    let _ = done.try_send(());
                    Ok(())
                }
            };
            if let Err(error) = written
                && self.errors.fetch_add(1, Relaxed) == 0
            {
                tracing::error!(%error, "cannot write the access log; further failures are only counted");
            }
        }
    }
}

enum Sink {
    Stdout(io::Stdout),
    File(PathBuf, File),
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => {
                let mut stdout = stdout.lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
            Self::File(_, file) => file.write_all(bytes),
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Self::File(path, file) = self {
            *file = open(path)?;
        }
        Ok(())
    }
}

fn open(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(log: &AccessLog, text: &str) {
        log.append(|out| out.extend_from_slice(text.as_bytes()));
    }

    #[test]
    fn lines_arrive_in_order_and_follow_a_rotated_file() {
        let directory = tempfile::tempdir().unwrap();
        let (path, old) = (directory.path().join("access.log"), directory.path().join("access.log.1"));
        let log = AccessLog::start(&Destination::File(path.clone())).unwrap();
        AccessLog::buffer_here();
        entry(log, "one\n");
        entry(log, "two\n");
        log.finish(Duration::from_secs(10));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        std::fs::rename(&path, &old).unwrap();
        entry(log, "three\n");
        log.finish(Duration::from_secs(10));
        log.reopen();
        entry(log, "four\n");
        log.finish(Duration::from_secs(10));
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "one\ntwo\nthree\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "four\n");
        assert_eq!((log.lines(), log.dropped(), log.errors()), (4, 0, 0));
    }

    #[test]
    fn a_slow_writer_costs_lines_and_not_time() {
        let (writer, orders) = sync_channel(1);
        let log = AccessLog::with(Some(writer));
        for _ in 0..3 {
            entry(&log, "line\n");
        }
        assert_eq!((log.lines(), log.dropped()), (1, 2));
        drop(orders);
        entry(&log, "line\n");
        assert_eq!(log.dropped(), 3);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_said_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing").join("access.log");
        assert!(AccessLog::start(&Destination::File(path)).is_err());
    }
}
