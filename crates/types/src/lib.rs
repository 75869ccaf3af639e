//! The vocabulary every room shares: who asks, what it costs, when it is, what was used, and why not.
//!
//! Nothing here does IO. The one file that reads the outside world is [`clock`], and it reads only the time.

pub mod call;
pub mod clock;
pub mod directory;
pub mod ids;
pub mod money;
pub mod refusal;
pub mod time;
pub mod usage;
pub mod window;

pub use call::{Call, OutputLimit, Surface};
pub use clock::Clock;
pub use ids::{KeyId, PlanId, ProjectId, RequestId, TenantId};
pub use money::{PicoSum, PicoUsd};
pub use refusal::Refusal;
pub use time::Timestamp;
pub use usage::{Confidence, Usage};
pub use window::{Basis, Scope, Window};
