//! nginx as a plain proxy, the yardstick: one worker, HTTP/1.1 with keep-alive to the provider, no access log.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::http::Origin;
use crate::process::Launch;
use crate::stage::write_file;

/// Requests below this prefix are proxied without buffering, as streams want it.
pub const STREAM_PREFIX: &str = "/stream";
/// The same, at the second provider.
pub const PACED_PREFIX: &str = "/paced";

const PLACES: [&str; 3] = ["nginx", "/usr/sbin/nginx", "/usr/local/sbin/nginx"];

/// Prepares nginx to listen on `port` and proxy to the providers, with all its files in `dir`.
pub fn launch(dir: &Path, port: u16, provider: &Origin, paced_provider: &Origin) -> Result<Launch> {
    let program = find().context("nginx is missing: install nginx-light (apt-get install nginx-light)")?;
    let configuration = dir.join("nginx.conf");
    write_file(
        &configuration,
        &configure(dir, port, [provider, paced_provider], rustix::process::geteuid().is_root()),
    )?;
    let arguments = ["-p".into(), dir.as_os_str().to_owned(), "-c".into(), configuration.into_os_string()];
    Ok(Launch::new(program, dir.join("nginx.log")).args(arguments).args(["-e", "nginx-error.log"]))
}

fn find() -> Option<PathBuf> {
    let works = |place: &&str| {
        let mut command = Command::new(place);
        command.arg("-v").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    PLACES.into_iter().find(works).map(PathBuf::from)
}

fn configure(dir: &Path, port: u16, providers: [&Origin; 2], is_root: bool) -> String {
    let dir = dir.display();
    let [provider, paced] = providers.map(Origin::authority);
    // A worker of root would change to nobody, who may not enter our directory.
    let user = if is_root { "user root;\n" } else { "" };
    format!(
        r#"{user}worker_processes 1;
daemon off;
pid {dir}/nginx.pid;
error_log {dir}/nginx-error.log warn;
events {{
    worker_connections 8192;
}}
http {{
    access_log off;
    client_body_temp_path {dir}/nginx-body;
    proxy_temp_path {dir}/nginx-proxy;
    fastcgi_temp_path {dir}/nginx-fastcgi;
    uwsgi_temp_path {dir}/nginx-uwsgi;
    scgi_temp_path {dir}/nginx-scgi;
    keepalive_requests 1000000000;
    upstream provider {{
        server {provider};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    upstream paced {{
        server {paced};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port};
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        location {STREAM_PREFIX}/ {{
            proxy_pass http://provider/;
            proxy_buffering off;
        }}
        location {PACED_PREFIX}/ {{
            proxy_pass http://paced/;
            proxy_buffering off;
        }}
        location / {{
            proxy_pass http://provider;
        }}
    }}
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_a_plain_proxy_with_keep_alive() {
        let text = configure(Path::new("/d"), 4000, [&Origin::local(5000), &Origin::local(5001)], false);
        for line in ["worker_processes 1;", "keepalive 64;", "access_log off;", "listen 127.0.0.1:4000;"] {
            assert!(text.contains(line), "{line} is missing in {text}");
        }
        assert!(text.contains("server 127.0.0.1:5000;") && text.contains("server 127.0.0.1:5001;"));
        assert!(!text.contains("user root"));
        assert!(configure(Path::new("/d"), 1, [&Origin::local(2), &Origin::local(3)], true).starts_with("user root;"));
    }
}
