//! Execution of operations: sends requests, prints the result for each instance, then the list.

use std::time::Duration;

use super::commands::list;
use super::error::{Error, InstanceFailure};
use super::port_holder;
use super::render::report::participle;
use super::session::Session;
use crate::ipc::client::Client;
use crate::ipc::message::{ActionReport, InstanceView, LogItem, LogQuery, Request};

/// Number of log lines shown for a failed instance: enough for the message and the stack trace of an exception.
const FAILURE_LINES: usize = 30;

/// The last lines of a process may be read from its pipe after its exit was reported. This often, the logs are queried
/// again if they are empty.
const LOG_QUERIES: u32 = 4;

/// The interval between these queries.
const LOG_QUERY_INTERVAL: Duration = Duration::from_millis(50);

/// Sends requests in order, until one is rejected. `description` is printed while waiting.
/// Returns the ids of the instances.
///
/// # Errors
/// A request was rejected, or the operation failed for an instance. In the latter case, the other requests were sent.
pub(super) async fn send_all(
    session: &Session,
    client: &mut Client,
    description: &str,
    requests: Vec<Request>,
) -> Result<Vec<String>, Error> {
    let (mut ids, mut failures) = (Vec::new(), Vec::new());
    for request in &requests {
        let begin = now();
        let report = session.wait(description, client.call::<ActionReport>(request)).await;
        let report = report.map_err(|error| session.client_error(error))?;
        session.print_outcomes(&report, participle(request));
        failures.extend(find_failures(&report, begin, client).await);
        ids.extend(report.instances.iter().map(|outcome| outcome.id.to_string()));
    }
    if !session.quiet() {
        list::print_list(session, client).await?;
    }
    if failures.is_empty() { Ok(ids) } else { Err(Error::InstancesFailed(failures)) }
}

/// The current time, in milliseconds since the epoch.
pub(super) fn now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// The failures in a report, each with the last lines that the instance has logged since the operation began.
pub(super) async fn find_failures(
    report: &ActionReport,
    begin: u64,
    client: &mut Client,
) -> Vec<InstanceFailure> {
    let mut failures = Session::failures(report);
    for failure in &mut failures {
        failure.output = last_lines(failure.id, begin, client).await;
    }
    if failures.iter().all(|failure| failure.output.is_empty()) {
        return failures;
    }
    let instances: Vec<InstanceView> = client.call(&Request::List).await.unwrap_or_default();
    for failure in &mut failures {
        if let Some(holder) = port_holder::describe(&failure.output, failure.id, &instances) {
            failure.reason = format!("{}; {holder}", failure.reason);
        }
    }
    failures
}

/// The last lines of standard error; of standard output if there are none.
async fn last_lines(id: u32, since: u64, client: &mut Client) -> Vec<String> {
    for attempt in 0..LOG_QUERIES {
        if attempt > 0 {
            tokio::time::sleep(LOG_QUERY_INTERVAL).await;
        }
        for (out, err) in [(false, true), (true, false)] {
            let select = vec![id.to_string()];
            let query = LogQuery {
                select,
                lines: FAILURE_LINES,
                since: Some(since),
                out,
                err,
                ..LogQuery::default()
            };
            let lines = read_lines(query, client).await;
            if !lines.is_empty() {
                return lines;
            }
        }
    }
    Vec::new()
}

async fn read_lines(query: LogQuery, client: &mut Client) -> Vec<String> {
    let mut lines = Vec::new();
    let Ok(mut stream) = client.stream(&Request::Logs(query)).await else { return lines };
    while let Some(Ok(line)) = stream.next().await {
        if let Ok(LogItem::Line { line, .. }) = serde_json::from_slice(&line) {
            lines.push(line);
        }
    }
    lines
}
