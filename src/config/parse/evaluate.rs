//! Ecosystem files in JavaScript, evaluated by the user's own node: within a time limit, and with
//! a channel of its own for the answer, so that whatever the file prints does no harm. What the file starts ends with
//! it, and it may not take more memory and processor time than any such file can need.

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

/// How long a file may take. Starting node takes a twentieth of a second on an idle machine.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What a file may use, also after a Ctrl-C that took this command away: kilobytes of memory, seconds of processor time.
const ULIMIT_WRAPPER: &str = "ulimit -d 524288 2>/dev/null; ulimit -t 10 2>/dev/null; exec \"$@\"";

/// The longest answer. Bytes: it is JSON within JSON, whose quotes take twice the room.
const MAX_RESPONSE: u64 = 2 * MAX_FILE_SIZE;

/// So much of what a file prints is shown. Bytes.
const MAX_PRINTED: usize = 4096;

/// What a file exports.
#[derive(Debug, Deserialize)]
pub(in crate::config) struct EvalOutput {
    /// As JSON.
    pub(in crate::config) json: String,
    /// What could not be put into JSON.
    #[serde(alias = "left")]
    pub(in crate::config) skipped: Vec<SkippedValue>,
    /// What it printed.
    #[serde(skip)]
    pub(in crate::config) printed: String,
}

/// A value that was left out.
#[derive(Debug, Deserialize)]
pub(in crate::config) struct SkippedValue {
    /// Where: `apps[0].env.X`.
    pub(in crate::config) path: String,
    /// What, and why.
    #[serde(alias = "what")]
    pub(in crate::config) reason: String,
}

/// Why a file could not be evaluated.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
pub(in crate::config) struct EvalError {
    /// What is wrong.
    pub(in crate::config) message: String,
    /// Where in the file, from 1.
    #[serde(default)]
    pub(in crate::config) line: Option<usize>,
    /// From 1.
    #[serde(default)]
    pub(in crate::config) column: Option<usize>,
    /// What to do; may be empty.
    #[serde(skip)]
    pub(in crate::config) help: &'static str,
}

/// What node says on the channel.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum EvalResponse {
    Value(EvalOutput),
    Failure(EvalError),
}

/// Evaluates a file (absolute path); node is looked up in `search`.
pub(in crate::config) fn evaluate(file: &Path, search: &SearchPath) -> Result<EvalOutput, EvalError> {
    let Some(node) = search.find("node") else {
        return fail("requires node, which is not in PATH", "install Node.js, or add it to PATH");
    };
    let broken =
        |error: io::Error| EvalError { message: format!("cannot run node: {error}"), ..EvalError::default() };
    let (answer, channel) = io::pipe().map_err(broken)?;
    let (output, out) = io::pipe().map_err(broken)?;
    let err = out.try_clone().map_err(broken)?;
    // Standard input is what no program writes to by accident: it carries the answer back.
    let mut node = sandboxed_command(&node);
    node.arg("-e").arg(EVALUATE_JS).arg(file).process_group(0);
    let mut child = node.stdin(channel).stdout(out).stderr(err).spawn().map_err(broken)?;
    drop(node);
    let printed = collect_output(output);
    let answer = read_response(answer);
    // The file may have left timers or connections behind that would keep it running, or programs.
    let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
    parse_response(answer, &mut child, &printed_text(&printed))
}

/// A program within its bounds; without them in a container that has no shell.
fn sandboxed_command(program: &Path) -> Command {
    let shell = Path::new("/bin/sh");
    if !shell.exists() {
        return Command::new(program);
    }
    let mut bounded = Command::new(shell);
    bounded.arg("-c").arg(ULIMIT_WRAPPER).arg("sh").arg(program);
    bounded
}

fn parse_response(
    answer: Option<Vec<u8>>,
    child: &mut Child,
    printed: &str,
) -> Result<EvalOutput, EvalError> {
    let ended = child.wait().ok();
    let Some(bytes) = answer else {
        let seconds = TIMEOUT.as_secs();
        let message = format!("timed out after {seconds} s{}", printed_note(printed));
        return fail(message, "an ecosystem file must only export its apps: remove code that loops or waits");
    };
    if bytes.len() as u64 >= MAX_RESPONSE {
        return fail("exports more than 1 MiB", "split it into several files");
    }
    match serde_json::from_slice(&bytes) {
        Ok(EvalResponse::Value(exported)) => Ok(EvalOutput { printed: printed.to_owned(), ..exported }),
        Ok(EvalResponse::Failure(failure)) => Err(failure),
        Err(_) => {
            let how = ended.map_or_else(String::new, |status| format!(" ({status})"));
            fail(
                format!("exited before it exported its apps{how}{}", printed_note(printed)),
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

/// The line that comes on the channel, unless that takes too long. Not all until its end: a process that the
/// file started may hold the channel open for longer.
fn read_response(channel: PipeReader) -> Option<Vec<u8>> {
    let (done, waiting) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = BufReader::new(channel.take(MAX_RESPONSE)).read_until(b'\n', &mut bytes);
        let _ = done.send(read.map(|_| bytes).unwrap_or_default());
    });
    match waiting.recv_timeout(TIMEOUT) {
        Ok(bytes) => Some(bytes),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => Some(Vec::new()),
    }
}

/// Keeps the beginning of what is printed, and reads on so that nobody has to wait for it. Not waited
/// for itself: a process that the file started may hold the other end for ever.
fn collect_output(mut output: PipeReader) -> Arc<Mutex<Vec<u8>>> {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&kept);
    std::thread::spawn(move || {
        let mut chunk = [0; 8192];
        while let Ok(read @ 1..) = output.read(&mut chunk) {
            let Ok(mut kept) = keep.lock() else { return };
            let room = MAX_PRINTED.saturating_sub(kept.len()).min(read);
            kept.extend_from_slice(&chunk[..room]);
        }
    });
    kept
}

/// What was printed, as it may be shown on a terminal.
fn printed_text(printed: &Mutex<Vec<u8>>) -> String {
    let Ok(bytes) = printed.lock() else { return String::new() };
    let text = String::from_utf8_lossy(&bytes);
    text.trim().chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use crate::config::parse::evaluate::*;

    fn run(name: &str, text: &str) -> Result<EvalOutput, EvalError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(name);
        std::fs::write(&file, text).unwrap();
        let path = std::env::var_os("PATH").unwrap();
        evaluate(&file, &SearchPath::new(None, &path, dir.path()))
    }

    fn json(name: &str, text: &str) -> String {
        run(name, text).unwrap_or_else(|failure| panic!("{failure:?}")).json
    }

    #[test]
    fn every_way_to_export() {
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
    fn what_is_no_data() {
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
    fn failures_have_a_place() {
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
    fn what_a_file_takes_is_bounded_and_what_it_starts_ends_with_it() {
        let greedy =
            run("e.config.js", "const held = []; while (true) held.push(Buffer.allocUnsafeSlow(50 << 20))");
        assert_eq!(greedy.unwrap_err().message, "RangeError: Array buffer allocation failed");
        let starts = "console.log(require('child_process').spawn('sleep', ['60'], { stdio: 'ignore' }).pid); module.exports = {}";
        let pid = run("e.config.js", starts).unwrap().printed;
        let stat = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        crate::process::fixture::wait_until(|| stat().is_empty() || stat().contains(") Z "));
    }

    #[test]
    fn without_node_that_is_said() {
        let failure =
            evaluate(Path::new("/e.config.js"), &SearchPath::new(None, "/nowhere".as_ref(), Path::new("/")))
                .unwrap_err();
        assert!(failure.message.contains("requires node"), "{failure:?}");
    }
}
