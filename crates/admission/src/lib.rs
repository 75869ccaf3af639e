//! Admission decides: who is asking, what limits and budgets allow. It answers with a [`Permit`] or a `Refusal`.
//!
//! key → limits → policy → price → reserve: [`Admission::enter`], [`Admission::judge`], [`Admission::admit`]. What is asked of
//! it is in memory: an index of keys that is replaced whole when the directory changes, the policies and the price books in
//! force.

pub mod index;
pub mod limits;
pub mod permit;
pub mod policy;
pub mod price;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ring::hmac;
use tollgate_ledger::books::{Headroom, ReserveError};
use tollgate_ledger::{Amounts, Books, Claim, Draft, Log, Rejected};
use tollgate_policy::Law;
use tollgate_types::directory::{Directory, Sealed, TightBudget};
use tollgate_types::refusal::{IdempotencyConflict, IdempotencyConflictKind};
use tollgate_types::{
    Call, Clock, EndUserId, KeyId, PicoSum, PicoUsd, Refusal, RequestId, Surface, TenantId, Timestamp,
};

pub use crate::index::{Index, Laws, Principal};
pub use crate::limits::{Entry, RateState};
pub use crate::permit::{Granted, Permit, Pricing, Settled};
use crate::policy::Judged;
use crate::price::{PriceBooks, Rate};

/// Everything that deciding needs, shared by all requests.
pub struct Admission {
    index: ArcSwap<Index>,
    prices: ArcSwap<PriceBooks>,
    hasher: hmac::Key,
    clock: Clock,
}

/// What would serve the request: one candidate of a route.
#[derive(Clone, Debug)]
pub struct Target {
    pub route: Arc<str>,
    pub provider: Arc<str>,
    /// The name under which the price books know the provider.
    pub priced_as: Arc<str>,
    /// The model's name at the provider.
    pub model: Arc<str>,
    /// Where the provider works, if its configuration says so.
    pub region: Option<Arc<str>>,
    /// Injected as the bound on output where the caller sent none.
    pub max_tokens_default: u64,
    /// How long the provider may take in all.
    pub total_timeout: Duration,
    /// The most CPU time the work can take, where it is done here and not by a provider.
    pub work: Option<WorkBound>,
    /// The policy that comes with the use case, if it has one: asked after the tenant's.
    pub law: Option<Arc<Law>>,
}

/// No request takes more CPU time here than this. What does is the platform's loss: beyond its hold nothing is posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkBound {
    pub us_per_request: u64,
    pub us_per_token: u64,
}

/// A principal that was let in; its place among the parallel requests is given back when this is dropped.
#[derive(Debug)]
pub struct Entered {
    principal: Arc<Principal>,
    entry: Entry,
}

/// What the request is to be known by.
#[derive(Debug)]
pub struct Identity {
    pub id: RequestId,
    /// Whom of its own users the tenant sends it for.
    pub end_user: Option<EndUserId>,
    pub idempotency: Option<Claim>,
    pub attribution: Option<Sealed>,
    /// What its policies said.
    pub judged: Judged,
}

/// Whoever presents no key that is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Whose key it was, and which, until it was revoked or expired. Nothing for the caller to know.
    pub former: Option<(TenantId, KeyId)>,
}

/// Stands as the price version where a plan's fixed hold was posted for a model without a price.
pub const UNPRICED: &str = "unpriced";
/// The same for a request with no bound on its cost.
pub const UNBOUNDED: &str = "unbounded";
/// A clamped answer is never made shorter than this many tokens per choice; below it the request is refused.
pub const CLAMPED_TOKENS_MIN: u64 = 16;
/// Added to a provider's total timeout for the reservation's deadline: time to settle and make it durable.
const SETTLE_SLACK: Duration = Duration::from_secs(10);
/// A key's text is no longer than this; nothing longer is hashed.
const API_KEY_BYTES_MAX: usize = 256;

// === impl Admission ===

