//! PM2's files, started by the real binary.

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::SLEEPER;
use crate::harness::{Ran, Rsm, environ};

/// Runs a command with a text on its standard input.
fn with_input(rsm: &Rsm, args: &[&str], text: &[u8]) -> Ran {
    let mut command = rsm.command(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that has seen enough closes its end.
    let _ = child.stdin.take().unwrap().write_all(text);
    Ran::new(args, &child.wait_with_output().unwrap())
}

#[test]
fn config_js_with_env_and_node_args_starts() {
    let file = "module.exports = { apps: [{ name: 'aivider-server', script: 'dist/index.js', instances: 4, exec_mode: 'cluster',
        max_memory_restart: '1500M', node_args: '--max-old-space-size=1400', env: { NODE_ENV: 'development' },
        env_production: { NODE_ENV: 'production' } }, { name: 'other', script: 'dist/index.js' }] }";
    let rsm = Rsm::new().file("ecosystem.config.js", file);
    rsm.write("dist/index.js", "setInterval(() => {}, 1000)");
    rsm.ok(&["start", "ecosystem.config.js", "--only", "aivider-server"]);
    let pids = rsm.pids("aivider-server");
    assert_eq!((pids.len(), rsm.list().len()), (4, 4));
    assert_eq!(environ(pids[0])["NODE_ENV"], "development");
    rsm.ok(&["start", "ecosystem.config.js", "--env", "production", "--only", " aivider-server, other "]);
    assert_eq!(environ(rsm.pids("aivider-server")[3])["NODE_ENV"], "production");
    rsm.ok(&["stop", "ecosystem.config.js", "--only", "aivider-server other"]);
    assert!(rsm.list().iter().all(|view| view["status"] == "stopped"));
    rsm.run(&["stop", "ecosystem.config.js", "--only", "nobody"]).code(1).says("app \"nobody\" not found");
}

#[test]
fn every_format_selects_its_apps() {
    let json = "{ \"apps\": [{ \"name\": \"api\", \"script\": \"./app.sh\" }] }";
    for (name, text) in [
        ("e.json", json.to_owned()),
        ("e.json5", format!("// the apps\n{json}")),
        ("process.yml", "apps:\n  - name: api\n    script: ./app.sh\n".into()),
        ("package.json", format!("{{ \"version\": \"1.2.3\", {}", &json[1..])),
        ("e.config.mjs", format!("console.log('starting');\nexport default {json}")),
    ] {
        let rsm = Rsm::new().file("app.sh", SLEEPER).file(name, &text);
        rsm.ok(&["start", name]);
        assert_eq!(rsm.pids("api").len(), 1, "{name}");
        rsm.ok(&["stop", name]);
        rsm.ok(&["restart", name]);
        rsm.ok(&["delete", name]);
        assert!(rsm.list().is_empty(), "{name}");
    }
}

#[test]
fn standard_input_is_accepted_as_file() {
    let rsm = Rsm::new().file("app.sh", SLEEPER);
    let many: Vec<String> = (0..300)
        .map(|n| format!("{{ \"name\": \"a{n}\", \"script\": \"./app.sh\", \"autostart\": false }}"))
        .collect();
    with_input(&rsm, &["start", "-"], format!("{{ \"apps\": [{}] }}", many.join(",")).as_bytes()).code(0);
    assert_eq!(rsm.list().len(), 300, "PM2 reads but the beginning");
    with_input(&rsm, &["delete", "-"], format!("{{ \"apps\": [{}] }}", many.join(",")).as_bytes()).code(0);
    with_input(&rsm, &["start", "-"], b"apps:\n- script: ./app.sh\n").code(0);
    assert_eq!(rsm.pids("app").len(), 1);
    with_input(&rsm, &["start", "-"], b"{ \"apps\": [{ \"script\": 5 }] }")
        .code(1)
        .says("standard input:1:24: invalid value for `script`");
}

#[test]
fn default_file_is_found_in_every_format() {
    let rsm = Rsm::new()
        .file("app.sh", SLEEPER)
        .file("ecosystem.config.cjs", "exports.apps = { script: './app.sh' }");
    rsm.ok(&["start"]);
    assert_eq!(rsm.pids("app").len(), 1);
}

#[test]
fn malicious_files_start_nothing() {
    let good = "{ name: 'good', script: './app.sh' }";
    let rsm = Rsm::new().file("app.sh", SLEEPER);
    for (name, bad) in [
        ("e.config.js", format!("module.exports = {{ apps: [{good}, {{ name: 'bad', script: 5 }}] }}")),
        ("e.json5", format!("{{ apps: [{good}, {{ script: './app.sh', autorestart: 'no' }}] }}")),
        ("e.config.cjs", format!("module.exports = {{ apps: [{good}] }}; while (true);")),
        (
            "e.config.mjs",
            format!(
                "export const apps = [{good}]; await new Promise(() => setInterval(() => console.log('x'.repeat(9999))))"
            ),
        ),
    ] {
        rsm.write(name, &bad);
        let begun = Instant::now();
        let ran = rsm.run(&["start", name]).code(1).says(name);
        // Far beyond its own limit, and far below for ever.
        assert!(begun.elapsed() < Duration::from_secs(30), "{name}");
        assert!(ran.stderr.len() < 6000, "{name}: {}", ran.stderr);
    }
    assert!(!rsm.home().exists(), "not even a daemon");
}

#[test]
fn rejects_huge_file_early() {
    let rsm = Rsm::new();
    for name in ["e.json", "e.yaml", "e.config.js", "e.toml"] {
        let file = std::fs::File::create(rsm.dir().join(name)).unwrap();
        file.set_len(100 << 20).unwrap();
        rsm.run(&["start", name]).code(1).says("larger than 1 MiB");
    }
}

#[test]
fn converted_file_starts_same_apps() {
    let rsm = Rsm::new().file("app.sh", SLEEPER);
    rsm.write(
        "e.config.js",
        "module.exports = { apps: [{ script: './app.sh', instances: 2, env: { A: 'x y' }, vizion: false }] }",
    );
    rsm.ok(&["convert", "e.config.js", "-o", "ecosystem.toml"]).says("`vizion` is ignored");
    rsm.run(&["convert", "e.config.js", "-o", "ecosystem.toml"]).code(1).says("already exists");
    let text = rsm.ok(&["convert", "e.config.js"]).shows("[[apps]]").stdout;
    assert_eq!(std::fs::read_to_string(rsm.dir().join("ecosystem.toml")).unwrap(), text);
    rsm.ok(&["start"]);
    let pids = rsm.pids("app");
    assert_eq!((pids.len(), &*environ(pids[1])["A"]), (2, "x y"));
}

#[test]
fn init_file_starts_and_is_not_overwritten() {
    let rsm = Rsm::new();
    rsm.ok(&["init"]).says("created ecosystem.toml");
    rsm.ok(&["start"]);
    assert_eq!(rsm.pids("clock").len(), 1);
    rsm.write("ecosystem.toml", "mine");
    rsm.run(&["ecosystem"]).code(1).says("already exists");
    assert_eq!(std::fs::read_to_string(rsm.dir().join("ecosystem.toml")).unwrap(), "mine");
}
