//! The journal: the truth. Records in order, in preallocated segments, one fsync for many of them.
//!
//! [`JournalWriter`] is the end that the books append to, under their lock: it encodes the record into a buffer and
//! returns. A thread of its own takes the buffer, writes it as one frame, syncs it, and wakes who waits for it
//! through [`Journal::durable`].
//!
//! A write or a sync that fails poisons the journal for the life of the process. It is never tried again: after a
//! failed fsync the kernel may have dropped the pages and would report success (ATC'20, "Can Applications Recover from
//! fsync Failures?").

mod former;
pub mod frame;
pub mod segment;
pub mod tail;

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tollgate_ledger::{Log, LogUnavailable, Record};

use crate::fault;

use self::frame::{Chain, Kind};
use self::segment::{End, Start};

/// How the journal behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Size of one segment, in bytes. Two of them are on disk at least: the one in use and a spare.
    pub segment_bytes: usize,
    /// How long a commit waits for company once commits have proved to come in crowds.
    pub gather: Duration,
}

/// The end that waits: cheap to clone, shared by all requests.
#[derive(Clone, Debug)]
pub struct Journal {
    shared: Arc<Shared>,
}

/// The end that appends. There is one, inside the books.
#[derive(Debug)]
pub struct JournalWriter {
    shared: Arc<Shared>,
    next: u64,
}

/// The thread that writes; stops when told, after everything appended is durable.
#[derive(Debug)]
pub struct JournalThread {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Completes when a record is durable, or can never be.
#[derive(Debug)]
pub struct Durable {
    shared: Arc<Shared>,
    sequence: u64,
}

/// Sequence number of a record: 1 is the first ever.
pub type Sequence = u64;

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    options: Options,
    buffer: Mutex<Buffer>,
    buffered: Condvar,
    /// Sequence number of the last durable record.
    durable: AtomicU64,
    poisoned: AtomicBool,
    poison: Mutex<Option<String>>,
    waiting: Mutex<Vec<(Sequence, Waker)>>,
    /// Bytes left in the segment in use.
    room: AtomicUsize,
    spare: Mutex<Spare>,
    spare_changed: Condvar,
}

#[derive(Debug, Default)]
struct Buffer {
    payload: Vec<u8>,
    /// Where each record ends in `payload`.
    ends: Vec<usize>,
    first: Sequence,
    /// Bytes that were taken from here and are being written: they may not count as written yet.
    being_written: usize,
    stop: bool,
}

/// The segment after the one in use.
#[derive(Debug, Default)]
struct Spare {
    ready: Option<File>,
    /// The writing thread has taken the spare and is about to use it.
    beginning: bool,
    wanted: bool,
    error: Option<String>,
    stop: bool,
}

/// What the writing thread holds for itself.
struct Writing {
    shared: Arc<Shared>,
    file: File,
    index: u64,
    offset: usize,
    /// Sequence number of the next record to be written.
    next: Sequence,
    chain: Chain,
    scratch: Vec<u8>,
}

/// Held by a thread of the journal. If it panics nothing is written any more, and who waits must not wait for ever.
struct Alarm(Arc<Shared>);

/// Room that is kept for one open reservation to end in: a posting is some 70 bytes, and its frame 64 if alone.
const BYTES_PER_OPEN: usize = 256;
/// Room that is kept beside that, for recovery and sweeps.
const BYTES_KEPT: usize = 64 * 1024;
/// A crowd: from this many records in a commit on, the next one waits a moment for company.
const CROWD: usize = 6;
/// Smallest segment that can hold its own reserve many times over.
pub const SEGMENT_BYTES_MIN: usize = 256 * 1024;
/// How long to wait before trying again to make a spare segment on a full disk.
const SPARE_RETRY: Duration = Duration::from_millis(500);

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 32 * 1024 * 1024, gather: Duration::from_micros(300) }
    }
}

// === impl Journal ===

