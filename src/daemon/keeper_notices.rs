//! Notices of the keeper, translated into inputs of the supervisor.

use std::io;

use tokio::sync::mpsc;

use crate::daemon::shutdown::Shutdown;
use crate::daemon::supervisor::Input;
use crate::daemon::world::keeper_link::KeeperLink;
use crate::daemon::world::limits::ResourceLimiter;
use crate::daemon::world::ports::Notifiers;
use crate::exit::{Exit, StartFailure, StartStep};
use crate::instance::event::InstanceEvent;
use crate::instance::status::RunId;
use crate::keeper::protocol::{FdRole, KeeperNotice, RoleFd, take_fd};
use crate::process::wait::WaitStatus;

/// What receives the notices.
pub struct KeeperNotices {
    pub link: KeeperLink,
    pub queue: mpsc::UnboundedSender<Input>,
    pub notifiers: Notifiers,
    pub limiter: ResourceLimiter,
    pub shutdown: Shutdown,
}

impl KeeperNotices {
    /// Handles notices until the keeper is dead, whose error it returns.
    pub async fn run(self) -> io::Error {
        loop {
            match self.link.receive().await {
                Ok((notice, fds)) => self.handle(notice, fds),
                Err(error) => return error,
            }
        }
    }

    fn handle(&self, notice: KeeperNotice, fds: Vec<RoleFd>) {
        let (run, event) = match notice {
            KeeperNotice::Spawned { run, pid, start_time } => {
                let notifier = take_fd(fds, FdRole::Notifier);
                self.notifiers.borrow_mut().extend(notifier.map(|fd| (run, fd)));
                let run = RunId::from_u64(run);
                (run, InstanceEvent::Spawned { run: run.number, pid, start_time })
            }
            KeeperNotice::SpawnFailed { run, step, errno } => {
                let run = RunId::from_u64(run);
                let failure = StartFailure { step: start_step(step), errno, subject: String::new() };
                (run, InstanceEvent::SpawnFailed { run: run.number, failure })
            }
            KeeperNotice::Exited { run, status } => {
                let run = RunId::from_u64(run);
                (run, InstanceEvent::Exited { run: run.number, exit: self.exit(run, status) })
            }
            KeeperNotice::Terminate => return self.shutdown.request(),
            KeeperNotice::Hello { .. }
            | KeeperNotice::Run { .. }
            | KeeperNotice::StoredFd { .. }
            | KeeperNotice::SyncDone => return,
        };
        let _ = self.queue.send(Input::InstanceEvent { instance: run.instance, event });
    }

    fn exit(&self, run: RunId, status: WaitStatus) -> Exit {
        match status {
            WaitStatus::Exited(code) => Exit::Code(code),
            WaitStatus::Signaled(number, core) => {
                let oom = number == libc::SIGKILL && self.limiter.was_oom_killed(run);
                Exit::Signal { number, core, oom }
            }
            WaitStatus::Unknown => Exit::Unknown,
        }
    }
}

/// The step with this number; a newer keeper may know more steps.
fn start_step(number: u64) -> StartStep {
    let step = usize::try_from(number).ok().and_then(|number| StartStep::ALL.get(number));
    step.copied().unwrap_or(StartStep::Exec)
}
