//! `start`: starts apps of files, scripts, programs and shell commands, and stopped apps.

use std::path::Path;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use crate::cli::app_flags::{AppFlags, ChangeFlags, InvocationContext, WaitFlags, load_apps, print_warnings};
use crate::cli::commands::{daemon, logs};
use crate::cli::completion;
use crate::cli::environment;
use crate::cli::error::Error;
use crate::cli::operation::send_all;
use crate::cli::session::Session;
use crate::config;
use crate::ipc::message::{
    Action, ActionRequest, Existing, InheritedEnv, InstanceView, Request, StartRequest,
};
use crate::spec::AppSpec;

// Arguments of `start`.
#[derive(Args, Clone, Debug)]
pub(crate) struct StartArgs {
    /// Ecosystem files, scripts, programs, shell commands, or names and ids of listed apps
    /// [default: ecosystem.toml]
    #[arg(value_name = "TARGET", add = ArgValueCompleter::new(completion::complete_startable))]
    targets: Vec<String>,
    #[command(flatten)]
    change: ChangeFlags,
    /// Start another app with the same name
    #[arg(short, long)]
    force: bool,
    /// Stay in the foreground and show logs; Ctrl-C stops the apps
    #[arg(long)]
    no_daemon: bool,
    #[command(flatten)]
    wait: WaitFlags,
    /// PM2 compatibility, ignored: all are started at once
    #[arg(long, hide = true, value_name = "N")]
    parallel: Option<u32>,
    /// Arguments for the app
    #[arg(last = true)]
    args: Vec<String>,
    #[command(flatten)]
    settings: AppFlags,
}

/// The meaning of an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
enum StartTarget {
    File(String),
    /// A selector of apps in the list.
    Existing(String),
    /// A script, program or shell command.
    Script(String),
}

/// What one request does.
enum StartStepPlan {
    Add(Vec<AppSpec>, Existing),
    Act(Vec<String>),
}

pub(crate) async fn start(mut args: StartArgs, session: &Session) -> Result<(), Error> {
    args.change.ignored.warn(session);
    args.settings.warn_about_error_file(session);
    if args.targets.is_empty() {
        args.targets.push(match args.settings.take_swallowed_target() {
            Some(target) => target,
            // `rsm start -- node app.js`
            None if args.args.first().is_some_and(|word| !word.starts_with('-')) => args.args.remove(0),
            None => default_file()?,
        });
    }
    args.settings.fix_exit_codes(&mut args.targets);
    check_not_one_command(&args.targets)?;
    let instances = match args.targets.iter().any(|target| could_be_name(target)) {
        true => list_if_running(session).await?,
        false => Vec::new(),
    };
    let context = InvocationContext::new(args.change.env.as_deref(), &args.change.only)?;
    let is_new = args.settings.has("--name");
    let can_run = |word: &str| is_new && config::is_runnable(word, &context.cwd, &context.options);
    let classify = |word: &String| classify(word, &instances, can_run(word));
    let targets: Vec<StartTarget> = args.targets.iter().map(classify).collect();
    args.check_flags(&targets, session)?;
    check_known(&targets, session).await?;
    let steps = args.plan(targets, session, &context)?;
    let requests = args.requests(steps, session, &context)?;
    let adds_apps = requests.iter().any(|request| matches!(request, Request::Start(_)));
    let owns_daemon = args.no_daemon && session.connect_if_running().await?.is_none();
    let mut client = match adds_apps {
        true => session.connect_or_start().await?,
        false => session.connect_for(&args.targets).await?,
    };
    let description = format!("starting {}", args.targets.join(", "));
    let started = send_all(session, &mut client, &description, requests).await;
    if args.no_daemon {
        return follow_in_foreground(started, owns_daemon, session).await;
    }
    let ids = started?;
    if args.change.attach { logs::attach(ids, session).await } else { Ok(()) }
}

/// Follows the logs of all apps until Ctrl-C or SIGTERM. Then stops the apps and the daemon if this command
/// started it. (PM2 leaves the apps behind.)
async fn follow_in_foreground(
    started: Result<Vec<String>, Error>,
    owns_daemon: bool,
    session: &Session,
) -> Result<(), Error> {
    let followed = match started {
        Ok(_) => logs::attach(Vec::new(), session).await,
        Err(error) => Err(error),
    };
    let killed = if owns_daemon { daemon::kill(session).await } else { Ok(()) };
    match followed {
        // Another command stopped the daemon, which is no error.
        Err(Error::StreamEnded) => killed,
        followed => followed.and(killed),
    }
}

