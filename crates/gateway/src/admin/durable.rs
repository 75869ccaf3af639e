//! Writing: the change is made in memory, data-plane workers see it at once, and it is answered for once it is durable.

use std::sync::Arc;

use tollgate_types::directory::Change;

use super::refused::Refused;
use crate::app::App;

/// Makes changes of the directory, in order, and waits until the last is durable. The ones before one that is refused
/// stay made.
pub async fn change(app: &Arc<App>, changes: impl IntoIterator<Item = Change>) -> Result<(), Refused> {
    let mut last = None;
    let mut revoked = false;
    let made = changes.into_iter().try_for_each(|change| {
        revoked |= matches!(change, Change::KeyRevoked { .. });
        last = Some(app.books.change(change)?);
        Ok::<_, Refused>(())
    });
    let Some(position) = last else { return made };
    // A revoked key is refused even if the disk fails in this moment; anything else counts only once it is durable.
    if revoked {
        publish(app).await?;
    }
    app.journal.durable(position).await?;
    if !revoked {
        publish(app).await?;
    }
    made
}

/// An index of many keys takes a while to make: not on a thread that serves.
///
/// A thread of its own: whoever keeps all others busy does not keep a stolen key good.
async fn publish(app: &Arc<App>) -> Result<(), Refused> {
    let app = Arc::clone(app);
    let (done, published) = tokio::sync::oneshot::channel();
    let work = move || {
        app.publish_directory();
        // Whoever waited for it may have left.
        let _ = done.send(());
    };
    let began = std::thread::Builder::new().name("publish".into()).spawn(work);
    began.map_err(|error| Refused::internal("no thread can be made", &error))?;
    published.await.map_err(|error| Refused::internal("the work broke off", &error))
}

/// Does what blocks (files, the view) on a thread made for it.
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refused> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Refused::internal("the work broke off", &error))
}
