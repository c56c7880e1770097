"""The command that makes a token of what a bpffs delegates."""

from rawbpf.abi import Cmd
from rawbpf.syscall.call import bpf_attr, open_descriptor
from rawbpf.syscall.errors import bpf_error
from rawbpf.syscall.rules import check_fd


def token_create(bpffs_fd: int) -> int:
    """BPF_TOKEN_CREATE: makes a token of what a bpffs delegates, returns its descriptor.

    `bpffs_fd` is an open folder: the root of a bpffs that was mounted for this process's user namespace with delegate_*
    options. Raises NotPermitted (EPERM: the bpffs is of another user namespace, or CAP_BPF is missing in this one),
    NotFound (ENOENT: nothing is delegated), Unsupported (EOPNOTSUPP: in the initial user namespace, or a kernel
    without tokens), BpfError (EINVAL: not a bpffs's root). Needs CAP_BPF in the user namespace.
    Linux 6.9. In the kernel: bpf_token_create().
    """
    attr = bpf_attr(token_create={"bpffs_fd": check_fd(bpffs_fd)})
    result = open_descriptor(Cmd.BPF_TOKEN_CREATE, attr)
    if result < 0:
        raise bpf_error(Cmd.BPF_TOKEN_CREATE, -result, subject=f"the bpffs of descriptor {bpffs_fd}")
    return result
