"""BPF tokens: a child in a user namespace of its own makes a queue with what was delegated to it, and fails without.

The two sides of the flow: the child opens a bpffs context, so that the bpffs belongs to its namespace; the parent,
privileged outside, says what it delegates and mounts it; the child makes a token of the mount. Source:
kernel/bpf/token.c, tools/testing/selftests/bpf/prog_tests/token.c.
"""

import ctypes
import errno
import json
import os
import socket
import subprocess
import sys

import pytest

from rawbpf import BpfError, NotFound, Token, Unsupported
from rawbpf.maps import bpffs

pytestmark = [
    pytest.mark.creates,
    pytest.mark.admin,
    pytest.mark.linux("6.9"),
    pytest.mark.real_kernel(reason="tokens"),
]

# The numbers are the same on all architectures.
FSCONFIG, FSMOUNT = 431, 432
SET_STRING, CREATE = 1, 6

CHILD = """
import ctypes, json, os, socket, sys
import rawbpf
from rawbpf import NotPermitted, Queue, Stack, Token

FSOPEN = 430
libc = ctypes.CDLL(None, use_errno=True)

def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

uid, gid = os.getuid(), os.getgid()
checked(libc.unshare(0x10000000))                     # CLONE_NEWUSER
for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
    with open(f"/proc/self/{name}", "w") as file:
        file.write(text)
checked(libc.unshare(0x00020000))                     # CLONE_NEWNS
sock = socket.socket(fileno=int(sys.argv[1]))
context = checked(libc.syscall(FSOPEN, b"bpf", 0))
socket.send_fds(sock, [b"c"], [context])
_, (mount,), _, _ = socket.recv_fds(sock, 1, 1)
path = f"/proc/self/fd/{mount}"
report = {}

def attempt(name, call):
    try:
        report[name] = call()
    except (rawbpf.BpfError, OSError) as error:
        report[name] = [type(error).__name__, error.errno, str(error)]

def use(token=None, kind=Queue, btf=False):
    with kind("=I", 4, token=token, btf=btf) as m:
        m.push(7)
        return m.pop()

attempt("without", use)
try:
    token = Token.open(path)
except rawbpf.BpfError as error:
    report["open"] = [type(error).__name__, error.errno, str(error)]
else:
    with token:
        report["cmds"] = sorted(cmd.name for cmd in token.allowed_cmds)
        report["maps"] = sorted(each.name for each in token.allowed_maps)
        report["progs"], report["attachs"] = len(token.allowed_progs), token.allowed_attachs
        attempt("queue", lambda: use(token))
        attempt("stack", lambda: use(token, Stack))
        attempt("fileno", lambda: use(token.fileno()))
        attempt("typed", lambda: use(token, btf=True))
        attempt("ids", lambda: list(rawbpf.list_maps()))
        # CAP_BPF (39) out of the effective set: the token alone is not enough.
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        data = (ctypes.c_uint32 * 6)()
        checked(libc.capget(header, data))
        for bit in (39, 21):
            data[bit // 32 * 3] &= ~(1 << bit % 32)
        checked(libc.capset(header, data))
        attempt("no capability", lambda: use(token))
os.close(mount)
os.close(context)
sock.close()
print(json.dumps(report))
"""


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def flow(**delegated: str):
    """What the child reports when that is delegated."""
    libc = ctypes.CDLL(None, use_errno=True)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", CHILD, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        theirs.close()
        _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        if fds:
            context = fds[0]
            try:
                for name, what in delegated.items():
                    checked(libc.syscall(FSCONFIG, context, SET_STRING, name.encode(), what.encode(), 0))
                checked(libc.syscall(FSCONFIG, context, CREATE, None, None, 0))
                mount = checked(libc.syscall(FSMOUNT, context, 0, 0))
            finally:
                os.close(context)
            try:
                socket.send_fds(ours, [b"m"], [mount])
            finally:
                os.close(mount)
        output, error = child.communicate()
    assert child.returncode == 0, error
    return json.loads(output)


