//! `/admin/v1/receipts`: the signed proof of one request, and the keys that sign them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use tollgate_client::{Receipt, ReceiptKeys};
use tollgate_types::RequestId;

use super::durable::aside;
use super::extract::Id;
use super::refused::{Refusals, Refused};
use super::usage;
use crate::app::App;
use crate::receipt::{self, Told};

/// Show the receipt of one request
#[utoipa::path(get, path = "/admin/v1/receipts/{request_id}", operation_id = "show_receipt", tag = "usage",
    params(("request_id" = String, Path, description = "The answer's `x-request-id`", example = "req_019ab0f2c3d4000000000000deadbeef")),
    responses((status = 200, description = "The receipt", body = Receipt), Refusals))]
pub async fn show(State(app): State<Arc<App>>, Id(id): Id<RequestId>) -> Result<Json<Receipt>, Refused> {
    let told = usage::ask(&app, move |reader| Told::of(reader, id)).await?;
    let told = told.ok_or_else(|| Refused::not_found(format!("there is no receipt of {id}")))?;
    Ok(Json(receipt::issue(&app, &told)))
}

/// List the public keys that receipts are signed with; the first signs now
///
/// Everybody may read the same at `/v1/receipts/keys`.
#[utoipa::path(get, path = "/admin/v1/receipts/keys", operation_id = "list_receipt_keys", tag = "usage",
    responses((status = 200, description = "A JWK set", body = ReceiptKeys), Refusals))]
pub async fn keys(State(app): State<Arc<App>>) -> Json<ReceiptKeys> {
    Json(receipt::keys(&app))
}

/// Have a new key sign receipts from now on; the ones before it stay published
#[utoipa::path(post, path = "/admin/v1/receipts/keys", operation_id = "rotate_receipt_key", tag = "usage",
    responses((status = 201, description = "All keys, the new one first", body = ReceiptKeys), Refusals))]
pub async fn rotate_key(State(app): State<Arc<App>>) -> Result<(StatusCode, Json<ReceiptKeys>), Refused> {
    let rotating = Arc::clone(&app);
    aside(move || rotating.vault.rotate_receipt_key()).await??;
    Ok((StatusCode::CREATED, Json(receipt::keys(&app))))
}
