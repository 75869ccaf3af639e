//! Whether somebody is there, TLS included. Connects and hangs up: nothing is sent, so no key is needed and no work done.

use http::Uri;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::connect::HttpConnector;
use tollgate_serving::Provider;
use tollgate_serving::backend::trusting;
use tower::ServiceExt;

use super::Finding;

const ADVICE: &str =
    "look at its base_url, the network, DNS and the provider's status page; calls to it will be refused";

/// A provider that is down is no fault of ours: a warning.
pub async fn provider(provider: &Provider) -> Finding {
    let name = &provider.name;
    let host = provider.base_url.authority().map(ToString::to_string).unwrap_or_default();
    let patience = provider.timeouts.connect;
    match tokio::time::timeout(patience, connect(provider)).await {
        Ok(Ok(())) => Finding::ok("provider", format!("{name} is there ({host})")),
        Ok(Err(reason)) => Finding::warn("provider", format!("{name} cannot be reached ({host}): {reason}"), ADVICE),
        Err(_) => {
            let found = format!("{name} does not answer within {} ms ({host})", patience.as_millis());
            Finding::warn("provider", found, ADVICE)
        }
    }
}

/// Whether a secret sent there could be read on the way.
pub fn is_exposed(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    uri.scheme_str() == Some("http") && !here
}

async fn connect(provider: &Provider) -> Result<(), String> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    let tls = trusting(&provider.authorities);
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_all_versions();
    match connector.wrap_connector(tcp).oneshot(provider.base_url.clone()).await {
        Ok(_connection) => Ok(()),
        Err(error) => Err(innermost(&*error)),
    }
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let last = std::iter::successors(Some(error), |error| error.source()).last();
    last.map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Level;
    use super::*;
    use crate::config::{Config, Environment};

    #[test]
    fn only_plain_http_to_another_machine_is_exposed() {
        for safe in ["http://127.0.0.1:8080", "http://[::1]:8080", "http://localhost:1", "https://gateway.example"] {
            assert!(!is_exposed(safe), "{safe}");
        }
        for exposed in ["http://gateway.example", "http://10.0.0.7:8080", "http://[2001:db8::1]:80"] {
            assert!(is_exposed(exposed), "{exposed}");
        }
    }

    #[tokio::test]
    async fn a_provider_is_there_or_it_is_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let text = format!("[providers.sim]\nbase_url = \"http://{address}/v1\"");
        let environment =
            Environment::of([("TOLLGATE_MASTER_KEY", "00"), ("TOLLGATE_ADMIN_KEY", "long-enough-admin-key")]);
        let config = Config::parse(&text, Path::new("tollgate.toml"), &environment).expect("it holds");
        let sim = &config.routing.providers["sim"];
        assert_eq!(provider(sim).await.level, Level::Ok);
        drop(listener);
        let gone = provider(sim).await;
        assert_eq!(gone.level, Level::Warn);
        assert!(gone.found.contains("refused"), "{}", gone.found);
    }
}
