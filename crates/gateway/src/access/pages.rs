//! `/auth`: signing in and out, in a browser. Pages without scripts; what a console needs beside them is `/auth/session`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use tollgate_types::access::{Actor, Person};
use tollgate_types::audit::Phase;
use tollgate_types::{Refusal, RequestId, Timestamp};

use super::doors::neighbourhood;
use super::oidc::{Departure, OidcError};
use super::{CSRF, Found, Grant, SignIn, cookie, is_same_site, random_text, seen, session_of};
use crate::app::App;
use crate::audit::{self, Act};
use crate::http::body::{self, Body};
use crate::http::routes::json;

/// How long somebody may take to sign in at the provider.
const AWAY_MAX: Duration = Duration::from_secs(10 * 60);
/// People who are away to sign in. Where more leave, whoever left first has to begin anew.
const AWAY_COUNT_MAX: usize = 10_000;
/// The same of one neighbourhood: who floods us, floods out their own neighbours only.
const AWAY_TOGETHER_MAX: usize = 50;
/// Largest body of a form.
const FORM_BYTES_MAX: usize = 4 * 1024;
/// Where one goes who did not say where.
const HOME: &str = "/auth";

/// Those who left for the provider, by the `state` they must come back with.
#[derive(Debug, Default)]
pub struct Away(Mutex<HashMap<String, Leaving>>);

#[derive(Clone, Debug)]
struct Leaving {
    departure: Departure,
    /// What the browser they left with bears.
    browser: String,
    next: String,
    from: IpAddr,
    at: Timestamp,
}

/// A request to one of the pages.
struct Visit<'a> {
    app: &'a Arc<App>,
    sign_in: &'a SignIn,
    id: RequestId,
    peer: IpAddr,
    head: &'a HeaderMap,
    now: Timestamp,
}

#[derive(Deserialize)]
struct Login {
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
struct Callback {
    #[serde(default)]
    state: String,
    code: Option<String>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Form {
    #[serde(default)]
    csrf: String,
}

/// Answers one request below `/auth`.
pub async fn handle(
    app: &Arc<App>,
    id: RequestId,
    peer: IpAddr,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let Some(sign_in) = &app.access.sign_in else { return Err(Refusal::NotFound) };
    let (parts, incoming) = request.into_parts();
    let visit = Visit { app, sign_in, id, peer, head: &parts.headers, now: app.clock().now() };
    let query = parts.uri.query().unwrap_or_default();
    Ok(match (&parts.method, parts.uri.path()) {
        (&Method::GET, "/auth") => visit.home(),
        (&Method::GET, "/auth/session") => visit.session(),
        (&Method::GET, "/auth/login") => visit.login(query).await,
        (&Method::GET, "/auth/callback") => visit.callback(query).await,
        (&Method::POST, "/auth/logout") => {
            let body = body::read(incoming, FORM_BYTES_MAX, app.server.body_timeout).await?;
            visit.logout(&body)
        }
        (&Method::POST, "/auth/token") => {
            let body = body::read(incoming, FORM_BYTES_MAX, app.server.body_timeout).await?;
            visit.token(&body)
        }
        _ => return Err(Refusal::NotFound),
    })
}

// === impl Visit ===

impl Visit<'_> {
    fn found(&self) -> Option<Found> {
        session_of(self.app, self.head, self.peer, self.now)
    }

    /// Who one is.
    fn home(&self) -> Response<Body> {
        let Some(found) = self.found() else {
            return page(
                StatusCode::OK,
                "Not signed in",
                r#"<p>You are not signed in.</p><p><a class="button" href="/auth/login">Sign in</a></p>"#,
            );
        };
        let csrf = &found.csrf;
        let mut text = whose(&found);
        let _ = write!(
            text,
            r#"<form method="post" action="/auth/token"><input type="hidden" name="csrf" value="{csrf}"><button>Show a token
for the command line</button></form><form method="post" action="/auth/logout"><input type="hidden" name="csrf"
value="{csrf}"><button>Sign out</button></form>"#
        );
        page(StatusCode::OK, "Signed in", &text)
    }

