//! The service that an init system starts, and the parts of its installation.

use std::path::PathBuf;

/// The service to start at boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The name without a suffix such as `.service`.
    pub name: String,
    /// Absolute path of the rsm executable.
    pub program: PathBuf,
    /// The user who owns the apps; `None` for a user service.
    pub user: Option<String>,
    /// The home directory of that user.
    pub user_dir: PathBuf,
    /// Absolute path of the `RSM_HOME` whose saved apps are started.
    pub home: PathBuf,
}

/// A file of an init system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitFile {
    pub path: PathBuf,
    pub text: String,
    /// Whether the mode is 0755 instead of 0644.
    pub executable: bool,
}

/// A command of an init system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitCommand {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Whether it talks to the running init system, and so cannot work in a container image.
    pub needs_running_init: bool,
}

impl InitCommand {
    /// A command that only changes files.
    pub(super) fn offline(argv: &[&str]) -> Self {
        Self { argv: argv.iter().map(ToString::to_string).collect(), needs_running_init: false }
    }

    /// A command that talks to the running init system.
    pub(super) fn online(argv: &[&str]) -> Self {
        Self { needs_running_init: true, ..Self::offline(argv) }
    }

    /// The command line, for messages.
    pub fn display(&self) -> String {
        self.argv.join(" ")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::boot) fn service() -> Service {
        Service {
            name: "rsm-bob".into(),
            program: "/usr/local/bin/rsm".into(),
            user: Some("bob".into()),
            user_dir: "/home/bob".into(),
            home: "/home/bob/.rsm".into(),
        }
    }
}