impl Journal {
    /// Continues the journal in `dir` where `tail` says that it ends; `None` begins a new one.
    pub fn start(
        dir: &Path,
        options: Options,
        tail: Option<(u64, End)>,
    ) -> io::Result<(Self, JournalWriter, JournalThread)> {
        let spare_path = spare_path(dir);
        let (file, index, end) = match tail {
            Some((index, end)) => (reopen(dir, index, &end)?, index, end),
            None => {
                let start = Start { index: 1, first: 1, chain: [0; 32] };
                let file = segment::preallocate(&spare_path, options.segment_bytes)?;
                segment::begin(&file, &spare_path, dir, &start)?;
                let offset = segment::HEADER_BYTES;
                (file, 1, End { offset, next: 1, chain: start.chain, sealed: false, torn: false })
            }
        };
        let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            options,
            buffer: Mutex::new(Buffer { first: end.next, ..Buffer::default() }),
            buffered: Condvar::new(),
            durable: AtomicU64::new(end.next - 1),
            poisoned: AtomicBool::new(false),
            poison: Mutex::new(None),
            waiting: Mutex::new(Vec::new()),
            room: AtomicUsize::new(size.saturating_sub(end.offset)),
            spare: Mutex::new(Spare { wanted: true, ..Spare::default() }),
            spare_changed: Condvar::new(),
        });
        let writing = Writing {
            shared: Arc::clone(&shared),
            file,
            index,
            offset: end.offset,
            next: end.next,
            chain: end.chain,
            scratch: Vec::new(),
        };
        let threads = vec![
            thread::Builder::new().name("journal".into()).spawn(move || writing.run(end.sealed))?,
            thread::Builder::new().name("journal-spare".into()).spawn({
                let shared = Arc::clone(&shared);
                move || make_spares(&shared)
            })?,
        ];
        let writer = JournalWriter { shared: Arc::clone(&shared), next: end.next };
        Ok((Self { shared: Arc::clone(&shared) }, writer, JournalThread { shared, threads }))
    }

    /// Waits until the record is durable. Fails, and goes on failing, once the journal is poisoned.
    pub fn durable(&self, sequence: Sequence) -> Durable {
        Durable { shared: Arc::clone(&self.shared), sequence }
    }

    /// Sequence number of the last durable record.
    pub fn durable_sequence(&self) -> Sequence {
        self.shared.durable.load(Ordering::Acquire)
    }

    /// Why no new work is taken on, if it is not.
    pub fn health(&self) -> Result<(), LogUnavailable> {
        self.shared.health()
    }

    /// Waits as [`Journal::durable`] does, blocking this thread. For the command line and for starting up.
    pub fn wait_durable(&self, sequence: Sequence) -> Result<(), LogUnavailable> {
        struct Unpark(thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut durable = std::pin::pin!(self.durable(sequence));
        loop {
            match durable.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(result) => return result,
                Poll::Pending => thread::park(),
            }
        }
    }
}

/// Opens the last segment for writing and clears what a crash left after its last whole frame.
#[expect(clippy::disallowed_methods, reason = "the store is the room that writes files")]
fn reopen(dir: &Path, index: u64, end: &End) -> io::Result<File> {
    let file = File::options().read(true).write(true).open(segment::path_of(dir, index))?;
    if end.torn {
        let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        fault::write("journal::reopen-clear", &vec![0; size - end.offset], |zeros| {
            file.write_all_at(zeros, end.offset as u64)
        })?;
    }
    // What was read may have come from memory alone: after a failed fsync the kernel holds pages that it takes for clean
    // and that are not on the disk. Written once more they are dirty again, and the sync means something.
    let mut whole = vec![0; end.offset];
    file.read_exact_at(&mut whole, 0)?;
    fault::write("journal::reopen-write", &whole, |whole| file.write_all_at(whole, 0))?;
    fault::pass("journal::reopen-sync")?;
    file.sync_all()?;
    fault::pass("journal::reopened")?;
    Ok(file)
}

fn spare_path(dir: &Path) -> PathBuf {
    dir.join("spare")
}

// === impl JournalWriter ===

impl Log for JournalWriter {
    type Position = Sequence;

    fn has_room(&self, open: usize) -> Result<(), LogUnavailable> {
        let shared = &self.shared;
        if shared.poisoned.load(Ordering::Acquire) {
            return shared.health();
        }
        let (buffered, being_written) = {
            let buffer = lock(&shared.buffer);
            (buffer.payload.len(), buffer.being_written)
        };
        if buffered > shared.options.segment_bytes / 4 {
            return Err(LogUnavailable("the disk does not keep up".to_owned()));
        }
        let needed = buffered + being_written + open.saturating_add(1) * BYTES_PER_OPEN + BYTES_KEPT;
        if shared.room.load(Ordering::Acquire) >= needed {
            return Ok(());
        }
        // The segment in use is nearly full: go on only if the next one is there already.
        let spare = lock(&shared.spare);
        match (&spare.ready, &spare.error) {
            (Some(_), _) => Ok(()),
            _ if spare.beginning => Ok(()),
            (None, Some(error)) => Err(LogUnavailable(error.clone())),
            (None, None) => Err(LogUnavailable("the next segment is not ready yet".to_owned())),
        }
    }

    fn is_writable(&self) -> Result<(), LogUnavailable> {
        self.shared.health()
    }

