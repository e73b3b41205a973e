#!/usr/bin/env python3
"""Starts an app, shows what it says, restarts it and removes it: `python3 examples/client.py`.

Nothing but Python's own http.client over the daemon's socket. docs/api.md describes what can be asked.
"""
import http.client
import json
import os
import socket

HOME = os.environ.get("RSM_HOME") or os.path.expanduser("~/.rsm")


class Connection(http.client.HTTPConnection):
    """HTTP over the daemon's Unix socket."""

    def __init__(self):
        super().__init__("rsm")

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.path.join(HOME, "rsm.sock"))


def ask(method, target, body=None):
    """What the daemon answers; fails with its words."""
    connection = Connection()
    connection.request(method, target, json.dumps(body) if body is not None else None)
    answer = connection.getresponse()
    value = json.load(answer)
    if answer.status != 200:
        raise RuntimeError(value["error"]["message"] + ". " + value["error"].get("hint", ""))
    return value


def lines(target):
    """The JSON lines of a stream."""
    connection = Connection()
    connection.request("GET", target)
    for line in connection.getresponse():
        yield json.loads(line)


print("rsm", ask("GET", "/v1/ping")["version"])
script = "while :; do echo hello; sleep 1; done"
apps = [{"name": "hello-py", "script": script, "launcher": "shell", "cwd": "/"}]
ask("POST", "/v1/apps", {"apps": apps, "inherited": {"PATH": os.environ["PATH"]}})
item = next(lines("/v1/logs?select=hello-py&follow=true"))
print(item["name"], "says", item["line"])
for outcome in ask("POST", "/v1/instances/restart", {"select": ["hello-py"]})["instances"]:
    print(f"{outcome['name']} (id {outcome['id']}): {outcome.get('error') or 'as wished'}")
for instance in ask("GET", "/v1/instances"):
    print(f"{instance['name']}: {instance['status']}, {instance['restarts']} restarts")
ask("POST", "/v1/instances/delete", {"select": ["hello-py"]})
