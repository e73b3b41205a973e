//! Drift of apps from their ecosystem files, shown below the list.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::style::tame;
use crate::ipc::message::InstanceView;

/// Maximum number of app names on a line.
const MAX_NAMES: usize = 8;

/// One line for each file and kind of difference: the apps, the difference, and the command that shows details.
pub(crate) fn lines(instances: &[InstanceView]) -> Vec<String> {
    let mut apps: BTreeMap<(&Path, &str), BTreeSet<&str>> = BTreeMap::new();
    for view in instances {
        if let (Some(file), Some(drift)) = (&view.source, &view.drift) {
            apps.entry((file, drift)).or_default().insert(&view.name);
        }
    }
    let line = |((file, drift), names): ((&Path, &str), BTreeSet<&str>)| {
        let (shown, more) = (names.iter().take(MAX_NAMES), names.len().saturating_sub(MAX_NAMES));
        let shown = shown.map(|name| tame(name)).collect::<Vec<_>>().join(", ");
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        format!("* {shown}{more}: {}. See `{}`", tame(drift), plan(file))
    };
    apps.into_iter().map(line).collect()
}

/// The command that shows how the running apps differ from a file, quoted for a shell.
pub(crate) fn plan(file: &Path) -> String {
    let file = file.display().to_string();
    let quoted = shlex::try_quote(&file).map_or_else(|_| file.clone(), |file| file.into_owned());
    format!("rsm plan {}", tame(&quoted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::list::tests::view;
    use crate::ipc::message::DisplayStatus;

    #[test]
    fn equal_drift_shares_a_line() {
        let instance = |name: &str, drift: Option<&str>| InstanceView {
            source: Some("/srv/my app/e.toml".into()),
            drift: drift.map(str::to_owned),
            ..view(0, name, DisplayStatus::Online)
        };
        let names = ["a", "a", "b", "c", "d", "e", "f", "g", "h", "i"];
        let mut all: Vec<InstanceView> =
            names.iter().map(|name| instance(name, Some("/srv/e.toml was deleted"))).collect();
        all.extend([instance("same", None), instance("z", Some("changed"))]);
        let command = "See `rsm plan '/srv/my app/e.toml'`";
        let expected = [
            format!("* a, b, c, d, e, f, g, h and 1 more: /srv/e.toml was deleted. {command}"),
            format!("* z: changed. {command}"),
        ];
        assert_eq!(lines(&all), expected);
    }
}
