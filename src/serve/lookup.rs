//! From the path of a request to an open file under the root, never outside of it.

use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;

/// The only hidden name that is served (RFC 8615).
const WELL_KNOWN: &[u8] = b".well-known";

/// Why a path cannot be served.
#[derive(Debug)]
pub(super) enum LookupError {
    /// The path has invalid percent-encoding or a NUL byte.
    Malformed,
    /// The target is outside of the root, not a regular file, or not readable.
    Forbidden,
    /// The file does not exist, or is hidden.
    NotFound,
    /// A system call failed.
    Io(io::Error),
}

impl From<io::Error> for LookupError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG) => Self::NotFound,
            // ENXIO: a socket; ELOOP: circular links.
            Some(libc::EACCES | libc::EPERM | libc::ELOOP | libc::ENXIO) => Self::Forbidden,
            _ => Self::Io(error),
        }
    }
}

/// The path of a request, decoded and without `..`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RequestPath {
    /// Relative to the root; empty for the root itself.
    pub(super) path: PathBuf,
    /// Whether it ends with a slash, and so can only be a directory.
    pub(super) has_trailing_slash: bool,
}

impl RequestPath {
    /// Parses the path of a URI.
    pub(super) fn parse(path: &str) -> Result<Self, LookupError> {
        let bytes = percent_decode(path).ok_or(LookupError::Malformed)?;
        if bytes.contains(&0) {
            return Err(LookupError::Malformed);
        }
        // Split after decoding: an encoded slash is a separator too.
        let names: Vec<&[u8]> =
            bytes.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")).collect();
        if names.contains(&b"..".as_slice()) {
            return Err(LookupError::Forbidden);
        }
        let hidden =
            |(depth, name): (usize, &&[u8])| name.starts_with(b".") && !(depth == 0 && *name == WELL_KNOWN);
        if names.iter().enumerate().any(hidden) {
            return Err(LookupError::NotFound);
        }
        let path = names.into_iter().map(|name| OsString::from_vec(name.to_vec())).collect();
        let has_trailing_slash = bytes.ends_with(b"/") || bytes.ends_with(b"/.");
        Ok(Self { path, has_trailing_slash })
    }
}

/// Decodes percent-encoding; `None` if two hexadecimal digits do not follow a percent sign.
fn percent_decode(path: &str) -> Option<Vec<u8>> {
    let is_escape =
        |rest: &[u8]| rest.get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    let valid = path.as_bytes().split(|byte| *byte == b'%').skip(1).all(is_escape);
    valid.then(|| percent_decode_str(path).collect())
}

/// An open file or directory under the root.
#[derive(Debug)]
pub(super) struct OpenedFile {
    pub(super) file: File,
    pub(super) metadata: Metadata,
}

/// Opens a file or directory under `root`. The root is resolved each time: it may be a link that a deployment
/// replaces.
pub(super) fn open(root: &Path, path: &Path) -> Result<OpenedFile, LookupError> {
    let root = root.canonicalize()?;
    // Without O_NONBLOCK, opening a FIFO blocks until there is a writer.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(root.join(path))?;
    // The open file is checked, not the path: links can change in between. `openat2` with RESOLVE_BENEATH is
    // no alternative, as it refuses absolute links, even to files under the root. Hidden names in the target
    // are allowed: Kubernetes mounts files through such links.
    if !descriptor_path(&file).read_link()?.starts_with(&root) {
        return Err(LookupError::Forbidden);
    }
    let metadata = file.metadata()?;
    if metadata.is_file() || metadata.is_dir() {
        Ok(OpenedFile { file, metadata })
    } else {
        Err(LookupError::Forbidden)
    }
}

/// The kernel's link to the path of an open file.
pub(super) fn descriptor_path(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn decodes_paths() {
        let parse = |path| RequestPath::parse(path).unwrap();
        assert_eq!(parse("/"), RequestPath { path: "".into(), has_trailing_slash: true });
        assert_eq!(
            parse("/a%20b/%C3%a9.txt"),
            RequestPath { path: "a b/é.txt".into(), has_trailing_slash: false }
        );
        assert_eq!(parse("//a/./b//"), RequestPath { path: "a/b".into(), has_trailing_slash: true });
        assert_eq!(
            parse("/.well-known/acme"),
            RequestPath { path: ".well-known/acme".into(), has_trailing_slash: false }
        );
        assert_eq!(parse("/a%2Fb"), RequestPath { path: "a/b".into(), has_trailing_slash: false });
    }

    #[test]
    fn rejects_parent_and_hidden_paths() {
        for path in ["/..", "/../etc/passwd", "/a/../../b", "/%2e%2e/x", "/..%2fx", "/a/%2E./x"] {
            assert!(matches!(RequestPath::parse(path), Err(LookupError::Forbidden)), "{path}");
        }
        for path in ["/.env", "/.git/config", "/a/.x", "/%2eenv", "/a/.well-known/x", "/...", "/.well-knownx"]
        {
            assert!(matches!(RequestPath::parse(path), Err(LookupError::NotFound)), "{path}");
        }
        for path in ["/a%00", "/%", "/%4", "/%zz", "/%+1"] {
            assert!(matches!(RequestPath::parse(path), Err(LookupError::Malformed)), "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn path_never_leaves_the_root(path in "/[a./%2eEfF0]{0,20}") {
            if let Ok(parsed) = RequestPath::parse(&path) {
                assert!(parsed.path.is_relative());
                assert!(parsed.path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }
    }

    #[test]
    fn follows_links_only_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("site");
        fs::create_dir_all(root.join("..data")).unwrap();
        fs::create_dir_all(dir.path().join("site-secret")).unwrap();
        fs::write(dir.path().join("site-secret/key"), "k").unwrap();
        fs::write(root.join("..data/a.txt"), "a").unwrap();
        symlink("..data/a.txt", root.join("inside")).unwrap();
        symlink(root.join("..data/a.txt"), root.join("absolute")).unwrap();
        symlink("../site-secret/key", root.join("outside")).unwrap();
        symlink("../site-secret", root.join("directory")).unwrap();
        symlink("round", root.join("round")).unwrap();
        for path in ["inside", "absolute", "", "..data/a.txt"] {
            assert!(open(&root, Path::new(path)).is_ok(), "{path}");
        }
        for path in ["outside", "directory", "directory/key", "round"] {
            assert!(matches!(open(&root, Path::new(path)), Err(LookupError::Forbidden)), "{path}");
        }
        assert!(matches!(open(&root, Path::new("nothing")), Err(LookupError::NotFound)));
        assert!(matches!(open(&root, Path::new("inside/x")), Err(LookupError::NotFound)));
    }

    #[test]
    fn root_can_be_a_link() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("one")).unwrap();
        fs::write(dir.path().join("one/a"), "1").unwrap();
        symlink("one", dir.path().join("current")).unwrap();
        assert!(open(&dir.path().join("current"), Path::new("a")).is_ok());
    }

    #[test]
    fn rejects_fifos_and_sockets_without_blocking() {
        let dir = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        for path in ["fifo", "socket"] {
            assert!(matches!(open(dir.path(), Path::new(path)), Err(LookupError::Forbidden)), "{path}");
        }
    }
}
