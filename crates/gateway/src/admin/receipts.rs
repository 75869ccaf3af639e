//! `/admin/v1/receipts`: one request's event, with its money in dollars too.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use tollgate_client::Receipt;
use tollgate_store::view;
use tollgate_types::RequestId;

use super::extract::Id;
use super::refused::{Refusals, Refused};
use super::usage;
use crate::app::App;

/// Show the receipt of one request
#[utoipa::path(get, path = "/admin/v1/receipts/{request_id}", operation_id = "show_receipt", tag = "usage",
    params(("request_id" = String, Path, description = "The answer's `x-request-id`", example = "req_019ab0f2c3d4000000000000deadbeef")),
    responses((status = 200, description = "The receipt", body = Receipt), Refusals))]
pub async fn show(State(app): State<Arc<App>>, Id(id): Id<RequestId>) -> Result<Json<Receipt>, Refused> {
    let event = usage::ask(&app, move |reader| reader.event(id)).await?;
    let event = event.ok_or_else(|| Refused::not_found(format!("there is no receipt of {id}")))?;
    Ok(Json(receipt(&event)))
}

/// The same, whoever asks.
pub fn receipt(event: &view::UsageEvent) -> Receipt {
    let amounts = event.end.as_ref().map(|end| end.amounts).unwrap_or_default();
    Receipt { event: usage::event(event), cost_usd: amounts.cost.to_string(), charge_usd: amounts.charge.to_string() }
}
