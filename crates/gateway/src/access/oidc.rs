//! The identity provider, as OpenID Connect Core 1.0 and Discovery 1.0 have it: authorization code flow with PKCE (RFC 7636).
//! A token's signature and its claims about who made it for whom are judged by `jsonwebtoken`; here is what must be asked of
//! the provider for that, and what the claims say of a person.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;
use tollgate_serving::backend::trusting;
use tollgate_types::Timestamp;
use tollgate_types::access::Person;

use super::Grant;
use crate::config::{self, Oidc};
use crate::digest::sha256;

/// How long the provider may take for one answer, and how large that may be.
const PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// An unknown key is asked for no more often than this: whoever sends nonsense does not make us ask the provider for it.
const KEYS_ASKED_EVERY: Duration = Duration::from_secs(10);
/// Clocks may differ by this much.
const LEEWAY: Duration = Duration::from_secs(30);
/// Longest name of a person that is kept, in bytes.
const NAME_BYTES_MAX: usize = 200;
/// Signatures that are taken. None that whoever verifies could have made: no `none`, no HMAC.
const ALGORITHMS: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// Asks the provider.
#[derive(Debug)]
pub struct Provider {
    settings: Oidc,
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    known: ArcSwapOption<Known>,
    /// Held while it is asked, so that many who wait ask once.
    asking: Mutex<()>,
}

/// What it says of itself.
#[derive(Debug)]
struct Known {
    described: Described,
    keys: Vec<Jwk>,
    asked_at: Timestamp,
}

#[derive(Debug, Deserialize)]
struct Described {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    userinfo_endpoint: Option<String>,
}

/// What signs somebody in, once: it is remembered from their leaving for the provider to their coming back.
#[derive(Clone, Debug)]
pub struct Departure {
    pub nonce: String,
    /// PKCE's `code_verifier`.
    pub verifier: String,
}

/// Somebody whom the provider vouches for, and what they may do by our configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouched {
    pub person: Person,
    pub grants: Vec<Grant>,
}

#[derive(Debug, Deserialize)]
struct Tokens {
    id_token: String,
    access_token: Option<String>,
}

/// Why somebody was not signed in.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    #[error("the identity provider cannot be asked: {0}")]
    Unreachable(String),
    #[error("the identity provider's answer cannot be used: {0}")]
    Malformed(String),
    #[error("the token is not good: {0}")]
    Token(String),
}

// === impl Provider ===

