"""The command line, run as a user runs it: the installed command in a process of its own, on the real kernel."""

import ctypes
import json
import os
import re
import shutil
import struct
import subprocess

import pytest

import rawbpf
from rawbpf import Queue, Stack, open_map
from rawbpf.abi import door
from rawbpf.abi.door import FFI_MODE
from rawbpf.cli.notation import notation_for
from tests.cli.command import COMMAND, real_kernel, run
from tests.conftest import IS_ROOT

pytestmark = pytest.mark.alike

needs_setpriv = pytest.mark.skipif(
    not IS_ROOT or shutil.which("setpriv") is None, reason="needs CAP_SETPCAP (root), and setpriv installed"
)
needs_bpftool = pytest.mark.skipif(shutil.which("bpftool") is None, reason="bpftool is not installed")

NO_CAPABILITY = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


# Usage


def commands():
    text = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True).stdout
    return re.findall(r"^    (\w+)(?: |$)", text, re.MULTILINE)


def test_every_command_has_help_with_an_example():
    """Each command's --help shows an example of itself and the exit codes."""
    names = commands()
    assert {"list", "show", "create", "push", "peek", "pop", "drain", "size", "snapshot", "freeze", "pin"} <= set(names)
    assert {"watch", "doctor", "tour"} <= set(names)
    for name in names:
        text = run(name, "--help")
        assert re.search(rf"^example: .*\brawbpf {name}\b", text, re.MULTILINE)
        assert "3 empty or full, 4 not permitted" in text


@needs_setpriv
@pytest.mark.skipif(not IS_ROOT, reason="needs root to become another user")
def test_help_as_an_ordinary_user(tmp_path):
    """Help, version and the doctor answer without any privilege."""
    prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *NO_CAPABILITY[1:])
    # 126: may not be executed; 127: nor may a library of the interpreter be read.
    if subprocess.run([*prefix, *COMMAND, "--version"], capture_output=True).returncode in (126, 127):
        pytest.skip("the ordinary user may not read this installation")
    assert (
        run("--version", prefix=prefix)
        == f"rawbpf {rawbpf.__version__}, Linux {os.uname().release}, cffi mode {FFI_MODE}\n"
    )
    assert "exit codes" in run("--help", prefix=prefix)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("push", "/nowhere"),
        ("create", "hash", "/nowhere", "--entries", "1", "--value-size", "1"),
        ("create", "queue", "/nowhere", "--entries", "0", "--value-size", "1"),
        ("create", "queue", "/nowhere", "--entries", "1"),
        ("create", "queue", "/nowhere", "--entries", "1", "--format", "?!"),
        ("peek", "/nowhere", "--hex", "--raw"),
    ],
)
def test_usage_is_exit_code_2(arguments):
    """What makes no sense is exit code 2, and the kernel is not asked."""
    run(*arguments, code=2)


# Maps