def test_a_queue_with_a_token():
    """With a delegating token and CAP_BPF in the namespace a queue is made and used; without either it is not."""
    report = flow(delegate_cmds="map_create", delegate_maps="queue:stack")
    assert report["queue"] == report["stack"] == report["fileno"] == 7
    assert report["cmds"] == ["BPF_MAP_CREATE"]
    assert report["maps"] == ["BPF_MAP_TYPE_QUEUE", "BPF_MAP_TYPE_STACK"]
    assert (report["progs"], report["attachs"]) == (0, 0)
    kind, number, text = report["typed"]
    assert (kind, number) == ("NotPermitted", errno.EPERM)
    assert "the token does not delegate BPF_BTF_LOAD, and is ignored" in text
    kind, number, text = report["without"]
    assert (kind, number) == ("NotPermitted", errno.EPERM)
    assert "outside user namespaces: use a BPF token" in text
    kind, number, text = report["no capability"]
    assert (kind, number) == ("NotPermitted", errno.EPERM)
    assert "a token counts only with CAP_BPF in its user namespace" in text
    assert report["ids"][:2] == ["NotPermitted", errno.EPERM]


def test_a_token_without_the_type():
    """A type that the token does not delegate is refused, and the error names the type and the mount option."""
    report = flow(delegate_cmds="map_create", delegate_maps="queue")
    assert report["queue"] == 7
    kind, number, text = report["stack"]
    assert (kind, number) == ("NotPermitted", errno.EPERM)
    assert "the token does not delegate BPF_MAP_TYPE_STACK, and is ignored" in text
    assert "delegate_maps" in text


def test_a_token_without_the_command():
    """A command that the token does not delegate likewise."""
    report = flow(delegate_cmds="prog_load", delegate_maps="queue")
    kind, number, text = report["queue"]
    assert (kind, number) == ("NotPermitted", errno.EPERM)
    assert "the token does not delegate BPF_MAP_CREATE, and is ignored" in text


def test_a_token_for_anything():
    """`any` delegates all that there is, BTF for btf=True included."""
    report = flow(delegate_cmds="any", delegate_maps="any", delegate_progs="any", delegate_attachs="any")
    assert report["queue"] == report["typed"] == 7
    assert "BPF_PROG_LOAD" in report["cmds"]
    assert "BPF_MAP_TYPE_HASH" in report["maps"]


def test_a_bpffs_that_delegates_nothing():
    """There is no token to be had (ENOENT), and the error says which mount options are missing."""
    kind, number, text = flow()["open"]
    assert (kind, number) == ("NotFound", errno.ENOENT)
    assert "delegate_cmds=map_create" in text


def test_no_token_in_the_initial_namespace(bpf_folder):
    """Where CAP_BPF is enough there are no tokens (EOPNOTSUPP)."""
    with pytest.raises((Unsupported, NotFound)) as caught:
        Token.open(bpf_folder)
    assert caught.value.errno in (errno.EOPNOTSUPP, errno.ENOENT)


def test_paths_that_give_no_token(bpf_folder, tmp_path):
    """Not a bpffs, and a folder below its root, are EINVAL; no folder at all is the OSError of open(2)."""
    below = os.path.join(bpf_folder, "below")
    os.mkdir(below)
    for path in (tmp_path, below):
        with pytest.raises(BpfError) as caught:
            Token.open(path)
        assert caught.value.errno == errno.EINVAL
        assert "not the root of a bpffs" in str(caught.value)
    with pytest.raises(FileNotFoundError):
        Token.open(tmp_path / "nothing")


def test_a_token_is_a_descriptor():
    """It is closed once, by close() or `with`; a forgotten one warns."""
    read, write = os.pipe()
    os.close(write)
    with Token(read) as token:
        assert token.fileno() == read
        assert repr(token) == f"<Token fd={read}>"
        with pytest.raises(RuntimeError, match="does not tell"):
            _ = token.allowed_cmds
    token.close()
    assert token.closed
    with pytest.raises(ValueError, match="closed"):
        token.fileno()
    read, write = os.pipe()
    os.close(write)
    with pytest.warns(ResourceWarning, match="unclosed <Token"):
        Token(read).__del__()


def test_the_flow_leaves_no_mount():
    """No bpffs is mounted afterwards that was not before."""
    before = set(bpffs.mounts())
    flow(delegate_cmds="map_create", delegate_maps="queue")
    assert set(bpffs.mounts()) == before
