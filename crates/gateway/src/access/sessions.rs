//! Who is signed in. Sessions are in memory: a restart ends them, and signing in again is a click. What is presented for one
//! is kept as its digest only.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tollgate_types::access::{Actor, Person};
use tollgate_types::{KeyId, Role, Timestamp};

use super::{Grant, Operator, SESSION_TOKEN_PREFIX, is_same, random_text};
use crate::digest::sha256;

/// People who are signed in at a time. Where more come, whoever was silent longest is signed out.
const SESSIONS_MAX: usize = 10_000;
/// Bytes of randomness in what is presented for a session.
const SECRET_BYTES: usize = 32;

/// How long a session lasts.
#[derive(Clone, Copy, Debug)]
pub struct Lasting {
    /// Without a request.
    pub idle: Duration,
    /// At all.
    pub total: Duration,
    /// Whether it ends where it is carried to another address or another browser.
    pub bound: bool,
}

/// Names a session within this process, and gives no access to it.
pub type SessionId = [u8; 32];

#[derive(Debug)]
pub struct Sessions {
    lasting: Lasting,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    by_id: HashMap<SessionId, Session>,
    /// Of tokens for the command line.
    by_token: HashMap<[u8; 32], SessionId>,
}

#[derive(Debug)]
struct Session {
    person: Person,
    grants: Arc<[Grant]>,
    csrf: Arc<str>,
    seen: [u8; 32],
    since: Timestamp,
    last_used: Timestamp,
    token: Option<[u8; 32]>,
    glass: Option<(KeyId, Timestamp)>,
}

/// A session as a request finds it.
#[derive(Clone, Debug)]
pub struct Found {
    pub id: SessionId,
    pub operator: Operator,
    pub csrf: Arc<str>,
    pub since: Timestamp,
    pub last_used: Timestamp,
    pub expires_at: Timestamp,
}

// === impl Lasting ===

impl Default for Lasting {
    fn default() -> Self {
        Self { idle: Duration::from_secs(30 * 60), total: Duration::from_secs(12 * 3_600), bound: true }
    }
}

// === impl Sessions ===

impl Sessions {
    pub fn new(lasting: Lasting) -> Self {
        Self { lasting, known: Mutex::default() }
    }

    /// Signs somebody in: gives back what their browser has to present. `None`: there is no randomness.
    pub fn begin(&self, person: Person, grants: Arc<[Grant]>, seen: [u8; 32], now: Timestamp) -> Option<String> {
        let secret = random_text::<SECRET_BYTES>()?;
        let csrf = random_text::<SECRET_BYTES>()?.into();
        let session = Session { person, grants, csrf, seen, since: now, last_used: now, token: None, glass: None };
        let mut known = self.lock();
        self.forget_ended(&mut known, now);
        if known.by_id.len() >= SESSIONS_MAX
            && let Some(silent) = known.by_id.iter().min_by_key(|(_, session)| session.last_used).map(|(id, _)| *id)
        {
            known.end(silent);
        }
        known.by_id.insert(sha256(&[secret.as_bytes()]), session);
        Some(secret)
    }

    /// The session whose cookie this is. One that is presented from elsewhere than it was begun ends.
    pub fn by_cookie(&self, secret: &str, seen: [u8; 32], now: Timestamp) -> Option<Found> {
        let mut known = self.lock();
        let id = sha256(&[secret.as_bytes()]);
        let session = known.by_id.get(&id)?;
        if self.lasting.bound && session.seen != seen {
            let person = session.person.subject.clone();
            tracing::warn!(%person, "a session's cookie came from another address or browser: the session is ended");
            known.end(id);
            return None;
        }
        self.used(&mut known, id, now)
    }

    /// The session of a token for the command line.
    pub fn by_token(&self, token: &str, now: Timestamp) -> Option<Found> {
        let mut known = self.lock();
        let id = *known.by_token.get(&sha256(&[token.as_bytes()]))?;
        self.used(&mut known, id, now)
    }

