//! Memory limits: apps that exceed them are replaced, with the reason in the history.

use crate::harness::load_client::{Client, Pace};
use crate::harness::{DEADLINE, Rsm, free_port, get};

/// The reason of the first exit in the history of an instance.
fn first_reason(rsm: &Rsm, id: usize) -> String {
    let detail = rsm.json(&["describe", &id.to_string(), "--json"]);
    detail[0]["exits"][0]["reason"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn leaking_child_restarts_tree_and_is_named() {
    let rsm = Rsm::new()
        .file("leak.py", "import time\nprint('up', flush=True)\nheld = b'x' * (90 << 20)\ntime.sleep(1000)\n")
        .file("tree.sh", "#!/bin/sh\nif [ ! -e once ]; then touch once; python3 leak.py & fi\nsleep 1000\n");
    rsm.ok(&["start", "tree.sh", "--max-memory-restart", "60M"]);
    let before = rsm.pids("tree")[0];
    rsm.wait_until("another process", |rsm| (rsm.pids("tree").first() != Some(&before)).then_some(()));
    rsm.wait_status("tree", "online");
    let reason = first_reason(&rsm, 0);
    for part in ["exceeds max_memory_restart = 60.0 MiB", "largest process: python3 (pid "] {
        assert!(reason.contains(part), "{reason}");
    }
    let bytes = |after: &str| -> f64 {
        reason.split_once(after).unwrap().1.split_whitespace().next().unwrap().parse().unwrap()
    };
    assert!(bytes("memory usage ") >= bytes("), "), "the largest part is at most the sum: {reason}");
    assert!(rsm.json(&["describe", "tree", "--json"])[0]["processes"].as_array().unwrap().len() <= 2);
}

const SERVER: &str = "
let held = [];
const grow = () => held.push(Buffer.alloc(160 << 20, 1));
require('http').createServer((request, answer) => {
  if (request.url === '/grow') grow();
  answer.end('all is well');
}).listen(Number(process.env.AT), '127.0.0.1');
process.on('SIGINT', () => process.exit(0));
";

#[test]
fn memory_limit_reload_fails_no_request() {
    for settings in ["exec_mode = \"cluster\"\ninstances = 2", "hold_port = true"] {
        let port = free_port();
        let app = format!(
            "[[apps]]\nname = \"web\"\nscript = \"app.js\"\nmax_memory_restart = \"150M\"\n{settings}\n"
        );
        let rsm = Rsm::new().file("app.js", SERVER).file("ecosystem.toml", &app).var("AT", &port.to_string());
        rsm.ok(&["start", "ecosystem.toml"]);
        let load = Client::local(port).timeout(DEADLINE).expect("all is well").load(3, Pace::Unlimited);
        get(port, "/grow").expect("no answer");
        let grown =
            rsm.wait_until("a replacement", |rsm| rsm.list().iter().position(|view| view["restarts"] == 1));
        rsm.wait_until("the old process has exited", |rsm| {
            (!first_reason(rsm, grown).is_empty()).then_some(())
        });
        load.finish().assert_clean();
        let reason = first_reason(&rsm, grown);
        assert!(reason.contains("max_memory_restart"), "{reason}");
        let restarts: Vec<_> = rsm.list().iter().map(|view| view["restarts"].clone()).collect();
        assert_eq!(restarts.iter().filter(|count| **count == 0).count(), restarts.len() - 1, "{restarts:?}");
    }
}

#[test]
fn errored_instance_keeps_limit_of_others() {
    let rsm = Rsm::new().file(
        "app.py",
        "import os, sys, time\n\
         if os.environ['NODE_APP_INSTANCE'] == '0': sys.exit(1)\n\
         while not os.path.exists('grow'): time.sleep(0.01)\n\
         held = b'x' * (90 << 20)\ntime.sleep(1000)\n",
    );
    rsm.run(&["start", "app.py", "-i", "2", "--max-restarts", "1", "--max-memory-restart", "60M"]);
    rsm.wait_until("the first instance is errored", |rsm| {
        (rsm.list()[0]["status"] == "errored").then_some(())
    });
    rsm.write("grow", "");
    rsm.wait_until("the second instance restarts", |rsm| {
        rsm.list()[1]["restarts"].as_u64().filter(|count| *count > 0)
    });
    rsm.ok(&["stop", "app"]);
    assert!(first_reason(&rsm, 1).contains("max_memory_restart"));
}

#[test]
fn hard_limits_hold_and_are_described() {
    let rsm = Rsm::new().file(
        "app.py",
        "import time\ntry:\n  held = b'x' * (200 << 20)\nexcept MemoryError:\n  print('no more', flush=True)\ntime.sleep(1000)\n",
    );
    rsm.write(
        "ecosystem.toml",
        "[[apps]]\nname = \"app\"\nscript = \"app.py\"\nmemory_max = \"100M\"\ncpu_max = 0.5\npids_max = 50\n\
         [[apps]]\nname = \"free\"\nscript = \"sleep\"\nargs = \"1000\"\n",
    );
    rsm.ok(&["start", "ecosystem.toml"]);
    let detail = rsm.json(&["describe", "app", "--json"]);
    let limits = detail[0]["limits"].as_array().unwrap();
    let values: Vec<_> =
        limits.iter().map(|limit| (limit["limit"].as_str().unwrap(), limit["value"].as_u64())).collect();
    assert_eq!(values, [("memory_max", Some(100 << 20)), ("cpu_max", Some(50)), ("pids_max", Some(50))]);
    // How a limit is enforced depends on the system; it is always reported.
    let memory = &limits[0];
    match memory["enforced_by"].as_str().unwrap() {
        "cgroup" => assert!(memory["note"].is_null(), "{memory}"),
        other => {
            assert_eq!(other, "rlimit");
            let out = rsm.home().join("logs/app-out.log");
            crate::harness::wait_until("an allocation fails", || {
                crate::harness::read(&out).contains("no more").then_some(())
            });
            assert!(memory["note"].as_str().unwrap().contains("per process"), "{memory}");
        }
    }
    rsm.ok(&["describe", "app"]).shows("Hard limits").shows("100.0 MB, enforced by");
    assert_eq!(rsm.json(&["describe", "free", "--json"])[0]["limits"].as_array().unwrap().len(), 0);
}
