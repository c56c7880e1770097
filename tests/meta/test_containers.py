"""The containers harness: what it takes from the guides is all that is there, and its profiles are what they are
called."""

import json

import pytest

from tests.harness import containers

pytestmark = pytest.mark.alike


def test_every_row_of_the_guide_is_tried():
    """Each row of the guide privileges has its call in the harness, and no call is without a row."""
    assert set(containers.rows_of_the_guide()) == set(containers.ROWS)


def test_the_lines_are_found():
    """The calls of docker are found where they stand: the Dockerfile's begin with its build, all others run."""
    build, *others = containers.lines_of_the_dockerfile()
    assert build == "docker build -f rawbpf/examples/Dockerfile -t rawbpf ."
    assert len(others) == 3
    assert len(containers.lines_of_the_guide()) >= 5
    assert all(line.startswith("docker run --rm ") for line in [*others, *containers.lines_of_the_guide()])


@pytest.mark.parametrize(
    ("line", "opened_by", "code"),
    [
        ("docker run --rm rawbpf doctor", None, 4),
        ("docker run --rm --cap-add BPF rawbpf push /m 1", ("CAP_SYS_ADMIN",), 4),
        ("docker run --rm --cap-add BPF rawbpf push /m 1", ("CAP_SYS_ADMIN", "CAP_BPF"), 0),
        ("docker run --rm --cap-drop ALL --cap-add SYS_ADMIN rawbpf list", ("CAP_SYS_ADMIN",), 0),
        ("docker run --rm --cap-drop ALL rawbpf push /m 1", None, 0),
        ("docker run --rm --security-opt seccomp=x rawbpf push /m 1", ("CAP_SYS_ADMIN", "CAP_BPF"), 0),
    ],
)
def test_what_is_expected_of_a_line(line, opened_by, code):
    """A line is expected to work if the profile opens bpf(2) to what the line adds."""
    profile = containers.Profile("one", containers.OURS, opened_by)
    assert containers.expected_code(line, profile) == code


def test_a_profile_with_another_rule():
    """The rule for bpf(2) is replaced, and nothing else is."""
    before = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": ["read", "bpf"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["bpf"], "action": "SCMP_ACT_ERRNO"},
        ],
    }
    after = containers.with_rule(json.loads(json.dumps(before)), ["CAP_BPF"])
    assert after["syscalls"][0]["names"] == ["read"]
    rules = [rule for rule in after["syscalls"] if "bpf" in rule["names"]]
    assert [rule["action"] for rule in rules] == ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"]
    assert rules[0]["includes"] == {"caps": ["CAP_BPF"]}
    assert rules[1]["excludes"] == {"caps": ["CAP_BPF"]}
