//! CPU and memory sampling of all runs.
//!
//! A thread reads `/proc`, which takes long for hundreds of apps and must not delay a restart.

use std::io;
use std::sync::mpsc as thread_mpsc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::daemon::supervisor::handle::SupervisorHandle;
use crate::daemon::supervisor::{Input, SampleRequest, SampleTarget};
use crate::daemon::world::limits::ResourceLimiter;
use crate::instance::status::RunId;
use crate::metrics::Sampler;
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
        let mut sampler = Sampler::new();
        while let Ok(targets) = requests.recv() {
            let process =
                |target: SampleTarget| (target.run.to_u64(), target.process.pid, target.process.start_time);
            let targets: Vec<_> = targets.into_iter().map(process).collect();
            let samples = sampler.sample(time::now().mono, &targets);
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
