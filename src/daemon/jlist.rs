//! The list in PM2's shape, for scripts and dashboards that read `pm2 jlist`.
//!
//! Unlike PM2's, `env` holds what the app was given (file, flags), not the whole shell, and no
//! variable stands among the settings.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::effects::pid_file;
use super::node::{Channels, Offers};
use super::views;
use crate::exit::Exit;
use crate::instance::Instance;
use crate::instance::life::RunId;
use crate::logs;
use crate::metrics::Usage;
use crate::paths::Home;
use crate::spec::{AppSpec, EnvFilter, ExecMode, Launcher, LogFormat, LogPath, RestartDelay};

/// The whole list.
pub fn jlist<'a>(
    list: &'a [(Instance, Usage)],
    channels: &Channels,
    home: &'a Home,
    user: &'a str,
) -> Vec<Process<'a>> {
    let offers = |instance: &Instance| {
        let number = instance.life.state.run()?;
        channels.offers(RunId { instance: instance.id, number })
    };
    let one = |(instance, usage): &'a (Instance, Usage)| {
        process(
            instance,
            usage,
            Pm2Env { instance, home, user, offers: offers(instance).unwrap_or_default() },
        )
    };
    list.iter().map(one).collect()
}

/// One element, written straight to JSON: hundreds are asked for many times a second by dashboards.
#[derive(Serialize)]
pub struct Process<'a> {
    pid: i32,
    name: &'a str,
    pm_id: u32,
    monit: Monit,
    pm2_env: Pm2Env<'a>,
}

#[derive(Serialize)]
struct Monit {
    memory: u64,
    cpu: f64,
}

struct Pm2Env<'a> {
    instance: &'a Instance,
    home: &'a Home,
    user: &'a str,
    offers: Offers,
}

fn process<'a>(instance: &'a Instance, usage: &Usage, pm2_env: Pm2Env<'a>) -> Process<'a> {
    let cpu = (f64::from(usage.cpu_percent) * 10.0).round() / 10.0;
    Process {
        pid: instance.life.state.process().map_or(0, |process| process.pid),
        name: &instance.spec.name,
        pm_id: instance.id,
        monit: Monit { memory: usage.memory, cpu },
        pm2_env,
    }
}

impl Serialize for Pm2Env<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (spec, life) = (&*self.instance.spec, &self.instance.life);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", &spec.name)?;
        map.serialize_entry("namespace", &spec.namespace)?;
        map.serialize_entry("pm_id", &self.instance.id)?;
        map.serialize_entry("status", views::status(&life.state).as_str())?;
        map.serialize_entry("pm_uptime", &last_start(self.instance))?;
        map.serialize_entry("created_at", &life.created.wall)?;
        map.serialize_entry("restart_time", &life.restarts)?;
        map.serialize_entry("unstable_restarts", &life.failures.unstable.len())?;
        optional(&mut map, "exit_code", last_code(self.instance))?;
        map.serialize_entry("env", &spec.env)?;
        map.serialize_entry("instance_var", &spec.instance_var)?;
        map.serialize_entry(&spec.instance_var, &self.instance.number)?;
        let user = spec.account.as_ref().map_or(self.user, |account| &account.user);
        map.serialize_entry("username", user)?;
        map.serialize_entry("pm_pid_path", &pid_file(self.instance, self.home))?;
        command(spec, &mut map)?;
        files(self.instance, self.home, &mut map)?;
        policy(spec, &mut map)?;
        map.serialize_entry("axm_actions", &self.offers.actions.values().collect::<Vec<_>>())?;
        map.serialize_entry("axm_monitor", &self.offers.measures)?;
        injected(&mut map)?;
        map.end()
    }
}

/// PM2 leaves out what is not set.
fn optional<M: SerializeMap>(map: &mut M, key: &str, value: Option<impl Serialize>) -> Result<(), M::Error> {
    value.map_or(Ok(()), |value| map.serialize_entry(key, &value))
}

/// What PM2 tells of things that are not done here, for programs that do without asking whether it is there.
fn injected<M: SerializeMap>(map: &mut M) -> Result<(), M::Error> {
    let nothing = serde_json::Map::new();
    map.serialize_entry("axm_options", &nothing)?;
    map.serialize_entry("axm_dynamic", &nothing)?;
    for switch in ["vizion", "vizion_running", "pmx", "automation", "km_link"] {
        map.serialize_entry(switch, &false)?;
    }
    map.serialize_entry("windowsHide", &true)
}

/// When its process was started: also of one that has ended since, as in PM2.
fn last_start(instance: &Instance) -> u64 {
    let life = &instance.life;
    let ended = || life.exits.back().map(|ended| ended.at.wall.saturating_sub(ended.uptime));
    life.state.process().map(|process| process.since.wall).or_else(ended).unwrap_or(life.created.wall)
}

