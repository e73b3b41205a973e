//! Programs on disk: the executable test, the search in `PATH`, and the `#!` line.
//!
//! Symbolic links are not resolved: a link such as `current` must be followed at each start.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Bytes to read. The kernel reads at most 256 bytes of a `#!` line.
const HEAD_SIZE: u64 = 512;

/// Whether any user can execute this file. The app may run as another user than this process.
pub(crate) fn is_executable(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The first executable file with this name, which must not contain a slash, in the directories of `path`. Relative
/// directories start at `cwd`; empty entries are skipped.
pub(crate) fn search_path(name: &str, path: impl AsRef<OsStr>, cwd: &Path) -> Option<PathBuf> {
    if name.is_empty() || name.contains('/') {
        return None;
    }
    let dirs = std::env::split_paths(&path).filter(|dir| !dir.as_os_str().is_empty());
    dirs.map(|dir| cwd.join(dir).join(name)).find(|file| is_executable(file))
}

/// The start of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FileHead {
    /// A `#!` line.
    Shebang(Shebang),
    /// A binary: machine code or other data.
    Binary,
    /// Text without a `#!` line, or an empty file.
    Text,
}

/// A `#!` line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shebang {
    /// The program that the kernel executes.
    pub(crate) interpreter: String,
    /// The program that interprets the script: for `env`, its first argument, which `env` searches in `PATH`.
    pub(crate) program: String,
    /// The arguments of `program`.
    pub(crate) args: Vec<String>,
}

impl FileHead {
    /// Reads the start of a file.
    pub(crate) fn read(file: &Path) -> io::Result<Self> {
        let mut head = Vec::new();
        File::open(file)?.take(HEAD_SIZE).read_to_end(&mut head)?;
        Ok(Self::parse(&head))
    }

    fn parse(head: &[u8]) -> Self {
        if let Some(rest) = head.strip_prefix(b"#!") {
            let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
            if let Some(shebang) = Shebang::parse(&String::from_utf8_lossy(line)) {
                return Self::Shebang(shebang);
            }
        }
        if head.contains(&0) { Self::Binary } else { Self::Text }
    }
}

impl Shebang {
    /// Parses the text after `#!`. The kernel passes everything after the program as one argument; `env -S` splits
    /// it, and plain `env` uses it as the name of the program.
    fn parse(line: &str) -> Option<Self> {
        let line = line.trim();
        let (interpreter, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        if interpreter.is_empty() {
            return None;
        }
        let with = |program: &str, args: &[String]| {
            Some(Self {
                interpreter: interpreter.to_owned(),
                program: program.to_owned(),
                args: args.to_vec(),
            })
        };
        if interpreter.rsplit('/').next() != Some("env") {
            let args = (!rest.is_empty()).then(|| rest.to_owned());
            return with(interpreter, args.as_slice());
        }
        let words: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
        match words.strip_prefix(&["-S".to_owned()]).unwrap_or(&words) {
            // Other options and assignments are not evaluated here: `env` itself runs the program.
            [program, args @ ..] if !program.starts_with('-') && !program.contains('=') => {
                with(program, args)
            }
            words => with(interpreter, words),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shebang(interpreter: &str, program: &str, args: &[&str]) -> FileHead {
        FileHead::Shebang(Shebang {
            interpreter: interpreter.into(),
            program: program.into(),
            args: args.iter().map(|&arg| arg.into()).collect(),
        })
    }

    #[test]
    fn reads_shebang_lines() {
        let (sh, env) = ("/bin/sh", "/usr/bin/env");
        assert_eq!(FileHead::parse(b"#!/bin/sh\necho"), shebang(sh, sh, &[]));
        assert_eq!(FileHead::parse(b"#! /bin/sh -e -u \n"), shebang(sh, sh, &["-e -u"]));
        assert_eq!(FileHead::parse(b"#!/usr/bin/env node\r\n"), shebang(env, "node", &[]));
        let split = FileHead::parse(b"#!/usr/bin/env -S node --no-warnings\n");
        assert_eq!(split, shebang(env, "node", &["--no-warnings"]));
        assert_eq!(FileHead::parse(b"#!/usr/bin/env A=1 node\n"), shebang(env, env, &["A=1", "node"]));
        assert_eq!(FileHead::parse(b"#!\n"), FileHead::Text);
        assert_eq!(FileHead::parse(b"\x7fELF\x02\0"), FileHead::Binary);
        assert_eq!(FileHead::parse(b""), FileHead::Text);
        assert_eq!(FileHead::parse("#!/bin/\u{e9}".as_bytes()), shebang("/bin/\u{e9}", "/bin/\u{e9}", &[]));
    }

    #[test]
    fn finds_executable_files_in_path() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("tool");
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        assert_eq!(search_path("tool", "/nowhere::.", dir.path()), None, "not executable yet");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(search_path("tool", "/nowhere::.", dir.path()), Some(dir.path().join(".").join("tool")));
        assert_eq!(search_path("tool", "/nowhere:", dir.path()), None, "an empty entry");
        assert_eq!(search_path("./tool", ".", dir.path()), None);
    }
}
