//! A plan as text: a line a step, what is done first, then to whom, then why.

use serde_json::Value;

use super::style::tame;
use crate::spec::AppSpec;

/// Values longer than this are not shown whole. Characters.
const LONGEST: usize = 60;

/// What is to be done about an app, and why.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::cli) enum Step {
    /// It is not in the list.
    Start(Box<AppSpec>),
    /// Instances of it do not run; these ids.
    Wake { name: String, ids: Vec<String> },
    /// It runs with other settings.
    Restart { app: Box<AppSpec>, changes: Vec<Change> },
    /// It has another number of instances.
    Scale { name: String, from: usize, to: u32 },
    /// It was started from the file, which names it no more; these ids.
    Delete { name: String, ids: Vec<String> },
    /// The same, but only `--prune` deletes.
    Keep { name: String },
    /// Nothing.
    Unchanged { name: String },
}

/// A setting that differs. Values of variables are not kept: nobody is to see them.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::cli) struct Change {
    /// Where in the spec: `stop.timeout`.
    pub(in crate::cli) path: String,
    /// What it is, and what it is to be; nothing for a variable's.
    pub(in crate::cli) values: Option<(Value, Value)>,
    /// How a variable differs.
    pub(in crate::cli) how: &'static str,
}

/// The plan, and how much there is to do.
pub(in crate::cli) fn plan(steps: &[Step]) -> String {
    let rows: Vec<[String; 3]> = steps.iter().map(row).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    let line = |[what, name, why]: &[String; 3]| format!("{what:first$}  {name:second$}  {why}");
    let mut text: String = rows.iter().map(|row| format!("{}\n", line(row).trim_end())).collect();
    let idle = |step: &&Step| matches!(step, Step::Unchanged { .. } | Step::Keep { .. });
    match steps.iter().filter(|step| !idle(step)).count() {
        0 => text.push_str("nothing to do\n"),
        1 => text.push_str("1 thing to do\n"),
        many => text.push_str(&format!("{many} things to do\n")),
    }
    text
}

fn row(step: &Step) -> [String; 3] {
    let (what, name, why) = match step {
        Step::Start(app) => ("+ start", &app.name, format!("{}: not in the list", instances(app.instances))),
        Step::Wake { name, ids } => ("+ start", name, format!("does not run (id {})", ids.join(", "))),
        Step::Restart { app, changes } => {
            ("~ restart", &app.name, changes.iter().map(change).collect::<Vec<_>>().join("; "))
        }
        Step::Scale { name, from, to } => ("~ scale", name, format!("{from} → {}", instances(*to))),
        Step::Delete { name, .. } => ("- delete", name, "not in the file any more".into()),
        Step::Keep { name } => ("  keep", name, "not in the file any more; --prune deletes it".into()),
        Step::Unchanged { name } => ("  unchanged", name, String::new()),
    };
    [what.to_owned(), tame(name).into_owned(), tame(&why).into_owned()]
}

fn instances(count: u32) -> String {
    if count == 1 { "1 instance".into() } else { format!("{count} instances") }
}

fn change(change: &Change) -> String {
    match &change.values {
        Some((is, wanted)) => format!("{}: {} → {}", change.path, shown(is), shown(wanted)),
        None => format!("{} {}", change.path, change.how),
    }
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => "none".to_owned(),
        other => other.to_string(),
    };
    match text.chars().count() > LONGEST {
        true => format!("{}…", text.chars().take(LONGEST).collect::<String>()),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_step() {
        let app = Box::new(AppSpec::new("api", "/a", "/"));
        let changed = |path: &str, values| Change { path: path.into(), values, how: "removed" };
        let changes =
            vec![changed("stop.timeout", Some((1000.into(), 2000.into()))), changed("env.TOKEN", None)];
        let steps = [
            Step::Start(app.clone()),
            Step::Restart { app, changes },
            Step::Scale { name: "w".into(), from: 1, to: 3 },
            Step::Unchanged { name: "x".into() },
        ];
        let want = "\
+ start      api  1 instance: not in the list
~ restart    api  stop.timeout: 1000 → 2000; env.TOKEN removed
~ scale      w    1 → 3 instances
  unchanged  x\n3 things to do\n";
        assert_eq!(plan(&steps), want);
        assert_eq!(plan(&steps[3..]), "  unchanged  x\nnothing to do\n");
    }
}
