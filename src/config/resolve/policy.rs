//! Restart, stop and readiness policies, probes and limits.

use std::time::Duration;

use crate::config::diagnostics::Diagnostics;
use crate::config::keys::{AppSettings, value_of};
use crate::config::values::DurationValue;
use crate::spec::{AppSpec, KillMode, Limits, RestartDelay};

/// Applies all policies.
pub(super) fn apply_policies(settings: &AppSettings, app: &mut AppSpec, diagnostics: &mut Diagnostics<'_>) {
    apply_restart(settings, app, diagnostics);
    apply_stop(settings, app, diagnostics);
    set_if_given(&mut app.readiness.wait_ready, value_of(&settings.wait_ready).copied());
    set_if_given(&mut app.readiness.timeout, duration(value_of(&settings.listen_timeout)));
    apply_probes(settings, app, diagnostics);
    set_if_given(&mut app.autostart, value_of(&settings.autostart).copied());
    app.image = value_of(&settings.image).cloned();
    set_if_given(&mut app.depends_on, value_of(&settings.depends_on).map(|list| list.0.clone()));
    app.max_memory_restart = value_of(&settings.max_memory_restart).map(|size| size.0);
    app.limits = Limits {
        memory: value_of(&settings.memory_max).map(|size| size.0),
        cpu: value_of(&settings.cpu_max).map(|cores| cores.0),
        pids: value_of(&settings.pids_max).map(|count| count.0),
    };
    app.cron_restart = value_of(&settings.cron_restart).and_then(|cron| cron.0.clone());
    app.timezone = value_of(&settings.timezone).map(|zone| zone.0.clone());
    set_if_given(&mut app.overlap, value_of(&settings.overlap).map(|overlap| overlap.0));
}

fn apply_restart(settings: &AppSettings, app: &mut AppSpec, diagnostics: &mut Diagnostics<'_>) {
    let policy = &mut app.restart;
    set_if_given(&mut policy.autorestart, value_of(&settings.autorestart).copied());
    set_if_given(&mut policy.max_restarts, value_of(&settings.max_restarts).map(|count| count.0));
    set_if_given(&mut policy.min_uptime, duration(value_of(&settings.min_uptime)));
    set_if_given(&mut policy.window, duration(value_of(&settings.restart_window)));
    set_if_given(
        &mut policy.stop_exit_codes,
        value_of(&settings.stop_exit_codes).map(|codes| codes.0.clone()),
    );
    let fixed_delay = duration(value_of(&settings.restart_delay));
    let initial_delay = duration(value_of(&settings.exp_backoff_restart_delay));
    if let (Some(ignored), Some(_)) = (&settings.restart_delay, initial_delay) {
        diagnostics
            .warn(&ignored.source, "`restart_delay` is ignored because `exp_backoff_restart_delay` is set");
    }
    match (initial_delay, fixed_delay) {
        // A delay of 0 cannot grow.
        (Some(Duration::ZERO), _) => policy.delay = RestartDelay::Fixed(Duration::ZERO),
        (Some(initial), _) => policy.delay = RestartDelay::Pm2Backoff { initial },
        (None, Some(delay)) => policy.delay = RestartDelay::Fixed(delay),
        (None, None) => {}
    }
}

fn apply_stop(settings: &AppSettings, app: &mut AppSpec, diagnostics: &mut Diagnostics<'_>) {
    set_if_given(&mut app.stop.signal, value_of(&settings.kill_signal).map(|signal| signal.0.clone()));
    set_if_given(&mut app.stop.timeout, duration(value_of(&settings.kill_timeout)));
    apply_kill_mode(settings, app, diagnostics);
    set_if_given(&mut app.stop.by_message, value_of(&settings.shutdown_with_message).copied());
}

/// `treekill` of PM2 is a shorter form of two modes.
fn apply_kill_mode(settings: &AppSettings, app: &mut AppSpec, diagnostics: &mut Diagnostics<'_>) {
    let mode = value_of(&settings.kill_mode).map(|mode| mode.0);
    if let (Some(mode), Some(treekill)) = (mode, &settings.treekill)
        && treekill.value == (mode == KillMode::Main)
    {
        diagnostics.warn(&treekill.source, "`treekill` is ignored because `kill_mode` is set");
    }
    let from_treekill = value_of(&settings.treekill).map(|treekill| match treekill {
        true => KillMode::default(),
        false => KillMode::Main,
    });
    set_if_given(&mut app.stop.mode, mode.or(from_treekill));
}

fn apply_probes(settings: &AppSettings, app: &mut AppSpec, diagnostics: &mut Diagnostics<'_>) {
    app.readiness.probe = value_of(&settings.ready).and_then(|probe| probe.0.clone());
    app.health = value_of(&settings.health).and_then(|probe| probe.0.clone());
    let millis = |limit: Duration| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    app.watchdog = duration(value_of(&settings.watchdog)).map(millis).filter(|limit| *limit > 0);
    if let (Some(ready), true) = (&settings.ready, app.readiness.wait_ready && app.readiness.probe.is_some())
    {
        let help = "remove `wait_ready` to use the probe, or `ready` if the app reports readiness itself";
        diagnostics.error(&ready.source, "`ready` and `wait_ready` are mutually exclusive", help);
    }
}

fn duration(value: Option<&DurationValue>) -> Option<Duration> {
    value.map(|value| value.0)
}

/// Keeps the default if no value is given.
fn set_if_given<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}