impl Admission {
    pub fn new(directory: &Directory, laws: Laws, prices: PriceBooks, hasher: hmac::Key, clock: Clock) -> Self {
        let index = ArcSwap::from_pointee(Index::under(directory, &Index::default(), Arc::new(laws)));
        Self { index, prices: ArcSwap::from_pointee(prices), hasher, clock }
    }

    /// Publishes a changed directory: keys made are known and keys revoked unknown from this moment on.
    pub fn publish(&self, directory: &Directory) {
        self.index.rcu(|before| Index::of(directory, before));
    }

    /// The same with other bundles: whoever asks from this moment on is judged by these.
    pub fn publish_laws(&self, directory: &Directory, laws: &Arc<Laws>) {
        self.index.rcu(|before| Index::under(directory, before, Arc::clone(laws)));
    }

    /// The bundles in force.
    pub fn laws(&self) -> Arc<Laws> {
        Arc::clone(self.index.load().laws())
    }

    pub fn publish_prices(&self, prices: PriceBooks) {
        self.prices.store(Arc::new(prices));
    }

    pub fn prices(&self) -> Arc<PriceBooks> {
        self.prices.load_full()
    }

    /// Who presents this key. What it may do is the guard's to say.
    pub fn authenticate(&self, api_key: Option<&str>) -> Result<Arc<Principal>, Stranger> {
        let unknown = Stranger { former: None };
        let Some(presented) = api_key.filter(|key| key.len() <= API_KEY_BYTES_MAX) else { return Err(unknown) };
        let mut digest = [0; 32];
        digest.copy_from_slice(hmac::sign(&self.hasher, presented.as_bytes()).as_ref());
        let index = self.index.load();
        let Some(principal) = index.by_digest(&digest) else {
            return Err(Stranger { former: index.revoked(&digest) });
        };
        if principal.has_ended(self.clock.now()) {
            return Err(Stranger { former: Some((principal.tenant.clone(), principal.key.clone())) });
        }
        Ok(principal)
    }

    /// Lets a principal in within its limits. Comes before anything is read of
    /// the request, so that a key cannot make us hold more requests than it may have.
    pub fn enter(&self, principal: &Arc<Principal>, end_user: Option<EndUserId>) -> Result<Entered, Refusal> {
        let now = self.clock.steady();
        let end_user = end_user.map(|user| principal.end_user_limiter(user, now)).transpose()?.flatten();
        let entry = Entry::enter(&principal.limits, end_user, now)?;
        Ok(Entered { principal: Arc::clone(principal), entry })
    }

    /// Judges a call, and holds what it may cost against every cap it falls under.
    ///
    /// `tighten` counts the input's tokens where that is worth the work: a bound that is closer than its bytes. It is asked
    /// only if the budget affords what the call may really need but not what its bytes say.
    pub fn admit<L: Log>(
        &self,
        books: &Arc<Books<L>>,
        entered: Entered,
        call: &Call<'_>,
        target: &Target,
        identity: Identity,
        tighten: impl FnOnce() -> Option<u64>,
    ) -> Result<Permit<L>, Refusal> {
        let now = self.clock.now();
        let Entered { principal, mut entry } = entered;
        let pricing = self.price(&principal, call, target, now)?;
        let wanted = wanted_output(call, target).min(identity.judged.output_max().unwrap_or(u64::MAX));
        let draft = || Draft {
            id: identity.id,
            deadline: now.plus(target.total_timeout + SETTLE_SLACK),
            spender: principal.spender(identity.end_user),
            zone: principal.zone.clone(),
            route: Arc::clone(&target.route),
            provider: Arc::clone(&target.provider),
            model: Arc::clone(&target.model),
            stream: call.stream,
            price_version: Arc::clone(&pricing.version),
            idempotency: identity.idempotency.map(|claim| claim.idempotency),
            attribution: identity.attribution.clone(),
            policy: identity.judged.fingerprint().map(|fingerprint| fingerprint.0),
        };
        let mut hold = Hold { call, pricing: &pricing, wanted, input_bytes: call.input_bytes, work: target.work };
        // Asked before the lock is taken: a bound that overflows is no bound.
        hold.of(wanted).ok_or_else(|| Refusal::invalid("the request asks for more tokens than can be priced"))?;
        let clamp = principal.plan.tight_budget == TightBudget::Clamp;
        entry.reserve_tokens(hold.tokens(wanted), self.clock.steady())?;
        let searched = identity.idempotency.and_then(|claim| claim.searched);
        let reserved = hold.ask(clamp, tighten, |amount| books.reserve_searched(draft(), searched, amount));
        let granted = reserved.as_ref().map_or(0, |(_, output_tokens)| hold.tokens(*output_tokens));
        entry.settle(granted, self.clock.steady());
        let (reservation, output_tokens) = reserved.map_err(refusal_of)?;
        let granted = Granted { output_tokens };
        Ok(Permit { reservation, principal, pricing, granted, entry, clock: self.clock.clone() })
    }

