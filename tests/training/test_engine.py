"""Training goes through the same states whether or not it is killed on the way, and on any number of processes."""

import copy
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import stub_training
import torch
from forks import start_fork
from hypothesis import given
from hypothesis import strategies as st
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from stub_training import MODEL, Crops, Disk, Network, make_settings, score, train
from torch import nn

from nuclei.networks.hardware import choose_precision
from nuclei.networks.kinds import make_loss
from nuclei.training import engine
from nuclei.training.engine import DivergedError, StepBatches, all_finite, parameter_groups, rate_share, update_average


def assert_same(ours, expected):
    """Compare two states, bit for bit."""
    assert type(ours) is type(expected)
    if isinstance(ours, dict):
        assert ours.keys() == expected.keys()
        for key in ours:
            assert_same(ours[key], expected[key])
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(expected)
        for a, b in zip(ours, expected, strict=True):
            assert_same(a, b)
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, expected)
    else:
        assert ours == expected


class Killed(Exception):
    pass


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("workers", [0, 1])
def test_training_killed_while_saving_ends_as_if_it_had_not_been(tmp_path, precision, workers):
    settings = make_settings(precision=precision, workers=workers)
    uninterrupted = train(settings)
    disk = Disk(tmp_path / "last.ckpt")

    def save_and_die(state):
        disk.save(state)
        raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            train(settings, disk.load(), save_and_die)
    assert disk.steps == [20, 40]
    assert_same(train(settings, disk.load(), disk.save), uninterrupted)
    assert_same(disk.load(), uninterrupted)


def test_training_killed_while_evaluating_ends_as_if_it_had_not_been(tmp_path):
    settings = make_settings()
    uninterrupted = train(settings)
    disk = Disk(tmp_path / "last.ckpt")

    def die(_):
        raise Killed

    with pytest.raises(Killed):
        train(settings, None, disk.save, die)
    assert disk.steps == [20]
    assert_same(train(settings, disk.load()), uninterrupted)


def test_training_killed_by_the_system_ends_as_if_it_had_not_been(tmp_path):
    disk = Disk(tmp_path / "last.ckpt")
    process = start_fork(stub_training.train_and_die, ["train", disk.path], tmp_path)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert disk.load()["step"] == 40
    assert_same(train(make_settings(), disk.load(), disk.save), train(make_settings()))
    assert disk.steps == [50]


def test_what_evaluation_draws_changes_no_training():
    def evaluate_at_random(average):
        torch.rand(3)
        return score(average)

    assert_same(train(make_settings(), evaluate=evaluate_at_random), train(make_settings()))


def test_a_finished_training_is_given_back_as_it_is(tmp_path):
    disk = Disk(tmp_path / "last.ckpt")
    finished = train(make_settings(), save=disk.save)
    assert_same(train(make_settings(), disk.load()), finished)


