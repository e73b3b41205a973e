//! `start`: files, scripts, programs, shell lines, and what is in the list already.

use std::path::Path;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use crate::cli::app_flags::{AppFlags, ChangeFlags, InvocationContext, load_apps, print_warnings};
use crate::cli::commands::{daemon, logs};
use crate::cli::completion;
use crate::cli::environment;
use crate::cli::error::Error;
use crate::cli::operation::send_all;
use crate::cli::session::Session;
use crate::config;
use crate::ipc::message::{ActOn, Action, Existing, Inherited, InstanceView, Request, StartApps};
use crate::spec::AppSpec;

// Arguments of `start`.
#[derive(Args, Clone, Debug)]
pub(crate) struct StartArgs {
    /// Ecosystem files, scripts, programs, shell commands, or names and ids of listed apps
    /// [default: ecosystem.toml]
    #[arg(value_name = "TARGET", add = ArgValueCompleter::new(completion::complete_targets))]
    targets: Vec<String>,
    #[command(flatten)]
    change: ChangeFlags,
    /// Start another app of the same name
    #[arg(short, long)]
    force: bool,
    /// Stay in the foreground and show logs; Ctrl-C stops the apps
    #[arg(long)]
    no_daemon: bool,
    /// PM2 compatibility, ignored: all are started at once
    #[arg(long, hide = true, value_name = "N")]
    parallel: Option<u32>,
    /// Arguments for the app
    #[arg(last = true)]
    args: Vec<String>,
    #[command(flatten)]
    settings: AppFlags,
}

/// What one argument means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum StartTarget {
    /// An ecosystem file.
    File(String),
    /// Something in the list.
    Existing(String),
    /// Something new.
    Script(String),
}

/// One request's worth of work.
enum StartStepPlan {
    Add(Vec<AppSpec>, Existing),
    Act(Vec<String>),
}

pub(crate) async fn start(mut start: StartArgs, session: &Session) -> Result<(), Error> {
    start.change.ignored.warn(session);
    if start.targets.is_empty() {
        start.targets.push(match start.settings.take_swallowed_target() {
            Some(target) => target,
            None => default_file()?,
        });
    }
    start.settings.fix_exit_codes(&mut start.targets);
    let there = match start.targets.iter().any(|target| could_be_name(target)) {
        true => list_if_running(session).await?,
        false => Vec::new(),
    };
    let targets: Vec<StartTarget> = start.targets.iter().map(|target| classify(target, &there)).collect();
    start.check_flags(&targets)?;
    check_known(&targets, session).await?;
    let context = InvocationContext::new(start.change.env.as_deref(), &start.change.only)?;
    let steps = start.plan(targets, session, &context)?;
    let requests = start.requests(steps, session, &context)?;
    let adds = requests.iter().any(|request| matches!(request, Request::Start(_)));
    let alone = start.no_daemon && session.connect_if_running().await?.is_none();
    let mut client = match adds {
        true => session.connect_or_start().await?,
        false => session.connect_for(&start.targets).await?,
    };
    let what = format!("starting {}", start.targets.join(", "));
    let done = send_all(session, &mut client, &what, requests).await;
    if start.no_daemon {
        return foreground(done, alone, session).await;
    }
    let done = done?;
    if start.change.attach { logs::attach(done, session).await } else { Ok(()) }
}

/// Stays until Ctrl-C or SIGTERM and shows what all apps say. What this command brought to life ends
/// with it: PM2 leaves its apps behind as orphans.
async fn foreground(done: Result<Vec<String>, Error>, alone: bool, session: &Session) -> Result<(), Error> {
    let seen = match done {
        Ok(_) => logs::attach(Vec::new(), session).await,
        Err(error) => Err(error),
    };
    let ended = if alone { daemon::kill(session).await } else { Ok(()) };
    match seen {
        // Somebody else ended the daemon: then there is nothing more to do, and nothing wrong.
        Err(Error::StreamEnded) => ended,
        seen => seen.and(ended),
    }
}

/// The file in the current directory.
fn default_file() -> Result<String, Error> {
    if let Some(file) = config::DEFAULT_FILES.iter().find(|file| Path::new(file).is_file()) {
        return Ok((*file).to_owned());
    }
    Err(Error::NoConfigFile { directory: std::env::current_dir().map_err(Error::CurrentDirUnreadable)? })
}

