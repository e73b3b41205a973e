//! All that the screen shows, as plain data. What changes it: news of the daemon here, keys and the
//! mouse in `keys`.

use std::collections::BTreeSet;

use ratatui::layout::Rect;

use super::history::History;
use super::tree::{self, RowKey, TreeOptions, TreeRow, TreeSort};
use crate::cli::monit::commands::InstanceAction;
use crate::cli::monit::log_pane::LogPane;
use crate::cli::render::alerts::{Alert, AlertContext, alerts, drift_alerts};
use crate::ipc::message::{Info, InstanceDetail, InstanceView, LogItem, Selectors};
use crate::version::version;

/// What is known of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Connection {
    /// Not asked yet.
    #[default]
    Unknown,
    /// It answers.
    Connected,
    /// It does not; why, in words.
    Disconnected(String),
}

/// What comes from the daemon.
#[derive(Debug)]
pub(super) enum Update {
    /// The list; `sample` where a second has passed since the one before.
    Listed { instances: Vec<InstanceView>, sample: bool },
    /// rsm itself and the machine.
    Info(Box<Info>),
    /// The selection in full.
    Details(Vec<InstanceDetail>),
    /// Nobody answers.
    Disconnected(String),
    /// What came of something that was asked for, and whether that is good.
    Message { text: String, good: bool },
}

/// A line that is being typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PromptKind {
    /// Which apps are shown.
    Apps,
    /// What is searched for in the log.
    Search,
    /// Which log lines are shown.
    Lines,
    /// How many instances.
    Scale,
}

/// What keys mean at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum InputMode {
    /// Commands.
    #[default]
    Normal,
    /// A line is typed; what it was before.
    Prompt { field: PromptKind, text: String, previous: String },
    /// Shall this be done?
    Confirm { action: InstanceAction, select: Selectors, what: String },
    /// The help is read.
    Help,
}

/// Where arrow keys go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Focus {
    #[default]
    Tree,
    Pane,
}

/// What the lower pane shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tab {
    #[default]
    Logs,
    Details,
    Charts,
}

impl Tab {
    /// All of them, from left to right.
    pub(super) const ALL: [Self; 3] = [Self::Logs, Self::Details, Self::Charts];

    /// What it is called.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Logs => "Logs",
            Self::Details => "Details",
            Self::Charts => "Charts",
        }
    }
}

/// Where things were drawn, for the mouse and for paging.
#[derive(Clone, Debug, Default)]
pub(super) struct ClickAreas {
    /// The rows of the tree.
    pub(super) rows: Rect,
    /// The first row of the tree that is on the screen.
    pub(super) top: usize,
    /// The headings that sort.
    pub(super) headings: Vec<(Rect, TreeSort)>,
    /// The lower pane.
    pub(super) pane: Rect,
    /// So many lines the details can be scrolled down.
    pub(super) details_most: usize,
    /// The tabs' names.
    pub(super) tabs: Vec<(Rect, Tab)>,
    /// Keys that can be clicked.
    pub(super) keys: Vec<(Rect, char)>,
}

/// The model.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) instances: Vec<InstanceView>,
    /// What is shown of them, from top to bottom.
    pub(super) rows: Vec<TreeRow>,
    pub(super) tree_options: TreeOptions,
    pub(super) selected: RowKey,
    pub(super) mode: InputMode,
    pub(super) focus: Focus,
    pub(super) tab: Tab,
    /// The lower pane has the whole screen.
    pub(super) full: bool,
    pub(super) history: History,
    pub(super) log_pane: LogPane,
    /// What log lines are filtered by, as typed.
    pub(super) line_filter: String,
    pub(super) details: Vec<InstanceDetail>,
    /// Lines that the details are scrolled down.
    pub(super) details_top: usize,
    pub(super) info: Option<Info>,
    pub(super) connection: Connection,
    /// What was said last, and whether it is good news; until the next key.
    pub(super) message: Option<(String, bool)>,
    /// Whether there is anything that was not drawn.
    pub(super) changed: bool,
    pub(super) areas: ClickAreas,
    /// The pid of the daemon that answered last, and its version.
    daemon: Option<(i32, String)>,
    /// It was upgraded since the screen was opened: that this binary is another by now is no news.
    upgraded: bool,
}

