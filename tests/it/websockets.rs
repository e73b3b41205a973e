//! WebSockets through nginx to a shared port, while the app is reloaded.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Rsm, free_port, read, wait_until};

/// On SIGINT it closes all connections with code 1001, and exits when all are closed.
const SERVER: &str = "const { WebSocketServer } = require('ws')\n\
    const server = require('http').createServer()\n\
    const sockets = new WebSocketServer({ server })\n\
    sockets.on('connection', socket => socket.on('message', text => socket.send(process.pid + ' ' + text)))\n\
    server.listen(PORT, '127.0.0.1')\n\
    process.on('SIGINT', () => {\n\
      server.close(() => process.exit(0))\n\
      sockets.on('connection', socket => socket.close(1001))\n\
      setTimeout(() => sockets.clients.forEach(socket => socket.close(1001)), 100)\n\
    })\n";

/// Twenty connections that stay open, and short ones until a file `stop` exists.
const CLIENT: &str = "const { WebSocket } = require('ws'), fs = require('fs')\n\
    const url = 'ws://127.0.0.1:FRONT/', codes = [], failed = [], pids = {}\n\
    let asked = 0, open = 0\n\
    for (let i = 0; i < 20; i++) {\n\
      const socket = new WebSocket(url)\n\
      socket.on('open', () => { if (++open === 20) fs.writeFileSync('connected', '') })\n\
      socket.on('close', code => codes.push(code)).on('error', error => failed.push(String(error)))\n\
    }\n\
    const ask = () => new Promise(done => {\n\
      const socket = new WebSocket(url)\n\
      socket.on('open', () => socket.send('hello')).on('error', error => { failed.push(String(error)); done() })\n\
      socket.on('message', text => { asked++; pids[String(text).split(' ')[0]] = 1; socket.close() })\n\
      socket.on('close', done)\n\
    })\n\
    const go = async () => {\n\
      while (!fs.existsSync('stop')) await ask()\n\
      console.log(JSON.stringify({ asked, failed, codes, pids: Object.keys(pids).length }))\n\
      process.exit(0)\n\
    }\n\
    go()\n";

const NGINX: &str = "daemon off;\nworker_processes 1;\npid nginx.pid;\nerror_log stderr;\nevents {}\nhttp {\n  access_log off;\n  \
    client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;\n  \
    upstream web { server 127.0.0.1:PORT; }\n  server {\n    listen 127.0.0.1:FRONT;\n    location / {\n      proxy_pass http://web;\n      \
    proxy_http_version 1.1;\n      proxy_set_header Upgrade $http_upgrade;\n      proxy_set_header Connection upgrade;\n    }\n  }\n}\n";

#[test]
fn reload_closes_websockets_and_accepts_new() {
    let modules = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ws");
    if !modules.exists() {
        let new = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let npm = ["install", "--no-audit", "--no-fund", "--no-save", "ws@8"];
        let npm = Command::new("npm").args(npm).current_dir(new.path()).output().unwrap();
        assert!(npm.status.success(), "npm install: {}", String::from_utf8_lossy(&npm.stderr));
        let _ = fs::rename(new.path(), &modules); // another process may have created it
    }
    let (port, front) = (free_port().to_string(), free_port().to_string());
    let with = |text: &str| text.replace("PORT", &port).replace("FRONT", &front);
    let rsm = Rsm::new()
        .file("server.js", &with(SERVER))
        .file("client.js", &with(CLIENT))
        .file("nginx.conf", &with(NGINX))
        .file(
            "ecosystem.toml",
            "[[apps]]\nname = 'web'\nscript = 'server.js'\nexec_mode = 'cluster'\ninstances = 2\nmin_uptime = 0\n\
             [[apps]]\nname = 'front'\nscript = 'exec nginx -p . -c nginx.conf'\n",
        );
    symlink(modules.join("node_modules"), rsm.dir().join("node_modules")).unwrap();
    rsm.ok(&["start", "ecosystem.toml"]);
    wait_until("nginx listens", || std::net::TcpStream::connect(("127.0.0.1", front.parse().unwrap())).ok());
    let mut client = Command::new("node");
    let client = client.arg("client.js").current_dir(rsm.dir()).stdout(Stdio::piped()).spawn().unwrap();
    wait_until("all are connected", || rsm.dir().join("connected").exists().then_some(()));
    let before = rsm.pids("web");
    rsm.ok(&["reload", "web"]);
    assert!(rsm.pids("web").iter().all(|pid| !before.contains(pid)));
    rsm.write("stop", "");
    let output = client.wait_with_output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["failed"].as_array().unwrap().len(), 0, "{report}");
    assert!(report["asked"].as_u64().unwrap() > 20 && report["pids"].as_u64().unwrap() >= 3, "{report}");
    let codes = report["codes"].as_array().unwrap();
    assert!(
        codes.len() == 20 && codes.iter().all(|code| code == 1001),
        "{report}; {}",
        read(rsm.home().join("rsm.log"))
    );
}
