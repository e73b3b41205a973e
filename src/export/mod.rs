//! Export of an ecosystem file to the configuration of another engine: systemd, Compose, Kubernetes, Nomad, and the
//! proxies nginx and Caddy.
//!
//! - `keys` is the table of all keys, with what becomes of each in every target; `docs/export.md` shows it;
//! - `target` names the targets and the result; `app` derives what all targets need: the command, the port, the secrets;
//! - one file for each target writes its configuration; `yaml`, `hcl` and `unit` are the syntaxes.
//!
//! A setting without equivalent becomes a comment in the output and a [`Loss`].

mod app;
mod caddy;
mod calendar;
mod compose;
mod hcl;
mod keys;
mod kubernetes;
mod nginx;
mod nomad;
mod systemd;
mod target;
mod unit;
mod yaml;

use crate::config::LocatedApp;

use self::app::ExportApp;
pub use self::keys::{EXPORTED_KEYS, Equivalent, KeyExport, keys_as_markdown};
pub use self::target::{ExportOptions, Exported, ExportedFile, Loss, Target};

/// Exports apps to a target.
pub fn export(apps: &[LocatedApp], target: Target, options: &ExportOptions) -> Exported {
    let losses = keys::losses(apps, target);
    let apps = ExportApp::all(apps, target, options);
    let files = match target {
        Target::Systemd => systemd::files(&apps, options),
        Target::Compose => compose::files(&apps, options),
        Target::Kubernetes => kubernetes::files(&apps, options),
        Target::Nomad => nomad::files(&apps, options),
        Target::Nginx => nginx::files(&apps),
        Target::Caddy => caddy::files(&apps),
    };
    Exported { files, losses }
}
