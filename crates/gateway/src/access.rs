//! Who speaks to the control plane: recognised by the admin key, a service key, or the session of somebody who signed in
//! at the identity provider. What they may then do the guard says.

mod doors;
mod oidc;
mod pages;
mod sessions;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{COOKIE, HeaderName, ORIGIN, USER_AGENT};
use http::{HeaderMap, Method};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use tollgate_guard::{Act, Role};
use tollgate_types::access::{Actor, Person};
use tollgate_types::{KeyId, TenantId, Timestamp, hex};

use crate::app::App;
use crate::config;
use crate::digest::sha256;
use crate::http::headers;

pub use doors::{Acts, Doors};
pub use pages::handle;
pub use sessions::{Found, Lasting, SessionId, Sessions};

/// Proves that a request with a session's cookie comes from a page that was told this.
pub const CSRF: HeaderName = HeaderName::from_static("x-tollgate-csrf");
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Beginnings of what is presented, by which it is known what it is.
pub const SERVICE_KEY_PREFIX: &str = "tgs_";
const SESSION_TOKEN_PREFIX: &str = "tgp_";
/// Longest credential that is looked at, in bytes.
const CREDENTIAL_BYTES_MAX: usize = 512;

/// How people get in, and who is in.
#[derive(Debug)]
pub struct Access {
    pub sessions: Sessions,
    pub doors: Doors,
    pub acts: Acts,
    sign_in: Option<SignIn>,
}

/// Signing in at an identity provider.
#[derive(Debug)]
struct SignIn {
    settings: config::Access,
    provider: oidc::Provider,
    away: pages::Away,
}

/// A role, of one tenant or, without one, of the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub role: Role,
    pub tenant: Option<TenantId>,
}

/// Somebody who was recognised.
#[derive(Clone, Debug)]
pub struct Operator {
    pub actor: Actor,
    pub grants: Arc<[Grant]>,
    /// Theirs, of a person.
    pub session: Option<SessionId>,
    /// The approval by which they are a platform admin for a while, and until when.
    pub glass: Option<(KeyId, Timestamp)>,
}

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// Nothing was presented that is known.
    Nobody,
    /// The session is known, but the request does not come from one of its pages.
    Forged,
    /// From there too much was tried in vain: not before so long.
    Shut(Duration),
    /// They are known, and do too much at a time: not before so long.
    TooFast(Duration),
}

// === impl Access ===

impl Access {
    pub fn new(settings: Option<&config::Access>) -> Self {
        let sessions = settings.map(|settings| settings.sessions).unwrap_or_default();
        let sign_in = settings.map(|settings| SignIn {
            settings: settings.clone(),
            provider: oidc::Provider::new(settings.oidc.clone()),
            away: pages::Away::default(),
        });
        Self { sessions: Sessions::new(sessions), doors: Doors::default(), acts: Acts::default(), sign_in }
    }
}

// === impl Operator ===

impl Operator {
    /// Whoever bears the admin key.
    pub fn admin() -> Self {
        Self::machine(Actor::AdminKey, Role::PlatformAdmin, None)
    }

    pub fn machine(actor: Actor, role: Role, tenant: Option<TenantId>) -> Self {
        Self { actor, grants: [Grant { role, tenant }].into(), session: None, glass: None }
    }

    /// What counts for an act. What outlives the glass is not done by having broken it: no keys, no decisions.
    pub fn grants_for(&self, act: Act) -> &[Grant] {
        let lasts = matches!(act, Act::CreateServiceKey | Act::DecideApproval | Act::DecideBreakGlass);
        // The glass's own grant is the first.
        let own = usize::from(self.glass.is_some() && lasts);
        &self.grants[own..]
    }

    /// Whether they belong to tenants only.
    pub fn is_tenants(&self) -> bool {
        self.grants.iter().all(|grant| grant.tenant.is_some())
    }

    pub fn person(person: Person, grants: impl Into<Arc<[Grant]>>) -> Self {
        Self { actor: Actor::Person(person), grants: grants.into(), session: None, glass: None }
    }
}

/// Who it is that presents these credentials, from there.
pub fn recognised(app: &App, method: &Method, head: &HeaderMap, peer: IpAddr) -> Result<Operator, Unknown> {
    let now = app.clock().now();
    app.access.doors.may_try(peer, now).map_err(Unknown::Shut)?;
    let found = match headers::api_key(head) {
        Some(key) => by_key(app, key, now).ok_or(Unknown::Nobody),
        None => by_cookie(app, method, head, peer, now),
    };
    // A key may be guessed. A cookie that is no good any more is what a browser had, and nobody guesses 256 bits.
    if found.is_err() && headers::api_key(head).is_some() {
        app.access.doors.failed(peer, now);
    }
    found
}

