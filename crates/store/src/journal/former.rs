//! Records as earlier versions of the journal wrote them, read as those of now.
//!
//! Version 4 knew no CPU time in what was used. Version 3 had, besides, fewer kinds of records: what it has is as in 4.

use std::sync::Arc;

use serde::Deserialize;
use tollgate_ledger::Record;
use tollgate_ledger::account::Amounts;
use tollgate_ledger::record::{Adjusted, CapSet, Extended, Posted, Reason, Reserved, Standing, Voided};
use tollgate_types::directory::Change;
use tollgate_types::usage::Outcome;
use tollgate_types::{AuditEntry, Confidence, RequestId, Spender, Timestamp, Usage, UtcOffset};

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
enum Record4 {
    Reserved(Box<Reserved>),
    Posted(Posted4),
    Voided(Voided),
    Indeterminate { id: RequestId, at: Timestamp },
    CapSet(CapSet),
    Directory(Change),
    PricesSet { version: Arc<str>, sha256: [u8; 32], at: Timestamp },
    Extended(Box<Extended>),
    Adjusted(Box<Adjusted4>),
    Audited(Box<AuditEntry>),
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
struct Usage4 {
    input_tokens: u64,
    cached_input_tokens: u64,
    cache_write_tokens: Option<u64>,
    audio_input_tokens: u64,
    output_tokens: u64,
    reasoning_tokens: u64,
    audio_output_tokens: u64,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
struct Posted4 {
    id: RequestId,
    at: Timestamp,
    usage: Usage4,
    amounts: Amounts,
    overrun: Amounts,
    confidence: Confidence,
    outcome: Outcome,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
struct Adjusted4 {
    id: RequestId,
    at: Timestamp,
    spender: Spender,
    held_at: Timestamp,
    offset: UtcOffset,
    was: Standing,
    now: Standing,
    usage: Usage4,
    price_version: Arc<str>,
    reason: Reason,
}

/// Reads one record of version 3 or 4, and gives what is left of the bytes.
pub fn take_from_bytes(bytes: &[u8]) -> postcard::Result<(Record, &[u8])> {
    let (record, left) = postcard::take_from_bytes::<Record4>(bytes)?;
    Ok((record.into(), left))
}

// === as they are now ===

impl From<Record4> for Record {
    fn from(record: Record4) -> Self {
        match record {
            Record4::Reserved(reserved) => Self::Reserved(reserved),
            Record4::Posted(posted) => Self::Posted(posted.into()),
            Record4::Voided(voided) => Self::Voided(voided),
            Record4::Indeterminate { id, at } => Self::Indeterminate { id, at },
            Record4::CapSet(cap) => Self::CapSet(cap),
            Record4::Directory(change) => Self::Directory(change),
            Record4::PricesSet { version, sha256, at } => Self::PricesSet { version, sha256, at },
            Record4::Extended(extended) => Self::Extended(extended),
            Record4::Adjusted(adjusted) => Self::Adjusted(Box::new((*adjusted).into())),
            Record4::Audited(entry) => Self::Audited(entry),
        }
    }
}

impl From<Usage4> for Usage {
    fn from(usage: Usage4) -> Self {
        Self {
            input_tokens: usage.input_tokens,
            cached_input_tokens: usage.cached_input_tokens,
            cache_write_tokens: usage.cache_write_tokens,
            audio_input_tokens: usage.audio_input_tokens,
            output_tokens: usage.output_tokens,
            reasoning_tokens: usage.reasoning_tokens,
            audio_output_tokens: usage.audio_output_tokens,
            cpu_us: 0,
        }
    }
}

impl From<Posted4> for Posted {
    fn from(posted: Posted4) -> Self {
        let Posted4 { id, at, usage, amounts, overrun, confidence, outcome } = posted;
        Self { id, at, usage: usage.into(), amounts, overrun, confidence, outcome }
    }
}

impl From<Adjusted4> for Adjusted {
    fn from(adjusted: Adjusted4) -> Self {
        let Adjusted4 { id, at, spender, held_at, offset, was, now, usage, price_version, reason } = adjusted;
        Self { id, at, spender, held_at, offset, was, now, usage: usage.into(), price_version, reason }
    }
}

#[cfg(test)]
mod tests {
    use tollgate_types::{PicoUsd, Scope, Window};

