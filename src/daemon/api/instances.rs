//! Queries about instances and about rsm itself. They change nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::daemon::api::encode::json_response;
use crate::daemon::api::jlist::jlist;
use crate::daemon::jobs::drift::Drift;
use crate::daemon::jobs::dump::DumpFingerprint;
use crate::daemon::supervisor::handle::SupervisorHandle;
use crate::daemon::supervisor::views;
use crate::daemon::world::limits::ResourceLimiter;
use crate::daemon::world::node_channel::NodeChannels;
use crate::daemon::world::pid_file::pid_file;
use crate::daemon::world::port_registry::PortRegistry;
use crate::instance::Instance;
use crate::instance::launch;
use crate::instance::status::RunId;
use crate::ipc::message::{
    ApiError, DaemonInfo, DescribeQuery, ErrorCode, InstanceDetail, InstanceView, Selectors, StalledOperation,
};
use crate::ipc::server::HandlerResponse;
use crate::logs::{LogHandle, log_files};
use crate::metrics::{self, Usage};
use crate::paths::Home;
use crate::process::detached;
use crate::process::proc::net;
use crate::spec::AppSpec;
use crate::spec::EnvVars;
use crate::time;
use crate::version::version;

/// Answers queries about instances.
pub struct InstanceQueries {
    home: Home,
    handle: SupervisorHandle,
    node_channels: NodeChannels,
    port_registry: PortRegistry,
    limiter: ResourceLimiter,
    logs: LogHandle,
    /// The name of the daemon's user, who is that of apps without `user`.
    user: String,
    known_dump: DumpFingerprint,
}

impl InstanceQueries {
    pub fn new(
        home: Home,
        handle: SupervisorHandle,
        node_channels: NodeChannels,
        port_registry: PortRegistry,
        limiter: ResourceLimiter,
        logs: LogHandle,
    ) -> Self {
        let known_dump = DumpFingerprint::default();
        Self { home, handle, node_channels, port_registry, limiter, logs, user: user_name(), known_dump }
    }

    pub async fn list(&self) -> Result<Vec<InstanceView>, ApiError> {
        let all = self.with_usage(None).await?;
        let drift = Drift::inspect(all.iter().map(|(instance, _)| instance)).await;
        Ok(all.iter().map(|(instance, usage)| self.view(instance, usage, &drift)).collect())
    }

    pub async fn jlist(&self) -> Result<HandlerResponse, ApiError> {
        let all = self.with_usage(None).await?;
        json_response(&jlist(&all, &self.node_channels, &self.home, &self.user))
    }

    pub async fn describe(&self, query: DescribeQuery) -> Result<Vec<InstanceDetail>, ApiError> {
        let selected = self.with_usage(Some(query.select)).await?;
        let all = self.handle.get(None).await?;
        let drift = Drift::inspect(all.iter().map(|(instance, _)| instance)).await;
        let detail = |(instance, usage)| self.detail(instance, usage, &drift, query.env);
        let mut details: Vec<InstanceDetail> = selected.into_iter().map(detail).collect();
        count_connections(&mut details).await;
        Ok(details)
    }

    pub async fn env(&self, id: u32) -> Result<EnvVars, ApiError> {
        let env = self.handle.inspect(move |instances| instances.get(&id).map(|it| it.spec().env.clone()));
        env.await?.ok_or_else(|| {
            ApiError::new(ErrorCode::NotFound, format!("no instance with id {id}")).hint("see `rsm list`")
        })
    }

    /// The response to `rsm info`: rsm itself and the machine.
    pub async fn info(&self, keeper_pid: i32) -> Result<DaemonInfo, ApiError> {
        let (instances, _): (Vec<Instance>, Vec<Usage>) = self.handle.get(None).await?.into_iter().unzip();
        let now = time::now().mono;
        let mut by_status = BTreeMap::new();
        for instance in &instances {
            let status = views::display_status(instance).as_str();
            *by_status.entry(status.to_owned()).or_insert(0) += 1;
        }
        Ok(DaemonInfo {
            version: version().to_owned(),
            daemon: metrics::process_info(std::process::id().cast_signed(), now),
            keeper: metrics::process_info(keeper_pid, now),
            paths: paths(&self.home),
            instances: by_status,
            host: metrics::host_info(self.home.path()),
            unsaved: !instances.is_empty() && !self.known_dump.is_up_to_date(&instances, &self.home),
            stalled: stalled_operations(),
        })
    }