    /// The same, for a console.
    fn session(&self) -> Response<Body> {
        let Some(found) = self.found() else {
            let mut response = json(Bytes::from_static(
                br#"{"error":{"message":"you are not signed in; see /auth/login","type":"authentication_error","param":null,"code":"invalid_api_key"}}"#,
            ));
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            return response;
        };
        let Actor::Person(person) = &found.operator.actor else { return self.home() };
        let roles = found.operator.grants.iter().map(|grant| {
            serde_json::json!({"role": grant.role.name(), "tenant": grant.tenant.as_ref().map(ToString::to_string)})
        });
        let said = serde_json::json!({
            "subject": person.subject, "name": person.name, "roles": roles.collect::<Vec<_>>(),
            "csrf": found.csrf, "expires_at": found.expires_at.to_string(),
            "break_glass_until": found.operator.glass.as_ref().map(|(_, until)| until.to_string()),
        });
        guarded(json(said.to_string().into()))
    }

    /// Sends somebody to the provider.
    async fn login(&self, query: &str) -> Response<Body> {
        let Ok(Login { next }) = serde_urlencoded::from_str(query) else {
            return self.failed("the address is not understood");
        };
        let (Some(state), Some(browser), Some(nonce), Some(verifier)) =
            (random_text::<16>(), random_text::<16>(), random_text::<16>(), random_text::<32>())
        else {
            return self.failed("the system gives no randomness");
        };
        let departure = Departure { nonce, verifier };
        let back = self.sign_in.settings.callback();
        let address = match self.sign_in.provider.leave(&departure, &state, &back, self.now).await {
            Ok(address) => address,
            Err(error) => return self.unreachable(&error),
        };
        let next = if is_ours(&next) { next } else { HOME.to_owned() };
        let from = neighbourhood(self.peer);
        let leaving = Leaving { departure, browser: browser.clone(), next, from, at: self.now };
        self.sign_in.away.leave(state, leaving, self.now);
        let mut response = empty(StatusCode::SEE_OTHER);
        set(response.headers_mut(), LOCATION, &address);
        // Not strict: one comes back from the provider's site.
        self.set_cookie(&mut response, self.sign_in.settings.cookie_away(), &browser, "Lax", Some(AWAY_MAX));
        response
    }

    /// Somebody comes back from the provider.
    async fn callback(&self, query: &str) -> Response<Body> {
        if let Err(wait) = self.app.access.doors.may_try(self.peer, self.now) {
            return self.told(&format!("too many attempts from your address; try again in {} s", wait.as_secs() + 1));
        }
        let Ok(Callback { state, code, error }) = serde_urlencoded::from_str(query) else {
            return self.refused("the address is not understood");
        };
        // Whoever did not leave from this browser does not come back to it: nobody is signed in as somebody else.
        let browser = cookie(self.head, self.sign_in.settings.cookie_away());
        let Some(leaving) = self.sign_in.away.back(&state, browser, self.now) else {
            // Any page can have a browser come here: that is nobody's attempt.
            return self.told("you did not leave from here to sign in, or it was too long ago");
        };
        let Some(code) = code else {
            let why = error.unwrap_or_default();
            return self.refused(&format!("the identity provider said: {}", why.chars().take(100).collect::<String>()));
        };
        let back = self.sign_in.settings.callback();
        let vouched = match self.sign_in.provider.come_back(&leaving.departure, &code, &back, self.now).await {
            Ok(vouched) => vouched,
            Err(error @ OidcError::Token(_)) => {
                tracing::warn!(%error, peer = %self.peer, "somebody was not signed in");
                return self.refused("the identity provider's token is not good; the gateway's log says why");
            }
            Err(error) => return self.unreachable(&error),
        };
        if vouched.grants.is_empty() {
            self.note(Actor::Person(vouched.person), Phase::Denied, "sign_in", 403, Some("no_role"));
            return page(
                StatusCode::FORBIDDEN,
                "No role",
                "<p>You are known, but none of your groups has a role here.</p>\
                 <p>Whoever operates this gateway gives roles in its configuration, under <code>access.roles</code>.</p>",
            );
        }
        self.welcome(vouched.person, vouched.grants.into(), &leaving.next).await
    }

