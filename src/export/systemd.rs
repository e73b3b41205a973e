//! Units of systemd: a service for each app, a template and a target for several instances, timers for schedules and
//! health checks, a socket for socket activation.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::export::app::{ExportApp, Workload, duration, size, whole_seconds};
use crate::export::calendar::on_calendar;
use crate::export::target::{ExportOptions, ExportedFile, Target, header};
use crate::export::unit::{Unit, assignment, command_word, escape_specifiers, file_assignment, unit_name};
use crate::program;
use crate::spec::{KillMode, LogPath, Probe, RestartDelay};

/// The longest delay of a restart backoff.
const MAX_BACKOFF: Duration = Duration::from_secs(15);
/// Steps from the first delay to [`MAX_BACKOFF`], with the factor of rsm.
const BACKOFF_STEPS: &str = "12";
/// Stands for the `%` of a specifier in a shell command, until the command is quoted. Unicode reserves it for such use.
const SPECIFIER: char = '\u{fdd0}';

/// The units of all apps.
pub(super) fn files(apps: &[ExportApp<'_>], options: &ExportOptions) -> Vec<ExportedFile> {
    let mut files = Vec::new();
    let namespaces: BTreeSet<&str> = apps.iter().filter_map(ExportApp::namespace).collect();
    for namespace in namespaces {
        let unit = Unit::new([format!("Starts and stops the apps of the namespace {namespace}.")])
            .section("Unit")
            .set("Description", format!("Apps of {}", escape_specifiers(namespace)))
            .section("Install")
            .set("WantedBy", "multi-user.target");
        files.push(file(format!("{}.target", unit_name(namespace)), unit));
    }
    for app in apps {
        files.extend(AppUnits::new(app, apps).files(options));
    }
    files
}

fn file(name: String, unit: Unit) -> ExportedFile {
    ExportedFile { name, text: unit.text(), is_secret: false }
}

/// The units of one app.
struct AppUnits<'a> {
    app: &'a ExportApp<'a>,
    /// The name of its units.
    name: String,
    /// Whether its service is a template.
    is_template: bool,
    /// The names of the apps it depends on, as units.
    dependencies: Vec<String>,
}

impl<'a> AppUnits<'a> {
    fn new(app: &'a ExportApp<'a>, apps: &[ExportApp<'_>]) -> Self {
        let dependencies = app.dependencies(apps).iter().map(|(other, _)| group_unit(other)).collect();
        Self { app, name: unit_name(&app.spec.name), is_template: is_template(app), dependencies }
    }

    fn files(&self, options: &ExportOptions) -> Vec<ExportedFile> {
        let at = if self.is_template { "@" } else { "" };
        let mut files = vec![file(format!("{}{at}.service", self.name), self.service())];
        if self.is_template {
            files.push(file(format!("{}.target", self.name), self.target()));
        }
        if !self.app.spec.listen.is_empty() {
            files.push(file(format!("{}{at}.socket", self.name), self.socket()));
        }
        files.extend(self.schedule());
        if let Some(health) = &self.app.spec.health {
            files.extend(self.health_check(health, at));
        }
        files.extend(self.secrets(options));
        files
    }

    fn service(&self) -> Unit {
        let (app, spec) = (self.app, self.app.spec);
        let usage = format!(
            "Copy to /etc/systemd/system, then: systemctl daemon-reload && systemctl enable --now {}",
            self.enabled_unit()
        );
        let unit =
            Unit::new([header(Target::Systemd, &[]).trim().trim_start_matches("# ").to_owned(), usage])
                .comments(&app.remarks)
                .section("Unit")
                .set("Description", escape_specifiers(&spec.name))
                .set("Wants", self.wanted_units())
                .set(
                    "After",
                    std::iter::once("network-online.target".to_owned())
                        .chain(self.dependencies.clone())
                        .collect::<Vec<_>>()
                        .join(" "),
                )
                .set_some("Requires", (!self.dependencies.is_empty()).then(|| self.dependencies.join(" ")))
                .set_some("PartOf", self.part_of());
        let unit = self.start_limit(unit).section("Service");
        let unit = unit
            .set_some("Type", self.service_type())
            .set_some("RemainAfterExit", (app.workload() == Workload::Job).then_some("yes"))
            .set_some("NotifyAccess", spec.readiness.wait_ready.then_some("all"))
            .set_some("User", spec.account.as_ref().map(|account| account.user.clone()).or_else(current_user))
            .set_some(
                "Group",
                app.has_key("gid")
                    .then(|| spec.account.as_ref().map(|account| account.gid.to_string()))
                    .flatten(),
            )
            .set("WorkingDirectory", escape_specifiers(&spec.cwd.to_string_lossy()))
            .set_all("Environment", self.environment())
            .set_some("Environment", self.is_template.then(|| format!("{}=%i", spec.instance_var)))
            .set_some(
                "EnvironmentFile",
                (!app.secrets.is_empty()).then(|| format!("/etc/{}/secrets.env", self.name)),
            )
            .set("ExecStart", self.exec_start())
            .set_some("ExecStartPost", self.pid_file())
            .set_some("ExecStartPost", self.wait_until_ready());
        self.install(self.outputs(self.limits(self.stop(self.restart(unit)))))
    }

    /// The variables, except the one that `ExecStart=` computes.
    fn environment(&self) -> Vec<String> {
        let computed = self.numbered_variable().filter(|_| self.is_template).map(|(name, _)| name);
        let fixed = self.app.env.iter().filter(|(name, _)| Some(name.as_str()) != computed);
        fixed.map(|(name, value)| assignment(name, value)).collect()
    }

    fn service_type(&self) -> Option<&'static str> {
        match self.app.workload() {
            Workload::Service if self.app.spec.readiness.wait_ready || self.app.spec.watchdog.is_some() => {
                Some("notify")
            }
            Workload::Service => Some("exec"),
            Workload::Job | Workload::ScheduledJob => Some("oneshot"),
        }
    }

