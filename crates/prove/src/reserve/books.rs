//! What the model's node remembers: runs, accounts, and the records that change them. A restatement of the ledger from
//! its design, in small whole numbers; it shares no code with the ledger, so that a mistake would have to be made twice.
//!
//! When a record may be made, and what becomes of it in a crash, is the node's business (`reserve.rs`).

use crate::Amount;

/// The wide scope (a tenant) and two narrow ones inside it (its keys).
pub const SCOPES: usize = 3;
pub const TENANT: usize = 0;

/// At most so many runs: three intents, each reserved at most twice.
pub const RUNS: usize = 6;

/// What the journal holds. `run` is an index into [`Books::runs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Record {
    Reserved { run: usize, hold: Amount },
    Extended { run: usize, extra: Amount },
    Posted { run: usize, amount: Amount, overrun: Amount, measured: bool },
    Voided { run: usize },
    Indeterminate { run: usize },
    CapSet { scope: usize, cap: Amount },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Stage {
    #[default]
    None,
    Pending,
    Indeterminate,
    Posted {
        measured: bool,
    },
    Voided,
}

/// One reservation, from its hold to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Run {
    pub stage: Stage,
    pub hold: Amount,
    pub posted: Amount,
    pub overrun: Amount,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Account {
    pub pending: Amount,
    pub indeterminate: Amount,
    pub posted: Amount,
    pub cap: Amount,
    /// The most that may be used now: the cap, or what was used already when the cap was lowered below it. It only
    /// falls with what is used, so a lowered cap admits nothing.
    pub ceiling: Amount,
}

/// Everything that ever happened, summed; the other side of every account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Totals {
    pub held: Amount,
    pub posted: Amount,
    pub released: Amount,
    pub overrun: Amount,
}

/// A pure function of the records applied, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Books {
    pub runs: [Run; RUNS],
    pub accounts: [Account; SCOPES],
    pub totals: Totals,
    /// The narrow scope of each run.
    keys: [u8; RUNS],
    /// The broken variant in which a posting leaves the hold standing.
    posting_keeps_hold: bool,
}

// === impl Account ===

impl Account {
    pub fn used(&self) -> Amount {
        self.posted + self.pending + self.indeterminate
    }

    pub fn left(&self) -> Amount {
        self.cap - self.used()
    }
}

// === impl Run ===

impl Run {
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Pending | Stage::Indeterminate)
    }

    pub fn is_posted(&self) -> bool {
        matches!(self.stage, Stage::Posted { .. })
    }

    /// What of this run counts against the caps.
    pub fn counts(&self) -> Amount {
        match self.stage {
            Stage::Pending | Stage::Indeterminate => self.hold,
            Stage::Posted { .. } => self.posted,
            Stage::None | Stage::Voided => 0,
        }
    }
}

// === impl Books ===

impl Books {
    pub fn new(caps: [Amount; SCOPES], keys: [u8; RUNS], posting_keeps_hold: bool) -> Self {
        let account = |cap| Account { cap, ceiling: cap, ..Account::default() };
        Self { accounts: caps.map(account), keys, posting_keeps_hold, ..Self::default() }
    }

    pub fn scopes(&self, run: usize) -> [usize; 2] {
        [TENANT, usize::from(self.keys[run])]
    }

    /// The least that any scope of the run leaves.
    pub fn headroom(&self, run: usize) -> Amount {
        self.scopes(run).map(|scope| self.accounts[scope].left()).into_iter().min().unwrap_or_default()
    }

    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Reserved { run, hold } => {
                self.runs[run] = Run { stage: Stage::Pending, hold, ..Run::default() };
                self.hold(run, hold);
            }
            Record::Extended { run, extra } => {
                self.runs[run].hold += extra;
                self.hold(run, extra);
            }
            Record::Posted { run, amount, overrun, measured } => self.post(run, amount, overrun, measured),
            Record::Voided { run } => {
                self.take_hold(run);
                self.totals.released += self.runs[run].hold;
                self.runs[run].stage = Stage::Voided;
            }
            Record::Indeterminate { run } => self.doubt(run),
            Record::CapSet { scope, cap } => self.accounts[scope].cap = cap,
        }
        for account in &mut self.accounts {
            account.ceiling = account.cap.max(account.ceiling.min(account.used()));
        }
    }

    fn hold(&mut self, run: usize, amount: Amount) {
        self.totals.held += amount;
        self.change(run, |account| account.pending += amount);
    }

    fn post(&mut self, run: usize, amount: Amount, overrun: Amount, measured: bool) {
        if !self.posting_keeps_hold {
            self.take_hold(run);
        }
        self.change(run, |account| account.posted += amount);
        self.totals.posted += amount;
        self.totals.overrun += overrun;
        let run = &mut self.runs[run];
        self.totals.released += run.hold - amount;
        *run = Run { stage: Stage::Posted { measured }, posted: amount, overrun, ..*run };
    }

    fn doubt(&mut self, run: usize) {
        let Run { hold, .. } = self.runs[run];
        self.take_hold(run);
        self.change(run, |account| account.indeterminate += hold);
        self.runs[run].stage = Stage::Indeterminate;
    }

    fn take_hold(&mut self, run: usize) {
        let Run { stage, hold, .. } = self.runs[run];
        self.change(run, |account| match stage {
            Stage::Indeterminate => account.indeterminate -= hold,
            _ => account.pending -= hold,
        });
    }

    fn change(&mut self, run: usize, change: impl Fn(&mut Account)) {
        for scope in self.scopes(run) {
            change(&mut self.accounts[scope]);
        }
    }
}
