"""Attached: what ObjectFile.attach() did with each program of the file."""

from rawbpf.programs.link import Link


class Attached(dict[str, Link]):
    """The links of the attached programs, by the programs' names in C. `not_attached` says why of each of the others.
    str() has a line for every program.

    >>> attached = Attached()
    >>> attached.not_attached["drop"] = "attach() has to be told the target: an interface, as a name or an index"
    >>> print(attached)
    drop is not attached: attach() has to be told the target: an interface, as a name or an index
    """

    not_attached: dict[str, str]

    def __init__(self) -> None:
        super().__init__()
        self.not_attached = {}

    def __str__(self) -> str:
        lines = [f"{name} is attached to {link.target}" for name, link in self.items()]
        lines += [f"{name} is not attached: {reason}" for name, reason in self.not_attached.items()]
        return "\n".join(lines)
