//! Why not. One value for every way a request can be turned away; the gateway alone turns it into a status and a body.
//!
//! Nothing in a refusal may name another tenant, a key's secret or an internal address: it is shown to the caller.

use std::time::Duration;

use crate::{Basis, PicoSum, PicoUsd, RequestId, Timestamp, Window};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{message}")]
    InvalidRequest { message: String, param: Option<&'static str> },
    #[error("the API key is missing, unknown, expired or revoked; send it as 'Authorization: Bearer tg_...'")]
    InvalidApiKey,
    #[error("this key may not {action}; ask for a key with the scope '{scope}'")]
    RoleDenied { action: &'static str, scope: &'static str },
    /// In the words of the policy's author, or of who carries out its obligations.
    #[error("{reason}")]
    PolicyDenied {
        reason: String,
        /// Whose bundle said so: `platform`, `plan` or `tenant`. `None`: it is an obligation that cannot be met.
        layer: Option<&'static str>,
    },
    #[error("the model '{model}' does not exist or is not available to you; GET /v1/models lists what is")]
    ModelNotFound { model: String },
    #[error("there is nothing at this address")]
    NotFound,
    #[error("{what} has no upper bound on its cost, so it cannot be held against a budget; {advice}")]
    UnboundedRequest { what: String, advice: &'static str },
    #[error("no price is in force for {what}; ask the operator to add it to the price book")]
    PriceUnknown { what: String },
    #[error("{0}")]
    BudgetExceeded(BudgetExceeded),
    #[error("{0}")]
    RateLimited(RateLimited),
    #[error("{reason}; retry in {} s", retry_after.as_secs().max(1))]
    Overloaded { reason: &'static str, retry_after: Duration },
    #[error("{0}")]
    Provider(ProviderFault),
    #[error("{0}")]
    IdempotencyConflict(IdempotencyConflict),
    #[error("the ledger cannot be written, so nothing may be spent; retry later or ask the operator")]
    LedgerUnavailable,
}

/// A cap said no: whose, over what window, what was left of it and when it begins anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetExceeded {
    /// [`Scope::kind`](crate::Scope::kind)
    pub scope: &'static str,
    /// Whether others spend from it too. Then its amounts say something of them, and are not shown.
    pub shared: bool,
    pub window: Window,
    pub basis: Basis,
    pub left: PicoSum,
    pub needed: PicoUsd,
    pub resets_at: Option<Timestamp>,
}

/// A limit said no: whose and of what, how much it is, and when to come again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimited {
    pub scope: &'static str,
    pub what: &'static str,
    /// `None` where the scope is shared with other tenants: its amounts would tell of them.
    pub limit: Option<u64>,
    /// `None`: the request alone is more than the limit ever allows, and waiting does not help.
    pub retry_after: Option<Duration>,
}

/// The `Idempotency-Key` stands for a request already, and its answer cannot be given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdempotencyConflict {
    pub first: RequestId,
    pub why: IdempotencyConflictKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdempotencyConflictKind {
    /// The first request asked for something else.
    OtherBody,
    /// A crash interrupted the first request: it counts in full until it is known what it came to.
    InDoubt,
    /// The first request was charged, and its answer is not there: it broke, was too large, or is too old.
    AnswerGone,
}