def test_the_seed_decides_what_dropout_drops():
    states = [train(make_settings(seed=seed, steps=3))["network"]["body.decoder.2.weight"] for seed in (1, 1, 2)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_the_loss_scale_of_half_precision_resumes_where_it_was(tmp_path):
    def fabric():
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=15)
        return Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu", scaler))

    disk = Disk(tmp_path / "last.ckpt")
    uninterrupted = train(make_settings(), fabric=fabric())
    assert uninterrupted["precision"]["scale"] == 64 * 2**3

    def save_and_die(state):
        disk.save(state)
        raise Killed

    with pytest.raises(Killed):
        train(make_settings(), None, save_and_die, fabric=fabric())
    assert_same(train(make_settings(), disk.load(), fabric=fabric()), uninterrupted)


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    """Give the folder of what two processes left that trained twice, once with a spoilt crop."""
    folder = tmp_path_factory.mktemp("by_two")
    command = [sys.executable, stub_training.__file__, str(folder)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": "src"})
    return folder


def test_two_processes_train_as_one_does(by_two):
    settings = make_settings(learning_rate=0.01)
    alone = train(settings, normalised=False, dropout=0.0)
    together = torch.load(by_two / "whole.pt")
    start = Network().body.decoder[2].weight
    for part in ("network", "average"):
        assert together[part].keys() == alone[part].keys()
        for key, value in together[part].items():
            assert torch.allclose(value, alone[part][key], atol=1e-4)
    assert (together["network"]["body.decoder.2.weight"] - start).abs().max() > 0.02
    assert [row["step"] for row in together["history"]] == [row["step"] for row in alone["history"]]
    for ours, row in zip(together["history"], alone["history"], strict=True):
        assert ours["loss"] == pytest.approx(row["loss"], abs=1e-4)
        assert ours["learning_rate"] == row["learning_rate"]


def test_a_loss_that_is_not_finite_ends_training_with_the_last_checkpoint(tmp_path):
    disk = Disk(tmp_path / "last.ckpt")
    message = r"test: the loss stopped being finite in steps 21 to 30; the checkpoint of step 20 is kept, .* 0\.05"
    with pytest.raises(DivergedError, match=message):
        train(make_settings(), None, disk.save, spoilt=4 * 24)
    assert disk.steps == [20]
    assert all_finite(disk.load()["network"])
    assert all_finite(disk.load()["average"])
    with pytest.raises(DivergedError, match="steps 21 to 30; the checkpoint of step 20 is kept"):
        train(make_settings(), disk.load(), disk.save, spoilt=4 * 24)
    assert_same(train(make_settings(), disk.load(), disk.save), train(make_settings()))


def test_training_that_diverges_before_its_first_checkpoint_says_so(tmp_path):
    disk = Disk(tmp_path / "last.ckpt")
    message = "the loss stopped being finite in steps 1 to 20; no checkpoint had been written yet.*learning_rate, 1e"
    with pytest.raises(DivergedError, match=message):
        train(make_settings().model_copy(update={"learning_rate": 1e30}), None, disk.save)
    assert disk.steps == []


def test_weights_that_a_finite_loss_leaves_not_finite_are_not_saved(tmp_path):
    """The gradient of the 40th step is NaN: its loss is of the weights before, and a checkpoint is due after it."""
    disk, settings, steps = Disk(tmp_path / "last.ckpt"), make_settings(), iter(range(50))
    loss_of = make_loss(MODEL, settings)

    def spoil(network, image, target):
        weight = next(network.parameters())
        return loss_of(network, image, target) + ((0 * weight).sqrt().sum() if next(steps) == 39 else 0)

    task = engine.Task(Network(), Crops(200), spoil, score)
    trainer = engine.Trainer(Fabric(accelerator="cpu", devices=1), task, settings, engine.Outlets(disk.save))
    with pytest.raises(DivergedError, match=r"the averaged weights stopped being finite in steps 31 to 40; .* step 20"):
        trainer.fit()
    assert disk.steps == [20]
    assert_same(train(settings, disk.load()), train(settings))


def test_a_checkpoint_that_is_not_finite_is_refused(tmp_path):
    disk = Disk(tmp_path / "last.ckpt")
    state = train(make_settings(steps=20))
    state["average"]["body.encoder.0.bias"][1] = torch.inf
    disk.save(state)
    with pytest.raises(DivergedError, match="the checkpoint of step 20 holds weights that are not finite: delete it"):
        train(make_settings(), disk.load())


def test_all_processes_end_where_the_loss_of_one_is_not_finite(by_two):
    errors = [(by_two / f"spoilt.{rank}").read_text() for rank in (0, 1)]
    assert errors[0] == errors[1]
    assert "steps 21 to 30; the checkpoint of step 20 is kept" in errors[0]
    state = torch.load(by_two / "spoilt.ckpt")
    assert state["step"] == 20
    assert all_finite(state["network"])


def test_no_score_is_shown_before_the_first_is_taken(monkeypatch):
    shown = []
    monkeypatch.setattr(engine.tqdm, "set_postfix", lambda _, values, **__: shown.append(values))
    state = train(make_settings())
    assert [list(values) for values in shown] == [["loss"], *[["loss", "score"]] * 3]
    assert [values["loss"] for values in shown] == [f"{row['loss']:.3f}" for row in state["history"]]
    assert shown[1]["score"] == f"{state['history'][1]['score']:.3f}"


@pytest.mark.parametrize("changes", [{}, {"seconds": 1e-9}])
def test_the_bar_ends_full_also_where_time_ends_the_training(capsys, changes):
    train(make_settings(**changes))
    assert "100%" in capsys.readouterr().err.splitlines()[-1].split("\r")[-1]


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a GPU")


def train_on_gpu(resume=None, save=lambda _: None, **changes):
    settings = make_settings(precision="bf16-mixed", **changes)
    fabric = Fabric(accelerator="cuda", devices=1, precision="bf16-mixed")
    return train(settings, resume, save, lambda _: 0.0, fabric, dropout=0.0)


@needs_gpu
def test_replayed_steps_are_those_of_training_step_by_step():
    replayed, plain = train_on_gpu(cuda_graph=True), train_on_gpu()
    for part in ("network", "average"):
        for key, value in plain[part].items():
            assert torch.allclose(replayed[part][key].float(), value.float(), atol=1e-2)
    for ours, row in zip(replayed["history"], plain["history"], strict=True):
        assert ours["loss"] == pytest.approx(row["loss"], abs=1e-3)
    start = Network(dropout=0.0).body.decoder[2].weight
    assert (replayed["network"]["body.decoder.2.weight"].cpu() - start).abs().max() > 0.1


@needs_gpu
def test_replayed_training_resumes_from_a_checkpoint(tmp_path):
    disk = Disk(tmp_path / "last.ckpt")

    def save_and_die(state):
        disk.save(state)
        raise Killed

    with pytest.raises(Killed):
        train_on_gpu(save=save_and_die, cuda_graph=True)
    resumed, uninterrupted = train_on_gpu(disk.load(), cuda_graph=True), train_on_gpu(cuda_graph=True)
    for key, value in uninterrupted["average"].items():
        assert torch.allclose(resumed["average"][key].float(), value.float(), atol=1e-2)


def test_a_graph_is_refused_where_steps_wait_for_other_gpus():
    fabric = SimpleNamespace(world_size=2, device=torch.device("cuda"), to_device=lambda network: network)
    with pytest.raises(ValueError, match=r"train\.cuda_graph needs one GPU"):
        train(make_settings(cuda_graph=True), fabric=fabric)


def test_a_batch_that_cannot_be_shared_evenly_is_refused():
    with pytest.raises(ValueError, match=r"train\.batch_size 4 is not a multiple of 3 devices"):
        train(make_settings(), fabric=SimpleNamespace(world_size=3))


def test_history_and_checkpoints_come_when_they_are_due(tmp_path):
    disk = Disk(tmp_path / "last.ckpt")
    settings = make_settings(steps=110, evaluate_every=30, checkpoint_every=40)
    state = train(settings, save=disk.save)
    assert disk.steps == [40, 80, 110]
    assert [row["step"] for row in state["history"]] == [20, 30, 40, 60, 80, 90, 100, 110]
    assert [row["step"] for row in state["history"] if row["score"] is not None] == [30, 60, 90, 110]
    rates = [settings.learning_rate * rate_share(row["step"] - 1, 110, settings.warmup) for row in state["history"]]
    assert [row["learning_rate"] for row in state["history"]] == rates
    shares = [group["lr"] / group["peak"] for group in state["optimizer"]["param_groups"]]
    assert shares == pytest.approx([rate_share(109, 110, settings.warmup)] * 4)
    assert state["step"] == 110


def test_training_learns_and_keeps_its_best_weights():
    scores = []

    def evaluate(average):
        scores.append((score(average) - 0.001 * len(scores), copy.deepcopy(average.state_dict())))
        return scores[-1][0]

    state = train(make_settings(steps=120, evaluate_every=10, learning_rate=0.1), evaluate=evaluate, dropout=0.0)
    losses = [row["loss"] for row in state["history"]]
    assert losses[-1] < losses[0] / 2
    best, weights = max(scores, key=lambda pair: pair[0])
    assert best > 0.9
    assert state["best"]["score"] == best == max(row["score"] for row in state["history"])
    assert_same(state["best"]["weights"], weights)
    assert not torch.equal(state["best"]["weights"]["body.encoder.0.weight"], scores[0][1]["body.encoder.0.weight"])


def test_the_average_and_not_the_last_weights_are_scored():
    seen = []
    train(make_settings(steps=20, ema=0.5), evaluate=lambda average: seen.append(copy.deepcopy(average)) or 0.0)
    assert not seen[-1].training
    final = train(make_settings(steps=20, ema=0.5))
    assert_same(seen[-1].state_dict(), final["average"])
    assert not torch.equal(final["average"]["body.encoder.0.weight"], final["network"]["body.encoder.0.weight"])


class Clock:
    """Stand in for the thread's processor time: a step takes a second, an evaluation a hundred."""

    def __init__(self, monkeypatch):
        self.now, move = 0.0, update_average
        monkeypatch.setattr(engine.time, "thread_time", lambda: self.now)
        monkeypatch.setattr(engine, "update_average", lambda *args: (move(*args), self.pass_by(1)))

    def pass_by(self, seconds):
        self.now += seconds

    def score(self, average):
        self.pass_by(100)
        return score(average)


def test_training_ends_when_its_time_is_spent_and_its_schedule_with_it(monkeypatch, tmp_path):
    clock, disk = Clock(monkeypatch), Disk(tmp_path / "last.ckpt")
    settings = make_settings(seconds=65, steps=10_000, checkpoint_every=10_000)
    state = train(settings, save=disk.save, evaluate=clock.score)
    assert (state["step"], state["elapsed"], disk.steps) == (65, 65, [65])
    last = state["history"][-1]
    assert last["step"] == 65
    assert last["score"] is not None
    rates = [
        settings.learning_rate * rate_share(10_000 * (row["step"] - 1) / 65, 10_000, settings.warmup)
        for row in state["history"]
    ]
    assert [row["learning_rate"] for row in state["history"]] == pytest.approx(rates)
    assert 0.01 <= last["learning_rate"] / settings.learning_rate < 0.011
    assert_same(train(settings, disk.load(), evaluate=clock.score), state)


def test_training_of_limited_time_ends_with_its_steps_where_these_come_first(monkeypatch):
    clock = Clock(monkeypatch)
    state = train(make_settings(seconds=1000), evaluate=clock.score)
    assert state.pop("elapsed") == 50
    unlimited = train(make_settings(), evaluate=clock.score)
    assert unlimited.pop("elapsed") == 0
    assert_same(state, unlimited)


def test_resumed_training_counts_the_time_it_had_spent(monkeypatch, tmp_path):
    settings, disk = make_settings(seconds=45, steps=10_000), Disk(tmp_path / "last.ckpt")
    uninterrupted = train(settings, evaluate=Clock(monkeypatch).score)
    assert uninterrupted["step"] == 45

    def save_and_die(state):
        disk.save(state)
        raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            train(settings, disk.load(), save_and_die, Clock(monkeypatch).score)
    assert disk.steps == [20, 40]
    assert_same(train(settings, disk.load(), evaluate=Clock(monkeypatch).score), uninterrupted)


@pytest.mark.parametrize(
    ("gpu", "cpu", "apple", "expected"),
    [
        (None, (), False, "32-true"),
        (None, ("_is_amx_tile_supported",), False, "bf16-mixed"),
        (None, ("_is_avx512_bf16_supported",), False, "bf16-mixed"),
        (None, ("_is_avx512_bf16_supported",), True, "32-true"),
        ("new", (), False, "bf16-mixed"),
        ("old", (), False, "16-mixed"),
        ("old", ("_is_amx_tile_supported",), False, "16-mixed"),
    ],
)
def test_precision_is_one_that_the_machine_computes(monkeypatch, gpu, cpu, apple, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    # Emulated, bf16 runs on old GPUs too.
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or gpu == "new"
    )
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in cpu)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)
    assert choose_precision("auto") == expected
    for wanted in ("32-true", "bf16-mixed", "16-mixed"):
        assert choose_precision(wanted) == wanted


