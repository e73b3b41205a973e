//! Starts an app, follows its log, restarts it and deletes it. Run with: `cargo run --example client`.
//!
//! Connects to the daemon of `$RSM_HOME`, which must be running: start it with `rsm start`.

#![allow(clippy::print_stdout)]

use rsm::ipc::client::Client;
use rsm::ipc::message::{ActionReport, EventKind, EventView, LogItem, LogQuery, StartRequest};
use rsm::paths::Home;
use rsm::spec::{AppSpec, Launcher};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut client = Client::connect(&Home::from_env()?).await?;
    println!("rsm {}", client.ping().await?.version);

    let line = "while :; do echo hello; sleep 1; done";
    let app = AppSpec { launcher: Launcher::Shell, ..AppSpec::new("hello-rs", line, "/") };
    print_report(&client.start_apps(StartRequest::from_current_env([app])).await?);

    let query = LogQuery { select: vec!["hello-rs".into()], follow: true, ..LogQuery::default() };
    let mut logs = client.logs(query).await?;
    if let Some(LogItem::Line { name, line, .. }) = logs.next_json().await.transpose()? {
        println!("{name}: {line}");
    }

    let mut events = client.events().await?;
    print_report(&client.restart(vec!["hello-rs".into()]).await?);
    while let Some(event) = events.next_json::<EventView>().await.transpose()? {
        println!("{} {:?}", event.name, event.event);
        if event.event == EventKind::Online {
            break;
        }
    }
    for instance in client.list().await? {
        println!("{}: {}, {} restarts", instance.name, instance.status.as_str(), instance.restarts);
    }
    print_report(&client.delete(vec!["hello-rs".into()]).await?);
    Ok(())
}

/// Prints the result for each instance.
fn print_report(report: &ActionReport) {
    for outcome in &report.instances {
        println!("{} (id {}): {}", outcome.name, outcome.id, outcome.problem.as_deref().unwrap_or("ok"));
    }
}
