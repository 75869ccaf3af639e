//! What is noted of acts: that they begin, before anything is done; what came of them; and who was not let. An act whose
//! beginning cannot be noted does not happen.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ring::digest;
use tollgate_ledger::books::ChangeError;
use tollgate_store::audit::AuditError;
use tollgate_store::audit::retention::{self, Erased};
use tollgate_store::journal::Sequence;
use tollgate_store::store::Layout;
use tollgate_types::access::Actor;
use tollgate_types::audit::{AuditEntry, Phase, shortened};
use tollgate_types::{RequestId, TenantId, Timestamp, hex};

use crate::app::App;

const DAY: Duration = Duration::from_secs(24 * 3_600);
/// Denials that are alike are noted once at first; those that follow within this time are counted, and noted together.
const TOGETHER: Duration = Duration::from_secs(60);
/// Kinds of denials that are told apart. Beyond them only the act is: whoever floods us does not fill the log.
const KINDS_MAX: usize = 4_096;

/// Something that somebody does.
#[derive(Clone, Debug)]
pub struct Act {
    pub request: RequestId,
    pub trace: Option<[u8; 16]>,
    pub actor: Actor,
    /// As the control plane's description names it.
    pub act: &'static str,
    pub tenant: Option<TenantId>,
    pub subject: Arc<str>,
    /// The approval by which it is done, if one was needed.
    pub by: Option<String>,
}

/// Denials of the last minute, by their kind.
#[derive(Debug, Default)]
pub struct Denials(Mutex<HashMap<Kind, Counted>>);

/// What makes denials alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    /// As it is shown: an actor's own type has names in it that may differ.
    actor: String,
    act: &'static str,
    tenant: Option<TenantId>,
    code: &'static str,
}

#[derive(Debug)]
struct Counted {
    since: Timestamp,
    more: u32,
    last: Act,
    status: u16,
}

/// An act was not noted, so it does not happen.
#[derive(Debug, thiserror::Error)]
pub enum NotNoted {
    #[error(transparent)]
    Refused(#[from] ChangeError),
    #[error("{0}")]
    NotDurable(String),
}

// === impl Act ===

impl Act {
    pub fn of(request: RequestId, actor: Actor, act: &'static str) -> Self {
        Self { request, trace: None, actor, act, tenant: None, subject: "".into(), by: None }
    }

    pub fn with_tenant(self, tenant: &TenantId) -> Self {
        Self { tenant: Some(tenant.clone()), ..self }
    }

