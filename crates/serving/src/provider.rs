//! One configured provider.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Uri;
use rustls_pki_types::CertificateDer;
use tollgate_types::Clock;
use zeroize::Zeroizing;

use crate::concurrency::{Limiter, Outcome, Settings, Slot};
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
    /// Finds out how many requests at a time it bears, if that is wanted.
    pub bearing: Option<Arc<Bearing>>,
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

/// How many requests at a time a provider bears, for all workers together.
#[derive(Debug)]
pub struct Bearing {
    limiter: Mutex<Limiter>,
    clock: Clock,
}

/// A request that a provider bears; when this is dropped it has ended.
#[derive(Debug)]
pub struct Borne {
    bearing: Arc<Bearing>,
    slot: Option<Slot>,
    outcome: Outcome,
}

/// Text that is never shown.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

// === impl Bearing ===

impl Bearing {
    pub fn new(settings: Settings, clock: Clock) -> Self {
        Self { limiter: Mutex::new(Limiter::new(settings)), clock }
    }

    /// One more request, if the provider bears one more.
    pub fn enter(self: &Arc<Self>) -> Option<Borne> {
        let slot = self.lock().try_enter(self.clock.steady())?;
        Some(Borne { bearing: Arc::clone(self), slot: Some(slot), outcome: Outcome::Untold })
    }

    /// Requests that may be under way together now.
    pub fn limit(&self) -> u32 {
        self.lock().limit()
    }

    /// How long an answer takes where nothing is queued, as far as it is known.
    pub fn floor(&self) -> Option<Duration> {
        self.lock().floor()
    }

    fn lock(&self) -> MutexGuard<'_, Limiter> {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Borne ===

impl Borne {
    /// Its answer began after so long.
    pub fn answered(&mut self, after: Duration) {
        self.outcome = Outcome::Answered(after);
    }

    /// The provider said that it has too much to do, or nothing in time.
    pub fn dropped(mut self) {
        self.outcome = Outcome::Dropped;
    }
}

impl Drop for Borne {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            let now = self.bearing.clock.steady();
            self.bearing.lock().leave(now, slot, self.outcome);
        }
    }
}

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
