//! The list in PM2's shape, for scripts and dashboards that read `pm2 jlist`.
//!
//! Unlike PM2's, `env` holds what the app was given (file, flags), not the whole shell, and no
//! variable stands among the settings.

use serde_json::{Map, Value, json};

use super::effects::pid_file;
use super::views;
use crate::exit::Exit;
use crate::instance::Instance;
use crate::logs;
use crate::metrics::Usage;
use crate::paths::Home;
use crate::spec::{AppSpec, ExecMode, Launcher, RestartDelay};

/// The whole list.
pub fn jlist(list: &[(Instance, Usage)], home: &Home, user: &str) -> Vec<Value> {
    list.iter().map(|(instance, usage)| process(instance, usage, home, user)).collect()
}

fn process(instance: &Instance, usage: &Usage, home: &Home, user: &str) -> Value {
    let pid = instance.life.state.process().map_or(0, |process| process.pid);
    json!({
        "pid": pid,
        "name": instance.spec.name,
        "pm_id": instance.id,
        "monit": { "memory": usage.memory, "cpu": (f64::from(usage.cpu_percent) * 10.0).round() / 10.0 },
        "pm2_env": pm2_env(instance, home, user),
    })
}

fn pm2_env(instance: &Instance, home: &Home, user: &str) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| {
        if !value.is_null() {
            fields.insert(name.to_owned(), value);
        }
    };
    let (spec, life) = (&*instance.spec, &instance.life);
    put("name", json!(spec.name));
    put("namespace", json!(spec.namespace));
    put("pm_id", json!(instance.id));
    put("status", json!(views::status(&life.state).as_str()));
    put("pm_uptime", json!(life.state.process().map(|process| process.since.wall)));
    put("created_at", json!(life.created.wall));
    put("restart_time", json!(life.restarts));
    put("unstable_restarts", json!(life.failures.unstable.len()));
    put("exit_code", last_code(instance));
    put("env", json!(spec.env));
    put("instance_var", json!(spec.instance_var));
    put(&spec.instance_var, json!(instance.number));
    put("username", json!(spec.account.as_ref().map_or(user, |account| &account.user)));
    put("pm_pid_path", json!(pid_file(instance, home)));
    put_command(spec, &mut put);
    put_logs(instance, home, &mut put);
    put_policy(spec, &mut put);
    fields
}

/// Death by signal has no code here; PM2 says 0.
fn last_code(instance: &Instance) -> Value {
    match instance.life.exits.back().map(|ended| &ended.exit) {
        Some(Exit::Code(code)) => json!(code),
        Some(Exit::Signal { .. } | Exit::Unknown | Exit::NotStarted(_)) | None => Value::Null,
    }
}

fn put_command(spec: &AppSpec, put: &mut impl FnMut(&str, Value)) {
    let (interpreter, node_args) = match &spec.launcher {
        Launcher::Interpreter { program, args } => (program.as_str(), json!(args)),
        Launcher::Direct | Launcher::Shell | Launcher::Serve => ("none", json!([])),
    };
    put("pm_exec_path", json!(spec.script));
    put("args", json!(spec.args));
    put("pm_cwd", json!(spec.cwd));
    put("exec_interpreter", json!(interpreter));
    put("node_args", node_args);
    let mode = match spec.exec_mode {
        ExecMode::Fork => "fork_mode",
        ExecMode::Cluster => "cluster_mode",
    };
    put("exec_mode", json!(mode));
    put("instances", json!(spec.instances));
    put("version", json!(spec.version.as_deref().unwrap_or("N/A")));
    put("increment_var", json!(spec.increment_var));
    if let Some(account) = &spec.account {
        put("uid", json!(account.uid));
        put("gid", json!(account.gid));
    }
}

fn put_logs(instance: &Instance, home: &Home, put: &mut impl FnMut(&str, Value)) {
    let spec = &instance.spec.logs;
    let files = logs::files(&instance.spec, instance.id, home);
    let or_null = |path: Option<std::path::PathBuf>| json!(path.unwrap_or_else(|| "/dev/null".into()));
    put("pm_out_log_path", or_null(files.out));
    put("pm_err_log_path", or_null(files.err));
    put("pm_log_path", json!(files.combined));
    put("merge_logs", json!(spec.merge));
    put("log_date_format", json!(spec.date_format));
}

fn put_policy(spec: &AppSpec, put: &mut impl FnMut(&str, Value)) {
    let ms = |duration: std::time::Duration| json!(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    let policy = &spec.restart;
    put("autostart", json!(spec.autostart));
    put("autorestart", json!(policy.autorestart));
    put("max_restarts", json!(policy.max_restarts));
    put("min_uptime", ms(policy.min_uptime));
    match policy.delay {
        RestartDelay::Fixed(delay) => put("restart_delay", ms(delay)),
        RestartDelay::FromFirst { initial } => put("exp_backoff_restart_delay", ms(initial)),
        RestartDelay::AfterFirst { .. } => {}
    }
    if !policy.stop_exit_codes.is_empty() {
        put("stop_exit_codes", json!(policy.stop_exit_codes));
    }
    put("kill_timeout", ms(spec.stop.timeout));
    put("treekill", json!(spec.stop.tree));
    put("wait_ready", json!(spec.readiness.wait_ready));
    put("listen_timeout", ms(spec.readiness.timeout));
    put("max_memory_restart", json!(spec.max_memory_restart));
    put("cron_restart", json!(spec.cron_restart));
    put("watch", json!(spec.watch.is_some()));
}
