//! rsm's own log: events of the daemon and the keeper in `rsm.log`, rotated by size.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use crate::logs::files::rotation::{RotationNames, list_rotated};
use crate::paths::Home;
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
    file: File,
    size: u64,
    limit: u64,
    names: RotationNames,
}

impl DaemonLog {
    fn open(path: PathBuf, limit: u64) -> io::Result<Self> {
        let file = open_append(&path)?;
        let size = file.metadata()?.len();
        let mut log = Self { path, file, size, limit, names: RotationNames::default() };
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
            let rotated = self.names.next_free(&self.path, &Rotation::default().date_format);
            if std::fs::rename(&self.path, rotated).is_err() {
                return;
            }
            for old in list_rotated(&self.path).unwrap_or_default().iter().rev().skip(MAX_ROTATED) {
                let _ = std::fs::remove_file(&old.path); // retried at the next rotation
            }
        }
        if let Ok(file) = open_append(&self.path) {
            self.size = file.metadata().map_or(0, |meta| meta.len());
            self.file = file;
        }
    }

    /// Writes one event as one line. A newline, for example in a name, is escaped: it must not look like the
    /// start of another event.
    fn write_event(&mut self, text: &[u8]) -> io::Result<()> {
        self.rotate_if_full();
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let mut line = Vec::with_capacity(text.len() + 1);
        for byte in text {
            match byte {
                b'\n' => line.extend_from_slice(b"\\n"),
                b'\r' => line.extend_from_slice(b"\\r"),
                byte => line.push(*byte),
            }
        }
        line.push(b'\n');
        self.size += line.len() as u64;
        self.file.write_all(&line)
    }
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
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
            tracing::warn!("app {} is\nodd", "a\nb");
            tracing::debug!("not asked for");
        });
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("WARN") && text.contains("odd"), "{text}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn full_log_is_rotated() {
        let (_dir, path, mut log) = log(10);
        for number in 0..10 {
            log.write_event(format!("event number {number}\n").as_bytes()).unwrap();
        }
        let old: Vec<String> = list_rotated(&path)
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
