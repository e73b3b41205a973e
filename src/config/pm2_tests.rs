//! Tests of PM2's formats: the same app from each of them, and what is hostile in each.

use std::path::Path;

use super::*;

/// Writes a file in a directory of its own, with a program `tool` in `PATH` and a script beside it.
fn load_file(name: &str, text: &[u8]) -> Result<Loaded, String> {
    let dir = tempfile::tempdir().unwrap();
    for file in ["server.js", "worker.js"] {
        std::fs::write(dir.path().join(file), "").unwrap();
    }
    let file = dir.path().join(name);
    std::fs::write(&file, text).unwrap();
    let path_var = std::env::var_os("PATH").unwrap();
    let options = LoadOptions { cores: 4, path_var, ..LoadOptions::default() };
    let clean = |text: String| text.replace(&dir.path().display().to_string(), "DIR");
    let loaded = load(&file, &options).map_err(|mistakes| clean(mistakes.to_string()))?;
    Ok(Loaded { warnings: loaded.warnings.into_iter().map(clean).collect(), ..loaded })
}

fn mistakes(name: &str, text: &str) -> String {
    load_file(name, text.as_bytes()).err().unwrap_or_default()
}

#[test]
fn the_same_app_in_every_format() {
    let json = r#"{ "apps": [{ "script": "server.js", "maxMemoryRestart": "300M", "instances": "2", "execMode": "fork_mode",
        "kill_timeout": 3000, "watch": null, "env": { "A": 1, "B": { "c": [true] } } }] }"#;
    let yaml = "apps:\n- script: server.js\n  max_memory_restart: 300M\n  instances: 2\n  exec_mode: fork\n  kill_timeout: 3000\n  env:\n    A: 1\n    B: { c: [true] }\n";
    let toml = "[[apps]]\nscript = 'server.js'\nmax_memory_restart = '300M'\ninstances = 2\nexec_mode = 'fork'\nkill_timeout = 3000\nenv = { A = 1, B = { c = [true] } }\n";
    let expected = load_file("e.toml", toml.as_bytes()).unwrap().apps.remove(0);
    let script = |head: &str| format!("{head} {json}");
    for (name, text) in [
        ("e.json", json.to_owned()),
        ("e.json5", format!("// the app\n{}", json.replace("\"apps\"", "apps"))),
        ("e.yaml", yaml.to_owned()),
        ("e.yml", yaml.replace("apps:", "pm2:")),
        ("package.json", format!("{{ \"name\": \"x\", \"scripts\": {{}}, {}", &json[1..])),
        ("e.config.js", script("module.exports =")),
        ("e.config.cjs", script("module.exports =")),
        ("e.config.mjs", script("export default")),
        ("bare.json", json[11..json.len() - 3].to_owned()),
    ] {
        let loaded = load_file(name, text.as_bytes()).unwrap_or_else(|told| panic!("{name}: {told}"));
        let mut app = loaded.apps.into_iter().next().unwrap();
        // Each file lies in a directory of its own.
        (app.source, app.origin, app.cwd, app.script) = Default::default();
        let mut expected = expected.clone();
        (expected.source, expected.origin, expected.cwd, expected.script) = Default::default();
        assert!(app == expected, "{name}: {app:?}");
        assert!(loaded.warnings.is_empty(), "{name}: {:?}", loaded.warnings);
    }
}

#[test]
fn unknown_keys_are_warnings_with_a_suggestion() {
    let text =
        "{ apps: [{ script: 'server.js', max_restart: 3, zzz: 1, vizion: false, cmd: 'x' }], other: 1 }";
    let warnings = load_file("e.json", text.as_bytes()).unwrap().warnings;
    let has =
        |part: &str| assert!(warnings.iter().any(|warning| warning.contains(part)), "{part}: {warnings:?}");
    has("DIR/e.json:1:33: unknown key `max_restart`, ignored; did you mean `max_restarts`?");
    has("unknown key `zzz`");
    has("`vizion` is ignored");
    has("`cmd` and `script` are the same key; using `script`");
    has("`other` is ignored");
}

#[test]
fn file_servers_become_apps() {
    let text = "{ apps: [], static: [{ path: '.', port: 8181, spa: true, basic_auth: { username: 'ada', password: 'hunter2' } },
        { name: 'site', directory: '.', monitor: 'x' }] }";
    let loaded = load_file("e.json", text.as_bytes()).unwrap();
    let names: Vec<&str> = loaded.apps.iter().map(|app| app.name.as_str()).collect();
    assert_eq!(names, ["static-page-server-8181", "site"]);
    assert!(loaded.apps.iter().all(|app| app.launcher == crate::spec::Launcher::Serve));
    let first = &loaded.apps[0];
    assert!(
        first.args.contains(&"8181".to_owned()) && first.args.contains(&"--spa".to_owned()),
        "{:?}",
        first.args
    );
    assert_eq!(first.env["PM2_SERVE_BASIC_AUTH_PASSWORD"], "hunter2");
    assert!(loaded.warnings.iter().any(|warning| warning.contains("`monitor`")), "{:?}", loaded.warnings);
    assert!(mistakes("e.json", "{ static: [{ path: './gone' }] }").contains("/gone not found"));
    assert!(mistakes("e.json", "{ static: 5 }").contains("expected a table"));
}