impl Model {
    /// Takes in news.
    pub(super) fn apply_update(&mut self, news: Update) {
        match news {
            Update::Listed { instances, sample } => {
                if sample {
                    self.history.add(&instances);
                }
                let back = matches!(self.connection, Connection::Disconnected(_));
                self.changed |= back || sample || instances != self.instances;
                if back {
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
            Update::Disconnected(why) => {
                let link = Connection::Disconnected(why);
                self.changed |= self.connection != link;
                self.connection = link;
            }
            Update::Message { text, good } => self.set_message(&text, good),
        }
    }

    /// Another daemon than before: apps did not notice, whoever looks should.
    fn apply_info(&mut self, info: Info) {
        let now = (info.daemon.pid, info.version.clone());
        match self.daemon.replace(now) {
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

    /// What needs attention, each with its command.
    pub(super) fn alerts(&self) -> Vec<Alert> {
        let info = self.info.as_ref();
        let around = AlertContext {
            daemon_version: info
                .map(|info| info.version.clone())
                .filter(|daemon| daemon != version() && !self.upgraded),
            unsaved: info.is_some_and(|info| info.unsaved),
            ..AlertContext::default() // the host has a row of its own
        };
        alerts(&self.instances, &around).into_iter().chain(drift_alerts(&self.instances)).collect()
    }

    /// Takes in log lines; `passed` so many were left out before them.
    pub(super) fn add_log_lines(&mut self, items: Vec<LogItem>, passed: u64) {
        self.changed |= !items.is_empty() && self.tab == Tab::Logs;
        self.log_pane.push_missed(passed);
        self.log_pane.push_items(items);
    }

    /// Takes note of where things were drawn.
    pub(super) fn set_areas(&mut self, areas: ClickAreas) {
        self.log_pane.page = usize::from(areas.pane.height);
        self.details_top = self.details_top.min(areas.details_most);
        (self.areas, self.changed) = (areas, false);
    }

    /// Says something at the foot of the screen.
    pub(super) fn set_message(&mut self, text: &str, good: bool) {
        (self.message, self.changed) = (Some((text.to_owned(), good)), true);
    }

    /// Makes the rows anew; the selection stays on what it was, or goes to what took its place.
    pub(super) fn rebuild_rows(&mut self) {
        let before = self.selected_index();
        self.rows = tree::rows(&self.instances, &self.tree_options);
        if !self.rows.iter().any(|row| row.key == self.selected) {
            let at = before.min(self.rows.len().saturating_sub(1));
            self.selected = self.rows.get(at).map(|row| row.key.clone()).unwrap_or_default();
        }
    }

    /// The place of the selected row.
    pub(super) fn selected_index(&self) -> usize {
        self.rows.iter().position(|row| row.key == self.selected).unwrap_or(0)
    }

    /// The selected row.
    pub(super) fn row(&self) -> Option<&TreeRow> {
        self.rows.iter().find(|row| row.key == self.selected)
    }

    /// Selects the row at a place, or the one nearest to it.
    pub(super) fn select(&mut self, place: usize) {
        let at = place.min(self.rows.len().saturating_sub(1));
        if let Some(row) = self.rows.get(at) {
            self.selected = row.key.clone();
            self.details_top = 0;
        }
    }

    /// The ids of the selection.
    pub(super) fn ids(&self) -> &[u32] {
        self.row().map_or(&[], |row| &row.ids)
    }

    /// The name of the app that is selected, or that the selected instance is of.
    pub(super) fn app(&self) -> Option<&str> {
        match &self.selected {
            RowKey::All => None,
            RowKey::App(name) => Some(name),
            RowKey::Instance(id) => {
                self.instances.iter().find(|view| view.id == *id).map(|view| view.name.as_str())
            }
        }
    }

    /// The selection as the daemon understands it. An app is named, so that instances to come belong to
    /// it, too, unless its name would be read as something else.
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

    /// What is selected, in words.
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

    /// Names of apps whose instances are hidden, or shown again, all at once.
    pub(super) fn fold_all(&mut self) {
        let several: BTreeSet<String> =
            self.rows.iter().filter(|row| row.unfolded.is_some()).map(|row| row.label.clone()).collect();
        let all_folded = several.is_subset(&self.tree_options.folded);
        self.tree_options.folded = if all_folded { BTreeSet::new() } else { several };
        self.rebuild_rows();
    }
}

/// Whether a selector of this text can only mean the app.
fn is_safe_selector(name: &str) -> bool {
    name != "all" && !name.starts_with('/') && name.parse::<u32>().is_err()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cli::render::list::tests::view;
    use crate::ipc::message::Status;

    /// Two instances of `api`, one of `网关` that is errored.
    pub(crate) fn model() -> Model {
        let mut model = Model::default();
        let mut second = view(1, "api", Status::Online);
        second.number = 1;
        let instances = vec![view(0, "api", Status::Online), second, view(2, "网关", Status::Errored)];
        model.apply_update(Update::Listed { instances, sample: true });
        model
    }

    #[test]
    fn the_selection_survives_what_happens_around_it() {
        let mut model = model();
        model.select(3);
        assert_eq!(
            (model.selected.clone(), model.selection_text()),
            (RowKey::Instance(1), "api (id 1)".into())
        );
        let fewer = |ids: &[u32]| ids.iter().map(|id| view(*id, "api", Status::Online)).collect();
        model.apply_update(Update::Listed { instances: fewer(&[1, 5, 6]), sample: false });
        assert_eq!(model.selected, RowKey::Instance(1));
        model.apply_update(Update::Listed { instances: fewer(&[5, 6]), sample: false });
        assert_eq!(model.selected, RowKey::Instance(5), "the next takes the place of what is gone");
        model.apply_update(Update::Listed { instances: Vec::new(), sample: false });
        assert_eq!((model.selected.clone(), model.ids().len()), (RowKey::All, 0));
    }

    #[test]
    fn names_that_read_as_something_else_are_selected_by_id() {
        let mut model = Model::default();
        let instances = vec![
            view(4, "all", Status::Online),
            view(5, "7", Status::Online),
            view(6, "web", Status::Online),
        ];
        model.apply_update(Update::Listed { instances, sample: false });
        let mut selectors = |place| {
            model.select(place);
            model.selectors().join(" ")
        };
        assert_eq!([0, 1, 2, 3].map(&mut selectors), ["all", "5", "4", "web"]);
    }

    #[test]
    fn a_daemon_that_dies_and_its_successor_are_told() {
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
    fn nothing_new_is_nothing_to_draw() {
        let mut model = model();
        model.changed = false;
        let instances = model.instances.clone();
        model.apply_update(Update::Listed { instances, sample: false });
        assert!(!model.changed);
    }
}
