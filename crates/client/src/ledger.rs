//! The ledger's examination of itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Everything added up again and compared. Amounts are of cost unless they say charge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LedgerState {
    /// The sum of all differences between things that ought to be equal: `"0"`, or something is wrong.
    #[schema(example = "0")]
    pub drift_picousd: String,
    /// Requests ever held.
    pub requests: u64,
    /// Reservations of requests that run.
    pub reservations_pending: u64,
    /// How long the oldest of them is past its deadline, in milliseconds; 0 if none is.
    pub oldest_pending_overdue_ms: u64,
    /// Reservations whose end a crash hid.
    pub indeterminate: u64,
    /// Ever held = posted + released + pending + indeterminate.
    pub held_picousd: String,
    /// Spent, `bounded_picousd` included.
    pub posted_picousd: String,
    pub posted_charge_picousd: String,
    /// The part of what is spent that is an upper bound, not a measurement.
    pub bounded_picousd: String,
    /// Held and given back.
    pub released_picousd: String,
    pub pending_picousd: String,
    pub indeterminate_picousd: String,
    /// Billed to us beyond what was held: our loss, no tenant's.
    pub overrun_picousd: String,
    /// The least that any cap has left; negative only if a cap was lowered below what was used.
    pub least_left_picousd: Option<String>,
}
