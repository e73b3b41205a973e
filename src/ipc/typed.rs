//! The client's verbs: what a program that uses this crate calls.
//!
//! ```no_run
//! use rsm::ipc::client::Client;
//! use rsm::ipc::message::{LogItem, LogQuery, StartApps};
//! use rsm::paths::Home;
//! use rsm::spec::AppSpec;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mut client = Client::connect(&Home::from_env()?).await?;
//! let api = AppSpec { instances: 2, ..AppSpec::new("api", "/srv/api/run", "/srv/api") };
//! let report = client.start(StartApps::of([api])).await?;
//! for outcome in report.instances {
//!     println!("{} (id {}): {:?}", outcome.name, outcome.id, outcome.problem);
//! }
//! for instance in client.list().await? {
//!     println!("{} is {}", instance.name, instance.status.as_str());
//! }
//! let query = LogQuery { select: vec!["api".into()], follow: true, ..LogQuery::default() };
//! let mut logs = client.logs(query).await?;
//! while let Some(item) = logs.next_as::<LogItem>().await {
//!     if let LogItem::Line { name, line, .. } = item? {
//!         println!("{name}: {line}");
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Instances are selected as on the command line: by id, name, namespace, `/regex/` or `all`. A
//! [`Report`] tells how each came out; one with a `problem` is not as it was wished.

use serde::de::DeserializeOwned;

use super::client::{Client, ClientError, Lines};
use super::message::{
    ActOn, Action, InstanceDetail, InstanceView, LogQuery, Pong, Reload, Report, Request, ScaleTo, Selectors,
    StartApps, Trigger, TriggerReply,
};

/// One method a request; each fails as [`Client::call`] does.
#[allow(clippy::missing_errors_doc, reason = "said once, above")]
impl Client {
    /// The daemon's version and pid.
    pub async fn ping(&mut self) -> Result<Pong, ClientError> {
        self.call(&Request::Ping).await
    }

    /// All instances.
    pub async fn list(&mut self) -> Result<Vec<InstanceView>, ClientError> {
        self.call(&Request::List).await
    }

    /// Everything about the selected instances.
    pub async fn describe(&mut self, select: Selectors) -> Result<Vec<InstanceDetail>, ClientError> {
        self.call(&Request::Describe(select)).await
    }

    /// Adds apps, or brings them up to date; answered once they have settled.
    pub async fn start(&mut self, apps: StartApps) -> Result<Report, ClientError> {
        self.call(&Request::Start(apps)).await
    }

    /// Stops, and keeps in the list.
    pub async fn stop(&mut self, select: Selectors) -> Result<Report, ClientError> {
        self.act(Action::Stop, select).await
    }

    /// Stops and starts.
    pub async fn restart(&mut self, select: Selectors) -> Result<Report, ClientError> {
        self.act(Action::Restart, select).await
    }

    /// Stops, and takes from the list.
    pub async fn delete(&mut self, select: Selectors) -> Result<Report, ClientError> {
        self.act(Action::Delete, select).await
    }

    /// Any action as it is.
    pub async fn act(&mut self, action: Action, select: Selectors) -> Result<Report, ClientError> {
        self.call(&Request::Act(action, ActOn { select, ..ActOn::default() })).await
    }

    /// New processes beside the old ones, without a failed request where ports are shared.
    pub async fn reload(&mut self, reload: Reload) -> Result<Report, ClientError> {
        self.call(&Request::Reload(Box::new(reload))).await
    }

    /// Another number of instances.
    pub async fn scale(&mut self, name: impl Into<String>, to: ScaleTo) -> Result<Report, ClientError> {
        self.call(&Request::Scale { name: name.into(), to }).await
    }

    /// Has apps do what they offer through Node's channel.
    pub async fn trigger(&mut self, trigger: Trigger) -> Result<Vec<TriggerReply>, ClientError> {
        self.call(&Request::Trigger(trigger)).await
    }

    /// Log lines, each a [`LogItem`](super::message::LogItem).
    pub async fn logs(&mut self, query: LogQuery) -> Result<Lines, ClientError> {
        self.stream(&Request::Logs(query)).await
    }

    /// What happens, each an [`EventView`](super::message::EventView).
    pub async fn events(&mut self) -> Result<Lines, ClientError> {
        self.stream(&Request::Events).await
    }
}

impl Lines {
    /// The next line, read as what it is.
    ///
    /// # Errors
    /// The daemon went away, or says something that this version does not know.
    pub async fn next_as<T: DeserializeOwned>(&mut self) -> Option<Result<T, ClientError>> {
        let line = self.next().await?;
        Some(line.and_then(|line| {
            serde_json::from_slice(&line).map_err(|error| ClientError::Protocol(error.to_string()))
        }))
    }
}

impl StartApps {
    /// These apps, with the environment of this process for them to inherit.
    pub fn of(apps: impl IntoIterator<Item = crate::spec::AppSpec>) -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let inherited = super::message::Inherited(std::env::vars_os().filter_map(text).collect());
        Self { apps: apps.into_iter().collect(), inherited, existing: super::message::Existing::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::Home;

    #[test]
    fn its_futures_may_move_between_threads() {
        fn is_send(_: &impl Send) {}
        let asked = async {
            let mut client = Client::connect(&Home::at("/nowhere")).await?;
            client.start(StartApps::of([])).await
        };
        is_send(&asked);
    }
}
