//! A file for Docker Compose and Podman Compose, as the Compose Specification defines it.

use crate::export::app::{ExportApp, Workload, duration, size};
use crate::export::target::{ExportOptions, ExportedFile, Target, header};
use crate::export::yaml::{Yaml, YamlMap};
use crate::spec::{Condition, LogFormat, Probe};

/// The Compose file, and a file for the secrets of each app that has some.
pub(super) fn files(apps: &[ExportApp<'_>], options: &ExportOptions) -> Vec<ExportedFile> {
    let services =
        apps.iter().fold(YamlMap::new(), |services, app| services.set(&app.slug, service(app, apps)));
    let usage = [
        "Start: docker compose up -d. Replace containers after a change: docker compose up -d --build.",
        "Commands and paths are relative to the working directory of each image.",
    ];
    let text = header(Target::Compose, &usage) + &YamlMap::new().set("services", services).to_text();
    let mut files = vec![ExportedFile { name: "compose.yaml".into(), text, is_secret: false }];
    files.extend(apps.iter().filter_map(|app| secrets(app, options)));
    files
}

fn service(app: &ExportApp<'_>, apps: &[ExportApp<'_>]) -> YamlMap {
    let spec = app.spec;
    let scale = app.replicas();
    let service = YamlMap::new().comments(&app.remarks);
    let service = match &app.image {
        Some(image) => service.set("image", interpolated(image)),
        None => service.comments(["No image is set (`image`, --image): build one here."]).set("build", "."),
    };
    service
        .set("command", texts(&app.image_command()))
        .set(
            "environment",
            app.env.iter().fold(YamlMap::new(), |env, (name, value)| env.set(name, interpolated(value))),
        )
        .set("env_file", Yaml::texts((!app.secrets.is_empty()).then(|| secrets_name(app))))
        .set_some("user", spec.account.as_ref().map(|account| format!("{}:{}", account.uid, account.gid)))
        .set("depends_on", dependencies(app, apps))
        .set("ports", Yaml::texts(published_port(app)))
        .set("expose", Yaml::texts((scale > 1).then(|| app.port().map(|port| port.to_string())).flatten()))
        .set_some("healthcheck", healthcheck(app))
        .set_some(
            "restart",
            (app.workload() == Workload::Service && !uses_restart_policy(app)).then_some("unless-stopped"),
        )
        .set("ulimits", YamlMap::new().set_some("nofile", spec.limits.nofile))
        .set("deploy", deploy(app))
        .set_some("stop_signal", app.stop_signal())
        .set_some("stop_grace_period", app.grace_period().map(duration))
        .set("logging", logging(app))
        .set("develop", develop(app))
        .set("labels", labels(app))
        .set("profiles", Yaml::texts(profile(app)))
}

/// The value in which `$` does not start a variable of Compose.
fn interpolated(text: &str) -> String {
    text.replace('$', "$$")
}

fn texts(words: &[String]) -> Yaml {
    Yaml::texts(words.iter().map(|word| interpolated(word)))
}

/// Dependencies, with the condition that the check of the other service allows.
fn dependencies(app: &ExportApp<'_>, apps: &[ExportApp<'_>]) -> YamlMap {
    app.dependencies(apps).into_iter().fold(YamlMap::new(), |map, (other, condition)| {
        let condition = match (condition, other.workload()) {
            (Condition::Started, _) => "service_started",
            (Condition::Completed, _) | (_, Workload::Job) => "service_completed_successfully",
            _ if healthcheck(other).is_some() => "service_healthy",
            _ => "service_started",
        };
        map.set(&other.slug, YamlMap::new().set("condition", condition))
    })
}

/// The published port: on this machine only, as it was before. Several containers cannot publish the same port.
fn published_port(app: &ExportApp<'_>) -> Option<String> {
    let port = app.port().filter(|_| app.replicas() == 1)?;
    Some(format!("127.0.0.1:{port}:{port}"))
}

fn healthcheck(app: &ExportApp<'_>) -> Option<YamlMap> {
    let (readiness, health) = (app.spec.readiness.probe.as_ref(), app.spec.health.as_ref());
    let probe: &Probe = health.or(readiness)?;
    let command = app.probe_target(probe)?.shell_command();
    let start = if health.is_some() { probe.start_period } else { app.spec.readiness.timeout };
    Some(
        YamlMap::new()
            .set("test", Yaml::texts(["CMD-SHELL".to_owned(), interpolated(&command)]))
            .set("interval", duration(probe.interval))
            .set("timeout", duration(probe.timeout))
            .set("retries", probe.retries.max(1))
            .set_some("start_period", (!start.is_zero()).then(|| duration(start))),
    )
}

