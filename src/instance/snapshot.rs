//! The list of instances as a JSON document: the content of `state.json` and `dump.json`.
//!
//! Specs and inherited environments are shared by many instances; each is written once. The document has a format
//! version: older versions can be read, newer ones are rejected.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Instance;
use super::completed::CompletedCommand;
use super::replacement::{Replacement, ReplacementRole};
use super::status::InstanceStatus;
use crate::spec::{AppSpec, EnvVars};

/// Format version of the documents that this version of rsm writes.
pub const FORMAT_VERSION: u32 = 2;

/// Why a document cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Not a complete document.
    #[error("corrupt: {0}")]
    Damaged(serde_json::Error),
    /// Written by a newer rsm.
    #[error("unsupported format {0} (this version supports {FORMAT_VERSION}); use a newer rsm")]
    Newer(u32),
    /// An instance refers to a spec or an environment that is missing.
    #[error("corrupt: instance {0} has no spec or environment")]
    Incomplete(u32),
}

/// The list of instances at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Id of the next instance.
    pub next_id: u32,
    /// Highest run number of deleted instances.
    pub last_run: u32,
    /// Commands that clients may repeat, oldest first.
    pub completed: VecDeque<CompletedCommand>,
    instances: Vec<Instance>,
    replacements: Vec<Replacement>,
}

#[derive(Serialize)]
struct SnapshotOut<'a> {
    version: u32,
    next_id: u32,
    last_run: u32,
    specs: Vec<&'a AppSpec>,
    envs: Vec<&'a EnvVars>,
    instances: Vec<InstanceRow<&'a InstanceStatus>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    replacements: Vec<(InstanceRow<&'a InstanceStatus>, &'a ReplacementRole)>,
    #[serde(skip_serializing_if = "VecDeque::is_empty")]
    completed: &'a VecDeque<CompletedCommand>,
}

#[derive(Deserialize)]
struct SnapshotIn {
    next_id: u32,
    last_run: u32,
    specs: Vec<Arc<AppSpec>>,
    envs: Vec<Arc<EnvVars>>,
    instances: Vec<InstanceRow<InstanceStatus>>,
    #[serde(default, alias = "beside")]
    replacements: Vec<(InstanceRow<InstanceStatus>, ReplacementRole)>,
    #[serde(default, alias = "done")]
    completed: VecDeque<CompletedCommand>,
}

#[derive(Serialize, Deserialize)]
struct InstanceRow<L> {
    id: u32,
    number: u32,
    spec: usize,
    env: usize,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unique_file_name: bool,
    #[serde(alias = "life")]
    status: L,
}

#[derive(Deserialize)]
struct FormatVersion {
    version: u32,
}

/// Index of `item` in `list`; appends it if it is missing. Searches backwards, because neighbors often share.
fn index_of<'a, T>(list: &mut Vec<&'a T>, item: &'a Arc<T>) -> usize {
    let index = list.iter().rposition(|other| std::ptr::eq(*other, Arc::as_ptr(item)));
    index.unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    })
}

/// Encodes instances as a document.
pub fn encode<'a>(
    instances: &'a BTreeMap<u32, Instance>,
    replacements: &'a BTreeMap<u32, Replacement>,
    (next_id, last_run): (u32, u32),
    completed: &'a VecDeque<CompletedCommand>,
) -> Vec<u8> {
    let (mut specs, mut envs) = (Vec::new(), Vec::new());
    let mut row = |instance: &'a Instance| {
        let Instance { id, number, spec, inherited, status, has_unique_file_name } = instance;
        let (spec, env) = (index_of(&mut specs, spec), index_of(&mut envs, inherited));
        InstanceRow { id: *id, number: *number, spec, env, unique_file_name: *has_unique_file_name, status }
    };
    let rows = instances.values().map(&mut row).collect();
    let replacements =
        replacements.values().map(|replacement| (row(&replacement.instance), &replacement.role)).collect();
    let document = SnapshotOut {
        version: FORMAT_VERSION,
        next_id,
        last_run,
        specs,
        envs,
        instances: rows,
        replacements,
        completed,
    };
    // Cannot fail: the document has only string keys and finite numbers.
    serde_json::to_vec(&document).unwrap_or_default()
}

