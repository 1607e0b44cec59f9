import os
import threading
import time

import pytest

from mura import parallel
from mura.parallel import available_cores, map_unordered


def test_every_item_is_worked_on_once_and_on_all_cores(monkeypatch):
    monkeypatch.setattr(parallel, "available_cores", lambda: 3)
    together, threads = threading.Barrier(3, timeout=20), set()

    def square(number):
        if number in (0, 7, 14):  # the first of three blocks
            together.wait()
        threads.add(threading.get_ident())
        return number * number

    blocks = list(map_unordered(square, range(100), "squares", progress=False, block=7))
    assert max(map(len, blocks)) == 7
    assert sorted(result for block in blocks for result in block) == [n * n for n in range(100)]
    assert len(threads) == 3


def test_nothing_to_do_is_nothing_done():
    assert list(map_unordered(str, [], "nothing", progress=False)) == []


def test_an_error_ends_the_rest_within_one_item():
    worked_on = []

    def fail_at_five(number):
        worked_on.append(number)
        time.sleep(0.002)
        if number == 5:
            raise ValueError("five")

    with pytest.raises(ValueError, match="five"):
        list(map_unordered(fail_at_five, range(2000), "failing", progress=False))
    assert len(worked_on) < 500


def test_who_stops_listening_stops_the_work():
    worked_on = []

    def slow(number):
        worked_on.append(number)
        time.sleep(0.002)

    for _ in map_unordered(slow, range(2000), "slow", progress=False):
        break
    count = len(worked_on)
    assert count < 500
    time.sleep(0.02)
    assert len(worked_on) == count


def test_the_bar_counts_what_was_done_before(capsys):
    list(map_unordered(str, range(30), "decoding", done=10))
    shown = capsys.readouterr().err
    assert "decoding: 100%" in shown
    assert "40/40" in shown


@pytest.fixture
def quota(tmp_path, monkeypatch):
    """The file that says a container's share of the cores; there is none until it is written."""
    monkeypatch.setattr(parallel, "CPU_QUOTA", tmp_path / "cpu.max")
    return tmp_path / "cpu.max"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("max 100000\n", 8), ("200000 100000\n", 2), ("150000 100000\n", 2)),
        *(("20000 100000\n", 1), ("0 100000\n", 1), ("1600000 100000\n", 8)),
        *(("100000 0\n", 8), ("", 8), ("200000\n", 8), ("a b\n", 8)),
    ],
)
def test_a_containers_quota_is_kept_to(text, expected, quota, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    quota.write_text(text)
    assert available_cores() == expected


def test_cores_are_those_this_process_may_use(quota, monkeypatch):
    assert 1 <= available_cores() <= os.cpu_count()
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert available_cores() == os.cpu_count()
