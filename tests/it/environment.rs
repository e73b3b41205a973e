//! The environment of apps: what they are given, what they inherit, what differs among
//! instances; and that its values are shown only to who asks for them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};

use crate::harness::{Rsm, environ, read, wait_until};

fn env_of(rsm: &Rsm, name: &str) -> Vec<BTreeMap<String, String>> {
    rsm.pids(name).into_iter().map(environ).collect()
}

#[test]
fn configured_variables_override_inherited() {
    let file = r#"
[[apps]]
name = "api"
script = "sleep 1000"
[apps.env]
TEXT = "a b = c"
NUMBER = 5
SWITCH = true
LIST = [1, "two"]
BOTH = "file"
EMPTY = ""
[apps.env_production]
TEXT = "production"
"#;
    let rsm = Rsm::new().file("ecosystem.toml", file).var("BOTH", "shell").var("SHELL_ONLY", "kept");
    rsm.ok(&["start"]);
    let env = &env_of(&rsm, "api")[0];
    let given = ["TEXT", "NUMBER", "SWITCH", "LIST", "BOTH", "EMPTY", "SHELL_ONLY"].map(|name| &*env[name]);
    assert_eq!(given, ["a b = c", "5", "true", r#"[1,"two"]"#, "file", "", "kept"]);
    assert_eq!((&*env["name"], &*env["pm_id"], &*env["NODE_APP_INSTANCE"]), ("api", "0", "0"));
    rsm.ok(&["restart", "ecosystem.toml", "--env", "production"]);
    let env = &env_of(&rsm, "api")[0];
    assert_eq!((&*env["TEXT"], &*env["NUMBER"]), ("production", "5"));
}

#[test]
fn filter_env_removes_inherited_variables() {
    let app = |name: &str, filter: &str| {
        format!(
            "[[apps]]\nname = \"{name}\"\nscript = \"/bin/sleep\"\nargs = \"1000\"\nenv = {{ GIVEN = \"yes\" }}\n{filter}\n"
        )
    };
    let file = [
        app("none", ""),
        app("list", "filter_env = [\"SECRET_\", \"TOKEN\"]"),
        app("one", "filter_env = \"SECRET_KEY\""),
        app("all", "filter_env = true").replace("\"all\"", "\"everything\""),
    ];
    let rsm = Rsm::new().file("ecosystem.toml", &file.concat());
    let rsm = rsm.var("SECRET_KEY", "1").var("MY_TOKEN", "2").var("PLAIN", "3");
    rsm.ok(&["start"]);
    let has = |name: &str| {
        let env = &env_of(&rsm, name)[0];
        ["SECRET_KEY", "MY_TOKEN", "PLAIN", "GIVEN"].map(|name| env.contains_key(name))
    };
    assert_eq!(has("none"), [true, true, true, true]);
    assert_eq!(has("list"), [false, false, true, true]);
    assert_eq!(has("one"), [false, true, true, true]);
    assert_eq!(has("everything"), [false, false, false, true]);
    rsm.ok(&["start", "/bin/sleep", "--name", "flag", "--filter-env", "SECRET", "--", "1000"]);
    assert_eq!(has("flag"), [false, true, true, false]);
}

#[test]
fn instances_get_number_and_incremented_variable() {
    let file = r#"
[[apps]]
name = "web"
script = "sleep 1000"
instances = 3
increment_var = "PORT"
instance_var = "NUMBER"
env = { PORT = 5000 }

[[apps]]
name = "port"
script = "sleep 1000"
port = 6000
env = { PORT = 1 }
env_production = { PORT = 7000 }
"#;
    let rsm = Rsm::new().file("ecosystem.toml", file);
    rsm.ok(&["start"]);
    let seen = |rsm: &Rsm| -> Vec<String> {
        let mut seen: Vec<String> =
            env_of(rsm, "web").iter().map(|env| format!("{} {}", env["NUMBER"], env["PORT"])).collect();
        seen.sort();
        seen
    };
    assert_eq!(seen(&rsm), ["0 5000", "1 5001", "2 5002"]);
    assert!(!env_of(&rsm, "web")[0].contains_key("NODE_APP_INSTANCE"));
    // One in the middle is replaced by one that is as it was; more go on where those end.
    rsm.ok(&["delete", "1"]);
    rsm.ok(&["scale", "web", "4"]);
    assert_eq!(seen(&rsm), ["0 5000", "1 5001", "2 5002", "3 5003"]);
    rsm.ok(&["restart", "web"]);
    assert_eq!(seen(&rsm), ["0 5000", "1 5001", "2 5002", "3 5003"]);
    assert_eq!(env_of(&rsm, "port")[0]["PORT"], "6000", "port wins over env");
    rsm.ok(&["start", "ecosystem.toml", "--only", "port", "--env", "production"]);
    assert_eq!(env_of(&rsm, "port")[0]["PORT"], "7000", "env_production wins over both");
}

#[test]
fn nested_start_drops_variables_of_instance() {
    let rsm = Rsm::new();
    let binary = env!("CARGO_BIN_EXE_rsm");
    let outer =
        format!("#!/bin/sh\n'{binary}' start 'sleep 1000' --name inner -s && : > done\nexec sleep 1000\n");
    rsm.write("outer.sh", &outer);
    rsm.ok(&["start", "sleep 1000", "--name", "first"]);
    rsm.ok(&["start", "./outer.sh", "--namespace", "outside"]);
    wait_until("the inner app", || rsm.dir().join("done").exists().then_some(()));
    let (outer, inner) = (&env_of(&rsm, "outer")[0], &env_of(&rsm, "inner")[0]);
    assert_eq!((&*inner["name"], &*inner["namespace"], &*inner["pm_id"]), ("inner", "default", "2"));
    assert_ne!(inner["RSM_RUN"], outer["RSM_RUN"]);
    rsm.ok(&["delete", "inner", "first"]); // the mark of its own run keeps the trees apart
    assert_eq!(rsm.statuses("outer"), ["online"]);
}

/// In the file, in the block laid over it, in the shell, in a variable of no use to rsm.
const SECRETS: [&str; 3] = ["planted-in-file-8c1f", "planted-in-block-77d0", "planted-in-shell-19ab"];

const SECRETIVE: &str = r#"
[[apps]]
name = "api"
script = "sleep 1000"
[apps.env]
TOKEN = "planted-in-file-8c1f"
[apps.env_production]
KEY = "planted-in-block-77d0"

[[apps]]
name = "crash"
script = "exit 3"
max_restarts = 2
[apps.env]
TOKEN = "planted-in-file-8c1f"

[[apps]]
name = "unstartable"
script = "./not-there-later.sh"
interpreter = "none"
[apps.env]
TOKEN = "planted-in-file-8c1f"
"#;

fn silent(what: &str, text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{what} tells {secret}: {text}");
    }
}

#[test]
fn values_are_hidden_by_default() {
    let rsm = Rsm::new().file("ecosystem.toml", SECRETIVE).var("SHELL_KEY", SECRETS[2]);
    let script = rsm.write("not-there-later.sh", "#!/bin/sh\nexec sleep 1000\n");
    let ran = |args: &[&str]| {
        let ran = rsm.run(args);
        silent(&args.join(" "), &ran.stdout);
        silent(&args.join(" "), &ran.stderr);
        ran
    };
    ran(&["start", "ecosystem.toml", "--env", "production"]);
    let mut events = BufReader::new(rsm.socket());
    events.get_mut().write_all(b"GET /v1/events HTTP/1.1\r\nHost: rsm\r\n\r\n").unwrap();
    rsm.wait_status("crash", "errored");
    std::fs::remove_file(script).unwrap();
    ran(&["restart", "all", "--update-env"]);
    ran(&["restart", "api", "-a", "--max-restarts", "5"]).code(0);
    ran(&["scale", "api", "2"]).code(0);
    for args in [
        &["list"][..],
        &["list", "--json"],
        &["list", "-m"],
        &["describe", "all"],
        &["describe", "all", "--json"],
        &["info"],
        &["info", "--json"],
        &["info", "all"],
        &["logs", "--nostream"],
        &["pid"],
        &["id", "api"],
        &["save"],
        &["ping"],
        &["flush"],
        &["reloadLogs"],
        &["sendSignal", "SIGCONT", "api"],
    ] {
        ran(args).code(0);
    }
    ran(&["restart", "ecosystem.toml", "--env", "production"]);
    ran(&["stop", "all"]).code(0);
    let mut heard = String::new();
    while !heard.contains("\"stopped\"") {
        assert!(events.read_line(&mut heard).unwrap() > 0, "{heard}");
    }
    silent("the event stream", &heard);
    silent("rsm.log", &read(rsm.home().join("rsm.log")));
    assert!(read(rsm.home().join("rsm.log")).contains("crash"), "it logs at all");

    // And those who ask do get them.
    assert_eq!(rsm.json(&["env", "0", "--json"])["TOKEN"], SECRETS[0]);
    rsm.ok(&["env", "0"]).shows(SECRETS[0]).shows(SECRETS[1]);
    rsm.ok(&["jlist"]).shows(SECRETS[0]);
}

#[test]
fn config_errors_do_not_quote_secrets() {
    let rsm = Rsm::new().var("SHELL_KEY", SECRETS[2]);
    let wrong = [
        "[[apps]]\nname = \"a\"\nscript = \"sleep 1\"\nenv = { TOKEN = \"SECRET\", = 3 }\n",
        "[[apps]]\nname = \"a\"\nscript = \"sleep 1\"\n[apps.env]\nTOKEN = \"SECRET\n",
        "[[apps]]\nname = \"a\"\nscript = \"sleep 1\"\n[apps.env]\n\"TO=KEN\" = \"SECRET\"\n",
        "[[apps]]\nname = \"a\"\nscript = \"sleep 1\"\nenv = \"TOKEN=SECRET\"\n",
        "[[apps]]\nname = \"a\"\nscript = \"sleep 1\"\nenvironment = { TOKEN = \"SECRET\" }\n",
        "[[apps]]\nname = \"a\"\nscript = \"sleep 1\"\nTOKEN = \"SECRET\"\n",
        "[[apps]]\nname = \"a\"\nscript = \"sleep 1\"\nport = \"x\"\nenv = { TOKEN = \"SECRET\" }\n",
    ];
    for text in wrong {
        rsm.write("ecosystem.toml", &text.replace("SECRET", SECRETS[0]));
        silent(text, &rsm.run(&["start"]).code(1).says("ecosystem.toml").stderr);
    }
}

#[test]
fn rejected_requests_do_not_quote_secrets() {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "api"]);
    let body = format!(
        r#"{{"apps":[{{"name":"x","script":"s","cwd":"/","env":{{"TOKEN":"{}","OTHER":[1]}}}}],"inherited":{{"K":"{}"}}}}"#,
        SECRETS[0], SECRETS[2]
    );
    let head = format!(
        "POST /v1/apps HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let answer = rsm.http(format!("{head}{body}").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    silent("a refusal", &answer);
    silent("rsm.log", &read(rsm.home().join("rsm.log")));
}
