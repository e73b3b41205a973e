//! Which way an app's ports are shared, and why.

use std::fmt;
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

use crate::process::proc::status;
use crate::process::seccomp::{SupervisedCalls, Support};

/// A way to share ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mechanism {
    /// The program asks before it binds; its own socket is taken up.
    #[serde(alias = "take")]
    Duplicate,
    /// The program asks before it binds; its socket is replaced by ours.
    #[serde(alias = "replace")]
    Inject,
    /// Sockets for configured addresses are passed at start (`LISTEN_FDS`).
    #[serde(alias = "listen")]
    SocketActivation,
    /// Node loads a script that makes `listen` use sockets passed at start.
    #[serde(alias = "preload")]
    NodePreload,
}

impl Mechanism {
    /// The calls that a run has to ask for on this way.
    pub fn supervised_calls(self) -> Option<SupervisedCalls> {
        match self {
            Self::Duplicate => Some(SupervisedCalls::BindListen),
            Self::Inject => Some(SupervisedCalls::BindListenSetsockopt),
            Self::SocketActivation | Self::NodePreload => None,
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Duplicate => "socket duplicated at bind",
            Self::Inject => "socket injected at bind",
            Self::SocketActivation => "socket activation (LISTEN_FDS)",
            Self::NodePreload => "socket activation (Node.js preload)",
        })
    }
}

/// What is known of an app when its way is chosen.
#[derive(Clone, Debug, Default)]
pub struct ProgramTraits {
    /// The program gains rights when executed, which a filter may prevent; see [`gains_rights`].
    pub privilege_source: Option<&'static str>,
    /// Addresses are configured (`listen = […]`).
    pub has_listen_addresses: bool,
    /// It is run by Node.
    pub node: bool,
}

/// The way for an app, and why this one.
///
/// # Errors
/// There is none: a sentence for the user that says why, and what to do.
pub fn choose_mechanism(support: &Support, wanted: &ProgramTraits) -> Result<(Mechanism, String), String> {
    let why_not = match (support, wanted.privilege_source) {
        (Support::Full, None) => return Ok((Mechanism::Duplicate, support.to_string())),
        (Support::InjectOnly(_), None) => return Ok((Mechanism::Inject, support.to_string())),
        (Support::Unsupported { .. }, _) => support.to_string(),
        (_, Some(what)) => format!("the program has {what}, which a seccomp filter would disable"),
    };
    match wanted {
        ProgramTraits { has_listen_addresses: false, .. } => Err(format!(
            "port sharing is not available: {why_not}. Set `listen` and use an app that supports LISTEN_FDS \
            (Node.js apps do), or set exec_mode = \"fork\" with one port per instance"
        )),
        ProgramTraits { node: true, .. } => Ok((Mechanism::NodePreload, why_not)),
        ProgramTraits { .. } => Ok((Mechanism::SocketActivation, why_not)),
    }
}

/// What a program file gains when it is executed, if we are ones whose filters prevent that: without
/// `CAP_SYS_ADMIN` the kernel lets nobody filter who could gain rights afterwards.
pub fn privilege_source(program: &std::path::Path) -> Option<&'static str> {
    if has_capability(CAP_SYS_ADMIN) {
        return None;
    }
    let meta = std::fs::metadata(program).ok()?;
    // Execution gains nothing where the file is our own already.
    if meta.mode() & libc::S_ISUID != 0 && meta.uid() != nix::unistd::geteuid().as_raw() {
        return Some("the set-user-id bit");
    }
    if meta.mode() & libc::S_ISGID != 0 && meta.mode() & libc::S_IXGRP != 0 {
        return Some("the set-group-id bit");
    }
    crate::cluster::sys::has_file_capabilities(program).then_some("file capabilities")
}

const CAP_SYS_ADMIN: u32 = 21;

fn has_capability(number: u32) -> bool {
    let text = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    status::effective_capabilities(&text).is_some_and(|mask| mask & (1 << number) != 0)
}

#[cfg(test)]
mod tests {
    use crate::cluster::mechanism::*;
    use nix::errno::Errno;

    fn nothing() -> Support {
        Support::Unsupported { step: "the seccomp filter", errno: Errno::EBUSY }
    }

    #[test]
    fn the_best_way_that_is_allowed_is_chosen() {
        let plain = ProgramTraits::default();
        assert_eq!(choose_mechanism(&Support::Full, &plain).unwrap().0, Mechanism::Duplicate);
        let (path, why) = choose_mechanism(&Support::InjectOnly(Errno::EPERM), &plain).unwrap();
        assert_eq!(path, Mechanism::Inject);
        assert!(why.contains("pidfd_getfd is not permitted"), "{why}");
        let node = ProgramTraits { has_listen_addresses: true, node: true, ..plain.clone() };
        assert_eq!(choose_mechanism(&nothing(), &node).unwrap().0, Mechanism::NodePreload);
        let other = ProgramTraits { has_listen_addresses: true, ..plain };
        assert_eq!(choose_mechanism(&nothing(), &other).unwrap().0, Mechanism::SocketActivation);
        let raised = ProgramTraits { privilege_source: Some("file capabilities"), ..other };
        let (path, why) = choose_mechanism(&Support::Full, &raised).unwrap();
        assert_eq!(
            (path, &*why),
            (
                Mechanism::SocketActivation,
                "the program has file capabilities, which a seccomp filter would disable"
            )
        );
    }

    #[test]
    fn where_there_is_no_way_it_is_said_what_to_do() {
        let why = choose_mechanism(&nothing(), &ProgramTraits::default()).unwrap_err();
        assert!(why.contains("seccomp") && why.contains("Set `listen`"), "{why}");
    }

    #[test]
    fn an_ordinary_program_gains_nothing() {
        assert_eq!(privilege_source(std::path::Path::new("/bin/sh")), None);
        assert_eq!(privilege_source(std::path::Path::new("/no/such/program")), None);
    }
}