@pytest.mark.creates
@pytest.mark.admin
class TestMaps:
    @pytest.mark.real_kernel(reason="size, snapshot and bpftool ask it")
    def test_create_show_list(self, kind, bpf_folder):
        """What create made, show and list show, by pin, id and name."""
        path, name = f"{bpf_folder}/made", kind.__name__.lower()
        made = json.loads(run("create", name, path, "--format", "<IH", "--entries", "0x10", "--json"))
        assert made["pinned"] == [path]
        expected = {"type": name, "name": "made", "flags": 0, "bytes_key": 0, "bytes_value": 6, "max_entries": 16}
        for spec in (path, f"id:{made['id']}"):
            shown = json.loads(run("show", spec, "--json"))
            assert {key: shown[key] for key in expected} == expected
            assert shown["id"] == made["id"]
            assert shown["size"] == 0
        assert made["id"] in [each["id"] for each in json.loads(run("list", "--json"))]
        header, *rows = [line.split() for line in run("list").splitlines()]
        assert header == ["ID", "TYPE", "NAME", "VALUE", "SIZE", "ENTRIES", "FLAGS", "PINS"]
        assert [str(made["id"]), name, "made", "6", "B", "0", "16", "0x0", path] in rows
        assert "max_entries    16" in run("show", path)

    def test_a_map_by_its_name(self, pinned):
        """name: finds the only map of that name."""
        name = f"cli_{os.getpid()}"
        pinned(Queue, 4, 3, name)
        assert json.loads(run("show", f"name:{name}", "--json"))["name"] == name

    def test_a_pin_whose_name_no_map_may_have(self, bpf_folder):
        """create takes the pin's name only if it can; --name says another."""
        path = f"{bpf_folder}/with-dashes"
        run("create", "queue", path, "--value-size", "4", "--entries", "1")
        assert "name" not in json.loads(run("show", path, "--json"))
        run("create", "queue", f"{bpf_folder}/x", "--value-size", "4", "--entries", "1", "--name", "other")
        assert json.loads(run("show", f"{bpf_folder}/x", "--json"))["name"] == "other"

    @needs_bpftool
    @pytest.mark.real_kernel(reason="size, snapshot and bpftool ask it")
    def test_the_list_equals_bpftools(self, pinned):
        """For every queue and stack that both list, the keys that both have are equal."""
        names = f"one_{os.getpid()}", f"two_{os.getpid()}"
        pinned(Queue, 8, 100, names[0])
        path = pinned(Stack, 12, 7, names[1], flags=rawbpf.MapFlag.BPF_F_RDONLY_PROG)
        run("freeze", path)
        theirs = json.loads(subprocess.run(["bpftool", "-j", "map"], capture_output=True).stdout)
        ours = {each["id"]: each for each in json.loads(run("list", "--json"))}
        compared = 0
        for each in theirs:
            mine = ours.get(each["id"])
            if mine and mine.get("name") in names:
                keys = mine.keys() & each.keys()
                assert keys >= {"id", "type", "name", "flags", "bytes_key", "bytes_value", "max_entries", "frozen"}
                assert "bytes_memlock" in keys
                assert {key: mine[key] for key in keys} == {key: each[key] for key in keys}
                assert set(mine) - set(each) <= {"size", "pinned"}
                compared += 1
        assert compared == 2

    @needs_bpftool
    @pytest.mark.real_kernel(reason="size, snapshot and bpftool ask it")
    def test_bpftool_reads_what_was_pushed(self, pinned):
        """bpftool peeks what rawbpf pushed, and rawbpf pops what bpftool pushed."""
        path = pinned(Queue, 4, 5)
        run("push", path, "0x01020304")
        peeked = subprocess.run(["bpftool", "-j", "map", "peek", "pinned", path], capture_output=True).stdout
        value = bytes(int(each, 16) for each in json.loads(peeked)["value"])
        assert value == struct.pack("=I", 0x01020304)
        run("pop", path)
        subprocess.run(["bpftool", "map", "enqueue", "pinned", path, "value", "5", "0", "0", "0"], check=True)
        assert run("pop", path, "--format", "<I") == "5\n"

    def test_unpin(self, pinned, tmp_path):
        """unpin removes a map's pin, and no other file."""
        path = pinned(Queue, 4, 5)
        with open_map(path) as q:
            assert json.loads(run("unpin", path, "--json")) == {"id": q.id, "unpinned": path}
            assert not os.path.exists(path)
            q.push(b"abcd")
        other = tmp_path / "file"
        other.write_text("mine")
        run("unpin", other, code=4)
        assert other.exists()
        assert "nothing is pinned at" in run("unpin", "id:1", code=1)

    @pytest.mark.skipif(not IS_ROOT, reason="needs CAP_CHOWN (root)")
    def test_owner_and_mode(self, pinned, bpf_folder):
        """pin and create take a mode and an owner, by name or number; what is refused leaves no pin."""
        path = pinned(Queue, 4, 5)
        run("pin", path, f"{bpf_folder}/other", "--mode", "0640", "--owner", "root:1234")
        status = os.stat(f"{bpf_folder}/other")
        assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o640, 0, 1234)
        made = f"{bpf_folder}/made"
        run("create", "queue", made, "--value-size", "4", "--entries", "1", "--owner", "1000", "--mode", "444")
        assert (os.stat(made).st_mode & 0o777, os.stat(made).st_uid, os.stat(made).st_gid) == (0o444, 1000, 0)
        assert "there is no user 'nobody-of-that-name'" in run(
            "pin", path, f"{bpf_folder}/third", "--owner", "nobody-of-that-name", code=2
        )
        assert "is not a mode" in run("pin", path, f"{bpf_folder}/third", "--mode", "rw", code=2)
        run("pin", path, f"{bpf_folder}/third", "--owner", str(2**40), code=1)
        assert not os.path.exists(f"{bpf_folder}/third")

    def test_pin_and_freeze(self, pinned, bpf_folder):
        """A second pin is the same map; after freeze a push is not permitted, and says why."""
        path = pinned(Queue, 4, 5)
        again = f"{bpf_folder}/again"
        assert run("pin", path, again) == ""
        run("push", again, "7")
        assert json.loads(run("freeze", path, "--json"))["frozen"] == 1
        assert "the map is frozen" in run("push", path, "8", code=4)
        assert run("peek", path) == "7\n"