fn by_key(app: &App, key: &str, now: Timestamp) -> Option<Operator> {
    if key.len() > CREDENTIAL_BYTES_MAX {
        return None;
    }
    if let Some(rest) = key.strip_prefix(SERVICE_KEY_PREFIX) {
        // Its id is in it: one is looked at, however many there are.
        let id: KeyId = rest.split('_').next()?.parse().ok()?;
        let known = app.books.with_directory(|directory| directory.service_keys.get(&id).cloned())?;
        if known.digest != app.vault.digest(key) || !known.is_good_at(now) {
            return None;
        }
        return Some(Operator::machine(Actor::ServiceKey(known.id), known.role, known.tenant));
    }
    if key.starts_with(SESSION_TOKEN_PREFIX) {
        return app.access.sessions.by_token(key, now).map(|found| found.operator);
    }
    has_admin_key(app, key).then(Operator::admin)
}

fn by_cookie(app: &App, method: &Method, head: &HeaderMap, peer: IpAddr, now: Timestamp) -> Result<Operator, Unknown> {
    let found = session_of(app, head, peer, now).ok_or(Unknown::Nobody)?;
    if !method.is_safe() && !is_from_own_page(app, head, &found) {
        return Err(Unknown::Forged);
    }
    Ok(found.operator)
}

/// The session whose cookie is presented, from where it was begun.
fn session_of(app: &App, head: &HeaderMap, peer: IpAddr, now: Timestamp) -> Option<Found> {
    let name = app.access.sign_in.as_ref()?.settings.cookie();
    let cookie = cookie(head, name)?;
    app.access.sessions.by_cookie(cookie, seen(head, peer), now)
}

/// Whether a page of ours sent it: no other knows the token, and browsers say where a request comes from.
fn is_from_own_page(app: &App, head: &HeaderMap, found: &Found) -> bool {
    let said = head.get(CSRF).and_then(|value| value.to_str().ok());
    said.is_some_and(|said| found.has_csrf(said)) && is_same_site(app, head)
}

/// Whether the browser, as far as it says so, sends it from our own address.
fn is_same_site(app: &App, head: &HeaderMap) -> bool {
    let text = |name: &HeaderName| head.get(name).map(|value| value.to_str().unwrap_or_default());
    let own = app.access.sign_in.as_ref().map(|sign_in| &*sign_in.settings.public_url);
    text(&ORIGIN).is_none_or(|origin| Some(origin) == own)
        && text(&FETCH_SITE).is_none_or(|site| matches!(site, "same-origin" | "none"))
}

/// Where somebody sits and what they look with: a session that is carried elsewhere was stolen.
fn seen(head: &HeaderMap, peer: IpAddr) -> [u8; 32] {
    let agent = head.get(USER_AGENT).map(http::HeaderValue::as_bytes).unwrap_or_default();
    sha256(&[peer.to_canonical().to_string().as_bytes(), b"\0", agent])
}

fn cookie<'a>(head: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let texts = head.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = texts.flat_map(|text| text.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let found = pairs.find_map(|(known, value)| (known == name).then_some(value))?;
    (found.len() <= CREDENTIAL_BYTES_MAX).then_some(found)
}

fn has_admin_key(app: &App, key: &str) -> bool {
    let expected = app.admin_key.expose();
    !expected.is_empty() && is_same(key, expected)
}

/// Compares what a keyed hash makes of both: how long it takes tells nothing about where they differ.
pub fn is_same(presented: &str, expected: &str) -> bool {
    let hasher = hmac::Key::new(hmac::HMAC_SHA256, b"credential");
    let tag = hmac::sign(&hasher, expected.as_bytes());
    hmac::verify(&hasher, presented.as_bytes(), tag.as_ref()).is_ok()
}

/// A text that nobody can guess, of so many random bytes.
pub fn random_text<const N: usize>() -> Option<String> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(hex(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_the_same_or_not() {
        assert!(is_same("secret", "secret"));
        for wrong in ["", "secre", "secrets", "Secret", "secret "] {
            assert!(!is_same(wrong, "secret"), "{wrong}");
        }
    }

    #[test]
    fn a_cookie_is_found_among_others_by_its_whole_name() {
        let mut head = HeaderMap::new();
        head.append(COOKIE, "a=1; xtollgate=2".parse().expect("a header"));
        assert_eq!(cookie(&head, "tollgate"), None);
        head.append(COOKIE, "b=3;tollgate=4".parse().expect("a header"));
        assert_eq!(cookie(&head, "tollgate"), Some("4"));
        let long = format!("long={}", "x".repeat(CREDENTIAL_BYTES_MAX + 1));
        head.append(COOKIE, long.parse().expect("a header"));
        assert_eq!(cookie(&head, "long"), None);
    }
}
