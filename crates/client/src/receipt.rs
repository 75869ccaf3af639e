//! The signed proof of a request. What is signed is the statement's exact text, inside `jws`; everything beside it is the
//! same again for reading. docs/receipts.md tells how to verify one.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;

use crate::{Confidence, UsageEvent, UsageState};

/// The proof of a request, for who made it: its usage event, the same money in dollars, and all of it signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Receipt {
    #[serde(flatten)]
    pub event: UsageEvent,
    #[schema(example = "0.000012345")]
    pub cost_usd: String,
    #[schema(example = "0.000014814")]
    pub charge_usd: String,
    /// What is signed, to be read. Kept as it came, so that it can still be compared with what was signed.
    #[schema(value_type = ReceiptStatement)]
    pub statement: serde_json::Value,
    /// The same, signed: a JWS (RFC 7515) in compact form, `EdDSA` with Ed25519 (RFC 8037). Its payload is the
    /// statement's exact text.
    #[schema(example = "eyJhbGciOiJFZERTQSIs….eyJmb3JtYXQiOiJ0b2xs….c2lnbmF0dXJl…")]
    pub jws: String,
}

/// What a receipt states. Fields may be added; what is here keeps its meaning as long as `format` is the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptStatement {
    #[schema(example = "tollgate-receipt/1")]
    pub format: String,
    /// Who states it: `receipts.issuer` of the gateway's configuration.
    #[schema(example = "tollgate")]
    pub issuer: String,
    #[schema(example = "req_019ab0f2c3d4000000000000deadbeef")]
    pub request_id: String,
    /// Whether the request has ended. If not, this is its state at `signed_at` and no more.
    #[serde(rename = "final")]
    pub is_final: bool,
    pub signed_at: String,
    #[schema(example = "demo")]
    pub tenant: String,
    #[schema(example = "default")]
    pub project: String,
    /// The API key's id.
    pub key: String,
    /// A keyed hash of the tenant's name for its user.
    #[schema(example = "usr_019ab0f2c3d4000000000000deadbeef")]
    pub end_user: Option<String>,
    #[schema(example = "standard")]
    pub plan: String,
    /// The name asked for.
    #[schema(example = "gpt-4o-mini")]
    pub route: String,
    /// The model's name at the provider.
    #[schema(example = "gpt-4o-mini")]
    pub model: String,
    #[schema(example = "openai")]
    pub provider: String,
    pub stream: bool,
    pub started_at: String,
    /// None until it has ended.
    pub ended_at: Option<String>,
    pub state: UsageState,
    /// As in the usage event. None until it has ended.
    #[schema(example = "completed")]
    pub outcome: Option<String>,
    /// None until posted.
    pub confidence: Option<Confidence>,
    pub tokens: ReceiptTokens,
    pub prices: ReceiptPrices,
    pub hold: ReceiptHold,
    #[schema(example = "12345000")]
    pub cost_picousd: String,
    #[schema(example = "0.000012345")]
    pub cost_usd: String,
    #[schema(example = "14814000")]
    pub charge_picousd: String,
    #[schema(example = "0.000014814")]
    pub charge_usd: String,
    /// What the work came to beyond what could be counted against the tenant: the platform's loss.
    pub overrun: ReceiptAmounts,
    /// Fingerprint of the policy that let the request pass. None: there was no policy.
    pub policy: Option<String>,
    /// `hit`: all of its input was answered before, and nothing was worked on. `bypass`: it was.
    #[schema(example = "bypass")]
    pub cache: String,
    /// None: the caller sent no `Idempotency-Key`.
    pub idempotency: Option<ReceiptIdempotency>,
    /// Differences that were found after the end, in order. The amounts above are what stands after the last.
    pub adjustments: Vec<ReceiptAdjustment>,
}

/// The usage that the cost was made of. A number above 2^53-1 is written as text, for not every reader can hold it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptTokens {
    #[serde(with = "count")]
    pub input: u64,
    /// Of the input, as are the next two.
    #[serde(with = "count")]
    pub cached_input: u64,
    #[serde(with = "count")]
    pub cache_write: u64,
    #[serde(with = "count")]
    pub audio_input: u64,
    #[serde(with = "count")]
    pub output: u64,
    /// Of the output, as is the next.
    #[serde(with = "count")]
    pub reasoning: u64,
    #[serde(with = "count")]
    pub audio_output: u64,
    /// Microseconds of CPU that a local runtime spent on it; 0 where a provider did the work.
    #[serde(with = "count", default)]
    pub cpu_us: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptPrices {
    /// The book it is priced by; `unpriced` for a plan's fixed hold.
    #[schema(example = "2026-11-20")]
    pub version: String,
    /// Of the book of that version which the gateway had when it signed. None: it had none any more.
    pub sha256: Option<String>,
}

