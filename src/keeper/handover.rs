//! Handover: how one keeper replaces another while apps run. The state is written into a memfd, then the
//! process executes the next keeper, which inherits memfd and descriptors.
//!
//! The process stays the same, so it remains the parent of the apps: this is the keeper's part of an upgrade.
//! A daemon whose keeper has died becomes the keeper in the same way; the apps are children of another
//! process then.
//!
//! The document is a sequence of words. Before a binary is executed, it is asked whether it reads
//! [`FORMAT_VERSION`].

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::errno::Errno;

use super::fd_store::FdStore;
use super::positions;
use super::protocol::{FdRole, RoleFd, UpgradeResult, status_to_words, words_to_status};
use super::runs::{KeeperRun, Runs, WaitMethod};
use super::words::{WordReader, WordSink, i32_to_word, word_to_i32};
use crate::exit::StartStep;
use crate::process::process_ref::ProcessRef;
use crate::process::spawn::report::StartReport;
use crate::process::wait::{PidfdWatch, WaitStatus};
use crate::process::{fd_channel, memfd, oom_score, spawn};

/// Version of the document. Version 1 has no roles of descriptors.
pub const FORMAT_VERSION: u64 = 2;

/// The oldest version that can be read.
pub const MIN_FORMAT_VERSION: u64 = 1;

/// A descriptor or number that is not present.
const NO_VALUE: u64 = u64::MAX;

/// Flags of the document.
const TERMINATING: u64 = 1;
const SUCCESSOR: u64 = 2;

/// Flags of a run.
const IS_CHILD: u64 = 1;
const START_UNREPORTED: u64 = 2;
const EXIT_UNREPORTED: u64 = 4;

/// The state that a keeper hands over.
pub struct HandoverOut<'a> {
    /// The API socket.
    pub listener: BorrowedFd<'a>,
    /// The keeper's lock; `None` if its holder has died.
    pub lock: Option<BorrowedFd<'a>>,
    /// The daemon that continues to run: its pid and the channel to it.
    pub daemon: Option<(i32, BorrowedFd<'a>)>,
    /// The runs. Children remain children only if the process stays the same.
    pub runs: &'a Runs,
    pub fd_store: &'a FdStore,
    /// A shutdown is in progress.
    pub terminate: bool,
    /// The result of the last upgrade.
    pub upgrade: UpgradeResult,
    /// The soft and hard limit of open files for apps.
    pub nofile: Option<(u64, u64)>,
}

/// The state that a keeper takes over; the fields are those of [`HandoverOut`].
#[derive(Debug)]
pub struct HandoverIn {
    pub listener: OwnedFd,
    pub lock: Option<OwnedFd>,
    pub daemon: Option<(i32, OwnedFd)>,
    pub runs: Runs,
    pub fd_store: FdStore,
    pub terminate: bool,
    /// This process is not the parent of the existing runs.
    pub is_successor: bool,
    pub upgrade: UpgradeResult,
    pub nofile: Option<(u64, u64)>,
}

impl HandoverOut<'_> {
    /// Executes this program as the keeper. `same_parent`: this process is the parent of the runs that are
    /// children.
    ///
    /// Only returns if that fails; nothing has changed then.
    pub fn exec_keeper(&self, program: &Path, same_parent: bool) -> Errno {
        let mut document = WordWriter::default();
        self.encode(&mut document, same_parent);
        let file = match memfd::with_contents(c"rsm-handover", &document.bytes) {
            Ok(file) => file,
            Err(errno) => return errno,
        };
        document.descriptors.push(file.as_raw_fd());
        let argument = file.as_raw_fd().to_string();
        spawn::exec_with_fds(program, &["rsm", "keeper", "--resume", &argument], &document.descriptors)
    }

    fn encode(&self, to: &mut WordWriter, same_parent: bool) {
        to.word(FORMAT_VERSION);
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        to.word(flag(self.terminate, TERMINATING) | flag(!same_parent, SUCCESSOR));
        to.word(self.upgrade as u64);
        to.word(oom_score::inherited_score().map_or(NO_VALUE, i32_to_word));
        to.descriptor(Some(self.listener));
        to.descriptor(self.lock);
        to.word(self.daemon.map_or(NO_VALUE, |(pid, _)| i32_to_word(pid)));
        to.descriptor(self.daemon.map(|(_, channel)| channel));
        let (soft, hard) = self.nofile.unwrap_or((NO_VALUE, NO_VALUE));
        to.word(soft);
        to.word(hard);
        to.word(self.fd_store.iter().len() as u64);
        for (name, fd) in self.fd_store.iter() {
            to.descriptor(Some(fd));
            to.text(name);
        }
        to.word(self.runs.iter().count() as u64);
        for run in self.runs.iter() {
            encode_run(run, to, same_parent);
        }
    }
}

