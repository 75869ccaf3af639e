//! `[access]`: how people sign in.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use rustls_pki_types::CertificateDer;
use schemars::JsonSchema;
use serde::Deserialize;
use tollgate_serving::Secret;
use tollgate_types::Role;

use super::Check;
use crate::access::{Grant, Lasting};

/// People sign in at your identity provider (OpenID Connect, authorization code flow). Without this section nobody can, and
/// nothing that needs a second human can be done.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawAccess {
    /// Where browsers reach the gateway, such as `https://gateway.example.com`. The provider must let people come back to
    /// `/auth/callback` there. `http` only on this machine itself.
    pub public_url: String,
    pub oidc: RawOidc,
    /// Who has which role, by what the provider says of them: `[[access.roles]]`.
    #[serde(default)]
    pub roles: Vec<RawAccessRole>,
    /// A session ends after so many minutes without a request.
    #[serde(default = "idle_minutes")]
    pub session_idle_minutes: u64,
    /// A session ends after so many hours in any case.
    #[serde(default = "session_hours")]
    pub session_hours: u64,
    /// A session ends where it is carried to another address or another browser. Switch it off where people's addresses
    /// change, or where all come from the address of a proxy (it then still tells browsers apart).
    #[serde(default = "yes")]
    pub session_bound: bool,
}

/// The identity provider.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawOidc {
    /// Its name, which is its address: what `/.well-known/openid-configuration` is below.
    pub issuer: String,
    /// What the gateway is called there.
    pub client_id: String,
    /// What the gateway proves that with, as a reference. A public client has none.
    #[serde(default)]
    pub client_secret: Option<String>,
    /// What is asked for.
    #[serde(default = "scopes")]
    pub scopes: Vec<String>,
    /// The claim that says which groups a person is in: a text or a list of texts.
    #[serde(default = "claim")]
    pub claim: String,
    /// Its keys are asked for again after so many minutes: one that it has withdrawn is good no longer than that.
    #[serde(default = "keys_minutes")]
    pub keys_minutes: u64,
    /// File with certificates, in PEM, to trust besides the public authorities.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

/// A role for whoever is in a group.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawAccessRole {
    /// The group, as the provider names it.
    pub value: String,
    /// `platform-admin`, `tenant-admin`, `billing`, `auditor` or `developer`.
    pub role: String,
    /// Of which tenant. Without it: the operator's, over all tenants.
    #[serde(default)]
    pub tenant: Option<String>,
}

/// How people sign in.
#[derive(Clone, Debug)]
pub struct Access {
    /// Scheme, host and port, as browsers write an origin.
    pub public_url: Arc<str>,
    pub oidc: Oidc,
    pub sessions: Lasting,
}

/// The identity provider, and what its word is good for.
#[derive(Clone, Debug)]
pub struct Oidc {
    pub issuer: String,
    pub client_id: String,
    pub client_secret: Option<Secret>,
    pub scopes: Vec<String>,
    pub claim: String,
    pub keys_lasting: Duration,
    pub authorities: Vec<CertificateDer<'static>>,
    pub roles: Vec<GroupRole>,
}

/// A role for whoever is in a group.
#[derive(Clone, Debug)]
pub struct GroupRole {
    pub value: String,
    pub grant: Grant,
}

fn idle_minutes() -> u64 {
    30
}

fn session_hours() -> u64 {
    12
}

fn yes() -> bool {
    true
}

fn scopes() -> Vec<String> {
    ["openid", "profile", "email"].map(str::to_owned).into()
}

fn claim() -> String {
    "groups".to_owned()
}

fn keys_minutes() -> u64 {
    5
}

// === impl Access ===

impl Access {
    pub fn is_secure(&self) -> bool {
        self.public_url.starts_with("https://")
    }

    /// Name of a session's cookie. With its prefix browsers take it over TLS only, and for no other host.
    pub fn cookie(&self) -> &'static str {
        if self.is_secure() { "__Host-tollgate" } else { "tollgate" }
    }

    /// The same of who is away to sign in.
    pub fn cookie_away(&self) -> &'static str {
        if self.is_secure() { "__Host-tollgate-away" } else { "tollgate-away" }
    }

    /// Where the provider sends people back to.
    pub fn callback(&self) -> String {
        format!("{}/auth/callback", self.public_url)
    }
}

