//! The first bytes of a file: a `#!` line, text, or a binary.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes to read. The kernel reads at most 256 bytes of a `#!` line.
const HEAD_SIZE: u64 = 512;

/// The start of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FileHead {
    /// `#!`, a program and its arguments.
    Shebang {
        /// The program; for `env`, its first argument.
        program: String,
        /// Its arguments.
        args: Vec<String>,
    },
    /// A binary: machine code or other data.
    Binary,
    /// Text without a `#!` line, or an empty file.
    Text,
}

/// Reads the start of a file.
pub(super) fn read_head(file: &Path) -> io::Result<FileHead> {
    let mut head = Vec::new();
    File::open(file)?.take(HEAD_SIZE).read_to_end(&mut head)?;
    Ok(classify(&head))
}

fn classify(head: &[u8]) -> FileHead {
    if let Some(rest) = head.strip_prefix(b"#!") {
        let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
        if let Some(shebang) = parse(&String::from_utf8_lossy(line)) {
            return shebang;
        }
    }
    if head.contains(&0) { FileHead::Binary } else { FileHead::Text }
}

/// Parses the text after `#!`. The kernel passes everything after the program as one argument; `env -S` splits
/// it, and plain `env` uses it as the name of the program.
fn parse(line: &str) -> Option<FileHead> {
    let line = line.trim();
    let (program, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    if program.rsplit('/').next() == Some("env") {
        let words: Vec<String> = rest.split_whitespace().map(str::to_owned).collect();
        let words = words.strip_prefix(&["-S".to_owned()]).unwrap_or(&words);
        // Other options and assignments are not evaluated here: `env` itself runs the program.
        if let [program, args @ ..] = words
            && !program.starts_with('-')
            && !program.contains('=')
        {
            return Some(FileHead::Shebang { program: program.clone(), args: args.to_vec() });
        }
        return Some(FileHead::Shebang { program: program.to_owned(), args: words.to_vec() });
    }
    let args = if rest.is_empty() { Vec::new() } else { vec![rest.to_owned()] };
    (!program.is_empty()).then(|| FileHead::Shebang { program: program.to_owned(), args })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shebang(program: &str, args: &[&str]) -> FileHead {
        FileHead::Shebang { program: program.into(), args: args.iter().map(|&arg| arg.into()).collect() }
    }

    #[test]
    fn reads_shebang_lines() {
        assert_eq!(classify(b"#!/bin/sh\necho"), shebang("/bin/sh", &[]));
        assert_eq!(classify(b"#! /bin/sh -e -u \n"), shebang("/bin/sh", &["-e -u"]));
        assert_eq!(classify(b"#!/usr/bin/env node\r\n"), shebang("node", &[]));
        assert_eq!(classify(b"#!/usr/bin/env -S node --no-warnings\n"), shebang("node", &["--no-warnings"]));
        assert_eq!(classify(b"#!/usr/bin/env A=1 node\n"), shebang("/usr/bin/env", &["A=1", "node"]));
        assert_eq!(classify(b"#!\n"), FileHead::Text);
        assert_eq!(classify(b"\x7fELF\x02\0"), FileHead::Binary);
        assert_eq!(classify(b""), FileHead::Text);
        assert_eq!(classify("#!/bin/\u{e9}".as_bytes()), shebang("/bin/\u{e9}", &[]));
    }
}
