//! The life of reservations on one node: what the node, its callers, its providers and its disk may do next, and what each
//! of that changes. Sums are `books.rs`'s, what must hold is `properties.rs`'s, which bounds are checked is `trials.rs`'s.
//!
//! Nondeterminism stands for the world: which caller comes next, when the disk is done, how a provider answers, what it
//! bills, when somebody gives up, when the process dies and how much of an unfinished write the disk kept. The checker
//! takes every choice. Nothing here reads a clock: a deadline, or the age of a doubt, may have passed at any moment.

mod books;
mod properties;

use stateright::{Model, Property};

use crate::Amount;
pub use books::{Account, Books, RUNS, Record, Run, SCOPES, Stage, TENANT, Totals};
pub use properties::names;

/// A node within bounds; with a flaw it is one of the variants that must fail.
#[derive(Clone, Debug)]
pub struct Node {
    pub bounds: Bounds,
    pub flaw: Option<Flaw>,
    /// The only property to look at; all without it.
    pub only: Option<&'static str>,
}

#[derive(Clone, Debug)]
pub struct Bounds {
    /// At most three.
    pub intents: Vec<Intent>,
    /// Of the tenant and of its two keys.
    pub caps: [Amount; SCOPES],
    /// A cap that is lowered at some moment, and to what.
    pub lowered: Option<(usize, Amount)>,
    /// How often an intent may be reserved: once, or again after its first run was voided.
    pub runs_each: usize,
    pub crashes: u8,
    /// Whether providers may bill one more than they were allowed.
    pub overrun: bool,
    /// Whether it is followed which answers reached their callers.
    pub answers: bool,
}

/// What a caller wants done, under one idempotency key, however often it asks.
#[derive(Clone, Copy, Debug)]
pub struct Intent {
    /// The narrow scope it spends from: 1 or 2.
    pub key: u8,
    /// The most it can cost.
    pub want: Amount,
    /// The most it can cost at the model it falls back to.
    pub fallback: Option<Amount>,
    /// Whether it takes less where less is left.
    pub clamps: bool,
}

/// The protections that can be taken away, one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flaw {
    SendsBeforeDurable,
    ForgetsPendingInCrash,
    ReleasesBrokenStreams,
    ShrinksHoldOnly,
    ChecksThenTakes,
    HoldsScopeByScope,
    RetriesAreNew,
    KeysLiveInMemory,
    PostingKeepsHold,
    FallsBackWithoutHold,
    RetriesInsideHold,
    SendsAfterSweep,
    ChargesOverrun,
    AnswersBeforeDurable,
    ChecksNarrowScopeOnly,
    SettlesAgain,
    ExtendsInMemory,
    DropsOverrun,
    NeverSettlesDoubt,
    CapsOutsideJournal,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// What is on the disk.
    pub durable: Books,
    /// What was decided and is not on the disk yet, in order.
    pub buffer: Vec<Record>,
    /// What the node believes: the durable books and the buffer applied to them.
    pub live: Books,
    /// What really happened outside. No crash of ours undoes it.
    pub work: [Work; RUNS],
    pub crashes: u8,
    pub lowered: bool,
    /// A bit a run; only broken variants use it.
    pub notes: u8,
}

