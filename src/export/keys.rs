//! The table of all keys: what becomes of each in every target.

use std::fmt::Write;

use serde_json::Value;

use crate::config::{KEYS, LocatedApp};
use crate::export::target::{Loss, Target};
use crate::spec::{AppSpec, Balance, Overlap};

/// What becomes of a key in a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Equivalent {
    /// It becomes this setting.
    Same(&'static str),
    /// It becomes this setting, with this difference, which a comment in the output tells.
    Near(&'static str, &'static str),
    /// Not needed, for this reason.
    NotNeeded(&'static str),
    /// There is nothing like it; what to do instead.
    Lost(&'static str),
}

use Equivalent::{Lost, Near, NotNeeded, Same};

/// What becomes of a key.
#[derive(Clone, Copy, Debug)]
pub struct KeyExport {
    /// The canonical name.
    pub key: &'static str,
    /// In units of systemd.
    pub systemd: Equivalent,
    /// In a Compose file.
    pub compose: Equivalent,
    /// In manifests of Kubernetes.
    pub kubernetes: Equivalent,
    /// In a job of Nomad.
    pub nomad: Equivalent,
}

impl KeyExport {
    /// What becomes of the key of an app in a target. A proxy needs only ports and balancing.
    pub fn equivalent(&self, app: &AppSpec, target: Target) -> Equivalent {
        match (self.key, target) {
            ("cron_restart", Target::Kubernetes | Target::Nomad) if !app.restart.autorestart => {
                Same("CronJob, periodic")
            }
            ("cron_restart", Target::Kubernetes) => Lost("run `kubectl rollout restart` on a schedule"),
            ("cron_restart", Target::Nomad) => Lost("run `nomad job restart` on a schedule"),
            ("balance", Target::Kubernetes) if app.balance == Balance::IpHash => Same("sessionAffinity"),
            ("balance", Target::Kubernetes) => Lost("a Service distributes connections randomly"),
            ("balance", Target::Caddy) if app.balance == Balance::IpHash && app.increment_var.is_none() => {
                Lost("Caddy connects from one address: use increment_var = \"PORT\" with hold_port, or nginx")
            }
            ("overlap", Target::Systemd | Target::Nomad) if app.overlap == Overlap::Skip => {
                Same("the default")
            }
            ("overlap", Target::Kubernetes) if app.overlap != Overlap::Queue => Same("concurrencyPolicy"),
            ("exec_mode", Target::Systemd) if app.instances == 1 => NotNeeded("one instance shares no port"),
            ("ports", Target::Systemd) if !app.ports.privileged => {
                Lost("open one UDP port for each instance")
            }
            _ => self.in_general(target),
        }
    }

    /// What becomes of the key in a target, whatever its value is.
    fn in_general(&self, target: Target) -> Equivalent {
        match target {
            Target::Systemd => self.systemd,
            Target::Compose => self.compose,
            Target::Kubernetes => self.kubernetes,
            Target::Nomad => self.nomad,
            Target::Nginx | Target::Caddy => NotNeeded("the proxy does not run the app"),
        }
    }
}

const FROM_FILE: Equivalent = NotNeeded("applied when the file is read");
const IMAGE_DIRECTORY: Equivalent =
    Near("the working directory of the image", "paths are relative to the working directory of the image");
const WITH_WATCH: Equivalent = NotNeeded("belongs to `watch`");
const STDOUT: Equivalent = NotNeeded("the engine collects the output of containers");
const NO_DATES: Equivalent = NotNeeded("the engine stores the time of each line");
const BY_PROBE: Equivalent = Lost("add a `ready` probe");
const NODE_MESSAGES: Equivalent = Lost("handle the stop signal in the app");
const NO_WATCH: Equivalent = Lost("restart the app as a step of the deployment");
const PORT_IN_CONTAINER: Equivalent =
    NotNeeded("each container has its own network, with the whole port range");

/// All keys, in the order of `docs/reference.md`.
pub const EXPORTED_KEYS: &[KeyExport] = &[
    row("script", Same("ExecStart="), Same("command"), Same("command"), Same("command, args")),
    row("name", Same("unit name"), Same("service name"), Same("metadata.name"), Same("job and task name")),
    row("image", NotNeeded("units run programs of the machine"), Same("image"), Same("image"), Same("image")),
    row(
        "namespace",
        Same("PartOf= a target of that name"),
        Same("labels.namespace"),
        Same("label app.kubernetes.io/part-of"),
        Near("meta", "the namespace is metadata: `nomad job` selects jobs by name"),
    ),
    row("args", Same("ExecStart="), Same("command"), Same("args"), Same("args")),
    row("cwd", Same("WorkingDirectory="), IMAGE_DIRECTORY, IMAGE_DIRECTORY, IMAGE_DIRECTORY),
    row("interpreter", Same("ExecStart="), Same("command"), Same("command"), Same("command")),
    row("interpreter_args", Same("ExecStart="), Same("command"), Same("command"), Same("args")),
    row("source_map_support", Same("ExecStart="), Same("command"), Same("command"), Same("args")),
    row("disable_source_map_support", FROM_FILE, FROM_FILE, FROM_FILE, FROM_FILE),
    row(
        "autostart",
        Same("[Install] is left out"),
        Same("profiles: [manual]"),
        Same("replicas: 0"),
        Same("count = 0"),
    ),
    row(
        "depends_on",
        Same("Requires=, After="),
        Same("depends_on"),
        Near(
            "init containers",
            "init containers wait for the ports of services and run one-time jobs; the order of stopping is not kept",
        ),
        Near(
            "a prestart task",
            "a prestart task waits for the ports of services; the order of stopping is not kept",
        ),
    ),
    row("append_env_to_name", FROM_FILE, FROM_FILE, FROM_FILE, FROM_FILE),
    row(
        "pid_file",
        Same("ExecStartPost= writes it"),
        NotNeeded("the app is the main process of its container"),
        NotNeeded("the app is the main process of its container"),
        NotNeeded("the app is the main process of its task"),
    ),
    row(
        "exec_mode",
        Near(
            "one port for each instance",
            "instances do not share a port: each listens on the next one, and a proxy distributes connections (`rsm export nginx`)",
        ),
        Same("expose, behind the DNS name of the service"),
        Same("Service"),
        Same("a dynamic port for each allocation, and a service"),
    ),
    row("instances", Same("template unit"), Same("deploy.replicas"), Same("replicas"), Same("count")),
    row(
        "hold_port",
        Lost("use `listen` and socket activation"),
        Lost("run two instances behind a proxy"),
        NotNeeded("a rolling update starts the new pod first"),
        NotNeeded("an update starts the new allocation first (canary)"),
    ),
    row(
        "balance",
        Lost("balance in the proxy (`rsm export nginx`)"),
        Lost("balance in the proxy (`rsm export nginx`)"),
        Near("sessionAffinity", "only `ip_hash` has an equivalent, sessionAffinity: ClientIP"),
        Lost("balance in the proxy (`rsm export nginx`)"),
    ),
    row(
        "listen",
        Same("a socket unit"),
        Near("ports", "the app must open the port itself: there is no socket activation"),
        Near("containerPort", "the app must open the port itself: there is no socket activation"),
        Near("port", "the app must open the port itself: there is no socket activation"),
    ),
    row(
        "ports",
        Near("AmbientCapabilities=CAP_NET_BIND_SERVICE", "only `privileged` has an equivalent"),
        PORT_IN_CONTAINER,
        PORT_IN_CONTAINER,
        PORT_IN_CONTAINER,
    ),
    row(
        "autoscale",
        Lost("set `instances`"),
        Lost("set `instances`, or run `docker compose up --scale`"),
        Near("HorizontalPodAutoscaler", "queue lengths are not measured: the CPU decides"),
        Near("scaling", "the Nomad Autoscaler must be installed; queue lengths are not measured"),
    ),
    row("execute_command", FROM_FILE, FROM_FILE, FROM_FILE, FROM_FILE),
    row("port", Same("Environment=PORT"), Same("environment.PORT"), Same("env PORT"), Same("env.PORT")),
    row(
        "increment_var",
        Same("computed from %i in ExecStart="),
        Near("one value", "replicas have their own network: all use the first value"),
        Near("one value", "pods have their own network: all use the first value"),
        Near("one value", "allocations have their own ports: all use the first value"),
    ),
    row(
        "instance_var",
        Same("Environment=NAME=%i"),
        Lost("replicas of Compose have no number"),
        Same("StatefulSet, label apps.kubernetes.io/pod-index"),
        Same("env from NOMAD_ALLOC_INDEX"),
    ),
    row(
        "env",
        Same("Environment=, EnvironmentFile="),
        Same("environment, env_file"),
        Same("env, Secret"),
        Same("env, template"),
    ),
    row(
        "filter_env",
        NotNeeded("services inherit no variables of a login"),
        NotNeeded("containers inherit no variables of the machine"),
        NotNeeded("containers inherit no variables of the machine"),
        NotNeeded("containers inherit no variables of the machine"),
    ),
    row("uid", Same("User="), Same("user"), Same("securityContext.runAsUser"), Same("user")),
    row("gid", Same("Group="), Same("user"), Same("securityContext.runAsGroup"), Same("user")),
    row("out_file", Same("StandardOutput=append:"), STDOUT, STDOUT, STDOUT),
    row("error_file", Same("StandardError=append:"), STDOUT, STDOUT, STDOUT),
    row("log_file", NotNeeded("the journal has both streams"), STDOUT, STDOUT, STDOUT),
    row(
        "log_type",
        NotNeeded("`journalctl -o json` prints JSON"),
        Same("logging.driver: json-file"),
        STDOUT,
        STDOUT,
    ),
    row("log_date_format", NO_DATES, NO_DATES, NO_DATES, NO_DATES),
    row("time", NO_DATES, NO_DATES, NO_DATES, NO_DATES),
    row(
        "disable_logs",
        Same("StandardOutput=null"),
        Same("logging.driver: none"),
        Lost("the node collects the output of all pods: write less"),
        Same("logs.disabled"),
    ),
    row("merge_logs", NotNeeded("all instances write to the journal"), STDOUT, STDOUT, STDOUT),
    row(
        "logs",
        Near(
            "journald",
            "the journal limits its own size (journald.conf); files of StandardOutput=append: need logrotate",
        ),
        Near("logging.options", "size and number of files are kept, schedules and compression are not"),
        NotNeeded("the kubelet rotates (containerLogMaxSize)"),
        Near("logs", "size and number of files are kept, schedules and compression are not"),
    ),
    row(
        "autorestart",
        Same("Restart="),
        Same("restart"),
        Same("restartPolicy, Job"),
        Same("type = \"batch\""),
    ),
    row(
        "stop_exit_codes",
        Same("RestartPreventExitStatus="),
        Lost("exit with 0 only if the app must not restart, and use `restart: on-failure`"),
        Lost("Deployments restart their pods after every exit: run the app as a Job"),
        Lost("exit with 0 only if the app must not restart"),
    ),
    row(
        "max_restarts",
        Near("StartLimitBurst=", "every restart in the window counts, not only those after an early exit"),
        Near(
            "deploy.restart_policy.max_attempts",
            "every restart in the window counts, not only those after an early exit",
        ),
        NotNeeded("the kubelet restarts for ever, with a backoff of up to 5 minutes"),
        Near("restart.attempts", "every restart in the window counts, not only those after an early exit"),
    ),
    row(
        "min_uptime",
        NotNeeded("a restart counts whatever the uptime was"),
        NotNeeded("a restart counts whatever the uptime was"),
        Near("minReadySeconds", "a pod that is ready for this long counts as available"),
        Near("update.min_healthy_time", "an allocation that is healthy for this long counts as healthy"),
    ),
    row(
        "restart_window",
        Same("StartLimitIntervalSec="),
        Same("deploy.restart_policy.window"),
        NotNeeded("the kubelet restarts for ever"),
        Same("restart.interval"),
    ),
    row(
        "restart_delay",
        Same("RestartSec="),
        Same("deploy.restart_policy.delay"),
        NotNeeded("the kubelet waits 10 s and doubles the delay up to 5 minutes"),
        Same("restart.delay"),
    ),
    row(
        "exp_backoff_restart_delay",
        Same("RestartSec=, RestartSteps=, RestartMaxDelaySec="),
        Near("deploy.restart_policy.delay", "the delay does not grow"),
        NotNeeded("the kubelet waits 10 s and doubles the delay up to 5 minutes"),
        Near("restart.delay", "the delay does not grow"),
    ),
    row(
        "max_memory_restart",
        Near("MemoryMax=", "the kernel kills the app at the limit, without the grace period"),
        Near(
            "deploy.resources.limits.memory",
            "the kernel kills the app at the limit, without the grace period",
        ),
        Near("resources.limits.memory", "the kernel kills the app at the limit, without the grace period"),
        Near("resources.memory", "the kernel kills the app at the limit, without the grace period"),
    ),
    row(
        "cron_restart",
        Same("a timer unit"),
        Lost("run `docker compose run` or `docker compose restart` from cron"),
        Near("CronJob", "jobs, that is apps with `autorestart = false`, only; else no equivalent"),
        Near("periodic", "jobs, that is apps with `autorestart = false`, only; else no equivalent"),
    ),
    row(
        "timezone",
        Same("OnCalendar="),
        NotNeeded("belongs to `cron_restart`"),
        Same("timeZone"),
        Same("periodic.time_zone"),
    ),
    row(
        "overlap",
        Near("a timer", "a timer does not start a job that still runs, whatever `overlap` is"),
        NotNeeded("belongs to `cron_restart`"),
        Near("concurrencyPolicy", "`queue` becomes Forbid: the run is skipped"),
        Near("periodic.prohibit_overlap", "the run is skipped, whatever `overlap` is"),
    ),
    row(
        "kill_signal",
        Same("KillSignal="),
        Same("stop_signal"),
        Same("lifecycle.stopSignal"),
        Same("kill_signal"),
    ),
    row(
        "kill_timeout",
        Same("TimeoutStopSec="),
        Same("stop_grace_period"),
        Same("terminationGracePeriodSeconds"),
        Same("kill_timeout"),
    ),
    row(
        "kill_mode",
        Near("KillMode=", "all processes get the signal at once, unless it is `main`"),
        NotNeeded("the engine signals the main process and removes the rest with the container"),
        NotNeeded("the kubelet signals the main process and removes the rest with the container"),
        NotNeeded("the engine signals the main process and removes the rest with the container"),
    ),
    row(
        "treekill",
        Same("KillMode="),
        NotNeeded("the engine signals the main process and removes the rest with the container"),
        NotNeeded("the kubelet signals the main process and removes the rest with the container"),
        NotNeeded("the engine signals the main process and removes the rest with the container"),
    ),
    row("shutdown_with_message", NODE_MESSAGES, NODE_MESSAGES, NODE_MESSAGES, NODE_MESSAGES),
    row(
        "wait_ready",
        Near("Type=notify", "the app must send READY=1 (sd_notify); process.send('ready') is not seen"),
        BY_PROBE,
        BY_PROBE,
        BY_PROBE,
    ),
    row(
        "listen_timeout",
        Same("TimeoutStartSec="),
        Same("healthcheck.start_period"),
        Same("startupProbe.failureThreshold"),
        Same("update.healthy_deadline"),
    ),
    row(
        "ready",
        Same("ExecStartPost= waits for it"),
        Near("healthcheck", "a service has one check, for readiness and health"),
        Same("readinessProbe"),
        Same("service check"),
    ),
    row(
        "health",
        Same("a timer unit that checks and restarts"),
        Near("healthcheck", "an unhealthy container is shown, not restarted (unless an orchestrator does)"),
        Same("livenessProbe"),
        Same("service check with check_restart"),
    ),
    row(
        "watchdog",
        Same("WatchdogSec="),
        Lost("add a `health` probe"),
        Lost("add a `health` probe"),
        Lost("add a `health` probe"),
    ),
    row(
        "memory_max",
        Same("MemoryMax="),
        Same("deploy.resources.limits.memory"),
        Same("resources.limits.memory"),
        Same("resources.memory"),
    ),
    row(
        "cpu_max",
        Same("CPUQuota="),
        Same("deploy.resources.limits.cpus"),
        Same("resources.limits.cpu"),
        Near("resources.cores", "whole cores are reserved"),
    ),
    row(
        "pids_max",
        Same("TasksMax="),
        Same("deploy.resources.limits.pids"),
        Lost("set podPidsLimit of the kubelet"),
        Same("config.pids_limit"),
    ),
    row(
        "limits",
        Same("LimitNOFILE="),
        Same("ulimits.nofile"),
        Lost("set the limit in the container runtime of the nodes"),
        Same("config.ulimit"),
    ),
    row(
        "watch",
        NO_WATCH,
        Near("develop.watch", "`docker compose watch` copies changed files and restarts the service"),
        NO_WATCH,
        NO_WATCH,
    ),
    row("ignore_watch", WITH_WATCH, Same("develop.watch.ignore"), WITH_WATCH, WITH_WATCH),
    row("watch_delay", WITH_WATCH, WITH_WATCH, WITH_WATCH, WITH_WATCH),
];

const fn row(
    key: &'static str,
    systemd: Equivalent,
    compose: Equivalent,
    kubernetes: Equivalent,
    nomad: Equivalent,
) -> KeyExport {
    KeyExport { key, systemd, compose, kubernetes, nomad }
}

/// The keys of an app that change it, with what becomes of each in the target.
fn effective_keys(app: &LocatedApp) -> Vec<&'static KeyExport> {
    let to_value = |spec: &AppSpec| serde_json::to_value(spec).unwrap_or_default();
    let (spec, default) = (to_value(&app.spec), to_value(&AppSpec::new(&app.spec.name, "", "/")));
    let is_set = |key: &str| app.keys.iter().any(|(given, _)| *given == key);
    EXPORTED_KEYS.iter().filter(|row| is_set(row.key) && changes_app(row.key, &spec, &default)).collect()
}

/// Whether a key differs from its default: `watch = false` loses nothing.
fn changes_app(key: &str, spec: &Value, default: &Value) -> bool {
    let pointers = KEYS.iter().find(|row| row.name == key).map_or(&[][..], |row| row.spec);
    pointers.is_empty() || pointers.iter().any(|pointer| spec.pointer(pointer) != default.pointer(pointer))
}

/// The comments of an app: its keys without equivalent, and the differences of the others.
pub(super) fn remarks(app: &LocatedApp, target: Target) -> Vec<String> {
    let remark = |row: &&KeyExport| match row.equivalent(&app.spec, target) {
        Near(_, difference) => Some(format!("{}: {difference}.", row.key)),
        Lost(advice) => Some(format!("{}: no equivalent; {advice}.", row.key)),
        Same(_) | NotNeeded(_) => None,
    };
    effective_keys(app).iter().filter_map(remark).collect()
}

/// The settings of all apps that are lost in the target.
pub(super) fn losses(apps: &[LocatedApp], target: Target) -> Vec<Loss> {
    let of_app = |app: &LocatedApp| {
        let loss = |row: &&KeyExport| match row.equivalent(&app.spec, target) {
            Lost(advice) => {
                let (_, location) = app.keys.iter().find(|(key, _)| *key == row.key)?;
                let message = format!("`{}` has no equivalent in {}", row.key, target.title());
                Some(Loss { location: location.clone(), message, advice: advice.to_owned() })
            }
            Same(_) | Near(..) | NotNeeded(_) => None,
        };
        effective_keys(app).iter().filter_map(loss).collect::<Vec<_>>()
    };
    apps.iter().flat_map(of_app).collect()
}

/// The table as Markdown, for `docs/export.md`.
pub fn keys_as_markdown() -> String {
    let cell = |equivalent: Equivalent| match equivalent {
        Same(setting) => setting.to_owned(),
        Near(setting, difference) => format!("{setting} ({difference})"),
        NotNeeded(reason) => format!("not needed: {reason}"),
        Lost(advice) => format!("**no equivalent**: {advice}"),
    };
    let mut text =
        String::from("| Key | systemd | Compose | Kubernetes | Nomad |\n| --- | --- | --- | --- | --- |\n");
    for row in EXPORTED_KEYS {
        let cells = [row.systemd, row.compose, row.kubernetes, row.nomad].map(cell);
        let _ = writeln!(text, "| `{}` | {} |", row.key, cells.join(" | "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_in_the_table_once() {
        let exported: Vec<&str> = EXPORTED_KEYS.iter().map(|row| row.key).collect();
        for key in KEYS {
            assert_eq!(exported.iter().filter(|name| **name == key.name).count(), 1, "{}", key.name);
        }
        assert_eq!(exported.len(), KEYS.len());
    }
}
