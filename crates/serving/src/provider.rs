//! One configured provider.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::preset::OutputLimitName;

#[derive(Clone, Debug)]
pub struct Provider {
    pub name: Arc<str>,
    /// Under this name the price books know it: its preset, or for a custom one its own name.
    pub priced_as: Arc<str>,
    /// Where it works, if its operator says so.
    pub region: Option<Arc<str>>,
    /// Scheme, host and the path that every request's path is appended to, without a slash at its end.
    pub base_url: Uri,
    pub api_key: Option<Secret>,
    /// HTTP/2 without negotiation, for plain `http://`. Over TLS it is negotiated anyhow.
    pub http2: bool,
    pub output_limit: OutputLimitName,
    pub timeouts: Timeouts,
    /// Idle connections kept, per worker.
    pub idle_connections_max: usize,
    /// Trusted besides the public authorities.
    pub authorities: Vec<CertificateDer<'static>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub connect: Duration,
    /// From sending the request to the first byte of the answer.
    pub first_byte: Duration,
    /// Between two pieces of the answer.
    pub idle: Duration,
    pub total: Duration,
}

/// Text that is never shown.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

// === impl Secret ===

impl Secret {
    pub fn new(text: String) -> Self {
        Self(Arc::new(Zeroizing::new(text)))
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes() == other.0.as_bytes()
    }
}
