//! Reads the whole store again from its first record, in every way it can be read, and compares: the chain of hashes,
//! the ledger's own balances, each snapshot with the journal it stands for, and the view with the ledger.

use std::path::Path;

use tollgate_ledger::Audit;
use tollgate_types::{Basis, PicoSum};

use crate::journal::Sequence;
use crate::journal::frame::FrameError;
use crate::journal::segment::{self, SegmentError};
use crate::snapshot::{self, State};
use crate::store::Layout;
use crate::view::{ViewError, ViewTotals};

/// What was found.
#[derive(Clone, Debug)]
pub struct Report {
    pub records: Sequence,
    pub segments: usize,
    pub snapshots: usize,
    pub audit: Audit,
    /// Last record that the view holds; it may lag behind the journal.
    pub view_position: Option<Sequence>,
    /// Sum of the absolute differences of everything that ought to be equal, in picodollars.
    pub drift: PicoSum,
    /// What disagrees, in words.
    pub disagreements: Vec<String>,
    /// The process that wrote last did not end in order: its last write is not whole.
    pub torn: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Journal(#[from] SegmentError),
    #[error("the view: {0}")]
    View(#[from] ViewError),
    #[error("there is no journal in {0}; is this the [store] dir?")]
    NoJournal(String),
}

/// Verifies the store in `dir`, which may be in use: what is being written at this moment is not looked at.
pub fn verify(dir: &Path, mut progress: impl FnMut(u64, usize)) -> Result<Report, VerifyError> {
    let layout = Layout::of(dir);
    // The view first: the journal read afterwards holds at least what the view holds.
    let view = read_view(&layout)?;
    let segments = match segment::list(&layout.journal) {
        Ok(segments) if !segments.is_empty() => segments,
        _ => return Err(VerifyError::NoJournal(dir.display().to_string())),
    };
    let (snapshots, disagreements) = read_snapshots(&layout);
    let mut reading = Reading { state: State::default(), view, snapshots: &snapshots, disagreements, drift: 0 };
    let mut torn = false;
    for index in &segments {
        progress(*index, segments.len());
        let last = Some(index) == segments.last();
        let (_, end) = segment::read(&layout.journal, *index, last, |frame| reading.frame(frame))?;
        torn = end.torn;
    }
    reading.compare_unreached();
    let audit = reading.state.ledger.audit();
    if audit.drift.0 != 0 {
        reading.disagreements.push(format!("the ledger does not balance: {} USD", audit.drift));
    }
    Ok(Report {
        records: reading.state.sequence,
        segments: segments.len(),
        snapshots: snapshots.len(),
        drift: PicoSum(reading.drift + audit.drift.0),
        view_position: reading.view.as_ref().map(|(position, _)| *position),
        disagreements: reading.disagreements,
        audit,
        torn,
    })
}

struct Reading<'a> {
    state: State,
    view: Option<(Sequence, ViewTotals)>,
    snapshots: &'a [State],
    disagreements: Vec<String>,
    drift: i128,
}

fn read_view(layout: &Layout) -> Result<Option<(Sequence, ViewTotals)>, ViewError> {
    if !layout.view.exists() {
        return Ok(None);
    }
    let reader = match crate::view::Reader::open(&layout.view) {
        Ok(reader) => reader,
        Err(ViewError::Rebuild(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    reader.totals_at().map(Some)
}

/// The snapshots that can be read, and a word on each that cannot.
fn read_snapshots(layout: &Layout) -> (Vec<State>, Vec<String>) {
    let (mut states, mut unreadable) = (Vec::new(), Vec::new());
    for path in snapshot::list(&layout.snapshots) {
        match snapshot::read(&path) {
            Ok(state) => states.push(state),
            Err(error) => unreadable.push(format!("the snapshot {} cannot be read: {error}", path.display())),
        }
    }
    (states, unreadable)
}

// === impl Reading ===

impl Reading<'_> {
    fn frame(&mut self, frame: &crate::journal::frame::Frame<'_>) -> Result<(), FrameError> {
        for (sequence, record) in frame.records()? {
            self.state.apply(sequence, record)?;
            if self.view.as_ref().is_some_and(|(position, _)| *position == sequence) {
                self.compare_view();
            }
            self.compare_snapshot(sequence);
        }
        self.state.chain = frame.chain;
        Ok(())
    }

    fn compare_view(&mut self) {
        let Some((_, totals)) = &self.view else { return };
        let audit = self.state.ledger.audit();
        let pairs = [
            ("posted", totals.posted, audit.totals.posted),
            ("bounded", totals.bounded, audit.totals.bounded),
            ("overrun", totals.overrun, audit.totals.overrun),
            ("pending", totals.pending, audit.pending),
            ("indeterminate", totals.indeterminate, audit.indeterminate),
        ];
        for (name, viewed, kept) in pairs {
            for basis in [Basis::Cost, Basis::Charge] {
                let difference = viewed.of(basis).0 - kept.of(basis).0;
                if difference != 0 {
                    self.drift += difference.abs();
                    self.disagreements.push(format!("the view's {name} {basis} is off by {} USD", PicoSum(difference)));
                }
            }
        }
    }

    fn compare_snapshot(&mut self, sequence: Sequence) {
        let Some(snapshot) = self.snapshots.iter().find(|snapshot| snapshot.sequence == sequence) else { return };
        let (there, here) = (snapshot.ledger.audit(), self.state.ledger.audit());
        let keys_differ = snapshot.ledger.keys() != self.state.ledger.keys();
        if there != here || keys_differ || snapshot.directory != self.state.directory {
            self.disagreements.push(format!("the snapshot after record {sequence} is not what the journal says"));
            let of = |audit: &Audit| audit.totals.posted.cost.0 + audit.pending.cost.0 + audit.indeterminate.cost.0;
            self.drift += (of(&there) - of(&here)).abs();
        }
    }

    /// A view or a snapshot of records that the journal does not have is not of this journal.
    fn compare_unreached(&mut self) {
        let last = self.state.sequence;
        if self.view.as_ref().is_some_and(|(position, _)| *position > last) {
            self.disagreements.push("the view holds records that the journal does not have".to_owned());
        }
        if self.snapshots.iter().any(|snapshot| snapshot.sequence > last) {
            self.disagreements.push("a snapshot holds records that the journal does not have".to_owned());
        }
    }
}
