"""What the tests of the command line share."""

import pytest


@pytest.fixture
def pinned(bpf_folder):
    """Makes a map with a pin; it is gone with the folder."""

    def make(kind, value, entries, name="m", **options):
        path = f"{bpf_folder}/{name}"
        with kind(value, entries, name=name, **options) as m:
            m.pin(path)
        return path

    return make