@given(st.integers(1, 500), st.floats(0, 1), st.integers(0, 499), st.floats(0, 1))
def test_the_rate_between_two_steps_lies_between_theirs(steps, warmup, step, fraction):
    step %= steps
    ends = sorted(rate_share(s, steps, warmup) for s in (step, step + 1))
    assert 0 < ends[0] - 1e-9 <= rate_share(step + fraction, steps, warmup) <= ends[1] + 1e-9 <= 1 + 1e-9


@pytest.mark.parametrize("kind", [int, torch.tensor])  # a graph reads the step from a tensor
@pytest.mark.parametrize(("step", "decay"), [(0, 0.1), (9, 10 / 19), (10**6, 0.9)])
def test_the_average_moves_by_its_decay_and_faster_at_first(step, decay, kind):
    average, network = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.constant_(network.weight, 3.0)
    network.running_mean.fill_(5.0)
    network.num_batches_tracked.fill_(7)
    update_average(average, network, 0.9, kind(step))
    assert average.weight.tolist() == pytest.approx([3 - 2 * decay] * 2)
    assert average.running_mean.tolist() == pytest.approx([5 - 5 * decay] * 2)
    assert average.num_batches_tracked == 7
    assert network.weight.tolist() == [3.0, 3.0]


@given(st.integers(2, 500), st.floats(0, 0.5))
def test_the_rate_warms_up_and_falls(steps, warmup):
    shares = np.array([rate_share(step, steps, warmup) for step in range(steps + 1)])
    n_rising = max(1, round(warmup * steps))
    assert shares[:n_rising] == pytest.approx(np.arange(1, n_rising + 1) / n_rising)
    assert shares[n_rising] == 1
    assert (np.diff(shares[n_rising:]) < 0).all()
    assert shares[steps] == pytest.approx(0.01)
    # A quarter of the way down, half a cosine stands at (1 + cos(π / 4)) / 2 above the floor.
    quarter = rate_share(n_rising + (steps - n_rising) / 4, steps, warmup)
    assert quarter == pytest.approx(0.01 + 0.99 * (1 + np.sqrt(0.5)) / 2)


