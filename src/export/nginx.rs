//! A server configuration of nginx, for `/etc/nginx/conf.d`.

use std::fmt::Write;

use crate::export::app::{ExportApp, proxy_sections};
use crate::export::target::{ExportedFile, Target, header};

/// The number of source addresses among which the clients of a sticky app are spread. nginx wants percentages.
const SOURCES: u32 = 25;

/// One file with the upstreams and servers of all apps that have a port.
pub(super) fn files(apps: &[ExportApp<'_>]) -> Vec<ExportedFile> {
    let usage =
        ["Copy to /etc/nginx/conf.d/apps.conf, replace the server names, then: nginx -t && nginx -s reload"];
    let mut text = header(Target::Nginx, &usage);
    text.push_str(
        "\nmap $http_upgrade $connection_upgrade {\n    default upgrade;\n    \"\"      \"\";\n}\n",
    );
    text.push_str(&proxy_sections(apps, server));
    vec![ExportedFile { name: "nginx.conf".into(), text, is_secret: false }]
}

fn server(app: &ExportApp<'_>) -> String {
    let (name, ports) = (&app.slug, app.ports());
    let by_source = app.is_sticky() && ports.len() == 1;
    let mut text = String::new();
    if by_source {
        text.push_str(&source_addresses(name));
    }
    let _ = writeln!(text, "\n# At most 10 requests a second from one client; enable it below.");
    let _ = writeln!(
        text,
        "limit_req_zone $binary_remote_addr zone={name}:10m rate=10r/s;\n\nupstream {name} {{"
    );
    if app.is_sticky() && !by_source {
        text.push_str(
            "    # The same client reaches the same instance.\n    hash $remote_addr consistent;\n",
        );
    }
    for port in &ports {
        let _ = writeln!(text, "    server 127.0.0.1:{port};");
    }
    match by_source {
        // nginx keeps idle connections for each server, whatever address they come from.
        true => text.push_str(
            "    # No keepalive: it would mix the connections of clients with different addresses.\n",
        ),
        false => text.push_str("    keepalive 32;\n"),
    }
    let _ = writeln!(
        text,
        "}}\n\nserver {{\n    listen 80;\n    # listen 443 ssl;\n    # ssl_certificate     /etc/ssl/{name}.pem;\n    # ssl_certificate_key /etc/ssl/private/{name}.key;\n    server_name {name}.example.com;\n"
    );
    text.push_str("    gzip on;\n    gzip_types text/plain text/css application/json application/javascript image/svg+xml;\n\n");
    text.push_str("    proxy_http_version 1.1;\n");
    for (header, value) in [
        ("Host", "$host"),
        ("X-Real-IP", "$remote_addr"),
        ("X-Forwarded-For", "$proxy_add_x_forwarded_for"),
        ("X-Forwarded-Proto", "$scheme"),
        ("Upgrade", "$http_upgrade"),
        ("Connection", "$connection_upgrade"),
    ] {
        let _ = writeln!(text, "    proxy_set_header {header} {value};");
    }
    text.push_str("    # WebSocket connections may be silent for this long.\n    proxy_read_timeout 1h;\n");
    if by_source {
        let _ = writeln!(text, "    proxy_bind ${}_source;", variable(name));
    }
    if let Some(path) = health_path(app) {
        let _ = writeln!(
            text,
            "\n    location = {path} {{\n        proxy_pass http://{name};\n        access_log off;\n    }}"
        );
    }
    let _ = writeln!(
        text,
        "\n    location / {{\n        # limit_req zone={name} burst=20 nodelay;\n        proxy_pass http://{name};\n    }}\n}}"
    );
    text
}

/// Source addresses for connections to a sticky app: `balance = "ip_hash"` sees the proxy instead of the client, so
/// that each client must come from an address of its own in 127.0.0.0/8.
fn source_addresses(name: &str) -> String {
    let mut text = format!(
        "\n# `balance = \"ip_hash\"` chooses the instance by the address of the client, which is hidden behind the\n\
         # proxy. So each client reaches the app from its own address of the loopback network.\n\
         split_clients $remote_addr ${}_source {{\n",
        variable(name)
    );
    for number in 1..SOURCES {
        let _ = writeln!(text, "    {}% 127.0.77.{number};", 100 / SOURCES);
    }
    let _ = writeln!(text, "    *  127.0.77.{SOURCES};\n}}");
    text
}

/// A name that a variable of nginx can have.
fn variable(name: &str) -> String {
    name.replace('-', "_")
}

/// The path of an HTTP probe, if nginx can match it exactly.
fn health_path(app: &ExportApp<'_>) -> Option<String> {
    let (path, _) = app.http_check()?;
    let path = path.split('?').next()?.to_owned();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/-_.~".contains(c);
    (path.len() > 1 && path.chars().all(is_plain)).then_some(path)
}
