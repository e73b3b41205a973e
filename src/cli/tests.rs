//! Parsing of command lines.

use clap::CommandFactory;

use super::*;

fn parse(line: &str) -> Result<CliArgs, clap::Error> {
    let words = shlex::split(line).unwrap();
    CliArgs::try_parse_from(std::iter::once("rsm".to_owned()).chain(words))
}

fn parsed(line: &str) -> String {
    match parse(line) {
        Ok(CliArgs { command: CliCommand::Session(command), .. }) => format!("{command:?}"),
        Ok(CliArgs { command: CliCommand::Local(command), .. }) => format!("{command:?}"),
        Ok(CliArgs { command: CliCommand::Internal(command), .. }) => format!("{command:?}"),
        Err(error) => panic!("{line}: {error}"),
    }
}

#[test]
fn clap_definition_is_valid() {
    CliArgs::command().debug_assert();
}

#[test]
fn accepts_documented_command_lines() {
    let lines = "
        start
        start app.js -i max --name api --watch src -- --port 3000
        start app.js -i -1
        start ecosystem.toml --env production --only api,worker --update-env -f
        start 'node app.js' 3 all --namespace web --cwd /srv --interpreter python3
        start a.js --interpreter-args '--inspect -x' --ignore-watch 'tmp *.log' --watch-delay 2
        start a.js --node-args=--max-old-space-size=100
        start a.js --max-memory-restart 300M --cron '0 3 * * *' --no-autorestart --no-autostart
        start a.js -c 0 --restart-delay 100 --exp-backoff-restart-delay 100 --max-restarts 0 --min-uptime 5s
        start a.js --kill-timeout 3000 --kill-signal TERM --stop-exit-codes 0,143 --stop-exit-codes 2
        start a.js -o out.log -e err.log -l both.log --merge-logs --time --log-date-format YYYY --log-type json
        start a.js --uid www --gid www --listen-timeout 1s --wait-ready --no-treekill --filter-env AWS
        start a.js --filter-env A --filter-env B --disable-logs --pid a.pid -x --no-vizion --no-pmx --port 80
        startOrRestart ecosystem.toml
        stop api 3 /^web/ all
        stop ecosystem.toml --only api
        restart api --max-memory-restart 200M -a -- new args
        restart ecosystem.toml --env production
        restart --watch api
        delete all
        del 0
        scale api 3
        scale api +2
        scale api -2
        list
        ls --json
        ps -m
        status --sort memory:desc
        l --no-color
        jlist
        describe api
        show 0 --json
        desc /x/
        logs
        logs api web --lines 100 --err
        log --out --raw
        logs --json --nostream --no-color
        flush
        flush api
        reloadLogs
        reload-logs
        env 0 --json
        pid
        pid api
        id api
        reset all
        sendSignal SIGUSR2 api
        save
        dump --force
        resurrect
        cleardump
        ping
        kill
        info
        info --json
        info api
        schema
        prettylist
        report
        convert ecosystem.config.js -o ecosystem.toml
        convert -
        init
        ecosystem simple
        plan ecosystem.config.js --prune
        apply ecosystem.toml --only a,b --env production
        set logs.lines 100
        get
        get logs.lines
        conf
        unset all
        restart api --attach --parallel 2 --sort id:desc
        start a.js --no-daemon --v8 --trace -w --source-map-support
        serve
        serve dist 8081 --spa --name site
        serve-files dist 8081
        keeper
        keeper --foreground
        daemon
        -s start app.js
        start app.js --silent";
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        parsed(line);
    }
    parsed("start");
}

#[test]
fn arguments_after_dashes_belong_to_app() {
    let start = parsed("start app.js -- --name x -i 3 -s");
    assert!(start.contains(r#"args: ["--name", "x", "-i", "3", "-s"]"#), "{start}");
    assert!(start.contains("AppFlags([])"), "{start}");
}

#[test]
fn negative_number_is_a_value() {
    assert_eq!(
        parsed("scale api -2"),
        r#"Scale(ScaleArgs { name: "api", to: Remove(2), wait: WaitFlags { no_wait: false } })"#
    );
    assert!(parsed("start a.js -i -1").contains(r#"{ long: "--instances", values: ["-1"] }"#));
}

#[test]
fn watch_may_be_repeated_and_without_value() {
    let watch = |line: &str| parsed(line).contains(r#"{ long: "--watch", values: ["", "src"] }"#);
    assert!(watch("start a.js --watch --watch src"), "{}", parsed("start a.js --watch --watch src"));
    let swallowed = parsed("start --watch a.js");
    assert!(
        swallowed.contains("targets: []") && swallowed.contains(r#"{ long: "--watch", values: ["a.js"] }"#),
        "{swallowed}"
    );
}

#[test]
fn usage_errors_exit_2_and_help_exits_0() {
    let code =
        |line: &str| usage_error::convert(parse(line).unwrap_err(), &[], &CliArgs::command()).exit_code();
    for line in
        ["", "stop", "restart", "scale api", "scale api x", "list --sort size", "nonsense", "list --nonsense"]
    {
        assert_eq!(code(line), 2, "{line}");
    }
    for line in ["--help", "start -h", "-v", "-V", "--version"] {
        assert_eq!(code(line), 0, "{line}");
    }
}

#[test]
fn help_of_command_has_description_of_list() {
    let listed = CliArgs::command();
    let mut built = listed.clone();
    built.build();
    for command in listed.get_subcommands().filter(|command| !command.is_hide_set()) {
        let own = built.find_subcommand(command.get_name()).and_then(clap::Command::get_about);
        assert_eq!(own.map(ToString::to_string), command.get_about().map(ToString::to_string));
    }
}
