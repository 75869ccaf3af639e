//! Where the answers to one question come together, from whichever workers.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::oneshot;

use super::Output;

/// One item, done.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub output: Output,
    /// Its share of what its batch took of a core.
    pub cpu: Duration,
    /// From its coming to the begin of its batch.
    pub waited: Duration,
    pub tokens: u64,
}

/// Why an item was not answered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Failure {
    #[error("it could not be done before its deadline")]
    TooLate,
    #[error("its worker was lost, and so was the one after it")]
    WorkerLost,
    #[error("{0}")]
    Engine(String),
}

#[derive(Debug)]
pub struct Gather(Mutex<Gathered>);

#[derive(Debug)]
struct Gathered {
    answers: Vec<Option<Answer>>,
    /// The first: with it the question has failed, and nobody needs the rest.
    failed: Option<Failure>,
    missing: usize,
    done: Option<oneshot::Sender<()>>,
}

// === impl Gather ===

impl Gather {
    pub fn of(items: usize) -> (Self, oneshot::Receiver<()>) {
        let (done, told) = oneshot::channel();
        let mut gathered = Gathered { answers: vec![None; items], failed: None, missing: items, done: Some(done) };
        if items == 0 {
            gathered.tell();
        }
        (Self(Mutex::new(gathered)), told)
    }

    /// The first answer counts; of a second one nothing is kept.
    pub fn put(&self, index: usize, answer: Result<Answer, Failure>) {
        let mut gathered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (answer, gathered.answers.get_mut(index)) {
            (Ok(answer), Some(slot @ None)) => {
                *slot = Some(answer);
                gathered.missing -= 1;
            }
            (Err(failure), Some(None)) => drop(gathered.failed.get_or_insert(failure)),
            _ => {}
        }
        if gathered.is_done() {
            gathered.tell();
        }
    }

    /// Nobody will ever answer it.
    pub fn forget(&self, index: usize) {
        let mut gathered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(None) = gathered.answers.get(index) {
            gathered.missing -= 1;
        }
        if gathered.is_done() {
            gathered.tell();
        }
    }

    /// Whether all is answered, or something has failed.
    pub fn is_done(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_done()
    }

    /// Whether nothing is left that somebody may be working on, or may yet.
    pub fn is_whole(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).missing == 0
    }

    /// All of them, or the first failure.
    pub fn take(&self) -> Result<Vec<Answer>, Failure> {
        let mut gathered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match gathered.failed.take() {
            Some(failure) => Err(failure),
            None => Ok(std::mem::take(&mut gathered.answers).into_iter().flatten().collect()),
        }
    }

    /// Those that were done.
    pub fn take_done(&self) -> Vec<Answer> {
        let mut gathered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut gathered.answers).into_iter().flatten().collect()
    }
}

// === impl Gathered ===

impl Gathered {
    fn is_done(&self) -> bool {
        self.missing == 0 || self.failed.is_some()
    }

    fn tell(&mut self) {
        // Whoever asked may have left.
        if let Some(done) = self.done.take() {
            let _ = done.send(());
        }
    }
}
