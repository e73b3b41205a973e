//! Job files of Nomad: one job for each app.

use std::time::Duration;

use crate::export::app::{ExportApp, ProbeTarget, Workload, duration};
use crate::export::hcl::{Block, quote};
use crate::export::target::{ExportOptions, ExportedFile, Target, header};
use crate::spec::Probe;

/// Bytes of a megabyte of Nomad.
const MEGABYTE: u64 = 1 << 20;
/// The disk of an allocation by default, in megabytes.
const DEFAULT_DISK: u64 = 300;

/// One job file for each app.
pub(super) fn files(apps: &[ExportApp<'_>], options: &ExportOptions) -> Vec<ExportedFile> {
    apps.iter().map(|app| file(app, apps, options)).collect()
}

fn file(app: &ExportApp<'_>, apps: &[ExportApp<'_>], options: &ExportOptions) -> ExportedFile {
    let name = format!("{}.nomad.hcl", app.slug);
    let usage = [
        format!("Run: nomad job run {name}"),
        "Commands and paths are relative to the working directory of the image.".to_owned(),
    ];
    let usage: Vec<&str> = usage.iter().map(String::as_str).collect();
    let text = header(Target::Nomad, &usage)
        + &Block::new().labeled("job", &app.slug, job(app, apps, options)).to_text();
    ExportedFile { name, text, is_secret: options.with_secrets && !app.secrets.is_empty() }
}

fn job(app: &ExportApp<'_>, apps: &[ExportApp<'_>], options: &ExportOptions) -> Block {
    let kind = match app.workload() {
        Workload::Service => "service",
        Workload::Job | Workload::ScheduledJob => "batch",
    };
    let schedule = app.spec.cron_restart.as_ref().filter(|_| app.workload() == Workload::ScheduledJob);
    Block::new()
        .comments(&app.remarks)
        .text("type", kind)
        .with(app.namespace(), |job, namespace| job.block("meta", Block::new().text("namespace", namespace)))
        .with(schedule, |job, pattern| {
            let periodic = Block::new()
                .list("crons", &[cron(pattern)])
                .with(app.spec.timezone.as_ref(), |block, zone| block.text("time_zone", zone))
                .raw("prohibit_overlap", true);
            job.block("periodic", periodic)
        })
        .block("update", update(app))
        .labeled("group", &app.slug, group(app, apps, options))
}

/// A cron pattern as Nomad reads it: seconds require a seventh field, the year.
fn cron(pattern: &str) -> String {
    if pattern.split_whitespace().count() == 6 { format!("{pattern} *") } else { pattern.to_owned() }
}

/// Updates start the new allocation before they stop the old one.
fn update(app: &ExportApp<'_>) -> Block {
    if app.workload() != Workload::Service {
        return Block::new();
    }
    let spec = app.spec;
    Block::new()
        .raw("max_parallel", 1)
        .raw("canary", 1)
        .raw("auto_promote", true)
        .raw("auto_revert", true)
        .with(app.has_key("min_uptime").then_some(spec.restart.min_uptime), |block, time| {
            block.text("min_healthy_time", duration(time))
        })
        .with(app.has_key("listen_timeout").then_some(spec.readiness.timeout), |block, time| {
            // The deadline must exceed the time that an allocation has to be healthy.
            let minimum = spec.restart.min_uptime.max(Duration::from_secs(10)) + Duration::from_secs(1);
            block.text("healthy_deadline", duration(time.max(minimum)))
        })
}

fn group(app: &ExportApp<'_>, apps: &[ExportApp<'_>], options: &ExportOptions) -> Block {
    let count = if app.spec.autostart { app.replicas() } else { 0 };
    let group = Block::new().with((count != 1).then_some(count), |group, count| group.raw("count", count));
    let group = match &app.spec.autoscale {
        Some(scale) => group.block("scaling", Block::new().raw("min", scale.min).raw("max", scale.max)),
        None => group,
    };
    let group = match app.port() {
        Some(port) => {
            let network = Block::new().labeled("port", "http", Block::new().raw("to", port));
            group.block("network", network).block("service", service(app))
        }
        None => group,
    };
    group
        .block("ephemeral_disk", disk(app))
        .block("restart", restart(app))
        .with(wait_for_dependencies(app, apps), |group, task| group.labeled("task", "wait", task))
        .labeled("task", &app.slug, task(app, options))
}