/// Programs that run what is named after them.
const LAUNCHERS: [&str; 17] = [
    "node", "nodejs", "bun", "deno", "tsx", "ts-node", "npm", "npx", "yarn", "pnpm", "bash", "sh", "ruby",
    "php", "perl", "java", "uv",
];

/// `rsm start node app.js` would start two apps, which is not what was meant.
fn check_not_one_command(targets: &[String]) -> Result<(), Error> {
    let Some((program, rest)) = targets.split_first() else { return Ok(()) };
    let is_launcher = LAUNCHERS.contains(&program.as_str()) || program.starts_with("python");
    if rest.is_empty() || !is_launcher || Path::new(program).exists() {
        return Ok(());
    }
    let rest = rest.join(" ");
    Err(Error::WrongUsage {
        message: format!("{program:?} and {rest:?} would be {} apps", targets.len()),
        help: format!("to run one command: rsm start -- {program} {rest}, or rsm start \"{program} {rest}\""),
    })
}

/// The ecosystem file of the current directory.
pub(crate) fn default_file() -> Result<String, Error> {
    if let Some(file) = config::DEFAULT_FILES.iter().find(|file| Path::new(file).is_file()) {
        return Ok((*file).to_owned());
    }
    Err(Error::NoConfigFile { directory: crate::paths::current_dir().map_err(Error::CurrentDirUnreadable)? })
}

/// The list, empty if the daemon is not running.
async fn list_if_running(session: &Session) -> Result<Vec<InstanceView>, Error> {
    match session.connect_if_running().await? {
        Some(mut client) => client.call(&Request::List).await.map_err(|error| session.client_error(error)),
        None => Ok(Vec::new()),
    }
}

/// Checks that selectors given together with new apps match something, before any app is started.
async fn check_known(targets: &[StartTarget], session: &Session) -> Result<(), Error> {
    let selector = |target: &StartTarget| {
        if let StartTarget::Existing(selector) = target { Some(selector.clone()) } else { None }
    };
    let selectors: Vec<String> = targets.iter().filter_map(selector).collect();
    if selectors.is_empty() || selectors.len() == targets.len() {
        return Ok(()); // the daemon checks the selectors of its only request
    }
    let mut client = session.connect_for(&selectors).await?;
    let described = client.call::<serde::de::IgnoredAny>(&Request::Describe(selectors.into())).await;
    described.map(drop).map_err(|error| session.client_error(error))
}

/// Whether a word can be the name of an app: it is no file. As in PM2, a file without an extension, or a program, may
/// have the name of an app.
fn could_be_name(word: &str) -> bool {
    let is_plain = !word.contains('/') && Path::new(word).extension().is_none();
    !is_id(word) && word != "all" && (is_plain || !Path::new(word).exists())
}

fn is_id(word: &str) -> bool {
    word.parse::<u32>().is_ok()
}

/// `is_new_app`: the word is a script or program for an app with a name of its own, not the name of an app.
fn classify(word: &str, instances: &[InstanceView], is_new_app: bool) -> StartTarget {
    let is_named = |view: &InstanceView| view.name == word || view.namespace == word;
    let word = word.to_owned();
    if config::is_config_file(&word) {
        StartTarget::File(word)
    } else if is_id(&word)
        || word == "all"
        || (!is_new_app && could_be_name(&word) && instances.iter().any(is_named))
    {
        StartTarget::Existing(word)
    } else {
        StartTarget::Script(word)
    }
}

impl StartArgs {
    fn check_flags(&self, targets: &[StartTarget], session: &Session) -> Result<(), Error> {
        // For scripts, `config` warns.
        if targets.iter().all(|target| matches!(target, StartTarget::Existing(_))) {
            self.change.warn_without_file(session);
        }
        let scripts = targets.iter().filter(|target| matches!(target, StartTarget::Script(_))).count();
        if self.settings.has("--name") && scripts > 1 {
            return Err(Error::NameForSeveralApps { apps: scripts });
        }
        Ok(())
    }

