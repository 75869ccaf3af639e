//! Whether the time of an answer tells that another tenant's thing is there: a tenant's own machine asks for what is another's and
//! for what is nobody's, in turns, many times. Prints the medians, and how often the one took longer than the other: at 0.5 nobody
//! can tell.
//!
//! ```sh
//! cargo run --release -p tollgate-gateway --example timing -- 20000
//! ```
#![expect(clippy::disallowed_methods, reason = "a measurement reads the clock and makes the folder it works in")]

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tollgate_client::{AdminClient, NewKey, NewServiceKey, NewTenant, Role};
use tollgate_gateway::config::{Config, Environment};
use tollgate_gateway::serve;
use tollgate_types::Clock;

const ADMIN_KEY: &str = "an-admin-key-of-this-measurement";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(20_000), |text| text.parse())?;
    let dir = tempfile::tempdir()?;
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nworkers = 1\n[store]\ndir = {:?}\nsegment_bytes = 4194304\n\
         [providers.sim]\nbase_url = \"http://127.0.0.1:1/v1\"\n[routes.m]\nprovider = \"sim\"\n",
        dir.path().join("data")
    );
    let environment = Environment::of([("TOLLGATE_MASTER_KEY", &*"0f".repeat(32)), ("TOLLGATE_ADMIN_KEY", ADMIN_KEY)]);
    let config = Config::parse(&text, Path::new("tollgate.toml"), &environment)?;
    let gateway = serve::start(&config, Clock::System)?;
    let base = format!("http://{}", gateway.address);
    let admin = AdminClient::new(&base, ADMIN_KEY)?;
    let mut keys = Vec::new();
    for tenant in ["own", "other"] {
        admin.create_tenant(&NewTenant { id: tenant.to_owned(), ..NewTenant::default() }).await?;
        keys.push(admin.create_key(&NewKey { tenant: tenant.to_owned(), ..NewKey::default() }).await?);
    }
    let machine = NewServiceKey { role: Role::TenantAdmin, tenant: Some("own".into()), name: None, expires_at: None };
    let machine = admin.create_service_key(&machine).await?.key;
    let pairs = [
        (
            "control plane, a tenant",
            &machine,
            "/admin/v1/keys?tenant=other".to_owned(),
            "/admin/v1/keys?tenant=absnt".to_owned(),
        ),
        (
            "control plane, a tenant's budgets",
            &machine,
            "/admin/v1/budgets?tenant=other".to_owned(),
            "/admin/v1/budgets?tenant=absnt".to_owned(),
        ),
        (
            "data plane, a tenant's address",
            &keys[0].key,
            "/t/other/v1/models".to_owned(),
            "/t/absnt/v1/models".to_owned(),
        ),
    ];
    let http = Client::builder(TokioExecutor::new()).build_http();
    println!("{:<36} {:>10} {:>10} {:>8}", "asked for", "another's", "nobody's", "longer");
    for (what, key, another, nobody) in &pairs {
        let (mut there, mut absent) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
        for round in 0..rounds {
            // Whoever comes first in a pair changes from one to the next.
            for first in [round % 2 == 0, round % 2 == 1] {
                let (path, times) = if first { (another, &mut there) } else { (nobody, &mut absent) };
                times.push(timed(&http, &base, path, key).await?);
            }
        }
        println!("{what:<36} {:>7} ns {:>7} ns {:>8.3}", median(&there), median(&absent), longer(&there, &absent));
    }
    drop((http, admin));
    gateway.stop();
    Ok(())
}

async fn timed(http: &Client<HttpConnector, Full<Bytes>>, base: &str, path: &str, key: &str) -> Result<u64> {
    let request = Request::get(format!("{base}{path}")).header("authorization", format!("Bearer {key}"));
    let request = request.body(Full::default())?;
    let began = Instant::now();
    let response = http.request(request).await.context("no answer")?;
    let status = response.status();
    response.into_body().collect().await?;
    let took = u64::try_from(began.elapsed().as_nanos())?;
    anyhow::ensure!(status == http::StatusCode::NOT_FOUND, "{path}: {status}");
    Ok(took)
}

fn median(times: &[u64]) -> u64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

/// How often one of `these` is longer than one of `those` (Mann and Whitney's U, by its part of all pairs).
fn longer(these: &[u64], those: &[u64]) -> f64 {
    let mut those = those.to_vec();
    those.sort_unstable();
    let wins: usize = these.iter().map(|time| those.partition_point(|other| other < time)).sum();
    #[expect(clippy::cast_precision_loss, reason = "a part of all pairs, to three digits")]
    let part = wins as f64 / (these.len() as f64 * those.len() as f64);
    part
}
