//! The HTML index of a directory: directories first, without hidden names.

use std::ffi::OsStr;
use std::fmt::{Display, Write};
use std::fs::DirEntry;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

/// All characters except the unreserved ones (RFC 3986) and slashes.
const RESERVED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// An entry of the index.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct DirectoryLine {
    /// Before the name, so that directories (`false`) come first.
    is_file: bool,
    name: std::ffi::OsString,
    size: u64,
}

/// The index of `directory`, the path relative to the root, with the entries of `source`.
///
/// # Errors
/// The directory cannot be read.
pub(super) fn page(directory: &Path, source: &Path) -> io::Result<String> {
    let entries = std::fs::read_dir(source)?;
    let mut lines: Vec<DirectoryLine> = entries.filter_map(|entry| read_line(&entry.ok()?)).collect();
    lines.sort();
    let title = escape(&format!("/{}", directory.display()));
    let mut page = String::from("<!doctype html>\n<html>\n<head>\n<meta charset=\"utf-8\">\n");
    // Writing to a string does not fail.
    let _ = write!(page, "<title>{title}</title>\n</head>\n<body>\n<h1>{title}</h1>\n<ul>\n");
    if directory.parent().is_some() {
        page.push_str("<li><a href=\"../\">../</a></li>\n");
    }
    for DirectoryLine { is_file, name, size } in lines {
        let (slash, size) = if is_file { ("", format!(" {size}")) } else { ("/", String::new()) };
        let (link, text) = (percent_encode(&name), escape(&name.to_string_lossy()));
        let _ = writeln!(page, "<li><a href=\"./{link}{slash}\">{text}{slash}</a>{size}</li>");
    }
    page.push_str("</ul>\n</body>\n</html>\n");
    Ok(page)
}

/// `None` if the entry is hidden, or was removed.
fn read_line(entry: &DirEntry) -> Option<DirectoryLine> {
    let name = entry.file_name();
    if name.as_bytes().starts_with(b".") {
        return None;
    }
    // Follows links: the entry shows what the link in the page returns.
    let metadata = std::fs::metadata(entry.path()).ok()?;
    Some(DirectoryLine { is_file: !metadata.is_dir(), name, size: metadata.len() })
}

/// Escapes text for HTML, also in quoted attributes.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            letter => safe.push(letter),
        }
    }
    safe
}

/// Encodes a path for a URI; slashes are kept.
pub(super) fn percent_encode(path: &OsStr) -> impl Display {
    percent_encoding::percent_encode(path.as_bytes(), RESERVED)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn lists_directories_first_without_hidden_names() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.txt", "a.txt", ".env"] {
            fs::write(dir.path().join(name), "12345").unwrap();
        }
        fs::create_dir(dir.path().join("z")).unwrap();
        fs::create_dir(dir.path().join(".git")).unwrap();
        let page = page(Path::new("sub"), dir.path()).unwrap();
        let links: Vec<&str> = page.lines().filter(|line| line.starts_with("<li>")).collect();
        let expected = [
            "<li><a href=\"../\">../</a></li>",
            "<li><a href=\"./z/\">z/</a></li>",
            "<li><a href=\"./a.txt\">a.txt</a> 5</li>",
            "<li><a href=\"./b.txt\">b.txt</a> 5</li>",
        ];
        assert_eq!(links, expected);
    }

    #[test]
    fn escapes_names() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("<img src=x onerror='a()'>&\""), "").unwrap();
        let page = page(Path::new("<b>"), dir.path()).unwrap();
        assert!(!page.contains("<img") && !page.contains("<b>"), "{page}");
        assert!(page.contains("./%3Cimg%20src%3Dx%20onerror%3D%27a%28%29%27%3E%26%22"), "{page}");
        assert!(page.contains("&lt;img src=x onerror=&#39;a()&#39;&gt;&amp;&quot;"), "{page}");
    }

    #[test]
    fn root_has_no_parent_link() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!page(Path::new(""), dir.path()).unwrap().contains("../"));
    }
}