    /// A token for the command line, which is as good as the session and ends with it. An earlier one is no good any more.
    pub fn token(&self, id: SessionId) -> Option<String> {
        let token = format!("{SESSION_TOKEN_PREFIX}{}", random_text::<SECRET_BYTES>()?);
        let digest = sha256(&[token.as_bytes()]);
        let mut known = self.lock();
        let before = known.by_id.get_mut(&id)?.token.replace(digest);
        if let Some(before) = before {
            known.by_token.remove(&before);
        }
        known.by_token.insert(digest, id);
        Some(token)
    }

    /// Makes somebody a platform admin for a while.
    pub fn break_glass(&self, id: SessionId, approval: KeyId, until: Timestamp) -> bool {
        let mut known = self.lock();
        known.by_id.get_mut(&id).map(|session| session.glass = Some((approval, until))).is_some()
    }

    /// Signs out.
    pub fn end(&self, id: SessionId) {
        self.lock().end(id);
    }

    /// Signs somebody out everywhere. Gives back how often they were signed in.
    pub fn end_all_of(&self, subject: &str) -> usize {
        let mut known = self.lock();
        let theirs: Vec<_> =
            known.by_id.iter().filter(|(_, session)| &*session.person.subject == subject).map(|(id, _)| *id).collect();
        theirs.iter().for_each(|id| known.end(*id));
        theirs.len()
    }

    /// Everybody who is signed in, the latest first.
    pub fn all(&self, now: Timestamp) -> Vec<Found> {
        let mut known = self.lock();
        self.forget_ended(&mut known, now);
        let mut all: Vec<_> = known.by_id.iter().map(|(id, session)| self.found(*id, session, now)).collect();
        all.sort_by_key(|found| std::cmp::Reverse(found.since));
        all
    }

    /// How many are platform admins for an emergency.
    pub fn broken_glasses(&self, now: Timestamp) -> usize {
        let known = self.lock();
        known.by_id.values().filter(|session| session.glass.as_ref().is_some_and(|(_, until)| now < *until)).count()
    }

    fn used(&self, known: &mut Known, id: SessionId, now: Timestamp) -> Option<Found> {
        let session = known.by_id.get_mut(&id)?;
        if self.has_ended(session, now) {
            known.end(id);
            return None;
        }
        session.last_used = now;
        Some(self.found(id, session, now))
    }

    fn found(&self, id: SessionId, session: &Session, now: Timestamp) -> Found {
        let glass = session.glass.clone().filter(|(_, until)| now < *until);
        let mut grants = Arc::clone(&session.grants);
        if glass.is_some() {
            let all = Grant { role: Role::PlatformAdmin, tenant: None };
            grants = std::iter::once(all).chain(grants.iter().cloned()).collect();
        }
        Found {
            id,
            operator: Operator { actor: Actor::Person(session.person.clone()), grants, session: Some(id), glass },
            csrf: Arc::clone(&session.csrf),
            since: session.since,
            last_used: session.last_used,
            expires_at: session.since.plus(self.lasting.total),
        }
    }

    fn has_ended(&self, session: &Session, now: Timestamp) -> bool {
        session.since.plus(self.lasting.total) <= now || session.last_used.plus(self.lasting.idle) <= now
    }

    fn forget_ended(&self, known: &mut Known, now: Timestamp) {
        let ended: Vec<_> =
            known.by_id.iter().filter(|(_, session)| self.has_ended(session, now)).map(|(id, _)| *id).collect();
        ended.into_iter().for_each(|id| known.end(id));
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Known ===

impl Known {
    fn end(&mut self, id: SessionId) {
        if let Some(token) = self.by_id.remove(&id).and_then(|session| session.token) {
            self.by_token.remove(&token);
        }
    }
}

// === impl Found ===

impl Found {
    /// Whether that is what a page of this session was told.
    pub fn has_csrf(&self, said: &str) -> bool {
        is_same(said, &self.csrf)
    }
}
