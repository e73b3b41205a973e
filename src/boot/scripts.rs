//! Scripts for the init systems that take scripts.
//!
//! OpenRC and sysv have rsm go to the background by itself: daemon and keeper watch each other. runit
//! watches a process in the foreground.

use super::plan::Service;

/// The word for a POSIX shell.
fn quoted(word: &str) -> String {
    // Only a zero byte cannot be said, and no path has one.
    shlex::try_quote(word).map_or_else(|_| "''".to_owned(), |word| word.into_owned())
}

/// Who the commands are run as, and a shell function that does it.
fn preamble(service: &Service) -> String {
    let user = quoted(service.user.as_deref().unwrap_or("root"));
    let (program, home) =
        (quoted(&service.program.display().to_string()), quoted(&service.home.display().to_string()));
    let dir = quoted(&service.user_dir.display().to_string());
    format!(
        "\
user={user}
export RSM={program} RSM_HOME={home}

rsm() {{
    # The words go through the environment of that shell: no quoting can be wrong.
    RSM_WORDS=\"$*\" HOME={dir} su -s /bin/sh \"$user\" -c 'exec \"$RSM\" $RSM_WORDS'
}}
"
    )
}

/// For OpenRC.
pub fn openrc(service: &Service) -> String {
    format!(
        "\
#!/sbin/openrc-run
# Written by `rsm startup`; `rsm unstartup` removes it.
description=\"rsm: the apps of {user}\"
extra_started_commands=\"reload\"
{preamble}
depend() {{
    # Nothing is needed by name: what mounts is called differently, and has its turn before this run level.
    use net
    after localmount netmount firewall
}}

start() {{
    ebegin \"Starting the apps of $user\"
    rsm foreground --once
    eend $?
}}

stop() {{
    ebegin \"Stopping the apps of $user\"
    rsm kill
    eend $?
}}

reload() {{
    ebegin \"Reloading the apps of $user\"
    rsm reload all
    eend $?
}}

status() {{
    rsm ping
}}
",
        user = service.user.as_deref().unwrap_or("root"),
        preamble = preamble(service)
    )
}

/// For `/etc/init.d` with run levels.
pub fn sysv(service: &Service) -> String {
    format!(
        "\
#!/bin/sh
# Written by `rsm startup`; `rsm unstartup` removes it.
# chkconfig: 2345 80 20
### BEGIN INIT INFO
# Provides:          {name}
# Required-Start:    $local_fs $remote_fs $network
# Required-Stop:     $local_fs $remote_fs $network
# Default-Start:     2 3 4 5
# Default-Stop:      0 1 6
# Short-Description: rsm: the apps of {user}
### END INIT INFO
{preamble}
case \"$1\" in
start) rsm foreground --once ;;
stop) rsm kill ;;
restart | force-reload) rsm kill && rsm foreground --once ;;
reload) rsm reload all ;;
status) rsm ping ;;
*)
    echo \"Usage: $0 start|stop|restart|reload|status\" >&2
    exit 2
    ;;
esac
",
        name = service.name,
        user = service.user.as_deref().unwrap_or("root"),
        preamble = preamble(service)
    )
}

/// For runit: what it runs and watches.
pub fn runit_run(service: &Service) -> String {
    let user = service.user.as_deref().unwrap_or("root");
    format!(
        "\
#!/bin/sh
# Written by `rsm startup`; `rsm unstartup` removes it.
exec 2>&1
export HOME={dir} USER={user} LOGNAME={user} RSM_HOME={home}
# By numbers, and with every group: chpst by itself gives but the first one.
exec chpst -u \":$(id -u {user}):$(id -G {user} | tr ' ' :)\" {program} foreground
",
        dir = quoted(&service.user_dir.display().to_string()),
        user = quoted(user),
        home = quoted(&service.home.display().to_string()),
        program = quoted(&service.program.display().to_string()),
    )
}

/// For runit: what follows the end. Success is `rsm kill`, which is to last.
pub fn runit_finish() -> String {
    "\
#!/bin/sh
# Written by `rsm startup`; `rsm unstartup` removes it.
[ \"$1\" != 0 ] || sv down \"$PWD\"
"
    .to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::super::plan::tests::service;
    use super::*;

    /// A shell reads it without complaint.
    fn reads(script: &str) {
        let mut shell = Command::new("sh").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
        shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(shell.wait().unwrap().success(), "{script}");
    }

    #[test]
    fn a_shell_can_read_them() {
        let odd = Service { home: "/srv/Bob's \"$HOME\"".into(), ..service() };
        for service in [service(), odd] {
            reads(&openrc(&service));
            reads(&sysv(&service));
            reads(&runit_run(&service));
        }
        reads(&runit_finish());
    }

    #[test]
    fn homes_with_blanks_and_quotes_arrive_whole() {
        let odd = Service { home: "/srv/Bob's \"$HOME\" %n".into(), ..service() };
        let script = format!("{}printf %s \"$RSM_HOME\"", preamble(&odd));
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), odd.home.display().to_string());
    }
}
