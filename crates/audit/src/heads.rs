//! What the next entry needs to know of those before it: each tenant's last one, whose the open requests and the approvals are.
//! It follows from the entries alone, so it can be made from them again at any time.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tollgate_types::directory::APPROVALS_KEPT;
use tollgate_types::{KeyId, RequestId, TenantId, Timestamp};

use crate::tree::{HASH_BYTES, Hash, leaf_hash};
use crate::{kind, note};

/// The state of the log after so many entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heads {
    pub size: u64,
    /// When the last entry was made.
    pub at: Timestamp,
    pub tenants: BTreeMap<TenantId, Head>,
    /// Requests that were admitted and have not ended.
    pub open: BTreeMap<RequestId, TenantId>,
    /// Approvals that were asked for lately, and when they expire.
    pub approvals: BTreeMap<KeyId, (Option<TenantId>, Timestamp)>,
}

/// A tenant's place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its last entry.
    pub last: u64,
    /// How many it has.
    pub count: u64,
}

/// What an entry changes, beside who had the last one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Effect<'a> {
    None,
    Opens(RequestId),
    Ends(RequestId),
    Asks(&'a KeyId, Timestamp),
}

/// An entry as it is read back: what this room needs of it.
#[derive(Clone, Debug, Deserialize)]
pub struct Told<'a> {
    pub n: u64,
    #[serde(borrow, default)]
    pub at: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub tenant: Option<Cow<'a, str>>,
    #[serde(default)]
    pub prev: Option<u64>,
    #[serde(borrow, default)]
    pub request: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub approval: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub expires_at: Option<Cow<'a, str>>,
    /// The hash of an entry whose text is not kept any more.
    #[serde(borrow, default)]
    pub erased: Option<Cow<'a, str>>,
}

/// The form in which heads are kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    size: u64,
    at: Timestamp,
    tenants: BTreeMap<TenantId, (u64, u64)>,
    open: BTreeMap<String, TenantId>,
    approvals: BTreeMap<KeyId, (Option<TenantId>, Timestamp)>,
}

/// Why a line is not the next entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Strange {
    #[error("it is no entry: {0}")]
    Unreadable(String),
    #[error("it says that it is entry {0}")]
    OtherNumber(u64),
    #[error("it says that {tenant}'s entry before it is {said}, which is {true_one}")]
    WrongPrevious { tenant: String, said: String, true_one: String },
}

// === impl Told ===

impl<'a> Told<'a> {
    pub fn parse(line: &'a [u8]) -> Result<Self, Strange> {
        let text = std::str::from_utf8(line).map_err(|error| Strange::Unreadable(error.to_string()))?;
        let told: Self = serde_json::from_str(text).map_err(|error| Strange::Unreadable(error.to_string()))?;
        // What stands for an erased entry can only be written in one way: no hash would show that it was not.
        if told.erased.is_some() && told.leaf(line).is_none_or(|hash| told.stub(&hash).as_bytes() != line) {
            return Err(Strange::Unreadable("not the way an erased entry is written".to_owned()));
        }
        Ok(told)
    }

    /// The hash of the entry; of one that was erased, the one that it left.
    pub fn leaf(&self, line: &[u8]) -> Option<Hash> {
        match &self.erased {
            Some(hash) => note::decoded::<HASH_BYTES>(hash),
            None => Some(leaf_hash(line)),
        }
    }