impl Provider {
    pub fn new(settings: Oidc) -> Self {
        // Nothing is kept open: each worker has a runtime of its own, and people sign in seldom.
        let http = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector(&settings));
        Self { settings, http, known: ArcSwapOption::empty(), asking: Mutex::default() }
    }

    /// Where a person is sent to sign in.
    pub async fn leave(
        &self,
        departure: &Departure,
        state: &str,
        back: &str,
        now: Timestamp,
    ) -> Result<String, OidcError> {
        let known = self.known(now).await?;
        let challenge = URL_SAFE_NO_PAD.encode(sha256(&[departure.verifier.as_bytes()]));
        let scope = self.settings.scopes.join(" ");
        let asked = [
            ("response_type", "code"),
            ("client_id", &self.settings.client_id),
            ("redirect_uri", back),
            ("scope", &scope),
            ("state", state),
            ("nonce", &departure.nonce),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        let asked = form(&asked)?;
        let address = &known.described.authorization_endpoint;
        let joint = if address.contains('?') { '&' } else { '?' };
        Ok(format!("{address}{joint}{asked}"))
    }

    /// Who it is that came back with this code.
    pub async fn come_back(
        &self,
        departure: &Departure,
        code: &str,
        back: &str,
        now: Timestamp,
    ) -> Result<Vouched, OidcError> {
        let known = self.known(now).await?;
        let tokens = self.exchange(&known, departure, code, back).await?;
        let mut claims = self.claims(&tokens.id_token, now).await?;
        // Whoever came back must be who left: else somebody could be signed in as another.
        if claims["nonce"].as_str() != Some(&departure.nonce) {
            return Err(OidcError::Token("it was made for another sign-in".to_owned()));
        }
        if claims.get(&self.settings.claim).is_none()
            && let (Some(address), Some(token)) = (&known.described.userinfo_endpoint, &tokens.access_token)
        {
            self.add_userinfo(&mut claims, address, token).await?;
        }
        self.vouched(&claims)
    }

    /// What a token says, if it is the provider's, for us, and in force.
    async fn claims(&self, token: &str, now: Timestamp) -> Result<Value, OidcError> {
        let header = decode_header(token).map_err(|error| OidcError::Token(error.to_string()))?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(OidcError::Token(format!("it is signed by {:?}, which is not taken", header.alg)));
        }
        let mut known = self.known(now).await?;
        if known.key(header.kid.as_deref(), header.alg).is_none() {
            known = self.ask_again(&known, now).await?;
        }
        let key = known.key(header.kid.as_deref(), header.alg);
        let key = key.ok_or_else(|| OidcError::Token("no key of the provider's fits it".to_owned()))?;
        let key = DecodingKey::from_jwk(key).map_err(|error| OidcError::Malformed(error.to_string()))?;
        let mut rules = Validation::new(header.alg);
        rules.set_audience(&[&self.settings.client_id]);
        rules.set_issuer(&[&self.settings.issuer]);
        rules.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        // Times are judged by the clock of the books, below.
        (rules.validate_exp, rules.validate_nbf) = (false, false);
        let claims = decode::<Value>(token, &key, &rules).map_err(|error| OidcError::Token(error.to_string()))?.claims;
        is_in_force(&claims, now)?;
        is_for(&claims, &self.settings.client_id)?;
        Ok(claims)
    }

    /// Trades the code for tokens (RFC 6749, section 4.1.3).
    async fn exchange(
        &self,
        known: &Known,
        departure: &Departure,
        code: &str,
        back: &str,
    ) -> Result<Tokens, OidcError> {
        let client = &self.settings.client_id;
        let told = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", back),
            ("client_id", client),
            ("code_verifier", &departure.verifier),
        ];
        let mut request = Request::post(&known.described.token_endpoint)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json");
        if let Some(secret) = &self.settings.client_secret {
            // Both are encoded as in a form first: section 2.3.1.
            let encoded = form(&[(client.as_str(), secret.expose())])?.replacen('=', ":", 1);
            request = request.header(AUTHORIZATION, format!("Basic {}", STANDARD.encode(encoded)));
        }
        let request =
            request.body(Full::from(form(&told)?)).map_err(|error| OidcError::Malformed(error.to_string()))?;
        let (status, body) = self.ask(request).await?;
        if !status.is_success() {
            let why: Value = serde_json::from_slice(&body).unwrap_or_default();
            return Err(OidcError::Token(format!("the code was not taken: {}", why["error"].as_str().unwrap_or("?"))));
        }
        serde_json::from_slice(&body).map_err(|error| OidcError::Malformed(error.to_string()))
    }

    /// What the provider says of a person only when it is asked again.
    async fn add_userinfo(&self, claims: &mut Value, address: &str, token: &str) -> Result<(), OidcError> {
        let request = Request::get(address).header(AUTHORIZATION, format!("Bearer {token}"));
        let request = request.body(Full::default()).map_err(|error| OidcError::Malformed(error.to_string()))?;
        let (status, body) = self.ask(request).await?;
        let more: Value = serde_json::from_slice(&body).unwrap_or_default();
        if !status.is_success() || more["sub"] != claims["sub"] {
            return Err(OidcError::Malformed("its userinfo is not that person's".to_owned()));
        }
        if let (Value::Object(claims), Value::Object(more)) = (claims, more) {
            for (name, value) in more {
                claims.entry(name).or_insert(value);
            }
        }
        Ok(())
    }

    fn vouched(&self, claims: &Value) -> Result<Vouched, OidcError> {
        let subject = claims["sub"].as_str().filter(|subject| !subject.is_empty() && subject.len() <= NAME_BYTES_MAX);
        let subject = subject.ok_or_else(|| OidcError::Token("it says of nobody".to_owned()))?;
        let named = ["email", "preferred_username", "name"].iter().find_map(|name| claims[*name].as_str());
        let name = named.unwrap_or(subject);
        let name = &name[..name.floor_char_boundary(NAME_BYTES_MAX)];
        let said: Vec<&str> = match &claims[&self.settings.claim] {
            Value::String(one) => vec![one],
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let granted = self.settings.roles.iter().filter(|role| said.contains(&&*role.value));
        let person = Person { subject: subject.into(), name: name.into() };
        Ok(Vouched { person, grants: granted.map(|role| role.grant.clone()).collect() })
    }

    /// What the provider said of itself, not too long ago.
    async fn known(&self, now: Timestamp) -> Result<Arc<Known>, OidcError> {
        let old = self.known.load_full();
        match old {
            Some(known) if now.since(known.asked_at) < self.settings.keys_lasting => Ok(known),
            old => self.ask_unless_asked(old.map(|known| known.asked_at), now).await,
        }
    }

    /// Asks for the keys again, unless they were asked for just now.
    async fn ask_again(&self, known: &Arc<Known>, now: Timestamp) -> Result<Arc<Known>, OidcError> {
        if now.since(known.asked_at) < KEYS_ASKED_EVERY {
            return Ok(Arc::clone(known));
        }
        self.ask_unless_asked(Some(known.asked_at), now).await
    }

    /// Asks, unless somebody else did since `before`.
    async fn ask_unless_asked(&self, before: Option<Timestamp>, now: Timestamp) -> Result<Arc<Known>, OidcError> {
        let _one_at_a_time = self.asking.lock().await;
        match self.known.load_full() {
            Some(known) if Some(known.asked_at) != before => Ok(known),
            _ => {
                let known = Arc::new(self.ask_provider(now).await?);
                self.known.store(Some(Arc::clone(&known)));
                Ok(known)
            }
        }
    }

    async fn ask_provider(&self, now: Timestamp) -> Result<Known, OidcError> {
        let issuer = &self.settings.issuer;
        let address = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let described: Described = self.get(&address).await?;
        if described.issuer != *issuer {
            return Err(OidcError::Malformed(format!("it says that it is {:?}, not {issuer:?}", described.issuer)));
        }
        let Described { authorization_endpoint, token_endpoint, jwks_uri, userinfo_endpoint, .. } = &described;
        for address in [authorization_endpoint, token_endpoint, jwks_uri].into_iter().chain(userinfo_endpoint) {
            if !config::is_safe_address(address) {
                return Err(OidcError::Malformed(format!("{address:?} is not an https address")));
            }
        }
        #[derive(Deserialize)]
        struct Keys {
            keys: Vec<Value>,
        }
        let keys: Keys = self.get(&described.jwks_uri).await?;
        // Keys of a kind that is not known here may stand beside those that are.
        let keys = keys.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok()).collect();
        Ok(Known { described, keys, asked_at: now })
    }

    async fn get<T: for<'a> Deserialize<'a>>(&self, address: &str) -> Result<T, OidcError> {
        let request = Request::get(address).header(ACCEPT, "application/json").body(Full::default());
        let request = request.map_err(|error| OidcError::Malformed(error.to_string()))?;
        let (status, body) = self.ask(request).await?;
        if !status.is_success() {
            return Err(OidcError::Unreachable(format!("{address}: {status}")));
        }
        serde_json::from_slice(&body).map_err(|error| OidcError::Malformed(format!("{address}: {error}")))
    }

    async fn ask(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), OidcError> {
        let address = request.uri().clone();
        let asked = async {
            let response = self.http.request(request).await.map_err(|error| unreachable_because(&address, &error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| OidcError::Unreachable(format!("{}: {error}", shown(&address))))?;
            Ok((status, body.to_bytes()))
        };
        let late = |_| OidcError::Unreachable(format!("{}: no answer in {} s", shown(&address), PATIENCE.as_secs()));
        tokio::time::timeout(PATIENCE, asked).await.map_err(late)?
    }
}

