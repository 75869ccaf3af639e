//! Reads the whole store again from its first record, in every way it can be read, and compares: the chain of hashes,
//! the ledger's own balances, each snapshot with the journal it stands for, and the view with the ledger. If anything
//! was adjusted, the journal is read a second time: each adjustment must say truly what stood before it.

use std::collections::HashMap;
use std::path::Path;

use ring::digest;
use tollgate_ledger::account::Columns;
use tollgate_ledger::record::Standing;
use tollgate_ledger::{Amounts, Audit, Record};
use tollgate_types::{Confidence, PicoSum, RequestId};

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
    /// Requests that were adjusted after they had ended.
    pub adjusted: usize,
    /// A digest of the ledger's totals at the end of every sealed segment, each bound to the one before: two copies of a
    /// store that both say this have the same history of totals.
    pub totals_chain: String,
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
    let mut reading = Reading {
        state: State::default(),
        view,
        snapshots: &snapshots,
        disagreements,
        drift: 0,
        adjusted: HashMap::new(),
        totals_chain: [0; digest::SHA256_OUTPUT_LEN],
    };
    let mut torn = false;
    for index in &segments {
        progress(*index, segments.len());
        let last = Some(index) == segments.last();
        let (_, end) = segment::read(&layout.journal, *index, last, |frame| reading.frame(frame))?;
        torn = end.torn;
        if !last {
            reading.bind_totals(*index);
        }
    }
    reading.compare_unreached();
    reading.follow_adjustments(&layout, &segments)?;
    let audit = reading.state.ledger.audit();
    if audit.drift.0 != 0 {
        reading.disagreements.push(format!("the ledger does not balance: {} USD", audit.drift));
    }
    Ok(Report {
        records: reading.state.sequence,
        segments: segments.len(),
        snapshots: snapshots.len(),
        adjusted: reading.adjusted.len(),
        totals_chain: tollgate_types::hex(&reading.totals_chain),
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
    /// What stands of each request that was adjusted; found by the second reading.
    adjusted: HashMap<RequestId, Option<Standing>>,
    totals_chain: [u8; digest::SHA256_OUTPUT_LEN],
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
            if let Record::Adjusted(adjusted) = &record {
                self.adjusted.insert(adjusted.id, None);
            }
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
        for (name, basis, difference) in totals.differences_from(&audit) {
            self.disagreements.push(format!("the view's {name} {basis} is off by {difference} USD"));
        }
        self.drift += totals.drift_from(&audit).0;
        let count = |count: usize| count as u64;
        let counts = [
            ("requests", totals.requests.total(), audit.totals.requests),
            ("pending requests", totals.requests.pending, count(audit.reservations_pending)),
            ("indeterminate requests", totals.requests.indeterminate, count(audit.reservations_indeterminate)),
        ];
        for (name, viewed, kept) in counts {
            if viewed != kept {
                self.disagreements.push(format!("the view has {viewed} {name}, the journal {kept}"));
            }
        }
    }

    /// Binds what everything came to at the end of a segment to what it came to before.
    fn bind_totals(&mut self, segment: u64) {
        let totals = self.state.ledger.totals();
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&self.totals_chain);
        context.update(&segment.to_le_bytes());
        context.update(&totals.requests.to_le_bytes());
        for Columns { cost, charge } in [totals.held, totals.posted, totals.bounded, totals.released, totals.overrun] {
            context.update(&cost.0.to_le_bytes());
            context.update(&charge.0.to_le_bytes());
        }
        self.totals_chain.copy_from_slice(context.finish().as_ref());
    }

    /// Reads the journal again for the requests that were adjusted. The ledger forgets what has ended: whether an
    /// adjustment has a request, and says truly what stood of it, only the records themselves can tell.
    fn follow_adjustments(&mut self, layout: &Layout, segments: &[u64]) -> Result<(), SegmentError> {
        if self.adjusted.is_empty() {
            return Ok(());
        }
        for index in segments {
            let last = Some(index) == segments.last();
            segment::read(&layout.journal, *index, last, |frame| {
                for (sequence, record) in frame.records()? {
                    self.follow(sequence, &record);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn follow(&mut self, sequence: Sequence, record: &Record) {
        let (id, was, now) = match record {
            Record::Posted(posted) => {
                let (amounts, overrun, confidence) = (posted.amounts, posted.overrun, posted.confidence);
                (posted.id, None, Standing { amounts, overrun, confidence })
            }
            Record::Voided(voided) => {
                let (amounts, overrun, confidence) = (Amounts::ZERO, Amounts::ZERO, Confidence::Measured);
                (voided.id, None, Standing { amounts, overrun, confidence })
            }
            Record::Adjusted(adjusted) => (adjusted.id, Some(adjusted.was), adjusted.now),
            _ => return,
        };
        let Some(standing) = self.adjusted.get_mut(&id) else { return };
        match (was, *standing) {
            (Some(_), None) => self.disagreements.push(format!("record {sequence} adjusts {id}, which never ended")),
            (Some(was), Some(stood)) if was != stood => {
                let difference = i128::from(was.amounts.cost.0) - i128::from(stood.amounts.cost.0);
                self.drift += difference.abs();
                self.disagreements.push(format!("record {sequence} adjusts {id} from what it was not"));
            }
            _ => {}
        }
        *standing = Some(now);
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

#[cfg(test)]
mod tests {
    use tollgate_ledger::record::Reason;
    use tollgate_ledger::{Adjusted, Posted, Voided};
    use tollgate_types::usage::Outcome;
    use tollgate_types::{PicoUsd, Spender, Timestamp, Usage, UtcOffset};

    use super::*;

    const ID: RequestId = RequestId(7);

    fn standing(cost: u64, overrun: u64) -> Standing {
        let amounts = |pico| Amounts { cost: PicoUsd(pico), charge: PicoUsd(pico) };
        Standing { amounts: amounts(cost), overrun: amounts(overrun), confidence: Confidence::Measured }
    }

    fn posted(standing: Standing) -> Record {
        let Standing { amounts, overrun, confidence } = standing;
        let (usage, outcome) = (Usage::default(), Outcome::Completed);
        Record::Posted(Posted { id: ID, at: Timestamp(1), usage, amounts, overrun, confidence, outcome })
    }

    fn voided() -> Record {
        Record::Voided(Voided { id: ID, at: Timestamp(1), outcome: Outcome::NotSent })
    }

    fn adjusted(was: Standing, now: Standing) -> Record {
        let slug = "s";
        Record::Adjusted(Box::new(Adjusted {
            id: ID,
            at: Timestamp(2),
            spender: Spender {
                plan: slug.parse().expect("a slug"),
                tenant: slug.parse().expect("a slug"),
                project: slug.parse().expect("a slug"),
                key: slug.parse().expect("a slug"),
                end_user: None,
            },
            held_at: Timestamp(0),
            offset: UtcOffset::default(),
            was,
            now,
            usage: Usage::default(),
            price_version: "1".into(),
            reason: Reason::Reconciled,
        }))
    }

    fn reading() -> Reading<'static> {
        Reading {
            state: State::default(),
            view: None,
            snapshots: &[],
            disagreements: Vec::new(),
            drift: 0,
            adjusted: HashMap::from([(ID, None)]),
            totals_chain: [0; digest::SHA256_OUTPUT_LEN],
        }
    }

    fn check(records: &[Record], drift: i128, said: Option<&str>) {
        let mut reading = reading();
        (1..).zip(records).for_each(|(sequence, record)| reading.follow(sequence, record));
        assert_eq!(reading.drift, drift, "{:?}", reading.disagreements);
        match said {
            None => assert_eq!(reading.disagreements, Vec::<String>::new()),
            Some(said) => assert!(reading.disagreements.iter().any(|line| line.contains(said)), "{said}"),
        }
    }

    #[test]
    fn each_adjustment_must_say_what_stood_before_it() {
        let (first, second, third) = (standing(100, 0), standing(40, 0), standing(40, 9));
        check(&[posted(first), adjusted(first, second), adjusted(second, third)], 0, None);
        check(&[voided(), adjusted(standing(0, 0), standing(0, 9))], 0, None);
        check(&[posted(first), adjusted(second, third)], 60, Some("record 2 adjusts req_"));
        // The second forgets the first.
        check(&[posted(first), adjusted(first, second), adjusted(first, third)], 60, Some("record 3 adjusts"));
        check(&[posted(third), adjusted(second, first)], 0, Some("from what it was not"));
        check(&[adjusted(first, second)], 0, Some("which never ended"));
    }

    #[test]
    fn the_chain_of_totals_depends_on_every_segment_before() {
        let chain = |segments: &[u64]| {
            let mut reading = reading();
            segments.iter().for_each(|segment| reading.bind_totals(*segment));
            reading.totals_chain
        };
        assert_eq!(chain(&[1, 2]), chain(&[1, 2]));
        assert_ne!(chain(&[1, 2]), chain(&[2]));
        assert_ne!(chain(&[1, 2]), chain(&[2, 1]));
    }
}
