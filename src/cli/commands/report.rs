//! `report`: information for a bug report, as Markdown, without values of environment variables.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::cli::error::Error;
use crate::cli::output;
use crate::cli::render;
use crate::cli::render::style::{Style, tame};
use crate::cli::session::Session;
use crate::ipc::message::{DaemonInfo, InstanceView, Request};
use crate::version::version;

/// Number of lines of the daemon log.
const LOG_LINES: usize = 20;

/// Number of bytes read from the end of the log: enough for these lines.
const TAIL_BYTES: u64 = 32 << 10;

pub(crate) async fn report(session: &Session) -> Result<(), Error> {
    let cli = version();
    let mut text = format!("```\n# rsm {cli} on {} {}\n", std::env::consts::OS, std::env::consts::ARCH);
    match session.connect_if_running().await? {
        Some(mut client) => {
            let info: DaemonInfo =
                client.call(&Request::Info).await.map_err(|error| session.client_error(error))?;
            let instances: Vec<InstanceView> =
                client.call(&Request::List).await.map_err(|error| session.client_error(error))?;
            text += &render::info::info(&info, cli, Style::plain());
            text += &format!("\n# list\n{}", render::list::list(&instances, None, Style::plain()));
        }
        None => text += "the daemon is not running\n",
    }
    text += &format!(
        "\n# last lines of {}\n{}```\n",
        session.home.daemon_log().display(),
        log_tail(&session.home.daemon_log())
    );
    output::print(&text)
}

/// The last lines of a file, empty if it cannot be read.
fn log_tail(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].iter().map(|line| format!("{}\n", tame(line))).collect()
}
