"""Trainings that are taken up by other objects: every bit is that of the training that was never interrupted."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from on_device import DEVICE, needs_device
from safetensors.numpy import load, save

from minigan import kernels
from minigan.checkpoint import Checkpoints
from minigan.data import batches
from minigan.gan import (
    EMA,
    NON_SATURATING,
    WASSERSTEIN,
    Game,
    LinearDecay,
    critic_updates,
    dcgan_discriminator,
    dcgan_generator,
    gradient_penalty,
    train,
    two_player,
)
from minigan.gan.state import restore, training_state
from minigan.optim import SGD, Adam, RMSprop
from minigan.random import Generator

STRAIGHT, BEFORE = 7, 3  # steps


class Training:
    """A tiny training of `variant`: 6 images a batch of 20 of 28 pixels, so 3 batches an epoch."""

    def __init__(
        self, variant: str, image_size: int = 28, seed: int = 0, device: str = "cpu", images: int = 20, width: int = 2
    ) -> None:
        critic = variant != "gan"
        init = Generator(seed, "init")
        G = dcgan_generator(image_size, 1, width, 4, init).to(device)
        D = dcgan_discriminator(image_size, 1, width, init, batch_norm=variant != "wgan-gp").to(device)
        self.generators = {name: Generator(seed, name) for name in ("latent", "penalty")}
        optimizer: Any = partial(RMSprop, lr=1e-3) if variant == "wgan-clip" else partial(Adam, lr=1e-3)
        players = two_player(
            *(G, D, WASSERSTEIN if critic else NON_SATURATING, optimizer(G.parameters()), optimizer(D.parameters())),
            penalty=partial(gradient_penalty, generator=self.generators["penalty"]) if variant == "wgan-gp" else None,
            clip=0.05 if variant == "wgan-clip" else None,
            d_updates=critic_updates(2 if critic else 1),
        )
        data = np.random.default_rng(0).integers(0, 256, (images, 28, 28), np.uint8)
        self.real = batches(data, 6, Generator(seed, "data"), image_size)
        self.game = Game(self.real, self.generators["latent"], 4, 6, device)
        self.nets, self.players, self.logs = {"G": G, "D": D}, players, list[dict[str, float]]()

    def train(self, steps: int) -> None:
        train(self.game, self.players, steps, [lambda _, logs: self.logs.append(logs)])

    def state(self, **extra: Any) -> Any:
        return training_state(self.nets, self.players, self.generators, self.real, extra)

    def restore(self, arrays: Any, rest: Any) -> dict[str, Any]:
        return restore(arrays, rest, self.nets, self.players, self.generators, self.real)


def through_a_file(arrays: Any, rest: Any) -> tuple[Any, Any]:
    arrays = {name: np.array(array, order="C") for name, array in arrays.items()}
    return load(save(arrays)), json.loads(json.dumps(rest))


def assert_same_bits(found: Any, expected: Any) -> None:
    """Of two training states."""
    assert found[0].keys() == expected[0].keys()
    for name, array in expected[0].items():
        assert (found[0][name].dtype, found[0][name].shape) == (array.dtype, array.shape), name
        assert found[0][name].tobytes() == array.tobytes(), name
    assert found[1] == expected[1]


@pytest.mark.parametrize("images", [20, 26], ids=["between epochs", "within an epoch"])
@pytest.mark.parametrize("image_size", [28, 32], ids=["as they are", "resized"])
@pytest.mark.parametrize("variant", ["gan", "wgan-clip", "wgan-gp"])
def test_a_resumed_training_is_the_straight_one(variant: str, image_size: int, images: int) -> None:
    straight, first = (Training(variant, image_size, images=images) for _ in range(2))
    straight.train(STRAIGHT)
    first.train(BEFORE)
    between = images == 20
    assert (first.real.state_dict()["position"] == 0) is between
    state = through_a_file(*first.state(step=BEFORE))

    second = Training(variant, image_size, seed=99, images=images)
    if variant == "gan":
        second.train(1)  # nor does it matter what was there before
        second.logs.clear()
    assert second.restore(*state) == {"step": BEFORE}
    assert_same_bits(second.state(step=BEFORE), first.state(step=BEFORE))
    second.train(STRAIGHT - BEFORE)

    assert first.logs + second.logs == straight.logs
    assert_same_bits(second.state(), straight.state())
    assert second.game.z().array.tobytes() == straight.game.z().array.tobytes()
    assert next(second.real).tobytes() == next(straight.real).tobytes()


def test_a_training_goes_on_from_its_checkpoints(tmp_path: Path) -> None:
    """With the steps' own numbers, which schedules go by."""
    straight, stopped, resumed = Training("wgan-gp"), Training("wgan-gp"), Training("wgan-gp", seed=99)
    straight.train(STRAIGHT)
    checkpoints, numbers = Checkpoints(tmp_path, keep=2), list[int]()

    def save_it(step: int, logs: dict[str, float]) -> None:
        checkpoints.save(step, *stopped.state(step=step))

    train(stopped.game, stopped.players, BEFORE, [save_it])
    step, *state = Checkpoints(tmp_path).latest()
    assert (step, checkpoints.steps()) == (BEFORE, [BEFORE - 1, BEFORE])
    done = resumed.restore(*state)["step"]
    train(resumed.game, resumed.players, STRAIGHT, [lambda step, _: numbers.append(step)], first=done + 1)
    assert numbers == list(range(BEFORE + 1, STRAIGHT + 1))
    assert_same_bits(resumed.state(), straight.state())


