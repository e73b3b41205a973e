#!/usr/bin/env python3
"""Starts an app, follows its log, restarts it and deletes it. Run with: python3 examples/client.py

Uses only the standard library and the socket of the daemon. The API is described in docs/api.md.
"""
import http.client
import json
import os
import socket

HOME = os.environ.get("RSM_HOME") or os.path.expanduser("~/.rsm")


class Connection(http.client.HTTPConnection):
    """An HTTP connection over the Unix socket of the daemon."""

    def __init__(self):
        super().__init__("rsm")

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.path.join(HOME, "rsm.sock"))


def call(method, target, body=None):
    """Sends a request to the daemon and returns the decoded response. Raises the error of the daemon."""
    connection = Connection()
    connection.request(method, target, json.dumps(body) if body is not None else None)
    response = connection.getresponse()
    value = json.load(response)
    if response.status != 200:
        raise RuntimeError(value["error"]["message"] + ". " + value["error"].get("hint", ""))
    return value


def lines(target):
    """Yields the JSON objects of a stream."""
    connection = Connection()
    connection.request("GET", target)
    for line in connection.getresponse():
        yield json.loads(line)


print("rsm", call("GET", "/v1/ping")["version"])
script = "while :; do echo hello; sleep 1; done"
apps = [{"name": "hello-py", "script": script, "launcher": "shell", "cwd": "/"}]
call("POST", "/v1/apps", {"apps": apps, "inherited": {"PATH": os.environ["PATH"]}})
item = next(lines("/v1/logs?select=hello-py&follow=true"))
print(f"{item['name']}: {item['line']}")
for result in call("POST", "/v1/instances/restart", {"select": ["hello-py"]})["instances"]:
    print(f"{result['name']} (id {result['id']}): {result.get('error') or 'ok'}")
for instance in call("GET", "/v1/instances"):
    print(f"{instance['name']}: {instance['status']}, {instance['restarts']} restarts")
call("POST", "/v1/instances/delete", {"select": ["hello-py"]})
