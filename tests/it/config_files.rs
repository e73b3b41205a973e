//! Every file in `configs/valid` loads, every one in `configs/invalid` is refused in the words
//! beside it. A new case is a new file; `RSM_ACCEPT=1` writes the words as they are now.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rsm::config::{LoadOptions, load, schema};
use rsm::spec::{ExecMode, Launcher};

/// A directory with the files that the configurations name, and programs in `bin`.
struct Ground(tempfile::TempDir);

impl Ground {
    fn new() -> Self {
        let ground = Self(tempfile::tempdir().unwrap());
        for program in ["node", "python3", "bash", "sh", "tool"] {
            ground.program(&format!("bin/{program}"), "\x7fELF\0");
        }
        for file in ["server.js", "worker.py", "job.sh", "notes", "lib/a.js", "public/index.html"] {
            ground.file(file, "text\n");
        }
        ground.program("run-me", "#!/usr/bin/env sh\n");
        ground.program("node_modules/tsx/dist/cli.mjs", "#!/usr/bin/env node\n");
        fs::create_dir_all(ground.path("node_modules/.bin")).unwrap();
        symlink("../tsx/dist/cli.mjs", ground.path("node_modules/.bin/tsx")).unwrap();
        ground
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn program(&self, name: &str, text: &str) {
        self.file(name, text);
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn options(&self) -> LoadOptions {
        LoadOptions { cores: 4, path_var: self.path("bin").into(), ..LoadOptions::default() }
    }

    /// Loads a copy of the file here; the text has `DIR` for this directory.
    fn load(&self, file: &Path) -> Result<String, String> {
        let copy = self.path("ecosystem.toml");
        fs::copy(file, &copy).unwrap();
        let here = self.0.path().to_str().unwrap();
        match load(&copy, &self.options()) {
            Ok(loaded) => Ok(loaded.warnings.join("\n").replace(here, "DIR")),
            Err(mistakes) => Err(mistakes.to_string().replace(here, "DIR")),
        }
    }
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(repository().join("tests/configs").join(folder)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    assert!(files.len() > 3, "{files:?}");
    files
}

/// Compares with the words in the `.txt` beside the file; no such file: no words.
fn compare(file: &Path, words: &str) {
    let beside = file.with_extension("txt");
    if std::env::var_os("RSM_ACCEPT").is_some() && !words.is_empty() {
        fs::write(&beside, words).unwrap();
    }
    let expected = fs::read_to_string(&beside).unwrap_or_default();
    assert_eq!(words, expected, "{}", file.display());
}

#[test]
fn valid_files_load() {
    let ground = Ground::new();
    for file in files("valid") {
        match ground.load(&file) {
            Ok(warnings) => compare(&file, &warnings),
            Err(mistakes) => panic!("{}:\n{mistakes}", file.display()),
        }
    }
}

#[test]
fn invalid_files_report_expected_errors() {
    let ground = Ground::new();
    for file in files("invalid") {
        match ground.load(&file) {
            Ok(_) => panic!("{} loads", file.display()),
            Err(mistakes) => {
                assert!(!mistakes.contains("hunter2"), "a secret is shown:\n{mistakes}");
                compare(&file, &mistakes);
            }
        }
    }
}

#[test]
fn shipped_example_loads_with_only_shell() {
    let bin = tempfile::tempdir().unwrap();
    let shell = bin.path().join("sh");
    fs::write(&shell, "\x7fELF\0").unwrap();
    fs::set_permissions(&shell, fs::Permissions::from_mode(0o755)).unwrap();
    let options = LoadOptions { cores: 2, path_var: OsString::from(bin.path()), ..LoadOptions::default() };
    let loaded = load(&repository().join("ecosystem.example.toml"), &options);
    let loaded = loaded.unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let names: Vec<&str> = loaded.apps.iter().map(|app| app.name.as_str()).collect();
    assert_eq!(names, ["site", "worker", "heartbeat"]);
    let site = &loaded.apps[0];
    assert_eq!((site.exec_mode, site.instances, &site.launcher), (ExecMode::Cluster, 2, &Launcher::Serve));
    assert!(Path::new(&site.args[0]).join("index.html").is_file(), "{:?}", site.args);
    assert_eq!(site.args[1], "8080");
    assert_eq!(loaded.apps[2].cron_restart.as_deref(), Some("* * * * *"));
}

#[test]
fn docs_explain_every_key() {
    let page = fs::read_to_string(repository().join("docs/ecosystem.md")).unwrap();
    let schema = schema();
    for key in schema["definitions"]["app"]["properties"].as_object().unwrap().keys() {
        let about = &schema["definitions"]["app"]["properties"][key]["description"];
        let plain = !about.as_str().unwrap().starts_with("Same as");
        let camel = key.chars().any(|c| c.is_ascii_uppercase());
        assert!(!plain || camel || page.contains(&format!("`{key}`")), "{key} is not on the page");
    }
}

#[test]
fn number_of_reported_errors_is_limited() {
    let ground = Ground::new();
    let file = ground.path("many.toml");
    let keys: String = (0..60_000).map(|number| format!("k{number} = 1\n")).collect();
    fs::write(&file, format!("[[apps]]\nscript = 'server.js'\n{keys}")).unwrap();
    assert_eq!(load(&file, &ground.options()).unwrap_err().0.len(), 100);
}

/// Parts of files, right and wrong, to be shuffled.
fn part() -> impl Strategy<Value = String> {
    let keys =
        schema()["definitions"]["app"]["properties"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let value = prop_oneof![
        "[ -~]{0,20}".prop_map(|text| format!("{text:?}")),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| format!("{number:?}")),
        "[0-9.]{0,4}[a-zµ ]{0,3}".prop_map(|text| format!("'{text}'")),
        Just("true".to_owned()),
        Just("['a', 1, [], {}]".to_owned()),
        Just("{ a = 'b', '' = 1 }".to_owned()),
        "\\PC{0,10}",
    ];
    prop_oneof![
        (proptest::sample::select(keys), value).prop_map(|(key, value)| format!("{key} = {value}\n")),
        Just("[[apps]]\n".to_owned()),
        Just("[apps.env]\n".to_owned()),
        Just("script = 'server.js'\n".to_owned()),
    ]
}

proptest! {
    #[test]
    fn loading_never_panics(parts in proptest::collection::vec(part(), 0..12), whole in "\\PC{0,80}") {
        let ground = tempfile::tempdir().unwrap();
        let file = ground.path().join("ecosystem.toml");
        for text in [parts.concat(), whole] {
            fs::write(&file, text).unwrap();
            let outcome = load(&file, &LoadOptions { cores: 2, path_var: "/bin".into(), ..LoadOptions::default() });
            if let Err(mistakes) = outcome {
                prop_assert!(!mistakes.0.is_empty());
                prop_assert!(mistakes.to_string().contains("ecosystem.toml"));
            }
        }
    }
}
