//! rsm's own log: events of the daemon and the keeper in `rsm.log`, rotated by size.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::OFlag;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use crate::logs::files::access::{LogAccess, LogHome};
use crate::logs::files::rotated_name::RotationNames;
use crate::logs::files::rotation::list_rotated;
use crate::paths::Home;
use crate::secure_fs::{self, FileUser, Location};
use crate::settings::LogLevel;
use crate::spec::Rotation;

/// Size in bytes at which the log is rotated.
const MAX_SIZE: u64 = 10 * 1024 * 1024;
/// Number of rotated files to keep.
const MAX_ROTATED: usize = 5;

/// Writes all tracing events of this process, from `level` up, to `rsm.log`: one line per event, with local
/// time.
///
/// # Errors
/// The file cannot be opened, or this process already has a log.
pub fn init(home: &Home, level: LogLevel) -> io::Result<()> {
    let file = DaemonLog::open(home.daemon_log(), MAX_SIZE)?;
    tracing::subscriber::set_global_default(subscriber(file, filter(level))).map_err(io::Error::other)
}

/// Writes the events to standard error, which the keeper opened before the disk became read-only.
///
/// # Errors
/// This process already has a log.
pub fn init_stderr(level: LogLevel) -> io::Result<()> {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(filter(level))
        .with_ansi(false)
        .with_timer(LocalTime)
        .log_internal_errors(false)
        .with_writer(io::stderr)
        .finish();
    tracing::subscriber::set_global_default(subscriber).map_err(io::Error::other)
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

fn subscriber(file: DaemonLog, level: LevelFilter) -> impl tracing::Subscriber + Send + Sync {
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_timer(LocalTime)
        // On a full disk, a failed write must not be reported on standard error, which is the same file: the
        // panic of that write would end the daemon.
        .log_internal_errors(false)
        .with_writer(SharedLog(Mutex::new(file)))
        .finish()
}

/// ISO 8601 with milliseconds and offset.
struct LocalTime;

impl FormatTime for LocalTime {
    fn format_time(&self, out: &mut Writer<'_>) -> std::fmt::Result {
        write!(out, "{}", jiff::Zoned::now().strftime("%Y-%m-%dT%H:%M:%S%.3f%:z"))
    }
}

#[derive(Debug)]
struct DaemonLog {
    path: PathBuf,
    /// For its rotated files.
    access: LogAccess,
    file: File,
    size: u64,
    limit: u64,
    names: RotationNames,
}

impl DaemonLog {
    fn open(path: PathBuf, limit: u64) -> io::Result<Self> {
        let file = open_append(&path)?;
        let size = file.metadata()?.len();
        let dir = path.parent().map(Path::to_owned).unwrap_or_default();
        let home = Arc::new(LogHome { logs: dir.clone(), indexes: dir });
        let access = LogAccess::new(home, FileUser::own(), Arc::default());
        let mut log = Self { path, access, file, size, limit, names: RotationNames::default() };
        log.rotate_if_full();
        Ok(log)
    }

    /// Rotates the file if it is full. On failure it grows beyond the limit, because the log matters more,
    /// and the error cannot be reported elsewhere.
    fn rotate_if_full(&mut self) {
        if self.size < self.limit {
            return;
        }
        // Another process may have rotated or truncated the file.
        let size = std::fs::metadata(&self.path).map_or(0, |meta| meta.len());
        if size >= self.limit {
            if self.rotate().is_err() {
                return;
            }
            let rotated = list_rotated(&self.path, &self.access).unwrap_or_default();
            for old in rotated.iter().rev().skip(MAX_ROTATED) {
                // Retried at the next rotation.
                let _ = Location::find(&old.path).and_then(|location| location.remove(old.id));
            }
        }
        if let Ok(file) = open_append(&self.path) {
            self.size = file.metadata().map_or(0, |meta| meta.len());
            self.file = file;
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let location = Location::find(&self.path)?;
        let rotated = self.names.next_free(&location.path(), &Rotation::default().date_format);
        location.rename(location.id()?, rotated.file_name().unwrap_or_default())
    }

    /// Writes one event as one line. Control characters, for example in a name, are escaped: a newline must not look
    /// like the start of another event, and whoever reads the file in a terminal must not be fooled.
    fn write_event(&mut self, text: &[u8]) -> io::Result<()> {
        self.rotate_if_full();
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let mut line = Vec::with_capacity(text.len() + 1);
        let mut previous = 0;
        for &byte in text {
            match byte {
                b'\n' => line.extend_from_slice(b"\\n"),
                b'\r' => line.extend_from_slice(b"\\r"),
                b'\t' => line.push(byte),
                0..0x20 | 0x7f => write!(line, "\\x{byte:02x}")?,
                // U+0080 to U+009F
                0x80..0xa0 if previous == 0xc2 => {
                    line.pop();
                    write!(line, "\\u{{{byte:02x}}}")?;
                }
                byte => line.push(byte),
            }
            previous = byte;
        }
        line.push(b'\n');
        self.size += line.len() as u64;
        self.file.write_all(&line)
    }
}

fn open_append(path: &Path) -> io::Result<File> {
    secure_fs::open_private(path, OFlag::O_WRONLY | OFlag::O_APPEND)
}

struct SharedLog(Mutex<DaemonLog>);

impl<'a> MakeWriter<'a> for SharedLog {
    type Writer = LogEvent<'a>;

    fn make_writer(&'a self) -> LogEvent<'a> {
        LogEvent(&self.0)
    }
}

/// Writer for one event. The formatter writes it with one call.
struct LogEvent<'a>(&'a Mutex<DaemonLog>);

impl Write for LogEvent<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_event(text)?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::logs::daemon_log::*;
    use std::os::unix::fs::PermissionsExt;

    fn log(limit: u64) -> (tempfile::TempDir, PathBuf, DaemonLog) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rsm.log");
        let log = DaemonLog::open(path.clone(), limit).unwrap();
        (dir, path, log)
    }

    #[test]
    fn event_is_one_line() {
        let (_dir, path, file) = log(MAX_SIZE);
        tracing::subscriber::with_default(subscriber(file, LevelFilter::INFO), || {
            tracing::warn!("app {} is\nodd", "a\nb\u{1b}[2J\u{9b}2Jé");
            tracing::debug!("not asked for");
        });
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("WARN") && text.contains("odd") && text.contains("é"), "{text}");
        assert!(!text.trim_end().contains(char::is_control), "{text:?}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn full_log_is_rotated() {
        let (_dir, path, mut log) = log(10);
        for number in 0..10 {
            log.write_event(format!("event number {number}\n").as_bytes()).unwrap();
        }
        let old: Vec<String> = list_rotated(&path, &log.access)
            .unwrap()
            .iter()
            .map(|old| std::fs::read_to_string(&old.path).unwrap())
            .collect();
        let expected: Vec<String> = (4..9).map(|number| format!("event number {number}\n")).collect();
        assert_eq!(old, expected);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "event number 9\n");
        std::fs::write(&path, "0123456789").unwrap();
        DaemonLog::open(path.clone(), 10).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }

    #[test]
    fn truncated_log_is_not_rotated() {
        let (dir, path, mut log) = log(10);
        log.write_event(b"first event\n").unwrap();
        File::create(&path).unwrap();
        log.write_event(b"x\n").unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