/// Whether what is said there, and who says it, can be trusted: TLS, or this machine itself.
pub fn is_safe_address(address: &str) -> bool {
    let Ok(uri) = address.parse::<Uri>() else { return false };
    let is_here = matches!(uri.host(), Some("127.0.0.1" | "localhost" | "[::1]"));
    match uri.scheme_str() {
        Some("https") => uri.host().is_some(),
        Some("http") => is_here,
        _ => false,
    }
}

// === impl Check ===

impl Check<'_> {
    pub(super) fn access(&mut self, raw: &RawAccess) -> Access {
        let public_url = raw.public_url.trim_end_matches('/');
        let is_origin =
            public_url.parse::<Uri>().is_ok_and(|uri| matches!(uri.path(), "" | "/") && uri.query().is_none());
        if !is_origin || !is_safe_address(public_url) {
            self.problem(format!(
                "access.public_url: {:?} is not an address such as \"https://gateway.example.com\"; http is for this \
                 machine itself only",
                raw.public_url
            ));
        }
        if raw.roles.is_empty() {
            self.problem("access.roles: nobody would have a role; add [[access.roles]]".to_owned());
        }
        self.at_least("access.session_idle_minutes", raw.session_idle_minutes, 1);
        self.at_least("access.session_hours", raw.session_hours, 1);
        let sessions = Lasting {
            idle: Duration::from_secs(raw.session_idle_minutes.saturating_mul(60)),
            total: Duration::from_secs(raw.session_hours.min(24 * 30).saturating_mul(3_600)),
            bound: raw.session_bound,
        };
        let roles = raw.roles.iter().filter_map(|role| self.group_role(role)).collect();
        let oidc = self.oidc(&raw.oidc, roles);
        Access { public_url: public_url.to_lowercase().into(), oidc, sessions }
    }

    fn oidc(&mut self, raw: &RawOidc, roles: Vec<GroupRole>) -> Oidc {
        if !is_safe_address(&raw.issuer) {
            self.problem(format!(
                "access.oidc.issuer: {:?} is not an https address (http is for this machine itself only)",
                raw.issuer
            ));
        }
        if raw.client_id.is_empty() {
            self.problem("access.oidc.client_id: is empty".to_owned());
        }
        if !raw.scopes.iter().any(|scope| scope == "openid") {
            self.problem("access.oidc.scopes: 'openid' must be among them".to_owned());
        }
        self.at_least("access.oidc.keys_minutes", raw.keys_minutes, 1);
        Oidc {
            issuer: raw.issuer.clone(),
            client_id: raw.client_id.clone(),
            client_secret: raw.client_secret.as_ref().map(|secret| self.secret("access.oidc.client_secret", secret)),
            scopes: raw.scopes.clone(),
            claim: raw.claim.clone(),
            keys_lasting: Duration::from_secs(raw.keys_minutes.saturating_mul(60)),
            authorities: raw
                .ca_file
                .as_deref()
                .map(|path| self.certificates("access.oidc.ca_file", path))
                .unwrap_or_default(),
            roles,
        }
    }

    fn group_role(&mut self, raw: &RawAccessRole) -> Option<GroupRole> {
        let field = format!("access.roles, of {:?}", raw.value);
        let Some(role) = Role::from_name(&raw.role) else {
            let known: Vec<_> = Role::ALL.iter().map(|role| role.name()).collect();
            self.problem(format!("{field}: {:?} is no role; there are: {}", raw.role, known.join(", ")));
            return None;
        };
        match (role, &raw.tenant) {
            (Role::PlatformAdmin, Some(_)) => self.problem(format!("{field}: a platform admin is no tenant's")),
            (Role::TenantAdmin, None) => self.problem(format!("{field}: a tenant admin is a tenant's; say which")),
            _ => {}
        }
        match raw.tenant.as_deref().map(str::parse).transpose() {
            Ok(tenant) => Some(GroupRole { value: raw.value.clone(), grant: Grant { role, tenant } }),
            Err(error) => {
                self.problem(format!("{field}: {error}"));
                None
            }
        }
    }
}