// === impl Known ===

impl Known {
    /// The key that a token names, or, where it names none, the only one that can be meant.
    fn key(&self, kid: Option<&str>, algorithm: Algorithm) -> Option<&Jwk> {
        let mut fitting = self.keys.iter().filter(|key| {
            let is_asymmetric = !matches!(key.algorithm, AlgorithmParameters::OctetKey(_));
            let said = key.common.key_algorithm.map(|said| Algorithm::from_str(&said.to_string()).ok());
            is_asymmetric && said.is_none_or(|said| said == Some(algorithm))
        });
        match kid {
            Some(kid) => fitting.find(|key| key.common.key_id.as_deref() == Some(kid)),
            None => fitting.next().filter(|_| fitting.next().is_none()),
        }
    }
}

/// OpenID Connect Core 1.0, section 3.1.3.7, points 9 and 10.
fn is_in_force(claims: &Value, now: Timestamp) -> Result<(), OidcError> {
    #[expect(clippy::cast_possible_truncation, reason = "a part of a second is none of our business, and far is far")]
    let whole = |seconds: f64| seconds as i64;
    let second = |name: &str| claims[name].as_i64().or_else(|| claims[name].as_f64().map(whole));
    let now = now.0 / 1_000_000;
    let leeway = i64::try_from(LEEWAY.as_secs()).unwrap_or(i64::MAX);
    let ends = second("exp").ok_or_else(|| OidcError::Token("it does not say when it ends".to_owned()))?;
    if ends.saturating_add(leeway) <= now {
        return Err(OidcError::Token("it has expired".to_owned()));
    }
    if ["nbf", "iat"].iter().filter_map(|name| second(name)).any(|from| from.saturating_sub(leeway) > now) {
        return Err(OidcError::Token("it is not in force yet".to_owned()));
    }
    Ok(())
}

/// Section 3.1.3.7, points 3 to 5: of several audiences, we must be the one that it was made for.
fn is_for(claims: &Value, client: &str) -> Result<(), OidcError> {
    let several = claims["aud"].as_array().is_some_and(|audiences| audiences.len() > 1);
    match claims["azp"].as_str() {
        Some(party) if party != client => Err(OidcError::Token("it was made for another party".to_owned())),
        None if several => Err(OidcError::Token("it does not say for whom of several it was made".to_owned())),
        _ => Ok(()),
    }
}

fn connector(settings: &Oidc) -> HttpsConnector<HttpConnector> {
    let tls = trusting(&settings.authorities);
    HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build()
}

fn form(pairs: &[(&str, &str)]) -> Result<String, OidcError> {
    serde_urlencoded::to_string(pairs).map_err(|error| OidcError::Malformed(error.to_string()))
}

fn unreachable_because(address: &Uri, error: &hyper_util::client::legacy::Error) -> OidcError {
    let why = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
    OidcError::Unreachable(format!("{}: {why}", shown(address)))
}

/// Without its query, in which codes could be.
fn shown(address: &Uri) -> String {
    format!("{}{}", address.authority().map(ToString::to_string).unwrap_or_default(), address.path())
}
