//! `/admin/v1/prices`. A book is checked as a whole, written aside, noted in the journal, and only then given its name
//! and put in force. A bad one changes nothing, and neither does one that the journal could not note.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Json;
use http::StatusCode;
use tokio::sync::Mutex;
use tollgate_admission::price::{PriceBook, SHIPPED};
use tollgate_client::{List, PriceBookInfo};
use tollgate_guard::Act;
use tollgate_store::store::{Layout, prepare};

use super::caller::{Caller, Thing};
use super::durable::aside;
use super::refused::{Refusals, Refused};
use crate::app::App;
use crate::digest::sha256;

const PUSHED: &str = "pushed";
/// Held from looking at the books in force until the new ones are: two pushes at once would lose one.
static PUSHING: Mutex<()> = Mutex::const_new(());

/// List the price books in force; where two speak of the same price, the later one counts
#[utoipa::path(get, path = "/admin/v1/prices", operation_id = "list_price_books", tag = "prices",
    responses((status = 200, description = "Books, in order", body = List<PriceBookInfo>), Refusals))]
pub async fn list(caller: Caller) -> Result<Json<List<PriceBookInfo>>, Refused> {
    let app = caller.may(Act::ListPriceBooks, &Thing::Platform).await?;
    let books = app.admission.prices();
    let dir = prices_dir(&app);
    let data = aside(move || {
        let pushed = pushed(&dir);
        books.books().iter().map(|book| shown(book, origin(book, &pushed))).collect()
    });
    let data = data.await?;
    Ok(Json(List { data }))
}

/// Put a price book into force, over those there are
#[utoipa::path(post, path = "/admin/v1/prices", operation_id = "push_price_book", tag = "prices",
    request_body(content = String, content_type = "application/toml", description = "A price book, see docs/pricebook.md"),
    responses((status = 201, description = "In force", body = PriceBookInfo), Refusals))]
pub async fn push(caller: Caller, text: String) -> Result<(StatusCode, Json<PriceBookInfo>), Refused> {
    let app = caller.may(Act::PushPriceBook, &Thing::Platform).await?;
    let (book, text) = aside(move || (PriceBook::parse(&text), text)).await?;
    let book = Arc::new(book.map_err(|error| Refused::invalid(error.to_string(), None))?);
    put_in_force(&app, Arc::clone(&book), text).await?;
    Ok((StatusCode::CREATED, Json(shown(&book, PUSHED))))
}

/// Keeps a checked book and its text, and puts it into force over those there are.
pub async fn put_in_force(app: &Arc<App>, book: Arc<PriceBook>, text: String) -> Result<(), Refused> {
    let _one_at_a_time = PUSHING.lock().await;
    let books = app.admission.prices().with(Arc::clone(&book)).map_err(|error| Refused::conflict(error.to_string()))?;
    let dir = prices_dir(app);
    // Books are read in the order of their names when the gateway starts: so the time comes first.
    let file = dir.join(format!("{:020}-{}.toml", app.clock().now().0, book.fingerprint()));
    let not_kept = |error| Refused::internal("the price book cannot be kept", &error);
    // It has its name, under which a start reads it, only once the journal says so. Until then whatever fails leaves nothing.
    let prepared = aside(move || prepare(&file, text.as_bytes())).await?.map_err(not_kept)?;
    let position = app.books.prices_set(Arc::clone(book.version()), *book.sha256())?;
    app.journal.durable(position).await?;
    aside(move || prepared.confirm()).await?.map_err(not_kept)?;
    app.admission.publish_prices(books);
    Ok(())
}

fn prices_dir(app: &App) -> PathBuf {
    Layout::of(&app.dir).prices
}

fn shown(book: &PriceBook, origin: &str) -> PriceBookInfo {
    PriceBookInfo {
        version: book.version().to_string(),
        sha256: book.fingerprint(),
        prices: book.prices().len() as u64,
        origin: origin.to_owned(),
    }
}

/// The names of the files of pushed books, which end with their digests.
fn pushed(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn origin(book: &PriceBook, pushed: &[String]) -> &'static str {
    let file_end = format!("-{}.toml", book.fingerprint());
    if pushed.iter().any(|name| name.ends_with(&file_end)) {
        PUSHED
    } else if sha256(&[SHIPPED.as_bytes()]) == *book.sha256() {
        "shipped"
    } else {
        "configured"
    }
}