/// Whether restarts need more than `restart: unless-stopped`.
fn uses_restart_policy(app: &ExportApp<'_>) -> bool {
    ["max_restarts", "restart_window", "restart_delay", "exp_backoff_restart_delay"]
        .iter()
        .any(|key| app.has_key(key))
}

fn deploy(app: &ExportApp<'_>) -> YamlMap {
    let spec = app.spec;
    let limits = YamlMap::new()
        .set_some("cpus", spec.limits.cpu.map(|percent| format!("{}.{:02}", percent / 100, percent % 100)))
        .set_some("memory", app.memory_limit().map(memory))
        .set_some("pids", spec.limits.pids);
    let restart = match app.workload() == Workload::Service && uses_restart_policy(app) {
        true => YamlMap::new()
            .set("condition", "any")
            .set("delay", duration(app.first_restart_delay()))
            .set_some("max_attempts", app.has_key("max_restarts").then_some(spec.restart.max_restarts))
            .set_some("window", app.has_key("restart_window").then(|| duration(spec.restart.window))),
        false => YamlMap::new(),
    };
    let update = match app.replicas() > 1 {
        true => YamlMap::new()
            .set("parallelism", 1_u32)
            .set("order", "start-first")
            .set("failure_action", "rollback"),
        false => YamlMap::new(),
    };
    YamlMap::new()
        .set_some("replicas", (app.replicas() > 1).then(|| app.replicas()))
        .set("update_config", update)
        .set("restart_policy", restart)
        .set("resources", YamlMap::new().set("limits", limits))
}

/// A size in the units of Docker, which are powers of 1024.
fn memory(bytes: u64) -> String {
    let (number, unit) = size(bytes);
    format!("{number}{}", if unit.is_empty() { "b" } else { unit })
}

fn logging(app: &ExportApp<'_>) -> YamlMap {
    let logs = &app.spec.logs;
    if app.discards_output() {
        return YamlMap::new().set("driver", "none");
    }
    if !app.has_key("logs") && logs.format != LogFormat::Json {
        return YamlMap::new();
    }
    let rotation = &logs.rotation;
    let options = YamlMap::new()
        .set_some("max-size", rotation.max_size.map(|bytes| format!("{}k", bytes.div_ceil(1024))))
        .set_some("max-file", rotation.retain.map(|count| (count + 1).to_string()));
    YamlMap::new()
        .set("driver", "json-file")
        .set("options", if app.has_key("logs") { options } else { YamlMap::new() })
}

fn develop(app: &ExportApp<'_>) -> YamlMap {
    let Some(watch) = &app.spec.watch else { return YamlMap::new() };
    let relative = |path: &std::path::Path| match path.strip_prefix(&app.spec.cwd) {
        Ok(rest) if rest.as_os_str().is_empty() => ".".to_owned(),
        Ok(rest) => format!("./{}", rest.display()),
        Err(_) => path.display().to_string(),
    };
    let rules = watch.paths.iter().map(|path| {
        let path = relative(path);
        YamlMap::new()
            .set("action", "sync+restart")
            .set("path", path.as_str())
            .set("target", path.as_str())
            .set("ignore", Yaml::texts(&watch.ignore))
    });
    YamlMap::new().set("watch", rules.collect::<Vec<_>>())
}

/// The profile of an app that does not start by itself.
fn profile(app: &ExportApp<'_>) -> Option<&'static str> {
    match app.workload() {
        Workload::ScheduledJob => Some("jobs"),
        _ => (!app.spec.autostart).then_some("manual"),
    }
}

fn labels(app: &ExportApp<'_>) -> YamlMap {
    YamlMap::new().set_some("namespace", app.namespace().map(interpolated))
}

fn secrets_name(app: &ExportApp<'_>) -> String {
    format!("{}.secrets.env", app.slug)
}

fn secrets(app: &ExportApp<'_>, options: &ExportOptions) -> Option<ExportedFile> {
    if app.secrets.is_empty() {
        return None;
    }
    let mut text = format!("# Secrets of {}. Keep this file out of version control.\n", app.slug);
    for (name, value) in &app.secrets {
        let quoted = format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"));
        text.push_str(&format!("{name}={}\n", if options.with_secrets { &quoted } else { "" }));
    }
    Some(ExportedFile { name: secrets_name(app), text, is_secret: true })
}
