"""bpf_attr(): a field that does not exist is named, with the one that was meant."""

import pytest

import rawbpf


@pytest.mark.alike
@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"mapfd": 3}, "^union bpf_attr has no field 'mapfd': did you mean 'map_fd'[?]$"),
        ({"batch": {"cnt": 1}}, "^union bpf_attr, batch, has no field 'cnt': did you mean 'count'[?]$"),
        ({"map_fd": 3, "zzz": 1}, "^union bpf_attr has no field 'zzz'$"),
    ],
)
def test_unknown_fields(fields, says):
    """A misspelled field is a TypeError with the union's or the struct's name, and the nearest field."""
    with pytest.raises(TypeError, match=says):
        rawbpf.bpf_attr(**fields)