    fn wanted_units(&self) -> String {
        let health = self.app.spec.health.as_ref().map(|_| match self.is_template {
            true => format!(" {}-health@%i.timer", self.name),
            false => format!(" {}-health.timer", self.name),
        });
        format!("network-online.target{}", health.unwrap_or_default())
    }

    fn part_of(&self) -> Option<String> {
        let own = self.is_template.then(|| format!("{}.target", self.name));
        let namespace = self.app.namespace().map(|namespace| format!("{}.target", unit_name(namespace)));
        own.or(namespace)
    }

    fn start_limit(&self, unit: Unit) -> Unit {
        let restart = &self.app.spec.restart;
        let given = ["max_restarts", "restart_window"].iter().any(|key| self.app.has_key(key));
        match restart.autorestart {
            // The default of systemd, 5 starts in 10 s, would give up on what rsm restarts.
            true if !given => unit.set("StartLimitIntervalSec", "0"),
            true => unit
                .set("StartLimitIntervalSec", duration(restart.window))
                .set("StartLimitBurst", restart.max_restarts.max(1).to_string()),
            false => unit,
        }
    }

    /// The command, with the first port plus the number of the instance where each has its own.
    fn exec_start(&self) -> String {
        let mut words = self.app.host_command();
        if let Some(first) = words.first_mut()
            && !first.starts_with('/')
        {
            let path = std::env::var_os("PATH").unwrap_or_default();
            if let Some(found) = program::search_path(first, &path, &self.app.spec.cwd) {
                *first = found.to_string_lossy().into_owned();
            }
        }
        let command = words.iter().map(|word| command_word(word)).collect::<Vec<_>>().join(" ");
        match self.numbered_variable() {
            Some((name, first)) if self.is_template => {
                format!("/bin/sh -c \"{name}=$$(({first} + %i)) exec \\\"$$@\\\"\" sh {command}")
            }
            _ => command,
        }
    }

    /// The variable that is different in each instance, and its first value.
    fn numbered_variable(&self) -> Option<(&str, u64)> {
        let spec = self.app.spec;
        match &spec.increment_var {
            Some(name) => Some((name, spec.env.get(name)?.parse().ok()?)),
            None if self.app.shares_port() => Some(("PORT", u64::from(self.app.port()?))),
            None => None,
        }
    }

    fn pid_file(&self) -> Option<String> {
        let path = self.app.spec.pid_file.as_ref()?;
        let path = crate::text::quote_shell(&path.to_string_lossy()).into_owned();
        Some(format!("/bin/sh -c {}", shell_word(&format!("echo $MAINPID > {path}"))))
    }

    fn wait_until_ready(&self) -> Option<String> {
        let probe = self.app.spec.readiness.probe.as_ref()?;
        let check = self.check_command(probe)?;
        Some(format!("/bin/sh -c {}", shell_word(&format!("until {check}; do sleep 0.5; done"))))
    }

    /// A probe as a shell command, with the port of the instance.
    fn check_command(&self, probe: &Probe) -> Option<String> {
        let target = self.app.probe_target(probe)?;
        let command = match (target.port(), self.numbered_variable()) {
            (Some(port), Some(_)) if self.is_template => {
                target.shell_command_on(&format!("$(({port} + {SPECIFIER}i))"))
            }
            _ => target.shell_command(),
        };
        Some(format!("{{ {command}; }}"))
    }

