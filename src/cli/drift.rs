//! Whether the files that apps came from say something else by now: then the next `apply` or start of
//! the file changes more than one may expect.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config;
use crate::ipc::client::Client;
use crate::ipc::message::{InstanceDetail, Request, Source};

use super::plan;
use super::settings::Ground;

/// Those of the files that differ from what runs. Cheap where nothing was changed: a file older than its
/// apps is not read. Files that are programs are not run to find out.
pub(super) async fn drifted(sources: &[Source], client: &mut Client) -> Vec<PathBuf> {
    let newer: Vec<&Source> = sources
        .iter()
        .filter(|source| is_data(&source.file) && written(&source.file) > source.since)
        .collect();
    if newer.is_empty() {
        return Vec::new();
    }
    let everything = Request::Describe(vec!["all".into()]);
    let Ok(there) = client.call::<Vec<InstanceDetail>>(&everything).await else { return Vec::new() };
    newer.into_iter().map(|source| &source.file).filter(|file| differs(file, &there)).cloned().collect()
}

fn is_data(file: &Path) -> bool {
    let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    !matches!(extension, "js" | "cjs" | "mjs")
}

/// Milliseconds since the epoch; 0 where the file is gone, which is no drift.
fn written(file: &Path) -> u64 {
    let millis = |about: std::fs::Metadata| about.mtime() * 1000 + about.mtime_nsec() / 1_000_000;
    std::fs::metadata(file).map_or(0, |about| u64::try_from(millis(about)).unwrap_or(0))
}

/// Variables are left aside: which block of them was asked for is not known here.
fn differs(file: &Path, there: &[InstanceDetail]) -> bool {
    let Ok(ground) = Ground::new(None, &[]) else { return false };
    let Ok(loaded) = config::load(file, &ground.options) else { return true };
    let from_here = |detail: &&InstanceDetail| detail.spec.source.as_deref() == Some(file);
    there.iter().filter(from_here).any(|detail| {
        let wanted = loaded.apps.iter().find(|app| app.name == detail.view.name);
        wanted.is_none_or(|wanted| plan::differ_in_settings(&detail.spec, wanted))
    })
}
