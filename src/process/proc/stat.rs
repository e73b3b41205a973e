//! Status, children and memory of processes: `/proc/PID/stat`, `children` and `smaps_rollup`.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::time::Duration;

use crate::process::detached::GuardedThread;

/// Maximum number of reads of a list of children that keeps changing.
const MAX_CHILD_READS: u32 = 8;

/// The fields of `/proc/PID/stat` that rsm uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// State letter, as in proc(5); see [`Stat::is_dead`].
    pub state: u8,
    /// Its parent; the subreaper after the parent has exited.
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    /// It is exiting: its memory, including the environment, may be freed, but it still has its children.
    pub exiting: bool,
    /// CPU time of the process, in clock ticks.
    pub cpu_ticks: u64,
    /// CPU time of its reaped children and their reaped descendants, in clock ticks.
    pub child_cpu_ticks: u64,
    pub threads: u64,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
    /// Resident pages.
    pub rss_pages: u64,
}

impl Stat {
    /// Whether it has exited and waits to be reaped. A process whose main thread has exited while other
    /// threads run also has the state of a zombie, but is none.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x') && self.threads <= 1
    }

    /// Parses the file. The command can contain any characters, so fields are counted from the last
    /// parenthesis.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let end = text.iter().rposition(|byte| *byte == b')')?;
        let mut fields =
            text[end + 1..].split(|byte| byte.is_ascii_whitespace()).filter(|field| !field.is_empty());
        let state = *fields.next()?.first()?;
        let mut numbers = [0i64; 21]; // field 4 (ppid) to field 24 (rss)
        for number in &mut numbers {
            // Fields that can exceed i64, such as rlimits, come later.
            *number = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        }
        let field = |number: usize| numbers[number - 4];
        let unsigned = |number: usize| u64::try_from(field(number)).unwrap_or(0);
        Some(Self {
            state,
            parent: i32::try_from(field(4)).ok()?,
            group: i32::try_from(field(5)).ok()?,
            session: i32::try_from(field(6)).ok()?,
            exiting: unsigned(9) & libc::PF_EXITING as u64 != 0,
            cpu_ticks: unsigned(14).saturating_add(unsigned(15)),
            child_cpu_ticks: unsigned(16).saturating_add(unsigned(17)),
            threads: unsigned(20),
            start_time: unsigned(22),
            rss_pages: unsigned(24),
        })
    }

    /// Reads an open `/proc/PID/stat`. The file refers to one process: after that has been reaped, reads
    /// fail, even if the pid is reused.
    pub fn read_from(file: &File) -> io::Result<Self> {
        let mut buffer = [0; 1024];
        let length = file.read_at(&mut buffer, 0)?;
        Self::parse(&buffer[..length]).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Reads the file of a pid.
    pub fn of(pid: i32) -> io::Result<Self> {
        Self::read_from(&open_stat(pid)?)
    }
}

/// The name of the process, which the kernel truncates to 15 bytes; empty if the process does not exist.
pub fn comm(pid: i32) -> String {
    let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(name.trim_ascii_end()).into_owned()
}

/// Whether an error only means that the process does not exist.
pub fn is_process_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

pub fn open_stat(pid: i32) -> io::Result<File> {
    File::open(format!("/proc/{pid}/stat"))
}

/// The children of a process, of all its threads. Empty if the process does not exist.
///
/// The kernel may omit a child while another one that it has already listed is reaped. Therefore the list is
/// read until two reads are equal: then no child was reaped in between.
pub fn children(pid: i32, threads: u64) -> Vec<i32> {
    let mut last = children_once(pid, threads);
    for _ in 0..MAX_CHILD_READS {
        let again = children_once(pid, threads);
        if again == last {
            break;
        }
        // A child that is missing in the second list has been reaped, or was omitted.
        last.retain(|child| !again.contains(child) && Stat::of(*child).is_ok());
        last.splice(0..0, again);
    }
    last
}

fn children_once(pid: i32, threads: u64) -> Vec<i32> {
    if !has_children_files() {
        return children_by_scan(pid);
    }
    let mut found = Vec::new();
    if threads <= 1 {
        read_thread_children(pid, &pid.to_string(), &mut found);
        return found;
    }
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return found };
    for task in tasks.flatten() {
        if let Some(thread) = task.file_name().to_str() {
            read_thread_children(pid, thread, &mut found);
        }
    }
    found
}

fn read_thread_children(pid: i32, thread: &str, found: &mut Vec<i32>) {
    let mut text = String::new();
    let file = File::open(format!("/proc/{pid}/task/{thread}/children"));
    if file.and_then(|mut file| file.read_to_string(&mut text)).is_ok() {
        found.extend(text.split_ascii_whitespace().filter_map(|child| child.parse::<i32>().ok()));
    }
}

/// Whether the kernel lists children (`CONFIG_PROC_CHILDREN`; most do).
fn has_children_files() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| std::path::Path::new("/proc/thread-self/children").exists())
}

/// The slow alternative: reads the parent of every process.
fn children_by_scan(pid: i32) -> Vec<i32> {
    all_pids().into_iter().filter(|child| Stat::of(*child).is_ok_and(|stat| stat.parent == pid)).collect()
}

/// How long measuring a process may take.
const PSS_TIMEOUT: Duration = Duration::from_secs(2);

thread_local! {
    static PSS_READER: RefCell<GuardedThread<i32, Option<u64>>> =
        const { RefCell::new(GuardedThread::new(read_pss)) };
}

/// All processes in this PID namespace.
pub fn all_pids() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Proportional set size of a process in bytes; `None` if the kernel does not report it (before 4.14), or not
/// to this process. Waits while the process maps memory, which a FUSE file system can block.
pub fn pss(pid: i32) -> Option<u64> {
    let subject = format!("measuring the memory of process {pid}");
    PSS_READER.with_borrow_mut(|reader| reader.call(&subject, PSS_TIMEOUT, pid))?
}

fn read_pss(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

pub fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096)
}

/// Clock ticks per second.
pub fn ticks_per_second() -> u64 {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
    ticks.and_then(|ticks| u64::try_from(ticks).ok()).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::fixture::Fixture;

    #[test]
    fn parses_any_command() {
        let text = b"42 (a) b (\n) S 1 42 7 0 -1 0 0 0 0 0 5 6 7 8 20 0 3 0 999 100 55 18446744073709551615";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.state, stat.parent, stat.group, stat.session), (b'S', 1, 42, 7));
        assert_eq!((stat.cpu_ticks, stat.child_cpu_ticks), (11, 15));
        assert_eq!((stat.threads, stat.start_time, stat.rss_pages), (3, 999, 55));
        assert_eq!(Stat::parse(b"42 (cut off) S 1 2"), None);
        assert_eq!(Stat::parse(b""), None);
    }

    #[test]
    fn reads_own_process() {
        let me = std::process::id().cast_signed();
        let stat = Stat::of(me).unwrap();
        assert!(stat.threads >= 1 && stat.rss_pages > 0 && stat.start_time > 0);
        assert!(pss(me).is_none_or(|bytes| bytes > 0));
    }

    #[test]
    fn scan_finds_same_children_as_list() {
        let mut app = Fixture::sh("sleep 1000 & echo $!; setsid sleep 1000 & echo $!; read _");
        let mut expected = [app.process().pid, app.process().pid];
        let mut scanned = children_by_scan(app.leader().pid);
        let mut listed = children(app.leader().pid, 1);
        expected.sort_unstable();
        scanned.sort_unstable();
        listed.sort_unstable();
        assert_eq!(scanned, expected);
        assert_eq!(listed, expected);
    }
}
