//! How one keeper becomes another without its apps noticing: it writes all it has into a memory
//! file and executes the next one, which finds file and descriptors open.
//!
//! The same process goes on, so that it stays the parent of the apps: this is the keeper's part of an
//! upgrade. A daemon whose keeper has died goes the same way: it becomes the keeper, of apps
//! that are children of someone else by then.
//!
//! The file holds fixed words, as the wire does. [`HANDOVER`] is its version: a binary is asked
//! whether it can read it before it is executed.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::runs::{Bond, Run, Runs};
use super::vault::Vault;
use super::wire::Upgrade;
use crate::exit::StartStep;
use crate::process::fd_channel;
use crate::process::oom_score;
use crate::process::process_ref::ProcessRef;
use crate::process::spawn;
use crate::process::spawn::report::StartReport;
use crate::process::wait::PidfdWatch;
use crate::process::wait::WaitStatus;

/// Version of the file's layout.
pub const HANDOVER: u64 = 1;

/// A descriptor or number that is not there.
const NONE: u64 = u64::MAX;

/// What a keeper leaves to the next one, as it has it.
pub struct Leaving<'a> {
    /// The API's socket.
    pub listener: BorrowedFd<'a>,
    /// The lock that one keeper at a time holds; none if its holder is dead.
    pub lock: Option<BorrowedFd<'a>>,
    /// The daemon that goes on: its pid and the channel to it.
    pub daemon: Option<(i32, BorrowedFd<'a>)>,
    /// The runs. Those that are children stay so in the same process only.
    pub runs: &'a Runs,
    /// The stored descriptors.
    pub vault: &'a Vault,
    /// A shutdown is under way.
    pub terminate: bool,
    /// What came of the last upgrade.
    pub upgrade: Upgrade,
    /// The limit of open files that apps are given.
    pub nofile: Option<(u64, u64)>,
}

/// The same, as it arrives.
#[derive(Debug)]
pub struct Arrived {
    /// As in [`Leaving`].
    pub listener: OwnedFd,
    /// As in [`Leaving`].
    pub lock: Option<OwnedFd>,
    /// As in [`Leaving`].
    pub daemon: Option<(i32, OwnedFd)>,
    /// As in [`Leaving`].
    pub runs: Runs,
    /// As in [`Leaving`].
    pub vault: Vault,
    /// As in [`Leaving`].
    pub terminate: bool,
    /// It is not the parent of the runs that are there.
    pub succeeds: bool,
    /// As in [`Leaving`].
    pub upgrade: Upgrade,
    /// As in [`Leaving`].
    pub nofile: Option<(u64, u64)>,
}

impl Leaving<'_> {
    /// Goes on as the keeper of this program. `same_parent`: whoever executes it is the parent of
    /// the runs that are children.
    ///
    /// Only returns if that fails; nothing is changed then.
    pub fn become_keeper(&self, program: &Path, same_parent: bool) -> Errno {
        let mut words = Words::default();
        self.write(&mut words, same_parent);
        let Ok(file) = memfd_create(c"rsm-handover", MFdFlags::MFD_CLOEXEC) else { return Errno::last() };
        let mut file = File::from(file);
        if file.write_all(&words.bytes).is_err() {
            return Errno::ENOMEM;
        }
        words.descriptors.push(file.as_raw_fd());
        let argument = file.as_raw_fd().to_string();
        spawn::exec_with_fds(program, &["rsm", "keeper", "--resume", &argument], &words.descriptors)
    }

    fn write(&self, to: &mut Words, same_parent: bool) {
        to.put(HANDOVER);
        to.put(u64::from(self.terminate) | u64::from(!same_parent) << 1);
        to.put(self.upgrade as u64);
        to.put(oom_score::inherited_score().map_or(NONE, number));
        to.descriptor(Some(self.listener));
        to.descriptor(self.lock);
        to.put(self.daemon.map_or(NONE, |(pid, _)| number(pid)));
        to.descriptor(self.daemon.map(|(_, channel)| channel));
        let (soft, hard) = self.nofile.unwrap_or((NONE, NONE));
        to.put(soft);
        to.put(hard);
        let vault: Vec<_> = self.vault.iter().collect();
        to.put(vault.len() as u64);
        for (name, fd) in vault {
            to.descriptor(Some(fd));
            to.text(name);
        }
        to.put(self.runs.iter().len() as u64);
        for run in self.runs.iter() {
            write_run(run, to, same_parent);
        }
    }
}

