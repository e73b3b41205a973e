//! Evaluation of ecosystem files in JavaScript by the node of the user.
//!
//! Time, memory and processor time are limited, and processes that the file starts are killed. The response has its
//! own pipe, so that the output of the file cannot corrupt it.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, PipeReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Deserialize;

use crate::config::parse::format::MAX_FILE_SIZE;
use crate::config::resolve::search_path::SearchPath;

const EVALUATE_JS: &str = include_str!("evaluate.js");

/// Maximum duration of the evaluation. Starting node takes 50 ms on an idle machine.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Limits of memory (kilobytes) and processor time (seconds). They also apply after Ctrl-C has terminated this command.
const ULIMIT_WRAPPER: &str = "ulimit -d 524288 2>/dev/null; ulimit -t 10 2>/dev/null; exec \"$@\"";

/// Maximum size of the response: a JSON string with JSON, whose quotes take two bytes. Bytes.
const MAX_RESPONSE: u64 = 2 * MAX_FILE_SIZE;

/// Maximum size of the output that is shown. Bytes.
const MAX_PRINTED: usize = 4096;

/// The exports of a file.
#[derive(Debug, Deserialize)]
pub(crate) struct EvalOutput {
    /// As JSON.
    pub(crate) json: String,
    /// Values that JSON cannot represent.
    pub(crate) skipped: Vec<SkippedValue>,
    /// The output of the file.
    #[serde(skip)]
    pub(crate) printed: String,
}

/// A skipped value.
#[derive(Debug, Deserialize)]
pub(crate) struct SkippedValue {
    /// The path of the value: `apps[0].env.X`.
    pub(crate) path: String,
    pub(crate) reason: String,
}

/// A failed evaluation.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
pub(crate) struct EvalError {
    pub(crate) message: String,
    /// The line in the file, from 1.
    #[serde(default)]
    pub(crate) line: Option<usize>,
    /// The column, from 1.
    #[serde(default)]
    pub(crate) column: Option<usize>,
    /// How to solve it; may be empty.
    #[serde(skip)]
    pub(crate) help: &'static str,
}

/// The response of node.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum EvalResponse {
    Value(EvalOutput),
    Failure(EvalError),
}

/// Evaluates a file (absolute path) with the node found in `search`. The file sees `command_line` as `process.argv`.
pub(crate) fn evaluate(
    file: &Path,
    search: &SearchPath,
    command_line: &[OsString],
) -> Result<EvalOutput, EvalError> {
    let Some(node) = search.find("node") else {
        return fail("requires node, which is not in PATH", "install Node.js, or add it to PATH");
    };
    let run_error =
        |error: io::Error| EvalError { message: format!("cannot run node: {error}"), ..EvalError::default() };
    let (response, response_writer) = io::pipe().map_err(run_error)?;
    let (output, out) = io::pipe().map_err(run_error)?;
    let err = out.try_clone().map_err(run_error)?;
    // The response is written to standard input, which no program writes to by accident.
    let mut node = sandboxed_command(&node);
    node.arg("-e").arg(EVALUATE_JS).arg(file).args(command_line).process_group(0);
    let mut child = node.stdin(response_writer).stdout(out).stderr(err).spawn().map_err(run_error)?;
    drop(node);
    let printed = collect_output(output);
    let response = read_response(response);
    // Timers, connections or child processes of the file may still be active.
    let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
    parse_response(response, &mut child, &printed_text(&printed))
}

/// A command with limits; without them in a container that has no shell.
fn sandboxed_command(program: &Path) -> Command {
    let shell = Path::new("/bin/sh");
    if !shell.exists() {
        return Command::new(program);
    }
    let mut command = Command::new(shell);
    command.arg("-c").arg(ULIMIT_WRAPPER).arg("sh").arg(program);
    command
}

fn parse_response(
    response: Option<Vec<u8>>,
    child: &mut Child,
    printed: &str,
) -> Result<EvalOutput, EvalError> {
    let status = child.wait().ok();
    let Some(bytes) = response else {
        let seconds = TIMEOUT.as_secs();
        let message = format!("timed out after {seconds} s{}", printed_note(printed));
        return fail(message, "an ecosystem file must only export its apps: remove code that loops or waits");
    };
    if bytes.len() as u64 >= MAX_RESPONSE {
        return fail("exports more than 1 MiB", "split it into several files");
    }
    match serde_json::from_slice(&bytes) {
        Ok(EvalResponse::Value(output)) => Ok(EvalOutput { printed: printed.to_owned(), ..output }),
        Ok(EvalResponse::Failure(error)) => Err(error),
        Err(_) => {
            let status = status.map_or_else(String::new, |status| format!(" ({status})"));
            fail(
                format!("exited before it exported its apps{status}{}", printed_note(printed)),
                "run it with `node` for details",
            )
        }
    }
}