fn service(app: &ExportApp<'_>) -> Block {
    let check = |probe: &Probe| {
        let target = app.probe_target(probe)?;
        let check = match &target {
            ProbeTarget::Http { path, .. } => Block::new().text("type", "http").text("path", path),
            ProbeTarget::Tcp { .. } => Block::new().text("type", "tcp"),
            ProbeTarget::Exec(line) => Block::new()
                .text("type", "script")
                .text("task", &app.slug)
                .text("command", "/bin/sh")
                .list("args", &["-c", line]),
        };
        Some(
            check
                .text("interval", duration(probe.interval.max(Duration::from_secs(1))))
                .text("timeout", duration(probe.timeout)),
        )
    };
    let health = app.spec.health.as_ref().and_then(|probe| {
        let grace = probe.start_period;
        let restart = Block::new()
            .raw("limit", probe.retries.max(1))
            .with((!grace.is_zero()).then_some(grace), |block, grace| block.text("grace", duration(grace)));
        Some(check(probe)?.block("check_restart", restart))
    });
    let ready = app.spec.readiness.probe.as_ref().and_then(|probe| Some(check(probe)?.text("name", "ready")));
    Block::new()
        .text("name", &app.slug)
        .text("port", "http")
        .text("provider", "nomad")
        .with(ready, |service, check| service.block("check", check))
        .with(health, |service, check| service.block("check", check.text("name", "health")))
}

fn restart(app: &ExportApp<'_>) -> Block {
    let restart = &app.spec.restart;
    if app.workload() != Workload::Service {
        return Block::new().raw("attempts", 0).text("mode", "fail");
    }
    Block::new()
        .raw("attempts", restart.max_restarts)
        .text("interval", duration(restart.window))
        .text("delay", duration(app.first_restart_delay()))
        .text("mode", "fail")
}

/// A task that waits for the services of the dependencies before the app starts.
fn wait_for_dependencies(app: &ExportApp<'_>, apps: &[ExportApp<'_>]) -> Option<Block> {
    let dependencies = app.dependencies(apps);
    let services = dependencies.iter().filter_map(|(other, _)| other.port().map(|_| other.slug.as_str()));
    let lines: Vec<String> = services
        .map(|slug| format!("{{{{ range nomadService \"{slug}\" }}}}until nc -z {{{{ .Address }}}} {{{{ .Port }}}}; do sleep 1; done\n{{{{ end }}}}"))
        .collect();
    if lines.is_empty() {
        return None;
    }
    let template = Block::new().raw("data", heredoc(&lines.join("\n"))).text("destination", "local/wait.sh");
    Some(
        Block::new()
            .text("driver", "docker")
            .block("lifecycle", Block::new().text("hook", "prestart"))
            .block(
                "config",
                Block::new().text("image", "busybox").text("command", "sh").list("args", &["/local/wait.sh"]),
            )
            .block("template", template),
    )
}

fn heredoc(text: &str) -> String {
    format!("<<EOT\n{}\nEOT", text.trim_end())
}

fn task(app: &ExportApp<'_>, options: &ExportOptions) -> Block {
    let spec = app.spec;
    let account = spec.account.as_ref().map(|account| format!("{}:{}", account.uid, account.gid));
    Block::new()
        .text("driver", "docker")
        .with(account, |task, account| task.text("user", account))
        .with(app.stop_signal(), |task, signal| task.text("kill_signal", signal))
        .with(app.grace_period(), |task, time| task.text("kill_timeout", duration(time)))
        .block("config", config(app))
        .block("env", variables(app))
        .block("template", secrets(app, options))
        .block("resources", resources(app))
        .block("logs", logs(app))
}

