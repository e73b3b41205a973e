//! The dump: the saved list, which `save` writes and `resurrect` reads.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::daemon::supervisor::handle::SupervisorHandle;
use crate::daemon::world::state_writer::StateWriter;
use crate::instance::Instance;
use crate::instance::snapshot::{self, Snapshot};
use crate::instance::state::Want;
use crate::ipc::message::{ApiError, DumpInfo, ErrorCode};
use crate::paths::Home;

/// Writes the dump. An empty list does not replace a good dump unless forced.
///
/// # Errors
/// The list is empty, or the file cannot be written; the old dump is unchanged.
pub async fn save(
    handle: &SupervisorHandle,
    state_writer: &StateWriter,
    home: &Home,
    force: bool,
) -> Result<DumpInfo, ApiError> {
    let (instances, bytes) = handle.snapshot().await?;
    if instances == 0 && !force {
        return Err(ApiError::new(ErrorCode::Conflict, "the list is empty; dump not overwritten")
            .hint("use `rsm save --force` to save an empty list"));
    }
    write(state_writer, home, instances, bytes).await
}

/// Empties the dump; the previous one is kept.
///
/// # Errors
/// The file cannot be written.
pub async fn clear_dump(state_writer: &StateWriter, home: &Home) -> Result<DumpInfo, ApiError> {
    let empty = snapshot::encode(&BTreeMap::new(), &BTreeMap::new(), (0, 0), &VecDeque::new());
    write(state_writer, home, 0, empty).await
}

async fn write(
    state_writer: &StateWriter,
    home: &Home,
    instances: usize,
    bytes: Vec<u8>,
) -> Result<DumpInfo, ApiError> {
    let file = home.dump();
    match state_writer.write_dump(file.clone(), bytes).await {
        Ok(()) => Ok(DumpInfo { instances, file }),
        Err(error) => {
            let message = format!("cannot write {}: {error}; the previous dump was kept", file.display());
            Err(ApiError::new(ErrorCode::Internal, message))
        }
    }
}

/// Reads the dump, or the previous one if it is damaged; a note reports that.
///
/// # Errors
/// No dump exists, or both are damaged.
pub fn load(home: &Home) -> Result<(Snapshot, Option<String>), ApiError> {
    let previous = home.previous_dump();
    let error = match read(&home.dump()) {
        Ok(snapshot) => return Ok((snapshot, None)),
        Err(error) => error,
    };
    if error.code == ErrorCode::NotFound {
        return Err(error.hint("run `rsm save`"));
    }
    match read(&previous) {
        Ok(snapshot) => {
            let note = format!("{error}; using the previous dump {}", previous.display());
            Ok((snapshot, Some(note)))
        }
        Err(_) => Err(error.hint(format!(
            "run `rsm save`; the previous dump ({}) is not usable either",
            previous.display()
        ))),
    }
}

/// The fingerprint of the dump, so that the file is read again only after it was written.
#[derive(Debug, Default)]
pub struct DumpFingerprint(Cell<Option<(FileStamp, u64)>>);

/// Identifies a version of a file: modification time and inode.
type FileStamp = (i64, i64, u64);

impl DumpFingerprint {
    /// Whether a resurrection would restore these instances: the same apps with the same number of instances,
    /// settings and target states.
    pub fn is_up_to_date(&self, instances: &[Instance], home: &Home) -> bool {
        let Ok(metadata) = std::fs::metadata(home.dump()) else { return false };
        let stamp = (metadata.mtime(), metadata.mtime_nsec(), metadata.ino());
        let dump = match self.0.get() {
            Some((known, fingerprint)) if known == stamp => fingerprint,
            _ => {
                let Ok(snapshot) = read(&home.dump()) else { return false };
                let fingerprint = fingerprint(snapshot.instances());
                self.0.set(Some((stamp, fingerprint)));
                fingerprint
            }
        };
        dump == fingerprint(instances)
    }
}

/// Equal for lists that a resurrection restores in the same way.
fn fingerprint(instances: &[Instance]) -> u64 {
    let remaining = instances.iter().filter(|instance| instance.status().want != Want::Gone);
    let mut rows: Vec<(&str, u32, bool, u64)> = remaining
        .map(|instance| {
            let mut spec = DefaultHasher::new();
            // Without the origin: another version of its file makes it no other app.
            instance.spec().fingerprint().hash(&mut spec);
            (&*instance.spec().name, instance.number(), instance.status().want == Want::Up, spec.finish())
        })
        .collect();
    rows.sort_unstable();
    let mut list = DefaultHasher::new();
    rows.hash(&mut list);
    list.finish()
}

fn read(file: &Path) -> Result<Snapshot, ApiError> {
    let path = file.display();
    let bytes = std::fs::read(file).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ApiError::new(ErrorCode::NotFound, format!("no saved list ({path})")),
        _ => ApiError::new(ErrorCode::Internal, format!("cannot read {path}: {error}")),
    })?;
    snapshot::decode(&bytes)
        .map_err(|error| ApiError::new(ErrorCode::Invalid, format!("invalid dump {path}: {error}")))
}