#[test]
fn no_file_can_write_to_the_terminal() {
    let escape = '\u{1b}';
    let told = mistakes(
        "e.json",
        r#"{ "apps": [{ "script": "server.js", "a\u001b[2J": 1, "port": "\u001b[2J" }] }"#,
    );
    assert!(told.contains("invalid value for `port`") && !told.contains(escape), "{told}");
    let told = mistakes("e.config.js", r"throw new Error('\x1b[2J')");
    assert!(told.contains("Error: ") && !told.contains(escape), "{told}");
}

#[test]
fn mistakes_have_a_place_or_a_path() {
    let told = mistakes("e.json", "{\n \"apps\": [{ \"script\": \"server.js\", \"instances\": \"many\" }] }");
    assert!(told.contains("DIR/e.json:2:49: invalid value for `instances`"), "{told}");
    let told = mistakes("e.yaml", "apps:\n - script: server.js\n   autorestart: no\n");
    assert!(
        told.contains(
            "DIR/e.yaml:3:17: invalid value for `autorestart`: expected true or false, found \"no\""
        ),
        "{told}"
    );
    let told = mistakes(
        "e.config.js",
        "module.exports = { apps: [{ script: 'server.js' }, { script: 'worker.js', instances: [] }] }",
    );
    assert!(told.contains("DIR/e.config.js: apps[1].instances: invalid value for `instances`"), "{told}");
    let told = mistakes("e.config.js", "module.exports = {\n apps: [\n}");
    assert!(told.contains("DIR/e.config.js:3:1: SyntaxError"), "{told}");
}

#[test]
fn values_of_variables_are_never_told() {
    for (name, text) in [
        ("e.json", "{ \"apps\": [{ \"script\": \"a\", \"env\": { \"T\": \"hunter2\" } \"x\": 1 }] }"),
        (
            "e.json",
            "{ \"apps\": [{ \"script\": \"server.js\", \"env\": \"T=hunter2\", \"instances\": [] }] }",
        ),
        ("e.yaml", "apps:\n - { script: server.js, env: { T: hunter2 }, instances: [] }\n"),
        ("e.yaml", "apps:\n - script: a\n   env: { T: 'hunter2\n"),
        ("e.config.js", "module.exports = { apps: [{ script: 'server.js', env: 'T=hunter2' }] }"),
        ("e.config.js", "module.exports = { apps: [{ script: 'a', env: { T: 'hunter2' } x: 1 }] }"),
    ] {
        let told = mistakes(name, text);
        assert!(!told.is_empty() && !told.contains("hunter2"), "{name}: {told}");
    }
}

#[test]
fn hostile_files_are_refused_at_once() {
    let deep = "[".repeat(400_000);
    let wrong = |value: &str| format!("{{ \"apps\": {value} }}");
    for (name, text) in [
        ("e.json", vec![b' '; 2 << 20]),
        ("e.config.js", vec![b' '; 2 << 20]),
        ("e.yaml", vec![b'a'; 2 << 20]),
        ("e.json", deep.clone().into_bytes()),
        ("e.yaml", deep.into_bytes()),
        ("e.yaml", b"\xff\xfe\0".to_vec()),
        ("e.config.js", b"\x7fELF\0\0".to_vec()),
        ("e.json", wrong("5").into_bytes()),
        ("e.json", wrong("[[]]").into_bytes()),
        ("e.json", wrong("[null, true]").into_bytes()),
        ("e.json", wrong("{ \"__proto__\": {} }").into_bytes()),
        ("e.json", b"null".to_vec()),
        ("e.yaml", b"just words".to_vec()),
        ("e.config.js", b"module.exports = () => ({ apps: [] })".to_vec()),
        ("e.config.js", b"process.exit(0)".to_vec()),
        ("e.config.js", b"throw null".to_vec()),
        ("e.config.js", b"module.exports = { get apps() { throw new Error('trap') } }".to_vec()),
        ("package.json", b"{ \"name\": \"x\" }".to_vec()),
    ] {
        let refused = load_file(name, &text);
        assert!(refused.is_err(), "{name}: {:?}", String::from_utf8_lossy(&text[..text.len().min(60)]));
    }
}

#[test]
fn a_file_that_prints_is_read_and_its_words_are_passed_on() {
    let text = "console.log('{\"apps\":'); process.stdout.write('x'.repeat(1e6)); module.exports = { apps: [{ script: 'server.js' }] }";
    let loaded = load_file("e.config.js", text.as_bytes()).unwrap();
    assert_eq!(loaded.apps.len(), 1);
    assert!(
        loaded.warnings.iter().any(|warning| warning.contains("during evaluation")),
        "{:?}",
        loaded.warnings.len()
    );
}

#[test]
fn a_file_is_named_by_its_ending() {
    assert!(is_config_file("ecosystem.toml") && is_config_file("ecosystem.config.js"));
    assert!(is_config_file("a/b.json") && !is_config_file("server.js") && !is_config_file("toml"));
    let told = load(Path::new("ecosystem.config.js"), &LoadOptions::default()).unwrap_err().to_string();
    assert!(told.contains("ecosystem.config.js: no such file"), "{told}");
}
