//! The `PATH` that this user has after logging in.
//!
//! An init system starts programs with a bare `PATH`. Where interpreters are is set up by what the login shell
//! reads: nvm, asdf and their like put a directory there that bears a version. It is asked at each start, so
//! that a unit never names what an update has removed.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, User, geteuid};
use std::os::fd::AsFd;

/// A shell that takes longer has something in its files that waits for a person.
const PATIENCE: Duration = Duration::from_secs(10);
/// Stands around the answer: profiles print, too.
const MARK: &str = "--rsm-path--";
/// No PATH is longer; what a profile prints endlessly is not read on.
const LONGEST: usize = 1 << 20;

/// What the login shell of this user has in `PATH`; none if it has no shell that answers in time.
pub fn path() -> Option<OsString> {
    let user = User::from_uid(geteuid()).ok().flatten()?;
    // Those say no and end.
    if ["nologin", "false"].iter().any(|no| user.shell.ends_with(no)) {
        return None;
    }
    ask(user.shell.as_os_str().to_owned(), &user.dir.into_os_string())
}

fn ask(shell: OsString, home: &OsString) -> Option<OsString> {
    let mut command = Command::new(shell);
    // Interactive, too: Debian's .bashrc, where nvm writes itself, ends at once otherwise.
    command.args(["-l", "-i", "-c", &format!("printf '%s' '{MARK}' \"$PATH\" '{MARK}'")]);
    command.env("HOME", home).current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let group = Pid::from_raw(child.id().cast_signed());
    let said = child.stdout.take().map(|mut out| read(&mut out)).unwrap_or_default();
    let _ = killpg(group, Signal::SIGKILL); // what its files started in the background, too
    let _ = child.wait();
    between(&said)
}

/// What is said until the answer is complete, the end, or the time is up.
fn read(out: &mut (impl Read + AsFd)) -> Vec<u8> {
    let (begin, mut said, mut block) = (Instant::now(), Vec::new(), [0; 4096]);
    while between(&said).is_none() && said.len() < LONGEST {
        let left = PATIENCE.saturating_sub(begin.elapsed()).as_millis();
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
            Ok(count) => said.extend_from_slice(&block[..count]),
        }
    }
    said
}

fn between(said: &[u8]) -> Option<OsString> {
    let begin = memchr::memmem::find(said, MARK.as_bytes())? + MARK.len();
    let length = memchr::memmem::find(&said[begin..], MARK.as_bytes())?;
    (length > 0).then(|| OsString::from_vec(said[begin..begin + length].to_vec()))
}

/// Two lists of directories as one; what is in both stays where it is in the first.
pub fn joined(first: &str, then: &str) -> String {
    let mut dirs: Vec<&str> = Vec::new();
    for dir in first.split(':').chain(then.split(':')) {
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
    fn a_profile_says_where_programs_are() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join(".profile"), "echo hello\nPATH=/opt/node-20/bin:$PATH\n").unwrap();
        let path = ask("/bin/sh".into(), &home.path().as_os_str().to_owned()).unwrap();
        assert!(path.to_string_lossy().starts_with("/opt/node-20/bin:/"), "{path:?}");
    }

    #[test]
    fn a_shell_that_is_none_has_no_answer() {
        assert_eq!(ask("/bin/true".into(), &"/".into()), None);
        assert_eq!(ask("/no/shell".into(), &"/".into()), None);
    }

    #[test]
    fn lists_of_directories_are_joined() {
        assert_eq!(joined("/a:/b", "/b:/c:"), "/a:/b:/c");
        assert_eq!(joined("", "/c"), "/c");
    }
}
