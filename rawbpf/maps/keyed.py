"""KeyedMap: maps whose elements have keys, as mappings in Python's sense.

How a map's keys are listed while others change it:

- A hash is read bucket by bucket, with BPF_MAP_LOOKUP_BATCH (Linux 5.6). The kernel copies each bucket under its lock,
  and a key never changes its bucket. So the listing ends, no key comes twice, and one that is there all the time comes.
- An array has its indexes, once and for all.
- For everything else the kernel is asked for the key behind the last one. If that has vanished, it begins again with
  the first. What came already is left out then, so here too no key comes twice. A listing that was sent back to the
  beginning too often is given up with RuntimeError, as a dict's is when it is changed. In a trie that others change at
  that very moment the kernel's own step to the next key can skip some (seen on 6.18, in one of some thousand listings).

A key that is added or deleted meanwhile may come or not.
"""

import errno
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, ValuesView
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from rawbpf import syscall
from rawbpf.abi import BPF_ANY, BPF_EXIST, BPF_NOEXIST, ENOTSUPP, Cmd, ElemFlag
from rawbpf.abi.door import HOOK_RAISED, MAP_CLOSED, ffi, lib, raise_hook_failure
from rawbpf.maps.map import Map
from rawbpf.maps.per_cpu import buffer_size
from rawbpf.syscall import MapInfo
from rawbpf.syscall.descriptor import HasFileno
from rawbpf.syscall.errors import AlreadyExists, BpfError, Full, NoSuchKey, bpf_error
from rawbpf.values.codecs import BTF, Codec, OpenSpec, codec_for

if TYPE_CHECKING:
    from typing_extensions import TypeVar as DefaultTypeVar

    from rawbpf.abi._native import CData

    # A map opened without specifications, and one with struct formats, gives Any.
    K = DefaultTypeVar("K", default=Any)
    V = DefaultTypeVar("V", default=Any)
else:
    K = TypeVar("K")
    V = TypeVar("V")
D = TypeVar("D")

CHARS = ffi.typeof("char[]")
_LOOKUP, _UPDATE = int(Cmd.BPF_MAP_LOOKUP_ELEM), int(Cmd.BPF_MAP_UPDATE_ELEM)
_element = lib.map_element

# A batch takes about so many bytes, and at most so many elements.
BATCH_BYTES = 1 << 18
BATCH_ELEMENTS = 4096

# How often a listing may go over the whole map before it is given up, and how many steps it has in any case.
_ROUNDS = 16
_STEPS = 1024

# What a kernel answers that has no batch commands for a map (before 5.6: for any).
NO_BATCH = (-ENOTSUPP, -errno.EINVAL)

Raw = tuple[bytes, bytes]


