//! What users type by mistake: the command line, the exit code, and the first line of the answer.

use crate::harness::Rsm;

/// The first line is that of standard error, or of standard output if there is none; `DIR` is the current directory.
/// The line may be longer than the text here.
const MISTAKES: [(&str, i32, &str); 145] = [
    ("restrat api", 2, r#"error: unknown command "restrat""#),
    ("lst", 2, r#"error: unknown command "lst""#),
    ("top", 2, r#"error: unknown command "top""#),
    ("htop", 2, r#"error: unknown command "htop""#),
    ("tail api", 2, r#"error: unknown command "tail""#),
    ("rm api", 2, r#"error: unknown command "rm""#),
    ("remove api", 2, r#"error: unknown command "remove""#),
    ("exec api", 2, r#"error: unknown command "exec""#),
    ("check", 2, r#"error: unknown command "check""#),
    ("validate ecosystem.toml", 2, r#"error: unknown command "validate""#),
    ("up", 2, r#"error: unknown command "up""#),
    ("down", 2, r#"error: unknown command "down""#),
    ("run app.js", 2, r#"error: unknown command "run""#),
    ("version", 0, "rsm "),
    ("list api", 0, "╭"),
    ("status api", 0, "╭"),
    ("list nope", 1, r#"error: no app, namespace or id matches "nope""#),
    ("list --frob", 2, r#"error: unknown option "--frob" of `rsm list`"#),
    (
        "list --sort size",
        2,
        r#"error: invalid value "size" for --sort <FIELD[:desc]>: unknown field: expected one of name, namespace, pid, id, cpu, memory, uptime, restarts, status"#,
    ),
    (
        "list --sort name:up",
        2,
        r#"error: invalid value "name:up" for --sort <FIELD[:desc]>: invalid order "up": expected asc or desc"#,
    ),
    ("list --json -m", 2, "error: --json cannot be combined with --mini-list"),
    ("stop", 2, "error: no app specified"),
    ("restart", 2, "error: no app specified"),
    ("delete", 2, "error: no app specified"),
    ("reload", 2, "error: no app specified"),
    ("describe", 2, "error: no app specified"),
    ("reset", 2, "error: no app specified"),
    ("scale api", 2, "error: missing <N>"),
    ("scale api x", 2, r#"error: invalid value "x" for <N>: expected N, +N or -N"#),
    ("scale api 1.5", 2, r#"error: invalid value "1.5" for <N>: expected N, +N or -N"#),
    ("scale", 2, "error: missing <NAME> <N>"),
    ("scale nope 2", 1, r#"error: no app, namespace or id matches "nope""#),
    ("stop nope", 1, r#"error: no app, namespace or id matches "nope""#),
    ("stop apii", 1, r#"error: no app, namespace or id matches "apii""#),
    ("stop 99", 1, r#"error: no app, namespace or id matches "99""#),
    ("stop 0,1", 1, r#"error: no app, namespace or id matches "0,1""#),
    ("restart api,web", 1, r#"error: no app, namespace or id matches "api,web""#),
    ("restart --all", 2, r#"error: unknown option "--all" of `rsm restart`"#),
    ("stop --all", 2, r#"error: unknown option "--all" of `rsm stop`"#),
    ("delete -a", 2, r#"error: unknown option "-a" of `rsm delete`"#),
    (r#"stop "/(/""#, 1, r#"error: invalid regular expression "/(/": unclosed group"#),
    ("stop //", 1, r#"error: empty regular expression "//""#),
    ("kill api", 2, r#"error: unexpected argument "api""#),
    ("kill all", 2, r#"error: unexpected argument "all""#),
    ("sendSignal api SIGUSR2", 2, r#"error: "api" is not a signal"#),
    ("sendSignal SIGUSR2", 2, "error: no app specified"),
    ("sendSignal SIGFOO api", 1, r#"error: unknown signal "SIGFOO""#),
    ("send-signal USR2 nope", 1, r#"error: no app, namespace or id matches "nope""#),
    ("signal SIGUSR2 api", 2, r#"error: unknown command "signal""#),
    (
        "start nope.js",
        1,
        "error: start: script not found: no file DIR/nope.js, and no program of this name in PATH",
    ),
    ("start ./nope", 1, "error: start: script not found: no file DIR/nope"),
    (
        "start nope",
        1,
        "error: start: script not found: no file DIR/nope, and no program of this name in PATH",
    ),
    ("start node app.js", 2, r#"error: "node" and "app.js" would be 2 apps"#),
    ("start npm start", 2, r#"error: "npm" and "start" would be 2 apps"#),
    ("start python3 -m http.server", 2, r#"error: unknown option "-m" of `rsm start`"#),
    ("start app.js -p", 2, "error: --pid <FILE> requires a value"),
    (
        "start app.js --instances x",
        1,
        r#"error: --instances: expected an integer or "max" (negative: that many fewer than cores), found "x""#,
    ),
    (
        "start app.js --max-memory-restart lots",
        1,
        r#"error: --max-memory-restart: expected a size such as "300M" or "1.5G", or a number of bytes, found "lots""#,
    ),
    (
        r#"start app.js --cron-restart "every day""#,
        1,
        r#"error: --cron-restart: expected a cron schedule of five fields (minute hour day month weekday, such as "0 4 * * *"), or six with leading seconds, found "every day""#,
    ),
    (
        "start app.js --kill-timeout soon",
        1,
        r#"error: --kill-timeout: expected a duration such as "10s", "1m30s" or "500ms", or a number of milliseconds, found "soon""#,
    ),
    ("start app.js --cwd /nope", 1, "error: --cwd: working directory /nope not found"),
    ("start app.js --uid nobody-here", 1, r#"error: --uid: user "nobody-here" not found"#),
    ("start app.js --interpreter nope", 1, r#"error: --interpreter: interpreter "nope" not found in PATH"#),
    ("start app.js --name all", 1, r#"error: --name: expected a name other than `all`, found "all""#),
    ("start app.js app2.js --name x", 2, "error: --name cannot be used with 2 apps"),
    ("start api.ecosystem.toml", 1, "error: api.ecosystem.toml: no such file"),
    ("start bad.toml", 1, "error: bad.toml:1:1: missing `script`"),
    ("start bad.json", 1, "error: bad.json:1:13: invalid JSON: Unexpected close brace"),
    ("start empty.toml", 1, "error: empty.toml:1:1: no apps found"),
    ("start ecosystem.toml --only nope", 1, r#"error: --only: app "nope" not found in the file"#),
    ("start data.txt", 1, "error: start: no interpreter known for DIR/data.txt"),
    (
        "start empty",
        1,
        "error: start: directory DIR/empty has neither a package.json with `main` nor an index.js",
    ),
    ("start 99", 1, r#"error: no app, namespace or id matches "99""#),
    ("restart ecosystem.toml --only nope", 1, r#"error: --only: app "nope" not found in the file"#),
    ("plan nope.toml", 1, "error: nope.toml: no such file"),
    ("apply nope.toml", 1, "error: nope.toml: no such file"),
    ("logs nope", 1, r#"error: no app, namespace or id matches "nope""#),
    ("logs api --lines x", 2, r#"error: invalid value "x" for --lines <N>: expected a number"#),
    ("logs api --lines", 2, "error: --lines <N> requires a value"),
    ("logs api -n -5", 2, r#"error: unknown option "-5" of `rsm logs`"#),
    (
        "logs api --since never",
        2,
        r#"error: invalid value "never" for --since <TIME>: expected a duration ("10m", "2h 30m", "3d"), a time ("14:05") or a date ("2026-11-21 14:05")"#,
    ),
    ("logs api --out --err", 2, "error: --out cannot be combined with --err"),
    (r#"logs api --grep "(" --nostream"#, 1, r#"error: invalid regular expression "(": unclosed group"#),
    ("flush nope", 1, r#"error: no app, namespace or id matches "nope""#),
    ("env api", 1, r#"error: "api" matches 2 instances"#),
    ("env nope", 1, r#"error: "nope" does not match any app or id"#),
    ("env", 2, "error: missing <ID>"),
    ("pid nope", 1, r#"error: "nope" does not match any app or id"#),
    ("id", 2, "error: missing <NAME>"),
    ("send api", 2, "error: missing <LINE>"),
    ("send api hello", 1, r#"error: "api" matches 2 instances"#),
    ("attach nope", 1, r#"error: "nope" does not match any app or id"#),
    ("trigger api", 2, "error: missing <ACTION>"),
    (
        "trigger api nope",
        1,
        r#"error: app "api" (id 0 and 1 more): no IPC channel: only Node.js apps have one, until they disconnect"#,
    ),
    ("conf nope", 2, r#"error: unknown setting "nope""#),
    ("conf logs.lines x", 2, r#"error: logs.lines: expected a number, not "x""#),
    ("conf autosave maybe", 2, r#"error: autosave: expected true or false, not "maybe""#),
    ("set logs.lines", 2, "error: missing <VALUE>"),
    ("set logs.budget lots", 2, r#"error: logs.budget: expected a size such as 500M or 10G, not "lots""#),
    ("get nope", 2, r#"error: unknown setting "nope""#),
    ("unset nope", 2, r#"error: unknown setting "nope""#),
    ("completion", 2, "error: missing <SHELL>"),
    ("completion tcsh", 2, r#"error: invalid value "tcsh" for <SHELL>: expected one of bash, zsh, fish"#),
    ("convert nope.json", 1, "error: nope.json: no such file"),
    ("convert", 2, "error: missing <FILE>"),
    ("init", 1, "error: ecosystem.toml: already exists"),
    ("man", 2, "error: missing <DIR>"),
    ("serve ./nope", 1, "error: DIR/nope: directory does not exist"),
    ("serve . notaport", 2, r#"error: invalid value "notaport" for [PORT]: expected a number"#),
    ("runtime", 2, "error: missing <FILE>..."),
    (
        "runtime nope.js",
        1,
        "error: start: script not found: no file DIR/nope.js, and no program of this name in PATH",
    ),
    ("runtime app.js app2.js", 2, r#"error: unexpected argument "app2.js""#),
    ("save now", 2, r#"error: unexpected argument "now""#),
    ("resurrect now", 2, r#"error: unexpected argument "now""#),
    (
        "startup nonsense",
        2,
        r#"error: invalid value "nonsense" for [SYSTEM]: expected one of systemd, openrc, sysv, runit"#,
    ),
    ("monit", 2, "error: monit requires a terminal"),
    (
        "upgrade --binary /nope",
        1,
        "error: cannot upgrade to /nope: cannot open it: No such file or directory",
    ),
    ("app.js", 2, r#"error: unknown command "app.js""#),
    ("ecosystem.toml", 2, r#"error: unknown command "ecosystem.toml""#),
    ("api restart", 2, r#"error: unknown command "api""#),
    ("help nope", 2, r#"error: unknown command "nope""#),
    ("help --help", 0, "Process manager for apps in any language, compatible with PM2"),
    ("-h stop", 0, "Process manager for apps in any language, compatible with PM2"),
    ("--frob", 2, r#"error: unknown option "--frob""#),
    ("deploy production", 2, r#"error: unknown command "deploy""#),
    ("install pm2-logrotate", 2, r#"error: unknown command "install""#),
    ("update", 0, "nothing to upgrade: the daemon runs rsm "),
    ("plus", 2, r#"error: unknown command "plus""#),
    ("-e PORT=1 start app.js", 2, r#"error: unknown option "-e" of `rsm start`"#),
    ("logs api --tail x", 2, r#"error: invalid value "x" for --lines <N>: expected a number"#),
    ("logs api -f --nostream", 2, "error: --follow cannot be combined with --nostream"),
    (
        "list --watch 0",
        2,
        r#"error: invalid value "0" for --watch [<SECONDS>]: expected a number of at least 1"#,
    ),
    (
        "reload api --verify nonsense",
        2,
        r#"error: invalid value "nonsense" for --verify <URL>: expected a URL such as http://127.0.0.1:3000/"#,
    ),
    ("reload api --parallel x", 2, r#"error: invalid value "x" for --parallel <N>: expected a number"#),
    (
        "start -- nope-program",
        1,
        "error: start: script not found: no file DIR/nope-program, and no program of this name in PATH",
    ),
    (
        "start app.js --exp-backoff-restart-delay x",
        1,
        r#"error: --exp-backoff-restart-delay: expected a duration such as "10s", "1m30s" or "500ms", or a number of milliseconds, found "x""#,
    ),
    (
        "start app.js --watch-delay x",
        1,
        r#"error: --watch-delay: expected a duration such as "10s", "1m30s" or "500ms", or a number of milliseconds, found "x""#,
    ),
    ("report now", 2, r#"error: unexpected argument "now""#),
    ("ping x", 2, r#"error: unexpected argument "x""#),
    ("list --sort mem", 0, "╭"),
    ("list --sort restarts:desc", 0, "╭"),
    ("ls -a", 0, "╭"),
    ("logs -t api --nostream", 0, ""),
    ("plan", 0, "+ start  filed  1 new instance"),
    (
        "plan ecosystem.toml --json --prune --only x",
        2,
        "error: --prune cannot be combined with --only <NAMES>",
    ),
];

fn some_apps() -> Rsm {
    let script = "setInterval(() => {}, 1000)";
    let rsm = Rsm::new().file("app.js", script).file("app2.js", script).file("data.txt", "hello\n");
    rsm.write("ecosystem.toml", "[[apps]]\nname = 'filed'\nscript = 'app.js'\n");
    rsm.write("bad.toml", "[[apps]]\nscrip = 'app.js'\n");
    rsm.write("bad.json", "{ \"apps\": [ }\n");
    rsm.write("empty.toml", "");
    rsm.write("empty/readme", "");
    rsm.ok(&["start", "sleep 1000", "--name", "api", "-i", "2"]);
    rsm.ok(&["start", "sleep 1000", "--name", "web"]);
    rsm.ok(&["start", "sleep 1000", "--name", "old"]);
    rsm.ok(&["stop", "old"]);
    rsm
}

#[test]
fn mistakes_are_answered_with_the_cause_and_the_way_out() {
    let rsm = some_apps();
    let before = rsm.list().len();
    let dir = rsm.dir().display().to_string();
    let mut wrong = Vec::new();
    for (line, code, first) in MISTAKES {
        let words = shlex::split(line).unwrap();
        let ran = rsm.run(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let answer = if ran.stderr.is_empty() { &ran.stdout } else { &ran.stderr };
        let answer = answer.replace(&dir, "DIR");
        let is_right = ran.code == Some(code) && answer.starts_with(first);
        if !is_right {
            wrong.push(format!("rsm {line}: {:?}, {answer}", ran.code));
        }
        let is_plain = !["os error", "digit found", "ParseIntError", "Usage:"]
            .iter()
            .any(|text| ran.stderr.contains(text));
        assert!(is_plain, "rsm {line}: {}", ran.stderr);
        let lines =
            ran.stderr.lines().filter(|line| line.starts_with("error: ") || line.starts_with("help: "));
        assert!(code == 0 || lines.count() > 0, "rsm {line}: {}", ran.stderr);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(rsm.list().len(), before, "a mistake changes nothing");
}
