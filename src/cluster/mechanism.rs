//! Mechanisms of port sharing, and which one an app gets.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cluster::sys;
use crate::process::proc::status;
use crate::process::seccomp::{SupervisedCalls, Support};

/// How an app gets its sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mechanism {
    /// rsm answers `bind` and `listen`, and duplicates the socket of the program (`pidfd_getfd`).
    #[serde(alias = "take")]
    Duplicate,
    /// rsm answers `bind` and `listen`, and replaces the socket of the program (`SECCOMP_IOCTL_NOTIF_ADDFD`).
    #[serde(alias = "replace")]
    Inject,
    /// Sockets of configured addresses are passed at start (`LISTEN_FDS`).
    #[serde(alias = "listen")]
    SocketActivation,
    /// The same, with a script for Node.js that makes `listen` use the passed sockets.
    #[serde(alias = "preload")]
    NodePreload,
}

impl Mechanism {
    /// The system calls that rsm answers.
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

/// Properties of a program that decide on its mechanism.
#[derive(Clone, Debug, Default)]
pub struct ProgramTraits {
    /// What would give the program privileges that a seccomp filter disables; see [`privilege_source`].
    pub privilege_source: Option<&'static str>,
    /// Whether addresses are configured (`listen = […]`).
    pub has_listen_addresses: bool,
    /// Whether Node.js runs it.
    pub node: bool,
}

/// Chooses the mechanism for a program, with the reason.
///
/// # Errors
/// No mechanism is available: a message for the user with the reason and the remedy.
pub fn choose_mechanism(support: &Support, program: &ProgramTraits) -> Result<(Mechanism, String), String> {
    let reason = match (support, program.privilege_source) {
        (Support::Full, None) => return Ok((Mechanism::Duplicate, support.to_string())),
        (Support::InjectOnly(_), None) => return Ok((Mechanism::Inject, support.to_string())),
        (Support::Unsupported { .. }, _) => support.to_string(),
        (_, Some(source)) => format!("the program has {source}, which a seccomp filter would disable"),
    };
    match program {
        ProgramTraits { has_listen_addresses: false, .. } => Err(format!(
            "port sharing is not available: {reason}. Set `listen` and use an app that supports LISTEN_FDS \
            (Node.js apps do), or set exec_mode = \"fork\" with one port per instance"
        )),
        ProgramTraits { node: true, .. } => Ok((Mechanism::NodePreload, reason)),
        ProgramTraits { .. } => Ok((Mechanism::SocketActivation, reason)),
    }
}

/// What gives a program privileges when it is executed, if a filter installed by rsm disables that: without
/// `CAP_SYS_ADMIN` the kernel accepts a filter only from a process that cannot gain privileges (`no_new_privs`).
pub fn privilege_source(program: &Path) -> Option<&'static str> {
    if has_capability(CAP_SYS_ADMIN) {
        return None;
    }
    let meta = std::fs::metadata(program).ok()?;
    // The bit of a file that belongs to the user of rsm changes nothing.
    if meta.mode() & libc::S_ISUID != 0 && meta.uid() != nix::unistd::geteuid().as_raw() {
        return Some("the set-user-id bit");
    }
    if meta.mode() & libc::S_ISGID != 0 && meta.mode() & libc::S_IXGRP != 0 {
        return Some("the set-group-id bit");
    }
    sys::has_file_capabilities(program).then_some("file capabilities")
}

/// From `linux/capability.h`.
const CAP_SYS_ADMIN: u32 = 21;

fn has_capability(capability: u32) -> bool {
    let text = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    status::effective_capabilities(&text).is_some_and(|mask| mask & (1 << capability) != 0)
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    fn unsupported() -> Support {
        Support::Unsupported { step: "the seccomp filter", errno: Errno::EBUSY }
    }

    #[test]
    fn chooses_best_supported_mechanism() {
        let plain = ProgramTraits::default();
        assert_eq!(choose_mechanism(&Support::Full, &plain).unwrap().0, Mechanism::Duplicate);
        let (mechanism, reason) = choose_mechanism(&Support::InjectOnly(Errno::EPERM), &plain).unwrap();
        assert_eq!(mechanism, Mechanism::Inject);
        assert!(reason.contains("pidfd_getfd is not permitted"), "{reason}");
        let node = ProgramTraits { has_listen_addresses: true, node: true, ..plain.clone() };
        assert_eq!(choose_mechanism(&unsupported(), &node).unwrap().0, Mechanism::NodePreload);
        let other = ProgramTraits { has_listen_addresses: true, ..plain };
        assert_eq!(choose_mechanism(&unsupported(), &other).unwrap().0, Mechanism::SocketActivation);
        let privileged = ProgramTraits { privilege_source: Some("file capabilities"), ..other };
        let (mechanism, reason) = choose_mechanism(&Support::Full, &privileged).unwrap();
        assert_eq!(
            (mechanism, &*reason),
            (
                Mechanism::SocketActivation,
                "the program has file capabilities, which a seccomp filter would disable"
            )
        );
    }

    #[test]
    fn error_names_reason_and_remedy() {
        let reason = choose_mechanism(&unsupported(), &ProgramTraits::default()).unwrap_err();
        assert!(reason.contains("seccomp") && reason.contains("Set `listen`"), "{reason}");
    }

    #[test]
    fn ordinary_program_has_no_privilege_source() {
        assert_eq!(privilege_source(Path::new("/bin/sh")), None);
        assert_eq!(privilege_source(Path::new("/no/such/program")), None);
    }
}