# Values


@pytest.mark.parametrize(
    ("size", "options", "text", "data", "shown", "as_json"),
    [
        (4, {}, "7", struct.pack("=I", 7), "7", 7),
        (4, {}, "0x10", struct.pack("=I", 16), "16", 16),
        (4, {}, "1_000", struct.pack("=I", 1000), "1000", 1000),
        (4, {}, "010", struct.pack("=I", 10), "10", 10),
        (4, {"struct_format": "=i"}, "-1", b"\xff" * 4, "-1", -1),
        (1, {}, "65", b"A", "65", 65),
        (5, {}, "hello", b"hello", "hello", "hello"),
        (16, {"as_text": True}, "events", b"events".ljust(16, b"\0"), "events", "events"),
        (3, {}, "0x0102ff", b"\1\2\xff", "0x0102ff", "0x0102ff"),
        (4, {"as_hex": True}, "01 02:03,ff", b"\1\2\3\xff", "0x010203ff", "0x010203ff"),
        (4, {"as_text": True}, "ab", b"ab\0\0", "ab", "ab"),
        (4, {"as_text": True}, "a\nb", b"a\nb\0", "a\\nb", "a\nb"),
        (6, {"struct_format": "<IH"}, "7,80", struct.pack("<IH", 7, 80), "7,80", [7, 80]),
        (6, {"struct_format": "<IH"}, "7, 0x50", struct.pack("<IH", 7, 80), "7,80", [7, 80]),
        (4, {"struct_format": ">I"}, "1", b"\0\0\0\1", "1", 1),
        (8, {"struct_format": "<d"}, "2.5", struct.pack("<d", 2.5), "2.5", 2.5),
        (12, {"struct_format": "<I8s"}, "7,bash", struct.pack("<I8s", 7, b"bash"), "7,bash", [7, "bash"]),
        (1, {"struct_format": "?"}, "true", b"\1", "True", True),
    ],
)
def test_forms(size, options, text, data, shown, as_json):
    """Text becomes these bytes, and these bytes this text and this JSON."""
    form = notation_for(size, **options)
    assert form.encode(text) == data
    assert form.text(data) == shown
    assert form.json(data) == as_json


@pytest.mark.parametrize(
    ("size", "options", "text"),
    [
        (4, {}, "abcd"),
        (4, {}, "4294967296"),
        (1, {}, "-1"),
        (16, {}, "events"),
        (5, {}, "too long"),
        (4, {"as_hex": True}, "01"),
        (4, {"as_hex": True}, "0102030g"),
        (6, {"struct_format": "<IH"}, "7"),
        (6, {"struct_format": "<IH"}, "7,65536"),
    ],
)
def test_text_that_is_no_value(size, options, text):
    """Text that does not fit is a ValueError, never a value that was cut."""
    with pytest.raises(ValueError, match=r"."):
        notation_for(size, **options).encode(text)


