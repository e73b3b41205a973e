//! CPU and memory sampling of all runs.
//!
//! A thread reads `/proc`, which takes long for hundreds of apps and must not delay a restart.

use std::collections::HashSet;
use std::io;
use std::sync::mpsc as thread_mpsc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::daemon::supervisor::handle::SupervisorHandle;
use crate::daemon::supervisor::{Input, SampleRequest, SampleTarget};
use crate::daemon::world::limits::ResourceLimiter;
use crate::exit::Exit;
use crate::instance::event::InstanceEvent;
use crate::instance::status::RunId;
use crate::metrics::Sampler;
use crate::process::process_ref::ProcessRef;
use crate::process::wait::{self, WaitStatus};
use crate::time;

/// Time between samples; half of it if an app has a memory limit.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// Samples until the loop ends.
///
/// # Errors
/// The system cannot start a thread.
pub async fn run_sampling(
    handle: SupervisorHandle,
    queue: mpsc::UnboundedSender<Input>,
    limiter: ResourceLimiter,
) -> io::Result<()> {
    let (sender, requests) = thread_mpsc::channel::<Vec<SampleTarget>>();
    let builder = std::thread::Builder::new().name("rsm-metrics".into()).stack_size(256 * 1024);
    builder.spawn(move || {
        let (mut sampler, mut traced) = (Sampler::new(), TracedExits::default());
        while let Ok(targets) = requests.recv() {
            let process =
                |target: SampleTarget| (target.run.to_u64(), target.process.pid, target.process.start_time);
            let targets: Vec<_> = targets.into_iter().map(process).collect();
            let samples = sampler.sample(time::now().mono, &targets);
            let sampled: HashSet<u64> = samples.iter().map(|(run, _)| *run).collect();
            let missing: Vec<_> = targets.into_iter().filter(|(run, ..)| !sampled.contains(run)).collect();
            for (run, exit) in traced.find_ended(&missing) {
                let (run, event) = (RunId::from_u64(run), |run| InstanceEvent::Exited { run, exit });
                let _ = queue.send(Input::InstanceEvent { instance: run.instance, event: event(run.number) });
            }
            let samples = samples.into_iter().map(|(run, usage)| (RunId::from_u64(run), usage)).collect();
            let _ = queue.send(Input::UsageSampled(samples));
        }
    })?;
    loop {
        let Ok(SampleRequest { targets, has_limits }) = handle.running_targets().await else { return Ok(()) };
        let _ = sender.send(targets);
        limiter.record_oom_kills();
        tokio::time::sleep(if has_limits { SAMPLE_INTERVAL / 2 } else { SAMPLE_INTERVAL }).await;
    }
}

/// Ended leaders that the keeper cannot reap, because a debugger traces them and has not reaped them.
#[derive(Default)]
struct TracedExits(HashSet<u64>);

impl TracedExits {
    /// The runs that ended so before the previous search: a debugger usually reaps at once.
    fn find_ended(&mut self, runs: &[(u64, i32, u64)]) -> Vec<(u64, Exit)> {
        let status = |(run, pid, start_time): &(u64, i32, u64)| {
            let process = ProcessRef { pid: *pid, start_time: *start_time };
            Some((*run, wait::traced_zombie_status(process)?))
        };
        let found: Vec<(u64, WaitStatus)> = runs.iter().filter_map(status).collect();
        let previous = std::mem::replace(&mut self.0, found.iter().map(|(run, _)| *run).collect());
        let ended = found.into_iter().filter(|(run, _)| previous.contains(run));
        ended.map(|(run, status)| (run, exit(status))).collect()
    }
}

fn exit(status: WaitStatus) -> Exit {
    match status {
        WaitStatus::Exited(code) => Exit::Code(code),
        WaitStatus::Signaled(number, core) => Exit::Signal { number, core, oom: false },
        WaitStatus::Unknown => Exit::Unknown,
    }
}
