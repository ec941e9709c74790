"""Quantiles of the newest measurements."""

from avm.io.reservoir import Reservoir


def test_quantiles_of_what_was_added() -> None:
    reservoir = Reservoir()
    for n in range(100):
        reservoir.add(float(n))

    assert reservoir.quantiles(0.0, 0.5, 0.99, 1.0) == (0.0, 50.0, 99.0, 99.0)


def test_of_nothing_all_quantiles_are_zero() -> None:
    assert Reservoir().quantiles(0.5, 0.99) == (0.0, 0.0)


def test_the_oldest_make_room_for_the_newest() -> None:
    reservoir = Reservoir(size=10)
    for n in range(25):
        reservoir.add(float(n))

    assert len(reservoir) == 10
    assert reservoir.quantiles(0.0, 1.0) == (15.0, 24.0)