@pytest.mark.creates
@pytest.mark.admin
class TestElements:
    @pytest.mark.real_kernel(reason="size, snapshot and bpftool ask it")
    def test_push_peek_pop(self, kind, pinned):
        """Numbers as people write them; a queue gives the oldest, a stack the newest."""
        path = pinned(kind, 4, 5)
        assert run("push", path, "1", "0x2", "3") == ""
        assert run("size", path) == "3\n"
        first = "1" if kind is Queue else "3"
        assert run("peek", path) == f"{first}\n"
        assert json.loads(run("peek", path, "--json")) == {"value": int(first)}
        assert run("pop", path, "-n", "10") == ("1\n2\n3\n" if kind is Queue else "3\n2\n1\n")

    @pytest.mark.real_kernel(reason="size, snapshot and bpftool ask it")
    def test_a_struct(self, pinned):
        """Fields with commas in, fields with commas out, a list in JSON."""
        path = pinned(Queue, "<IH", 5)
        run("push", path, "7,80", "8,443", "--format", "<IH")
        assert run("snapshot", path, "--format", "<IH") == "7,80\n8,443\n"
        assert json.loads(run("snapshot", path, "--format", "<IH", "--json")) == [[7, 80], [8, 443]]
        assert run("pop", path, "--format", "<IH") == "7,80\n"
        assert json.loads(run("size", path, "--json")) == {"size": 1, "max_entries": 5}

    @real_kernel
    def test_values_by_the_type_that_the_map_carries(self, pinned, kind):
        """--btf: JSON with C's names in and out; what is left out is zero; enums by name."""

        class Event(ctypes.Structure):
            _fields_ = [("pid", ctypes.c_int), ("comm", ctypes.c_char * 8), ("raw", ctypes.c_ubyte * 3)]

        path = pinned(kind, Event, 4, btf=True)
        run("push", path, "--btf", '{"pid": -7, "comm": "bash", "raw": "0x01ff00"}')
        shown = {"pid": -7, "comm": "bash", "raw": "0x01ff00"}
        assert json.loads(run("peek", path, "--btf")) == shown
        assert json.loads(run("peek", path, "--btf", "--json")) == {"value": shown}
        assert json.loads(run("snapshot", path, "--btf", "--json")) == [shown]
        assert json.loads(run("pop", path, "--btf")) == shown
        run("push", path, "--btf", "-", stdin=b'{"pid": 1}\n[2, "two", "abc"]\n')
        assert {json.loads(line)["pid"] for line in run("drain", path, "--btf").splitlines()} == {1, 2}
        assert "btf_id" in json.loads(run("show", path, "--json"))

    @real_kernel
    def test_a_map_that_describes_its_values(self, pinned):
        """Without a choice a struct that the map describes is JSON with its members; numbers and bytes are as ever."""
        path = pinned(Queue, "=IH", 4, btf=True)
        run("push", path, '{"f0": 7, "f1": 80}')
        assert json.loads(run("peek", path)) == {"f0": 7, "f1": 80}
        assert run("peek", path, "--format", "=IH") == "7,80\n"
        assert run("pop", path, "--hex") == "0x" + struct.pack("=IH", 7, 80).hex() + "\n"
        number, text = pinned(Queue, "=I", 4, name="n", btf=True), pinned(Queue, 5, 4, name="t", btf=True)
        run("push", number, "0x10")
        assert run("pop", number) == "16\n"
        run("push", text, "hello")
        assert run("pop", text) == "hello\n"

    @real_kernel
    @pytest.mark.parametrize(
        ("text", "error"),
        [
            ('{"f0": -1}', "value.f0: -1 does not fit"),
            ('{"pid": 1}', "there is no member 'pid'"),
            ('{"f0"', "is not JSON"),
            ("[1, 2, 3]", "there are 3 values, and it takes 2"),
            ("7", "7 is neither a tuple nor a list"),
        ],
    )
    def test_json_that_is_no_value(self, pinned, text, error):
        """What the type does not take is exit code 2, and says which member."""
        path = pinned(Queue, "IH", 4, btf=True)
        assert error in run("push", path, "--btf", text, code=2)

    @real_kernel
    def test_a_map_created_with_its_type(self, bpf_folder):
        """create --btf describes the value; a map without a type is exit code 2 for --btf."""
        run("create", "queue", f"{bpf_folder}/typed", "--format", "=IH", "--entries", "4", "--btf")
        run("push", f"{bpf_folder}/typed", "--format", "=IH", "7,80")
        assert json.loads(run("pop", f"{bpf_folder}/typed", "--btf")) == {"f0": 7, "f1": 80}
        run("create", "queue", f"{bpf_folder}/plain", "--format", "=IH", "--entries", "4")
        assert "'plain' carries no BTF" in run("pop", f"{bpf_folder}/plain", "--btf", code=2)

    def test_raw_bytes(self, pinned):
        """--raw moves the bytes of stdin and stdout, whatever they are."""
        path, data = pinned(Queue, 3, 1000), os.urandom(3 * 500)
        assert json.loads(run("push", path, "-", "--raw", "--json", stdin=data)) == {"pushed": 500}
        result = subprocess.run([*COMMAND, "drain", path, "--raw"], capture_output=True)
        assert result.stdout == data

    @pytest.mark.real_kernel(reason="size, snapshot and bpftool ask it")
    def test_raw_bytes_that_are_no_whole_values(self, pinned):
        """Whole values are pushed, and the rest is an error."""
        path = pinned(Queue, 4, 10)
        assert "2 bytes are left over" in run("push", path, "-", "--raw", stdin=b"abcdefghij", code=1)
        assert run("size", path) == "2\n"

    def test_lines_from_stdin(self, pinned):
        """push - takes a value a line, the last with or without its newline."""
        path = pinned(Queue, 8, 1000)
        lines = "\n".join(map(str, range(500)))
        assert json.loads(run("push", path, "-", "--json", stdin=lines.encode())) == {"pushed": 500}
        assert run("push", path, "-", stdin=b"500\n") == ""
        assert run("drain", path) == "".join(f"{number}\n" for number in range(501))

    def test_a_line_that_is_no_value(self, pinned):
        """All lines before it are pushed."""
        path = pinned(Queue, 8, 1000)
        assert "'x' is not a number" in run("push", path, "-", stdin=b"1\n2\nx\n4\n", code=1)
        assert run("drain", path) == "1\n2\n"

    def test_full_and_empty_are_exit_code_3(self, pinned):
        """Full says how many went in; --exist overwrites; empty says so, in JSON too."""
        path = pinned(Queue, 4, 3)
        assert "is empty" in run("pop", path, code=3)
        assert "is empty" in run("peek", path, code=3)
        assert json.loads(run("pop", path, "--json", code=3))["errno"] == "ENOENT"
        assert "is full (3 entries): 3 pushed" in run("push", path, "1", "2", "3", "4", code=3)
        run("push", path, "4", "--exist")
        assert run("drain", path) == "2\n3\n4\n"

    def test_errors_are_exit_code_1(self, bpf_folder):
        """Nothing pinned there, and no such id."""
        assert "nothing is pinned at" in run("show", f"{bpf_folder}/nothing", code=1)
        assert json.loads(run("show", "id:4294967295", "--json", code=1))["errno"] == "ENOENT"

    @pytest.mark.real_kernel(reason="size, snapshot and bpftool ask it")
    def test_a_value_of_the_wrong_form_is_usage(self, pinned):
        """A value that is no number, or a format of another size: exit code 2, nothing pushed."""
        path = pinned(Queue, 4, 3)
        assert "'abc' is not a number" in run("push", path, "1", "abc", code=2)
        assert "has 8 bytes, and a value has 4" in run("push", path, "1", "--format", "<Q", code=2)
        assert run("size", path) == "0\n"

    @needs_setpriv
    def test_not_permitted_is_exit_code_4(self, bpf_folder):
        """The reason stands in the error, in text and in JSON."""
        arguments = ("create", "queue", f"{bpf_folder}/no", "--value-size", "4", "--entries", "1")
        assert "this process has no CAP_" in run(*arguments, code=4, prefix=NO_CAPABILITY)
        said = json.loads(run(*arguments, "--json", code=4, prefix=NO_CAPABILITY))
        assert (said["errno"], said["command"]) == ("EPERM", "BPF_MAP_CREATE")
        assert "this process has no CAP_" in said["hint"]
        said = json.loads(run("list", "--json", code=4, prefix=NO_CAPABILITY))
        assert "CAP_SYS_ADMIN" in said["hint"]

    @pytest.mark.real_kernel(reason="size, snapshot and bpftool ask it")
    def test_a_closed_stdout(self, pinned):
        """Output that nobody reads ends the command without a word."""
        path = pinned(Queue, 8, 1000)
        with open_map(path, "=Q") as q:
            q.push_many(range(1000))
        text = f"{' '.join(COMMAND)} snapshot {path} | head -1; echo ${{PIPESTATUS[0]}}"
        result = subprocess.run(["bash", "-c", text], capture_output=True, text=True)
        assert result.stdout == "0\n0\n"
        assert result.stderr == ""

    @pytest.mark.real_kernel(reason="size, snapshot and bpftool ask it")
    def test_watch(self, pinned):
        """A line or an object per look."""
        path = pinned(Queue, 4, 10)
        run("push", path, "1", "2")
        lines = run("watch", path, "--count", "2", "--interval", "0.01").splitlines()
        assert len(lines) == 2
        assert "[######                        ]  2 of 10" in lines[0]
        looks = [
            json.loads(line) for line in run("watch", path, "--count", "2", "--interval", "0.01", "--json").splitlines()
        ]
        assert [(look["size"], look["max_entries"]) for look in looks] == [(2, 10)] * 2

    @pytest.mark.real_kernel(reason="size, snapshot and bpftool ask it")
    def test_push_waits_for_room(self, pinned):
        """push - --wait gets more through a queue than it holds."""
        path = pinned(Queue, 8, 10)
        producer = subprocess.Popen([*COMMAND, "push", path, "-", "--wait"], stdin=subprocess.PIPE)
        consumer = subprocess.Popen(
            [*COMMAND, "drain", path, "--follow", "--limit", "5000"], stdout=subprocess.PIPE, text=True
        )
        producer.communicate("".join(f"{number}\n" for number in range(5000)).encode())
        output, _ = consumer.communicate()
        assert (producer.returncode, consumer.returncode) == (0, 0)
        assert output == "".join(f"{number}\n" for number in range(5000))


