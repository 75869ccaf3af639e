//! The last requests that were judged, as policies saw them: without prompts, in memory only. For `tollgate policy explain`
//! and `diff`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tollgate_admission::policy::{Facts, moment, question};
use tollgate_admission::{Principal, Target};
use tollgate_policy::question::Fields;
use tollgate_types::{EndUserId, Refusal, RequestId, Timestamp};

/// Older ones are forgotten.
pub const KEPT: usize = 4_096;

#[derive(Debug, Default)]
pub struct Decisions {
    last: Mutex<VecDeque<Judgement>>,
}

/// One request, and what became of it.
#[derive(Clone, Debug)]
pub struct Judgement {
    pub id: RequestId,
    pub at: Timestamp,
    pub principal: Arc<Principal>,
    pub end_user: Option<EndUserId>,
    pub facts: Facts,
    /// What would have served it; not the route, whose model may be gone by then.
    pub target: Arc<Target>,
    /// The policy's. Whatever comes later is none of it.
    pub refusal: Option<Refusal>,
}

// === impl Decisions ===

impl Decisions {
    /// Notes what was said of a request.
    pub fn note(&self, judgement: Judgement) {
        let mut last = self.lock();
        // What is dropped is dropped after the lock.
        let forgotten = if last.len() >= KEPT { last.pop_front() } else { None };
        last.push_back(judgement);
        drop(last);
        drop(forgotten);
    }

    /// The newest first.
    pub fn last(&self, wanted: impl Fn(&Judgement) -> bool, limit: usize) -> Vec<Judgement> {
        self.lock().iter().rev().filter(|judgement| wanted(judgement)).take(limit).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Judgement>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Judgement ===

impl Judgement {
    /// The document `input`, all of it.
    pub fn input(&self) -> serde_json::Value {
        let end_user = self.end_user.map(|user| user.to_string());
        let moment = Some(moment(&self.principal, self.at));
        let question = question(&self.principal, &self.facts, &self.target, end_user.as_deref(), moment);
        serde_json::to_value(question.input(Fields::ALL)).expect("a question is plain data")
    }
}