fn config(app: &ExportApp<'_>) -> Block {
    let words = app.image_command();
    let (command, args) =
        words.split_first().map_or(("", &[][..]), |(command, args)| (command.as_str(), args));
    let config = match &app.image {
        Some(image) => Block::new().text("image", image),
        None => Block::new()
            .comments(["No image is set (`image`, --image): replace this name."])
            .text("image", format!("{}:latest", app.slug)),
    };
    config
        .text("command", command)
        .list("args", args)
        .list("ports", &app.port().map(|_| "http").into_iter().collect::<Vec<_>>())
        .with(app.spec.limits.pids, |config, pids| config.raw("pids_limit", pids))
        .with(app.spec.limits.nofile, |config, count| {
            config.block("ulimit", Block::new().text("nofile", count.to_string()))
        })
}

fn variables(app: &ExportApp<'_>) -> Block {
    let number = app.has_key("instance_var").then_some(&app.spec.instance_var);
    let env = app.env.iter().fold(Block::new(), |env, (name, value)| env.text(&key(name), value));
    env.with(number, |env, name| env.raw(&key(name), "\"${NOMAD_ALLOC_INDEX}\""))
}

/// A key of a map, quoted unless it is an identifier.
fn key(name: &str) -> String {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !name.starts_with(|c: char| c.is_ascii_digit());
    if is_plain { name.to_owned() } else { quote(name) }
}

/// The secrets, from the variables of Nomad, or in clear.
fn secrets(app: &ExportApp<'_>, options: &ExportOptions) -> Block {
    if app.secrets.is_empty() {
        return Block::new();
    }
    let (path, lines): (String, Vec<String>) = match options.with_secrets {
        true => (
            String::new(),
            app.secrets
                .iter()
                .map(|(name, value)| format!("{name}={}", serde_json::Value::from(value.as_str())))
                .collect(),
        ),
        false => (
            format!(
                "Store them first: nomad var put nomad/jobs/{} {}",
                app.slug,
                app.secrets.keys().map(|name| format!("{name}=…")).collect::<Vec<_>>().join(" ")
            ),
            std::iter::once(format!("{{{{ with nomadVar \"nomad/jobs/{}\" }}}}", app.slug))
                .chain(app.secrets.keys().map(|name| format!("{name}={{{{ .{name} }}}}")))
                .chain(["{{ end }}".to_owned()])
                .collect(),
        ),
    };
    let text = lines.join("\n").replace("${", "$${").replace("%{", "%%{");
    Block::new()
        .comments((!path.is_empty()).then_some(path))
        .raw("data", heredoc(&text))
        .text("destination", "secrets/app.env")
        .raw("env", true)
}

fn resources(app: &ExportApp<'_>) -> Block {
    Block::new()
        .with(app.spec.limits.cpu, |block, percent| block.raw("cores", percent.div_ceil(100).max(1)))
        .with(app.memory_limit(), |block, bytes| block.raw("memory", bytes.div_ceil(MEGABYTE).max(10)))
}

/// The disk of an allocation must be larger than its log files.
fn disk(app: &ExportApp<'_>) -> Block {
    let rotation = &app.spec.logs.rotation;
    let (count, size) = (
        rotation.retain.map_or(10, |count| u64::from(count) + 1),
        rotation.max_size.unwrap_or(10 * MEGABYTE),
    );
    let needed = count.saturating_mul(size.div_ceil(MEGABYTE));
    match app.has_key("logs") && needed >= DEFAULT_DISK {
        true => Block::new().raw("size", needed.saturating_add(DEFAULT_DISK)),
        false => Block::new(),
    }
}

fn logs(app: &ExportApp<'_>) -> Block {
    let logs = &app.spec.logs;
    if app.discards_output() {
        return Block::new().raw("disabled", true);
    }
    if !app.has_key("logs") {
        return Block::new();
    }
    Block::new()
        .with(logs.rotation.retain, |block, count| block.raw("max_files", count + 1))
        .with(logs.rotation.max_size, |block, bytes| {
            block.raw("max_file_size", bytes.div_ceil(MEGABYTE).max(1))
        })
}