    use super::*;

    fn usage4() -> Usage4 {
        Usage4 {
            input_tokens: 1,
            cached_input_tokens: 2,
            cache_write_tokens: Some(3),
            audio_input_tokens: 4,
            output_tokens: 5,
            reasoning_tokens: 6,
            audio_output_tokens: 7,
        }
    }

    fn check(former: &Record4, expected: &Record) {
        let mut bytes = postcard::to_stdvec(former).expect("plain data");
        bytes.push(0xaa);
        let (read, left) = take_from_bytes(&bytes).expect("a record of version 4");
        assert_eq!((&read, left), (expected, &[0xaa][..]));
    }

    #[test]
    fn what_version_four_wrote_is_read_with_no_cpu_time() {
        let id = RequestId::new(Timestamp(5), 77);
        let amounts = |n| Amounts { cost: PicoUsd(n), charge: PicoUsd(n + 1) };
        let (at, confidence, outcome) = (Timestamp(9), Confidence::Bounded, Outcome::ClientGone);
        let usage = Usage {
            input_tokens: 1,
            cached_input_tokens: 2,
            cache_write_tokens: Some(3),
            audio_input_tokens: 4,
            output_tokens: 5,
            reasoning_tokens: 6,
            audio_output_tokens: 7,
            cpu_us: 0,
        };
        let (posted, overrun) = (amounts(10), amounts(20));
        check(
            &Record4::Posted(Posted4 { id, at, usage: usage4(), amounts: posted, overrun, confidence, outcome }),
            &Record::Posted(Posted { id, at, usage, amounts: posted, overrun, confidence, outcome }),
        );
        let standing = |n| Standing { amounts: amounts(n), overrun: amounts(n + 5), confidence };
        let spender = Spender {
            plan: "standard".parse().expect("a slug"),
            tenant: "demo".parse().expect("a slug"),
            project: "default".parse().expect("a slug"),
            key: "k1".parse().expect("a slug"),
            end_user: None,
        };
        let (price_version, reason): (Arc<str>, _) = ("v".into(), Reason::Repriced);
        let (held_at, offset) = (Timestamp(3), UtcOffset(3600));
        let adjusted = Adjusted4 {
            id,
            at,
            spender: spender.clone(),
            held_at,
            offset,
            was: standing(1),
            now: standing(2),
            usage: usage4(),
            price_version: Arc::clone(&price_version),
            reason,
        };
        let (was, now) = (standing(1), standing(2));
        let expected = Adjusted { id, at, spender, held_at, offset, was, now, usage, price_version, reason };
        check(&Record4::Adjusted(Box::new(adjusted)), &Record::Adjusted(Box::new(expected)));
    }

    #[test]
    fn what_did_not_change_is_read_as_it_is_now() {
        let at = Timestamp(7);
        let cap = CapSet {
            scope: Scope::Platform,
            window: Window::Lifetime,
            basis: tollgate_types::Basis::Cost,
            cap: None,
            alerts: Default::default(),
            at,
        };
        let same = [
            Record::Voided(Voided { id: RequestId::new(at, 1), at, outcome: Outcome::NotSent }),
            Record::Indeterminate { id: RequestId::new(at, 2), at },
            Record::CapSet(cap),
            Record::PricesSet { version: "v".into(), sha256: [9; 32], at },
        ];
        for record in same {
            let bytes = postcard::to_stdvec(&record).expect("plain data");
            assert_eq!(take_from_bytes(&bytes).expect("the same"), (record, &[][..]));
        }
    }
}