def with_hooks(training: Training) -> Training:
    """The generator's learning rate falls to 0, and its weights are averaged."""
    g = training.players[1]
    g.after = [*g.after, LinearDecay(g.optimizer, STRAIGHT, start=1), EMA(training.nets["G"])]
    return training


def test_hooks_go_on_too() -> None:
    straight, first, second = (with_hooks(Training("gan", seed=seed)) for seed in (0, 0, 99))
    straight.train(STRAIGHT)
    first.train(BEFORE)
    arrays, rest = through_a_file(*first.state())
    assert rest["hooks"] == {"g.after.0": {"base_lr": 1e-3}, "g.after.1": {"calls": BEFORE}}
    second.restore(arrays, rest)
    second.train(STRAIGHT - BEFORE)
    assert_same_bits(second.state(), straight.state())
    with pytest.raises(ValueError, match=r"hooks\.g\.after\.0\.base_lr is unexpected"):
        Training("gan").restore(arrays, rest)


def test_the_state_names_everything() -> None:
    training = Training("wgan-gp")
    training.train(1)
    arrays, rest = training.state(step=1)
    net = {f"nets.{name}.{key}" for name in "GD" for key in training.nets[name].state_dict()}
    optimizers = {
        f"optimizers.{player.name}.{i}.{key}"
        for player in training.players
        for i in range(len(player.optimizer.params))
        for key in ("m", "v", "step")
    }
    assert arrays.keys() == net | optimizers
    assert {"nets.G.1.weight", "nets.D.0.bias", "optimizers.d.3.m"} <= arrays.keys()
    assert (arrays["optimizers.d.0.step"], arrays["optimizers.g.0.step"]) == (2, 1)
    assert rest == {
        "optimizers": {
            "d": {"lr": 1e-3, "steps": 2, "begun": list(range(len(training.players[0].optimizer.params)))},
            "g": {"lr": 1e-3, "steps": 1, "begun": list(range(len(training.players[1].optimizer.params)))},
        },
        "generators": {name: training.generators[name].state_dict() for name in ("latent", "penalty")},
        "hooks": {},
        "batches": training.real.state_dict(),
        "extra": {"step": 1},
    }


def test_the_state_is_a_copy() -> None:
    training = Training("gan")
    training.train(1)
    arrays, rest = training.state()
    before = {name: array.copy() for name, array in arrays.items()}, json.loads(json.dumps(rest))
    training.train(1)
    assert_same_bits((arrays, rest), before)


def test_before_the_first_step_there_is_a_state_too() -> None:
    training, other = Training("gan"), Training("gan", seed=99)
    other.train(1)
    other.restore(*through_a_file(*training.state()))
    assert_same_bits(other.state(), training.state())
    assert not any(name.startswith("optimizers.") for name in other.state()[0])


def test_parameters_without_a_gradient_have_no_state() -> None:
    def begun(seed: int) -> Training:
        training = Training("gan", seed=seed)
        for player in training.players:
            player.optimizer = SGD(player.optimizer.params, 0.1, momentum=0.9)
        next(training.nets["G"].parameters()).requires_grad = False
        return training

    training, other = begun(0), begun(99)
    training.train(1)
    state = through_a_file(*training.state())
    assert "optimizers.g.0.momentum" not in state[0]
    assert "optimizers.g.1.momentum" in state[0]
    other.restore(*state)
    for each in (training, other):
        each.train(1)
    assert_same_bits(other.state(), training.state())


