import hashlib
import os
import time

from hypothesis import given
from hypothesis import strategies as st

from tunemake.digests import Digests, canonical, sha256_of_file, sha256_of_json


def test_it_is_what_sha256sum_says(tmp_path):
    data = os.urandom(3_000_001)
    (tmp_path / "f").write_bytes(data)
    assert sha256_of_file(tmp_path / "f") == hashlib.sha256(data).hexdigest()


def old(path):
    """Make a file older than one tick of the file system's clock."""
    time.sleep(0.06)
    return path


def test_an_unchanged_file_is_known_and_the_cache_survives(tmp_path):
    file = tmp_path / "f"
    file.write_text("x")
    digests = Digests(tmp_path / "cache" / "d.json")
    first = digests.of(old(file))
    digests.save()
    again = Digests(tmp_path / "cache" / "d.json")
    assert again.is_known(file)
    assert again.of(file) == first


def test_same_size_and_mtime_but_other_content_is_seen(tmp_path):
    file = tmp_path / "f"
    file.write_text("one")
    digests = Digests(tmp_path / "d.json")
    before = digests.of(old(file))
    stat = file.stat()
    file.write_text("two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.stat().st_mtime_ns == stat.st_mtime_ns
    assert digests.of(file) != before


def test_a_file_just_written_is_not_remembered_since_it_may_change_within_the_same_tick(tmp_path):
    file = tmp_path / "f"
    file.write_text("x")
    digests = Digests(tmp_path / "d.json")
    digests.of(file)
    assert not digests.is_known(file)


def test_a_damaged_cache_costs_only_time(tmp_path):
    (tmp_path / "d.json").write_text('{"half": [1, ')
    (tmp_path / "f").write_text("x")
    assert Digests(tmp_path / "d.json").of(tmp_path / "f") == hashlib.sha256(b"x").hexdigest()


def test_many_in_order(tmp_path):
    files = [tmp_path / str(number) for number in range(20)]
    for number, file in enumerate(files):
        file.write_text(str(number))
    found = Digests(tmp_path / "d.json").of_many(files)
    assert found == [hashlib.sha256(str(number).encode()).hexdigest() for number in range(20)]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.text(), json_values))
def test_the_order_of_keys_does_not_count(value):
    turned = dict(reversed(value.items()))
    assert canonical(turned) == canonical(value)
    assert sha256_of_json(turned) == sha256_of_json(value)