fn encode_run(run: &KeeperRun, to: &mut WordWriter, same_parent: bool) {
    let is_child = same_parent && matches!(run.wait_method, WaitMethod::Reap);
    let flag = |is_set, flag| if is_set { flag } else { 0 };
    to.word(run.id);
    to.word(i32_to_word(run.process.pid));
    to.word(run.process.start_time);
    to.word(
        flag(is_child, IS_CHILD)
            | flag(run.start_unreported, START_UNREPORTED)
            | flag(run.exit_unreported, EXIT_UNREPORTED),
    );
    to.descriptor(run.start_report.as_ref().map(AsFd::as_fd));
    to.descriptor(run.notifier.as_ref().map(AsFd::as_fd));
    let (step, errno) = run.failed.map_or((NO_VALUE, 0), |(step, errno)| (step as u64, i32_to_word(errno)));
    to.word(step);
    to.word(errno);
    run.wait_status.map_or([NO_VALUE, 0, 0], status_to_words).into_iter().for_each(|word| to.word(word));
    to.word(run.fds.len() as u64);
    for (role, fd) in &run.fds {
        to.word(*role as u64);
        to.descriptor(Some(fd.as_fd()));
    }
}

impl HandoverIn {
    /// Reads the state that the previous keeper handed over. `file` is the memfd.
    ///
    /// # Errors
    /// `EPROTO`: another version. Otherwise the document is damaged, or a descriptor is not open.
    pub fn decode(file: RawFd) -> nix::Result<Self> {
        let file = File::from(fd_channel::take_inherited_fd(file)?);
        let length = file.metadata().map_err(|_| Errno::EIO)?.len();
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| Errno::EFBIG)?];
        file.read_exact_at(&mut bytes, 0).map_err(|_| Errno::EIO)?;
        let from = &mut WordReader(&bytes);
        let version = from.next_word()?;
        if !(MIN_FORMAT_VERSION..=FORMAT_VERSION).contains(&version) {
            return Err(Errno::EPROTO);
        }
        let flags = from.next_word()?;
        let upgrade = UpgradeResult::from_word(from.next_word()?).ok_or(Errno::EBADMSG)?;
        let oom_score = from.next_word()?;
        oom_score::set_inherited_score((oom_score != NO_VALUE).then_some(word_to_i32(oom_score)));
        let listener = next_descriptor(from)?.ok_or(Errno::EBADMSG)?;
        let lock = next_descriptor(from)?;
        let (pid, channel) = (from.next_word()?, next_descriptor(from)?);
        let nofile = Some((from.next_word()?, from.next_word()?)).filter(|(soft, _)| *soft != NO_VALUE);
        let mut fd_store = FdStore::default();
        for _ in 0..from.next_word()? {
            let fd = next_descriptor(from)?;
            fd_store.store(next_string(from)?, fd);
        }
        let mut runs = Runs::default();
        for _ in 0..from.next_word()? {
            runs.push(decode_run(from, version)?);
        }
        let daemon = channel.map(|channel| (word_to_i32(pid), channel));
        let (terminate, is_successor) = (flags & TERMINATING != 0, flags & SUCCESSOR != 0);
        Ok(Self { listener, lock, daemon, runs, fd_store, terminate, is_successor, upgrade, nofile })
    }
}

fn decode_run(from: &mut WordReader<'_>, version: u64) -> nix::Result<KeeperRun> {
    let id = from.next_word()?;
    let process = ProcessRef { pid: word_to_i32(from.next_word()?), start_time: from.next_word()? };
    let flags = from.next_word()?;
    let start_report = next_descriptor(from)?.map(StartReport::from_fd);
    let notifier = next_descriptor(from)?;
    let (step, errno) = (from.next_word()?, word_to_i32(from.next_word()?));
    let mut wait_status = words_to_status([from.next_word()?, from.next_word()?, from.next_word()?]);
    let fds = match version {
        1 => positions::of_run(
            (0..from.next_word()?)
                .filter_map(|_| next_descriptor(from).transpose())
                .collect::<Result<_, _>>()?,
        ),
        _ => (0..from.next_word()?)
            .filter_map(|_| next_role_fd(from).transpose())
            .collect::<Result<Vec<_>, _>>()?,
    };
    let failed =
        usize::try_from(step).ok().and_then(|step| StartStep::ALL.get(step)).map(|step| (*step, errno));
    let mut exit_unreported = flags & EXIT_UNREPORTED != 0;
    let wait_method = match (flags & IS_CHILD != 0, wait_status) {
        (true, _) => WaitMethod::Reap,
        (false, Some(_)) => WaitMethod::None,
        (false, None) if failed.is_some() => WaitMethod::None,
        (false, None) => PidfdWatch::new(process).map_or_else(
            |_| {
                (wait_status, exit_unreported) = (Some(WaitStatus::Unknown), true);
                WaitMethod::None
            },
            WaitMethod::Watch,
        ),
    };
    let start_unreported = flags & START_UNREPORTED != 0;
    let run = KeeperRun::new(id, process, fds, wait_method);
    Ok(KeeperRun { start_report, notifier, wait_status, failed, start_unreported, exit_unreported, ..run })
}

