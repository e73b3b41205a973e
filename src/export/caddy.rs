//! A Caddyfile.

use std::fmt::Write;

use crate::export::app::{ExportApp, duration, proxy_sections};
use crate::export::target::{ExportedFile, Target, header};

/// One Caddyfile with a site for each app that has a port.
pub(super) fn files(apps: &[ExportApp<'_>]) -> Vec<ExportedFile> {
    let usage = [
        "Copy to /etc/caddy/Caddyfile, replace the host names, then: caddy validate && caddy reload",
        "Without http:// in front of a host name, Caddy obtains a certificate for it.",
    ];
    let mut text = header(Target::Caddy, &usage);
    text.push_str(&proxy_sections(apps, site));
    vec![ExportedFile { name: "Caddyfile".into(), text, is_secret: false }]
}

fn site(app: &ExportApp<'_>) -> String {
    let ports = app.ports();
    let mut text = format!("\nhttp://{}.example.com {{\n\tencode zstd gzip\n\n", app.slug);
    for remark in &app.remarks {
        let _ = writeln!(text, "\t# {remark}");
    }
    text + &proxy(app, &ports) + "}\n"
}

fn proxy(app: &ExportApp<'_>, ports: &[u16]) -> String {
    let upstreams: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let mut options = String::new();
    if app.is_sticky() && ports.len() > 1 {
        options.push_str("\t\t# The same client reaches the same instance.\n\t\tlb_policy ip_hash\n");
    }
    if let Some((path, interval)) = app.http_check().filter(|_| ports.len() > 1) {
        let _ = writeln!(options, "\t\thealth_uri {path}\n\t\thealth_interval {}", duration(interval));
    }
    match options.is_empty() {
        true => format!("\treverse_proxy {}\n", upstreams.join(" ")),
        false => format!("\treverse_proxy {} {{\n{options}\t}}\n", upstreams.join(" ")),
    }
}
