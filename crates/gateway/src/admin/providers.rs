//! `/admin/v1/providers`: a view of the configuration, without what authenticates us.

use std::time::Duration;

use axum::Json;
use http::Uri;
use tollgate_client::{List, ProviderInfo};
use tollgate_guard::Act;
use tollgate_serving::Provider;

use super::caller::{Caller, Thing};
use super::refused::{Refusals, Refused};

/// List the providers
#[utoipa::path(get, path = "/admin/v1/providers", operation_id = "list_providers", tag = "configuration",
    responses((status = 200, description = "Providers, by name", body = List<ProviderInfo>), Refusals))]
pub async fn list(caller: Caller) -> Result<Json<List<ProviderInfo>>, Refused> {
    let app = caller.may(Act::ListProviders, &Thing::Platform).await?;
    Ok(Json(List { data: app.routing().providers.values().map(|provider| shown(provider)).collect() }))
}

fn shown(provider: &Provider) -> ProviderInfo {
    ProviderInfo {
        provider: provider.name.to_string(),
        priced_as: provider.priced_as.to_string(),
        base_url: without_user(&provider.base_url),
        has_api_key: provider.api_key.is_some(),
        http2: provider.http2,
        connect_timeout_ms: millis(provider.timeouts.connect),
        first_byte_timeout_ms: millis(provider.timeouts.first_byte),
        idle_timeout_ms: millis(provider.timeouts.idle),
        total_timeout_ms: millis(provider.timeouts.total),
    }
}

/// Somebody may have put a password before the host.
fn without_user(url: &Uri) -> String {
    let authority = url.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{}://{host}{}", url.scheme_str().unwrap_or("http"), url.path())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_an_address_is_not_shown() {
        let shown = |text: &str| without_user(&text.parse().expect("an address"));
        assert_eq!(shown("https://user:pass@host:8443/v1"), "https://host:8443/v1");
        assert_eq!(shown("http://127.0.0.1:9090/v1"), "http://127.0.0.1:9090/v1");
    }
}