class KeyedMap(Map, Mapping[K, V]):
    """What maps with keys have in common: m[key], m[key] = value, `in`, get(), keys(), values(), items() and update().

    Make one of the subclasses, such as Hash or Array. len() counts the keys one by one, for the kernel does not tell.
    dict(m.items()) reads all of it, many elements at once; dict(m) asks for each key, and is a KeyError if somebody
    deletes one meanwhile. Two maps are equal only if they are one object.
    """

    # How open_map() gives the specifications to from_fd().
    spec_names: ClassVar[tuple[str, ...]] = ("key", "value")

    # Whether batches are worth trying, and whether a listing by them can see a key twice when others delete some.
    _has_batches: bool = True
    _batches_repeat_keys: ClassVar[bool] = True

    _key: Codec[K]
    _value: Codec[V]
    _encode_key: Callable[[Any], bytes]
    _decode_key: Callable[[bytes], Any]
    _encode: Callable[[Any], bytes]
    _decode: Callable[[bytes], Any]

    # Making one

    def _create(
        self,
        key: Codec[Any],
        value: Codec[Any],
        max_entries: int,
        *,
        name: str,
        flags: int,
        numa_node: int | None,
        token: int | HasFileno | None,
        btf: bool,
        **more: int,
    ) -> None:
        """BPF_MAP_CREATE; `btf` describes the key and the value to the kernel."""
        for what, number in (("key", key.size), ("value", value.size), ("max_entries", max_entries)):
            if number < 1:
                raise ValueError(f"{what} must be more than 0, not {number} (EINVAL)")
        self._new_map(
            name,
            (key.size, value.size),
            max_entries,
            (key, value),
            flags=flags,
            numa_node=numa_node,
            token=token,
            described=partial(_described, key, value) if btf else None,
            **more,
        )

    @classmethod
    def _codecs_of(cls, info: MapInfo, *specs: Any) -> tuple[Any, ...]:
        cls._check_type(info)
        key, value = specs
        return _codec_by(info, "key", key), _codec_by(info, "value", value)

    @classmethod
    def _check_type(cls, info: MapInfo) -> None:
        if info.type not in cls.map_types:
            raise TypeError(f"{syscall.describe(info)} is no {cls.__name__}: rawbpf.open_map() finds the right class")

    def _adopt(self, fd: int, info: MapInfo, *codecs: Any) -> None:
        self._key, self._value = codecs
        self._encode_key, self._decode_key = self._key.encode, self._key.decode
        self._encode, self._decode = self._whole_value(self._value, info)
        self._buffer_size = buffer_size(info)
        # For calls whose answer nobody needs who is interrupted: they take nothing out.
        self._unread = ffi.new("int32_t *", 1)
        super()._adopt(fd, info)

    def _whole_value(self, codec: Codec[Any], info: MapInfo) -> tuple[Any, Any]:
        """What encodes and decodes all that the kernel reads and writes for one key: `buffer_size` bytes."""
        return codec.encode, codec.decode

    @property
    def key_size(self) -> int:
        """Length of a key in bytes."""
        return self._info.key_size

    # One element

    def __getitem__(self, key: K) -> V:
        """The value of a key (BPF_MAP_LOOKUP_ELEM). Raises NoSuchKey, a KeyError, if the map does not have it."""
        raw = self._encode_key(key)
        value = ffi.new(CHARS, self._buffer_size)
        result = _element(self._map, _LOOKUP, raw, value, 0, self._unread)
        if result == 0:
            return cast(V, self._decode(ffi.unpack(value, self._buffer_size)))
        raise self._failure(Cmd.BPF_MAP_LOOKUP_ELEM, result, key)

    def get(self, key: K, default: Any = None) -> Any:
        """The value of a key, or `default` if the map does not have it."""
        raw = self._looked_up(key)
        return default if raw is None else self._decode(raw)

    def __contains__(self, key: object) -> bool:
        return self._looked_up(key) is not None

    def _looked_up(self, key: Any) -> bytes | None:
        try:
            raw = self._encode_key(key)
        except NoSuchKey:
            return None
        return self._lookup(raw, key)

    def _lookup(self, raw: bytes, key: Any) -> bytes | None:
        """The bytes of a value, None if there is no such key; `key` names it in errors."""
        value = ffi.new(CHARS, self._buffer_size)
        result = _element(self._map, _LOOKUP, raw, value, 0, self._unread)
        if result == 0:
            return ffi.unpack(value, self._buffer_size)
        if result == -errno.ENOENT:
            return None
        raise self._failure(Cmd.BPF_MAP_LOOKUP_ELEM, result, key)

    def __setitem__(self, key: K, value: V) -> None:
        """Sets the value of a key, which may be new (BPF_MAP_UPDATE_ELEM). Raises what update() does."""
        self._update(key, value, 0)

    def update(self, key: Any, value: Any = ..., flags: int = BPF_ANY) -> None:
        """Sets the value of a key: update(key, value, BPF_NOEXIST). With a mapping or pairs alone, as a dict's: all of
        them, see update_many().

        Args:
            flags: BPF_ANY: whether the key is there or not. BPF_NOEXIST: only if it is new. BPF_EXIST: only if it is
                there.

        Raises:
            AlreadyExists: The key is there, and flags is BPF_NOEXIST (EEXIST).
            NoSuchKey: The key is not there, and flags is BPF_EXIST (ENOENT).
            Full: max_entries keys are in the map already (E2BIG).
            NotPermitted: The descriptor is read-only, or the map frozen (EPERM).
            Busy: The bucket's lock could not be had (EBUSY); nothing was changed.
            ValueError, TypeError: The key, the value or the flags break a rule.
        """
        if value is ...:
            return self.update_many(key)
        return self._update(key, value, flags)

    def _update(self, key: Any, value: Any, flags: int) -> None:
        if flags not in (BPF_ANY, BPF_NOEXIST, BPF_EXIST):
            raise ValueError(f"update takes BPF_ANY, BPF_NOEXIST or BPF_EXIST, not {_flag_name(flags)}")
        result = _element(self._map, _UPDATE, self._encode_key(key), self._encode(value), flags, self._unread)
        if result < 0:
            raise self._failure(Cmd.BPF_MAP_UPDATE_ELEM, result, key)

    # Many elements

    def update_many(self, items: "Mapping[K, V] | Iterable[tuple[K, V]]", flags: int = BPF_ANY) -> None:
        """Sets many values, all of which are encoded before the first is set; with BPF_MAP_UPDATE_BATCH, some thousand
        in one system call, where the kernel has it for this type of map (Linux 5.6).

        Raises what update() raises, for the first key that can't be set; those before it are set then.
        """
        pairs = list(items.items() if isinstance(items, Mapping) else items)
        keys = [self._encode_key(key) for key, _ in pairs]
        values = [self._encode(value) for _, value in pairs]
        done = 0
        if flags == BPF_ANY and self._has_batches:
            done = self._update_in_batches(keys, values)
        # What a batch did not take is tried again alone: then the error is about that key.
        for (key, value), raw_key, raw_value in zip(pairs[done:], keys[done:], values[done:], strict=True):
            if flags != BPF_ANY:
                self._update(key, value, flags)
                continue
            result = _element(self._map, _UPDATE, raw_key, raw_value, flags, self._unread)
            if result < 0:
                raise self._failure(Cmd.BPF_MAP_UPDATE_ELEM, result, key)

    def _update_in_batches(self, keys: list[bytes], values: list[bytes]) -> int:
        """Returns how many were set, in order; less than all if one could not be."""
        many = self._elements_of_batch()
        for first in range(0, len(keys), many):
            count = min(many, len(keys) - first)
            result, done = self._batch(
                Cmd.BPF_MAP_UPDATE_BATCH,
                ffi.from_buffer("char[]", b"".join(keys[first : first + count])),
                ffi.from_buffer("char[]", b"".join(values[first : first + count])),
                count,
            )
            if result < 0:
                return first + done
        return len(keys)

    def _batch(self, cmd: Cmd, keys: "CData", values: "CData", count: int) -> tuple[int, int]:
        """A batch command without a cursor: the kernel's answer, and for how many elements it was done."""
        batch = ffi.new("struct bpf_attr_batch *", {"keys": address(keys), "values": address(values), "count": count})
        result = lib.map_batch(self._map, cmd, batch, self._unread)
        if result == HOOK_RAISED:
            raise_hook_failure(result)
        # A call that was refused before it did anything leaves `count` as it was.
        return result, count if result == 0 else batch.count % count

    def _elements_of_batch(self) -> int:
        size = self._info.key_size + self._buffer_size
        return max(1, min(self._info.max_entries, BATCH_BYTES // size, BATCH_ELEMENTS))

    # Listing

    def __iter__(self) -> Iterator[K]:
        """The keys. See rawbpf.maps.keyed for what happens while others add and delete some."""
        for key, _ in self._raw_items():
            yield self._decode_key(key)

    def __len__(self) -> int:
        """How many keys there are, counted by going over them."""
        return sum(1 for _ in self._raw_items())

    def __bool__(self) -> bool:
        return self._next_key(None) is not None

    def items(self) -> ItemsView[K, V]:
        """The keys and their values, read together: in batches (Linux 5.6) where the kernel has them for this type."""
        return _Items(self)

    def values(self) -> ValuesView[V]:
        """The values, read as items() does it."""
        return _Values(self)

    __eq__ = object.__eq__
    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]

    def _pairs(self) -> Iterator[tuple[K, V]]:
        for key, value in self._raw_items():
            yield self._decode_key(key), self._decode(value)

    def _raw_items(self) -> Iterator[Raw]:
        """The elements as bytes, each key once."""
        if self._has_batches:
            seen: set[bytes] = set()
            pages = _Pages(self)
            while (page := pages.next()) is not None:
                for key, value in page:
                    # Also within a page: the kernel begins again by itself.
                    if key not in seen:
                        yield key, value
                    if self._batches_repeat_keys:
                        seen.add(key)
            if not pages.refused:
                return
            self._has_batches = False
        for key in self._raw_keys():
            found = self._lookup(key, key)
            if found is not None:
                yield key, found

    def _raw_keys(self) -> Iterator[bytes]:
        """The keys by BPF_MAP_GET_NEXT_KEY. The next one is fetched first, so that the caller may delete each."""
        seen: set[bytes] = set()
        key = self._next_key(None)
        for _ in range(_ROUNDS * self._info.max_entries + _STEPS):
            if key is None:
                return
            following = self._next_key(key)
            if key not in seen:
                seen.add(key)
                yield key
            key = following
        raise changed_too_fast(self._info)

    def _next_key(self, key: bytes | None) -> bytes | None:
        found = ffi.new(CHARS, self._info.key_size)
        here = ffi.NULL if key is None else key
        result = _element(self._map, Cmd.BPF_MAP_GET_NEXT_KEY, here, found, 0, self._unread)
        if result == 0:
            return ffi.unpack(found, self._info.key_size)
        if result == -errno.ENOENT:
            return None
        raise self._failure(Cmd.BPF_MAP_GET_NEXT_KEY, result, key)

    # Errors

    def _failure(self, cmd: Cmd, result: int, key: Any = None) -> Exception:
        """The exception for a command that answered `result`; for a map that was closed a ValueError."""
        raise_hook_failure(result)
        name = syscall.describe(self._info)
        if result == MAP_CLOSED:
            return ValueError(f"{name} is closed")
        kind, what = _MEANINGS.get(-result, (BpfError, ""))
        if what:
            return kind(-result, what.format(name=name, key=key, max_entries=self.max_entries), cmd)
        return bpf_error(cmd, -result, fd=self._fd, about=self._info.type, subject=name, max_entries=self.max_entries)


_MEANINGS: dict[int, tuple[type[BpfError], str]] = {
    errno.ENOENT: (NoSuchKey, "{name} has no key {key!r}"),
    errno.EEXIST: (AlreadyExists, "{name} has the key {key!r} already"),
    errno.E2BIG: (Full, "{name} is full ({max_entries} entries): no room for the key {key!r}"),
}


class _Items(ItemsView[K, V]):
    _mapping: KeyedMap[K, V]

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return self._mapping._pairs()


class _Values(ValuesView[V]):
    _mapping: KeyedMap[Any, V]

    def __iter__(self) -> Iterator[V]:
        return (value for _, value in self._mapping._pairs())


class _Pages:
    """A map's elements, batch after batch: next() until it is None. `refused` is whether the kernel has no batches for
    this map.

    The kernel's cursor is a bucket's number in a hash, and elsewhere the last key.
    """

    def __init__(self, owner: KeyedMap[Any, Any]) -> None:
        self.refused = False
        self._owner = owner
        self._count = owner._elements_of_batch()
        self._cursor: CData | None = None
        self._ended = False
        self._left = _ROUNDS * (owner._info.max_entries // self._count + 1) + _STEPS

    def next(self) -> list[Raw] | None:
        """Some elements, which may be none."""
        m = self._owner
        while not (self._ended or self.refused):
            self._left -= 1
            if self._left < 0:
                raise changed_too_fast(m._info)
            page = Page(m, self._count, self._cursor)
            result = lib.map_batch(m._map, Cmd.BPF_MAP_LOOKUP_BATCH, page.batch, page.answer)
            if result == HOOK_RAISED:
                raise_hook_failure(result)
            if result == -errno.ENOSPC:
                # A bucket is copied as a whole, and there is no room for all that is in this one.
                self._count *= 2
                continue
            if result in NO_BATCH and self._cursor is None:
                self.refused = True
                return None
            # EINTR: generic_map_lookup_batch() gave it (5.6) where a key was deleted between its two steps.
            if result not in (0, -errno.ENOENT, -errno.EINTR):
                raise m._failure(Cmd.BPF_MAP_LOOKUP_BATCH, result)
            self._ended = result == -errno.ENOENT
            if page.batch.count:
                self._cursor = page.cursor
            return page.elements()
        return None


class Page:
    """The buffers of one batch."""

    def __init__(self, m: KeyedMap[Any, Any], count: int, cursor: "CData | None") -> None:
        self.count = count
        self.key_size, self.value_size = m._info.key_size, m._buffer_size
        self.keys = ffi.new(CHARS, count * self.key_size)
        self.values = ffi.new(CHARS, count * self.value_size)
        # A bucket's number, or a key.
        self.cursor = ffi.new(CHARS, max(4, self.key_size))
        self.answer = ffi.new("int32_t *", 1)
        self._previous = cursor  # kept alive: the kernel reads it
        self.batch = ffi.new(
            "struct bpf_attr_batch *",
            {
                "in_batch": 0 if cursor is None else address(cursor),
                "out_batch": address(self.cursor),
                "keys": address(self.keys),
                "values": address(self.values),
                "count": count,
            },
        )

    def element(self, position: int) -> Raw:
        """One of those that the kernel has filled in."""
        key, value = position * self.key_size, position * self.value_size
        return (
            ffi.buffer(self.keys)[key : key + self.key_size],
            ffi.buffer(self.values)[value : value + self.value_size],
        )

    def elements(self) -> list[Raw]:
        """All that the kernel has filled in."""
        return [self.element(position) for position in range(self.batch.count)]


def address(buffer: "CData") -> int:
    """The address of memory that cffi holds, for an attr."""
    return int(ffi.cast("uintptr_t", buffer))


def changed_too_fast(info: MapInfo) -> RuntimeError:
    """For a listing that was sent back to the beginning too often."""
    return RuntimeError(f"the keys of {syscall.describe(info)} are deleted faster than they can be listed")


def _codec_by(info: MapInfo, part: str, spec: OpenSpec) -> Codec[Any]:
    """The codec for the keys or for the values of a map that is there."""
    size = info.key_size if part == "key" else info.value_size
    if spec is BTF:
        from rawbpf.values.map_btf import codec_of

        codec: Codec[Any] = codec_of(info, part)
    else:
        codec = codec_for(cast(Any, size if spec is None else spec))
    if codec.size != size:
        raise ValueError(f"{codec!r} has {codec.size} bytes, {syscall.describe(info)} {part}_size {size}")
    return codec


def _described(key: Codec[Any], value: Codec[Any], token_fd: int | None) -> Any:
    from rawbpf.values.map_btf import described

    return described(value, token_fd, key=key)


def _flag_name(flags: int) -> str:
    try:
        return ElemFlag(flags).name or hex(flags)
    except (ValueError, TypeError):
        return repr(flags)