fn next_descriptor(from: &mut WordReader<'_>) -> nix::Result<Option<OwnedFd>> {
    match from.next_word()? {
        NO_VALUE => Ok(None),
        fd => fd_channel::take_inherited_fd(word_to_i32(fd)).map(Some),
    }
}

fn next_role_fd(from: &mut WordReader<'_>) -> nix::Result<Option<RoleFd>> {
    let role = u8::try_from(from.next_word()?).ok().and_then(FdRole::from_byte).ok_or(Errno::EBADMSG)?;
    Ok(next_descriptor(from)?.map(|fd| (role, fd)))
}

fn next_string(from: &mut WordReader<'_>) -> nix::Result<String> {
    let length = usize::try_from(from.next_word()?).map_err(|_| Errno::EBADMSG)?;
    from.next_text(length).map(str::to_owned)
}

/// The document, and the descriptors that it names.
#[derive(Default)]
struct WordWriter {
    bytes: Vec<u8>,
    descriptors: Vec<RawFd>,
}

impl WordSink for WordWriter {
    fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }
}

impl WordWriter {
    fn descriptor(&mut self, fd: Option<BorrowedFd<'_>>) {
        let fd = fd.map(|fd| fd.as_raw_fd());
        self.descriptors.extend(fd);
        self.word(fd.map_or(NO_VALUE, i32_to_word));
    }

    fn text(&mut self, text: &str) {
        self.word(text.len() as u64);
        self.bytes(text.as_bytes());
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
    fn state_round_trips() {
        let me = ProcessRef::of(std::process::id().cast_signed()).unwrap();
        let mut runs = Runs::default();
        runs.push(KeeperRun {
            start_unreported: true,
            ..KeeperRun::new(
                1,
                me,
                vec![(FdRole::Stdout, null()), (FdRole::NodeChannel, null())],
                WaitMethod::Reap,
            )
        });
        let gone = ProcessRef { start_time: me.start_time + 1, ..me };
        runs.push(KeeperRun::new(2, gone, vec![(FdRole::Stdout, null())], WaitMethod::Reap));
        let wait_status = Some(WaitStatus::Signaled(9, true));
        runs.push(KeeperRun {
            wait_status,
            exit_unreported: true,
            ..KeeperRun::new(3, gone, Vec::new(), WaitMethod::Reap)
        });
        let mut fd_store = FdStore::default();
        fd_store.store("槽 1".into(), Some(null()));
        let (listener, channel) = (null(), null());
        let handover = HandoverOut {
            listener: listener.as_fd(),
            lock: None,
            daemon: Some((7, channel.as_fd())),
            runs: &runs,
            fd_store: &fd_store,
            terminate: true,
            upgrade: UpgradeResult::Crashed,
            nofile: Some((1024, 4096)),
        };
        let mut document = WordWriter::default();
        handover.encode(&mut document, false);
        let file = memfd::create(c"test").unwrap();
        nix::unistd::write(&file, &document.bytes).unwrap();
        // `decode` takes ownership of the descriptors, as after `execve`.
        let (listener, channel) = (listener.into_raw_fd(), channel.into_raw_fd());
        assert_ne!(listener, channel);
        std::mem::forget((runs, fd_store));

        let arrived = HandoverIn::decode(file.into_raw_fd()).unwrap();
        assert_eq!(arrived.listener.as_raw_fd(), listener);
        assert_eq!(arrived.daemon.map(|(pid, fd)| (pid, fd.as_raw_fd())), Some((7, channel)));
        assert_eq!(
            (arrived.terminate, arrived.is_successor, arrived.upgrade),
            (true, true, UpgradeResult::Crashed)
        );
        assert_eq!((arrived.lock.is_none(), arrived.nofile), (true, Some((1024, 4096))));
        assert_eq!(arrived.fd_store.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["槽 1"]);
        let runs: Vec<&KeeperRun> = arrived.runs.iter().collect();
        assert_eq!(
            runs.iter().map(|run| (run.id, run.fds.len())).collect::<Vec<_>>(),
            [(1, 2), (2, 1), (3, 0)]
        );
        assert!(
            matches!(runs[0].wait_method, WaitMethod::Watch(_))
                && runs[0].start_unreported
                && runs[0].wait_status.is_none()
        );
        assert!(
            runs[1].wait_status == Some(WaitStatus::Unknown) && runs[1].exit_unreported,
            "it is another process of that pid"
        );
        assert!(runs[2].wait_status == wait_status && runs[2].exit_unreported);
    }

    #[test]
    fn rejects_damaged_or_newer_document() {
        let decode = |words: &[u64]| {
            let file = memfd::create(c"test").unwrap();
            words.iter().for_each(|word| {
                nix::unistd::write(&file, &word.to_ne_bytes()).unwrap();
            });
            HandoverIn::decode(file.into_raw_fd()).unwrap_err()
        };
        assert_eq!(decode(&[FORMAT_VERSION + 1, 0, 0]), Errno::EPROTO);
        assert_eq!(decode(&[FORMAT_VERSION, 0, 0]), Errno::EBADMSG);
        assert_eq!(decode(&[]), Errno::EBADMSG);
    }
}