    async fn welcome(&self, person: Person, grants: Arc<[Grant]>, next: &str) -> Response<Body> {
        let actor = Actor::Person(person.clone());
        // As every act: it does not happen unless it is noted.
        let noted = audit::note(self.app, &Act::of(self.id, actor, "sign_in"), Phase::Noted, Some(200), None);
        if let Err(error) = audit::durable(self.app, noted).await {
            tracing::error!(%error, "nobody can be signed in: the journal cannot be written");
            return self.failed("the journal cannot be written, so nobody is signed in");
        }
        let secret = self.app.access.sessions.begin(person, grants, seen(self.head, self.peer), self.now);
        let Some(secret) = secret else { return self.failed("the system gives no randomness") };
        // A page, no redirection: the cookie is for our own pages only, and a redirection that began at the provider's site
        // would come without it.
        let next = escaped(next);
        let text = format!("<p>You are signed in.</p><p><a href=\"{next}\">Go on</a></p>");
        let mut response = page_with(
            StatusCode::OK,
            "Signed in",
            &text,
            &format!("<meta http-equiv=\"refresh\" content=\"0;url={next}\">"),
        );
        self.set_cookie(&mut response, self.sign_in.settings.cookie(), &secret, "Strict", None);
        self.set_cookie(&mut response, self.sign_in.settings.cookie_away(), "", "Lax", Some(Duration::ZERO));
        response
    }

    fn logout(&self, body: &[u8]) -> Response<Body> {
        let Some(found) = self.found() else { return self.home() };
        if !self.is_meant(&found, body) {
            return self.refused("this does not come from a page of this session");
        }
        self.app.access.sessions.end(found.id);
        self.note(found.operator.actor, Phase::Noted, "sign_out", 200, None);
        let mut response = page(
            StatusCode::OK,
            "Signed out",
            r#"<p>You are signed out.</p><p><a class="button" href="/auth/login">Sign in again</a></p>"#,
        );
        self.set_cookie(&mut response, self.sign_in.settings.cookie(), "", "Strict", Some(Duration::ZERO));
        response
    }

    /// A token for the command line.
    fn token(&self, body: &[u8]) -> Response<Body> {
        let Some(found) = self.found() else { return self.home() };
        if !self.is_meant(&found, body) {
            return self.refused("this does not come from a page of this session");
        }
        let Some(token) = self.app.access.sessions.token(found.id) else { return self.home() };
        self.note(found.operator.actor.clone(), Phase::Noted, "create_session_token", 200, None);
        let text = format!(
            "{}<p>It is as good as you are, and ends with your session. An earlier one is no good any more.</p>\
             <pre>export TOLLGATE_ADMIN_KEY={token}</pre><p><a href=\"/auth\">Back</a></p>",
            whose(&found)
        );
        page(StatusCode::OK, "Token", &text)
    }

    /// Whether a page of the session sent this: it bears what only that was told, in a field or in a header.
    fn is_meant(&self, found: &Found, body: &[u8]) -> bool {
        let form = serde_urlencoded::from_bytes::<Form>(body).map(|form| form.csrf).unwrap_or_default();
        let header = self.head.get(CSRF).and_then(|value| value.to_str().ok());
        found.has_csrf(header.unwrap_or(&form)) && is_same_site(self.app, self.head)
    }

    /// Somebody tried what is not right: too much of it is not heard.
    fn refused(&self, why: &str) -> Response<Body> {
        self.app.access.doors.failed(self.peer, self.now);
        self.told(why)
    }

    fn told(&self, why: &str) -> Response<Body> {
        audit::denied(self.app, &Act::of(self.id, Actor::Nobody, "sign_in"), 403, "invalid_sign_in");
        let text =
            format!("<p>You were not signed in: {}.</p><p><a href=\"/auth/login\">Try again</a></p>", escaped(why));
        page(StatusCode::FORBIDDEN, "Not signed in", &text)
    }

    fn unreachable(&self, error: &OidcError) -> Response<Body> {
        tracing::error!(%error, "nobody can sign in");
        self.failed("the identity provider cannot be asked; the gateway's log says why")
    }

    fn failed(&self, why: &str) -> Response<Body> {
        let text = format!("<p>It did not work: {}.</p><p><a href=\"/auth\">Back</a></p>", escaped(why));
        page(StatusCode::SERVICE_UNAVAILABLE, "Not now", &text)
    }

    /// Notes what has happened; that it could not be noted is no reason to undo it.
    fn note(&self, actor: Actor, phase: Phase, act: &'static str, status: u16, code: Option<&str>) {
        if let Err(error) = audit::note(self.app, &Act::of(self.id, actor, act), phase, Some(status), code) {
            tracing::error!(%error, act, "it was not noted: the journal cannot be written");
        }
    }

