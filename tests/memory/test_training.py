"""Training: when a dictionary is made, taken, and made again."""

import os
import random

import pytest

from avm.memory import training as training_module
from avm.memory.compression import compress
from avm.memory.training import Training, train_on


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(training_module, "TRAINING_SIZE", 60_000)


def orders(count, what="flight", seed=0):
    dice = random.Random(seed)
    return [
        f'{{"role":"user","content":"book {what} {dice.randrange(9999)} for passenger {dice.random()}"}}'.encode()
        for _ in range(count)
    ]


class Holder:
    """Something that holds content."""

    def __init__(self, content):
        self.content = content


def read(holder):
    return holder.content


def feed(training, contents):
    """Have contents compressed; what holds them lives as long as the training."""
    holders = [Holder(content) for content in contents]
    vars(training).setdefault("held_for_the_test", []).extend(holders)
    for holder in holders:
        record = compress(holder.content, training.dictionary)
        training.take(holder, len(holder.content), len(record))


def train(training):
    samples = training.samples(read)
    assert samples is not None
    return training.finish(train_on(samples, training.dictionary))


def test_there_is_no_training_before_enough_was_seen(quick):
    training = Training()
    feed(training, orders(300))

    assert training.samples(read) is None


def test_equal_contents_are_one_sample(quick):
    training = Training()
    feed(training, orders(1) * 5000)

    assert training.samples(read) is None


def test_a_dictionary_that_pays_is_taken(quick):
    training = Training()
    feed(training, orders(1000))

    assert train(training)

    assert training.dictionary is not None
    content = orders(1, seed=7)[0]
    assert len(compress(content, training.dictionary)) < 0.7 * len(compress(content))


def test_a_dictionary_that_would_not_pay_is_not_taken(quick):
    training = Training()
    feed(training, [os.urandom(1000) for _ in range(80)])

    assert not train(training)

    assert training.dictionary is None
    assert not training.is_sampling


def test_what_has_died_is_no_sample(quick):
    training = Training()
    feed(training, orders(1000))
    del training.held_for_the_test[:900]

    assert training.samples(read) is None
    feed(training, orders(1000, seed=1))
    assert training.samples(read) is not None


def test_samples_are_given_once_and_nothing_is_sampled_meanwhile(quick):
    training = Training()
    feed(training, orders(1000))

    assert training.samples(read) is not None
    feed(training, orders(1000, seed=1))

    assert training.samples(read) is None


def test_a_training_that_was_not_carried_out_is_tried_again(quick):
    training = Training()
    feed(training, orders(1000))
    training.samples(read)

    assert not training.finish(None)
    feed(training, orders(1000, seed=1))

    assert training.samples(read) is not None


@pytest.mark.slow
def test_when_a_dictionary_pays_no_more_another_takes_its_place(quick):
    training = Training()
    feed(training, orders(1000))
    train(training)
    first = training.dictionary

    other = [
        b'<row id="%d"><cell>%d kg of steel, lot %d</cell></row>' % (n, n * 7, n * n) for n in range(9000)
    ]
    feed(training, other)
    assert training.is_sampling, "a window of it compresses worse than what the dictionary was made of"
    assert train(training)

    assert training.dictionary is not first
    assert len(compress(other[-1], training.dictionary)) < len(compress(other[-1], first))


@pytest.mark.slow
def test_while_a_dictionary_pays_it_stays(quick):
    training = Training()
    feed(training, orders(1000))
    train(training)

    feed(training, orders(5000, seed=3))

    assert not training.is_sampling
    assert training.samples(read) is None
