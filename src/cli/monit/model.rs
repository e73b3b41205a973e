//! The state of the dashboard as plain data, and its changes by updates of the daemon. Those by keys and the mouse are in
//! `keys` and `mouse`.

use std::collections::BTreeSet;

use ratatui::layout::Rect;

use super::history::History;
use super::tree::{self, RowKey, TreeOptions, TreeRow, TreeSort};
use crate::cli::monit::commands::InstanceAction;
use crate::cli::monit::log_pane::LogPane;
use crate::cli::render::alerts::{Alert, AlertContext, alerts, drift_alerts};
use crate::ipc::message::{DaemonInfo, InstanceDetail, InstanceView, LogItem, Selectors};
use crate::version::version;

/// The state of the connection to the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Connection {
    /// No request has completed yet.
    #[default]
    Unknown,
    Connected,
    /// The daemon does not respond, with the reason.
    Disconnected(String),
}

/// An update from the daemon.
#[derive(Debug)]
pub(super) enum Update {
    /// The list. `sample`: a sampling interval has passed.
    Listed { instances: Vec<InstanceView>, sample: bool },
    /// Information about rsm and the host.
    Info(Box<DaemonInfo>),
    /// Details of the selection.
    Details(Vec<InstanceDetail>),
    /// The daemon does not respond, with the reason.
    Disconnected(String),
    /// The result of a command.
    Message { text: String, success: bool },
}

/// The purpose of the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PromptKind {
    /// The filter of apps.
    Apps,
    /// The search pattern in the log.
    Search,
    /// The filter of log lines.
    Lines,
    /// The number of instances.
    Scale,
}

/// The meaning of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum InputMode {
    #[default]
    Normal,
    /// The prompt is open. `previous` is restored by Esc.
    Prompt {
        field: PromptKind,
        text: String,
        previous: String,
    },
    /// A confirmation is open.
    Confirm {
        action: InstanceAction,
        select: Selectors,
        subject: String,
        /// The text typed so far, if `all` must be typed: one key is not enough to stop everything.
        typed: Option<String>,
    },
    Help,
}

/// The pane that arrow keys control.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Focus {
    #[default]
    Tree,
    Pane,
}

/// The tab of the lower pane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tab {
    #[default]
    Logs,
    Details,
    Charts,
}

impl Tab {
    /// From left to right.
    pub(super) const ALL: [Self; 3] = [Self::Logs, Self::Details, Self::Charts];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Logs => "Logs",
            Self::Details => "Details",
            Self::Charts => "Charts",
        }
    }
}

/// The areas of the last frame, for the mouse and for paging.
#[derive(Clone, Debug, Default)]
pub(super) struct ClickAreas {
    /// The rows of the tree.
    pub(super) rows: Rect,
    /// The index of the first visible row of the tree.
    pub(super) top: usize,
    /// The headings, which can be clicked.
    pub(super) headings: Vec<(Rect, TreeSort)>,
    pub(super) pane: Rect,
    /// The maximum scroll position of the details.
    pub(super) max_details_top: usize,
    pub(super) tabs: Vec<(Rect, Tab)>,
    /// The keys, which can be clicked.
    pub(super) keys: Vec<(Rect, char)>,
}

/// The state.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) instances: Vec<InstanceView>,
    /// The rows of the tree.
    pub(super) rows: Vec<TreeRow>,
    pub(super) tree_options: TreeOptions,
    pub(super) selected: RowKey,
    /// Whether the selection was made: the first app, not all, is selected when the first list arrives.
    has_selection: bool,
    pub(super) mode: InputMode,
    pub(super) focus: Focus,
    pub(super) tab: Tab,
    /// Whether the lower pane fills the screen.
    pub(super) full: bool,
    pub(super) history: History,
    pub(super) log_pane: LogPane,
    /// The filter of log lines.
    pub(super) line_filter: String,
    pub(super) details: Vec<InstanceDetail>,
    /// The scroll position of the details, in lines.
    pub(super) details_top: usize,
    pub(super) info: Option<DaemonInfo>,
    pub(super) connection: Connection,
    /// The last message, and whether it reports success; shown until the next key.
    pub(super) message: Option<(String, bool)>,
    /// Whether the state has changed since the last frame.
    pub(super) changed: bool,
    pub(super) areas: ClickAreas,
    /// Pid and version of the daemon.
    daemon: Option<(i32, String)>,
    /// The daemon was upgraded while the dashboard was open, so a different version is expected.
    upgraded: bool,
}

