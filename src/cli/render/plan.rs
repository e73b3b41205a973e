//! A plan as text: a line a step, what is done first, then to whom, then why. And as JSON.

use serde_json::{Value, json};

use super::style::tame;
use crate::spec::AppSpec;

/// Values longer than this are not shown whole. Characters.
const MAX_VALUE: usize = 60;

/// What is to be done about an app, and why.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PlanStep {
    /// What.
    pub(crate) action: PlanAction,
    /// The instances in the list that it is about.
    pub(crate) ids: Vec<u32>,
    /// Why, if its settings differ.
    pub(crate) changes: Vec<FieldDiff>,
}

/// What there is to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum PlanAction {
    /// It is not in the list.
    Start(Box<AppSpec>),
    /// Instances of it do not run.
    StartStopped(String),
    /// It runs with other settings, and shares its port: it gets new processes without a gap.
    Reload(Box<AppSpec>),
    /// It has other settings, and gets new processes.
    Restart(Box<AppSpec>),
    /// It has other settings, and neither runs nor is to.
    Update(Box<AppSpec>),
    /// It has another number of instances.
    Scale { name: String, from: usize, to: u32 },
    /// It was started from the file, which names it no more.
    Delete(String),
    /// The same, but only `--prune` deletes.
    Keep(String),
    /// Nothing.
    Unchanged(String),
}

/// A setting that differs. Values of variables are not kept: nobody is to see them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FieldDiff {
    /// Its key, as in files: `kill_timeout`; `env.NAME` for a variable.
    pub(crate) name: String,
    /// What it is, and what it is to be; nothing for a variable's.
    pub(crate) values: Option<(Value, Value)>,
    /// How a variable differs.
    pub(crate) note: &'static str,
}

impl PlanAction {
    /// Its word, with the sign of what happens to processes.
    fn sign_and_verb(&self) -> (&'static str, &'static str) {
        match self {
            Self::Start(_) | Self::StartStopped(_) => ("+", "start"),
            Self::Reload(_) => ("~", "reload"),
            Self::Restart(_) => ("~", "restart"),
            Self::Update(_) => ("~", "update"),
            Self::Scale { .. } => ("~", "scale"),
            Self::Delete(_) => ("-", "delete"),
            Self::Keep(_) => (" ", "keep"),
            Self::Unchanged(_) => (" ", "unchanged"),
        }
    }

    fn app(&self) -> &str {
        match self {
            Self::Start(app) | Self::Reload(app) | Self::Restart(app) | Self::Update(app) => &app.name,
            Self::StartStopped(name) | Self::Delete(name) | Self::Keep(name) | Self::Unchanged(name) => name,
            Self::Scale { name, .. } => name,
        }
    }

    fn is_change(&self) -> bool {
        !matches!(self, Self::Unchanged(_) | Self::Keep(_))
    }
}

impl PlanStep {
    fn reason(&self) -> String {
        match &self.action {
            PlanAction::Start(app) => match app.instances {
                1 => "1 new instance".into(),
                count => format!("{count} new instances"),
            },
            PlanAction::StartStopped(_) => {
                let ids: Vec<String> = self.ids.iter().map(u32::to_string).collect();
                format!("not running (id {})", ids.join(", "))
            }
            PlanAction::Reload(_) | PlanAction::Restart(_) | PlanAction::Update(_) => {
                self.changes.iter().map(change).collect::<Vec<_>>().join("; ")
            }
            PlanAction::Scale { from, to, .. } => format!("{from} → {}", instances(*to)),
            PlanAction::Delete(_) => "no longer in the file".into(),
            PlanAction::Keep(_) => "no longer in the file; use --prune to delete".into(),
            PlanAction::Unchanged(_) => String::new(),
        }
    }
}