/// Death by signal has no code here; PM2 says 0.
fn last_code(instance: &Instance) -> Option<i32> {
    match instance.life.exits.back().map(|ended| &ended.exit) {
        Some(Exit::Code(code)) => Some(*code),
        Some(Exit::Signal { .. } | Exit::Unknown | Exit::NotStarted(_)) | None => None,
    }
}

fn command<M: SerializeMap>(spec: &AppSpec, map: &mut M) -> Result<(), M::Error> {
    let (interpreter, node_args) = match &spec.launcher {
        Launcher::Interpreter { program, args } => (program.as_str(), args.as_slice()),
        Launcher::Direct | Launcher::Shell | Launcher::Serve => ("none", [].as_slice()),
    };
    map.serialize_entry("pm_exec_path", &spec.script)?;
    map.serialize_entry("args", &spec.args)?;
    map.serialize_entry("pm_cwd", &spec.cwd)?;
    map.serialize_entry("exec_interpreter", interpreter)?;
    map.serialize_entry("node_args", node_args)?;
    let mode = match spec.exec_mode {
        ExecMode::Fork => "fork_mode",
        ExecMode::Cluster => "cluster_mode",
    };
    map.serialize_entry("exec_mode", mode)?;
    map.serialize_entry("instances", &spec.instances)?;
    map.serialize_entry("version", spec.version.as_deref().unwrap_or("N/A"))?;
    match &spec.filter_env {
        EnvFilter::None => map.serialize_entry("filter_env", &[(); 0])?,
        EnvFilter::All => map.serialize_entry("filter_env", &true)?,
        EnvFilter::Containing(parts) => map.serialize_entry("filter_env", parts)?,
        EnvFilter::Exactly(name) => map.serialize_entry("filter_env", name)?,
    }
    optional(map, "increment_var", spec.increment_var.as_ref())?;
    optional(map, "uid", spec.account.as_ref().map(|account| account.uid))?;
    optional(map, "gid", spec.account.as_ref().map(|account| account.gid))
}

fn files<M: SerializeMap>(instance: &Instance, home: &Home, map: &mut M) -> Result<(), M::Error> {
    let spec = &instance.spec.logs;
    let files = logs::files(&instance.spec, instance.id, home);
    let or_null = |path: Option<PathBuf>| path.unwrap_or_else(|| "/dev/null".into());
    map.serialize_entry("pm_out_log_path", &or_null(files.out))?;
    map.serialize_entry("pm_err_log_path", &or_null(files.err))?;
    optional(map, "pm_log_path", files.combined)?;
    map.serialize_entry("merge_logs", &spec.merge)?;
    map.serialize_entry("disable_logs", &(spec.out == LogPath::Nowhere && spec.err == LogPath::Nowhere))?;
    optional(map, "log_type", (spec.format == LogFormat::Json).then_some("json"))?;
    optional(map, "log_date_format", spec.date_format.as_ref())
}

fn policy<M: SerializeMap>(spec: &AppSpec, map: &mut M) -> Result<(), M::Error> {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let policy = &spec.restart;
    map.serialize_entry("autostart", &spec.autostart)?;
    map.serialize_entry("autorestart", &policy.autorestart)?;
    map.serialize_entry("max_restarts", &policy.max_restarts)?;
    map.serialize_entry("min_uptime", &ms(policy.min_uptime))?;
    match policy.delay {
        RestartDelay::Fixed(delay) => map.serialize_entry("restart_delay", &ms(delay))?,
        RestartDelay::FromFirst { initial } => {
            map.serialize_entry("exp_backoff_restart_delay", &ms(initial))?
        }
        RestartDelay::AfterFirst { .. } => {}
    }
    let codes = Some(&policy.stop_exit_codes).filter(|codes| !codes.is_empty());
    optional(map, "stop_exit_codes", codes)?;
    map.serialize_entry("kill_timeout", &ms(spec.stop.timeout))?;
    map.serialize_entry("treekill", &spec.stop.tree)?;
    map.serialize_entry("shutdown_with_message", &spec.stop.message)?;
    map.serialize_entry("wait_ready", &spec.readiness.wait_ready)?;
    map.serialize_entry("listen_timeout", &ms(spec.readiness.timeout))?;
    optional(map, "max_memory_restart", spec.max_memory_restart)?;
    optional(map, "cron_restart", spec.cron_restart.as_ref())?;
    map.serialize_entry("watch", &spec.watch.is_some())?;
    optional(map, "ignore_watch", spec.watch.as_ref().map(|watch| &watch.ignore))?;
    optional(map, "watch_delay", spec.watch.as_ref().map(|watch| ms(watch.delay)))
}
