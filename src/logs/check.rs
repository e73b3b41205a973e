//! Finds out whether log files can be written, on a thread that may be held up by a slow disk.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use tokio::sync::oneshot;

use super::files::{Files, check};

/// After so long an app is started all the same: its files are opened when its first line comes,
/// and until then that line waits in its pipe.
const LONGEST: Duration = Duration::from_secs(2);

/// The first file that cannot be written, and why.
pub type Refused = (PathBuf, io::Error);

/// The handle of the thread, which ends with the last one.
#[derive(Clone, Debug)]
pub(super) struct Checker(Sender<(Files, oneshot::Sender<Result<(), Refused>>)>);

impl Checker {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start() -> io::Result<Self> {
        let (asks, asked) = channel::<(Files, oneshot::Sender<_>)>();
        std::thread::Builder::new().name("rsm-files".into()).spawn(move || {
            for (files, answer) in asked {
                // Whoever asked may have stopped waiting.
                let _ = answer.send(check(&files));
            }
        })?;
        Ok(Self(asks))
    }

    /// Makes files and the directories they lie in.
    ///
    /// # Errors
    /// The first file that cannot be written. A disk that does not answer is no error.
    pub(super) async fn check(&self, files: Files) -> Result<(), Refused> {
        let (answer, answered) = oneshot::channel();
        if self.0.send((files, answer)).is_err() {
            return Ok(());
        }
        match tokio::time::timeout(LONGEST, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Ok(()),
            Err(_) => {
                tracing::warn!("the disk of the logs does not answer; apps are started all the same");
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_written_is_named() {
        let checker = Checker::start().unwrap();
        let files = |path: &str| Files { out: Some(path.into()), ..Files::default() };
        assert!(checker.check(files("/dev/null")).await.is_ok());
        let (path, _) = checker.check(files("/dev/null/a.log")).await.unwrap_err();
        assert_eq!(path, PathBuf::from("/dev/null/a.log"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_does_not_answer_holds_nobody_up() {
        let (asks, _asked) = channel();
        assert!(Checker(asks).check(Files::default()).await.is_ok());
    }
}
