//! A disk that does not respond: a FUSE file system served by a script.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{need_root, wait_until};

const SERVER: &str = include_str!("stall_fs.py");

/// The mounted file system. Dropping it ends all calls that wait for it.
pub struct StalledDisk {
    directory: tempfile::TempDir,
    server: Child,
}

impl StalledDisk {
    /// Mounts it. Requires root and `/dev/fuse`.
    pub fn mount() -> Self {
        need_root();
        assert!(Path::new("/dev/fuse").exists(), "this test needs /dev/fuse");
        let directory = tempfile::Builder::new().prefix("rsm-stall-").tempdir().unwrap();
        let mut command = Command::new("python3");
        command.args(["-c", SERVER]).arg(directory.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut server = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "mounted\n");
        Self { directory, server }
    }

    /// A file of one page. Reading it does not end.
    pub fn page(&self) -> PathBuf {
        self.directory.path().join("page")
    }

    /// A directory in which no look-up ends.
    pub fn dead_directory(&self) -> PathBuf {
        self.directory.path().join("dead")
    }

    /// Lets the disk respond.
    pub fn release(&mut self) {
        self.server.stdin.as_mut().unwrap().write_all(b"release\n").unwrap();
    }
}

impl Drop for StalledDisk {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let unmount = || {
            let done = Command::new("umount").arg("-l").arg(self.directory.path()).status();
            done.is_ok_and(|status| status.success()).then_some(())
        };
        wait_until("the file system is unmounted", unmount);
    }
}
