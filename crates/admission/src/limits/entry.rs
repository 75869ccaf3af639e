//! One request's way through the limits of all its scopes: all of them let it in, or none has counted it.
//!
//! Two steps, because the body is read between them: [`Entry::enter`] takes what a request takes whatever it says,
//! [`Entry::reserve_tokens`] what it is estimated to use. In the instant before a later scope refuses, an earlier one has
//! counted the request; somebody else may be refused for that, nobody is let through for it.

use std::cmp::Reverse;
use std::sync::Arc;

use tollgate_types::{Refusal, Timestamp};

use super::cell::Allowance;
use super::limiter::{Kind, Limiter};

/// Platform, plan, tenant, project and key.
pub const SCOPES_MAX: usize = 5;

/// The scopes that all requests of a principal fall under.
#[derive(Debug)]
pub struct Scopes {
    /// Widest first.
    limiters: Box<[Arc<Limiter>]>,
}

/// A request that was let in. Gives back its places among the parallel requests when dropped. Its tokens stay taken as
/// estimated, unless it is settled.
#[derive(Debug)]
#[must_use = "the request is counted as in flight only as long as this lives"]
pub struct Entry {
    scopes: Arc<Scopes>,
    /// Besides them, where the request says for whom it is and end users are limited.
    end_user: Option<Arc<Limiter>>,
    /// What stands taken for this request.
    tokens: u64,
}

/// What is left of the tenant's own limits, for the caller to see: of each kind the one with the least left, as a share.
/// `None` where there is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateState {
    pub requests: Option<Allowance>,
    pub tokens: Option<Allowance>,
}

// === impl Scopes ===

impl Scopes {
    /// At most one limiter of each kind; the end user's, which differs from request to request, is not among them.
    pub fn new(limiters: impl IntoIterator<Item = Arc<Limiter>>) -> Self {
        let mut limiters: Box<[_]> = limiters.into_iter().collect();
        limiters.sort_by_key(|limiter| limiter.kind());
        debug_assert!(limiters.windows(2).all(|two| two[0].kind() < two[1].kind()), "one of each kind: {limiters:?}");
        debug_assert!(limiters.iter().all(|limiter| limiter.kind() != Kind::EndUser) && limiters.len() <= SCOPES_MAX);
        Self { limiters }
    }
}

// === impl Entry ===

impl Entry {
    /// Takes a place among the parallel requests and one of the requests per minute, in every scope or in none.
    pub fn enter(scopes: &Arc<Scopes>, end_user: Option<Arc<Limiter>>, now: Timestamp) -> Result<Self, Refusal> {
        all_or_none(all(scopes, &end_user), |limiter| limiter.enter(now), Limiter::withdraw)?;
        Ok(Self { scopes: Arc::clone(scopes), end_user, tokens: 0 })
    }

    /// Takes `n` tokens (more) in every scope or in none.
    pub fn reserve_tokens(&mut self, n: u64, now: Timestamp) -> Result<(), Refusal> {
        let take = |limiter: &Limiter| limiter.take_tokens(n, now);
        all_or_none(all(&self.scopes, &self.end_user), take, |limiter| limiter.give_back_tokens(n))?;
        self.tokens = self.tokens.saturating_add(n);
        Ok(())
    }

    /// Puts right what was reserved, in every scope: `tokens` were used, or can be used at most. May be called again
    /// when more is known.
    pub fn settle(&mut self, tokens: u64, now: Timestamp) {
        for limiter in all(&self.scopes, &self.end_user) {
            limiter.correct_tokens(self.tokens, tokens, now);
        }
        self.tokens = tokens;
    }

    pub fn rate(&self, now: Timestamp) -> RateState {
        let own = || all(&self.scopes, &self.end_user).filter(|limiter| limiter.kind().is_tenants_own());
        RateState {
            requests: own().filter_map(|limiter| limiter.requests_left(now)).max_by_key(tightness),
            tokens: own().filter_map(|limiter| limiter.tokens_left(now)).max_by_key(tightness),
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        all(&self.scopes, &self.end_user).for_each(Limiter::leave);
    }
}

/// All limits are over the same minute, so who needs longest to refill has the least share left.
fn tightness(left: &Allowance) -> impl Ord + use<> {
    (left.limit == 0, left.reset, Reverse(left.limit))
}

/// Widest first.
fn all<'a>(
    scopes: &'a Scopes,
    end_user: &'a Option<Arc<Limiter>>,
) -> impl Iterator<Item = &'a Limiter> + Clone + use<'a> {
    scopes.limiters.iter().chain(end_user).map(Arc::as_ref)
}

/// If one refuses, those before it give back what they gave.
fn all_or_none<'a>(
    limiters: impl Iterator<Item = &'a Limiter> + Clone,
    take: impl Fn(&Limiter) -> Result<(), Refusal>,
    give_back: impl Fn(&Limiter),
) -> Result<(), Refusal> {
    for (taken, limiter) in limiters.clone().enumerate() {
        if let Err(refusal) = take(limiter) {
            limiters.take(taken).for_each(give_back);
            return Err(refusal);
        }
    }
    Ok(())
}
