//! Keeps the view and the audit log behind the journal: a thread that reads what became durable and writes it to both in
//! batches. It also has a snapshot made whenever a segment was sealed. Nothing waits for it during a request; if one of them
//! fails, it says so and tries again, and the other and the journal go on.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tollgate_audit::entry::Whose;
use tollgate_ledger::{Books, Record};
use tollgate_types::TenantId;
use tollgate_types::clock::Stopwatch;

use crate::audit::writer::AuditWriter;
use crate::audit::{self, AuditError};
use crate::fault;
use crate::journal::frame::FrameError;
use crate::journal::segment::SegmentError;
use crate::journal::tail::Tail;
use crate::journal::{Journal, JournalWriter, Sequence};
use crate::snapshot;
use crate::store::Layout;
use crate::vault::Vault;
use crate::view::{View, ViewError};

/// How long records may wait for company before they are written to the view.
const BATCH_EVERY: Duration = Duration::from_millis(500);
/// Records in one transaction of the view at most.
const BATCH_RECORDS_MAX: usize = 20_000;
/// A checkpoint of the audit log is signed so often at most, unless somebody waits for one.
const SIGN_EVERY: Duration = Duration::from_secs(1);
/// An audit log in trouble is opened again after so many batches: a second, or, if what was signed is contradicted, ten.
const REOPEN_ROUNDS: u32 = 2;
const REOPEN_CONTRADICTED_ROUNDS: u32 = 20;
/// A snapshot that failed is tried again after so many batches: some ten seconds.
const SNAPSHOT_RETRY_ROUNDS: u32 = 20;