# ---- what does not fit ----------------------------------------------------------------------------------------------


def damaged(arrays: Any, rest: Any, fault: str) -> list[str]:
    """Spoils the state in place; what the error must say."""
    bias = "optimizers.d.1.m"
    if fault == "arrays":
        del arrays["nets.G.1.weight"], arrays[bias]
        arrays["nets.D.2.bias"] = np.zeros(3, np.float32)
        arrays["nets.D.0.weight"] = arrays["nets.D.0.weight"][..., :1]
        arrays["optimizers.g.0.v"] = arrays["optimizers.g.0.v"].astype(np.float64)
        rest["generators"]["latent"]["name"] = "z"
        rest["batches"]["images"] = 60
        return [
            "nets.G.1.weight is missing",
            f"{bias} is missing",
            "nets.D.2.bias is unexpected",
            "nets.D.0.weight is float32 (4, 4, 1, 1), but here it is float32 (4, 4, 1, 2)",
            "optimizers.g.0.v is float64 (7, 7, 4, 4), but here it is float32 (7, 7, 4, 4)",
            "Generator: the state of stream 'z' does not fit stream 'latent'",
            "batches: the state is of 60 images in batches of 6, not of 20 in batches of 6; "
            "take the same data and batch size",
        ]
    if fault == "form":
        del rest["generators"]["penalty"], rest["optimizers"]["g"]["steps"], rest["extra"]
        rest["optimizers"]["critic"] = 1
        rest["batches"]["position"] = "2"
        return [
            "optimizers.g.steps is missing",
            *(f"generators.penalty.{key} is missing" for key in ("name", "key", "counter")),
            "optimizers.critic is unexpected",
            "extra is missing",
            "batches.position is '2', not of type int",
        ]
    for name in [name for name in arrays if name.startswith("optimizers.d.0.")]:
        del arrays[name]
    return [f"optimizers.d.0.{key} is missing" for key in ("m", "v", "step")]


@pytest.mark.parametrize("fault", ["arrays", "form", "a whole parameter"])
def test_everything_is_checked_before_anything_is_written(fault: str) -> None:
    training, other = Training("gan"), Training("gan", seed=99)
    training.train(1)
    other.train(2)
    arrays, rest = through_a_file(*training.state())
    faults = damaged(arrays, rest, fault)
    before = other.state()
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is compared
        other.restore(arrays, rest)
    assert str(error.value) == f"restore: the state does not fit this training: {'; '.join(faults)}"
    assert_same_bits(other.state(), before)


def test_another_optimizers_state_is_refused() -> None:
    clipped, training = Training("wgan-clip"), Training("gan")
    clipped.train(1)
    with pytest.raises(ValueError, match=r"optimizers\.d\.0\.m is missing; .*; optimizers\.d\.0\.square is unexpected"):
        training.restore(*clipped.state())


def test_names_must_tell_arrays_apart() -> None:
    training = Training("gan")
    training.nets["G.0"] = training.nets["D"]
    with pytest.raises(ValueError, match=r"^training_state: 'G\.0' has a dot, which separates the parts of an array's"):
        training.state()
    del training.nets["G.0"]
    training.players[0].name = "g"
    with pytest.raises(ValueError, match="^training_state: players need different names, but theirs are g, g$"):
        training.state()


# ---- devices --------------------------------------------------------------------------------------------------------


@needs_device
def test_a_training_on_a_device_is_resumed_there() -> None:
    straight, first, second = (Training("wgan-gp", seed=seed, device=DEVICE, width=1) for seed in (0, 0, 99))
    straight.train(2)
    first.train(1)
    state = first.state()
    assert {type(array) for array in state[0].values()} == {np.ndarray}
    second.restore(*through_a_file(*state))
    for player in second.players:
        found = [kernels.name_of(array) for s in player.optimizer.state for k, array in s.items() if k != "step"]
        assert set(found) == {DEVICE}
    second.train(1)
    assert first.logs + second.logs == straight.logs
    assert_same_bits(second.state(), straight.state())

    here = Training("wgan-gp", width=1)
    here.restore(*state)
    assert_same_bits(here.state(), state)
