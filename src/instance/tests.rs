//! The state machine, driven by events: no process, no clock.

use super::*;
use crate::exit::StartStep;

fn at(mono: u64) -> Moment {
    Moment { mono, wall: mono }
}

fn instance(change: impl FnOnce(&mut AppSpec)) -> Instance {
    let mut spec = AppSpec::new("api", "/bin/api", "/");
    change(&mut spec);
    Instance::new(0, 0, Arc::new(spec), Arc::default(), 0, at(0))
}

fn spawned(run: u32) -> InstanceEvent {
    InstanceEvent::Spawned { run, pid: 100 + run.cast_signed(), start_time: u64::from(run) }
}

fn exited(run: u32, code: i32) -> InstanceEvent {
    InstanceEvent::Exited { run, exit: Exit::Code(code) }
}

fn tree_checked(run: u32) -> InstanceEvent {
    InstanceEvent::TreeChecked { run, remaining: vec![], background: None }
}

fn online() -> Instance {
    let mut api = instance(|_| {});
    api.handle(InstanceEvent::Start, at(0));
    api.handle(spawned(1), at(1));
    assert!(matches!(api.status.state, State::Online { .. }));
    api
}

fn spawns(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Spawn { .. }))
}

#[test]
fn crashed_instance_restarts_after_clean_up() {
    let mut api = online();
    let effects = api.handle(exited(1, 3), at(5000));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::CleanUpTree { mode: CleanUp::Kill, .. })));
    assert!(!spawns(&effects), "not before the rest of the tree has ended");
    let effects = api.handle(tree_checked(1), at(5001));
    assert!(spawns(&effects) && effects.contains(&Effect::ReleaseRun { run: 1 }));
    assert_eq!((api.status.restarts, api.status.last_run), (1, 2));
    assert_eq!(api.status.history[0].uptime, 4999);
}

#[test]
fn stop_while_spawning_stops_process_once_spawned() {
    let mut api = instance(|_| {});
    api.handle(InstanceEvent::Start, at(0));
    assert_eq!(api.handle(InstanceEvent::Stop, at(1)), []);
    let effects = api.handle(spawned(1), at(2));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::SendStopSignal { .. })));
    api.handle(exited(1, 0), at(3));
    api.handle(tree_checked(1), at(4));
    assert_eq!(api.status.state, State::Stopped);
    assert_eq!(api.status.restarts, 0);
}

#[test]
fn process_is_killed_after_timeout_then_stuck_until_it_exits() {
    let mut api = online();
    api.handle(InstanceEvent::Stop, at(10));
    let deadline = 10 + 10_000;
    assert_eq!(api.status.timer, Some(deadline));
    let effects = api.handle(InstanceEvent::TimerFired { at: deadline }, at(deadline));
    assert!(matches!(effects[0], Effect::Kill { .. }));
    let kill_deadline = deadline + 5000;
    api.handle(InstanceEvent::TimerFired { at: kill_deadline }, at(kill_deadline));
    assert!(api.status_reason().unwrap().contains("process 101 cannot be killed"));
    api.handle(
        InstanceEvent::Exited { run: 1, exit: Exit::Signal { number: 9, core: false, oom: false } },
        at(kill_deadline + 1),
    );
    api.handle(tree_checked(1), at(kill_deadline + 2));
    assert_eq!((api.status.state.clone(), api.status.history[0].killed), (State::Stopped, true));
}

#[test]
fn orphans_get_the_same_grace_period() {
    let mut api = online();
    api.handle(InstanceEvent::Stop, at(0));
    let effects = api.handle(exited(1, 0), at(100));
    assert!(
        effects.iter().any(|effect| matches!(effect, Effect::CleanUpTree { mode: CleanUp::Terminate, .. }))
    );
    api.handle(InstanceEvent::TreeChecked { run: 1, remaining: vec![55], background: None }, at(101));
    assert!(matches!(api.status.state, State::CleaningUp { .. }));
    let effects = api.handle(InstanceEvent::TimerFired { at: 10_000 }, at(10_000));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::CleanUpTree { mode: CleanUp::Kill, .. })));
    let effects = api.handle(InstanceEvent::OrphanExited, at(10_001));
    assert!(matches!(effects[..], [Effect::CleanUpTree { mode: CleanUp::Kill, .. }]));
    api.handle(tree_checked(1), at(10_002));
    assert_eq!(api.status.state, State::Stopped);
}

#[test]
fn events_of_former_run_are_ignored() {
    let mut api = online();
    api.handle(exited(1, 1), at(5000));
    api.handle(tree_checked(1), at(5000));
    let before = api.clone();
    for stale in [spawned(1), exited(1, 0), tree_checked(1), InstanceEvent::TimerFired { at: 1 }] {
        assert_eq!(api.handle(stale, at(6000)), []);
        assert_eq!(api, before);
    }
}

#[test]
fn failed_start_is_reported_if_requested_and_retried_otherwise() {
    let failure = StartFailure { step: StartStep::Exec, errno: libc::ENOENT, subject: "/bin/api".into() };
    let mut api = instance(|_| {});
    api.handle(InstanceEvent::Start, at(0));
    api.handle(InstanceEvent::SpawnFailed { run: 1, failure: failure.clone() }, at(1));
    assert!(api.status_reason().unwrap().contains("cannot execute /bin/api"));

    let mut api = online();
    api.handle(exited(1, 1), at(5000));
    api.handle(tree_checked(1), at(5000));
    let effects = api.handle(InstanceEvent::SpawnFailed { run: 2, failure }, at(5001));
    assert!(matches!(api.status.state, State::Waiting { .. }), "it is retried: {effects:?}");
}

