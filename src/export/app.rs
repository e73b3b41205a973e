//! What all targets need to know of an app: its command in an image, its port, its secrets, and the settings that the
//! target lacks.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::config::{LocatedApp, Location};
use crate::export::keys;
use crate::export::target::{ExportOptions, Target};
use crate::probes::ResolvedProbe;
use crate::spec::{
    AppSpec, Balance, Condition, EnvVars, ExecMode, Launcher, LogPath, Probe, ProbeAction, RestartDelay,
};

/// Parts of the name of a variable whose value is a secret.
const SECRET_NAMES: &[&str] =
    &["PASSWORD", "PASSWD", "SECRET", "TOKEN", "CREDENTIAL", "APIKEY", "API_KEY", "PRIVATE_KEY"];
/// Ends of the name of a variable whose value is a secret.
const SECRET_ENDINGS: &[&str] = &["_KEY", "_PASS", "_PWD", "_DSN"];

/// An app on its way to a target.
pub(super) struct ExportApp<'a> {
    pub(super) spec: &'a AppSpec,
    pub(super) keys: &'a [(&'static str, Location)],
    /// The name in lower case letters, digits and hyphens, unique in the file.
    pub(super) slug: String,
    /// The variables that are not secrets.
    pub(super) env: EnvVars,
    /// The variables that are secrets.
    pub(super) secrets: EnvVars,
    /// The comments on settings that have no equivalent or only a near one.
    pub(super) remarks: Vec<String>,
    /// The image, from the file or the command line.
    pub(super) image: Option<String>,
}

/// How an app runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Workload {
    /// Runs until it is stopped.
    Service,
    /// Runs to completion on a schedule.
    ScheduledJob,
    /// Runs to completion once.
    Job,
}

/// A probe with the address that it connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ProbeTarget {
    Http { port: u16, path: String },
    Tcp { port: u16 },
    Exec(String),
}

impl<'a> ExportApp<'a> {
    /// The apps of a file.
    pub(super) fn all(apps: &'a [LocatedApp], target: Target, options: &ExportOptions) -> Vec<Self> {
        let mut slugs = BTreeMap::new();
        apps.iter()
            .map(|app| {
                let slug = unique(&mut slugs, slug(&app.spec.name));
                let (secrets, env) =
                    app.spec.env.clone().into_iter().partition(|(name, value)| is_secret(name, value));
                Self {
                    spec: &app.spec,
                    keys: &app.keys,
                    slug,
                    env,
                    secrets,
                    remarks: keys::remarks(app, target),
                    image: app.spec.image.clone().or_else(|| options.image.clone()),
                }
            })
            .collect()
    }

    pub(super) fn workload(&self) -> Workload {
        match (&self.spec.cron_restart, self.spec.restart.autorestart) {
            (Some(_), false) => Workload::ScheduledJob,
            (None, false) => Workload::Job,
            (_, true) => Workload::Service,
        }
    }

    /// The number of instances at the start.
    pub(super) fn replicas(&self) -> u32 {
        self.spec.autoscale.as_ref().map_or(self.spec.instances, |scale| scale.min).max(1)
    }

    pub(super) fn has_key(&self, key: &str) -> bool {
        self.keys.iter().any(|(given, _)| *given == key)
    }

    /// The port of the first instance: from `listen`, the variable PORT, or a probe.
    pub(super) fn port(&self) -> Option<u16> {
        let listen = self.spec.listen.first().and_then(|address| address.rsplit(':').next()?.parse().ok());
        let serve = || match self.spec.launcher {
            Launcher::Serve => self.spec.args.get(1)?.parse().ok(),
            _ => None,
        };
        let variable = || self.spec.env.get("PORT")?.parse().ok();
        let probed = || {
            [self.spec.readiness.probe.as_ref(), self.spec.health.as_ref()]
                .into_iter()
                .flatten()
                .find_map(|probe| self.probe_target(probe)?.port())
        };
        listen.or_else(serve).or_else(variable).or_else(probed)
    }

    /// The ports of all instances: one shared port, or one for each instance.
    pub(super) fn ports(&self) -> Vec<u16> {
        let Some(first) = self.port() else { return Vec::new() };
        match self.spec.increment_var.as_deref() {
            Some("PORT") => {
                (0..self.replicas()).filter_map(|n| first.checked_add(u16::try_from(n).ok()?)).collect()
            }
            _ => vec![first],
        }
    }

    /// Whether all instances share one port.
    pub(super) fn shares_port(&self) -> bool {
        self.spec.exec_mode == ExecMode::Cluster
            && self.replicas() > 1
            && self.spec.increment_var.as_deref() != Some("PORT")
    }

    /// The apps of the file that it depends on, with the conditions.
    pub(super) fn dependencies<'b>(&self, apps: &'b [ExportApp<'b>]) -> Vec<(&'b ExportApp<'b>, Condition)> {
        let find = |name: &str| apps.iter().find(|other| other.spec.name == name);
        let dependencies = self.spec.depends_on.iter();
        dependencies.filter_map(|dependency| Some((find(&dependency.app)?, dependency.condition))).collect()
    }

