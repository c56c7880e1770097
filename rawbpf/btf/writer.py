"""Writing BTF: types added one by one, and the blob that BPF_BTF_LOAD takes.

Source: Documentation/bpf/btf.rst.
"""

from collections.abc import Iterable, Mapping

from rawbpf.btf.reader import HEADER, MAGIC, PAIR, TRIPLE, TYPE, WORD, BtfError, Kind, Member


class Builder:
    """Makes BTF: add types, each call returns the new type's id, then encode().

    >>> from rawbpf.btf.reader import Btf
    >>> builder = Builder()
    >>> number = builder.integer("int", 4, signed=True)
    >>> pair = builder.struct("pair", 8, [("a", number, 0), ("b", number, 4)])
    >>> Btf(builder.encode()).offset_of("pair", "b")
    4
    """

    def __init__(self) -> None:
        self._types = bytearray()
        self._strings = bytearray(b"\0")
        self._count = 0
        self._index = 0

    def integer(self, name: str, size: int, signed: bool = False, boolean: bool = False) -> int:
        """An integer of `size` bytes; `boolean` for _Bool."""
        return self._add(name, Kind.INT, 0, size, WORD.pack(signed << 24 | boolean << 26 | size * 8))

    def float(self, name: str, size: int) -> int:
        """A floating-point number of `size` bytes. Linux 5.13."""
        return self._add(name, Kind.FLOAT, 0, size)

    def pointer(self, type_id: int = 0) -> int:
        """A pointer; to void by default."""
        return self._add("", Kind.PTR, 0, type_id)

    def typedef(self, name: str, type_id: int) -> int:
        """Another name of a type."""
        return self._add(name, Kind.TYPEDEF, 0, type_id)

    def const(self, type_id: int) -> int:
        """A type that is const."""
        return self._add("", Kind.CONST, 0, type_id)

    def array(self, element: int, count: int) -> int:
        """An array of `count` elements."""
        if not self._index:
            self._index = self.integer("__ARRAY_SIZE_TYPE__", 4)
        return self._add("", Kind.ARRAY, 0, 0, TRIPLE.pack(element, self._index, count))

    def enum(self, name: str, enumerators: Mapping[str, int], size: int = 4) -> int:
        """An enum; of 8 bytes it is ENUM64, with negative values it has the kflag: Linux 6.0 both."""
        wide = size == 8
        signed = any(value < 0 for value in enumerators.values())
        tail = b""
        for enumerator, value in enumerators.items():
            number = value % (1 << (64 if wide else 32))
            tail += PAIR.pack(self._string(enumerator), number & 0xFFFFFFFF) + (
                WORD.pack(number >> 32) if wide else b""
            )
        return self._add(name, Kind.ENUM64 if wide else Kind.ENUM, len(enumerators), size, tail, kflag=signed)

    def struct(self, name: str, size: int, members: "Iterable[tuple[str, int, int] | Member]") -> int:
        """A struct of `size` bytes; members are (name, type id, offset in bytes), or Member for bit-fields."""
        return self._composite(Kind.STRUCT, name, size, members)

    def union(self, name: str, size: int, members: "Iterable[tuple[str, int, int] | Member]") -> int:
        """A union of `size` bytes; members as for struct()."""
        return self._composite(Kind.UNION, name, size, members)

    def _composite(self, kind: Kind, name: str, size: int, given: "Iterable[tuple[str, int, int] | Member]") -> int:
        members = [each if isinstance(each, Member) else Member(each[0], each[1], each[2] * 8, 0) for each in given]
        # With the kflag an offset has 24 bits, and the bits above are the bit-field's width.
        kflag = any(member.bitfield_size for member in members)
        if len(members) > 0xFFFF or any(member.bit_offset >> (24 if kflag else 32) for member in members):
            raise BtfError(f"BTF can't describe {name or kind.name}: too many members, or too far from its beginning")
        tail = b"".join(
            TRIPLE.pack(self._string(each.name), each.type_id, each.bitfield_size << 24 | each.bit_offset)
            for each in members
        )
        return self._add(name, kind, len(members), size, tail, kflag=kflag)

    def function(self, name: str, returns: int, parameters: "list[tuple[str, int]]") -> int:
        """A static function and its prototype; parameters are (name, type id)."""
        tail = b"".join(PAIR.pack(self._string(parameter), type_id) for parameter, type_id in parameters)
        return self._add(name, Kind.FUNC, 0, self._add("", Kind.FUNC_PROTO, len(parameters), returns, tail))

    def encode(self) -> bytes:
        """The blob, as BPF_BTF_LOAD takes it."""
        types, strings = bytes(self._types), bytes(self._strings)
        header = HEADER.pack(MAGIC, 1, 0, HEADER.size, 0, len(types), len(types), len(strings))
        return header + types + strings

    def _add(self, name: str, kind: Kind, vlen: int, size: int, tail: bytes = b"", kflag: bool = False) -> int:
        self._types += TYPE.pack(self._string(name), kflag << 31 | kind << 24 | vlen, size) + tail
        self._count += 1
        return self._count

    def _string(self, text: str) -> int:
        if not text:
            return 0
        self._strings += text.encode() + b"\0"
        return len(self._strings) - len(text.encode()) - 1
