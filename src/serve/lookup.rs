//! From a request's path to an open file, and never to one outside the root.

use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The one hidden name that is meant to be seen (RFC 8615).
const WELL_KNOWN: &[u8] = b".well-known";

/// Why there is nothing to give.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The path cannot be read.
    Malformed,
    /// It leads out of the root, to no regular file, or to one that may not be read.
    Forbidden,
    /// Nothing bears that name, or it is hidden.
    Missing,
    /// The system failed.
    Trouble(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG) => Self::Missing,
            // ENXIO: a socket; ELOOP: links in a circle.
            Some(libc::EACCES | libc::EPERM | libc::ELOOP | libc::ENXIO) => Self::Forbidden,
            _ => Self::Trouble(error),
        }
    }
}

/// The path of a request, decoded and free of anything that leads upwards.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Relative to the root; empty for the root itself.
    pub(super) path: PathBuf,
    /// It ends with a slash, so it can only be a directory.
    pub(super) slash: bool,
}

impl Place {
    /// Reads the path of a request's URI.
    pub(super) fn read(path: &str) -> Result<Self, Refusal> {
        let bytes = decode(path.as_bytes()).ok_or(Refusal::Malformed)?;
        if bytes.contains(&0) {
            return Err(Refusal::Malformed);
        }
        // Split after decoding, so that an encoded slash hides nothing.
        let names: Vec<&[u8]> =
            bytes.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")).collect();
        if names.contains(&b"..".as_slice()) {
            return Err(Refusal::Forbidden);
        }
        let hidden =
            |(depth, name): (usize, &&[u8])| name.starts_with(b".") && !(depth == 0 && *name == WELL_KNOWN);
        if names.iter().enumerate().any(hidden) {
            return Err(Refusal::Missing);
        }
        let path = names.into_iter().map(|name| OsString::from_vec(name.to_vec())).collect();
        let slash = bytes.ends_with(b"/") || bytes.ends_with(b"/.");
        Ok(Self { path, slash })
    }
}

/// Undoes percent-encoding; `None` when a percent sign is not followed by two digits.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => digit(rest.next()?)? << 4 | digit(rest.next()?)?,
            byte => *byte,
        });
    }
    Some(bytes)
}

fn digit(byte: &u8) -> Option<u8> {
    char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Something found under the root, open.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) file: File,
    pub(super) metadata: Metadata,
}

/// Opens a file or directory under `root`. The root is looked up each time: it may be a link that a
/// deployment points elsewhere.
pub(super) fn open(root: &Path, path: &Path) -> Result<Found, Refusal> {
    let root = root.canonicalize()?;
    // Without O_NONBLOCK, opening a FIFO would wait for a writer.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(root.join(path))?;
    // What was opened is checked, not the path: links could change between the two. Hidden names on
    // the way are fine here, Kubernetes mounts its files through such links.
    if !descriptor_path(&file).read_link()?.starts_with(&root) {
        return Err(Refusal::Forbidden);
    }
    let metadata = file.metadata()?;
    if metadata.is_file() || metadata.is_dir() {
        Ok(Found { file, metadata })
    } else {
        Err(Refusal::Forbidden)
    }
}

/// The name under which the kernel shows an open file: a link to where it lies.
pub(super) fn descriptor_path(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn paths_are_decoded() {
        let place = |path| Place::read(path).unwrap();
        assert_eq!(place("/"), Place { path: "".into(), slash: true });
        assert_eq!(place("/a%20b/%C3%a9.txt"), Place { path: "a b/é.txt".into(), slash: false });
        assert_eq!(place("//a/./b//"), Place { path: "a/b".into(), slash: true });
        assert_eq!(place("/.well-known/acme"), Place { path: ".well-known/acme".into(), slash: false });
        assert_eq!(place("/a%2Fb"), Place { path: "a/b".into(), slash: false });
    }

    #[test]
    fn paths_that_go_up_or_hide_are_refused() {
        for path in ["/..", "/../etc/passwd", "/a/../../b", "/%2e%2e/x", "/..%2fx", "/a/%2E./x"] {
            assert!(matches!(Place::read(path), Err(Refusal::Forbidden)), "{path}");
        }
        for path in ["/.env", "/.git/config", "/a/.x", "/%2eenv", "/a/.well-known/x", "/...", "/.well-knownx"]
        {
            assert!(matches!(Place::read(path), Err(Refusal::Missing)), "{path}");
        }
        for path in ["/a%00", "/%", "/%4", "/%zz", "/%+1"] {
            assert!(matches!(Place::read(path), Err(Refusal::Malformed)), "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_path_leads_up(path in "/[a./%2eEfF0]{0,20}") {
            if let Ok(place) = Place::read(&path) {
                assert!(place.path.is_relative());
                assert!(place.path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }
    }

    #[test]
    fn links_may_lead_about_inside_and_not_out() {
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
            assert!(matches!(open(&root, Path::new(path)), Err(Refusal::Forbidden)), "{path}");
        }
        assert!(matches!(open(&root, Path::new("nothing")), Err(Refusal::Missing)));
        assert!(matches!(open(&root, Path::new("inside/x")), Err(Refusal::Missing)));
    }

    #[test]
    fn the_root_may_be_a_link() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("one")).unwrap();
        fs::write(dir.path().join("one/a"), "1").unwrap();
        symlink("one", dir.path().join("current")).unwrap();
        assert!(open(&dir.path().join("current"), Path::new("a")).is_ok());
    }

    #[test]
    fn what_is_no_file_is_refused_without_waiting_for_it() {
        let dir = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        for path in ["fifo", "socket"] {
            assert!(matches!(open(dir.path(), Path::new(path)), Err(Refusal::Forbidden)), "{path}");
        }
    }
}
