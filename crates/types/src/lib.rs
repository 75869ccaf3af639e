//! The vocabulary every room shares: who asks, what it costs, when it is, what was used, and why not.
//!
//! Nothing here does IO. The one file that reads the outside world is [`clock`], and it reads only the time.

pub mod access;
pub mod audit;
pub mod call;
pub mod clock;
pub mod directory;
pub mod ids;
pub mod money;
pub mod month;
pub mod refusal;
pub mod scope;
pub mod tariff;
pub mod time;
pub mod usage;
pub mod window;
pub mod zone;

pub use access::{Actor, Role};
pub use audit::AuditEntry;
pub use call::{Call, OutputLimit, Surface};
pub use clock::Clock;
pub use ids::{EndUserId, KeyId, PlanId, ProjectId, RequestId, TenantId, hex};
pub use money::{PicoSum, PicoUsd};
pub use month::Month;
pub use refusal::Refusal;
pub use scope::{Scope, Spender};
pub use time::Timestamp;
pub use usage::{Confidence, Usage};
pub use window::{Basis, Window};
pub use zone::{Civil, UtcOffset, Zone};
