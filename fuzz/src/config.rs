//! The configuration file: a field nobody knows is an error, every refusal says why, and no secret is ever shown.

use std::path::Path;

use tollgate_gateway::config::{Config, Environment};

use crate::Target;

pub const TARGET: Target = Target {
    name: "config",
    check: check_config,
    seeds: &[
        concat!(
            "[server]\nlisten = \"127.0.0.1:8080\"\nworkers = 2\nbody_bytes_max = 16777216\ndrain_seconds = 30\n",
            "[store]\ndir = \".tollgate/data\"\nsegment_bytes = 16777216\n",
            "[secrets]\nmaster_key = \"env:MASTER\"\nadmin_key = \"env:ADMIN\"\n",
            "[providers.sim]\npreset = \"custom\"\nbase_url = \"http://127.0.0.1:9090/v1\"\napi_key = \"env:SIM\"\nhttp2 = true\n",
            "[routes.\"gpt-4o-mini\"]\nprovider = \"sim\"\nmodel = \"gpt-4o-mini\"\nmax_tokens_default = 1024\n",
        ),
        "[secrets]\nmaster_key = \"env:MASTER\"\nadmin_key = \"env:ADMIN\"\n[providers.openai]\npreset = \"openai\"\n[log]\njson = true\n",
        "[secrets]\nmaster_key = \"env:MASTER\"\nadmin_key = \"env:ADMIN\"\n[server]\nlisten = \"[::]:443\"\n",
    ],
    words: &[
        "[routes.x]\n",
        "[providers.p]\n",
        "provider = \"sim\"\n",
        "preset = \"openai\"\n",
        "env:SIM",
        "env:",
        "0",
        "-1",
        "9223372036854775807",
        "true",
        "\"\"",
        "base_url = \"https://h/v1\"\n",
        "[server]\n",
        "total_timeout_ms = 0\n",
    ],
    takes_noise: false,
};

const SECRETS: [(&str, &str); 3] =
    [("MASTER", "canary-of-the-master-key"), ("ADMIN", "canary-of-the-admin-key"), ("SIM", "canary-of-a-provider-key")];

pub fn check_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // A configuration may name files, and reading whatever a mutation names is not what this is for.
    if ["file", "cert", "tls", "\\u", "\\U", "\\x"].iter().any(|word| text.contains(word)) {
        return;
    }
    let read = |text: &str, more: &[(&str, &str)]| {
        let environment = Environment::of(SECRETS.into_iter().chain(more.iter().copied()));
        Config::parse(text, Path::new("tollgate.toml"), &environment)
    };
    match read(text, &[]) {
        Ok(config) => {
            assert!(!format!("{config:?}").contains("canary"), "a secret is shown");
            let unknown =
                read(&format!("nobody_knows_this = 1\n{text}"), &[]).expect_err("an unknown field is an error");
            assert!(unknown.to_string().contains("nobody_knows_this"), "{unknown}");
            for (name, route) in &config.routing.routes {
                assert_eq!(&**name, &*route.target.route);
                let provider = config.routing.providers.get(&*route.target.provider);
                assert!(provider.is_some(), "a route leads to a provider that is there");
                assert!(route.target.max_tokens_default > 0, "a request without a bound gets one");
            }
            let moved = read(text, &[("TOLLGATE_SERVER__LISTEN", "127.0.0.1:1")]).expect("loopback is always allowed");
            assert_eq!(moved.server.listen.port(), 1, "the environment overrides the file");
        }
        Err(refused) => {
            assert!(!refused.0.is_empty(), "a refusal has its reasons");
            assert!(!refused.to_string().contains("canary"), "a secret is shown: {refused}");
        }
    }
}
