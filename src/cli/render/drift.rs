//! What differs from its file, below the list.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::style::tame;
use crate::ipc::message::InstanceView;

/// So many names of apps are shown in a line.
const MAX_NAMES: usize = 8;

/// Who differs from its file, how, and the command that tells more: a line for each file and kind of
/// difference.
pub(crate) fn lines(instances: &[InstanceView]) -> Vec<String> {
    let mut apps: BTreeMap<(&Path, &str), BTreeSet<&str>> = BTreeMap::new();
    for view in instances {
        if let (Some(file), Some(drift)) = (&view.source, &view.drift) {
            apps.entry((file, drift)).or_default().insert(&view.name);
        }
    }
    let line = |((file, drift), names): ((&Path, &str), BTreeSet<&str>)| {
        let (some, more) = (names.iter().take(MAX_NAMES), names.len().saturating_sub(MAX_NAMES));
        let some = some.map(|name| tame(name)).collect::<Vec<_>>().join(", ");
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        format!("* {some}{more}: {}. See `{}`", tame(drift), plan(file))
    };
    apps.into_iter().map(line).collect()
}

/// The command that tells how what runs differs from a file, as it is typed.
pub(crate) fn plan(file: &Path) -> String {
    let file = file.display().to_string();
    let typed = shlex::try_quote(&file).map_or_else(|_| file.clone(), |file| file.into_owned());
    format!("rsm plan {}", tame(&typed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::list::tests::view;
    use crate::ipc::message::Status;

    #[test]
    fn apps_that_differ_in_the_same_way_share_a_line() {
        let of = |name: &str, drift: Option<&str>| InstanceView {
            source: Some("/srv/my app/e.toml".into()),
            drift: drift.map(str::to_owned),
            ..view(0, name, Status::Online)
        };
        let names = ["a", "a", "b", "c", "d", "e", "f", "g", "h", "i"];
        let mut all: Vec<InstanceView> =
            names.iter().map(|name| of(name, Some("/srv/e.toml was deleted"))).collect();
        all.extend([of("same", None), of("z", Some("changed"))]);
        let told = "See `rsm plan '/srv/my app/e.toml'`";
        let want = [
            format!("* a, b, c, d, e, f, g, h and 1 more: /srv/e.toml was deleted. {told}"),
            format!("* z: changed. {told}"),
        ];
        assert_eq!(lines(&all), want);
    }
}
