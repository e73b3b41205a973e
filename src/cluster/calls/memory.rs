//! Reading the memory of programs. A page of a file on a disk that does not respond, or of a FUSE file system of the
//! program itself, blocks the reader: it must not be the thread of the engine.

use std::cell::RefCell;
use std::time::Duration;

use nix::errno::Errno;

use crate::cluster::engine::Engine;
use crate::process::detached::GuardedThread;
use crate::process::seccomp::{Notification, read_memory};

/// How long a read may take. All other calls wait meanwhile, once for each run that blocks.
const READ_TIMEOUT: Duration = Duration::from_millis(300);

type ReadRequest = (i32, u64, usize);

thread_local! {
    static READER: RefCell<GuardedThread<ReadRequest, nix::Result<Vec<u8>>>> =
        const { RefCell::new(GuardedThread::new(read)) };
}

fn read((thread, address, length): ReadRequest) -> nix::Result<Vec<u8>> {
    read_memory(thread, address, length)
}

impl Engine {
    /// Copies `length` bytes at `address` of the caller's memory.
    ///
    /// # Errors
    /// `EFAULT`: a part is not mapped. `EPERM`: not permitted. `ETIMEDOUT`: the memory does not respond.
    pub(crate) fn read_caller_memory(
        &self,
        run: u64,
        call: &Notification,
        address: u64,
        length: usize,
    ) -> nix::Result<Vec<u8>> {
        let app = self.state.run(run).map_or("", |entry| &entry.app);
        let subject = format!("reading the memory of app {app} (run {run})");
        let request = (call.tid, address, length);
        let read = READER.with_borrow_mut(|reader| reader.call(&subject, READ_TIMEOUT, request));
        read.unwrap_or(Err(Errno::ETIMEDOUT))
    }
}