    fn append(&mut self, record: &Record) -> Sequence {
        let sequence = self.next;
        self.next += 1;
        let mut buffer = lock(&self.shared.buffer);
        let was_empty = buffer.ends.is_empty();
        frame::encode_record(record, &mut buffer.payload);
        let end = buffer.payload.len();
        buffer.ends.push(end);
        drop(buffer);
        if was_empty {
            self.shared.buffered.notify_one();
        }
        sequence
    }
}

// === impl JournalThread ===

impl JournalThread {
    /// Makes everything appended durable and ends the threads.
    pub fn stop(mut self) {
        self.stop_threads();
    }

    fn stop_threads(&mut self) {
        lock(&self.shared.buffer).stop = true;
        self.shared.buffered.notify_one();
        lock(&self.shared.spare).stop = true;
        self.shared.spare_changed.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a journal thread panicked");
            }
        }
    }
}

impl Drop for JournalThread {
    fn drop(&mut self) {
        self.stop_threads();
    }
}

// === impl Durable ===

impl Future for Durable {
    type Output = Result<(), LogUnavailable>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let shared = &self.shared;
        if let Some(result) = shared.settled(self.sequence) {
            return Poll::Ready(result);
        }
        let mut waiting = lock(&shared.waiting);
        // Looked at again under the lock that the writing thread wakes under: no wake-up can fall between.
        if let Some(result) = shared.settled(self.sequence) {
            return Poll::Ready(result);
        }
        waiting.push((self.sequence, context.waker().clone()));
        Poll::Pending
    }
}

// === impl Shared ===

impl Shared {
    fn settled(&self, sequence: Sequence) -> Option<Result<(), LogUnavailable>> {
        if self.durable.load(Ordering::Acquire) >= sequence {
            return Some(Ok(()));
        }
        self.poisoned.load(Ordering::Acquire).then(|| self.health())
    }

    fn health(&self) -> Result<(), LogUnavailable> {
        if !self.poisoned.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(LogUnavailable(lock(&self.poison).clone().unwrap_or_else(|| "poisoned".to_owned())))
    }

    fn made_durable(&self, sequence: Sequence) {
        self.durable.store(sequence, Ordering::Release);
        let ready: Vec<_> = lock(&self.waiting).extract_if(.., |(wanted, _)| *wanted <= sequence).collect();
        ready.into_iter().for_each(|(_, waker)| waker.wake());
    }

    fn poison(&self, reason: String) {
        tracing::error!(%reason, "the journal is poisoned: nothing more is taken on until a restart");
        lock(&self.poison).get_or_insert(reason);
        self.poisoned.store(true, Ordering::Release);
        let all = std::mem::take(&mut *lock(&self.waiting));
        all.into_iter().for_each(|(_, waker)| waker.wake());
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.poison("a thread of the journal panicked".to_owned());
        }
    }
}

// === impl Writing ===

impl Writing {
    fn run(mut self, begin_with_next: bool) {
        let _alarm = Alarm(Arc::clone(&self.shared));
        if begin_with_next && let Err(error) = self.next_segment() {
            self.shared.poison(format!("the next segment cannot be begun: {error}"));
            return;
        }
        let mut taken = Buffer::default();
        let mut crowd = 0;
        while self.take(&mut taken, crowd) {
            crowd = taken.ends.len();
            if let Err(error) = self.commit(&taken) {
                self.shared.poison(format!("writing the journal failed: {error}"));
                return;
            }
            let last = taken.first + taken.ends.len() as u64 - 1;
            self.shared.made_durable(last);
            if let Err(error) = fault::pass("journal::after-durable") {
                self.shared.poison(format!("after a commit: {error}"));
                return;
            }
        }
    }

    /// Waits for records and takes them all. False when told to stop and nothing is left.
    fn take(&self, taken: &mut Buffer, crowd: usize) -> bool {
        let shared = &self.shared;
        taken.payload.clear();
        taken.ends.clear();
        let mut buffer = lock(&shared.buffer);
        buffer.being_written = 0;
        while buffer.ends.is_empty() {
            if buffer.stop {
                return false;
            }
            buffer = shared.buffered.wait(buffer).unwrap_or_else(PoisonError::into_inner);
        }
        if crowd >= CROWD && buffer.ends.len() < crowd && !buffer.stop {
            drop(buffer);
            thread::park_timeout(shared.options.gather);
            buffer = lock(&shared.buffer);
        }
        let next = buffer.first + buffer.ends.len() as u64;
        taken.first = std::mem::replace(&mut buffer.first, next);
        std::mem::swap(&mut taken.payload, &mut buffer.payload);
        std::mem::swap(&mut taken.ends, &mut buffer.ends);
        buffer.being_written = taken.payload.len();
        true
    }