/// The provider's fault, in words for the caller. The provider's own text goes through only where it is about the
/// caller's request (a 4xx); its keys and addresses never do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderFault {
    pub provider: String,
    pub kind: ProviderFaultKind,
    /// What the provider said about trying again, if it said so.
    pub retry_after: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderFaultKind {
    /// No connection, or it broke before the answer.
    Unreachable,
    /// It broke in the middle of the answer.
    BrokenAnswer,
    /// It answered with something that is not the protocol.
    MalformedAnswer,
    /// It answered with an error status of its own.
    Status(u16),
    /// It did not connect, answer or go on in time.
    Timeout(&'static str),
}

// === impl Refusal ===

impl Refusal {
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::InvalidRequest { message: message.into(), param: None }
    }

    pub fn invalid_param(message: impl Into<String>, param: &'static str) -> Self {
        Self::InvalidRequest { message: message.into(), param: Some(param) }
    }

    /// The stable code of the public surface.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidRequest { .. } => "invalid_request",
            Self::InvalidApiKey => "invalid_api_key",
            Self::RoleDenied { .. } => "role_denied",
            Self::PolicyDenied { .. } => "policy_denied",
            Self::ModelNotFound { .. } => "model_not_found",
            Self::NotFound => "not_found",
            Self::UnboundedRequest { .. } => "unbounded_request",
            Self::PriceUnknown { .. } => "price_unknown",
            Self::BudgetExceeded(_) => "budget_exceeded",
            Self::RateLimited(_) => "rate_limited",
            Self::Overloaded { .. } => "overloaded",
            Self::Provider(fault) if matches!(fault.kind, ProviderFaultKind::Timeout(_)) => "provider_timeout",
            Self::Provider(_) => "provider_error",
            Self::IdempotencyConflict(_) => "idempotency_conflict",
            Self::LedgerUnavailable => "ledger_unavailable",
        }
    }
}

impl std::fmt::Display for BudgetExceeded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { scope, shared, window, basis, left, needed, resets_at } = self;
        if *shared {
            write!(f, "the {scope}'s {window} budget does not allow this request now; ")?;
        } else {
            write!(
                f,
                "the {scope}'s {window} budget ({basis}) has {left} USD left and this request may need {needed} USD; "
            )?;
        }
        match resets_at {
            Some(at) => write!(f, "it resets at {at}"),
            None => write!(f, "it does not reset by itself"),
        }
    }
}

impl std::fmt::Display for RateLimited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { scope, what, limit, retry_after } = self;
        let millis = retry_after.map(|wait| wait.as_micros().div_ceil(1000));
        match (limit, millis) {
            (Some(limit), Some(millis)) => {
                write!(f, "{what} of this {scope} are limited to {limit}; retry in {millis} ms")
            }
            (Some(limit), None) => {
                write!(
                    f,
                    "{what} of this {scope} are limited to {limit}, and this request alone needs more: it can never fit"
                )
            }
            (None, Some(millis)) => write!(f, "the {scope} is busy; retry in {millis} ms"),
            (None, None) => write!(f, "this request alone needs more {what} than the {scope} has: it can never fit"),
        }
    }
}

impl std::fmt::Display for IdempotencyConflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { first, why } = self;
        match why {
            IdempotencyConflictKind::OtherBody => {
                write!(f, "this Idempotency-Key stands for {first}, which asked for something else; ")?;
                f.write_str("send a new request under a new key")
            }
            IdempotencyConflictKind::InDoubt => {
                write!(f, "this Idempotency-Key stands for {first}, which was interrupted and may be charged; ")?;
                write!(f, "GET /v1/receipts/{first} says what it came to; to send it anew, use a new key")
            }
            IdempotencyConflictKind::AnswerGone => {
                write!(f, "this Idempotency-Key stands for {first}, which was charged, and its answer is not kept: ")?;
                write!(
                    f,
                    "it broke off, was too large or is older than a day; GET /v1/receipts/{first} says what it "
                )?;
                f.write_str("cost; to send it anew, and be charged anew, use a new key")
            }
        }
    }
}

impl std::fmt::Display for ProviderFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = &self.provider;
        match self.kind {
            ProviderFaultKind::Unreachable => write!(f, "the provider '{name}' could not be reached"),
            ProviderFaultKind::BrokenAnswer => write!(f, "the provider '{name}' broke off its answer"),
            ProviderFaultKind::MalformedAnswer => write!(f, "the provider '{name}' sent an answer that cannot be read"),
            ProviderFaultKind::Status(status) => write!(f, "the provider '{name}' answered with status {status}"),
            ProviderFaultKind::Timeout(step) => write!(f, "the provider '{name}' did not {step} in time"),
        }
    }
}
