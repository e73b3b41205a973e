//! The socket as strangers use it: nonsense, half a request, too much, too many, another user.
//! After each the daemon is the same one and answers.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;

use crate::harness::{Rsm, need_root, wait_until};

fn with_an_app() -> (Rsm, i32) {
    let rsm = Rsm::new();
    rsm.ok(&["start", "sleep 1000", "--name", "nap"]);
    let daemon = rsm.managers().0;
    (rsm, daemon)
}

fn the_same_answers(rsm: &Rsm, daemon: i32) {
    assert_eq!(rsm.managers().0, daemon, "it died");
    assert_eq!(rsm.statuses("nap"), ["online"]);
}

/// A whole request with a body, after which the daemon hangs up.
fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into()
}

#[test]
fn plain_request_gets_json() {
    let (rsm, daemon) = with_an_app();
    let answer = rsm.http(&request("GET", "/v1/ping", ""));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/json"), "{head}");
    let pong: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(pong["pid"], daemon);
}

#[test]
fn errors_have_one_json_format() {
    let (rsm, daemon) = with_an_app();
    let wrong = [
        ("GET", "/", "", 404, "not_found"),
        ("GET", "/v1/nope", "", 404, "not_found"),
        ("GET", "/v2/ping", "", 404, "not_found"),
        ("GET", "/v1/instances/99/env", "", 404, "not_found"),
        ("GET", "/v1/instances/../../etc/passwd", "", 404, "not_found"),
        ("GET", "/v1/%ff", "", 400, "invalid"),
        ("DELETE", "/v1/ping", "", 405, "method_not_allowed"),
        ("GET", "/v1/shutdown", "", 405, "method_not_allowed"),
        ("BREW", "/v1/ping", "", 405, "method_not_allowed"),
        ("POST", "/v1/apps", "", 400, "invalid"),
        ("POST", "/v1/apps", "{", 400, "invalid"),
        ("POST", "/v1/apps", "[]", 400, "invalid"),
        ("POST", "/v1/apps", "{\"apps\":[{\"name\":\"x\"}]}", 400, "invalid"),
        ("POST", "/v1/instances/stop", "{\"select\":[\"nope\"]}", 404, "not_found"),
        ("POST", "/v1/instances/stop", "{\"selct\":[\"nap\"]}", 400, "invalid"),
        ("POST", "/v1/instances/stop", "{\"select\":\"nap\"}", 400, "invalid"),
        ("POST", "/v1/instances/signal", "{\"select\":[\"nap\"],\"signal\":\"SIGNONE\"}", 400, "invalid"),
        ("POST", "/v1/apps/nap/scale", "{\"exactly\":1}", 409, "conflict"),
        ("POST", "/v1/apps/nap/scale", "{\"exactly\":-1}", 400, "invalid"),
        ("GET", "/v1/logs?lines=many", "", 400, "invalid"),
        ("GET", "/v1/logs?select=nope", "", 404, "not_found"),
    ];
    for (method, path, body, status, code) in wrong {
        let answer = rsm.http(&request(method, path, body));
        let (head, said) =
            answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: {answer}"));
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {path} {body}: {answer}");
        assert_eq!(status == 405, head.to_lowercase().contains("\r\nallow: "), "{head}");
        let error: serde_json::Value = serde_json::from_str(said).unwrap();
        assert_eq!(error["error"]["code"], code, "{method} {path} {body}: {said}");
        assert!(!error["error"]["message"].as_str().unwrap().is_empty());
    }
    the_same_answers(&rsm, daemon);
}

