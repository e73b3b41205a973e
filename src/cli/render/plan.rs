//! A plan as text, one line for each step, and as JSON.

use serde_json::{Value, json};

use super::style::tame;
use crate::spec::AppSpec;

/// Maximum number of characters of a value; longer ones are truncated.
const MAX_VALUE: usize = 60;

/// Number of characters shown before the first difference of two long values.
const CONTEXT: usize = 15;

/// A step of a plan.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PlanStep {
    pub(crate) action: PlanAction,
    /// Ids of the existing instances of the app.
    pub(crate) ids: Vec<u32>,
    /// Settings that differ.
    pub(crate) changes: Vec<FieldDiff>,
}

/// The action of a step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum PlanAction {
    /// The app is not in the list.
    Start(Box<AppSpec>),
    /// Some instances are stopped.
    StartStopped(String),
    /// The settings differ, and instances share ports: they are replaced without downtime.
    Reload(Box<AppSpec>),
    /// The settings differ.
    Restart(Box<AppSpec>),
    /// The settings differ, and the app is stopped and remains so.
    Update(Box<AppSpec>),
    /// The number of instances differs.
    Scale { name: String, from: usize, to: u32 },
    /// The app was started from the file and is no longer in it.
    Delete(String),
    /// As `Delete`, but without `--prune`.
    Keep(String),
    /// Nothing differs.
    Unchanged(String),
}

/// A setting that differs. The values of environment variables are not included.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FieldDiff {
    /// Its key in files, such as `kill_timeout`; `env.NAME` for an environment variable.
    pub(crate) name: String,
    /// The current and the planned value; `None` for an environment variable.
    pub(crate) values: Option<(Value, Value)>,
    /// How it differs: `added`, `removed` or `changed`.
    pub(crate) note: &'static str,
}

impl PlanAction {
    /// The sign shows what happens to processes.
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
                self.changes.iter().map(change_text).collect::<Vec<_>>().join("; ")
            }
            PlanAction::Scale { from, to, .. } => format!("{from} → {}", instances(*to)),
            PlanAction::Delete(_) => "no longer in the file".into(),
            PlanAction::Keep(_) => "no longer in the file; use --prune to delete".into(),
            PlanAction::Unchanged(_) => String::new(),
        }
    }
}

/// The plan as text, with the number of changes.
pub(crate) fn text(steps: &[PlanStep]) -> String {
    let row = |step: &PlanStep| {
        let (sign, verb) = step.action.sign_and_verb();
        [format!("{sign} {verb}"), tame(step.action.app()).into_owned(), tame(&step.reason()).into_owned()]
    };
    let rows: Vec<[String; 3]> = steps.iter().map(row).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    let line = |[action, name, reason]: &[String; 3]| format!("{action:first$}  {name:second$}  {reason}");
    let mut text: String = rows.iter().map(|row| format!("{}\n", line(row).trim_end())).collect();
    match steps.iter().filter(|step| step.action.is_change()).count() {
        0 => text.push_str("no changes\n"),
        1 => text.push_str("1 change\n"),
        count => text.push_str(&format!("{count} changes\n")),
    }
    text
}

/// The plan as JSON: `{ "steps": [{ "action", "app", "ids", "reason", "changes" }], "pending": 2 }`.
pub(crate) fn json(steps: &[PlanStep]) -> Value {
    let change = |change: &FieldDiff| match &change.values {
        Some((current, planned)) => json!({ "setting": change.name, "current": current, "desired": planned }),
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
    let pending = steps.iter().filter(|step| step.action.is_change()).count();
    json!({ "steps": steps.iter().map(step).collect::<Vec<_>>(), "pending": pending })
}

fn instances(count: u32) -> String {
    if count == 1 { "1 instance".into() } else { format!("{count} instances") }
}

fn change_text(change: &FieldDiff) -> String {
    match &change.values {
        Some((current, planned)) => {
            let [current, planned] = value_texts(current, planned);
            format!("{}: {current} → {planned}", change.name)
        }
        None => format!("{} {}", change.name, change.note),
    }
}

/// Two values that differ. Long ones are truncated around the first difference, so that it is visible.
fn value_texts(current: &Value, planned: &Value) -> [String; 2] {
    let texts = [current, planned].map(|value| match value {
        Value::Null => "none".to_owned(),
        other => other.to_string(),
    });
    let [a, b] = &texts;
    if texts.iter().all(|text| text.chars().count() <= MAX_VALUE) {
        return texts;
    }
    let common = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).count();
    let start = if common < MAX_VALUE / 2 { 0 } else { common - CONTEXT };
    texts.map(|text| {
        let part: String = text.chars().skip(start).take(MAX_VALUE).collect();
        let before = if start > 0 { "…" } else { "" };
        let after = if text.chars().count() > start + MAX_VALUE { "…" } else { "" };
        format!("{before}{part}{after}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps() -> [PlanStep; 4] {
        let app = Box::new(AppSpec::new("api", "/a", "/"));
        let changed = |name: &str, values| FieldDiff { name: name.into(), values, note: "removed" };
        let changes =
            vec![changed("kill_timeout", Some((1000.into(), 2000.into()))), changed("env.TOKEN", None)];
        let step = |action, ids: &[u32]| PlanStep { action, ids: ids.into(), changes: Vec::new() };
        [
            step(PlanAction::Start(app.clone()), &[]),
            PlanStep { action: PlanAction::Reload(app), ids: vec![0, 1], changes },
            step(PlanAction::Scale { name: "w".into(), from: 1, to: 3 }, &[2]),
            step(PlanAction::Unchanged("x".into()), &[3]),
        ]
    }

    #[test]
    fn text_has_a_line_for_each_step() {
        let want = "\
+ start      api  1 new instance
~ reload     api  kill_timeout: 1000 → 2000; env.TOKEN removed
~ scale      w    1 → 3 instances
  unchanged  x\n3 changes\n";
        assert_eq!(text(&steps()), want);
        assert_eq!(text(&steps()[3..]), "  unchanged  x\nno changes\n");
    }

    #[test]
    fn difference_of_long_values_is_visible() {
        let list =
            |last: &str| json!((0..40).map(|n| format!("word-{n}")).chain([last.into()]).collect::<Vec<_>>());
        let shown = |a: Value, b: Value| value_texts(&a, &b);
        let [before, after] = shown(list("--port 80"), list("--port 81"));
        assert!(before.starts_with('…') && before.ends_with("--port 80\"]"), "{before}");
        assert!(after.ends_with("--port 81\"]") && before.chars().count() <= MAX_VALUE + 2, "{after}");
        let [before, after] = shown(json!("x".repeat(100)), json!("x".repeat(101)));
        assert_ne!(before, after);
        let [before, after] = shown(json!("a".repeat(100)), json!("é".repeat(100)));
        assert!(
            before.starts_with("\"aaa") && before.ends_with('…') && after.starts_with("\"ééé"),
            "{before} {after}"
        );
        assert_eq!(shown(json!(1), Value::Null), ["1", "none"]);
    }

    #[test]
    fn json_has_the_same_contents() {
        let plan = json(&steps());
        let want = json!({
            "action": "reload", "app": "api", "ids": [0, 1],
            "reason": "kill_timeout: 1000 → 2000; env.TOKEN removed",
            "changes": [
                { "setting": "kill_timeout", "current": 1000, "desired": 2000 },
                { "setting": "env.TOKEN", "change": "removed" },
            ],
        });
        assert_eq!((&plan["steps"][1], &plan["pending"]), (&want, &json!(3)));
        assert_eq!(plan["steps"][3]["action"], "unchanged");
    }
}