fn fail<T>(message: impl Into<String>, help: &'static str) -> Result<T, EvalError> {
    Err(EvalError { message: message.into(), help, ..EvalError::default() })
}

fn printed_note(printed: &str) -> String {
    if printed.is_empty() { String::new() } else { format!("; output:\n{printed}") }
}

/// Reads one line; `None` after the timeout. Does not read to the end: a process that the file started may keep the
/// pipe open.
fn read_response(pipe: PipeReader) -> Option<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = BufReader::new(pipe.take(MAX_RESPONSE)).read_until(b'\n', &mut bytes);
        let _ = sender.send(read.map(|_| bytes).unwrap_or_default());
    });
    match receiver.recv_timeout(TIMEOUT) {
        Ok(bytes) => Some(bytes),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => Some(Vec::new()),
    }
}

/// Collects the start of the output and discards the rest, so that writing does not block. The thread is not joined: a
/// process that the file started may keep the pipe open.
fn collect_output(mut output: PipeReader) -> Arc<Mutex<Vec<u8>>> {
    let collected = Arc::new(Mutex::new(Vec::new()));
    let buffer = Arc::clone(&collected);
    std::thread::spawn(move || {
        let mut chunk = [0; 8192];
        while let Ok(read @ 1..) = output.read(&mut chunk) {
            let Ok(mut buffer) = buffer.lock() else { return };
            let free = MAX_PRINTED.saturating_sub(buffer.len());
            buffer.extend(chunk.iter().take(read.min(free)));
        }
    });
    collected
}

