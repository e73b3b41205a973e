//! What is known about the shared ports of runs, for `rsm describe` and for reports.
//!
//! The thread of the cluster writes, the loop of the daemon reads. It decides nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::instance::status::RunId;
use crate::ipc::message::SharedPorts;

/// Distinguishes Unix sockets from other addresses.
const UNIX_PREFIX: &str = "unix:";

/// The shared ports by run. All clones share one table.
#[derive(Clone, Debug, Default)]
pub struct PortRegistry(Arc<Mutex<BTreeMap<u64, SharedPorts>>>);

impl PortRegistry {
    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<u64, SharedPorts>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn get(&self, run: RunId) -> Option<SharedPorts> {
        self.with(|runs| runs.get(&run.to_u64()).cloned())
    }

    pub fn add_address(&self, run: RunId, address: String) {
        self.with(|runs| push_new(&mut runs.entry(run.to_u64()).or_default().addresses, address));
    }

    pub fn add_unix_socket(&self, run: RunId, path: &str) {
        self.add_address(run, format!("{UNIX_PREFIX}{path}"));
    }

    /// Whether a run listens on Unix sockets and nowhere else.
    pub fn has_only_unix_sockets(&self, run: RunId) -> bool {
        let addresses = self.get(run).unwrap_or_default().addresses;
        !addresses.is_empty() && addresses.iter().all(|it| it.starts_with(UNIX_PREFIX))
    }

    pub fn remove_address(&self, run: RunId, address: &str) {
        self.with(|runs| {
            if let Some(ports) = runs.get_mut(&run.to_u64()) {
                ports.addresses.retain(|other| other != address);
            }
        });
    }

    pub fn set_mechanism(&self, run: RunId, mechanism: String, reason: String) {
        self.with(|runs| {
            let ports = runs.entry(run.to_u64()).or_default();
            (ports.mechanism, ports.reason) = (mechanism, reason);
        });
    }

    pub fn add_warning(&self, run: RunId, warning: String) {
        self.with(|runs| push_new(&mut runs.entry(run.to_u64()).or_default().warnings, warning));
    }

    /// Removes an ended run. Its warnings are kept until the next run of the instance starts.
    pub fn mark_ended(&self, run: RunId) {
        self.with(|runs| match runs.get_mut(&run.to_u64()) {
            Some(ports) if !ports.warnings.is_empty() => ports.addresses.clear(),
            _ => drop(runs.remove(&run.to_u64())),
        });
    }

    /// Removes the runs that are outdated.
    pub fn remove_outdated(&self, is_outdated: impl Fn(RunId) -> bool) {
        self.with(|runs| runs.retain(|run, _| !is_outdated(RunId::from_u64(*run))));
    }

    /// The warnings about an instance's runs from the number `first` on.
    pub fn warnings(&self, instance: u32, first: u32) -> Vec<String> {
        let [first, last] = [first, u32::MAX].map(|number| RunId { instance, number }.to_u64());
        self.with(|runs| runs.range(first..=last).flat_map(|(_, ports)| ports.warnings.clone()).collect())
    }

    /// The addresses at which `old` listens and `new` does not. Without Unix sockets: paths may differ for each process.
    pub fn missing(&self, old: RunId, new: RunId) -> Vec<String> {
        let [old, new] = [old, new].map(|run| self.get(run).unwrap_or_default());
        let is_missing =
            |address: &String| !address.starts_with(UNIX_PREFIX) && !new.addresses.contains(address);
        old.addresses.into_iter().filter(is_missing).collect()
    }
}

fn push_new(list: &mut Vec<String>, text: String) {
    if !list.contains(&text) {
        list.push(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(number: u32) -> RunId {
        RunId { instance: 7, number }
    }

    #[test]
    fn ended_run_keeps_only_warnings() {
        let registry = PortRegistry::default();
        registry.add_address(run(1), "*:80".into());
        registry.add_address(run(2), "*:80".into());
        registry.add_warning(run(2), "no steering".into());
        registry.add_warning(run(2), "no steering".into());
        registry.mark_ended(run(1));
        registry.mark_ended(run(2));
        assert!(registry.get(run(1)).is_none());
        assert!(registry.get(run(2)).unwrap().addresses.is_empty());
        assert_eq!(registry.warnings(7, 1), ["no steering"]);
        assert!(registry.warnings(7, 3).is_empty() && registry.warnings(6, 0).is_empty());
    }

    #[test]
    fn missing_lists_addresses_of_old_run() {
        let registry = PortRegistry::default();
        for address in ["*:80", "*:443"] {
            registry.add_address(run(1), address.into());
        }
        registry.add_address(run(2), "*:80".into());
        assert_eq!(registry.missing(run(1), run(2)), ["*:443"]);
        registry.remove_address(run(1), "*:443");
        assert!(registry.missing(run(1), run(2)).is_empty());
        registry.add_unix_socket(run(1), "/run/control.sock");
        assert!(registry.missing(run(1), run(2)).is_empty());
        assert!(!registry.has_only_unix_sockets(run(1)) && !registry.has_only_unix_sockets(run(3)));
        registry.remove_address(run(1), "*:80");
        assert!(registry.has_only_unix_sockets(run(1)));
    }
}
