"""Turns of calls: which are counted, and in what order."""

from __future__ import annotations

from bnncc.timing import interleave, turn


def test_a_turn_of_several_calls_begins_with_one_that_is_not_counted():
    calls = []
    assert len(turn(lambda: calls.append(1), 3)()) == 3
    assert len(calls) == 4
    assert len(turn(lambda: calls.append(1))()) == 1
    assert len(calls) == 5


def test_everyone_has_a_turn_in_every_round():
    order = []
    times = interleave([turn(lambda: order.append("a")), turn(lambda: order.append("b"))], rounds=4)
    assert [len(series) for series in times] == [4, 4]
    assert "".join(order[-8:]) == "abababab"


def test_first_calls_of_sessions_with_several_threads_are_not_counted():
    order = []
    times = interleave([turn(lambda: order.append("a")), turn(lambda: order.append("b"))], rounds=2, threads=2)
    assert [len(series) for series in times] == [2, 2]
    last_turn = len(order) - "".join(order).rindex("a") - 1
    assert last_turn > 2