fn write_run(run: &Run, to: &mut Words, same_parent: bool) {
    let child = same_parent && matches!(run.bond, Bond::Child);
    to.put(run.id);
    to.put(number(run.process.pid));
    to.put(run.process.start_time);
    to.put(u64::from(child) | u64::from(run.owes_start) << 1 | u64::from(run.owes_end) << 2);
    to.descriptor(run.report.as_ref().map(AsFd::as_fd));
    to.descriptor(run.notifier.as_ref().map(AsFd::as_fd));
    let (step, errno) = run.failed.map_or((NONE, 0), |(step, errno)| (step as u64, number(errno)));
    to.put(step);
    to.put(errno);
    let (kind, value, core) = match run.ended {
        None => (NONE, 0, false),
        Some(WaitStatus::Exited(code)) => (0, number(code), false),
        Some(WaitStatus::Signaled(signal, core)) => (1, number(signal), core),
        Some(WaitStatus::Unknown) => (2, 0, false),
    };
    to.put(kind);
    to.put(value);
    to.put(u64::from(core));
    to.put(run.kept.len() as u64);
    for fd in &run.kept {
        to.descriptor(Some(fd.as_fd()));
    }
}

impl Arrived {
    /// Reads what the one before left. The descriptor is the memory file's.
    ///
    /// # Errors
    /// It is of another version, damaged, or names descriptors that are not open.
    pub fn read(file: RawFd) -> nix::Result<Self> {
        let file = File::from(fd_channel::take_inherited_fd(file)?);
        let length = file.metadata().map_err(|_| Errno::EIO)?.len();
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| Errno::EFBIG)?];
        file.read_exact_at(&mut bytes, 0).map_err(|_| Errno::EIO)?;
        let mut from = Reader(&bytes);
        if from.take()? != HANDOVER {
            return Err(Errno::EPROTO);
        }
        let flags = from.take()?;
        let upgrade = Upgrade::from_word(from.take()?).ok_or(Errno::EBADMSG)?;
        let oom = from.take()?;
        oom_score::set_inherited_score((oom != NONE).then_some(oom as i32));
        let listener = from.descriptor()?.ok_or(Errno::EBADMSG)?;
        let lock = from.descriptor()?;
        let (pid, channel) = (from.take()?, from.descriptor()?);
        let nofile = Some((from.take()?, from.take()?)).filter(|(soft, _)| *soft != NONE);
        let mut vault = Vault::default();
        for _ in 0..from.take()? {
            let fd = from.descriptor()?;
            vault.store(from.text()?, fd);
        }
        let mut runs = Runs::default();
        for _ in 0..from.take()? {
            runs.push(read_run(&mut from)?);
        }
        let daemon = channel.map(|channel| (pid as i32, channel));
        let (terminate, succeeds) = (flags & 1 != 0, flags & 2 != 0);
        Ok(Self { listener, lock, daemon, runs, vault, terminate, succeeds, upgrade, nofile })
    }
}

fn read_run(from: &mut Reader<'_>) -> nix::Result<Run> {
    let id = from.take()?;
    let process = ProcessRef { pid: from.take()? as i32, start_time: from.take()? };
    let flags = from.take()?;
    let report = from.descriptor()?.map(StartReport::from_fd);
    let notifier = from.descriptor()?;
    let (step, errno) = (from.take()?, from.take()? as i32);
    let (kind, value, core) = (from.take()?, from.take()? as i32, from.take()? != 0);
    let kept = (0..from.take()?).filter_map(|_| from.descriptor().transpose()).collect::<Result<_, _>>()?;
    let failed =
        usize::try_from(step).ok().and_then(|step| StartStep::ALL.get(step)).map(|step| (*step, errno));
    let mut ended = match kind {
        0 => Some(WaitStatus::Exited(value)),
        1 => Some(WaitStatus::Signaled(value, core)),
        2 => Some(WaitStatus::Unknown),
        _ => None,
    };
    let mut owes_end = flags & 4 != 0;
    let bond = match (flags & 1 != 0, ended) {
        (true, _) => Bond::Child,
        (false, Some(_)) => Bond::None,
        (false, None) if failed.is_some() => Bond::None,
        (false, None) => PidfdWatch::new(process).map_or_else(
            |_| {
                (ended, owes_end) = (Some(WaitStatus::Unknown), true);
                Bond::None
            },
            Bond::Foreign,
        ),
    };
    let owes_start = flags & 2 != 0;
    Ok(Run { report, notifier, ended, failed, owes_start, owes_end, ..Run::new(id, process, kept, bond) })
}

fn number(number: i32) -> u64 {
    u64::from(number.cast_unsigned())
}

/// The file while it is written.
#[derive(Default)]
struct Words {
    bytes: Vec<u8>,
    descriptors: Vec<RawFd>,
}

