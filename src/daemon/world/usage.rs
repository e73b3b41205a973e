//! Samples what every run's tree uses, once or twice a second, on a thread of its own: reading
//! `/proc` for hundreds of apps must not hold up a restart.

use std::io;
use std::sync::mpsc as thread_mpsc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::daemon::supervisor::handle::SupervisorHandle;
use crate::daemon::supervisor::{Input, SampleRequest, SampleTarget};
use crate::daemon::world::limits::ResourceLimiter;
use crate::instance::status::RunId;
use crate::metrics::Sampler;

/// Between two samples. Twice that often where there are limits of memory to watch.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// Runs for as long as the daemon does.
///
/// # Errors
/// No thread could be started.
pub async fn start_sampling(
    handle: SupervisorHandle,
    queue: mpsc::UnboundedSender<Input>,
    limiter: ResourceLimiter,
) -> io::Result<()> {
    let (ask, asked) = thread_mpsc::channel::<Vec<SampleTarget>>();
    let builder = std::thread::Builder::new().name("rsm-metrics".into()).stack_size(256 * 1024);
    builder.spawn(move || {
        let mut sampler = Sampler::new();
        while let Ok(runs) = asked.recv() {
            let targets: Vec<_> = runs
                .iter()
                .map(|target| (target.run.to_u64(), target.process.pid, target.process.start_time))
                .collect();
            let samples = sampler.sample(crate::time::now().mono, &targets);
            let samples = samples.into_iter().map(|(run, usage)| (RunId::from_u64(run), usage)).collect();
            let _ = queue.send(Input::UsageSampled(samples));
        }
    })?;
    loop {
        let Ok(SampleRequest { targets, has_limits }) = handle.running_targets().await else { return Ok(()) };
        let _ = ask.send(targets);
        limiter.record_oom_kills();
        tokio::time::sleep(if has_limits { SAMPLE_INTERVAL / 2 } else { SAMPLE_INTERVAL }).await;
    }
}