/// Asks the projector; cheap to clone.
#[derive(Clone, Debug)]
pub struct Projector {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub struct ProjectorThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Last record that the view holds.
    position: Sequence,
    /// Somebody wants the view to be at least here, now.
    wanted: Sequence,
    error: Option<String>,
    /// The same for the audit log: what is signed of it, what somebody wants to be signed, and what is wrong.
    audited: Sequence,
    audit_wanted: Sequence,
    audit_error: Option<String>,
    stop: bool,
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    View(#[from] ViewError),
    #[error(transparent)]
    Journal(#[from] SegmentError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// The audit log's writer, and what it takes to open it again.
#[derive(Debug)]
pub struct Recorded {
    pub writer: AuditWriter,
    pub vault: Arc<Vault>,
    pub options: audit::Options,
    /// They know whose a key is.
    pub books: Arc<Books<JournalWriter>>,
}

/// The audit log as the thread keeps it.
struct Recording {
    recorded: Recorded,
    tail: Tail,
    /// When it was signed last.
    signed: Option<Stopwatch>,
    /// Rounds until it is opened again after trouble.
    pause: u32,
    in_trouble: bool,
}

/// What the thread holds for itself.
struct Projecting {
    layout: Layout,
    journal: Journal,
    shared: Arc<Shared>,
    recording: Recording,
    view: View,
    tail: Tail,
    /// Index of the newest segment that was sealed and is not in a snapshot yet.
    sealed: Option<u64>,
    /// Rounds until a snapshot that failed is tried again.
    snapshot_pause: u32,
}

// === impl Projector ===

impl Projector {
    /// Starts the thread.
    pub fn start(layout: &Layout, view: View, recorded: Recorded, journal: Journal) -> (Self, ProjectorThread) {
        let (position, audited) = (view.position(), recorded.writer.signed());
        let state = Mutex::new(State { position, audited, ..State::default() });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let recording = Recording::of(recorded, layout);
        let tail = Tail::after(layout.journal.clone(), view.position());
        let (layout, sealed, snapshot_pause) = (layout.clone(), None, 0);
        let projecting =
            Projecting { layout, journal, shared: Arc::clone(&shared), recording, view, tail, sealed, snapshot_pause };
        let thread = thread::Builder::new().name("projector".into()).spawn(move || projecting.run());
        let thread = thread.expect("a thread can be made at start-up");
        (Self { shared: Arc::clone(&shared) }, ProjectorThread { shared, thread: Some(thread) })
    }

    /// Waits, blocking this thread, until the view holds everything up to `sequence`. False if it did not within `patience`.
    pub fn catch_up(&self, sequence: Sequence, patience: Duration) -> bool {
        let mut state = self.shared.lock();
        state.wanted = state.wanted.max(sequence);
        self.shared.changed.notify_all();
        let waited =
            self.shared.changed.wait_timeout_while(state, patience, |state| state.position < sequence && !state.stop);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.position >= sequence
    }

    /// Waits, blocking this thread, until the audit log holds everything up to `sequence` and a signed checkpoint says so. False
    /// if it did not within `patience`.
    pub fn catch_up_audit(&self, sequence: Sequence, patience: Duration) -> bool {
        let mut state = self.shared.lock();
        state.audit_wanted = state.audit_wanted.max(sequence);
        self.shared.changed.notify_all();
        let waited =
            self.shared.changed.wait_timeout_while(state, patience, |state| state.audited < sequence && !state.stop);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.audited >= sequence
    }

    /// Why the audit log does not follow, if it does not.
    pub fn audit_trouble(&self) -> Option<String> {
        self.shared.lock().audit_error.clone()
    }

    /// Why the view does not follow, if it does not.
    pub fn trouble(&self) -> Option<String> {
        self.shared.lock().error.clone()
    }
}

/// Opens the view, or makes it anew where it is unusable: the journal has everything.
pub fn open_view(path: &Path) -> Result<View, ViewError> {
    match View::open(path) {
        Err(ViewError::Rebuild(reason)) => {
            tracing::warn!(%reason, "the view is made again from the journal");
            View::create_anew(path)
        }
        opened => opened,
    }
}

/// Lowers the priority of this thread: writing a batch takes milliseconds, which requests need not wait for.
fn step_back() {
    const NICER: i32 = 10;
    // On Linux no process id means the calling thread.
    if let Err(error) = rustix::process::setpriority_process(None, NICER) {
        tracing::debug!(%error, "the projector keeps its priority");
    }
}

// === impl ProjectorThread ===

impl ProjectorThread {
    /// Brings the view up to the journal and ends the thread.
    pub fn stop(mut self) {
        self.stop_thread();
    }

    fn stop_thread(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the projector thread panicked");
        }
    }
}

impl Drop for ProjectorThread {
    fn drop(&mut self) {
        self.stop_thread();
    }
}

// === impl Projecting ===

impl Projecting {
    fn run(mut self) {
        step_back();
        loop {
            let (stopping, sign) = self.wait();
            if stopping {
                self.recording.pause = 0;
            }
            let (viewed, audited) = self.follow();
            let viewed = viewed.and_then(|()| self.make_snapshot(stopping));
            let audited = audited.and_then(|()| self.recording.sign(sign || stopping));
            self.tell_view(viewed);
            self.tell_audit(audited);
            self.shared.changed.notify_all();
            if stopping {
                return;
            }
        }
    }

    /// Notes how the view's round went, and mends it if it must be.
    fn tell_view(&mut self, outcome: Result<(), Trouble>) {
        let mut state = self.shared.lock();
        match outcome {
            Ok(()) => state.error = None,
            Err(trouble) => {
                let text = trouble.to_string();
                if state.error.as_ref() != Some(&text) {
                    tracing::error!(error = %text, "the view does not follow the journal; trying again");
                }
                state.error = Some(text);
                drop(state);
                self.mend(&trouble);
                state = self.shared.lock();
                // Read again from what the view really holds.
                self.tail = Tail::after(self.layout.journal.clone(), self.view.position());
            }
        }
        state.position = self.view.position();
        // Whoever wants more than is durable waits for the next batch.
        state.wanted = state.position;
    }

    fn tell_audit(&mut self, outcome: Result<(), Trouble>) {
        let mut state = self.shared.lock();
        match outcome {
            Ok(()) if self.recording.in_trouble => {}
            Ok(()) => state.audit_error = None,
            Err(trouble) => {
                let text = trouble.to_string();
                if state.audit_error.as_ref() != Some(&text) {
                    tracing::error!(error = %text, "the audit log does not follow the journal; trying again");
                }
                state.audit_error = Some(text);
                let contradicted = matches!(trouble, Trouble::Audit(AuditError::Contradiction { .. }));
                self.recording.pause = if contradicted { REOPEN_CONTRADICTED_ROUNDS } else { REOPEN_ROUNDS };
                self.recording.in_trouble = true;
            }
        }
        state.audited = self.recording.recorded.writer.signed();
        state.audit_wanted = state.audited;
    }

    /// Waits for the next batch: whether to stop, and whether somebody waits for the audit log to be signed.
    fn wait(&self) -> (bool, bool) {
        let state = self.shared.lock();
        let idle = |state: &mut State| {
            let viewed = state.wanted <= state.position || state.error.is_some();
            let audited = state.audit_wanted <= state.audited || state.audit_error.is_some();
            !state.stop && viewed && audited
        };
        let waited = self.shared.changed.wait_timeout_while(state, BATCH_EVERY, idle);
        let state = waited.unwrap_or_else(PoisonError::into_inner).0;
        (state.stop, state.audit_wanted > state.audited)
    }

    /// Brings both up to what is durable, in turns: where one has much to do, or is in trouble, the other need not wait.
    fn follow(&mut self) -> (Result<(), Trouble>, Result<(), Trouble>) {
        let (mut viewed, mut audited) = (Ok(true), self.recording.mend(&self.layout, &self.journal));
        while matches!(viewed, Ok(true)) || matches!(audited, Ok(true)) {
            if matches!(audited, Ok(true)) {
                audited = self.recording.record(&self.journal);
            }
            if matches!(viewed, Ok(true)) {
                viewed = self.project();
            }
        }
        (viewed.map(|_| ()), audited.map(|_| ()))
    }

    /// Writes a batch to the view; whether there may be more.
    fn project(&mut self) -> Result<bool, Trouble> {
        let batch = self.next_batch()?;
        if batch.is_empty() {
            return Ok(false);
        }
        fault::pass("view::before-apply")?;
        self.view.apply(&batch)?;
        fault::pass("view::after-apply")?;
        self.shared.lock().position = self.view.position();
        self.shared.changed.notify_all();
        Ok(true)
    }

    /// A view that is damaged is made again; one that contradicts the journal is, too, for the journal is the truth.
    fn mend(&mut self, trouble: &Trouble) {
        if let Trouble::View(ViewError::Rebuild(_) | ViewError::Contradiction { .. }) = trouble {
            match View::create_anew(&self.layout.view) {
                Ok(view) => self.view = view,
                Err(error) => tracing::error!(%error, "the view cannot be made again"),
            }
        }
    }

    fn next_batch(&mut self) -> Result<Vec<(Sequence, Record)>, Trouble> {
        let batch = batch_of(&mut self.tail, &self.journal)?;
        self.sealed = self.tail.sealed().or(self.sealed);
        Ok(batch)
    }

    /// Makes a snapshot if a segment was sealed. Reading segments costs, so one that failed is not tried in every round.
    fn make_snapshot(&mut self, stopping: bool) -> Result<(), Trouble> {
        let Some(sealed) = self.sealed else { return Ok(()) };
        self.snapshot_pause = self.snapshot_pause.saturating_sub(1);
        if self.snapshot_pause > 0 && !stopping {
            return Ok(());
        }
        self.snapshot_pause = SNAPSHOT_RETRY_ROUNDS;
        snapshot::advance(&self.layout.snapshots, &self.layout.journal, sealed)?;
        (self.sealed, self.snapshot_pause) = (None, 0);
        Ok(())
    }
}

/// What is durable and comes next, if not too much of it.
fn batch_of(tail: &mut Tail, journal: &Journal) -> Result<Vec<(Sequence, Record)>, Trouble> {
    let durable = journal.durable_sequence();
    let mut batch = Vec::new();
    while batch.len() < BATCH_RECORDS_MAX {
        let Some(mut records) = tail.next(durable)? else { break };
        batch.append(&mut records);
    }
    Ok(batch)
}

// === impl Recording ===

impl Recording {
    fn of(recorded: Recorded, layout: &Layout) -> Self {
        let tail = Tail::after(layout.journal.clone(), recorded.writer.position());
        Self { recorded, tail, signed: None, pause: 0, in_trouble: false }
    }

    /// Writes a batch to the audit log; whether there may be more.
    fn record(&mut self, journal: &Journal) -> Result<bool, Trouble> {
        let batch = batch_of(&mut self.tail, journal)?;
        if batch.is_empty() {
            return Ok(false);
        }
        let Recorded { writer, books, .. } = &mut self.recorded;
        let owner = |whose: Whose<'_>| -> Option<TenantId> {
            books.with_directory(|directory| match whose {
                Whose::Key(id) => directory.key(id).ok().map(|key| key.tenant.clone()),
                Whose::ServiceKey(id) => directory.service_key(id).ok().and_then(|key| key.tenant.clone()),
            })
        };
        writer.append(&batch, &owner)?;
        Ok(true)
    }

    fn sign(&mut self, now: bool) -> Result<(), Trouble> {
        let writer = &mut self.recorded.writer;
        let due = self.signed.is_none_or(|signed| signed.elapsed() >= SIGN_EVERY);
        if self.in_trouble || writer.signed() >= writer.position() || !(now || due) {
            return Ok(());
        }
        writer.sign()?;
        self.signed = Some(Stopwatch::start());
        Ok(())
    }

    /// After trouble, and a while, opens the log again: what was written is read from its files. Whether it can be written to.
    fn mend(&mut self, layout: &Layout, journal: &Journal) -> Result<bool, Trouble> {
        if !self.in_trouble {
            return Ok(true);
        }
        self.pause = self.pause.saturating_sub(1);
        if self.pause > 0 {
            return Ok(false);
        }
        let Recorded { vault, options, .. } = &self.recorded;
        let durable = journal.durable_sequence();
        self.recorded.writer = AuditWriter::open(&layout.audit, vault.audit_key(), options, durable)?;
        self.tail = Tail::after(layout.journal.clone(), self.recorded.writer.position());
        self.in_trouble = false;
        Ok(true)
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