impl Words {
    fn put(&mut self, word: u64) {
        self.bytes.extend_from_slice(&word.to_ne_bytes());
    }

    fn descriptor(&mut self, fd: Option<BorrowedFd<'_>>) {
        let fd = fd.map(|fd| fd.as_raw_fd());
        self.descriptors.extend(fd);
        self.put(fd.map_or(NONE, number));
    }

    fn text(&mut self, text: &str) {
        self.put(text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
    }
}

/// The file while it is read.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take(&mut self) -> nix::Result<u64> {
        let (word, rest) = self.0.split_first_chunk::<8>().ok_or(Errno::EBADMSG)?;
        self.0 = rest;
        Ok(u64::from_ne_bytes(*word))
    }

    fn descriptor(&mut self) -> nix::Result<Option<OwnedFd>> {
        match self.take()? {
            NONE => Ok(None),
            fd => fd_channel::take_inherited_fd(fd as i32).map(Some),
        }
    }

    fn text(&mut self) -> nix::Result<String> {
        let length = usize::try_from(self.take()?).map_err(|_| Errno::EBADMSG)?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(Errno::EBADMSG)?;
        self.0 = rest;
        std::str::from_utf8(text).map(str::to_owned).map_err(|_| Errno::EBADMSG)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    fn null() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn what_is_left_arrives() {
        let me = ProcessRef::of(std::process::id().cast_signed()).unwrap();
        let mut runs = Runs::default();
        runs.push(Run { owes_start: true, ..Run::new(1, me, vec![null(), null()], Bond::Child) });
        let gone = ProcessRef { start_time: me.start_time + 1, ..me };
        runs.push(Run::new(2, gone, vec![null()], Bond::Child));
        let ended = Some(WaitStatus::Signaled(9, true));
        runs.push(Run { ended, owes_end: true, ..Run::new(3, gone, Vec::new(), Bond::Child) });
        let mut vault = Vault::default();
        vault.store("槽 1".into(), Some(null()));
        let (listener, channel) = (null(), null());
        let leaving = Leaving {
            listener: listener.as_fd(),
            lock: None,
            daemon: Some((7, channel.as_fd())),
            runs: &runs,
            vault: &vault,
            terminate: true,
            upgrade: Upgrade::Died,
            nofile: Some((1024, 4096)),
        };
        let mut words = Words::default();
        leaving.write(&mut words, false);
        let file = memfd_create(c"test", MFdFlags::empty()).unwrap();
        nix::unistd::write(&file, &words.bytes).unwrap();
        // `read` takes the descriptors for its own, as after `execve`.
        let (listener, channel) = (listener.into_raw_fd(), channel.into_raw_fd());
        assert_ne!(listener, channel);
        std::mem::forget((runs, vault));

        let arrived = Arrived::read(file.into_raw_fd()).unwrap();
        assert_eq!(arrived.listener.as_raw_fd(), listener);
        assert_eq!(arrived.daemon.map(|(pid, fd)| (pid, fd.as_raw_fd())), Some((7, channel)));
        assert_eq!((arrived.terminate, arrived.succeeds, arrived.upgrade), (true, true, Upgrade::Died));
        assert_eq!((arrived.lock.is_none(), arrived.nofile), (true, Some((1024, 4096))));
        assert_eq!(arrived.vault.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["槽 1"]);
        let runs: Vec<&Run> = arrived.runs.iter().collect();
        assert_eq!(
            runs.iter().map(|run| (run.id, run.kept.len())).collect::<Vec<_>>(),
            [(1, 2), (2, 1), (3, 0)]
        );
        assert!(matches!(runs[0].bond, Bond::Foreign(_)) && runs[0].owes_start && runs[0].ended.is_none());
        assert!(
            runs[1].ended == Some(WaitStatus::Unknown) && runs[1].owes_end,
            "it is another process of that pid"
        );
        assert!(runs[2].ended == ended && runs[2].owes_end);
    }

    #[test]
    fn what_is_damaged_or_newer_is_refused() {
        let read = |words: &[u64]| {
            let file = memfd_create(c"test", MFdFlags::empty()).unwrap();
            words.iter().for_each(|word| {
                nix::unistd::write(&file, &word.to_ne_bytes()).unwrap();
            });
            Arrived::read(file.into_raw_fd()).unwrap_err()
        };
        assert_eq!(read(&[HANDOVER + 1, 0, 0]), Errno::EPROTO);
        assert_eq!(read(&[HANDOVER, 0, 0]), Errno::EBADMSG);
        assert_eq!(read(&[]), Errno::EBADMSG);
    }
}
