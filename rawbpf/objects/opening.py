"""open_map() for maps that others have made: their types stand in the C file that was compiled."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rawbpf.maps import opening
from rawbpf.syscall import StrPath

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from rawbpf.objects.map_definitions import MapDeclaration
    from rawbpf.values.codecs import OpenSpec


def open_map(
    spec: StrPath,
    value: "OpenSpec" = None,
    *,
    key: "OpenSpec" = None,
    types: "StrPath | Buffer | None" = None,
    name: str = "",
    access: str = "rw",
) -> Any:
    """Opens a map as what the kernel says it is: a Queue, a Stack ...

    Args:
        spec: A pin's path, "id:294", or "name:events". (A relative path that begins so: "./id:294".)
        value: What an element or a value is, as in Queue.open(): None for bytes, rawbpf.BTF for what the map says.
        key: The same for the keys, of a map that has keys which are no indexes.
        types: The object file, as its path or its bytes, in which the map is declared: elements have their types in C.
            For a map that another program has loaded and pinned, such as libbpf, which gives queues and stacks no BTF.
            Needs pyelftools.
        name: Which of the file's maps it is; by default the one that the pin, or the map after "name:", is called like.
        access: "rw", "r" or "w".

    Raises what Queue.open(), from_id() and from_name() raise; ObjectFileError for a file that is no object, ValueError
    for one that does not have the map, or has another with other sizes; TypeError for `types` beside `value`.

    >>> with Stack("<I", 3) as s, open_map(f"id:{s.id}", "<I") as same:
    ...     s.push(7)
    ...     type(same).__name__, same.pop()
    ('Stack', 7)
    >>> with open_map("/sys/fs/bpf/events", types="events.bpf.o") as events:  # doctest: +SKIP
    ...     print(events.pop().pid)
    """
    if types is None:
        return opening.open_map(spec, value, key=key, access=access)
    if value is not None or key is not None:
        raise TypeError("open_map() takes either types or value and key: the object file says what they are")
    from rawbpf.objects.declarations import Selection, read
    from rawbpf.objects.loader import codecs_of
    from rawbpf.objects.object_file import content_of

    _, data = content_of(types)
    declared = read(data, Selection(only=()))
    found = _find(declared.maps, os.fsdecode(spec), name)
    opened = opening.open_map(spec, access=access, **codecs_of(declared.btf, found))
    there = opened.info().type
    if there != found.type:
        opened.close()
        raise ValueError(f"{spec!r} is of {there.name}, and {found.name!r} in the object file of {found.type.name}")
    return opened


def _find(maps: "dict[str, MapDeclaration]", spec: str, name: str) -> "MapDeclaration":
    """The declaration by the name that is given, or else by that of the pin; of the kernel's names 15 bytes count."""
    wanted = name or Path(spec.removeprefix("name:")).name
    found = [each for each in maps.values() if each.name == wanted]
    found = found or [each for each in maps.values() if spec.startswith("name:") and each.name[:15] == wanted]
    if len(found) != 1:
        there = ", ".join(maps) or "none"
        raise ValueError(f"which map of the object file is {spec!r}? Say name=...: it has {there}")
    return found[0]