    /// The selected instances and their usage. One that was just started has no sample yet, and gets its memory.
    async fn with_usage(&self, select: Option<Selectors>) -> Result<Vec<(Instance, Usage)>, ApiError> {
        let mut selected = self.handle.get(select).await?;
        for (instance, usage) in &mut selected {
            if let (Some(process), true) = (instance.status().state.process(), usage.processes.is_empty()) {
                *usage = metrics::initial_usage(process.pid);
            }
        }
        Ok(selected)
    }

    fn view(&self, instance: &Instance, usage: &Usage, drift: &Drift) -> InstanceView {
        let view = views::instance_view(instance, Some(usage), &self.user, time::now());
        InstanceView { drift: drift.describe(instance), ..view }
    }

    fn detail(&self, instance: Instance, usage: Usage, drift: &Drift, with_env: bool) -> InstanceDetail {
        let view = self.view(&instance, &usage, drift);
        let files = log_files(instance.spec(), instance.id(), &instance.file_name(), &self.home);
        let note = |path: &Path| {
            let diversion = self.logs.diversion(path)?;
            Some(format!("{}, so the lines go to {}", diversion.reason, diversion.used.display()))
        };
        let log_notes = files.distinct().into_iter().filter_map(note).collect();
        let mut spec = AppSpec::clone(instance.spec());
        if !with_env {
            spec.env.values_mut().for_each(String::clear); // values may be secrets, names are not
        }
        spec.origin = None;
        let run = instance.status().state.run().map(|number| RunId { instance: instance.id(), number });
        InstanceDetail {
            view,
            command: launch::argv(instance.spec()),
            spec,
            out_file: files.out,
            error_file: files.err,
            log_file: files.combined,
            log_notes,
            pid_file: pid_file(&instance, &self.home),
            created_at: instance.status().created.wall,
            exits: instance.status().history.iter().map(views::exit_view).collect(),
            processes: usage.processes,
            connections: None,
            limits: self.limiter.view(&instance),
            ports: run.and_then(|run| self.port_registry.get(run)),
        }
    }
}

fn paths(home: &Home) -> BTreeMap<String, std::path::PathBuf> {
    let paths = [
        ("home", home.path().to_path_buf()),
        ("socket", home.socket()),
        ("dump", home.dump()),
        ("state", home.state()),
        ("log", home.daemon_log()),
        ("logs", home.logs()),
        ("pids", home.pids()),
    ];
    paths.into_iter().map(|(name, path)| (name.to_owned(), path)).collect()
}

/// Counts the connections of instances that share ports. A thread reads the tables, which can be large.
async fn count_connections(details: &mut [InstanceDetail]) {
    let port = |address: &String| address.rsplit(':').next()?.parse().ok();
    let groups: BTreeMap<u32, (Vec<i32>, BTreeSet<u16>)> = details
        .iter()
        .filter_map(|detail| {
            let ports: BTreeSet<u16> = detail.ports.as_ref()?.addresses.iter().filter_map(port).collect();
            (!ports.is_empty()).then(|| (detail.view.id, (detail.processes.clone(), ports)))
        })
        .collect();
    if groups.is_empty() {
        return;
    }
    let counts = tokio::task::spawn_blocking(move || net::count_established(&groups)).await;
    let counts = counts.unwrap_or_default();
    for detail in details {
        detail.connections = counts.get(&detail.view.id).copied();
    }
}

fn stalled_operations() -> Vec<StalledOperation> {
    let view = |call: detached::StalledCall| StalledOperation {
        subject: call.subject,
        duration: u64::try_from(call.duration.as_millis()).unwrap_or(u64::MAX),
    };
    detached::stalled_calls().into_iter().map(view).collect()
}

fn user_name() -> String {
    let uid = nix::unistd::geteuid();
    let user = nix::unistd::User::from_uid(uid).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}
