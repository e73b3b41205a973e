//! The dump: what `save` writes and `resurrect` reads.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::daemon::supervisor::handle::SupervisorHandle;
use crate::daemon::world::state_writer::StateWriter;
use crate::instance::Instance;
use crate::instance::snapshot;
use crate::instance::snapshot::Snapshot;
use crate::instance::state::Want;
use crate::ipc::message::{ApiError, ErrorCode, Saved as Answer};
use crate::paths::Home;

/// Writes the dump. An empty list does not replace a good dump unless forced.
///
/// # Errors
/// The list is empty, or the file cannot be written; the old dump stays as it was.
pub async fn save(
    handle: &SupervisorHandle,
    saver: &StateWriter,
    home: &Home,
    force: bool,
) -> Result<Answer, ApiError> {
    let (instances, bytes) = handle.snapshot().await?;
    if instances == 0 && !force {
        return Err(ApiError::new(ErrorCode::Conflict, "the list is empty; dump not overwritten")
            .hint("use `rsm save --force` to save an empty list"));
    }
    write(saver, home, instances, bytes).await
}

/// Empties the dump; the one before stays beside it.
///
/// # Errors
/// The file cannot be written.
pub async fn clear_dump(saver: &StateWriter, home: &Home) -> Result<Answer, ApiError> {
    write(saver, home, 0, snapshot::encode(&BTreeMap::new(), &BTreeMap::new(), (0, 0), &VecDeque::new()))
        .await
}

async fn write(
    saver: &StateWriter,
    home: &Home,
    instances: usize,
    bytes: Vec<u8>,
) -> Result<Answer, ApiError> {
    let file = home.dump();
    match saver.dump(file.clone(), bytes).await {
        Ok(()) => Ok(Answer { instances, file }),
        Err(error) => {
            let message = format!("cannot write {}: {error}; the previous dump was kept", file.display());
            Err(ApiError::new(ErrorCode::Internal, message))
        }
    }
}

/// Reads the dump, or the one before it where that cannot be used; says so then.
///
/// # Errors
/// There is none, or none can be used.
pub fn load(home: &Home) -> Result<(Snapshot, Option<String>), ApiError> {
    let (file, former) = (home.dump(), home.previous_dump());
    let unusable = match read(&file) {
        Ok(saved) => return Ok((saved, None)),
        Err(unusable) => unusable,
    };
    if unusable.code == ErrorCode::NotFound {
        return Err(unusable.hint("run `rsm save`"));
    }
    match read(&former) {
        Ok(saved) => {
            let note = format!("{unusable}; using the previous dump {}", former.display());
            Ok((saved, Some(note)))
        }
        Err(_) => Err(unusable
            .hint(format!("run `rsm save`; the previous dump ({}) is not usable either", former.display()))),
    }
}

/// What the dump is known to hold, so that it is read again only after it was written.
#[derive(Debug, Default)]
pub struct DumpFingerprint(Cell<Option<(FileStamp, u64)>>);

/// Tells one state of a file from another.
type FileStamp = (i64, i64, u64);

impl DumpFingerprint {
    /// Whether the dump would bring back these instances: the same apps, as many, with the same settings,
    /// and up or down as now.
    pub fn is_up_to_date(&self, instances: &[Instance], home: &Home) -> bool {
        let Ok(about) = std::fs::metadata(home.dump()) else { return false };
        let stamp = (about.mtime(), about.mtime_nsec(), about.ino());
        let there = match self.0.get() {
            Some((before, sum)) if before == stamp => sum,
            _ => {
                let Ok(saved) = read(&home.dump()) else { return false };
                let sum = fingerprint(saved.instances());
                self.0.set(Some((stamp, sum)));
                sum
            }
        };
        there == fingerprint(instances)
    }
}

/// A number that is the same for lists that a resurrection would make alike.
fn fingerprint(instances: &[Instance]) -> u64 {
    let staying = instances.iter().filter(|instance| instance.status().want != Want::Gone);
    let mut rows: Vec<(&str, u32, bool, u64)> = staying
        .map(|instance| {
            let mut spec = DefaultHasher::new();
            // What its file said when makes no other app of it.
            instance.spec().fingerprint().hash(&mut spec);
            (&*instance.spec().name, instance.number(), instance.status().want == Want::Up, spec.finish())
        })
        .collect();
    rows.sort_unstable();
    let mut all = DefaultHasher::new();
    rows.hash(&mut all);
    all.finish()
}

fn read(file: &Path) -> Result<Snapshot, ApiError> {
    let shown = file.display();
    let bytes = std::fs::read(file).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ApiError::new(ErrorCode::NotFound, format!("no saved list ({shown})")),
        _ => ApiError::new(ErrorCode::Internal, format!("cannot read {shown}: {error}")),
    })?;
    snapshot::decode(&bytes)
        .map_err(|error| ApiError::new(ErrorCode::Invalid, format!("invalid dump {shown}: {error}")))
}
