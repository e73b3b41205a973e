//! The `PATH` of the user's login shell.
//!
//! An init system starts programs with a minimal `PATH`. The startup files of the login shell add the
//! directories of interpreters: nvm, asdf and similar tools add directories with a version in their name. The
//! shell runs at each start, so that a unit never contains a directory that an update has removed.

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, User, geteuid};

/// A shell that takes longer probably waits for input in one of its startup files.
const SHELL_TIMEOUT: Duration = Duration::from_secs(10);
/// Encloses the value in the output: startup files print too.
const PATH_MARKER: &str = "--rsm-path--";
/// Longer than any `PATH`; limits the output of a startup file that prints endlessly. Bytes.
const MAX_OUTPUT: usize = 1 << 20;

/// The `PATH` of this user's login shell; `None` if the shell does not print it in time.
pub fn login_path() -> Option<OsString> {
    let user = User::from_uid(geteuid()).ok().flatten()?;
    // These shells only print a refusal.
    if ["nologin", "false"].iter().any(|no| user.shell.ends_with(no)) {
        return None;
    }
    run_login_shell(user.shell.as_os_str().to_owned(), &user.dir.into_os_string())
}

fn run_login_shell(shell: OsString, home: &OsString) -> Option<OsString> {
    let mut command = Command::new(shell);
    // Also interactive: otherwise Debian's .bashrc, to which nvm adds itself, returns immediately.
    command.args(["-l", "-i", "-c", &format!("printf '%s' '{PATH_MARKER}' \"$PATH\" '{PATH_MARKER}'")]);
    command.env("HOME", home).current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let group = Pid::from_raw(child.id().cast_signed());
    let output = child.stdout.take().map(|mut out| read_output(&mut out)).unwrap_or_default();
    let _ = killpg(group, Signal::SIGKILL); // also what its startup files started in the background
    let _ = child.wait();
    parse_marked(&output)
}

/// Reads until both markers are found, the end of file, or the timeout.
fn read_output(out: &mut (impl Read + AsFd)) -> Vec<u8> {
    let (start, mut output, mut block) = (Instant::now(), Vec::new(), [0; 4096]);
    while parse_marked(&output).is_none() && output.len() < MAX_OUTPUT {
        let left = SHELL_TIMEOUT.saturating_sub(start.elapsed()).as_millis();
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut fds = [PollFd::new(out.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) => break,
            Err(nix::errno::Errno::EINTR) => continue,
            Err(_) => break,
            Ok(_) => {}
        }
        match out.read(&mut block) {
            Ok(0) | Err(_) => break,
            Ok(count) => output.extend_from_slice(&block[..count]),
        }
    }
    output
}

fn parse_marked(output: &[u8]) -> Option<OsString> {
    let start = memchr::memmem::find(output, PATH_MARKER.as_bytes())? + PATH_MARKER.len();
    let length = memchr::memmem::find(&output[start..], PATH_MARKER.as_bytes())?;
    (length > 0).then(|| OsString::from_vec(output[start..start + length].to_vec()))
}

/// Joins two lists of directories without duplicates; the order of `first` has priority.
pub fn join_paths(first: &str, second: &str) -> String {
    let mut dirs: Vec<&str> = Vec::new();
    for dir in first.split(':').chain(second.split(':')) {
        if !dir.is_empty() && !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    dirs.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_path_from_profile() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(".profile"), "echo hello\nPATH=/opt/node-20/bin:$PATH\n").unwrap();
        let path = run_login_shell("/bin/sh".into(), &home.path().as_os_str().to_owned()).unwrap();
        assert!(path.to_string_lossy().starts_with("/opt/node-20/bin:/"), "{path:?}");
    }

    #[test]
    fn returns_none_without_usable_shell() {
        assert_eq!(run_login_shell("/bin/true".into(), &"/".into()), None);
        assert_eq!(run_login_shell("/no/shell".into(), &"/".into()), None);
    }

    #[test]
    fn joins_paths_without_duplicates() {
        assert_eq!(join_paths("/a:/b", "/b:/c:"), "/a:/b:/c");
        assert_eq!(join_paths("", "/c"), "/c");
    }
}