    /// The steps in the order of the arguments; adjacent equal ones are merged. All files are read before the first
    /// request is sent.
    fn plan(
        &self,
        targets: Vec<StartTarget>,
        session: &Session,
        context: &InvocationContext,
    ) -> Result<Vec<StartStepPlan>, Error> {
        let mut steps: Vec<StartStepPlan> = Vec::new();
        for target in targets {
            let step = match target {
                StartTarget::Existing(selector) => StartStepPlan::Act(vec![selector]),
                StartTarget::File(file) => {
                    let apps = load_apps(session, &file, &self.settings, &self.args, context)?;
                    StartStepPlan::Add(apps, if self.force { Existing::Duplicate } else { Existing::Restart })
                }
                StartTarget::Script(script) => {
                    let apps = self.script(&script, session, context)?;
                    StartStepPlan::Add(apps, if self.force { Existing::Duplicate } else { Existing::Refuse })
                }
            };
            match (steps.last_mut(), step) {
                (Some(StartStepPlan::Act(selectors)), StartStepPlan::Act(more)) => selectors.extend(more),
                (Some(StartStepPlan::Add(apps, existing)), StartStepPlan::Add(more, other))
                    if *existing == other =>
                {
                    apps.extend(more)
                }
                (_, step) => steps.push(step),
            }
        }
        Ok(steps)
    }

    fn script(
        &self,
        script: &str,
        session: &Session,
        context: &InvocationContext,
    ) -> Result<Vec<AppSpec>, Error> {
        let line = self.settings.command_line(script, &self.args);
        let loaded = config::load_command_line(&line, &context.cwd, &context.options)?;
        print_warnings(session, &loaded.warnings);
        Ok(loaded.apps)
    }

    fn requests(
        &self,
        steps: Vec<StartStepPlan>,
        session: &Session,
        context: &InvocationContext,
    ) -> Result<Vec<Request>, Error> {
        let mut environment: Option<InheritedEnv> = None;
        let mut inherited = || environment.get_or_insert_with(|| environment::collect_env(session)).clone();
        // In the foreground, the restart policy decides what follows an exit, as for a service.
        let no_wait = self.wait.no_wait || self.no_daemon;
        let request = |step| {
            Ok(match step {
                StartStepPlan::Add(apps, existing) => {
                    Request::Start(StartRequest { apps, inherited: inherited(), existing, no_wait })
                }
                StartStepPlan::Act(select) => {
                    let changes = self.settings.patch(&self.args, context, session)?;
                    let inherited = self.change.update_env.then(&mut inherited);
                    Request::Act(
                        Action::Start,
                        ActionRequest {
                            select,
                            inherited,
                            changes: (!changes.is_empty()).then_some(changes),
                            no_wait,
                        },
                    )
                }
            })
        };
        steps.into_iter().map(request).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::list::tests::view;
    use crate::ipc::message::DisplayStatus;

    #[test]
    fn argument_meaning_matches_pm2() {
        let instances = [view(0, "api", DisplayStatus::Online), view(1, "job", DisplayStatus::Stopped)];
        let meaning = |word: &str| classify(word, &instances, false);
        for (word, expected) in [
            ("ecosystem.toml", StartTarget::File as fn(String) -> StartTarget),
            ("ecosystem.config.js", StartTarget::File),
            ("3", StartTarget::Existing),
            ("all", StartTarget::Existing),
            ("api", StartTarget::Existing),
            ("default", StartTarget::Existing),
            ("./api", StartTarget::Script),
            ("app.js", StartTarget::Script),
            ("sleep", StartTarget::Script),
            ("sleep 100", StartTarget::Script),
            ("python3 -m http.server", StartTarget::Script),
        ] {
            assert_eq!(meaning(word), expected(word.to_owned()), "{word}");
        }
        assert_eq!(classify("api", &instances, true), StartTarget::Script("api".into()));
        let sites = [view(0, "example.com", DisplayStatus::Stopped)];
        assert_eq!(classify("example.com", &sites, false), StartTarget::Existing("example.com".into()));
    }

    #[test]
    fn only_possible_names_require_the_list() {
        let names: Vec<&str> = ["Cargo.toml", "./src", "7", "all", "api", "example.com"]
            .into_iter()
            .filter(|word| could_be_name(word))
            .collect();
        assert_eq!(names, ["api", "example.com"]);
    }
}
