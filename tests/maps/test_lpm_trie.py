"""LpmTrie: what keys it takes, what it gives back, and which prefix a lookup finds."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rawbpf import BTF, Hash, LpmTrie, NoSuchKey
from rawbpf.maps.lpm_trie import LpmKey
from tests.conftest import examples

pytestmark = [pytest.mark.creates, pytest.mark.real_kernel(reason="the simulated one has no maps with keys")]


def test_the_longest_prefix_is_found():
    """A lookup finds the longest prefix that covers the key, and KeyError where none does."""
    with LpmTrie(IPv4Network, "<I", 16) as routes:
        routes.update({"10.0.0.0/8": 1, "10.1.0.0/16": 2, "10.1.2.3/32": 3})
        assert [routes[key] for key in ("10.9.9.9", "10.1.9.9", "10.1.2.3", "10.1.2.0/24")] == [1, 2, 3, 2]
        assert "11.0.0.0" not in routes and routes.get("0.0.0.0/0") is None
        with pytest.raises(NoSuchKey, match="11.0.0.0"):
            routes["11.0.0.0"]


def test_deletion_is_about_the_very_prefix():
    """What a lookup finds by a shorter prefix is not deleted, popped or replaced."""
    with LpmTrie(IPv4Network, "<I", 16) as routes:
        routes["10.0.0.0/8"] = 1
        with pytest.raises(NoSuchKey):
            del routes["10.1.0.0/16"]
        with pytest.raises(NoSuchKey):
            routes.pop("10.1.0.0/16")
        assert routes.pop("10.1.0.0/16", None) is None and not routes.discard("10.1.2.3")
        assert routes.setdefault("10.1.0.0/16", 2) == 2
        assert dict(routes.items()) == {IPv4Network("10.0.0.0/8"): 1, IPv4Network("10.1.0.0/16"): 2}


@pytest.mark.parametrize(
    ("spec", "keys", "listed"),
    [
        (IPv4Network, ["10.0.0.0/8", IPv4Network("10.0.0.0/8"), (8, b"\x0a\0\0\0")], IPv4Network("10.0.0.0/8")),
        (IPv4Network, ["10.0.0.1", IPv4Address("10.0.0.1")], IPv4Network("10.0.0.1/32")),
        (8, ["10.0.0.0/8", (8, bytearray(b"\x0a\0\0\0"))], (8, b"\x0a\0\0\0")),
        (IPv6Network, ["fd00::/8", IPv6Network("fd00::/8")], IPv6Network("fd00::/8")),
        (IPv6Network, ["::1", IPv6Address("::1")], IPv6Network("::1/128")),
        (6, [(12, b"ab")], (12, b"ab")),
        ("=I4s", [(8, b"\x0a\0\0\0")], (8, b"\x0a\0\0\0")),
    ],
)
def test_keys(spec, keys, listed):
    """Each way to write a key is the same key, and a listing gives it as the specification says."""
    for key in keys:
        with LpmTrie(spec, "<I", 4) as m, LpmTrie.from_id(m.id, None if spec == 8 else spec, "<I") as same:
            m[key] = 7
            assert dict(m.items()) == dict(same.items()) == {listed: 7}
            assert m[listed] == 7 and m.pop(listed) == 7


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("10.0.0.1/8", ValueError),
        ("::1", ValueError),
        ("host", ValueError),
        ((33, b"\0\0\0\0"), ValueError),
        ((-1, b"\0\0\0\0"), ValueError),
        ((8, b"\0\0\0"), ValueError),
        ((8, b"\0\0\0\0\0"), ValueError),
        ((8, 5), TypeError),
        (("8", b"\0\0\0\0"), TypeError),
        (8, TypeError),
        (b"\x08\0\0\0\x0a\0\0\0", TypeError),
    ],
)
def test_what_is_no_key(no_library_call, key, kind):
    """It is refused, and the kernel is not asked."""
    with LpmTrie(IPv4Network, "<I", 4) as m, no_library_call():
        for do in (lambda: m[key], lambda: m.update(key, 1), lambda: m.discard(key)):
            with pytest.raises(kind):
                do()


def test_bits_behind_the_prefix():
    """What others left there does not keep a network from being read."""
    with LpmTrie(8, "<I", 4) as raw, LpmTrie.from_id(raw.id, IPv4Network, "<I") as m:
        raw[(8, b"\x0a\x01\x02\x03")] = 1
        assert dict(m.items()) == {IPv4Network("10.0.0.0/8"): 1}
        assert m.pop("10.0.0.0/8") == 1


@settings(max_examples=examples(200), deadline=None)
@given(
    st.integers(1, 256).flatmap(
        lambda size: st.tuples(st.integers(0, 8 * size), st.binary(min_size=size, max_size=size))
    )
)
def test_keys_come_back_as_they_were(key):
    """Length and bytes of any key are the same after encoding and decoding."""
    codec = LpmKey(4 + len(key[1]))
    assert codec.decode(codec.encode(key)) == key


@pytest.mark.admin
def test_with_btf():
    """A trie that describes itself is opened by its types: the key is a struct of the prefix's length and the rest."""
    with LpmTrie(IPv4Network, "=I", 4, btf=True) as m, LpmTrie.from_id(m.id, BTF, BTF) as same:
        m["10.0.0.0/8"] = 7
        ((key, value),) = same.items()
        assert tuple(key) == (8, b"\x0a\0\0\0") and value == 7 and same.pop(key) == 7


def test_a_trie_is_no_hash():
    """Opened as another class it is refused."""
    with LpmTrie(8, 4, 4) as m, pytest.raises(TypeError, match="is no Hash"):
        Hash.from_id(m.id)