    /// Writes the records as frames, as few as fit, and syncs.
    fn commit(&mut self, taken: &Buffer) -> io::Result<()> {
        let (mut record, mut from) = (0, 0);
        while record < taken.ends.len() {
            let room = self.room_for_payload();
            let fit = taken.ends[record..].iter().take_while(|end| **end - from <= room).count();
            if fit == 0 {
                fault::pass("segment::full-sync")?;
                self.file.sync_data()?;
                self.seal()?;
                self.next_segment()?;
                continue;
            }
            let to = taken.ends[record + fit - 1];
            self.write(Kind::Records, taken.first + record as u64, fit, &taken.payload[from..to])?;
            record += fit;
            from = to;
        }
        fault::pass("journal::before-sync")?;
        self.file.sync_data()?;
        fault::pass("journal::after-sync")
    }

    /// Payload bytes that fit, leaving place for the seal.
    fn room_for_payload(&self) -> usize {
        self.shared.room.load(Ordering::Acquire).saturating_sub(2 * frame::HEADER_BYTES)
    }

    fn write(&mut self, kind: Kind, first: Sequence, count: usize, payload: &[u8]) -> io::Result<()> {
        let count = u32::try_from(count).map_err(io::Error::other)?;
        self.scratch.clear();
        let chain = frame::encode(kind, first, count, payload, &self.chain, &mut self.scratch);
        let point = match kind {
            Kind::Records => "journal::before-write",
            Kind::Seal => "segment::seal-write",
        };
        fault::write(point, &self.scratch, |frame| self.file.write_all_at(frame, self.offset as u64))?;
        self.chain = chain;
        self.next = first + u64::from(count);
        self.offset += self.scratch.len();
        self.shared.room.fetch_sub(self.scratch.len(), Ordering::AcqRel);
        Ok(())
    }

    fn seal(&mut self) -> io::Result<()> {
        self.write(Kind::Seal, self.next, 0, &[])?;
        fault::pass("segment::seal-sync")?;
        self.file.sync_data()?;
        fault::pass("segment::sealed")
    }

    /// Begins the next segment in the spare, waiting for one to be made if there is none.
    fn next_segment(&mut self) -> io::Result<()> {
        let start = Start { index: self.index + 1, first: self.next, chain: self.chain };
        let mut spare = lock(&self.shared.spare);
        let file = loop {
            if let Some(file) = spare.ready.take() {
                spare.beginning = true;
                break file;
            }
            if spare.stop {
                return Err(io::Error::other("stopped while waiting for disk space"));
            }
            spare = self.shared.spare_changed.wait(spare).unwrap_or_else(PoisonError::into_inner);
        };
        // Reservations look at the spare under the books' lock: they must not wait for these two syncs.
        drop(spare);
        segment::begin(&file, &spare_path(&self.shared.dir), &self.shared.dir, &start)?;
        let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        self.shared.room.store(size - segment::HEADER_BYTES, Ordering::Release);
        let mut spare = lock(&self.shared.spare);
        (spare.beginning, spare.wanted) = (false, true);
        drop(spare);
        self.shared.spare_changed.notify_all();
        self.file = file;
        self.index = start.index;
        self.offset = segment::HEADER_BYTES;
        Ok(())
    }
}

/// Keeps one spare segment ready. A full disk is tried again and again: making a file, unlike an fsync, may be.
fn make_spares(shared: &Arc<Shared>) {
    let _alarm = Alarm(Arc::clone(shared));
    let path = spare_path(&shared.dir);
    let mut spare = lock(&shared.spare);
    loop {
        while !(spare.wanted || spare.stop) {
            spare = shared.spare_changed.wait(spare).unwrap_or_else(PoisonError::into_inner);
        }
        if spare.stop {
            return;
        }
        drop(spare);
        let made = segment::preallocate(&path, shared.options.segment_bytes);
        spare = lock(&shared.spare);
        match made {
            Ok(file) => {
                (spare.ready, spare.wanted, spare.error) = (Some(file), false, None);
                shared.spare_changed.notify_all();
            }
            Err(error) => {
                give_back(&path);
                let reason = format!("no room for the next journal segment: {error}");
                if spare.error.is_none() {
                    tracing::error!(%reason);
                }
                spare.error = Some(reason);
                let waited = shared.spare_changed.wait_timeout(spare, SPARE_RETRY);
                spare = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}

/// A spare that could not be made whole gives its space back, so that others may end their work in it.
#[expect(clippy::disallowed_methods, reason = "the store is the room that writes files")]
fn give_back(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "the unfinished spare segment could not be removed");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
