//! Execution of operations: sends requests, prints the result for each instance, then the list.

use super::commands::list;
use super::error::Error;
use super::session::Session;
use crate::ipc::client::Client;
use crate::ipc::message::{ActionReport, Request};

/// Sends requests in order, until one fails. `description` is printed while waiting.
/// Returns the ids of the instances.
pub(super) async fn send_all(
    session: &Session,
    client: &mut Client,
    description: &str,
    requests: Vec<Request>,
) -> Result<Vec<String>, Error> {
    let mut ids = Vec::new();
    for request in &requests {
        let report = session.wait(description, client.call::<ActionReport>(request)).await;
        let report = report.map_err(|error| session.client_error(error))?;
        session.print_report(&report)?;
        ids.extend(report.instances.iter().map(|outcome| outcome.id.to_string()));
    }
    if !session.quiet() {
        list::print_list(session, client).await?;
    }
    Ok(ids)
}
