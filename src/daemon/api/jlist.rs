//! The list in PM2's format, for scripts and dashboards that read `pm2 jlist`.
//!
//! Unlike in PM2, `env` contains the variables of the app (file, flags) and not the whole environment of the
//! shell, and variables are not repeated among the settings.

use std::path::PathBuf;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::config::{KEYS, Pm2Value};
use crate::daemon::supervisor::views;
use crate::daemon::world::node_channel::{AppActions, NodeChannels};
use crate::daemon::world::pid_file::pid_file;
use crate::exit::Exit;
use crate::instance::Instance;
use crate::instance::status::RunId;
use crate::logs;
use crate::metrics::Usage;
use crate::paths::Home;
use crate::spec::AppSpec;

pub fn jlist<'a>(
    list: &'a [(Instance, Usage)],
    channels: &NodeChannels,
    home: &'a Home,
    user: &'a str,
) -> Vec<Pm2Process<'a>> {
    let actions = |instance: &Instance| {
        let number = instance.status().state.run()?;
        channels.actions(RunId { instance: instance.id(), number })
    };
    let element = |(instance, usage): &'a (Instance, Usage)| {
        let actions = actions(instance).unwrap_or_default();
        process(instance, usage, Pm2Env { instance, home, user, actions })
    };
    list.iter().map(element).collect()
}

/// One element. It is serialized without an intermediate value, because dashboards request hundreds of them many
/// times a second.
#[derive(Serialize)]
pub struct Pm2Process<'a> {
    pid: i32,
    name: &'a str,
    pm_id: u32,
    monit: Pm2Monit,
    pm2_env: Pm2Env<'a>,
}

#[derive(Serialize)]
struct Pm2Monit {
    memory: u64,
    cpu: f64,
}

struct Pm2Env<'a> {
    instance: &'a Instance,
    home: &'a Home,
    user: &'a str,
    actions: AppActions,
}

fn process<'a>(instance: &'a Instance, usage: &Usage, pm2_env: Pm2Env<'a>) -> Pm2Process<'a> {
    let cpu = (f64::from(usage.cpu_percent) * 10.0).round() / 10.0;
    Pm2Process {
        pid: instance.status().state.process().map_or(0, |process| process.pid),
        name: &instance.spec().name,
        pm_id: instance.id(),
        monit: Pm2Monit { memory: usage.memory, cpu },
        pm2_env,
    }
}

impl Serialize for Pm2Env<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (spec, status) = (self.instance.spec(), self.instance.status());
        let mut map = serializer.serialize_map(None)?;
        write_keys(spec, &mut map)?;
        map.serialize_entry("pm_id", &self.instance.id())?;
        map.serialize_entry("status", views::display_status(self.instance).in_pm2())?;
        map.serialize_entry("pm_uptime", &last_start(self.instance))?;
        map.serialize_entry("created_at", &status.created.wall)?;
        map.serialize_entry("restart_time", &status.restarts)?;
        map.serialize_entry("unstable_restarts", &status.failure_history.unstable_exits.len())?;
        entry_if_some(&mut map, "exit_code", last_code(self.instance))?;
        map.serialize_entry(&spec.instance_var, &self.instance.number())?;
        let user = spec.account.as_ref().map_or(self.user, |account| &account.user);
        map.serialize_entry("username", user)?;
        map.serialize_entry("version", spec.version.as_deref().unwrap_or("N/A"))?;
        write_files(self.instance, self.home, &mut map)?;
        map.serialize_entry("axm_actions", &self.actions.actions.values().collect::<Vec<_>>())?;
        map.serialize_entry("axm_monitor", &self.actions.metrics)?;
        write_injected(&mut map)?;
        map.end()
    }
}

/// Writes the settings of the app, by the table of keys.
fn write_keys<M: SerializeMap>(spec: &AppSpec, map: &mut M) -> Result<(), M::Error> {
    for (name, read) in KEYS.iter().filter_map(|key| key.jlist) {
        match read(spec) {
            Pm2Value::Absent => {}
            value => map.serialize_entry(name, &value)?,
        }
    }
    Ok(())
}

/// PM2 omits keys that are not set.
fn entry_if_some<M: SerializeMap>(
    map: &mut M,
    key: &str,
    value: Option<impl Serialize>,
) -> Result<(), M::Error> {
    value.map_or(Ok(()), |value| map.serialize_entry(key, &value))
}

/// Writes keys of PM2 features that rsm does not have, for programs that require them.
fn write_injected<M: SerializeMap>(map: &mut M) -> Result<(), M::Error> {
    let empty = serde_json::Map::new();
    map.serialize_entry("axm_options", &empty)?;
    map.serialize_entry("axm_dynamic", &empty)?;
    for key in ["vizion", "vizion_running", "pmx", "automation", "km_link"] {
        map.serialize_entry(key, &false)?;
    }
    map.serialize_entry("windowsHide", &true)
}

/// The start time of the current or last process, as in PM2.
fn last_start(instance: &Instance) -> u64 {
    let status = &instance.status();
    let last = || status.history.back().map(|run| run.at.wall.saturating_sub(run.uptime));
    status.state.process().map(|process| process.since.wall).or_else(last).unwrap_or(status.created.wall)
}

/// The exit code of the last run. An exit by signal has none; PM2 reports 0.
fn last_code(instance: &Instance) -> Option<i32> {
    match instance.status().history.back().map(|run| &run.exit) {
        Some(Exit::Code(code)) => Some(*code),
        Some(Exit::Signal { .. } | Exit::Unknown | Exit::NotStarted(_)) | None => None,
    }
}

fn write_files<M: SerializeMap>(instance: &Instance, home: &Home, map: &mut M) -> Result<(), M::Error> {
    let files = logs::log_files(instance.spec(), instance.id(), &instance.file_name(), home);
    let or_null = |path: Option<PathBuf>| path.unwrap_or_else(|| "/dev/null".into());
    map.serialize_entry("pm_pid_path", &pid_file(instance, home))?;
    map.serialize_entry("pm_out_log_path", &or_null(files.out))?;
    map.serialize_entry("pm_err_log_path", &or_null(files.err))?;
    entry_if_some(map, "pm_log_path", files.combined)
}