impl Model {
    pub(super) fn apply_update(&mut self, update: Update) {
        match update {
            Update::Listed { instances, sample } => {
                if sample {
                    self.history.add(&instances);
                }
                let is_reconnected = matches!(self.connection, Connection::Disconnected(_));
                self.changed |= is_reconnected || sample || instances != self.instances;
                if is_reconnected {
                    self.set_message("reconnected to the daemon", true);
                }
                (self.instances, self.connection) = (instances, Connection::Connected);
                self.rebuild_rows();
            }
            Update::Info(info) => self.apply_info(*info),
            Update::Details(details) => {
                for detail in &details {
                    if let Some(connections) = detail.connections {
                        self.history.record_connections(detail.view.id, connections);
                    }
                }
                self.changed = true;
                self.details = details;
            }
            Update::Disconnected(reason) => {
                let connection = Connection::Disconnected(reason);
                self.changed |= self.connection != connection;
                self.connection = connection;
            }
            Update::Message { text, success } => self.set_message(&text, success),
        }
    }

    /// Reports a restarted or upgraded daemon.
    fn apply_info(&mut self, info: DaemonInfo) {
        let current = (info.daemon.pid, info.version.clone());
        match self.daemon.replace(current) {
            Some((_, version)) if version != info.version => {
                self.upgraded = true;
                let text = format!("upgraded from rsm {version} to {}; apps keep running", info.version);
                self.set_message(&text, true);
            }
            Some((pid, _)) if pid != info.daemon.pid => {
                self.set_message("the daemon was restarted; apps keep running", true);
            }
            _ => {}
        }
        self.changed |= self.info.as_ref() != Some(&info);
        self.info = Some(info);
    }

    pub(super) fn alerts(&self) -> Vec<Alert> {
        let info = self.info.as_ref();
        let context = AlertContext {
            daemon_version: info
                .map(|info| info.version.clone())
                .filter(|daemon| daemon != version() && !self.upgraded),
            unsaved: info.is_some_and(|info| info.unsaved),
            ..AlertContext::default() // the host has its own bar
        };
        alerts(&self.instances, &context).into_iter().chain(drift_alerts(&self.instances)).collect()
    }

    /// Adds log lines; `dropped` is the number of lines missing before them.
    pub(super) fn add_log_lines(&mut self, items: Vec<LogItem>, dropped: u64) {
        self.changed |= !items.is_empty() && self.tab == Tab::Logs;
        self.log_pane.push_missed(dropped);
        self.log_pane.push_items(items);
    }

    /// Records the areas of a new frame.
    pub(super) fn set_areas(&mut self, areas: ClickAreas) {
        self.log_pane.page = usize::from(areas.pane.height);
        self.details_top = self.details_top.min(areas.max_details_top);
        (self.areas, self.changed) = (areas, false);
    }

    /// Shows a message in the last line.
    pub(super) fn set_message(&mut self, text: &str, success: bool) {
        (self.message, self.changed) = (Some((text.to_owned(), success)), true);
    }

    /// Rebuilds the rows. If the selected row no longer exists, the one at its position is selected.
    pub(super) fn rebuild_rows(&mut self) {
        let index = self.selected_index();
        self.rows = tree::rows(&self.instances, &self.tree_options);
        if !self.rows.iter().any(|row| row.key == self.selected) {
            let at = index.min(self.rows.len().saturating_sub(1));
            self.selected = self.rows.get(at).map(|row| row.key.clone()).unwrap_or_default();
        }
        let first_app = self.rows.get(1).map(|row| row.key.clone());
        if let Some(first) = first_app.as_ref().filter(|_| !self.has_selection) {
            self.selected = first.clone();
        }
        self.has_selection = first_app.is_some();
    }

    pub(super) fn selected_index(&self) -> usize {
        self.rows.iter().position(|row| row.key == self.selected).unwrap_or(0)
    }

    pub(super) fn selected_row(&self) -> Option<&TreeRow> {
        self.rows.iter().find(|row| row.key == self.selected)
    }

    /// Selects the row at an index, or the last row.
    pub(super) fn select(&mut self, index: usize) {
        let at = index.min(self.rows.len().saturating_sub(1));
        if let Some(row) = self.rows.get(at) {
            self.selected = row.key.clone();
            self.details_top = 0;
        }
    }

    pub(super) fn ids(&self) -> &[u32] {
        self.selected_row().map_or(&[], |row| &row.ids)
    }

    /// The name of the selected app, or of that of the selected instance.
    pub(super) fn app(&self) -> Option<&str> {
        match &self.selected {
            RowKey::All => None,
            RowKey::App(name) => Some(name),
            RowKey::Instance(id) => {
                self.instances.iter().find(|view| view.id == *id).map(|view| view.name.as_str())
            }
        }
    }