/// What is in the list; nothing where no daemon runs.
async fn list_if_running(session: &Session) -> Result<Vec<InstanceView>, Error> {
    match session.connect_if_running().await? {
        Some(mut client) => client.call(&Request::List).await.map_err(|error| session.client_error(error)),
        None => Ok(Vec::new()),
    }
}

/// Before anything is started: what is named beside new apps is in the list.
async fn check_known(targets: &[StartTarget], session: &Session) -> Result<(), Error> {
    let listed = |target: &StartTarget| {
        if let StartTarget::Existing(word) = target { Some(word.clone()) } else { None }
    };
    let words: Vec<String> = targets.iter().filter_map(listed).collect();
    if words.is_empty() || words.len() == targets.len() {
        return Ok(()); // told by the one request that there is
    }
    let mut client = session.connect_for(&words).await?;
    let known = client.call::<serde::de::IgnoredAny>(&Request::Describe(words.into())).await;
    known.map(drop).map_err(|error| session.client_error(error))
}

/// Whether a word can be a name in the list: no path and no extension, as in PM2.
fn could_be_name(word: &str) -> bool {
    !word.contains('/') && Path::new(word).extension().is_none() && !is_id(word) && word != "all"
}

fn is_id(word: &str) -> bool {
    word.parse::<u32>().is_ok()
}

fn classify(word: &str, there: &[InstanceView]) -> StartTarget {
    let known = |view: &InstanceView| view.name == word || view.namespace == word;
    let word = word.to_owned();
    if config::is_config_file(&word) {
        StartTarget::File(word)
    } else if is_id(&word) || word == "all" || (could_be_name(&word) && there.iter().any(known)) {
        StartTarget::Existing(word)
    } else {
        StartTarget::Script(word)
    }
}

impl StartArgs {
    fn check_flags(&self, targets: &[StartTarget]) -> Result<(), Error> {
        let file = targets.iter().any(|target| matches!(target, StartTarget::File(_)));
        if self.change.env.is_some() && !file {
            return Err(Error::EnvWithoutFile);
        }
        let scripts = targets.iter().filter(|target| matches!(target, StartTarget::Script(_))).count();
        if self.settings.has("--name") && scripts > 1 {
            return Err(Error::NameForSeveralApps { apps: scripts });
        }
        Ok(())
    }

    /// What to ask for, in the order of the arguments; neighbours alike are asked for at once.
    /// Everything is read before anything is asked for.
    fn plan(
        &self,
        targets: Vec<StartTarget>,
        session: &Session,
        context: &InvocationContext,
    ) -> Result<Vec<StartStepPlan>, Error> {
        let mut steps: Vec<StartStepPlan> = Vec::new();
        for target in targets {
            let step = match target {
                StartTarget::Existing(word) => StartStepPlan::Act(vec![word]),
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
                (Some(StartStepPlan::Act(words)), StartStepPlan::Act(more)) => words.extend(more),
                (Some(StartStepPlan::Add(apps, how)), StartStepPlan::Add(more, same)) if *how == same => {
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
        let mut environment: Option<Inherited> = None;
        let mut inherited = || environment.get_or_insert_with(|| environment::collect_env(session)).clone();
        let request = |step| {
            Ok(match step {
                StartStepPlan::Add(apps, existing) => {
                    Request::Start(StartApps { apps, inherited: inherited(), existing })
                }
                StartStepPlan::Act(select) => {
                    let changes = self.settings.patch(&self.args, context)?;
                    let inherited = self.change.update_env.then(&mut inherited);
                    Request::Act(
                        Action::Start,
                        ActOn { select, inherited, changes: (!changes.is_empty()).then_some(changes) },
                    )
                }
            })
        };
        steps.into_iter().map(request).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::commands::start::*;
    use crate::cli::render::list::tests::view;
    use crate::ipc::message::Status;

    #[test]
    fn arguments_mean_what_they_do_in_pm2() {
        let there = [view(0, "api", Status::Online), view(1, "job", Status::Stopped)];
        let meaning = |word: &str| classify(word, &there);
        for (word, wanted) in [
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
            assert_eq!(meaning(word), wanted(word.to_owned()), "{word}");
        }
    }

    #[test]
    fn the_daemon_is_asked_only_about_what_may_be_a_name() {
        let asked: Vec<&str> =
            ["app.js", "./x", "7", "all", "api"].into_iter().filter(|word| could_be_name(word)).collect();
        assert_eq!(asked, ["api"]);
    }
}
