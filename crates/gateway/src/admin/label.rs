//! Names that people give: sealed under the tenant's own data key wherever they are kept, opened only to be shown.

use std::sync::Arc;

use tollgate_store::Vault;
use tollgate_types::TenantId;
use tollgate_types::directory::Sealed;

use super::refused::Refused;
use crate::app::App;

/// Longest name, in characters.
pub const NAME_CHARS_MAX: usize = 200;
/// What the ciphertext is bound to, beside its tenant.
const PURPOSE: &str = "label";

/// Refuses a name that is too long, before anything is made for it.
pub fn check(name: Option<&String>) -> Result<(), Refused> {
    match name {
        Some(name) if name.chars().count() > NAME_CHARS_MAX => {
            Err(Refused::field("name", format!("at most {NAME_CHARS_MAX} characters")))
        }
        _ => Ok(()),
    }
}

/// Seals a name. The tenant's data key is there: it is made before the tenant is.
pub async fn seal(app: &Arc<App>, tenant: &TenantId, name: Option<&String>) -> Result<Option<Sealed>, Refused> {
    check(name)?;
    let Some(name) = name.cloned() else { return Ok(None) };
    let (vault, tenant) = (Arc::clone(&app.vault), tenant.clone());
    let sealed = super::durable::aside(move || vault.seal(&tenant, PURPOSE, name.as_bytes())).await??;
    Ok(Some(sealed))
}

/// A name that cannot be opened any more was erased with its key: there is none.
pub fn open(vault: &Vault, tenant: &TenantId, label: Option<&Sealed>) -> Option<String> {
    let opened = vault.open_sealed(tenant, PURPOSE, label?).ok()?;
    String::from_utf8(opened).ok()
}