    fn restart(&self, unit: Unit) -> Unit {
        let spec = self.app.spec;
        if !spec.restart.autorestart {
            return unit;
        }
        let codes: Vec<String> = spec.restart.stop_exit_codes.iter().map(i32::to_string).collect();
        let unit = unit.set("Restart", "always");
        let unit = match spec.restart.delay {
            RestartDelay::Fixed(delay) => unit.set("RestartSec", duration(delay)),
            RestartDelay::Backoff { initial } => unit.set("RestartSec", duration(initial)),
            RestartDelay::Pm2Backoff { initial } => unit
                .set("RestartSec", duration(initial))
                .comments(["The next two settings need systemd 254."])
                .set("RestartSteps", BACKOFF_STEPS)
                .set("RestartMaxDelaySec", duration(MAX_BACKOFF)),
        };
        unit.set_some("RestartPreventExitStatus", (!codes.is_empty()).then(|| codes.join(" ")))
    }

    fn stop(&self, unit: Unit) -> Unit {
        let (app, stop) = (self.app, &self.app.spec.stop);
        unit.set_some("KillSignal", app.stop_signal())
            .set_some("TimeoutStopSec", app.grace_period().map(duration))
            .set_some("KillMode", (stop.mode == KillMode::Main).then_some("process"))
            .set_some(
                "TimeoutStartSec",
                app.has_key("listen_timeout").then(|| duration(app.spec.readiness.timeout)),
            )
            .set_some("WatchdogSec", app.spec.watchdog.map(|millis| duration(Duration::from_millis(millis))))
    }

    fn limits(&self, unit: Unit) -> Unit {
        let spec = self.app.spec;
        let bytes = |bytes: u64| {
            let (number, unit) = size(bytes);
            format!("{number}{unit}")
        };
        unit.set_some("MemoryMax", self.app.memory_limit().map(bytes))
            .set_some("CPUQuota", spec.limits.cpu.map(|percent| format!("{percent}%")))
            .set_some("LimitNOFILE", spec.limits.nofile.map(|count| count.to_string()))
            .set_some("TasksMax", spec.limits.pids.map(|count| count.to_string()))
            .set_some("AmbientCapabilities", spec.ports.privileged.then_some("CAP_NET_BIND_SERVICE"))
    }

    fn outputs(&self, unit: Unit) -> Unit {
        let output = |path: &LogPath| match path {
            LogPath::Default => None,
            LogPath::Discard => Some("null".to_owned()),
            LogPath::File(path) => Some(format!("append:{}", escape_specifiers(&path.to_string_lossy()))),
        };
        unit.set_some("StandardOutput", output(&self.app.spec.logs.out))
            .set_some("StandardError", output(&self.app.spec.logs.err))
    }

    fn install(&self, unit: Unit) -> Unit {
        let spec = self.app.spec;
        if !spec.autostart || self.is_template || self.app.workload() == Workload::ScheduledJob {
            return unit;
        }
        let target = self.app.namespace().map(|namespace| format!("{}.target", unit_name(namespace)));
        unit.section("Install").set("WantedBy", target.as_deref().unwrap_or("multi-user.target"))
    }

    /// The target of all instances.
    fn target(&self) -> Unit {
        let (app, name) = (self.app, &self.name);
        let instances: Vec<String> =
            (0..app.replicas()).map(|number| format!("{name}@{number}.service")).collect();
        let unit = Unit::new([format!(
            "All instances of {name}. Replace them one by one: systemctl restart {name}@0, {name}@1, …"
        )])
        .section("Unit")
        .set("Description", format!("Instances of {}", escape_specifiers(&app.spec.name)))
        .set("Wants", instances.join(" "))
        .set_some("PartOf", app.namespace().map(|namespace| format!("{}.target", unit_name(namespace))));
        if !app.spec.autostart {
            return unit;
        }
        let wanted_by = app.namespace().map_or("multi-user".into(), unit_name);
        unit.section("Install").set("WantedBy", format!("{wanted_by}.target"))
    }

    fn socket(&self) -> Unit {
        let stream = |address: &String| match address.parse::<u16>() {
            Ok(port) => format!("0.0.0.0:{port}"),
            Err(_) => address.clone(),
        };
        let unit = Unit::new([format!("The listening sockets of {}.", self.name)])
            .section("Unit")
            .set("Description", format!("Sockets of {}", escape_specifiers(&self.app.spec.name)))
            .section("Socket")
            .set_all("ListenStream", self.app.spec.listen.iter().map(stream))
            .set_some("ReusePort", self.is_template.then_some("yes"));
        unit.section("Install").set("WantedBy", "sockets.target")
    }

