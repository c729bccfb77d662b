import os
import signal
from collections import Counter
from collections.abc import Callable
from itertools import chain, product
from multiprocessing import active_children
from multiprocessing.util import register_after_fork

import pytest
import torch

from datamodules.loaders import EpochLoader, EpochSampler, Samples, collate, make_loader, sample_seed
from ops.errors import DataError
from ops.processes import SIGNALS
from tests.checks import rejects

SIZES = [1, 2, 3, 7, 24, 33, 97]


def samples(count: int, seed: int = 0) -> Samples:
    return Samples([f"{index}.jpg" for index in range(count)], lambda index: {"image": torch.tensor([index])}, seed)


def loader(dataset: Samples, batch: int, world: int = 1, rank: int = 0, workers: int = 0, seed: int = 0) -> EpochLoader:
    sampler = EpochSampler(dataset, shuffle=True, seed=seed, world=world, rank=rank)
    return EpochLoader(dataset, batch_size=batch, sampler=sampler, num_workers=workers, collate_fn=collate)


def order(epochs: EpochLoader, epoch: int) -> list[list[int]]:
    """Indices of the batches of an epoch."""
    epochs.sampler.set_epoch(epoch)
    return [batch["index"].tolist() for batch in epochs]


def test_the_order_is_a_permutation_of_each_epoch_and_seed() -> None:
    orders = {
        (seed, epoch): order(loader(samples(24), 5, seed=seed), epoch) for seed, epoch in product(range(2), [0, 5])
    }
    assert [len(batch) for batch in orders[0, 0]] == [5, 5, 5, 5, 4]
    for batches in orders.values():
        assert sorted(chain(*batches)) == list(range(24))
    assert len({str(batches) for batches in orders.values()}) == 4
    assert order(loader(samples(24), 5), 5) == orders[0, 5], "one epoch needs no other before it"


