//! An identity provider that says whatever a test has it say, also what no real one would: for tokens that must be refused.
//! That a real one is understood the suite of `clients/node` shows.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What the gateway is called there.
pub const CLIENT: &str = "tollgate";

/// A key that tokens are signed with.
#[derive(Clone)]
pub struct SigningKey {
    kid: &'static str,
    pkcs8: Vec<u8>,
    public: Vec<u8>,
}

#[derive(Default)]
struct Says {
    keys: Vec<Value>,
    /// The next code is traded for this.
    token: String,
    /// What the gateway sent for it.
    traded: Option<String>,
    userinfo: Value,
}

pub struct IdentityProvider {
    pub issuer: String,
    pub key: SigningKey,
    says: Arc<Mutex<Says>>,
}

// === impl SigningKey ===

impl SigningKey {
    pub fn new(kid: &'static str) -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let pkcs8 = pkcs8.as_ref().to_vec();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8, &random).expect("that key");
        let public = pair.public_key().as_ref().to_vec();
        Self { kid, pkcs8, public }
    }

    pub fn jwk(&self) -> Value {
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({"kty": "EC", "crv": "P-256", "kid": self.kid, "use": "sig", "alg": "ES256",
               "x": part(&self.public[1..33]), "y": part(&self.public[33..])})
    }

    pub fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.kid.to_owned());
        encode(&header, claims, &EncodingKey::from_ec_der(&self.pkcs8)).expect("a token")
    }

    /// Signed by what everybody knows, as if it were a secret.
    pub fn sign_with_what_is_public(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(self.kid.to_owned());
        encode(&header, claims, &EncodingKey::from_secret(&self.public)).expect("a token")
    }
}

/// A token without a signature.
pub fn unsigned(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", part(&json!({"alg": "none", "typ": "JWT"})), part(claims))
}

// === impl IdentityProvider ===

impl IdentityProvider {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let issuer = format!("http://{}", listener.local_addr().expect("an address"));
        let key = SigningKey::new("first");
        let says = Arc::new(Mutex::new(Says { keys: vec![key.jwk()], ..Says::default() }));
        let provider = Self { issuer: issuer.clone(), key, says: Arc::clone(&says) };
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (issuer, says) = (issuer.clone(), Arc::clone(&says));
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(issuer.clone(), Arc::clone(&says), request));
                    // A client that leaves is no trouble of this provider's.
                    let _ =
                        auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        provider
    }

    /// Lines for the configuration.
    pub fn configuration(&self, public_url: &str) -> String {
        format!(
            "[access]\npublic_url = \"{public_url}\"\n[access.oidc]\nissuer = \"{}\"\nclient_id = \"{CLIENT}\"\n\
             client_secret = \"env:SIM_KEY\"\n\
             [[access.roles]]\nvalue = \"ops\"\nrole = \"platform-admin\"\n\
             [[access.roles]]\nvalue = \"audit\"\nrole = \"auditor\"\n\
             [[access.roles]]\nvalue = \"demo-admins\"\nrole = \"tenant-admin\"\ntenant = \"demo\"\n",
            self.issuer
        )
    }

    pub fn publish(&self, keys: &[&SigningKey]) {
        self.says.lock().expect("sound").keys = keys.iter().map(|key| key.jwk()).collect();
    }

    pub fn will_answer(&self, token: String) {
        self.says.lock().expect("sound").token = token;
    }

    pub fn will_say_of(&self, userinfo: Value) {
        self.says.lock().expect("sound").userinfo = userinfo;
    }

    pub fn traded(&self) -> String {
        self.says.lock().expect("sound").traded.take().expect("a code was traded")
    }
}

async fn answer(
    issuer: String,
    says: Arc<Mutex<Says>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut says = says.lock().expect("sound");
    let said = match head.uri.path() {
        "/.well-known/openid-configuration" => json!({
            "issuer": issuer, "authorization_endpoint": format!("{issuer}/authorize"),
            "token_endpoint": format!("{issuer}/token"), "jwks_uri": format!("{issuer}/keys"),
            "userinfo_endpoint": format!("{issuer}/userinfo"),
        }),
        // One of a kind that nobody knows stands beside the others.
        "/keys" => json!({"keys": says.keys.iter().cloned().chain([json!({"kty": "new"})]).collect::<Vec<_>>()}),
        "/token" => {
            says.traded = Some(String::from_utf8_lossy(&body).into_owned());
            json!({"id_token": says.token, "access_token": "an-access-token", "token_type": "Bearer"})
        }
        "/userinfo" => says.userinfo.clone(),
        other => panic!("the gateway asked for {other}"),
    };
    Ok(Response::new(Full::from(said.to_string())))
}
