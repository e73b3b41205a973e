//! rsm's own log: what the daemon and the keeper have to say.

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

/// Beyond this many bytes the log is put aside, as the apps' are.
const MAX_SIZE: u64 = 10 * 1024 * 1024;
/// How many that were put aside are kept.
const MAX_ROTATED: usize = 5;

/// Sends all that this process traces, from `level` up, to the home's `rsm.log`: a line an event,
/// with local time.
///
/// # Errors
/// The file cannot be opened, or this process has a log already.
pub fn init(home: &Home, level: LogLevel) -> io::Result<()> {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let file = DaemonLog::open(home.daemon_log(), MAX_SIZE)?;
    tracing::subscriber::set_global_default(subscriber(file, level)).map_err(io::Error::other)
}

fn subscriber(file: DaemonLog, level: LevelFilter) -> impl tracing::Subscriber + Send + Sync {
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_timer(LocalTime)
        // On a full disk a line that cannot be written must not be cried out on standard error, which
        // is the same file: that would end the daemon.
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

/// The file, and how much is in it.
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

    /// Puts the file aside if it is full. If that fails the log grows on: it is worth more than its
    /// limit, and there is no other place to say so.
    fn rotate_if_full(&mut self) {
        if self.size < self.limit {
            return;
        }
        // Another process may have put it aside, or emptied it, in the meantime.
        let size = std::fs::metadata(&self.path).map_or(0, |meta| meta.len());
        if size >= self.limit {
            let aside = self.names.next_free(&self.path, &Rotation::default().date_format);
            if std::fs::rename(&self.path, aside).is_err() {
                return;
            }
            for old in list_rotated(&self.path).unwrap_or_default().iter().rev().skip(MAX_ROTATED) {
                let _ = std::fs::remove_file(&old.path); // tried again the next time
            }
        }
        if let Ok(file) = open_append(&self.path) {
            self.size = file.metadata().map_or(0, |meta| meta.len());
            self.file = file;
        }
    }

    /// Writes one event as one line, whatever it holds: a name with a newline in it must not look
    /// like an event of its own.
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

/// Lets every thread write, one event at a time.
struct SharedLog(Mutex<DaemonLog>);

impl<'a> MakeWriter<'a> for SharedLog {
    type Writer = LogEvent<'a>;

    fn make_writer(&'a self) -> LogEvent<'a> {
        LogEvent(&self.0)
    }
}

/// Takes one event: the formatter hands it over whole.
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
    fn an_event_is_a_line() {
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
    fn a_full_log_is_put_aside() {
        let (_dir, path, mut log) = log(10);
        for number in 0..10 {
            log.write_event(format!("event number {number}\n").as_bytes()).unwrap();
        }
        let old: Vec<String> = list_rotated(&path)
            .unwrap()
            .iter()
            .map(|old| std::fs::read_to_string(&old.path).unwrap())
            .collect();
        let want: Vec<String> = (4..9).map(|number| format!("event number {number}\n")).collect();
        assert_eq!(old, want);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "event number 9\n");
        std::fs::write(&path, "0123456789").unwrap();
        DaemonLog::open(path.clone(), 10).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }

    #[test]
    fn a_log_emptied_by_hand_is_not_put_aside() {
        let (dir, path, mut log) = log(10);
        log.write_event(b"first event\n").unwrap();
        File::create(&path).unwrap();
        log.write_event(b"x\n").unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