def test_an_epoch_of_steps_repeats_permutations_with_new_seeds() -> None:
    def drawn(world: int, rank: int, epoch: int = 2) -> list[list[list[int]]]:
        found = make_loader(samples(7), "train", 4 // world, 0, seed=0, world=world, rank=rank, training=True, steps=6)
        found.sampler.set_epoch(epoch)
        assert len(found) == 6
        return [torch.stack([batch["index"], batch["seed"]], dim=1).tolist() for batch in found]

    whole = drawn(1, 0)
    indices = [index for index, _ in chain(*whole)]
    assert len(indices) == 24
    assert [sorted(indices[first : first + 7]) for first in (0, 7, 14)] == [list(range(7))] * 3
    assert len({seed for _, seed in chain(*whole)}) == 24
    shares = [drawn(2, rank) for rank in range(2)]
    assert [sorted(one + other) for one, other in zip(*shares, strict=True)] == [sorted(batch) for batch in whole]
    assert drawn(1, 0, epoch=3) != whole


def test_an_epoch_of_steps_resumes_within_a_permutation() -> None:
    def steps(count: int = 6) -> EpochLoader:
        return make_loader(samples(7), "train", 4, 0, seed=0, training=True, steps=count)

    whole = [batch["seed"].tolist() for batch in steps()]
    stopped = steps()
    for _ in zip(range(3), stopped, strict=False):
        state = stopped.state_dict()
    resumed = steps()
    resumed.load_state_dict(state)
    assert [batch["seed"].tolist() for batch in resumed] == whole[3:]
    rejects("samples per epoch", steps(5).load_state_dict, state, error=DataError)
    old = {key: value for key, value in state.items() if key != "length"}
    rejects("samples per epoch None, now 24", steps().load_state_dict, old, error=DataError)


def test_workers_change_no_order_and_know_the_epoch() -> None:
    alone, shared = loader(samples(24), 5), loader(samples(24), 5, workers=2)
    for epoch in (0, 1):
        assert order(shared, epoch) == order(alone, epoch)
    shared.sampler.set_epoch(4)
    drawn = torch.cat([torch.stack([batch["index"], batch["seed"]], dim=1) for batch in shared])
    assert sorted(drawn.tolist()) == [[index, sample_seed(0, 4, index)] for index in range(24)]


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("world", [2, 3, 4])
def test_processes_share_the_batches_of_one(count: int, world: int) -> None:
    whole = order(loader(samples(count), 2 * world), 3)
    shares = [order(loader(samples(count), 2, world, rank), 3) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1, "a process without a batch would hang the others"
    for step, batch in enumerate(whole):
        together = Counter(index for share in shares for index in share[step])
        repeated = together - Counter(batch)
        assert together - repeated == Counter(batch)
        assert repeated.total() == (-count % world if step == len(whole) - 1 else 0)


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("world", [1, 2, 3, 4, 40])
def test_evaluation_takes_every_sample_once(count: int, world: int) -> None:
    samplers = [EpochSampler(samples(count), shuffle=False, seed=0, world=world, rank=rank) for rank in range(world)]
    shares = [list(sampler) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [len(share) for share in shares]
    assert sorted(chain(*shares)) == [(0, index) for index in range(count)]
    assert all(share == sorted(share) for share in shares)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_an_iterator_made_before_the_epoch_is_set_has_its_order() -> None:
    late = loader(samples(24), 5, workers=2)
    batches = iter(late)
    late.sampler.set_epoch(7)
    assert [batch["index"].tolist() for batch in batches] == order(loader(samples(24), 5), 7)


@pytest.mark.parametrize("each", [*SIGNALS, signal.SIGINT])
def test_a_worker_ignores_signals_from_its_first_moment(each: signal.Signals) -> None:
    def signaled(index: int) -> dict[str, object]:
        os.kill(os.getpid(), each)
        return {"number": index}

    class Started:
        """Signals a child process before it does anything else, as long as this object lives."""

    started = Started()
    register_after_fork(started, lambda _: os.kill(os.getpid(), each))
    batches = list(make_loader(Samples(["a", "b"], signaled), "val", batch_size=1, workers=1, seed=0))
    assert [batch["number"].tolist() for batch in batches] == [[0], [1]]
    assert each not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_worker_ends_when_its_process_terminates_it() -> None:
    iterator = iter(make_loader(samples(8), "train", batch_size=1, workers=1, seed=0, training=True))
    next(iterator)
    (worker,) = active_children()
    os.kill(worker.pid or 0, signal.SIGUSR1)
    worker.terminate()  # as `multiprocessing` does when Python exits, which then waits for the worker
    worker.join(60)
    assert worker.exitcode == 0


def test_seeds_of_samples_differ() -> None:
    seeds = {sample_seed(*key) for key in product(range(5), range(50), range(50))}
    assert len(seeds) == 5 * 50 * 50
    assert all(0 <= seed < 2**63 for seed in [*seeds, sample_seed(2**40, 10**6, 10**9)])


def test_samples_have_a_name_an_index_and_a_seed() -> None:
    assert samples(3, seed=2)[1, 2] == {
        "name": "2.jpg", "index": 2, "seed": sample_seed(2, 1, 2), "image": torch.tensor([2])}  # fmt: skip
    assert len(samples(3)) == 3


def test_batches_stack_tensors_and_numbers_and_list_the_rest() -> None:
    big = 2**63 - 1
    batch = collate(
        [{"image": torch.full((2, 3), float(k)), "seed": big - k, "name": f"{k}", "source": {k}} for k in range(2)]
    )
    assert batch["image"].shape == (2, 2, 3)
    assert batch["seed"].dtype == torch.int64
    assert batch["seed"].tolist() == [big, big - 1]
    assert (batch["name"], batch["source"]) == (["0", "1"], [{0}, {1}])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("given", [1, 4])
def test_an_epoch_resumes_where_it_stopped(given: int, workers: int) -> None:
    whole = [order(loader(samples(24), 5), epoch) for epoch in (6, 7)]
    first = loader(samples(24), 5, workers=workers)
    first.sampler.set_epoch(6)
    batches = iter(first)
    assert first.state_dict()["given"] == 0
    for _ in range(given):
        next(batches)
    state = first.state_dict()  # whatever workers have fetched by now
    assert (state["epoch"], state["given"]) == (6, given)
    second = loader(samples(24), 5, workers=workers)
    second.load_state_dict(state)
    resumed = iter(second)
    second.sampler.set_epoch(6)
    assert [batch["index"].tolist() for batch in resumed] == whole[0][given:]
    assert second.state_dict()["given"] == 5, "batches before the stop count too"
    assert order(second, 7) == whole[1]


def test_a_finished_epoch_is_not_resumed() -> None:
    first, second = loader(samples(24), 5), loader(samples(24), 5)
    order(first, 6)
    second.load_state_dict(first.state_dict())
    assert order(second, 7) == order(loader(samples(24), 5), 7)
    first.sampler.set_epoch(7)
    assert (first.state_dict()["epoch"], first.state_dict()["given"]) == (7, 0)


def test_two_processes_resume_the_epoch_of_one() -> None:
    first = loader(samples(24), 4)
    first.sampler.set_epoch(3)
    batches = iter(first)
    for _ in range(2):
        next(batches)
    shares = []
    for rank in (0, 1):
        share = loader(samples(24), 2, world=2, rank=rank)
        share.load_state_dict(first.state_dict())
        shares.append(order(share, 3))
    rest = [sorted(batch["index"].tolist()) for batch in batches]
    assert [sorted(one + other) for one, other in zip(*shares, strict=True)] == rest


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (lambda: loader(samples(24), 6), "batch size of all processes 5, now 6"),
        (lambda: loader(samples(25), 5), "samples 24, now 25; digest of their names"),
        (lambda: loader(samples(24), 5, seed=1), "seed 0, now 1"),
    ],
)
def test_resuming_another_epoch_is_rejected(other: Callable[[], EpochLoader], problem: str) -> None:
    first = loader(samples(24), 5)
    first.sampler.set_epoch(3)
    state = first.state_dict()
    with pytest.warns(UserWarning, match=f"resumes otherwise.*{problem}"):  # a new epoch may change
        other().load_state_dict(state)
    next(iter(first))
    with pytest.raises(DataError, match=f"middle of epoch 3, which cannot be resumed: {problem}"):
        other().load_state_dict(first.state_dict())
