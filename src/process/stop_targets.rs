//! Which processes of a tree get the stop signal.
//!
//! Many programs pass the signal on to their children (npm, tsx, timeout) or stop their children in another way
//! (Celery, nginx). If the whole tree gets the signal at once, the children of these programs get it twice, or too
//! early. Therefore only the topmost process of each branch that handles the signal gets it; the processes below are
//! left to it. What remains gets the signal when that process has exited.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;

use super::proc::status;
use super::proc::{fds, net, stat};
use super::process_ref::ProcessRef;
use super::tree::TreeMember;

/// Programs that handle SIGINT and SIGQUIT only by waiting for their child: they rely on the terminal, which sends
/// these signals to the whole process group.
const TERMINAL_WRAPPERS: [&str; 3] = ["go", "gmake", "make"];

/// Programs that pass signals on to their child only, which often is a shell.
const SCRIPT_RUNNERS: [&str; 8] = ["npm", "npm-cli", "npx", "npx-cli", "pnpm", "pnpx", "yarn", "yarnpkg"];

const SHELLS: [&str; 9] = ["ash", "bash", "busybox", "dash", "fish", "ksh", "mksh", "sh", "zsh"];

/// What a process does with the stop signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reaction {
    /// The signal to send: SIGTERM if the process ignores the stop signal. A shell makes its background jobs ignore
    /// SIGINT.
    signal: i32,
    /// It handles this signal.
    handles: bool,
}

impl Reaction {
    fn of(pid: i32, signal: i32) -> Self {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let has = |field: &str, signal: i32| status::has_signal(&text, field, signal);
        let is_ignored_by_default = matches!(signal, libc::SIGWINCH | libc::SIGURG | libc::SIGCHLD);
        let ignores = has("SigIgn", signal) || is_ignored_by_default && !has("SigCgt", signal);
        let ignores = ignores && !has("SigIgn", libc::SIGTERM);
        let effective = if ignores { libc::SIGTERM } else { signal };
        Self { signal: effective, handles: has("SigCgt", effective) }
    }
}

/// What the processes of a tree do with the stop signal. Processes that handle it without stopping the processes
/// below are treated like those that do not handle it.
fn reactions(members: &[TreeMember], parents: &[Option<usize>], signal: i32) -> Vec<Reaction> {
    let mut reactions: Vec<Reaction> =
        members.iter().map(|member| Reaction::of(member.process.pid, signal)).collect();
    let names: Vec<String> = members.iter().map(|member| program_name(member.process.pid)).collect();
    let handles: Vec<bool> = reactions.iter().map(|reaction| reaction.handles).collect();
    for (child, parent) in parents.iter().enumerate() {
        let Some(parent) = parent.filter(|parent| handles[*parent]) else { continue };
        let is_shell = |index: usize| SHELLS.contains(&names[index].as_str());
        let pid = |index: usize| members[index].process.pid;
        let is_terminal_signal = matches!(reactions[parent].signal, libc::SIGINT | libc::SIGQUIT);
        let keeps_signal = if is_shell(parent) {
            // A shell handles signals only after the program that it waits for has exited. Background jobs do not
            // have its standard input.
            fds::is_same_file(pid(parent), pid(child), libc::STDIN_FILENO)
        } else if TERMINAL_WRAPPERS.contains(&names[parent].as_str()) {
            is_terminal_signal
        } else {
            // The child is a shell that does not pass it on.
            handles[child] && is_shell(child) && is_script_runner(pid(parent))
        };
        reactions[parent].handles &= !keeps_signal;
    }
    reactions
}

/// The file name of the program: of the shell if it executes a script.
fn program_name(pid: i32) -> String {
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let name = program.as_deref().and_then(|program| program.file_name()?.to_str());
    name.map_or_else(|| stat::comm(pid), str::to_owned)
}

fn is_script_runner(pid: i32) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = command.split(|byte| byte.is_ascii_whitespace() || *byte == 0);
    let is_runner = |word: &[u8]| {
        let name = std::path::Path::new(std::ffi::OsStr::from_bytes(word)).file_stem();
        name.and_then(|name| name.to_str()).is_some_and(|name| SCRIPT_RUNNERS.contains(&name))
    };
    // The interpreter comes first, unless the program has changed its title.
    words.next().is_some_and(is_runner) || words.next().is_some_and(is_runner)
}

/// The next processes to signal.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct StopTargets {
    /// Processes and the signal of each.
    pub send: Vec<(ProcessRef, i32)>,
    /// Processes that handle their signal and are still running: when one of them has exited, more processes may have
    /// to be signaled.
    pub handling: Vec<ProcessRef>,
}