/// The output without control characters.
fn printed_text(printed: &Mutex<Vec<u8>>) -> String {
    let Ok(bytes) = printed.lock() else { return String::new() };
    let text = String::from_utf8_lossy(&bytes);
    text.trim().chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, text: &str) -> Result<EvalOutput, EvalError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        let path = std::env::var_os("PATH").unwrap();
        evaluate(&file, &SearchPath::new(None, &path, dir.path()), &[])
    }

    fn json(name: &str, text: &str) -> String {
        run(name, text).unwrap_or_else(|failure| panic!("{failure:?}")).json
    }

    #[test]
    fn accepts_all_export_styles() {
        let want = r#"{"apps":[{"script":"a"}]}"#;
        for (name, text) in [
            ("e.config.js", "module.exports = { apps: [{ script: 'a' }] }"),
            ("e.config.cjs", "exports.apps = [{ script: 'a' }]"),
            ("e.config.mjs", "export default { apps: [{ script: 'a' }] }"),
            ("e.config.mjs", "export default await Promise.resolve({ apps: [{ script: 'a' }] })"),
            ("e.config.js", "exports.__esModule = true; exports.default = { apps: [{ script: 'a' }] }"),
            (
                "e.config.js",
                "console.log('{'.repeat(1e6)); setInterval(() => {}, 9); module.exports = { apps: [{ script: 'a' }] }",
            ),
        ] {
            assert_eq!(json(name, text), want, "{text}");
        }
        let leaves = "require('child_process').spawn('sleep', ['60'], { stdio: 'inherit' }); module.exports = { apps: [{ script: 'a' }] }";
        assert_eq!(json("e.config.js", leaves), want);
        assert_eq!(json("e.config.mjs", "export const apps = [{ script: 'a' }]"), want);
    }

    #[test]
    fn reads_commonjs_in_a_package_of_modules() {
        let dir = tempfile::tempdir().unwrap();
        let path = std::env::var_os("PATH").unwrap();
        std::fs::write(dir.path().join("package.json"), r#"{ "type": "module" }"#).unwrap();
        let file = dir.path().join("e.config.js");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            evaluate(&file, &SearchPath::new(None, &path, dir.path()), &["rsm".into(), "--env".into()])
        };
        let json =
            read("module.exports = { apps: [{ script: 'a', args: process.argv.slice(1) }] }").unwrap().json;
        assert_eq!(json, r#"{"apps":[{"script":"a","args":["rsm","--env"]}]}"#);
        let required = "const p = require('path'); module.exports = { script: p.join(__dirname, 'a') }";
        assert!(read(required).unwrap().json.ends_with("/a\"}"));
        assert_eq!(read("export default { apps: [] }").unwrap().json, r#"{"apps":[]}"#);
        let mixed = read("import fs from 'fs'\nmodule.exports = { apps: [] }").unwrap_err();
        assert!(mixed.message.contains("'.cjs'"), "{mixed:?}");
        assert_eq!(mixed.line, Some(2));
    }

    #[test]
    fn paths_keep_the_name_of_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let path = std::env::var_os("PATH").unwrap();
        std::fs::create_dir(dir.path().join("v1")).unwrap();
        std::os::unix::fs::symlink("v1", dir.path().join("current")).unwrap();
        let text = "module.exports = { cwd: __dirname, script: `${__dirname}/a`, other: `${__dirname}0` }";
        std::fs::write(dir.path().join("v1/e.config.js"), text).unwrap();
        let file = dir.path().join("current/e.config.js");
        let json = evaluate(&file, &SearchPath::new(None, &path, dir.path()), &[]).unwrap().json;
        let dir = dir.path().display();
        let want = format!(r#"{{"cwd":"{dir}/current","script":"{dir}/current/a","other":"{dir}/v10"}}"#);
        assert_eq!(json, want);
    }

    #[test]
    fn skips_functions_and_rejects_cycles() {
        let exported = run(
            "e.config.js",
            "module.exports = { f() {}, u: undefined, n: NaN, d: new Date(0), b: 1n, ['__proto__']: 1 }",
        )
        .unwrap();
        assert_eq!(exported.json, r#"{"n":"NaN","d":"1970-01-01T00:00:00.000Z","b":1,"__proto__":1}"#);
        assert_eq!(exported.skipped.len(), 1);
        assert_eq!(exported.skipped[0].path, "f");
        let cycle = run("e.config.js", "const a = { apps: [{}] }; a.apps[0].env = a; module.exports = a")
            .unwrap_err();
        assert_eq!(cycle.message, "apps[0].env contains itself");
        let deep = "let a = {}; for (let i = 0; i < 1e5; i++) a = { a }; module.exports = a";
        assert!(run("e.config.js", deep).unwrap_err().message.contains("deep"));
        let wide = "let a = [1]; for (let i = 0; i < 40; i++) a = [a, a, a]; module.exports = a";
        assert!(run("e.config.js", wide).unwrap_err().message.contains("too many"));
    }

    #[test]
    fn errors_have_position() {
        let thrown = run("e.config.js", "const a = 1\n\nthrow new Error('no luck')\n").unwrap_err();
        assert_eq!((thrown.message.as_str(), thrown.line), ("Error: no luck", Some(3)));
        let syntax = run("e.config.js", "module.exports = {\n  apps: [}\n}\n").unwrap_err();
        assert_eq!((syntax.message.as_str(), syntax.line), ("SyntaxError: Unexpected token '}'", Some(2)));
        let module = run("e.config.mjs", "export default {\n  apps: [}\n}\n").unwrap_err();
        assert!(module.message.contains("SyntaxError"), "{module:?}");
        let gone = run("e.config.js", "console.log('bye'); process.exit(3)").unwrap_err();
        assert!(gone.message.contains("output:\nbye"), "{gone:?}");
        let big = run("e.config.js", "module.exports = { a: 'x'.repeat(3e6) }").unwrap_err();
        assert_eq!(big.message, "exports more than 1 MiB");
    }

    #[test]
    fn memory_is_limited_and_children_are_killed() {
        let greedy =
            run("e.config.js", "const held = []; while (true) held.push(Buffer.allocUnsafeSlow(50 << 20))");
        assert_eq!(greedy.unwrap_err().message, "RangeError: Array buffer allocation failed");
        let starts = "console.log(require('child_process').spawn('sleep', ['60'], { stdio: 'ignore' }).pid); module.exports = {}";
        let pid = run("e.config.js", starts).unwrap().printed;
        let stat = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        crate::process::fixture::wait_until(|| stat().is_empty() || stat().contains(") Z "));
    }

    #[test]
    fn reports_missing_node() {
        let failure = evaluate(
            Path::new("/e.config.js"),
            &SearchPath::new(None, "/nowhere".as_ref(), Path::new("/")),
            &[],
        )
        .unwrap_err();
        assert!(failure.message.contains("requires node"), "{failure:?}");
    }
}
