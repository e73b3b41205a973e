//! Samples what every run's tree uses, about once a second, on a thread of its own: reading
//! `/proc` for hundreds of apps must not hold up a restart.

use std::io;
use std::sync::mpsc as thread_mpsc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::clock;
use super::handle::Handle;
use super::supervisor::Input;
use crate::instance::life::RunId;
use crate::metrics::Sampler;

/// Between two samples.
const EVERY: Duration = Duration::from_secs(1);

/// Runs for as long as the daemon does.
///
/// # Errors
/// No thread could be started.
pub async fn sample(handle: Handle, queue: mpsc::UnboundedSender<Input>) -> io::Result<()> {
    let (ask, asked) = thread_mpsc::channel::<Vec<(u64, i32, u64)>>();
    let builder = std::thread::Builder::new().name("rsm-metrics".into()).stack_size(256 * 1024);
    builder.spawn(move || {
        let mut sampler = Sampler::new();
        while let Ok(runs) = asked.recv() {
            let samples = sampler.sample(clock::now().mono, &runs);
            let samples = samples.into_iter().map(|(run, usage)| (RunId::from_u64(run), usage)).collect();
            let _ = queue.send(Input::Sampled(samples));
        }
    })?;
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Ok(runs) = handle.running().await else { return Ok(()) };
        let _ = ask.send(runs);
    }
}