/// The plan, and how much there is to do.
pub(crate) fn text(steps: &[PlanStep]) -> String {
    let row = |step: &PlanStep| {
        let (sign, word) = step.action.sign_and_verb();
        [format!("{sign} {word}"), tame(step.action.app()).into_owned(), tame(&step.reason()).into_owned()]
    };
    let rows: Vec<[String; 3]> = steps.iter().map(row).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    let line = |[what, name, why]: &[String; 3]| format!("{what:first$}  {name:second$}  {why}");
    let mut text: String = rows.iter().map(|row| format!("{}\n", line(row).trim_end())).collect();
    match steps.iter().filter(|step| step.action.is_change()).count() {
        0 => text.push_str("no changes\n"),
        1 => text.push_str("1 change\n"),
        many => text.push_str(&format!("{many} changes\n")),
    }
    text
}

/// The same for programs: `{ "steps": [{ "action", "app", "ids", "reason", "changes" }], "pending": 2 }`.
pub(crate) fn json(steps: &[PlanStep]) -> Value {
    let change = |change: &FieldDiff| match &change.values {
        Some((is, wanted)) => json!({ "setting": change.name, "is": is, "wanted": wanted }),
        None => json!({ "setting": change.name, "change": change.note }),
    };
    let step = |step: &PlanStep| {
        json!({
            "action": step.action.sign_and_verb().1,
            "app": step.action.app(),
            "ids": step.ids,
            "reason": step.reason(),
            "changes": step.changes.iter().map(change).collect::<Vec<_>>(),
        })
    };
    let to_do = steps.iter().filter(|step| step.action.is_change()).count();
    json!({ "steps": steps.iter().map(step).collect::<Vec<_>>(), "pending": to_do })
}

fn instances(count: u32) -> String {
    if count == 1 { "1 instance".into() } else { format!("{count} instances") }
}

fn change(change: &FieldDiff) -> String {
    match &change.values {
        Some((is, wanted)) => format!("{}: {} → {}", change.name, shown(is), shown(wanted)),
        None => format!("{} {}", change.name, change.note),
    }
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => "none".to_owned(),
        other => other.to_string(),
    };
    match text.chars().count() > MAX_VALUE {
        true => format!("{}…", text.chars().take(MAX_VALUE).collect::<String>()),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> [PlanStep; 4] {
        let app = Box::new(AppSpec::new("api", "/a", "/"));
        let changed = |name: &str, values| FieldDiff { name: name.into(), values, note: "removed" };
        let changes =
            vec![changed("kill_timeout", Some((1000.into(), 2000.into()))), changed("env.TOKEN", None)];
        let step = |work, ids: &[u32]| PlanStep { action: work, ids: ids.into(), changes: Vec::new() };
        [
            step(PlanAction::Start(app.clone()), &[]),
            PlanStep { action: PlanAction::Reload(app), ids: vec![0, 1], changes },
            step(PlanAction::Scale { name: "w".into(), from: 1, to: 3 }, &[2]),
            step(PlanAction::Unchanged("x".into()), &[3]),
        ]
    }

    #[test]
    fn a_line_a_step() {
        let want = "\
+ start      api  1 new instance
~ reload     api  kill_timeout: 1000 → 2000; env.TOKEN removed
~ scale      w    1 → 3 instances
  unchanged  x\n3 changes\n";
        assert_eq!(text(&three()), want);
        assert_eq!(text(&three()[3..]), "  unchanged  x\nno changes\n");
    }

    #[test]
    fn programs_are_told_the_same() {
        let plan = json(&three());
        let want = json!({
            "action": "reload", "app": "api", "ids": [0, 1],
            "reason": "kill_timeout: 1000 → 2000; env.TOKEN removed",
            "changes": [
                { "setting": "kill_timeout", "is": 1000, "wanted": 2000 },
                { "setting": "env.TOKEN", "change": "removed" },
            ],
        });
        assert_eq!((&plan["steps"][1], &plan["pending"]), (&want, &json!(3)));
        assert_eq!(plan["steps"][3]["action"], "unchanged");
    }
}