    /// Hands a call that nobody has worked on over to another target, inside the reservation it has: the hold grows first to
    /// what the target may cost for the output that is granted, which may become less where the plan says so. Whatever is
    /// refused changes nothing. Nothing may be sent before the log is durable up to the reservation's new position.
    ///
    /// A fallback must have a price: what the plan holds for a model without one bounds the route's own model only.
    pub fn hand_over<L: Log>(
        &self,
        permit: &mut Permit<L>,
        call: &Call<'_>,
        target: &Target,
        tighten: impl FnOnce() -> Option<u64>,
    ) -> Result<(), Refusal> {
        let principal = Arc::clone(&permit.principal);
        let pricing = self.price(&principal, call, target, self.clock.now())?;
        if pricing.rate.is_none() {
            return Err(Refusal::PriceUnknown { what: format!("'{}' of '{}'", target.model, target.provider) });
        }
        let wanted = permit.granted.output_tokens;
        let mut hold = Hold { call, pricing: &pricing, wanted, input_bytes: call.input_bytes, work: target.work };
        hold.of(wanted).ok_or_else(|| Refusal::invalid("the request asks for more tokens than can be priced"))?;
        let clamp = principal.plan.tight_budget == TightBudget::Clamp;
        let extended = hold.ask(clamp, tighten, |amount| {
            let Target { provider, model, .. } = target;
            permit.reservation.extend_within(amount, provider, model, &pricing.version, &principal.zone)
        });
        permit.granted.output_tokens = extended.map_err(refusal_of)?;
        permit.pricing = pricing;
        Ok(())
    }

    fn price(
        &self,
        principal: &Principal,
        call: &Call<'_>,
        target: &Target,
        now: Timestamp,
    ) -> Result<Pricing, Refusal> {
        let unknown = |what: String| Refusal::PriceUnknown { what };
        if let Some(tier) = call.priced_apart {
            return Err(unknown(format!("{tier} of '{}'", target.route)));
        }
        let tariff = Arc::clone(&principal.tariff);
        let fixed = |version: &str, hold: PicoUsd| Pricing {
            version: version.into(),
            rate: None,
            fixed: Some(hold),
            tariff: Arc::clone(&principal.tariff),
        };
        let books = self.prices.load();
        let Some(rated) = books.rate(&target.priced_as, &target.model, now) else {
            let hold = principal.plan.unpriced_hold.ok_or_else(|| unknown(format!("'{}'", target.route)))?;
            return Ok(fixed(UNPRICED, hold));
        };
        if let Err(unbounded) = check_bounded(call, rated.rate) {
            // Declared mode: the plan says what such a request is held at.
            return principal.plan.unbounded_hold.map(|hold| fixed(UNBOUNDED, hold)).ok_or(unbounded);
        }
        if call.surface == Surface::Chat && !rated.rate.prices_output() {
            return Err(unknown(format!("the output of '{}'", target.route)));
        }
        // Nobody tells us of a provider's CPU time: at such a price its work would cost nothing.
        if rated.rate.cpu_second.is_some() && target.work.is_none() {
            return Err(unknown(format!("'{}' by the token: it does not run here", target.route)));
        }
        let version = Arc::clone(rated.version);
        Ok(Pricing { version, rate: Some(rated.rate.clone()), fixed: None, tariff })
    }
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission").finish_non_exhaustive()
    }
}