/// The next processes of a tree to signal. A process comes after its parent in `members`; `signaled` got the signal
/// before.
pub fn next_targets(members: &[TreeMember], signal: i32, signaled: &HashSet<ProcessRef>) -> StopTargets {
    let parents = parent_indexes(members);
    select(members, &parents, &reactions(members, &parents, signal), signaled)
}

fn select(
    members: &[TreeMember],
    parents: &[Option<usize>],
    reactions: &[Reaction],
    signaled: &HashSet<ProcessRef>,
) -> StopTargets {
    // Whether a process above handles the signal, and whether one below does.
    let mut is_left_to_parent = vec![false; members.len()];
    for (index, parent) in parents.iter().enumerate() {
        is_left_to_parent[index] =
            parent.is_some_and(|parent| is_left_to_parent[parent] || reactions[parent].handles);
    }
    let mut handles_below = vec![false; members.len()];
    for (index, parent) in parents.iter().enumerate().rev() {
        if let Some(parent) = parent {
            handles_below[*parent] |= handles_below[index] || reactions[index].handles;
        }
    }
    let topmost: Vec<usize> = (0..members.len()).filter(|index| !is_left_to_parent[*index]).collect();
    let handling: Vec<ProcessRef> =
        topmost.iter().filter(|it| reactions[**it].handles).map(|it| members[*it].process).collect();
    // A process that does not handle the signal ends at once. A shell must not continue with its next command after
    // the program that it waits for; other processes may be used by those that still finish their work.
    let is_due = |index: usize| handling.is_empty() || reactions[index].handles || handles_below[index];
    let send = topmost.iter().copied().filter(|index| is_due(*index));
    let send = send.map(|index| (members[index].process, reactions[index].signal));
    StopTargets { send: send.filter(|(process, _)| !signaled.contains(process)).collect(), handling }
}

/// The position of the parent of each process, if that is a member, too.
fn parent_indexes(members: &[TreeMember]) -> Vec<Option<usize>> {
    let by_pid: HashMap<i32, usize> =
        members.iter().enumerate().map(|(index, member)| (member.process.pid, index)).collect();
    let parent = |(index, member): (usize, &TreeMember)| {
        by_pid.get(&member.parent).copied().filter(|parent| *parent < index)
    };
    members.iter().enumerate().map(parent).collect()
}

