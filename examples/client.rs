//! Starts an app, shows what it says, restarts it and removes it: `cargo run --example client`.
//!
//! Talks to the daemon of `$RSM_HOME`, which `rsm start` or any other command has begun.

#![allow(clippy::print_stdout)]

use rsm::ipc::client::Client;
use rsm::ipc::message::{EventKind, EventView, LogItem, LogQuery, Report, StartApps};
use rsm::paths::Home;
use rsm::spec::{AppSpec, Launcher};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut client = Client::connect(&Home::from_env()?).await?;
    println!("rsm {}", client.ping().await?.version);

    let line = "while :; do echo hello; sleep 1; done";
    let app = AppSpec { launcher: Launcher::Shell, ..AppSpec::new("hello-rs", line, "/") };
    told(&client.start_apps(StartApps::from_current_env([app])).await?);

    let query = LogQuery { select: vec!["hello-rs".into()], follow: true, ..LogQuery::default() };
    let mut logs = client.logs(query).await?;
    if let Some(LogItem::Line { name, line, .. }) = logs.next_json().await.transpose()? {
        println!("{name} says {line}");
    }

    let mut events = client.events().await?;
    told(&client.restart(vec!["hello-rs".into()]).await?);
    while let Some(event) = events.next_json::<EventView>().await.transpose()? {
        println!("{} {:?}", event.name, event.event);
        if event.event == EventKind::Online {
            break;
        }
    }
    for instance in client.list().await? {
        println!("{}: {}, {} restarts", instance.name, instance.status.as_str(), instance.restarts);
    }
    told(&client.delete(vec!["hello-rs".into()]).await?);
    Ok(())
}

/// Each instance has a problem, or is as it was wished.
fn told(report: &Report) {
    for outcome in &report.instances {
        println!(
            "{} (id {}): {}",
            outcome.name,
            outcome.id,
            outcome.problem.as_deref().unwrap_or("as wished")
        );
    }
}