    /// The timer of a job, or of the restarts of a service.
    fn schedule(&self) -> Vec<ExportedFile> {
        let Some(pattern) = &self.app.spec.cron_restart else { return Vec::new() };
        let name = &self.name;
        let (description, unit) = match self.app.workload() {
            Workload::ScheduledJob => (format!("Schedule of {name}"), name.clone()),
            _ => (format!("Scheduled restart of {name}"), format!("{name}-restart")),
        };
        let timer = Unit::new([format!("Cron schedule: {pattern}")])
            .section("Unit")
            .set("Description", escape_specifiers(&description))
            .section("Timer");
        let timer = match on_calendar(pattern, self.app.spec.timezone.as_deref()) {
            Some(events) => timer.set_all("OnCalendar", events),
            None => timer
                .comments(["systemd has no equivalent of this schedule. Replace the next line.".to_owned()])
                .set("OnCalendar", "daily"),
        };
        let timer = timer.set("AccuracySec", "1s").section("Install").set("WantedBy", "timers.target");
        let mut files = vec![file(format!("{unit}.timer"), timer)];
        if self.app.workload() != Workload::ScheduledJob {
            let service = Unit::new(["Started by the timer of the same name.".to_owned()])
                .section("Unit")
                .set("Description", escape_specifiers(&description))
                .section("Service")
                .set("Type", "oneshot")
                .set("ExecStart", format!("systemctl restart {}", self.restart_target()));
            files.push(file(format!("{unit}.service"), service));
        }
        files
    }

    /// The units that a restart of the app names.
    fn restart_target(&self) -> String {
        if self.is_template { format!("{}@*.service", self.name) } else { format!("{}.service", self.name) }
    }

    /// A timer that checks, and a service that restarts the app after repeated failures.
    fn health_check(&self, probe: &Probe, at: &str) -> Vec<ExportedFile> {
        let (name, instance) = (&self.name, if self.is_template { "@%i" } else { "" });
        let Some(check) = self.check_command(probe) else { return Vec::new() };
        let tries: Vec<String> = (1..=probe.retries.max(1)).map(|number| number.to_string()).collect();
        let line = format!(
            "for try in {}; do {check} && exit 0; sleep {}; done; systemctl restart {name}{}.service",
            tries.join(" "),
            whole_seconds(probe.interval),
            if self.is_template { format!("@{SPECIFIER}i") } else { String::new() },
        );
        let service = Unit::new([format!("Restarts {name} after {} failed checks in a row.", tries.len())])
            .section("Unit")
            .set("Description", format!("Health check of {name}{instance}"))
            .section("Service")
            .set("Type", "oneshot")
            .set("ExecStart", format!("/bin/sh -c {}", shell_word(&line)));
        let timer = Unit::new([format!("Starts the health check of {name}.")])
            .section("Unit")
            .set("Description", format!("Health checks of {name}{instance}"))
            .set("PartOf", format!("{name}{instance}.service"))
            .section("Timer")
            .set("OnActiveSec", duration(probe.start_period.max(probe.interval)))
            .set("OnUnitInactiveSec", duration(probe.interval))
            .set("AccuracySec", "1s");
        vec![
            file(format!("{name}-health{at}.service"), service),
            file(format!("{name}-health{at}.timer"), timer),
        ]
    }

    fn secrets(&self, options: &ExportOptions) -> Option<ExportedFile> {
        if self.app.secrets.is_empty() {
            return None;
        }
        let mut text = format!("# Install as /etc/{}/secrets.env, readable by root only.\n", self.name);
        for (name, value) in &self.app.secrets {
            text.push_str(&file_assignment(name, if options.with_secrets { value } else { "" }));
        }
        Some(ExportedFile { name: format!("{}.secrets.env", self.name), text, is_secret: true })
    }

    /// The unit to enable.
    fn enabled_unit(&self) -> String {
        match self.app.workload() {
            Workload::ScheduledJob => format!("{}.timer", self.name),
            _ => group_unit(self.app),
        }
    }
}

fn is_template(app: &ExportApp<'_>) -> bool {
    app.replicas() > 1 && app.workload() == Workload::Service
}

/// The unit that stands for all instances of an app.
fn group_unit(app: &ExportApp<'_>) -> String {
    format!("{}.{}", unit_name(&app.spec.name), if is_template(app) { "target" } else { "service" })
}

/// A shell command as one word of a command line.
fn shell_word(line: &str) -> String {
    command_word(line).replace(SPECIFIER, "%")
}

/// The user who exports, unless it is root: apps must not run with more rights than before.
fn current_user() -> Option<String> {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten()?;
    (!user.uid.is_root()).then_some(user.name)
}