@given(st.integers(0, 5), st.integers(5, 12), st.integers(1, 4), st.integers(1, 4))
def test_processes_share_each_batch(start, steps, world, share):
    size = world * share
    parts = [list(StepBatches(start, steps, size, rank, world)) for rank in range(world)]
    assert [len(StepBatches(start, steps, size, rank, world)) for rank in range(world)] == [steps - start] * world
    for step in range(start, steps):
        batches = [part[step - start] for part in parts]
        assert {len(batch) for batch in batches} == {share}
        assert sorted(i for batch in batches for i in batch) == list(range(step * size, (step + 1) * size))


def test_parameters_are_grouped_by_rate_and_decay():
    network = Network()
    groups = parameter_groups(network, make_settings(learning_rate=0.1, encoder_rate=0.5, weight_decay=0.01))
    name = {id(parameter): key for key, parameter in network.named_parameters()}
    ours = {tuple(name[id(p)] for p in group.pop("params")): tuple(group.values()) for group in groups}
    assert [list(group) for group in groups] == [["lr", "peak", "weight_decay"]] * 4
    assert ours == {
        ("body.encoder.0.weight",): (0.05, 0.05, 0.01),
        ("body.encoder.0.bias", "body.encoder.1.weight", "body.encoder.1.bias"): (0.05, 0.05, 0.0),
        ("body.decoder.2.weight",): (0.1, 0.1, 0.01),
        ("body.decoder.2.bias",): (0.1, 0.1, 0.0),
    }


def test_channel_weights_are_taken_by_name():
    only_mask = train(make_settings(steps=20, channel_weights={"border": 0.0}), dropout=0.0)["network"]
    assert torch.equal(only_mask["body.decoder.2.bias"][1], Network().body.decoder[2].bias[1])
    assert not torch.equal(only_mask["body.decoder.2.bias"][0], Network().body.decoder[2].bias[0])