    fn set_cookie(&self, response: &mut Response<Body>, name: &str, value: &str, site: &str, lasts: Option<Duration>) {
        let secure = if self.sign_in.settings.is_secure() { "; Secure" } else { "" };
        let lasts = lasts.map(|lasts| format!("; Max-Age={}", lasts.as_secs())).unwrap_or_default();
        let text = format!("{name}={value}; Path=/; HttpOnly; SameSite={site}{secure}{lasts}");
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.headers_mut().append(SET_COOKIE, value);
        }
    }
}

// === impl Away ===

impl Away {
    fn leave(&self, state: String, leaving: Leaving, now: Timestamp) {
        let mut away = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        away.retain(|_, leaving| now.since(leaving.at) < AWAY_MAX);
        let together = |other: &Leaving| other.from == leaving.from;
        let crowded = away.values().filter(|other| together(other)).count() >= AWAY_TOGETHER_MAX;
        if crowded || away.len() >= AWAY_COUNT_MAX {
            let candidates = away.iter().filter(|(_, other)| !crowded || together(other));
            let first = candidates.min_by_key(|(_, other)| other.at).map(|(state, _)| state.clone());
            first.into_iter().for_each(|first| drop(away.remove(&first)));
        }
        away.insert(state, leaving);
    }

    /// Whoever left with this state from this browser; once.
    fn back(&self, state: &str, browser: Option<&str>, now: Timestamp) -> Option<Leaving> {
        let mut away = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let leaving = away.remove(state)?;
        (browser == Some(&leaving.browser) && now.since(leaving.at) < AWAY_MAX).then_some(leaving)
    }
}

/// Whether it is a path of ours: nobody is sent elsewhere by signing in.
fn is_ours(next: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'"' | b'<' | b'>');
    next.starts_with('/') && !next.starts_with("//") && next.len() <= 1_000 && next.bytes().all(plain)
}

fn whose(found: &Found) -> String {
    let name = match &found.operator.actor {
        Actor::Person(person) => escaped(&person.name),
        other => other.to_string(),
    };
    let mut text = format!("<p>You are <b>{name}</b>, until {}.</p><ul>", found.expires_at);
    for grant in found.operator.grants.iter() {
        let of = grant.tenant.as_ref().map_or_else(|| "the operator".to_owned(), |tenant| format!("tenant {tenant}"));
        let _ = write!(text, "<li><code>{}</code> of {of}</li>", grant.role.name());
    }
    text.push_str("</ul>");
    if let Some((_, until)) = &found.operator.glass {
        let _ = write!(text, "<p class=\"alarm\">Break-glass until {until}: all you do is recorded as that.</p>");
    }
    text
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            char => out.push(char),
        }
    }
    out
}

fn page(status: StatusCode, title: &str, text: &str) -> Response<Body> {
    page_with(status, title, text, "")
}

fn page_with(status: StatusCode, title: &str, text: &str, head: &str) -> Response<Body> {
    const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:12vh auto;padding:0 1rem;\
        color:#1c2530;background:#f6f7f9}main{background:#fff;border:1px solid #dde2e8;border-radius:10px;padding:1.5rem 2rem}\
        h1{font-size:1.25rem}button,.button{font:inherit;padding:.45rem .9rem;border-radius:6px;border:1px solid #1f6feb;\
        background:#1f6feb;color:#fff;text-decoration:none;cursor:pointer;margin:.25rem 0}pre{overflow:auto;background:#f0f2f5;\
        padding:.75rem;border-radius:6px}.alarm{color:#b3261e;font-weight:600}\
        @media(prefers-color-scheme:dark){body{background:#11161c;color:#e4e8ee}main{background:#1a212a;border-color:#2c3641}\
        pre{background:#11161c}}";
    let text = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">{head}\
         <title>{title} · Tollgate</title><style>{STYLE}</style><main><h1>Tollgate</h1>{text}</main></html>"
    );
    let mut response = Response::new(Body::Whole(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"),
    );
    guarded(response)
}

/// Nobody keeps it, and nobody else learns its address.
fn guarded(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Not "no-referrer": then forms would come without their origin.
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert("x-frame-options", HeaderValue::from_static("DENY"));
    response
}

fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::Whole(Bytes::new()));
    *response.status_mut() = status;
    guarded(response)
}

fn set(headers: &mut HeaderMap, name: http::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