    /// The memory limit in bytes. No engine restarts an app gracefully at a limit.
    pub(super) fn memory_limit(&self) -> Option<u64> {
        self.spec.limits.memory.or(self.spec.max_memory_restart)
    }

    /// The delay before the first restart.
    pub(super) fn first_restart_delay(&self) -> Duration {
        match self.spec.restart.delay {
            RestartDelay::Fixed(delay) => delay,
            RestartDelay::Backoff { initial } | RestartDelay::Pm2Backoff { initial } => initial,
        }
    }

    /// The stop signal, unless it is that of all engines.
    pub(super) fn stop_signal(&self) -> Option<&str> {
        Some(self.spec.stop.signal.as_str()).filter(|signal| *signal != "SIGTERM")
    }

    /// The grace period, if it was given.
    pub(super) fn grace_period(&self) -> Option<Duration> {
        self.has_key("kill_timeout").then_some(self.spec.stop.timeout)
    }

    /// Whether its output is not written to files.
    pub(super) fn discards_output(&self) -> bool {
        self.spec.logs.out == LogPath::Discard && self.spec.logs.err == LogPath::Discard
    }

    /// The namespace, unless it is the default.
    pub(super) fn namespace(&self) -> Option<&'a str> {
        Some(self.spec.namespace.as_str()).filter(|namespace| *namespace != "default")
    }

    /// The path and the interval of its HTTP check: of `health`, else of `ready`.
    pub(super) fn http_check(&self) -> Option<(String, Duration)> {
        let probe = self.spec.health.as_ref().or(self.spec.readiness.probe.as_ref())?;
        match self.probe_target(probe)? {
            ProbeTarget::Http { path, .. } => Some((path, probe.interval)),
            ProbeTarget::Tcp { .. } | ProbeTarget::Exec(_) => None,
        }
    }

    /// Whether connections of one client go to one instance.
    pub(super) fn is_sticky(&self) -> bool {
        self.spec.balance == Balance::IpHash
    }

    /// The command in an image: programs by name, files relative to the working directory.
    pub(super) fn image_command(&self) -> Vec<String> {
        self.command("rsm", base_name, |path| self.image_path(path))
    }

    /// The command on this machine, with absolute paths.
    pub(super) fn host_command(&self) -> Vec<String> {
        let rsm = std::env::current_exe();
        let rsm = rsm.map_or_else(|_| "rsm".into(), |path| path.to_string_lossy().into_owned());
        self.command(&rsm, str::to_owned, str::to_owned)
    }

    /// The command, with these names of rsm, interpreters and files of the app.
    fn command(
        &self,
        rsm: &str,
        interpreter: impl Fn(&str) -> String,
        file: impl Fn(&str) -> String,
    ) -> Vec<String> {
        let spec = self.spec;
        let mut words = match &spec.launcher {
            Launcher::Direct => vec![file(&spec.script)],
            Launcher::Interpreter { program, args } => {
                let mut words = vec![interpreter(program)];
                words.extend_from_slice(args);
                words.push(file(&spec.script));
                words
            }
            Launcher::Shell => return vec!["/bin/sh".into(), "-c".into(), self.shell_line()],
            Launcher::Serve => {
                let (directory, options) = spec.args.split_at(spec.args.len().min(1));
                let mut words = vec![rsm.to_owned(), "serve-files".into()];
                words.extend(directory.iter().map(|directory| file(directory)));
                words.extend_from_slice(options);
                return words;
            }
        };
        words.extend_from_slice(&spec.args);
        words
    }

    /// The shell command with its arguments.
    fn shell_line(&self) -> String {
        let args = self.spec.args.iter().map(|arg| crate::text::quote_shell(arg).into_owned());
        std::iter::once(self.spec.script.clone()).chain(args).collect::<Vec<_>>().join(" ")
    }

    /// A file of the app as it is called in an image: relative to the working directory.
    fn image_path(&self, path: &str) -> String {
        match Path::new(path).strip_prefix(&self.spec.cwd) {
            Ok(rest) if rest.as_os_str().is_empty() => ".".into(),
            Ok(rest) if self.spec.launcher == Launcher::Direct => format!("./{}", rest.display()),
            Ok(rest) => rest.display().to_string(),
            Err(_) => path.to_owned(),
        }
    }

    /// What a probe connects to, with the variables of the first instance.
    pub(super) fn probe_target(&self, probe: &Probe) -> Option<ProbeTarget> {
        match (ResolvedProbe::new(&probe.action, &self.spec.env).ok()?, &probe.action) {
            (ResolvedProbe::Http(uri), _) => Some(ProbeTarget::Http {
                port: uri.port_u16().unwrap_or(80),
                path: uri.path_and_query().map_or_else(|| "/".into(), |path| path.as_str().to_owned()),
            }),
            (ResolvedProbe::Tcp(_, port), _) => Some(ProbeTarget::Tcp { port }),
            (_, ProbeAction::Exec(line)) => Some(ProbeTarget::Exec(line.clone())),
            _ => None,
        }
    }
}