/// Everything in the request must have an upper bound on its cost.
fn check_bounded(call: &Call<'_>, rate: &Rate) -> Result<(), Refusal> {
    if let Some(what) = call.unbounded {
        return Err(Refusal::UnboundedRequest { what: what.to_owned(), advice: "leave it out of the request" });
    }
    if call.images > 0 && rate.image_tokens_max.is_none() {
        return Err(Refusal::UnboundedRequest {
            what: "an image".to_owned(),
            advice: "use a model whose price book entry states image_tokens_max",
        });
    }
    Ok(())
}

/// Output tokens per choice that the request is to be held for.
fn wanted_output(call: &Call<'_>, target: &Target) -> u64 {
    match call.surface {
        Surface::Chat => call.output_limit.tokens().unwrap_or(target.max_tokens_default),
        Surface::Embeddings | Surface::Classify | Surface::Runs => 0,
    }
}

fn refusal_of(error: ReserveError) -> Refusal {
    match error {
        ReserveError::Rejected(Rejected::BudgetExceeded(exceeded)) => Refusal::BudgetExceeded(exceeded),
        ReserveError::Rejected(Rejected::KeyInUse { first, same_body, open }) => {
            let why = match (same_body, open) {
                (false, _) => IdempotencyConflictKind::OtherBody,
                (true, true) => IdempotencyConflictKind::InDoubt,
                (true, false) => IdempotencyConflictKind::AnswerGone,
            };
            Refusal::IdempotencyConflict(IdempotencyConflict { first, why })
        }
        // Request ids are fresh and time is the books' own: what remains are faults of ours, and they fail closed.
        ReserveError::Rejected(_) | ReserveError::Unavailable(_) => Refusal::LedgerUnavailable,
    }
}

/// The upper bound of what a call may cost, as a function of the output it is granted.
struct Hold<'a> {
    call: &'a Call<'a>,
    pricing: &'a Pricing,
    wanted: u64,
    /// No more input tokens than this can come from text: its bytes, or what a tokenizer counted.
    input_bytes: u64,
    /// Of whoever would do the work.
    work: Option<WorkBound>,
}

/// Few texts have more bytes to a token than this: where even so many are not affordable, counting would not help.
const BYTES_PER_TOKEN_HOPED: u64 = 8;
/// Bytes to a token by which limits estimate the input of a request under way. A limit is not money: it is put right when
/// the usage is known, and one that counted bytes as tokens would refuse prompts that are well within it.
const BYTES_PER_TOKEN_ESTIMATED: u64 = 4;

// === impl WorkBound ===

impl WorkBound {
    /// For so many tokens. `None` if it overflows.
    fn cpu_us(self, tokens: u64) -> Option<u64> {
        tokens.checked_mul(self.us_per_token)?.checked_add(self.us_per_request)
    }
}

// === impl Entered ===

impl Entered {
    /// What is left of the limits now.
    pub fn rate(&self, now: Timestamp) -> RateState {
        self.entry.rate(now)
    }
}

// === impl Hold ===