    /// What remains of it when its text is erased: where it stood, and its hash.
    pub fn stub(&self, leaf: &Hash) -> String {
        let n = self.n;
        let hash = note::encoded(leaf);
        let Some(tenant) = &self.tenant else { return format!(r#"{{"n":{n},"erased":"{hash}"}}"#) };
        let prev = shown(self.prev);
        format!(r#"{{"n":{n},"tenant":"{tenant}","prev":{prev},"erased":"{hash}"}}"#)
    }
}

// === impl Heads ===

impl Heads {
    /// Goes on by one entry, if it is the next one.
    pub fn follow(&mut self, told: &Told<'_>) -> Result<(), Strange> {
        if told.n != self.size {
            return Err(Strange::OtherNumber(told.n));
        }
        let unreadable = |what: &str| Strange::Unreadable(format!("a strange {what}"));
        let tenant: Option<TenantId> =
            told.tenant.as_deref().map(str::parse).transpose().map_err(|_| unreadable("tenant"))?;
        let before = tenant.as_ref().and_then(|tenant| self.previous(tenant));
        if before != told.prev {
            let of = tenant.map_or("nobody".to_owned(), |tenant| tenant.to_string());
            return Err(Strange::WrongPrevious { tenant: of, said: shown(told.prev), true_one: shown(before) });
        }
        let time = |text: &Option<Cow<'_, str>>| text.as_deref().map(Timestamp::parse_rfc3339);
        let at = match time(&told.at) {
            Some(at) => at.ok_or_else(|| unreadable("time"))?,
            None => self.at,
        };
        let id = || told.request.as_deref().and_then(|id| id.parse().ok()).ok_or_else(|| unreadable("request id"));
        let approval: Option<KeyId> = told.approval.as_deref().and_then(|id| id.parse().ok());
        let effect = match told.kind.as_deref() {
            Some(kind::ADMITTED) => Effect::Opens(id()?),
            Some(kind::POSTED | kind::VOIDED) => Effect::Ends(id()?),
            Some(kind::APPROVAL_ASKED) => {
                let expires = time(&told.expires_at).flatten().ok_or_else(|| unreadable("time"))?;
                Effect::Asks(approval.as_ref().ok_or_else(|| unreadable("approval"))?, expires)
            }
            _ => Effect::None,
        };
        self.advance(at, tenant.as_ref(), effect);
        Ok(())
    }

    /// The tenant's last entry.
    pub fn previous(&self, tenant: &TenantId) -> Option<u64> {
        self.tenants.get(tenant).map(|head| head.last)
    }

    pub(crate) fn advance(&mut self, at: Timestamp, tenant: Option<&TenantId>, effect: Effect<'_>) {
        if let Some(tenant) = tenant {
            match self.tenants.get_mut(tenant) {
                Some(head) => *head = Head { last: self.size, count: head.count + 1 },
                None => drop(self.tenants.insert(tenant.clone(), Head { last: self.size, count: 1 })),
            }
        }
        match (effect, tenant) {
            (Effect::Opens(id), Some(tenant)) => drop(self.open.insert(id, tenant.clone())),
            (Effect::Ends(id), _) => drop(self.open.remove(&id)),
            (Effect::Asks(id, expires), _) => {
                self.approvals.insert(id.clone(), (tenant.cloned(), expires));
                // The directory forgets the same one.
                if self.approvals.len() > APPROVALS_KEPT
                    && let Some(first) = self.approvals.iter().min_by_key(|(_, (_, expires))| *expires)
                {
                    let first = first.0.clone();
                    self.approvals.remove(&first);
                }
            }
            (Effect::Opens(_) | Effect::None, _) => {}
        }
        (self.size, self.at) = (self.size + 1, at);
    }

    /// All of it on one line, the same for the same state.
    pub fn to_json(&self) -> String {
        let kept = Kept {
            size: self.size,
            at: self.at,
            tenants: self.tenants.iter().map(|(tenant, head)| (tenant.clone(), (head.last, head.count))).collect(),
            open: self.open.iter().map(|(id, tenant)| (id.to_string(), tenant.clone())).collect(),
            approvals: self.approvals.clone(),
        };
        serde_json::to_string(&kept).expect("numbers and names are JSON")
    }

    pub fn from_json(text: &str) -> Option<Self> {
        let kept: Kept = serde_json::from_str(text).ok()?;
        let open = kept.open.into_iter().map(|(id, tenant)| Some((id.parse().ok()?, tenant)));
        let head = |(tenant, (last, count))| (tenant, Head { last, count });
        Some(Self {
            size: kept.size,
            at: kept.at,
            tenants: kept.tenants.into_iter().map(head).collect(),
            open: open.collect::<Option<_>>()?,
            approvals: kept.approvals,
        })
    }
}

fn shown(n: Option<u64>) -> String {
    n.map_or("null".to_owned(), |n| n.to_string())
}