#[test]
fn restart_while_spawning_replaces_process_once_spawned() {
    let mut api = instance(|_| {});
    api.handle(InstanceEvent::Start, at(0));
    api.handle(InstanceEvent::Restart(None), at(1));
    let effects = api.handle(spawned(1), at(2));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::SendStopSignal { .. })));
    api.handle(exited(1, 0), at(3));
    assert!(spawns(&api.handle(tree_checked(1), at(4))));
}

#[test]
fn start_does_not_cancel_deletion() {
    let mut api = online();
    api.handle(InstanceEvent::Delete, at(1));
    api.handle(InstanceEvent::Start, at(2));
    api.handle(InstanceEvent::Stop, at(2));
    api.handle(exited(1, 0), at(3));
    assert!(api.handle(tree_checked(1), at(4)).contains(&Effect::Remove));
}

#[test]
fn crash_loop_ends_errored_with_reason() {
    let mut api = instance(|spec| spec.restart.max_restarts = 10);
    api.handle(InstanceEvent::Start, at(0));
    let mut now = 0;
    for _ in 0..100 {
        match api.status.state.clone() {
            State::Spawning { run, .. } => drop(api.handle(spawned(run), at(now))),
            State::Online { process } => drop(api.handle(exited(process.run, 7), at(now))),
            State::CleaningUp { process, .. } => drop(api.handle(tree_checked(process.run), at(now))),
            State::Waiting { until } => {
                now = until;
                api.handle(InstanceEvent::TimerFired { at: until }, at(now));
            }
            State::Errored { reason } => {
                assert!(
                    reason.contains("10 unstable restarts") && reason.contains("exit code 7"),
                    "{reason}"
                );
                assert_eq!(api.status.restarts, 10);
                return;
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    panic!("never errored");
}

fn cluster() -> Instance {
    let mut api = instance(|spec| spec.hold_port = true);
    api.handle(InstanceEvent::Start, at(0));
    api.handle(spawned(1), at(0));
    assert_eq!(api.status.timer, Some(3000));
    api
}

/// Lets the current run exit, and the next one start at `now`.
fn restart_after_exit(api: &mut Instance, now: u64) {
    let run = api.status.last_run;
    api.handle(exited(run, 1), at(now));
    api.handle(tree_checked(run), at(now));
    if let State::Waiting { until } = api.status.state {
        api.handle(InstanceEvent::TimerFired { at: until }, at(now));
    }
    api.handle(spawned(run + 1), at(now));
}

#[test]
fn app_that_listened_late_gets_more_time() {
    let mut api = cluster();
    api.handle(InstanceEvent::TimerFired { at: 3000 }, at(3000));
    assert!(api.is_online() && !api.status.ready);
    api.handle(InstanceEvent::Listening { run: 1 }, at(5000));
    assert_eq!(api.ready_timeout(), Duration::from_secs(15));
    restart_after_exit(&mut api, 60_000);
    assert!(matches!(api.status.state, State::Starting { .. }));
    assert_eq!(api.status.timer, Some(75_000));
}

#[test]
fn app_that_listens_nowhere_is_not_waited_for_again() {
    let mut api = cluster();
    api.handle(InstanceEvent::TimerFired { at: 3000 }, at(3000));
    api.handle(InstanceEvent::Restart(None), at(60_000));
    api.handle(exited(1, 0), at(60_000));
    api.handle(tree_checked(1), at(60_000));
    api.handle(spawned(2), at(60_000));
    assert!(api.is_online());
    // It may have exited before it would have listened.
    restart_after_exit(&mut api, 61_000);
    assert!(matches!(api.status.state, State::Starting { .. }));
}

#[test]
fn exit_before_readiness_is_recorded_as_such() {
    let mut api = cluster();
    restart_after_exit(&mut api, 1300);
    api.handle(InstanceEvent::Listening { run: 2 }, at(1400));
    restart_after_exit(&mut api, 4000);
    let ready: Vec<bool> = api.status.history.iter().map(|run| run.ready).collect();
    assert_eq!(ready, [false, true]);
    assert_eq!(api.failed_runs(at(4000)), 2);
    api.handle(InstanceEvent::Listening { run: 3 }, at(4100));
    assert_eq!(api.failed_runs(at(40_000)), 0, "the run is healthy");
}

#[test]
fn instance_without_autorestart_stays_stopped() {
    let mut api = instance(|spec| spec.restart.autorestart = false);
    api.handle(InstanceEvent::Start, at(0));
    api.handle(spawned(1), at(0));
    api.handle(exited(1, 0), at(10));
    api.handle(tree_checked(1), at(10));
    assert_eq!((api.status.state.clone(), api.status.want), (State::Stopped, Want::Up));
    assert_eq!(api.status_reason().unwrap(), "exit code 0");
}

#[test]
fn resume_repeats_unfinished_effects() {
    let mut api = online();
    assert_eq!(api.resume(true, at(10)), []);
    let effects = api.resume(false, at(10));
    assert!(effects.contains(&Effect::Publish(Notice::Exited(Exit::Unknown))));
    let mut api = instance(|_| {});
    api.handle(InstanceEvent::Start, at(0));
    assert!(spawns(&api.resume(false, at(1))) && api.status.last_run == 2);
    let mut api = online();
    api.handle(InstanceEvent::Stop, at(5));
    assert_eq!(api.resume(true, at(6)), [Effect::SetTimer { at: 10_005 }]);
}
