//! Scripts for OpenRC, SysV init and runit.
//!
//! With OpenRC and SysV init, rsm runs in the background: daemon and keeper restart each other. runit
//! supervises a process in the foreground.

use std::path::Path;

use super::service::Service;
use crate::text::quote_shell;

/// The user of the commands, and a shell function that runs rsm as that user.
fn preamble(service: &Service) -> String {
    let user = quote_shell(service.user.as_deref().unwrap_or("root"));
    let program = quote_path(&service.program);
    let home = quote_path(&service.home);
    let dir = quote_path(&service.user_dir);
    format!(
        "\
user={user}
export RSM={program} RSM_HOME={home}

rsm() {{
    # The arguments are passed in the environment: they need no quoting.
    RSM_WORDS=\"$*\" HOME={dir} su -s /bin/sh \"$user\" -c 'exec \"$RSM\" $RSM_WORDS'
}}
"
    )
}

fn quote_path(path: &Path) -> String {
    quote_shell(&path.display().to_string()).into_owned()
}

/// The service script for OpenRC.
pub fn openrc(service: &Service) -> String {
    format!(
        "\
#!/sbin/openrc-run
# Written by `rsm startup`; `rsm unstartup` removes it.
description=\"rsm: apps of {user}\"
extra_started_commands=\"reload\"
{preamble}
depend() {{
    # No `need`: the services that mount file systems have different names, and start before this runlevel.
    use net
    after localmount netmount firewall
}}

start() {{
    ebegin \"Starting apps of $user\"
    rsm foreground --once
    eend $?
}}

stop() {{
    ebegin \"Stopping apps of $user\"
    rsm kill
    eend $?
}}

reload() {{
    ebegin \"Reloading apps of $user\"
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

/// The script for `/etc/init.d`, with LSB headers.
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
# Short-Description: rsm: apps of {user}
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

/// The `run` script for runit.
pub fn runit_run(service: &Service) -> String {
    let user = service.user.as_deref().unwrap_or("root");
    format!(
        "\
#!/bin/sh
# Written by `rsm startup`; `rsm unstartup` removes it.
exec 2>&1
export HOME={dir} USER={user} LOGNAME={user} RSM_HOME={home}
# Numeric IDs of all groups: chpst -u NAME sets only the primary group.
exec chpst -u \":$(id -u {user}):$(id -G {user} | tr ' ' :)\" {program} foreground
",
        dir = quote_path(&service.user_dir),
        user = quote_shell(user),
        home = quote_path(&service.home),
        program = quote_path(&service.program),
    )
}

/// The `finish` script for runit. Exit code 0 means `rsm kill`: the service must stay down.
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

    use super::super::service::tests::service;
    use super::*;

    fn check_syntax(script: &str) {
        let mut shell = Command::new("sh").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
        shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(shell.wait().unwrap().success(), "{script}");
    }

    #[test]
    fn scripts_are_valid_shell() {
        let odd = Service { home: "/srv/Bob's \"$HOME\"".into(), ..service() };
        for service in [service(), odd] {
            check_syntax(&openrc(&service));
            check_syntax(&sysv(&service));
            check_syntax(&runit_run(&service));
        }
        check_syntax(&runit_finish());
    }

    #[test]
    fn quotes_home_with_spaces_and_quotes() {
        let odd = Service { home: "/srv/Bob's \"$HOME\" %n".into(), ..service() };
        let script = format!("{}printf %s \"$RSM_HOME\"", preamble(&odd));
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), odd.home.display().to_string());
    }
}