/// Money in both columns: what the work costs, and what the tenant is charged for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptAmounts {
    #[schema(example = "12345000")]
    pub cost_picousd: String,
    #[schema(example = "14814000")]
    pub charge_picousd: String,
}

/// What was set aside for the request, and what became of that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptHold {
    #[schema(example = "614400000")]
    pub cost_picousd: String,
    #[schema(example = "737280000")]
    pub charge_picousd: String,
    pub reserved_at: String,
    /// When it would have ended by itself.
    pub deadline: String,
    /// When it last grew, if it did. The amounts are what it grew to.
    pub extended_at: Option<String>,
    /// What was given back when the request ended. None: it is held still.
    pub released: Option<ReceiptAmounts>,
}

/// What the caller's `Idempotency-Key` and body were, as hashes that only this tenant's data key makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptIdempotency {
    pub key_hash: String,
    pub body_hash: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptAdjustment {
    pub at: String,
    /// `reconciled`: by the provider's own report. `repriced`: the price of then was corrected. Others may be added.
    #[schema(example = "reconciled")]
    pub reason: String,
    pub was: ReceiptStanding,
    pub now: ReceiptStanding,
    #[schema(example = "2026-11-20")]
    pub price_version: String,
}

/// What the books said of a request at some time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptStanding {
    pub cost_picousd: String,
    pub charge_picousd: String,
    pub overrun: ReceiptAmounts,
    pub confidence: Confidence,
}

/// The public keys that receipts are signed with: a JWK set (RFC 7517). The first signs now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptKeys {
    pub keys: Vec<ReceiptKey>,
}

/// One public key (RFC 8037).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReceiptKey {
    #[schema(example = "OKP")]
    pub kty: String,
    #[schema(example = "Ed25519")]
    pub crv: String,
    /// The first 16 hexadecimal digits of the SHA-256 of the 32 bytes in `x`.
    #[schema(example = "19f24c0c4ed1a3b7")]
    pub kid: String,
    /// The key's 32 bytes in base64url.
    pub x: String,
    #[serde(rename = "use", default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "sig")]
    pub purpose: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "EdDSA")]
    pub alg: Option<String>,
}

// === impl ReceiptStatement ===

impl ReceiptStatement {
    pub const FORMAT: &str = "tollgate-receipt/1";

    /// The part of a receipt that older readers know, from what is signed.
    pub fn event(&self) -> UsageEvent {
        UsageEvent {
            request_id: self.request_id.clone(),
            tenant: self.tenant.clone(),
            project: self.project.clone(),
            key: self.key.clone(),
            route: self.route.clone(),
            model: self.model.clone(),
            provider: self.provider.clone(),
            stream: self.stream,
            started_at: self.started_at.clone(),
            ended_at: self.ended_at.clone(),
            state: self.state,
            confidence: self.confidence,
            input_tokens: self.tokens.input,
            cached_input_tokens: self.tokens.cached_input,
            cache_write_tokens: Some(self.tokens.cache_write).filter(|written| *written > 0),
            audio_input_tokens: self.tokens.audio_input,
            output_tokens: self.tokens.output,
            reasoning_tokens: self.tokens.reasoning,
            audio_output_tokens: self.tokens.audio_output,
            cpu_us: self.tokens.cpu_us,
            hold_cost_picousd: self.hold.cost_picousd.clone(),
            cost_picousd: self.cost_picousd.clone(),
            charge_picousd: self.charge_picousd.clone(),
            overrun_picousd: self.overrun.cost_picousd.clone(),
            price_version: self.prices.version.clone(),
            adjustments: u32::try_from(self.adjustments.len()).unwrap_or(u32::MAX),
            outcome: self.outcome.clone(),
        }
    }

    /// The whole receipt.
    pub fn signed(&self, jws: String) -> Receipt {
        Receipt {
            event: self.event(),
            cost_usd: self.cost_usd.clone(),
            charge_usd: self.charge_usd.clone(),
            statement: serde_json::to_value(self).expect("a statement is plain data, which JSON can hold"),
            jws,
        }
    }
}

/// A count that every JSON reader can hold: beyond 2^53-1 it is text (RFC 7493).
mod count {
    use super::{Deserialize, Deserializer, Serialize, Serializer};

    const EXACT_MAX: u64 = (1 << 53) - 1;

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u64),
        Text(String),
    }

    pub fn serialize<S: Serializer>(count: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        match *count {
            count @ 0..=EXACT_MAX => Written::Number(count),
            count => Written::Text(count.to_string()),
        }
        .serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Number(count) => Ok(count),
            Written::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}
