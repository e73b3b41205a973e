"""A FUSE file system whose file `page` and directory `dead` do not respond, spoken to through /dev/fuse.

Arguments: the mount point. Writes `mounted`; a line on standard input answers all waiting and later requests.
The end of this process ends all requests with an error.
"""
import ctypes
import os
import select
import struct
import sys

LOOKUP, FORGET, GETATTR, READ, INIT, OPEN = 1, 2, 3, 15, 26, 14
OPENDIR, INTERRUPT, BATCH_FORGET = 27, 36, 42
NO_REPLY = {FORGET, INTERRUPT, BATCH_FORGET}
ROOT, PAGE, DEAD = 1, 2, 3
ENOENT, ENOSYS = 2, 38

libc = ctypes.CDLL(None, use_errno=True)
mount_point = sys.argv[1].encode()
fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
options = b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % fuse
if libc.mount(b"stall", mount_point, b"fuse", 0, options) != 0:
    sys.exit("mount: " + os.strerror(ctypes.get_errno()))
print("mounted", flush=True)

waiting, is_released = [], False


def attributes(node):
    mode, size = {PAGE: (0o100666, 4096)}.get(node, (0o40777, 0))
    return struct.pack("<6Q10I", node, size, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def reply(unique, body=b"", error=0):
    try:
        os.write(fuse, struct.pack("<IiQ", 16 + len(body), -error, unique) + body)
    except OSError:
        pass  # the caller was killed


def handle(opcode, unique, node, body):
    if not is_released and (opcode == READ or (node == DEAD and opcode == LOOKUP)):
        waiting.append((opcode, unique, node, body))
    elif opcode == INIT:
        reply(unique, struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 16, 12, 65536, 1, 0, 0, 0))
    elif opcode == LOOKUP:
        name = body.split(b"\0")[0]
        child = {b"page": PAGE, b"dead": DEAD}.get(name) if node == ROOT else None
        if child is None:
            return reply(unique, error=ENOENT)
        reply(unique, struct.pack("<4Q2I", child, 0, 3600, 3600, 0, 0) + attributes(child))
    elif opcode == GETATTR:
        reply(unique, struct.pack("<Q2I", 3600, 0, 0) + attributes(node))
    elif opcode in (OPEN, OPENDIR):
        reply(unique, struct.pack("<QIi", 1, 0, 0))
    elif opcode == READ:
        reply(unique, (b"p" * 63 + b"\n") * 64)
    elif opcode not in NO_REPLY:
        reply(unique, error=ENOSYS)


while True:
    ready, _, _ = select.select([fuse] + ([] if is_released else [0]), [], [])
    if 0 in ready:
        if not os.read(0, 100):
            sys.exit()
        is_released, answered, waiting = True, waiting, []
        for request in answered:
            handle(*request)
    if fuse in ready:
        try:
            packet = os.read(fuse, 1 << 20)
        except OSError as error:
            if error.errno in (2, 4):  # the request was interrupted
                continue
            sys.exit()  # unmounted
        _, opcode, unique, node = struct.unpack_from("<IIQQ", packet)
        handle(opcode, unique, node, packet[40:])
