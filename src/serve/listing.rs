//! A directory as a page: directories first, hidden names left out.

use std::ffi::OsStr;
use std::fmt::Write;
use std::fs::DirEntry;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A line of the page.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    /// Sorts before the name: false, a directory, comes first.
    is_file: bool,
    name: std::ffi::OsString,
    size: u64,
}

/// The page for `directory`, read from where `source` lies.
///
/// # Errors
/// When the directory cannot be read.
pub(super) fn page(directory: &Path, source: &Path) -> io::Result<String> {
    let mut lines: Vec<Line> = std::fs::read_dir(source)?.filter_map(|entry| line(&entry.ok()?)).collect();
    lines.sort();
    let title = escape(&format!("/{}", directory.display()));
    let mut page = String::from("<!doctype html>\n<html>\n<head>\n<meta charset=\"utf-8\">\n");
    // Writing to a string cannot fail.
    let _ = write!(page, "<title>{title}</title>\n</head>\n<body>\n<h1>{title}</h1>\n<ul>\n");
    if directory.parent().is_some() {
        page.push_str("<li><a href=\"../\">../</a></li>\n");
    }
    for Line { is_file, name, size } in lines {
        let (slash, size) = if is_file { ("", format!(" {size}")) } else { ("/", String::new()) };
        let (link, text) = (encode(&name), escape(&name.to_string_lossy()));
        let _ = writeln!(page, "<li><a href=\"./{link}{slash}\">{text}{slash}</a>{size}</li>");
    }
    page.push_str("</ul>\n</body>\n</html>\n");
    Ok(page)
}

/// What is to be said of an entry: nothing if it is hidden, or gone by now.
fn line(entry: &DirEntry) -> Option<Line> {
    let name = entry.file_name();
    if name.as_bytes().starts_with(b".") {
        return None;
    }
    // Through links: what matters is what a click would bring.
    let metadata = std::fs::metadata(entry.path()).ok()?;
    Some(Line { is_file: !metadata.is_dir(), name, size: metadata.len() })
}

/// Text within HTML, also within a quoted attribute.
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

/// A path within a URI: all but what needs no encoding anywhere is encoded; slashes stay.
pub(super) fn encode(path: &OsStr) -> String {
    let mut text = String::new();
    for byte in path.as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                text.push(char::from(*byte))
            }
            byte => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn directories_first_and_nothing_hidden() {
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
    fn names_cannot_write_the_page() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("<img src=x onerror='a()'>&\""), "").unwrap();
        let page = page(Path::new("<b>"), dir.path()).unwrap();
        assert!(!page.contains("<img") && !page.contains("<b>"), "{page}");
        assert!(page.contains("./%3Cimg%20src%3Dx%20onerror%3D%27a%28%29%27%3E%26%22"), "{page}");
        assert!(page.contains("&lt;img src=x onerror=&#39;a()&#39;&gt;&amp;&quot;"), "{page}");
    }

    #[test]
    fn the_root_has_no_way_up() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!page(Path::new(""), dir.path()).unwrap().contains("../"));
    }
}