def test_doctor():
    """Facts and checks in text and in JSON; the exit code says whether a map can be made."""
    result = subprocess.run([*COMMAND, "doctor", "--json"], capture_output=True, text=True)
    found = json.loads(result.stdout)
    create = next(check for check in found["checks"] if check["name"] == "create")
    assert result.returncode == (0 if create["works"] else 4)
    assert found["facts"]["kernel"] == ("7.2.0-simulated" if door.simulated is not None else os.uname().release)
    assert "create: " in subprocess.run([*COMMAND, "doctor"], capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--require", "create"], 0),
        (["--require", "create,elements,ids,pins"], 0),
        (["--require", "create,bulk"], 1),
        (["--require", "creat"], 2),
        (["--require", "push"], 2),
        (["/nowhere/none"], 1),
        (["/nowhere/none", "--require", "peek,pop"], 1),
        (["/nowhere/none", "--require", "pins"], 2),
    ],
)
def test_what_the_doctor_is_to_require(tmp_path, arguments, code):
    """The exit code is about the checks that are required: those of a map, or of this process; others are usage
    errors."""
    # On the simulated kernel all works but bulk, whatever this process may do.
    environment = os.environ | {"RAWBPF_SIMULATE": str(tmp_path / "kernel")}
    done = subprocess.run([*COMMAND, "doctor", *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == code, done.stdout + done.stderr


@pytest.mark.creates
@pytest.mark.admin
@pytest.mark.real_kernel(reason="what it permits")
@pytest.mark.linux("5.19")
@needs_setpriv
def test_what_is_not_permitted_is_exit_code_4(pinned):
    """Of what is required and not permitted, here or with a map, the exit code is 4; what is not required is not
    asked about."""
    path = pinned(Queue, "<I", 4)
    run("doctor", code=4, prefix=NO_CAPABILITY)
    run("doctor", path, "--require", "qsize", code=4, prefix=NO_CAPABILITY)
    run("doctor", path, "--require", "push,pop", prefix=NO_CAPABILITY)


@pytest.mark.creates
@pytest.mark.admin
def test_the_doctor_tries_a_map(pinned):
    """`doctor MAP` says what works with it and leaves it as it is; --json has the same checks."""
    path = pinned(Queue, "<I", 4)
    run("push", path, 1, 2)
    found = json.loads(run("doctor", path, "--json", "--require", "peek,push,pop,qsize"))
    assert [check["name"] for check in found["checks"]] == ["open", "peek", "push", "pop", "qsize"]
    assert run("snapshot", path) == "1\n2\n"


# What is closed, odd or beyond all measure


@pytest.mark.parametrize("arguments", [["list"], ["drain", "id:1"], ["doctor"], ["tour"]])
@pytest.mark.parametrize("closing", ["exec 0<&-", "exec 1>&-", "exec 2>&-"])
def test_closed_standard_streams(arguments, closing):
    """A closed stdin, stdout or stderr is exit code 2, never a traceback."""
    done = subprocess.run(["sh", "-c", f'{closing}; exec "$@"', "sh", *COMMAND, *arguments], capture_output=True)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


@pytest.mark.creates
@pytest.mark.admin
def test_names_that_are_not_utf8(bpf_folder):
    """A pin, and another's map, whose names are no UTF-8 can be made, listed and shown."""
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    path = os.fsencode(bpf_folder) + b"/\xff"
    made = subprocess.run(
        [*COMMAND, "create", "queue", path, "--value-size", "4", "--entries", "2", "--name", "q"],
        env=environment,
        capture_output=True,
    )
    assert (made.returncode, made.stderr) == (0, b"")
    assert os.fsencode(bpf_folder) + b"/\\xff\n" in made.stdout
    assert subprocess.run([*COMMAND, "list"], env=environment, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["push", "id:1", "--format", "999999999999999s", "x"],
        ["create", "queue", "/nowhere/q", "--format", "999999999999999s", "--entries", "1"],
        ["create", "queue", "/nowhere/q", "--format", "99999999999999s", "--entries", "1", "--btf"],
        ["create", "queue", "/nowhere/q", "--value-size", "18446744073709551616", "--entries", "1", "--btf"],
        ["create", "queue", "/nowhere/q", "--value-size", "4", "--entries", "18446744073709551616", "--btf"],
        ["watch", "id:1", "--interval", "-5"],
        ["watch", "id:1", "--interval", "nan"],
    ],
)
def test_numbers_beyond_all_measure(arguments):
    """They are refused with a line of text that says why, never a traceback."""
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True)
    assert done.returncode in (1, 2, 4)
    assert "Traceback" not in done.stderr
    assert "MemoryError" not in done.stderr


def test_values_that_do_not_fit():
    """A float too large, JSON too deep, digits with 0x within, a boolean that is none: ValueError."""
    for form, text in (
        (notation_for(4, struct_format="<f"), "1e+300"),
        (notation_for(2, as_hex=True), "10x1"),
        (notation_for(1, struct_format="?"), "maybe"),
    ):
        with pytest.raises(ValueError, match=re.escape(text)):
            form.encode(text)


def test_json_has_no_nan():
    """Floats that JSON has no number for are text, as in Protocol Buffers' JSON."""
    form = notation_for(4, struct_format="<f")
    for number, shown in ((float("nan"), "NaN"), (float("inf"), "Infinity"), (float("-inf"), "-Infinity"), (0.5, 0.5)):
        assert form.json(struct.pack("<f", number)) == shown


def test_errors_of_files_have_the_name_in_json(tmp_path):
    """With --json an error that is not the kernel's says the same as without."""
    assert "none.o" in json.loads(run("run", tmp_path / "none.o", "--json", code=1))["error"]
