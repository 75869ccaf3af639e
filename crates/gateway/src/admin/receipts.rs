//! `/admin/v1/receipts`: the signed proof of one request, and the keys that sign them.

use std::sync::Arc;

use axum::Json;
use http::StatusCode;
use tollgate_client::{Receipt, ReceiptKeys};
use tollgate_guard::Act;
use tollgate_types::RequestId;
use tollgate_types::directory::ChangeRefused;

use super::caller::{Caller, Thing};
use super::durable::aside;
use super::extract::Id;
use super::refused::{Refusals, Refused};
use super::usage;
use crate::receipt::{self, Told};

/// Show the receipt of one request
#[utoipa::path(get, path = "/admin/v1/receipts/{request_id}", operation_id = "show_receipt", tag = "usage",
    params(("request_id" = String, Path, description = "The answer's `x-request-id`", example = "req_019ab0f2c3d4000000000000deadbeef")),
    responses((status = 200, description = "The receipt", body = Receipt), Refusals))]
pub async fn show(caller: Caller, Id(id): Id<RequestId>) -> Result<Json<Receipt>, Refused> {
    let asked = caller.before_it_is_known_whose();
    let told = usage::ask(&asked, move |reader| Told::of(reader, id)).await?;
    let missing = || ChangeRefused::Missing { what: "receipt", id: id.to_string() };
    let told = told.ok_or_else(missing)?;
    let tenant = told.event.reserved.spender.tenant.clone();
    let app = caller
        .may(Act::ShowReceipt, &Thing::Told { tenant, what: "receipt", name: id.to_string(), part: true })
        .await?;
    Ok(Json(receipt::issue(&app, &told)))
}

/// List the public keys that receipts are signed with; the first signs now
///
/// Everybody may read the same at `/v1/receipts/keys`.
#[utoipa::path(get, path = "/admin/v1/receipts/keys", operation_id = "list_receipt_keys", tag = "usage",
    responses((status = 200, description = "A JWK set", body = ReceiptKeys), Refusals))]
pub async fn keys(caller: Caller) -> Result<Json<ReceiptKeys>, Refused> {
    let app = caller.may(Act::ListReceiptKeys, &Thing::Shared).await?;
    Ok(Json(receipt::keys(&app)))
}

/// Have a new key sign receipts from now on; the ones before it stay published
#[utoipa::path(post, path = "/admin/v1/receipts/keys", operation_id = "rotate_receipt_key", tag = "usage",
    responses((status = 201, description = "All keys, the new one first", body = ReceiptKeys), Refusals))]
pub async fn rotate_key(caller: Caller) -> Result<(StatusCode, Json<ReceiptKeys>), Refused> {
    let app = caller.may(Act::RotateReceiptKey, &Thing::Platform).await?;
    let rotating = Arc::clone(&app);
    aside(move || rotating.vault.rotate_receipt_key()).await??;
    Ok((StatusCode::CREATED, Json(receipt::keys(&app))))
}
