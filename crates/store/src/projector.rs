//! Keeps the view behind the journal: a thread that reads what became durable and writes it to SQLite in batches. It
//! also has a snapshot made whenever a segment was sealed. Nothing waits for it during a request; if it fails, it says
//! so and tries again, and the journal goes on.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tollgate_ledger::Record;

use crate::fault;
use crate::journal::frame::FrameError;
use crate::journal::segment::SegmentError;
use crate::journal::tail::Tail;
use crate::journal::{Journal, Sequence};
use crate::snapshot;
use crate::store::Layout;
use crate::view::{View, ViewError};

/// How long records may wait for company before they are written to the view.
const BATCH_EVERY: Duration = Duration::from_millis(500);
/// Records in one transaction of the view at most.
const BATCH_RECORDS_MAX: usize = 20_000;
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
    Io(#[from] std::io::Error),
}

/// What the thread holds for itself.
struct Projecting {
    layout: Layout,
    journal: Journal,
    shared: Arc<Shared>,
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
    pub fn start(layout: &Layout, view: View, journal: Journal) -> (Self, ProjectorThread) {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { position: view.position(), ..State::default() }),
            changed: Condvar::new(),
        });
        let tail = Tail::after(layout.journal.clone(), view.position());
        let (layout, sealed, snapshot_pause) = (layout.clone(), None, 0);
        let projecting =
            Projecting { layout, journal, shared: Arc::clone(&shared), view, tail, sealed, snapshot_pause };
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
            let stopping = self.wait();
            let outcome = self.project().and_then(|()| self.make_snapshot(stopping));
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
            drop(state);
            self.shared.changed.notify_all();
            if stopping {
                return;
            }
        }
    }

    /// Waits for the next batch; true when told to stop.
    fn wait(&self) -> bool {
        let state = self.shared.lock();
        let idle = |state: &mut State| !state.stop && (state.wanted <= state.position || state.error.is_some());
        let waited = self.shared.changed.wait_timeout_while(state, BATCH_EVERY, idle);
        waited.unwrap_or_else(PoisonError::into_inner).0.stop
    }

    fn project(&mut self) -> Result<(), Trouble> {
        loop {
            let batch = self.next_batch()?;
            if batch.is_empty() {
                return Ok(());
            }
            fault::pass("view::before-apply")?;
            self.view.apply(&batch)?;
            fault::pass("view::after-apply")?;
            self.shared.lock().position = self.view.position();
            self.shared.changed.notify_all();
        }
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
        let (durable, tail) = (self.journal.durable_sequence(), &mut self.tail);
        let mut batch = Vec::new();
        while batch.len() < BATCH_RECORDS_MAX {
            let Some(mut records) = tail.next(durable)? else { break };
            batch.append(&mut records);
        }
        self.sealed = tail.sealed().or(self.sealed);
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

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