/// One run as the outside world knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Work {
    /// What was sent to the first provider, and to the one fallen back to.
    pub tries: [Try; 2],
    /// Whether the caller has its answer.
    pub answered: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Try {
    #[default]
    Unsent,
    /// At the provider, which may bill up to `bound`.
    Working { bound: Amount },
    /// Ended, and stated its usage.
    Answered { bound: Amount, bill: Amount },
    /// Ended without stating its usage: only the provider knows its bill.
    Broken { bound: Amount, bill: Amount },
    /// The provider said that it did no work.
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A caller asks, or asks again.
    Ask {
        intent: usize,
    },
    /// The second half of a reservation that is not one step; only a broken variant has it.
    Take {
        run: usize,
    },
    /// The disk has everything that was in the buffer.
    GroupCommit,
    Send {
        run: usize,
    },
    Reply {
        run: usize,
        reply: Reply,
    },
    Extend {
        run: usize,
    },
    Settle {
        run: usize,
    },
    /// The caller left, or the deadline passed.
    GiveUp {
        run: usize,
    },
    Answer {
        run: usize,
    },
    LowerCap,
    /// The process dies; of its buffer the disk kept the first `kept` records. It starts again and recovers.
    Crash {
        kept: usize,
    },
    Age {
        run: usize,
    },
    Reconcile {
        run: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    Usage(Amount),
    Break(Amount),
    Refusal,
}

// === impl Try ===

impl Try {
    /// The most this may be billed for, as far as the node can know.
    pub fn may_bill(self) -> Amount {
        match self {
            Self::Working { bound } | Self::Broken { bound, .. } | Self::Answered { bound, .. } => bound,
            Self::Unsent | Self::Refused => 0,
        }
    }

    pub fn bill(self) -> Amount {
        match self {
            Self::Answered { bill, .. } | Self::Broken { bill, .. } => bill,
            Self::Unsent | Self::Working { .. } | Self::Refused => 0,
        }
    }

    /// What the node must take it to have cost.
    fn cost(self) -> Amount {
        match self {
            Self::Answered { bill, .. } => bill,
            other => other.may_bill(),
        }
    }

    fn failed(self) -> bool {
        matches!(self, Self::Broken { .. } | Self::Refused)
    }
}

// === impl Work ===

impl Work {
    pub fn bill(&self) -> Amount {
        self.tries.iter().map(|one| one.bill()).sum()
    }

    /// The bill, as far as the providers kept to what they were allowed.
    pub fn bill_within_bounds(&self) -> Amount {
        self.tries.iter().map(|one| one.bill().min(one.may_bill())).sum()
    }

    pub fn may_bill(&self) -> Amount {
        self.tries.iter().map(|one| one.may_bill()).sum()
    }

    fn is_working(&self) -> bool {
        self.tries.iter().any(|one| matches!(one, Try::Working { .. }))
    }

    fn last(&self) -> Try {
        if self.tries[1] == Try::Unsent { self.tries[0] } else { self.tries[1] }
    }

    fn certainly_nothing(&self) -> bool {
        self.tries.iter().all(|one| matches!(one, Try::Unsent | Try::Refused))
    }
}

// === impl State ===

impl State {
    /// A decision and its place in the buffer, in one step.
    fn append(&mut self, record: Record) {
        self.live.apply(record);
        self.buffer.push(record);
    }
}

// === impl Node ===

impl Node {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    fn intent(&self, run: usize) -> Intent {
        self.bounds.intents[run / 2]
    }

    fn runs(&self) -> impl Iterator<Item = usize> {
        let runs_each = self.bounds.runs_each;
        (0..self.bounds.intents.len() * 2).filter(move |run| run % 2 < runs_each)
    }

    fn step(&self, state: &mut State, action: Action) -> Option<()> {
        match action {
            Action::Ask { intent } => self.ask(state, intent),
            Action::Take { run } => self.take(state, run),
            Action::GroupCommit => group_commit(state),
            Action::Send { run } => self.send(state, run),
            Action::Reply { run, reply } => self.reply(state, run, reply),
            Action::Extend { run } => self.extend(state, run),
            Action::Settle { run } => self.settle(state, run),
            Action::GiveUp { run } => give_up(state, run),
            Action::Answer { run } => self.answer(state, run),
            Action::LowerCap => self.lower_cap(state),
            Action::Crash { kept } => self.crash(state, kept),
            Action::Age { .. } | Action::Reconcile { .. } if self.has(Flaw::NeverSettlesDoubt) => None,
            Action::Age { run } => age(state, run),
            Action::Reconcile { run } => reconcile(state, run),
        }
    }

    /// A key that is known joins its run or gets its answer again; nothing new is held. Else all or nothing is held, in
    /// every scope, in one step.
    fn ask(&self, state: &mut State, intent: usize) -> Option<()> {
        let runs = [intent * 2, intent * 2 + 1];
        let known = |run: usize| {
            let charged = state.live.runs[run].is_open() || state.live.runs[run].is_posted();
            let forgotten = self.has(Flaw::KeysLiveInMemory) && state.notes & bit(run) != 0;
            charged && !forgotten && !self.has(Flaw::RetriesAreNew)
        };
        if runs.into_iter().any(known) {
            return None;
        }
        let run =
            runs.into_iter().take(self.bounds.runs_each).find(|run| state.live.runs[*run].stage == Stage::None)?;
        let Intent { want, clamps, .. } = self.intent(run);
        let left = self.headroom(state, run);
        let hold = if clamps { want.min(left) } else { want };
        if hold < 1 || hold > left {
            self.refuse(state, run, hold);
            return (self.has(Flaw::HoldsScopeByScope) && state.notes & bit(run) != 0).then_some(());
        }
        if self.has(Flaw::ChecksThenTakes) {
            let first = state.notes & bit(run) == 0;
            state.notes |= bit(run);
            return first.then_some(());
        }
        state.append(Record::Reserved { run, hold });
        Some(())
    }

    fn headroom(&self, state: &State, run: usize) -> Amount {
        if self.has(Flaw::ChecksNarrowScopeOnly) {
            return state.live.accounts[state.live.scopes(run)[1]].left();
        }
        state.live.headroom(run)
    }

    /// Changes nothing; but for the variant that took the wide scope before the narrow one said no, and leaves it taken.
    fn refuse(&self, state: &mut State, run: usize, hold: Amount) {
        let wide = &mut state.live.accounts[TENANT];
        if self.has(Flaw::HoldsScopeByScope) && state.notes & bit(run) == 0 && wide.left() >= hold {
            wide.pending += hold;
            state.notes |= bit(run);
        }
    }

    fn take(&self, state: &mut State, run: usize) -> Option<()> {
        let checked = self.has(Flaw::ChecksThenTakes) && state.notes & bit(run) != 0;
        if !checked || state.live.runs[run].stage != Stage::None {
            return None;
        }
        state.append(Record::Reserved { run, hold: self.intent(run).want });
        Some(())
    }

    /// Only while the reservation stands, and only when the hold that covers it is on the disk.
    fn send(&self, state: &mut State, run: usize) -> Option<()> {
        let Run { stage, hold, .. } = state.live.runs[run];
        let stands = stage == Stage::Pending || (self.has(Flaw::SendsAfterSweep) && stage == Stage::Voided);
        if !stands || !self.is_on_disk(state, run) {
            return None;
        }
        let work = &mut state.work[run];
        match work.tries {
            [Try::Unsent, _] => {
                let Intent { want, .. } = self.intent(run);
                let bound = if self.has(Flaw::ShrinksHoldOnly) { want } else { want.min(hold) };
                work.tries[0] = Try::Working { bound };
                Some(())
            }
            [first, Try::Unsent] if first.failed() => {
                let bound = self.intent(run).fallback?;
                if hold < self.needed(first, bound) && !self.has(Flaw::FallsBackWithoutHold) {
                    return None;
                }
                work.tries[1] = Try::Working { bound };
                Some(())
            }
            _ => None,
        }
    }

    fn is_on_disk(&self, state: &State, run: usize) -> bool {
        let (durable, live) = (state.durable.runs[run], state.live.runs[run]);
        let whole = durable.hold == live.hold || self.has(Flaw::ExtendsInMemory);
        (durable.stage != Stage::None && whole) || self.has(Flaw::SendsBeforeDurable)
    }

    /// What must be held before a second provider is asked: its bound, and what the first may still bill.
    fn needed(&self, first: Try, bound: Amount) -> Amount {
        if self.has(Flaw::RetriesInsideHold) { bound } else { first.may_bill() + bound }
    }

    fn reply(&self, state: &mut State, run: usize, reply: Reply) -> Option<()> {
        let one = state.work[run].tries.iter_mut().find(|one| matches!(one, Try::Working { .. }))?;
        let Try::Working { bound } = *one else { return None };
        let most = if self.bounds.overrun { bound + 1 } else { bound };
        *one = match reply {
            Reply::Usage(bill) if bill <= most => Try::Answered { bound, bill },
            Reply::Break(bill) if bill <= bound => Try::Broken { bound, bill },
            Reply::Refusal => Try::Refused,
            Reply::Usage(_) | Reply::Break(_) => return None,
        };
        Some(())
    }

    /// A larger hold before a dearer fallback, as atomic as the first.
    fn extend(&self, state: &mut State, run: usize) -> Option<()> {
        let [first, second] = state.work[run].tries;
        let Run { stage, hold, .. } = state.live.runs[run];
        let extra = self.needed(first, self.intent(run).fallback?) - hold;
        if stage != Stage::Pending || !first.failed() || second != Try::Unsent || extra < 1 {
            return None;
        }
        if extra > state.live.headroom(run) {
            return None;
        }
        state.append(Record::Extended { run, extra });
        Some(())
    }

    /// Posts what the usage says, or the whole hold where none was stated, or voids where certainly nothing was done.
    fn settle(&self, state: &mut State, run: usize) -> Option<()> {
        let Run { stage, hold, .. } = state.live.runs[run];
        let again = self.has(Flaw::SettlesAgain) && matches!(stage, Stage::Posted { measured: false });
        if stage != Stage::Pending && !again {
            return None;
        }
        let work = state.work[run];
        let record = match work.last() {
            Try::Unsent | Try::Working { .. } => return None,
            Try::Answered { .. } => {
                let cost: Amount = work.tries.iter().map(|one| one.cost()).sum();
                let amount = if self.has(Flaw::ChargesOverrun) { cost } else { cost.min(hold) };
                let overrun = if self.has(Flaw::DropsOverrun) { 0 } else { cost - amount };
                let measured = !work.tries.iter().any(|one| matches!(one, Try::Broken { .. }));
                Record::Posted { run, amount, overrun, measured }
            }
            Try::Broken { .. } | Try::Refused if self.has(Flaw::ReleasesBrokenStreams) => Record::Voided { run },
            Try::Broken { .. } | Try::Refused => in_full_or_void(run, hold, &work),
        };
        state.append(record);
        Some(())
    }

    /// The end of an answer leaves when its posting is on the disk; then, or when the caller asks again.
    fn answer(&self, state: &mut State, run: usize) -> Option<()> {
        let books = if self.has(Flaw::AnswersBeforeDurable) { &state.live } else { &state.durable };
        let work = &mut state.work[run];
        let due = self.bounds.answers && !work.answered && matches!(work.last(), Try::Answered { .. });
        if !due || !books.runs[run].is_posted() {
            return None;
        }
        work.answered = true;
        Some(())
    }

    fn lower_cap(&self, state: &mut State) -> Option<()> {
        let (scope, cap) = self.bounds.lowered?;
        if state.lowered {
            return None;
        }
        state.lowered = true;
        let record = Record::CapSet { scope, cap };
        if self.has(Flaw::CapsOutsideJournal) {
            state.live.apply(record);
        } else {
            state.append(record);
        }
        Some(())
    }

    /// What reached the disk is replayed; what was pending is in doubt, at its full hold.
    fn crash(&self, state: &mut State, kept: usize) -> Option<()> {
        state.crashes = state.crashes.checked_sub(1)?;
        for record in state.buffer.get(..kept)? {
            state.durable.apply(*record);
        }
        state.buffer.clear();
        state.live = state.durable;
        for run in self.runs() {
            if state.live.runs[run].stage == Stage::Pending {
                state.append(match self.has(Flaw::ForgetsPendingInCrash) {
                    true => Record::Voided { run },
                    false => Record::Indeterminate { run },
                });
            }
            if self.has(Flaw::KeysLiveInMemory) && state.live.runs[run].stage != Stage::None {
                state.notes |= bit(run);
            }
        }
        Some(())
    }
}

fn group_commit(state: &mut State) -> Option<()> {
    if state.buffer.is_empty() {
        return None;
    }
    for record in state.buffer.drain(..) {
        state.durable.apply(record);
    }
    Some(())
}

/// A request that is dropped, or swept after its deadline.
fn give_up(state: &mut State, run: usize) -> Option<()> {
    let Run { stage: Stage::Pending, hold, .. } = state.live.runs[run] else { return None };
    let record = in_full_or_void(run, hold, &state.work[run]);
    state.append(record);
    Some(())
}

fn age(state: &mut State, run: usize) -> Option<()> {
    let Run { stage: Stage::Indeterminate, hold, .. } = state.live.runs[run] else { return None };
    state.append(Record::Posted { run, amount: hold, overrun: 0, measured: false });
    Some(())
}

/// The provider's own record settles a doubt, once the provider has nothing of it under way any more.
fn reconcile(state: &mut State, run: usize) -> Option<()> {
    let Run { stage: Stage::Indeterminate, hold, .. } = state.live.runs[run] else { return None };
    let work = state.work[run];
    if work.is_working() {
        return None;
    }
    let amount = work.bill().min(hold);
    state.append(Record::Posted { run, amount, overrun: work.bill() - amount, measured: true });
    Some(())
}

fn in_full_or_void(run: usize, hold: Amount, work: &Work) -> Record {
    if work.certainly_nothing() {
        Record::Voided { run }
    } else {
        Record::Posted { run, amount: hold, overrun: 0, measured: false }
    }
}

fn bit(run: usize) -> u8 {
    1 << run
}

// === impl Model for Node ===

impl Model for Node {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut keys = [1; RUNS];
        for run in self.runs() {
            keys[run] = self.intent(run).key;
        }
        let books = Books::new(self.bounds.caps, keys, self.has(Flaw::PostingKeepsHold));
        vec![State {
            durable: books,
            buffer: Vec::new(),
            live: books,
            work: [Work::default(); RUNS],
            crashes: self.bounds.crashes,
            lowered: false,
            notes: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.push(Action::GroupCommit);
        for run in self.runs() {
            actions.extend([Action::GiveUp { run }, Action::Age { run }, Action::Take { run }, Action::Send { run }]);
            actions.extend([Action::Extend { run }, Action::Settle { run }, Action::Answer { run }]);
            actions.push(Action::Reconcile { run });
            for one in state.work[run].tries {
                if let Try::Working { bound } = one {
                    actions.extend(replies(bound).map(|reply| Action::Reply { run, reply }));
                }
            }
        }
        actions.extend((0..self.bounds.intents.len()).map(|intent| Action::Ask { intent }));
        actions.push(Action::LowerCap);
        actions.extend((0..=state.buffer.len()).map(|kept| Action::Crash { kept }));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.step(&mut state, action)?;
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = properties::of(&self.bounds);
        properties.retain(|property| self.only.is_none_or(|only| only == property.name));
        properties
    }
}

/// A small bill, the whole bound and one beyond it (which `reply` allows where the bounds do); a stream that breaks for
/// nothing or for everything; a refusal.
fn replies(bound: Amount) -> impl Iterator<Item = Reply> {
    let small = (bound > 1).then_some(Reply::Usage(1));
    let usual = [Reply::Usage(bound), Reply::Usage(bound + 1), Reply::Break(0), Reply::Break(bound), Reply::Refusal];
    small.into_iter().chain(usual)
}