/// Servers that evidently did not get the signal from the process above them that was signaled: they handle it and
/// still listen on a socket of their own.
///
/// Reads the descriptors of processes, which can block.
pub fn unaware_servers(
    members: &[TreeMember],
    signal: i32,
    signaled: &HashSet<ProcessRef>,
) -> Vec<(ProcessRef, i32)> {
    let parents = parent_indexes(members);
    let listening = |pid: i32| -> HashSet<u64> {
        let sockets = fds::sockets(pid).into_iter().flatten().map(|(_, inode)| inode);
        let table = net::listening_inodes(pid);
        sockets.filter(|inode| table.contains(inode)).collect()
    };
    let mut found = Vec::new();
    let mut is_below_found = vec![false; members.len()];
    for (index, member) in members.iter().enumerate() {
        let Some(parent) = parents[index] else { continue };
        is_below_found[index] = is_below_found[parent];
        if is_below_found[index] || signaled.contains(&member.process) {
            continue;
        }
        let reaction = Reaction::of(member.process.pid, signal);
        if !reaction.handles {
            continue;
        }
        let mut own = listening(member.process.pid);
        let ancestors = std::iter::successors(Some(parent), |index| parents[*index]);
        ancestors.for_each(|ancestor| {
            let of_ancestor = listening(members[ancestor].process.pid);
            own.retain(|inode| !of_ancestor.contains(inode));
        });
        if !own.is_empty() {
            is_below_found[index] = true;
            found.push((member.process, reaction.signal));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::fixture::{Fixture, wait_until};
    use crate::process::tree::tree_members;

    const DEFAULT: Reaction = Reaction { signal: 2, handles: false };
    const HANDLES: Reaction = Reaction { signal: 2, handles: true };

    const NONE: [i32; 0] = [];

    /// Members with pids from 1, given by their parents.
    fn tree(parents: &[i32]) -> Vec<TreeMember> {
        let member = |(index, parent): (usize, &i32)| {
            let pid = i32::try_from(index).unwrap() + 1;
            TreeMember {
                process: ProcessRef { pid, start_time: 0 },
                parent: *parent,
                group: 1,
                session: 1,
                is_exiting: false,
                is_assigned: true,
            }
        };
        parents.iter().enumerate().map(member).collect()
    }

    fn targets(parents: &[i32], reactions: &[Reaction], signaled: &[i32]) -> Vec<i32> {
        let signaled = signaled.iter().map(|pid| ProcessRef { pid: *pid, start_time: 0 }).collect();
        let members = tree(parents);
        select(&members, &parent_indexes(&members), reactions, &signaled)
            .send
            .iter()
            .map(|(process, _)| process.pid)
            .collect()
    }

    #[test]
    fn topmost_handler_of_each_branch_is_signaled() {
        // npm (1) -> node (2) -> worker (3)
        assert_eq!(targets(&[0, 1, 2], &[HANDLES, HANDLES, HANDLES], &[]), [1]);
        // shell (1) -> node (2), node (3) -> worker (4)
        assert_eq!(targets(&[0, 1, 1, 3], &[DEFAULT, HANDLES, HANDLES, HANDLES], &[]), [1, 2, 3]);
    }

    #[test]
    fn process_that_ends_at_once_waits_for_handlers_beside_it() {
        // shell (1) -> node (2) | tee (3)
        assert_eq!(targets(&[0, 1, 1], &[DEFAULT, HANDLES, DEFAULT], &[]), [1, 2]);
        // The shell has exited, and then node, too.
        assert_eq!(targets(&[0, 0], &[HANDLES, DEFAULT], &[1]), NONE);
        assert_eq!(targets(&[0], &[DEFAULT], &[]), [1]);
    }

    #[test]
    fn tree_without_handlers_is_signaled_at_once() {
        assert_eq!(targets(&[0, 1, 2], &[DEFAULT; 3], &[]), [1, 2, 3]);
        assert_eq!(targets(&[0, 1, 2], &[DEFAULT; 3], &[1, 2]), [3]);
    }

    #[test]
    fn nothing_is_signaled_while_signaled_handler_runs() {
        assert_eq!(targets(&[0, 1], &[HANDLES, HANDLES], &[1]), NONE);
        assert_eq!(targets(&[0], &[HANDLES], &[]), [1]);
    }

    #[test]
    fn reaction_is_read_from_process() {
        let mut app = Fixture::sh(
            "trap : TERM; sleep 1000 & echo $!; (trap '' TERM; exec sleep 1000) & echo $!; echo x; read _",
        );
        let (job, deaf) = (app.process(), app.process());
        app.line();
        for process in [job, deaf] {
            wait_until(|| stat::comm(process.pid) == "sleep");
        }
        let reaction = |signal, handles| Reaction { signal, handles };
        assert_eq!(Reaction::of(app.leader().pid, libc::SIGTERM), reaction(libc::SIGTERM, true));
        assert_eq!(Reaction::of(app.leader().pid, libc::SIGUSR1), reaction(libc::SIGUSR1, false));
        // The shell made its background jobs ignore SIGINT.
        assert_eq!(Reaction::of(job.pid, libc::SIGINT), reaction(libc::SIGTERM, false));
        assert_eq!(Reaction::of(deaf.pid, libc::SIGINT), reaction(libc::SIGINT, false));
    }

    #[test]
    fn shell_that_waits_for_a_program_does_not_pass_the_signal_on() {
        let program = "python3 -c 'import signal, os; signal.signal(2, lambda *_: 0); print(os.getpid(), flush=True); signal.pause()'";
        for (script, waits) in
            [(format!("trap : INT; {program}; :"), true), (format!("trap : INT; {program} & wait"), false)]
        {
            let mut app = Fixture::sh(&script);
            let program = app.process();
            let members = tree_members(app.leader());
            let targets = next_targets(&members, libc::SIGINT, &HashSet::new()).send;
            assert_eq!(targets.contains(&(program, libc::SIGINT)), waits, "{script}: {targets:?}");
            assert!(targets.contains(&(app.leader(), libc::SIGINT)));
        }
    }

    #[test]
    fn server_that_still_listens_did_not_get_the_signal() {
        let mut app = Fixture::python(
            "import os, signal, socket, sys, time\n\
             inherited = socket.create_server(('127.0.0.1', 0))\n\
             signal.signal(signal.SIGUSR1, lambda *_: None)\n\
             def child(own):\n\
             \x20   pid = os.fork()\n\
             \x20   if pid == 0:\n\
             \x20       server = socket.create_server(('127.0.0.1', 0)) if own else None\n\
             \x20       print(os.getpid(), flush=True)\n\
             \x20       while True: time.sleep(1000)\n\
             child(True)\n\
             child(False)\n\
             sys.stdin.read()",
        );
        let (first, second) = (app.process(), app.process());
        let members = tree_members(app.leader());
        assert_eq!(members.len(), 3);
        let signaled = HashSet::from([app.leader()]);
        let unaware = unaware_servers(&members, libc::SIGUSR1, &signaled);
        assert_eq!(unaware.len(), 1, "one of {first:?} and {second:?} has only the socket of its parent");
        let with_first = HashSet::from([app.leader(), unaware[0].0]);
        assert!(unaware_servers(&members, libc::SIGUSR1, &with_first).is_empty());
    }
}
