//! The environment that a process was executed with.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::process::detached::GuardedThread;

use super::stat::{Stat, open_stat};

/// Maximum size of an environment to read. `execve` accepts up to about 6 MiB, but a process can map its
/// environment anywhere (`PR_SET_MM`).
const MAX_ENVIRON: usize = 8 << 20;

/// Buffer that fits most environments.
const TYPICAL_ENVIRON: usize = 32 << 10;

/// How long reading an environment may take.
const READ_TIMEOUT: Duration = Duration::from_millis(500);

thread_local! {
    static READER: RefCell<GuardedThread<i32, Option<Vec<u8>>>> =
        const { RefCell::new(GuardedThread::new(environ)) };
}

/// Maximum number of reads while the process is in `execve`, which takes milliseconds.
const MAX_EXEC_RETRIES: u32 = 1000;

/// The value of a variable in the environment that a process was executed with, if that may be read.
///
/// A process can map a file of a FUSE file system over its environment, so that reading it blocks.
pub fn env_var(pid: i32, name: &str) -> Option<String> {
    let subject = format!("reading the environment of process {pid}");
    let environment = READER.with_borrow_mut(|reader| reader.call(&subject, READ_TIMEOUT, pid))??;
    let value = |line: &[u8]| Some(line.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?.to_vec());
    let value = environment.split(|byte| *byte == 0).find_map(value)?;
    String::from_utf8(value).ok()
}

/// During `execve` a process has no environment for a moment. If that were treated as an empty environment, a
/// process with a run marker would not be found.
fn environ(pid: i32) -> Option<Vec<u8>> {
    for _ in 0..MAX_EXEC_RETRIES {
        let environment = read_environ(pid).ok()?;
        if !environment.is_empty() || is_environ_empty(pid)? {
            return Some(environment);
        }
        std::thread::yield_now();
    }
    None
}

/// Reads the environment with a single call: if the process executes another program between two reads, the
/// second one returns nothing.
fn read_environ(pid: i32) -> io::Result<Vec<u8>> {
    let file = File::open(format!("/proc/{pid}/environ"))?;
    let mut bytes = vec![0; TYPICAL_ENVIRON];
    loop {
        let length = file.read_at(&mut bytes, 0)?;
        if length < bytes.len() || length >= MAX_ENVIRON {
            bytes.truncate(length);
            return Ok(bytes);
        }
        bytes.resize(length * 4, 0);
    }
}

/// Whether the process has an environment, and it is empty; `None` if the process has exited.
fn is_environ_empty(pid: i32) -> Option<bool> {
    let mut buffer = [0; 1024];
    let length = open_stat(pid).ok()?.read_at(&mut buffer, 0).ok()?;
    let text = &buffer[..length];
    if Stat::parse(text)?.is_dead() {
        return None;
    }
    // Fields 26, 50 and 51: start of the code, start and end of the environment. `execve` sets the first one
    // after the environment; on some kernels start and end of the environment are equal before that.
    let end = text.iter().rposition(|byte| *byte == b')')?;
    let mut fields = text[end + 1..].split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
    let (code, start, end) = (fields.nth(23)?, fields.nth(23)?, fields.next()?);
    Some(code != b"0" && start != b"0" && start == end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::fixture::{Fixture, wait_until};

    #[test]
    fn env_var_is_none_if_unset() {
        let me = std::process::id().cast_signed();
        assert!(env_var(me, "PATH").is_some() && env_var(me, "NO_SUCH_NAME").is_none());
    }

    #[test]
    fn env_var_is_found_during_execve() {
        // The shell executes itself in a loop, so that most reads are close to an `execve`.
        let mut app = Fixture::sh("export AGAIN='exec sh -c \"$AGAIN\"'; echo x; eval \"$AGAIN\"");
        app.line();
        for _ in 0..2000 {
            assert_eq!(env_var(app.leader().pid, "RSM_RUN"), Some(format!("{}@/fixture", app.run)));
        }
    }

    #[test]
    fn env_var_is_none_in_empty_environment() {
        let mut app = Fixture::sh("env -i sleep 1000 & echo $!; read _");
        let bare = app.process();
        let cmdline = format!("/proc/{}/cmdline", bare.pid);
        wait_until(|| std::fs::read(&cmdline).unwrap().starts_with(b"sleep"));
        assert_eq!(env_var(bare.pid, "RSM_RUN"), None);
    }
}
