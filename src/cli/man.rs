//! Man pages: one for each command, made from its help, with the sections that a help text lacks.

use std::io;
use std::path::Path;

use clap::Command;
use clap_mangen::Man;

use crate::cli::error::Error;

/// A section: its heading, and entries with their descriptions.
type ManSection = (&'static str, &'static [(&'static str, &'static str)]);

const EXIT_STATUS: ManSection = (
    "EXIT STATUS",
    &[
        ("0", "Success."),
        ("1", "The request failed, or was refused."),
        ("2", "Wrong usage: the command line is invalid."),
        ("3", "The daemon cannot be reached."),
        ("130", "Interrupted by Ctrl-C."),
    ],
);

const ENVIRONMENT: ManSection = (
    "ENVIRONMENT",
    &[
        (
            "RSM_HOME",
            "The directory of the files below. Default: ~/.rsm. Each directory has its own daemon and apps.",
        ),
        ("NO_COLOR", "If set and not empty, output has no colors."),
        ("PATH", "Programs and interpreters of apps are searched here; apps inherit it."),
        (
            "PWD",
            "The name of the current directory; a symbolic link in it is followed at each start of an app.",
        ),
        ("PM2_HOME", "Used instead of RSM_HOME if rsm is called by the name pm2 and RSM_HOME is not set."),
    ],
);

const FILES: ManSection = (
    "FILES",
    &[
        (
            "ecosystem.toml, ecosystem.config.js, ...",
            "The apps of a directory, used by commands without a file.",
        ),
        ("~/.rsm/dump.json", "The saved list, restored at boot and by resurrect."),
        ("~/.rsm/state.json", "The list of the running daemon."),
        ("~/.rsm/settings.json", "The settings of conf and set."),
        ("~/.rsm/rsm.sock", "The socket of the API."),
        ("~/.rsm/rsm.log", "The log of the daemon."),
        ("~/.rsm/logs/", "Log files of apps, unless configured elsewhere."),
        ("~/.rsm/pids/", "Pid files of apps, unless configured elsewhere."),
    ],
);

/// Writes a man page for each command.
pub(super) fn write_pages(directory: &Path, command: Command) -> Result<(), Error> {
    let to_error = |error: io::Error| Error::ComponentFailed {
        component: "man",
        reason: format!("{}: {error}", directory.display()),
    };
    std::fs::create_dir_all(directory).map_err(to_error)?;
    // `rsm help` has no page: each command has one.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    write_page(directory, "rsm", command.clone(), &[ENVIRONMENT, FILES, EXIT_STATUS]).map_err(to_error)?;
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        let name = format!("rsm-{}", subcommand.get_name());
        // clap wants static names; this process exits after the last page.
        let page = subcommand.clone().name(&*name.clone().leak());
        write_page(directory, &name, page, &[EXIT_STATUS]).map_err(to_error)?;
    }
    Ok(())
}

fn write_page(directory: &Path, name: &str, command: Command, sections: &[ManSection]) -> io::Result<()> {
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    for (heading, entries) in sections {
        page.extend(format!(".SH \"{heading}\"\n").into_bytes());
        for (term, description) in *entries {
            page.extend(format!(".TP\n\\fB{}\\fR\n{}\n", escaped(term), escaped(description)).into_bytes());
        }
    }
    if name != "rsm" {
        page.extend_from_slice(b".SH \"SEE ALSO\"\n.BR rsm (1)\n");
    }
    std::fs::write(directory.join(format!("{name}.1")), page)
}

/// Text for roff: a hyphen is typed as one, and a dot at the start of a line is no request.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}
