//! Small, fast readers of `/proc`.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// A list of children that changes all the time is read so often at most.
const MOST_READS: u32 = 8;

/// What `/proc/PID/stat` says, as far as anyone here needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// State letter; `Z` is a zombie.
    pub state: u8,
    /// Process group.
    pub group: i32,
    /// Session.
    pub session: i32,
    /// Clock ticks used by it and by children it has reaped.
    pub ticks: u64,
    /// How many threads it has.
    pub threads: u64,
    /// Start time in clock ticks since boot.
    pub start_time: u64,
    /// Resident pages.
    pub resident: u64,
}

impl Stat {
    /// Parses the file. The command may hold anything, so fields count from its last parenthesis.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let end = text.iter().rposition(|byte| *byte == b')')?;
        let mut fields =
            text[end + 1..].split(|byte| byte.is_ascii_whitespace()).filter(|field| !field.is_empty());
        let state = *fields.next()?.first()?;
        let mut numbers = [0i64; 21]; // field 4 (ppid) to field 24 (rss)
        for number in &mut numbers {
            // rlimits and the like can exceed i64, but come later.
            *number = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        }
        let field = |at: usize| numbers[at - 4];
        let unsigned = |at| u64::try_from(field(at)).unwrap_or(0);
        Some(Self {
            state,
            group: i32::try_from(field(5)).ok()?,
            session: i32::try_from(field(6)).ok()?,
            ticks: (14..=17).map(unsigned).sum(),
            threads: unsigned(20),
            start_time: unsigned(22),
            resident: unsigned(24),
        })
    }

    /// Reads it through an open file of `/proc/PID/stat`, which speaks of one process for ever:
    /// once that is gone it gives an error, even if the pid is used again.
    pub fn read_from(file: &File) -> io::Result<Self> {
        let mut buffer = [0; 1024];
        let length = file.read_at(&mut buffer, 0)?;
        Self::parse(&buffer[..length]).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Reads that of a pid.
    pub fn of(pid: i32) -> io::Result<Self> {
        Self::read_from(&open(pid)?)
    }
}

/// Opens `/proc/PID/stat`.
///
/// # Errors
/// No such process.
pub fn open(pid: i32) -> io::Result<File> {
    File::open(format!("/proc/{pid}/stat"))
}

/// The children of a process, whichever thread made them. Empty if it is gone.
///
/// The kernel may leave one out while another that it has listed already is being reaped. So the
/// list is read until it is twice the same: then none was reaped meanwhile.
pub fn children(pid: i32, threads: u64) -> Vec<i32> {
    let mut last = children_once(pid, threads);
    for _ in 0..MOST_READS {
        let again = children_once(pid, threads);
        if again == last {
            break;
        }
        // One that was there and is not now has been reaped, or left out.
        last.retain(|child| !again.contains(child) && Stat::of(*child).is_ok());
        last.splice(0..0, again);
    }
    last
}

fn children_once(pid: i32, threads: u64) -> Vec<i32> {
    let mut found = Vec::new();
    if threads <= 1 {
        children_of_thread(pid, &pid.to_string(), &mut found);
        return found;
    }
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return found };
    for task in tasks.flatten() {
        if let Some(thread) = task.file_name().to_str() {
            children_of_thread(pid, thread, &mut found);
        }
    }
    found
}

fn children_of_thread(pid: i32, thread: &str, found: &mut Vec<i32>) {
    let mut text = String::new();
    let file = File::open(format!("/proc/{pid}/task/{thread}/children"));
    if file.and_then(|mut file| file.read_to_string(&mut text)).is_ok() {
        found.extend(text.split_ascii_whitespace().filter_map(|child| child.parse::<i32>().ok()));
    }
}

/// The value of a variable in a process's environment, if it may be read.
pub fn variable(pid: i32, name: &str) -> Option<String> {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = |line: &[u8]| Some(line.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?.to_vec());
    let value = environment.split(|byte| *byte == 0).find_map(value)?;
    String::from_utf8(value).ok()
}

/// Bytes that a process has resident, pages it shares counted in proportion; `None` if the
/// kernel does not tell (before 4.14) or not us.
pub fn proportional_memory(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

/// Bytes of a page.
pub fn page_size() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096)
}

/// Clock ticks a second.
pub fn ticks_per_second() -> u64 {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
    ticks.and_then(|ticks| u64::try_from(ticks).ok()).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_may_hold_anything() {
        let text = b"42 (a) b (\n) S 1 42 7 0 -1 0 0 0 0 0 5 6 7 8 20 0 3 0 999 100 55 18446744073709551615";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.state, stat.group, stat.session), (b'S', 42, 7));
        assert_eq!((stat.ticks, stat.threads, stat.start_time, stat.resident), (26, 3, 999, 55));
        assert_eq!(Stat::parse(b"42 (cut off) S 1 2"), None);
        assert_eq!(Stat::parse(b""), None);
    }

    #[test]
    fn we_are_there() {
        let me = std::process::id().cast_signed();
        let stat = Stat::of(me).unwrap();
        assert!(stat.threads >= 1 && stat.resident > 0 && stat.start_time > 0);
        assert!(proportional_memory(me).is_none_or(|bytes| bytes > 0));
        assert!(variable(me, "PATH").is_some() && variable(me, "NO_SUCH_NAME").is_none());
    }
}