/// Decodes a document.
///
/// # Errors
/// The document is damaged, or was written by a newer rsm.
pub fn decode(bytes: &[u8]) -> Result<Snapshot, SnapshotError> {
    let FormatVersion { version } = serde_json::from_slice(bytes).map_err(SnapshotError::Damaged)?;
    if version > FORMAT_VERSION {
        return Err(SnapshotError::Newer(version));
    }
    let SnapshotIn { next_id, last_run, specs, envs, instances, replacements, completed } =
        serde_json::from_slice(bytes).map_err(SnapshotError::Damaged)?;
    let instance = |row: InstanceRow<InstanceStatus>| match (specs.get(row.spec), envs.get(row.env)) {
        (Some(spec), Some(env)) => Ok(Instance {
            id: row.id,
            number: row.number,
            spec: spec.clone(),
            inherited: env.clone(),
            status: row.status,
            has_unique_file_name: row.unique_file_name,
        }),
        _ => Err(SnapshotError::Incomplete(row.id)),
    };
    let replacements =
        replacements.into_iter().map(|(row, role)| Ok(Replacement { instance: instance(row)?, role }));
    let replacements = replacements.collect::<Result<_, SnapshotError>>()?;
    let instances = instances.into_iter().map(instance).collect::<Result<_, _>>()?;
    Ok(Snapshot { next_id, last_run, completed, instances, replacements })
}

impl Snapshot {
    /// The instances, without replacements.
    pub fn instances(&self) -> &[Instance] {
        &self.instances
    }

    /// All instances, including replacements.
    pub fn all(&self) -> impl Iterator<Item = &Instance> {
        self.instances.iter().chain(self.replacements.iter().map(|replacement| &replacement.instance))
    }

    /// A snapshot of the instances that `predicate` selects.
    pub fn filtered(&self, predicate: impl Fn(&Instance) -> bool) -> Self {
        let instances = self.instances.iter().filter(|instance| predicate(instance)).cloned().collect();
        Self { instances, replacements: Vec::new(), completed: self.completed.clone(), ..*self }
    }

    /// The instances, without replacements.
    pub fn into_instances(self) -> impl Iterator<Item = Instance> {
        self.instances.into_iter()
    }

    /// The instances and the replacements.
    pub fn into_parts(self) -> (Vec<Instance>, Vec<Replacement>) {
        (self.instances, self.replacements)
    }

    /// Number of instances.
    pub fn len(&self) -> usize {
        self.instances.len()
    }

    /// Whether the snapshot has no instances.
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Moment;

    #[test]
    fn decode_reads_what_encode_writes() {
        let spec = Arc::new(AppSpec::new("api", "/bin/api", "/"));
        let env = Arc::new(EnvVars::from([("A".into(), "1".into())]));
        let make = |id| (id, Instance::new(id, id, spec.clone(), env.clone(), 4, Moment::default()));
        let instances: BTreeMap<u32, Instance> = (0..3).map(make).collect();
        let bytes = encode(&instances, &BTreeMap::new(), (3, 9), &VecDeque::new());
        let saved = decode(&bytes).unwrap();
        assert_eq!((saved.next_id, saved.last_run, saved.len()), (3, 9, 3));
        assert_eq!(saved.into_instances().collect::<Vec<_>>(), instances.into_values().collect::<Vec<_>>());
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.matches("/bin/api").count(), 1, "a shared spec is written once");
    }

    /// `tests/states` has a document of each version, because users upgrade from any.
    #[test]
    fn decode_reads_documents_of_all_versions() {
        for document in
            [&include_bytes!("../../tests/states/v1.json")[..], include_bytes!("../../tests/states/v2.json")]
        {
            let saved = decode(document).unwrap();
            let names: Vec<&str> = saved.instances().iter().map(|instance| &*instance.spec.name).collect();
            assert_eq!(names, ["db", "failing", "api", "api"]);
            let failing = &saved.instances()[1];
            assert_eq!((failing.status.history.len(), failing.status.restarts), (3, 2));
        }
        assert_eq!(FORMAT_VERSION, 2, "add a document of the new version to tests/states");
    }

    #[test]
    fn decode_reports_why_document_is_rejected() {
        assert!(decode(b"").unwrap_err().to_string().contains("corrupt"));
        assert!(decode(br#"{"version":1,"next_id":0"#).unwrap_err().to_string().contains("corrupt"));
        assert!(decode(br#"{"version":3,"new":true}"#).unwrap_err().to_string().contains("newer rsm"));
        let dangling = br#"{"version":1,"next_id":1,"last_run":0,"specs":[],"envs":[],"instances":[]}"#;
        assert!(decode(dangling).unwrap().is_empty());
    }
}