    /// Selectors for the selection. An app is selected by name, which includes future instances, unless its name could
    /// be read as another selector.
    pub(super) fn selectors(&self) -> Selectors {
        let ids = |ids: &[u32]| ids.iter().map(u32::to_string).collect();
        match &self.selected {
            RowKey::All if self.tree_options.filter.is_empty() => vec!["all".into()],
            RowKey::All => ids(self.ids()),
            RowKey::App(name) if self.tree_options.filter.is_empty() && is_safe_selector(name) => {
                vec![name.clone()]
            }
            RowKey::App(_) | RowKey::Instance(_) => ids(self.ids()),
        }
    }

    /// The selection as text.
    pub(super) fn selection_text(&self) -> String {
        let count = self.ids().len();
        match (&self.selected, self.app()) {
            (RowKey::Instance(id), Some(app)) => format!("{app} (id {id})"),
            (RowKey::App(name), _) if count == 1 => name.clone(),
            (RowKey::App(name), _) => format!("{name} ({count} instances)"),
            _ if self.tree_options.filter.is_empty() => format!("all {count} instances"),
            _ => format!("{count} instances that match \"{}\"", self.tree_options.filter),
        }
    }

    /// Folds all apps, or unfolds them if all are folded.
    pub(super) fn fold_all(&mut self) {
        let foldable: BTreeSet<String> =
            self.rows.iter().filter(|row| row.unfolded.is_some()).map(|row| row.label.clone()).collect();
        let all_folded = foldable.is_subset(&self.tree_options.folded);
        self.tree_options.folded = if all_folded { BTreeSet::new() } else { foldable };
        self.rebuild_rows();
    }
}

/// Whether the name of an app, as a selector, can only mean this app.
fn is_safe_selector(name: &str) -> bool {
    name != "all" && !name.starts_with('/') && name.parse::<u32>().is_err()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cli::render::list::tests::view;
    use crate::ipc::message::DisplayStatus;

    /// Two instances of `api`, and an errored one of `网关`.
    pub(crate) fn model() -> Model {
        let mut model = Model::default();
        let mut second = view(1, "api", DisplayStatus::Online);
        second.number = 1;
        let instances =
            vec![view(0, "api", DisplayStatus::Online), second, view(2, "网关", DisplayStatus::Errored)];
        model.apply_update(Update::Listed { instances, sample: true });
        assert_eq!(model.selected, RowKey::App("api".into()), "the first app is selected, not all");
        model.select(0);
        model
    }

    #[test]
    fn selection_survives_changes_of_list() {
        let mut model = model();
        model.select(3);
        assert_eq!(
            (model.selected.clone(), model.selection_text()),
            (RowKey::Instance(1), "api (id 1)".into())
        );
        let fewer = |ids: &[u32]| ids.iter().map(|id| view(*id, "api", DisplayStatus::Online)).collect();
        model.apply_update(Update::Listed { instances: fewer(&[1, 5, 6]), sample: false });
        assert_eq!(model.selected, RowKey::Instance(1));
        model.apply_update(Update::Listed { instances: fewer(&[5, 6]), sample: false });
        assert_eq!(model.selected, RowKey::Instance(5), "the row at the same position is selected");
        model.apply_update(Update::Listed { instances: Vec::new(), sample: false });
        assert_eq!((model.selected.clone(), model.ids().len()), (RowKey::All, 0));
    }

    #[test]
    fn ambiguous_names_are_selected_by_id() {
        let mut model = Model::default();
        let instances = vec![
            view(4, "all", DisplayStatus::Online),
            view(5, "7", DisplayStatus::Online),
            view(6, "web", DisplayStatus::Online),
        ];
        model.apply_update(Update::Listed { instances, sample: false });
        let mut selectors = |index| {
            model.select(index);
            model.selectors().join(" ")
        };
        assert_eq!([0, 1, 2, 3].map(&mut selectors), ["all", "5", "4", "web"]);
    }

    #[test]
    fn reports_lost_and_restored_connection() {
        let mut model = model();
        model.apply_update(Update::Disconnected("the daemon is not responding".into()));
        assert_eq!(model.connection, Connection::Disconnected("the daemon is not responding".into()));
        model.apply_update(Update::Listed { instances: Vec::new(), sample: false });
        assert_eq!(
            (model.connection.clone(), model.message.unwrap().0.as_str()),
            (Connection::Connected, "reconnected to the daemon")
        );
    }

    #[test]
    fn unchanged_list_needs_no_frame() {
        let mut model = model();
        model.changed = false;
        let instances = model.instances.clone();
        model.apply_update(Update::Listed { instances, sample: false });
        assert!(!model.changed);
    }
}