impl Hold<'_> {
    /// No more input tokens than this: text has at most one per byte, each image at most its documented allowance.
    fn input_tokens(&self, rate: &Rate) -> Option<u64> {
        let images = self.call.images.checked_mul(rate.image_tokens_max.unwrap_or(0))?;
        self.input_bytes.checked_add(images)
    }

    /// Whether the call may fit if its input has fewer tokens than bytes, though not at one token a byte.
    fn is_tight(&self, headroom: Headroom) -> bool {
        let fits = |input_bytes: u64| {
            let amounts = Hold { input_bytes, ..*self }.of(self.wanted);
            amounts.is_some_and(|amounts| headroom.fits(amounts))
        };
        !fits(self.input_bytes) && fits(self.input_bytes / BYTES_PER_TOKEN_HOPED)
    }

    /// The tokens that the call is expected to use with so many of output per choice, as limits count them.
    fn tokens(&self, output: u64) -> u64 {
        let Call { choices, prediction_bytes, images, .. } = self.call;
        let per_image = self.pricing.rate.as_ref().and_then(|rate| rate.image_tokens_max).unwrap_or(0);
        let input =
            self.input_bytes.div_ceil(BYTES_PER_TOKEN_ESTIMATED).saturating_add(images.saturating_mul(per_image));
        let output = output.saturating_mul(*choices).saturating_add(*prediction_bytes);
        input.saturating_add(output)
    }

    /// The bound for `tokens` of output per choice. `None` if it overflows.
    fn of(&self, tokens: u64) -> Option<Amounts> {
        let cost = match (&self.pricing.rate, self.pricing.fixed) {
            (Some(rate), _) => {
                let output = tokens.checked_mul(self.call.choices)?.checked_add(self.call.prediction_bytes)?;
                let input = self.input_tokens(rate)?;
                let cpu_us = self.work.map_or(Some(0), |work| work.cpu_us(input))?;
                rate.bound(input, output, cpu_us)?
            }
            (None, fixed) => fixed.unwrap_or(PicoUsd::ZERO),
        };
        Some(self.pricing.hold(cost))
    }

    /// Asks for what is left; and once more, with the input counted, where only its bytes do not fit.
    fn ask<T>(
        &mut self,
        clamp: bool,
        tighten: impl FnOnce() -> Option<u64>,
        mut ask: impl FnMut(&mut dyn FnMut(Headroom) -> (Amounts, u64)) -> Result<T, ReserveError>,
    ) -> Result<T, ReserveError> {
        let mut tight = false;
        let asked = ask(&mut |headroom| {
            tight = self.is_tight(headroom);
            // Before an answer is shortened, the input is looked at more closely.
            self.within(headroom, clamp && !tight)
        });
        if !tight || !matches!(asked, Err(ReserveError::Rejected(Rejected::BudgetExceeded(_)))) {
            return asked;
        }
        self.input_bytes = tighten().map_or(self.input_bytes, |bound| bound.min(self.input_bytes));
        ask(&mut |headroom| self.within(headroom, clamp))
    }

    /// What to hold where this much is left, and the output tokens per choice it pays for.
    fn within(&self, headroom: Headroom, clamp: bool) -> (Amounts, u64) {
        let full = self.of(self.wanted).unwrap_or(Amounts { cost: PicoUsd::MAX, charge: PicoUsd::MAX });
        let all = (full, self.wanted);
        if !clamp || headroom.fits(full) {
            return all;
        }
        let Some(rate) = &self.pricing.rate else { return all };
        let by_charge = headroom.charge.map(|left| self.pricing.tariff.cost_within_charge(left.clamp_to_amount()));
        let by_cost = headroom.cost.map(PicoSum::clamp_to_amount);
        let money = by_cost.unwrap_or(PicoUsd::MAX).min(by_charge.unwrap_or(PicoUsd::MAX));
        let Some(input) = self.input_tokens(rate) else { return all };
        let output = rate.output_tokens_affordable(input, money).saturating_sub(self.call.prediction_bytes);
        let tokens = (output / self.call.choices.max(1)).min(self.wanted);
        match self.of(tokens) {
            Some(amounts) if tokens >= CLAMPED_TOKENS_MIN.min(self.wanted) => (amounts, tokens),
            _ => all,
        }
    }
}