impl ProbeTarget {
    pub(super) fn port(&self) -> Option<u16> {
        match self {
            Self::Http { port, .. } | Self::Tcp { port } => Some(*port),
            Self::Exec(_) => None,
        }
    }

    /// A shell command that does the same on the port of the probe.
    pub(super) fn shell_command(&self) -> String {
        self.shell_command_on(&self.port().unwrap_or_default().to_string())
    }

    /// A shell command that does the same on a port, which may be a shell expression. Images contain curl, or the
    /// wget of BusyBox.
    pub(super) fn shell_command_on(&self, port: &str) -> String {
        match self {
            Self::Http { path, .. } => {
                let escape = |c: char| if "\\\"$`".contains(c) { format!("\\{c}") } else { c.to_string() };
                let path: String = path.chars().map(escape).collect();
                let url = format!("\"http://127.0.0.1:{port}{path}\"");
                format!("curl -fsS -o /dev/null {url} || wget -q -O /dev/null {url}")
            }
            Self::Tcp { .. } => format!("nc -z 127.0.0.1 {port}"),
            Self::Exec(line) => line.clone(),
        }
    }
}

/// The sections of a proxy for all apps, one for each app that has a port and is a service.
pub(super) fn proxy_sections(apps: &[ExportApp<'_>], section: impl Fn(&ExportApp<'_>) -> String) -> String {
    let of_app = |app: &ExportApp<'_>| match app.ports().is_empty() || app.workload() != Workload::Service {
        true => format!("\n# {}: no port is known (`listen`, the variable PORT, or a probe).\n", app.slug),
        false => section(app),
    };
    apps.iter().map(of_app).collect()
}

/// Whether the value of a variable must not be written: by its name, or because it is an address with a password.
pub(super) fn is_secret(name: &str, value: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let has_password = || {
        let authority =
            value.split_once("://").map(|(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or(rest));
        authority.and_then(|authority| authority.rsplit_once('@')).is_some_and(|(user, _)| user.contains(':'))
    };
    SECRET_NAMES.iter().any(|part| name.contains(part))
        || SECRET_ENDINGS.iter().any(|end| name.ends_with(end))
        || has_password()
}

/// A name of lower case letters, digits and hyphens, as Kubernetes requires. At most 50 characters.
fn slug(name: &str) -> String {
    let plain = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' });
    let short: String = plain.take(50).collect();
    let slug = short.trim_matches('-');
    if slug.is_empty() { "app".into() } else { slug.to_owned() }
}

fn unique(taken: &mut BTreeMap<String, u32>, slug: String) -> String {
    let count = taken.entry(slug.clone()).or_default();
    *count += 1;
    if *count == 1 { slug } else { format!("{slug}-{count}") }
}

fn base_name(path: &str) -> String {
    Path::new(path).file_name().map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
}

/// A duration as systemd, Go and people write it: `1500ms`, `10s`.
pub(super) fn duration(value: Duration) -> String {
    match value.as_millis() {
        millis if millis % 1000 == 0 => format!("{}s", millis / 1000),
        millis => format!("{millis}ms"),
    }
}

/// A duration in whole seconds, rounded up, at least one.
pub(super) fn whole_seconds(value: Duration) -> u64 {
    u64::try_from(value.as_millis().div_ceil(1000)).unwrap_or(u64::MAX).max(1)
}

/// A size in the largest binary unit that divides it: `300` and `M`.
pub(super) fn size(bytes: u64) -> (u64, &'static str) {
    match bytes {
        _ if bytes.is_multiple_of(1 << 30) => (bytes >> 30, "G"),
        _ if bytes.is_multiple_of(1 << 20) => (bytes >> 20, "M"),
        _ if bytes.is_multiple_of(1 << 10) => (bytes >> 10, "K"),
        _ => (bytes, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_is_recognized_by_name_or_password() {
        for (name, value) in [
            ("STRIPE_SECRET", "x"),
            ("github_token", "x"),
            ("AWS_ACCESS_KEY", "x"),
            ("DATABASE_URL", "postgres://app:pw@db:5432/app"),
            ("REDIS", "redis://:pw@127.0.0.1"),
        ] {
            assert!(is_secret(name, value), "{name}");
        }
        for (name, value) in [
            ("PORT", "80"),
            ("URL", "https://example.com/a:b@c"),
            ("KEYBOARD", "us"),
            ("DB", "postgres://app@db/app"),
        ] {
            assert!(!is_secret(name, value), "{name}");
        }
    }

    #[test]
    fn slugs_are_unique_names() {
        let mut taken = BTreeMap::new();
        let slugs: Vec<String> =
            ["My API", "my_api", "é", "-"].map(|name| unique(&mut taken, slug(name))).into();
        assert_eq!(slugs, ["my-api", "my-api-2", "app", "app-2"]);
    }

    #[test]
    fn units_are_as_large_as_possible() {
        assert_eq!(size(300 << 20), (300, "M"));
        assert_eq!(size(1500), (1500, ""));
        assert_eq!(duration(Duration::from_millis(1500)), "1500ms");
        assert_eq!(duration(Duration::from_secs(90)), "90s");
        assert_eq!(whole_seconds(Duration::from_millis(1001)), 2);
    }
}
