//! The flags of `start`, `restart`, `reload` and `runtime`: those of the table of keys, which describe an app, and
//! those that are common to these commands.

use std::path::Path;
use std::path::PathBuf;

use clap::builder::ValueHint;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use clap_complete::engine::ArgValueCandidates;
use serde_json::{Map, Value};

use super::completion::{complete_app_names, complete_env_names};
use super::error::Error;
use super::session::Session;
use crate::config::{
    self, CommandLine, Flag, FlagValue, GivenFlag, IGNORED_KEYS, IgnoredKey, KeyDef, LoadOptions,
};
use crate::spec::AppSpec;

/// The given flags. `config` validates their values, as it does those of files.
#[derive(Clone, Debug, Default)]
pub(super) struct AppFlags(Vec<GivenFlag>);

impl Args for AppFlags {
    fn augment_args(command: Command) -> Command {
        command.args(config::keys_with_flags().map(|(key, flag)| arg(key, flag)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for AppFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(config::keys_with_flags().filter_map(|(_, flag)| given(flag, matches)).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The name of a flag without dashes, also its id in clap.
fn id(flag: &Flag) -> &'static str {
    flag.long.trim_start_matches('-')
}

/// Makes a clap argument of a row of the table.
fn arg(key: &KeyDef, flag: &Flag) -> Arg {
    let mut arg = Arg::new(id(flag)).long(id(flag)).help(key.help()).help_heading(key.group.heading());
    arg = arg.hide(flag.hidden).allow_hyphen_values(flag.allow_hyphen);
    if let Some(short) = flag.short {
        arg = arg.short(short);
    }
    if let Some(alias) = flag.alias {
        arg = arg.visible_alias(alias);
    }
    match flag.value {
        FlagValue::Switch(_) => arg.action(ArgAction::SetTrue),
        FlagValue::Text(name) => value(arg, name).action(ArgAction::Set),
        FlagValue::OptionalText(name) => value(arg, name).action(ArgAction::Set).num_args(0..=1),
        FlagValue::List(name) | FlagValue::Joined(name) => value(arg, name).action(ArgAction::Append),
        FlagValue::OptionalList(name) => {
            value(arg, name).action(ArgAction::Append).num_args(0..=1).default_missing_value("")
        }
    }
}

fn value(arg: Arg, name: &'static str) -> Arg {
    let hint = match name {
        "DIR" => ValueHint::DirPath,
        "FILE" | "PATH" => ValueHint::AnyPath,
        _ => ValueHint::Unknown,
    };
    arg.value_name(name).value_hint(hint)
}

/// Returns a flag with its values, if it was given.
fn given(flag: &Flag, matches: &ArgMatches) -> Option<GivenFlag> {
    let values = match flag.value {
        FlagValue::Switch(_) => matches.get_flag(id(flag)).then(Vec::new)?,
        _ if !matches.contains_id(id(flag)) => return None,
        _ => matches.get_many::<String>(id(flag)).into_iter().flatten().cloned().collect(),
    };
    Some(GivenFlag { long: flag.long, values })
}

impl AppFlags {
    /// Whether a flag was given.
    pub(super) fn has(&self, long: &str) -> bool {
        self.0.iter().any(|given| given.long == long)
    }

    fn values_mut(&mut self, long: &str) -> Option<&mut Vec<String>> {
        self.0.iter_mut().find(|given| given.long == long).map(|given| &mut given.values)
    }

    /// `--watch app.js` and `--log app.js` take the word after them as their value, as in PM2. Without any other
    /// target, that word is the target: it is removed from the flag and returned.
    pub(super) fn take_swallowed_target(&mut self) -> Option<String> {
        let watched = self.values_mut("--watch").and_then(|paths| paths.last_mut());
        if let Some(path) = watched.filter(|path| !path.is_empty()) {
            return Some(std::mem::take(path));
        }
        self.values_mut("--log").and_then(Vec::pop)
    }

    /// `--stop-exit-codes 0 143`: as in PM2, numbers among the targets are exit codes.
    pub(super) fn fix_exit_codes(&mut self, targets: &mut Vec<String>) {
        let number = |target: &String| target.parse::<u32>().is_ok();
        if let Some(codes) = self.values_mut("--stop-exit-codes").filter(|_| !targets.iter().all(number)) {
            codes.extend(targets.extract_if(.., |target| number(target)));
        }
    }

    /// `-e PORT=4100` is the file for standard error, as in PM2, not a variable as in docker.
    pub(super) fn warn_about_error_file(&self, session: &Session) {
        let error_file =
            self.0.iter().find(|given| given.long == "--error").and_then(|given| given.values.first());
        let is_variable = |value: &str| {
            value.split_once('=').is_some_and(|(name, _)| {
                !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
            })
        };
        if let Some(value) = error_file.filter(|value| is_variable(value)) {
            session.notice(format_args!(
                "warning: -e sets the file for stderr, here {value:?}; for a variable: {value} rsm start …"
            ));
        }
    }

    /// The command line of a script with these flags.
    pub(super) fn command_line<'a>(&'a self, script: &'a str, args: &'a [String]) -> CommandLine<'a> {
        CommandLine { script, args, flags: &self.0 }
    }

    /// What these flags change in an existing app, as a JSON merge patch of its spec.
    pub(super) fn patch(
        &self,
        args: &[String],
        context: &InvocationContext,
        session: &Session,
    ) -> Result<Map<String, Value>, Error> {
        for flag in ["--source-map-support", "--disable-source-map-support"] {
            if self.has(flag) {
                session.notice(format_args!(
                    "warning: {flag} only has an effect on a script that is started; use --node-args=--enable-source-maps, or `source_map_support` of the file"
                ));
            }
        }
        Ok(config::flags_to_patch(&self.command_line("", args), &context.cwd, &context.options)?)
    }
}

// Flags of `start`, `restart`, `reload` and `runtime` that are not settings of an app.
#[derive(Args, Clone, Debug)]
pub(super) struct ChangeFlags {
    /// Environment block to use: `env_NAME` of the file
    #[arg(long, value_name = "NAME", add = ArgValueCandidates::new(complete_env_names))]
    pub(super) env: Option<String>,
    /// Select only these apps from the file
    #[arg(long, value_name = "NAMES", add = ArgValueCandidates::new(complete_app_names))]
    pub(super) only: Vec<String>,
    /// Update the environment of the apps from this shell
    #[arg(short = 'a', long)]
    pub(super) update_env: bool,
    /// Follow the logs of the apps afterwards
    #[arg(long)]
    pub(super) attach: bool,
    #[command(flatten)]
    pub(super) ignored: IgnoredFlags,
}

// The flag of commands that start processes.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct WaitFlags {
    /// Return when the programs are executed, without waiting until they are ready
    #[arg(long)]
    pub(super) no_wait: bool,
}

impl ChangeFlags {
    /// Warns about flags that only have an effect on files, which PM2 accepts without one.
    pub(super) fn warn_without_file(&self, session: &Session) {
        warn_without_file(self.env.as_deref(), &self.only, session);
    }
}

/// Warns about `--env` and `--only` of a command without a file.
pub(super) fn warn_without_file(env: Option<&str>, only: &[String], session: &Session) {
    let flags = [env.map(|_| "--env"), (!only.is_empty()).then_some("--only")];
    for flag in flags.into_iter().flatten() {
        session.notice(format_args!(
            "warning: {flag} has no effect without an ecosystem file; for example: rsm restart ecosystem.toml {flag} …"
        ));
    }
}

/// Flags of PM2 without effect in rsm. They are accepted so that existing command lines keep working.
#[derive(Clone, Debug, Default)]
pub(super) struct IgnoredFlags(Vec<&'static IgnoredKey>);

/// The flags of the ignored keys, without dashes.
fn ignored() -> impl Iterator<Item = (&'static IgnoredKey, &'static str)> {
    IGNORED_KEYS.iter().filter_map(|key| Some((key, key.flag?.trim_start_matches('-'))))
}

impl Args for IgnoredFlags {
    fn augment_args(command: Command) -> Command {
        let arg = |name| Arg::new(name).long(name).action(ArgAction::SetTrue).hide(true);
        // PM2's short form of `--write`.
        let short = |arg: Arg| if arg.get_id() == "write" { arg.short('w') } else { arg };
        command.args(ignored().map(|(_, name)| short(arg(name))))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for IgnoredFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(ignored().filter(|(_, name)| matches.get_flag(name)).map(|(key, _)| key).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl IgnoredFlags {
    /// Warns about flags with an effect in PM2 that users may rely on.
    pub(super) fn warn(&self, session: &Session) {
        for key in self.0.iter().filter(|key| key.warn) {
            let flag = key.flag.unwrap_or(key.name);
            session.notice(format_args!("warning: {flag} is ignored: {}", key.reason));
        }
    }
}

/// What files and flags are resolved against.
pub(super) struct InvocationContext {
    /// The working directory of the command.
    pub(super) cwd: PathBuf,
    pub(super) options: LoadOptions,
}

impl InvocationContext {
    pub(super) fn new(env_name: Option<&str>, only: &[String]) -> Result<Self, Error> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let options = LoadOptions {
            env_name: env_name.map(str::to_owned),
            only: only.to_vec(),
            cores: u32::try_from(cores).unwrap_or(u32::MAX),
            path_var: std::env::var_os("PATH").unwrap_or_default(),
            command_line: std::env::args_os().collect(),
        };
        Ok(Self { cwd: crate::paths::current_dir().map_err(Error::CurrentDirUnreadable)?, options })
    }
}

/// Loads the apps of a file and changes them as the flags say. Prints warnings.
pub(super) fn load_apps(
    session: &Session,
    file: &str,
    flags: &AppFlags,
    args: &[String],
    context: &InvocationContext,
) -> Result<Vec<AppSpec>, Error> {
    let loaded = config::load(Path::new(file), &context.options)?;
    print_warnings(session, &loaded.warnings);
    let changes = flags.patch(args, context, session)?;
    if flags.has("--name") && loaded.apps.len() > 1 {
        return Err(Error::NameForSeveralApps { apps: loaded.apps.len() });
    }
    let to_error =
        |app: &AppSpec, error| Error::InvalidConfig(vec![format!("app \"{}\": {error}", app.name)]);
    loaded.apps.iter().map(|app| app.patched(&changes).map_err(|error| to_error(app, error))).collect()
}

/// Prints the warnings of a file or of flags.
pub(super) fn print_warnings(session: &Session, warnings: &[String]) {
    for warning in warnings {
        session.notice(format_args!("warning: {}", warning.trim_end()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> AppFlags {
        let command = AppFlags::augment_args(Command::new("start").no_binary_name(true));
        AppFlags::from_arg_matches(&command.try_get_matches_from(args).unwrap()).unwrap()
    }

    fn flag(long: &'static str, values: &[&str]) -> GivenFlag {
        GivenFlag { long, values: values.iter().map(|value| (*value).to_owned()).collect() }
    }

    #[test]
    fn accepts_flags_of_key_table() {
        assert_eq!(parse(&[]).0, []);
        let flags = parse(&["--time", "-i", "-1", "--node-args", "--x", "--filter-env=A", "--filter-env=B"]);
        let expected = [
            flag("--interpreter-args", &["--x"]),
            flag("--instances", &["-1"]),
            flag("--filter-env", &["A", "B"]),
            flag("--time", &[]),
        ];
        assert_eq!(flags.0, expected);
        let flags = parse(&["--watch", "--watch=a", "-l", "-u", "root"]);
        assert_eq!(flags.0, [flag("--uid", &["root"]), flag("--log", &[]), flag("--watch", &["", "a"])]);
    }

    #[test]
    fn numbers_among_targets_are_exit_codes() {
        let mut flags = parse(&["--stop-exit-codes", "0"]);
        let mut targets = vec!["app.js".into(), "143".into()];
        flags.fix_exit_codes(&mut targets);
        assert_eq!(
            (targets, &flags.0[..]),
            (vec!["app.js".to_owned()], &[flag("--stop-exit-codes", &["0", "143"])][..])
        );
        let mut id = vec!["3".to_owned()];
        flags.fix_exit_codes(&mut id);
        assert_eq!(id, ["3"], "a number is a target if all targets are numbers");
    }

    #[test]
    fn returns_swallowed_script() {
        let mut watch = parse(&["--watch", "app.js"]);
        assert_eq!(watch.take_swallowed_target().as_deref(), Some("app.js"));
        assert_eq!(watch.0, [flag("--watch", &[""])]);
        let mut log = parse(&["--log", "app.js"]);
        assert_eq!(log.take_swallowed_target().as_deref(), Some("app.js"));
        assert_eq!(log.0, [flag("--log", &[])]);
        assert_eq!(AppFlags::default().take_swallowed_target(), None);
    }
}