    fn entry(&self, phase: Phase, status: Option<u16>, code: Option<&str>, count: u32) -> AuditEntry {
        let said: Vec<&str> = code.into_iter().chain(self.by.as_deref()).collect();
        let said = said.join("; ");
        AuditEntry {
            at: Timestamp::default(),
            request: self.request,
            trace: self.trace,
            phase,
            act: self.act.into(),
            actor: self.actor.clone(),
            tenant: self.tenant.clone(),
            subject: shortened(&self.subject).into(),
            status,
            note: (!said.is_empty()).then(|| shortened(&said).into()),
            count,
        }
    }
}

/// Notes something. It counts once it is [`durable`].
pub fn note(
    app: &App,
    act: &Act,
    phase: Phase,
    status: Option<u16>,
    code: Option<&str>,
) -> Result<Sequence, ChangeError> {
    app.books.note(act.entry(phase, status, code, 1))
}

/// Notes the beginning of what must be possible also where the journal takes no new work.
pub fn note_at_once(app: &App, act: &Act) -> Result<Sequence, ChangeError> {
    app.books.note_at_once(act.entry(Phase::Begun, None, None, 1))
}

/// Waits until what was noted is durable.
pub async fn durable(app: &App, noted: Result<Sequence, ChangeError>) -> Result<(), NotNoted> {
    let position = noted?;
    app.journal.durable(position).await.map_err(|error| NotNoted::NotDurable(error.to_string()))
}

/// Notes that somebody was not let: at once, or counted with others that are alike.
pub fn denied(app: &App, act: &Act, status: u16, code: &'static str) {
    let now = app.clock().now();
    if app.denials.is_first(act, status, code, now) {
        write(app, &act.entry(Phase::Denied, Some(status), Some(code), 1));
    }
}

/// Notes the denials that were only counted, once their minute is over; `all`: whether it is or not.
pub fn tell_denials(app: &App, all: bool) {
    for (code, counted) in app.denials.over(app.clock().now(), all) {
        write(app, &counted.last.entry(Phase::Denied, Some(counted.status), Some(code), counted.more));
    }
}

/// Notes with which configuration the gateway goes on: prices and providers may be in it.
pub fn note_configuration(app: &App, act: &'static str, files: &[&Path]) {
    let mut digest = digest::Context::new(&digest::SHA256);
    for file in files {
        match std::fs::read(file) {
            Ok(content) => digest.update(&content),
            Err(error) => tracing::warn!(%error, file = %file.display(), "it cannot be read to be noted"),
        }
    }
    let subject = format!("configuration sha256:{}", hex(digest.finish().as_ref()));
    let request = app.request_ids.next(app.clock().now());
    let noted = Act { subject: subject.into(), ..Act::of(request, Actor::Gateway, act) };
    if let Err(error) = note(app, &noted, Phase::Noted, None, None) {
        tracing::error!(%error, act, "it was not noted: the journal cannot be written");
    }
}

/// Erases what is older than the plans of those whose it is keep it. Blocks: it reads the whole log.
pub fn retain(app: &App) {
    let now = app.clock().now();
    let cutoffs: HashMap<TenantId, Timestamp> = app.books.with_directory(|directory| {
        let days = |tenant: &TenantId| directory.oversight_of(tenant).audit_days;
        let cutoff = |days: u32| now.minus(DAY.saturating_mul(days));
        directory.tenants.keys().filter_map(|tenant| Some((tenant.clone(), cutoff(days(tenant)?)))).collect()
    });
    if cutoffs.is_empty() {
        return;
    }
    let layout = Layout::of(&app.dir);
    let erased = match retention::retain(&layout, |tenant| tenant.and_then(|tenant| cutoffs.get(tenant).copied())) {
        Ok(erased) => erased,
        Err(AuditError::NotErased { first, damaged, erased }) => {
            tracing::error!(%first, damaged, "entries of the audit log were not erased: they are not what they were");
            erased
        }
        Err(error) => return tracing::error!(%error, "nothing could be erased from the audit log"),
    };
    let Erased { entries, .. } = erased;
    if entries > 0 {
        tracing::info!(entries, "erased from the audit log: older than their plans keep them");
        // Auditors hold the sum of these against what is erased.
        let act = Act::of(app.request_ids.next(now), Actor::Gateway, "erase_audit");
        let count = u32::try_from(entries).unwrap_or(u32::MAX);
        if let Err(error) = app.books.note(act.entry(Phase::Noted, None, None, count)) {
            tracing::error!(%error, "the erasure was not noted: the journal cannot be written");
        }
    }
}

/// Nothing was done, so nothing has to be undone where this cannot be written.
fn write(app: &App, entry: &AuditEntry) {
    if let Err(error) = app.books.note(entry.clone()) {
        tracing::error!(%error, act = &*entry.act, "a denial was not noted: the journal cannot be written");
    }
}

// === impl Denials ===

impl Denials {
    fn is_first(&self, act: &Act, status: u16, code: &'static str, now: Timestamp) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kind = Kind { actor: act.actor.to_string(), act: act.act, tenant: act.tenant.clone(), code };
        let mut act = act.clone();
        if known.len() >= KINDS_MAX && !known.contains_key(&kind) {
            (kind.actor, kind.tenant) = ("several".to_owned(), None);
            (act.actor, act.tenant) = (Actor::Nobody, None);
        }
        if let Some(counted) = known.get_mut(&kind) {
            counted.more = counted.more.saturating_add(1);
            (counted.last, counted.status) = (act, status);
            return false;
        }
        known.insert(kind, Counted { since: now, more: 0, last: act, status });
        true
    }

    fn over(&self, now: Timestamp, all: bool) -> Vec<(&'static str, Counted)> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let over = |_: &Kind, counted: &mut Counted| all || now.since(counted.since) >= TOGETHER;
        let over: Vec<_> = known.extract_if(over).collect();
        over.into_iter().filter(|(_, counted)| counted.more > 0).map(|(kind, counted)| (kind.code, counted)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn act(n: u32) -> Act {
        Act::of(RequestId(7), Actor::ApiKey(format!("k{n}").parse().expect("a slug")), "chat")
    }

    #[test]
    fn a_flood_of_denials_is_a_few_entries() {
        let denials = Denials::default();
        let at = |second: u64| Timestamp(0).plus(Duration::from_secs(second));
        let written = (0..1_000).filter(|n| denials.is_first(&act(1), 401, "invalid_api_key", at(n % 50))).count();
        assert_eq!(written, 1);
        assert!(denials.over(at(59), false).is_empty());
        let told = denials.over(at(60), false);
        assert_eq!(
            told.iter().map(|(code, counted)| (*code, counted.more)).collect::<Vec<_>>(),
            [("invalid_api_key", 999)]
        );
        assert!(denials.is_first(&act(1), 401, "invalid_api_key", at(61)), "and it begins anew");
        let written = (0..100_000).filter(|n| denials.is_first(&act(*n), 401, "invalid_api_key", at(62))).count();
        assert!(written <= KINDS_MAX + 1, "{written}");
        let counted: u32 = denials.over(at(63), true).iter().map(|(_, counted)| counted.more).sum();
        assert_eq!(usize::try_from(counted).expect("few") + written, 100_000, "none is lost");
    }
}