#[test]
fn invalid_http_gets_error_or_close() {
    let (rsm, daemon) = with_an_app();
    let garbage: Vec<u8> =
        (0..200_000_u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let long = |byte: u8| vec![byte; 200_000];
    let nonsense: [&[u8]; 9] = [
        b"\r\n\r\n\r\n\r\n \r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v1/ping HTTP/9.9\r\n\r\n",
        b"GET /v1/ping HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST /v1/apps HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n{}",
        b"POST /v1/apps HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n{}",
        b"POST /v1/apps HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        &garbage,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS greeting \r\n\r\n",
    ];
    for bytes in nonsense {
        let answer = rsm.http(bytes);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{shown}: {answer}");
    }
    let header =
        [b"GET /v1/ping HTTP/1.1\r\nHost: x\r\nX-Long: ".as_slice(), &long(b'a'), b"\r\n\r\n"].concat();
    assert!(rsm.http(&header).starts_with("HTTP/1.1 431"), "an endless header");
    let target = [b"GET /v1/".as_slice(), &long(b'a'), b" HTTP/1.1\r\n\r\n"].concat();
    let answer = rsm.http(&target);
    assert!(answer.starts_with("HTTP/1.1 414") || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many = format!("GET /v1/ping HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(5_000));
    assert!(rsm.http(many.as_bytes()).starts_with("HTTP/1.1 431"), "too many headers");
    the_same_answers(&rsm, daemon);
}

#[test]
fn rejects_endless_body() {
    let (rsm, daemon) = with_an_app();
    let head = "POST /v1/apps HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    let claimed = rsm.http(format!("{head}Content-Length: 99999999999\r\n\r\n{{").as_bytes());
    assert!(claimed.starts_with("HTTP/1.1 413") && claimed.contains("too_large"), "{claimed}");
    let mut chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
    for _ in 0..40 {
        chunked.extend(format!("{:x}\r\n", 1 << 20).bytes());
        chunked.extend(std::iter::repeat_n(b' ', 1 << 20));
        chunked.extend(b"\r\n");
    }
    let mut socket = rsm.socket();
    let _ = socket.write_all(&chunked); // it hangs up in the middle
    let mut answer = String::new();
    let _ = socket.read_to_string(&mut answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    the_same_answers(&rsm, daemon);
}

#[test]
fn stalled_clients_block_nobody() {
    let (rsm, daemon) = with_an_app();
    let halves: [&[u8]; 4] = [
        b"",
        b"GET /v1/pi",
        b"POST /v1/instances/stop HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"select\":[\"nap\"]}",
        b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n",
    ];
    let held: Vec<UnixStream> = (0..400)
        .map(|index| {
            let mut socket = rsm.socket();
            socket.write_all(halves[index % halves.len()]).unwrap();
            socket
        })
        .collect();
    the_same_answers(&rsm, daemon);
    rsm.ok(&["restart", "nap"]);
    drop(held);
    the_same_answers(&rsm, daemon);
}

#[test]
fn many_connections_of_a_process_lock_out_no_other() {
    let (rsm, daemon) = with_an_app();
    let held: Vec<UnixStream> = (0..512).map(|_| rsm.socket()).collect();
    rsm.ok(&["list"]);
    drop(held);
    the_same_answers(&rsm, daemon);
}

#[test]
fn slow_event_reader_does_not_block_apps() {
    let (rsm, daemon) = with_an_app();
    let mut unread = rsm.socket();
    unread.write_all(b"GET /v1/logs?follow=true HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    rsm.ok(&["start", "seq 1 300000; echo said all > done; exec sleep 1000", "--name", "flood"]);
    wait_until("it could say all it had to say", || rsm.dir().join("done").exists().then_some(()));
    the_same_answers(&rsm, daemon);
}

#[test]
fn other_user_cannot_connect() {
    need_root();
    let (rsm, daemon) = with_an_app();
    rsm.open_to_all();
    let socket = rsm.home().join("rsm.sock");
    let nobody = || {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "curl",
            "-sS",
            "-m",
            "30",
            "--unix-socket",
        ]);
        let output = command.arg(&socket).arg("http://rsm/v1/jlist").output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    let (code, said) = nobody();
    assert_eq!(code, Some(7), "the file's permissions keep it out: {said}");
    // Somebody loosened them: the daemon asks the kernel who is there.
    for (path, mode) in [(rsm.home(), 0o755), (socket.clone(), 0o666)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let (code, said) = nobody();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("forbidden") && !said.contains("nap"), "{said}");
    the_same_answers(&rsm, daemon);
}
