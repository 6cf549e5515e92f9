"""Hooks around updates: averaged weights, learning rates, clipped gradients, and when `train` calls them."""

import copy
import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from on_device import DEVICE, needs_device

import minigan as mg
from minigan import nn
from minigan.gan import EMA, NON_SATURATING, Game, GradientNorm, LinearDecay, Player, clip_gradients, train, two_player
from minigan.optim import SGD, Adam
from minigan.random import Generator

Array = Any


def net_of(dtype: Any = np.float64) -> Any:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).astype(dtype)


def train_a_bit(net: Any, optimizer: SGD, seed: int) -> None:
    x = mg.Tensor(np.random.default_rng(seed).standard_normal((5, 3)).astype(net[0].weight.dtype)).to(
        net[0].weight.device
    )
    optimizer.zero_grad()
    (net(x) ** 2).sum().backward()
    optimizer.step()


def leaf(values: Any, grad: Any, dtype: Any = np.float32) -> mg.Tensor:
    p = mg.Tensor(np.asarray(values, dtype), requires_grad=True)
    p.grad = None if grad is None else np.asarray(grad, dtype)
    return p


# ---- EMA --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warmup", [False, True])
def test_average_of_parameters_and_running_statistics(warmup: bool) -> None:
    net = net_of()
    ema, optimizer = EMA(net, 0.3, warmup), SGD(net.parameters(), 0.05)
    expected = net.state_dict()
    assert expected.keys() >= {"0.weight", "1.gamma", "1.running_mean", "1.running_var"}
    for t in range(8):
        train_a_bit(net, optimizer, t)
        ema()
        decay = min(0.3, (1 + t) / (10 + t)) if warmup else 0.3
        expected = {k: decay * expected[k] + (1 - decay) * v for k, v in net.state_dict().items()}
        for name, array in ema.net.state_dict().items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-13, atol=1e-15, err_msg=name)
    assert not np.allclose(ema.net[1].running_var.numpy(), net[1].running_var.numpy())


def test_the_average_is_a_net_for_sampling() -> None:
    net = net_of()
    train_a_bit(net, SGD(net.parameters(), 0.1), 0)
    before = net.state_dict()
    ema = EMA(net)
    ema()
    assert all(p.grad is None and not p.requires_grad for p in ema.net.parameters())
    assert all(p.grad is not None and p.requires_grad for p in net.parameters())
    assert not any(module.training for module in ema.net.modules())
    assert all(module.training for module in net.modules())
    assert not ema.net(mg.ones((2, 3)).astype(np.float64)).requires_grad
    assert all((before[name] == array).all() for name, array in net.state_dict().items())


def test_shared_parameters_move_once_and_integers_are_copied() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            self.a, self.b, self.count = nn.Linear(2, 2), nn.Linear(2, 2), mg.Tensor(np.array([7]))
            self.b.weight = self.a.weight

    net: Any = Net()
    ema: Any = EMA(net, 0.5, warmup=False)
    assert ema.net.a.weight is ema.net.b.weight
    start = net.a.weight.numpy().copy()
    for p in (net.a.weight, net.count):
        with p.writing() as array:
            array += 4
    ema()
    np.testing.assert_allclose(ema.net.a.weight.numpy(), start + 2, rtol=1e-6)
    assert ema.net.count.array.tolist() == [11]
    assert ema.net.count.dtype == np.int64


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
def test_what_does_not_change_stays_to_the_bit(decay: float) -> None:
    net = net_of(np.float32)
    ema = EMA(net, decay)
    for _ in range(20):
        ema()
    assert all((net.state_dict()[name] == array).all() for name, array in ema.net.state_dict().items())


def test_decay_0_is_the_net_itself() -> None:
    net = net_of(np.float32)
    ema = EMA(net, 0.0)
    train_a_bit(net, SGD(net.parameters(), 0.1), 0)
    ema()
    assert all((net.state_dict()[name] == array).all() for name, array in ema.net.state_dict().items())


def test_the_average_goes_on_from_its_state_to_the_bit() -> None:
    net = net_of(np.float32)
    optimizer, first = SGD(net.parameters(), 0.05), EMA(net)
    for t in range(3):
        train_a_bit(net, optimizer, t)
        first()
    state = first.state_dict()
    second = EMA(net)
    second.load_state_dict({"calls": json.loads(json.dumps(state["calls"])), "net": state["net"]})
    for t in range(3, 6):
        train_a_bit(net, optimizer, t)
        first()
        second()
    assert first.state_dict()["calls"] == second.state_dict()["calls"] == 6
    ours = second.net.state_dict()
    assert all((ours[name] == array).all() for name, array in first.net.state_dict().items())
    assert state["calls"] == 3
    assert any((state["net"][name] != array).any() for name, array in ours.items()), "the state is no copy"


def test_a_state_of_another_net_changes_nothing() -> None:
    ema, other = EMA(net_of()), EMA(nn.Linear(3, 4))
    before = ema.net.state_dict()
    with pytest.raises(ValueError, match=re.escape("the state does not fit Sequential: 0.weight is missing")):
        ema.load_state_dict({**other.state_dict(), "calls": 9})
    assert ema.calls == 0
    assert all((before[name] == array).all() for name, array in ema.net.state_dict().items())


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, float("nan")])
def test_decay_outside_its_range(decay: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"EMA: decay must be in [0, 1), not {decay}")):
        EMA(net_of(), decay)


@needs_device
def test_average_on_a_device() -> None:
    there = net_of(np.float32).to(DEVICE)
    here = net_of(np.float32)
    here.load_state_dict(there.state_dict())
    emas = [EMA(net, 0.9) for net in (here, there)]
    for t in range(3):
        train_a_bit(there, SGD(there.parameters(), 0.05), t)
        here.load_state_dict(there.state_dict())
        for ema in emas:
            ema()
    assert {tensor.device for tensor in emas[1].net.parameters()} == {DEVICE}
    for name, array in emas[0].net.state_dict().items():
        np.testing.assert_allclose(emas[1].net.state_dict()[name], array, rtol=1e-6, atol=1e-7, err_msg=name)
    other = EMA(here)
    other.load_state_dict(emas[1].state_dict())
    assert {tensor.device for tensor in other.net.parameters()} == {"cpu"}
    here.to(DEVICE)
    with pytest.raises(ValueError, match=f"EMA: tensors on cpu and {DEVICE} do not mix; move one with"):
        other()


# ---- learning rates ---------------------------------------------------------------------------------------------


def test_line_from_start_to_steps() -> None:
    optimizer = SGD([leaf([1.0], [0.0])], 0.5)
    decay = LinearDecay(optimizer, 6, start=2, final=0.1)
    rates = []
    for _ in range(8):
        optimizer.step()
        decay()
        rates.append(optimizer.lr)
    np.testing.assert_allclose(rates, [0.5, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1], rtol=1e-12)
    assert rates[:2] == [0.5, 0.5]
    assert rates[5:] == [0.1, 0.1, 0.1], "exact at both ends"


def test_rates_and_weights_as_with_pytorch() -> None:
    torch = pytest.importorskip("torch")
    start = np.random.default_rng(0).standard_normal((3, 2))
    p, q = leaf(start, None, np.float64), torch.tensor(start, requires_grad=True)
    ours, theirs = Adam([p], 0.1), torch.optim.Adam([q], 0.1)
    decay = LinearDecay(ours, 7)
    schedule = torch.optim.lr_scheduler.LambdaLR(theirs, lambda n: max(0.0, 1 - n / 7))
    for _ in range(9):
        p.grad = 2 * p.array
        q.grad = 2 * q.detach()
        assert ours.lr == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12)
        ours.step()
        decay()
        theirs.step()
        schedule.step()
        np.testing.assert_allclose(p.numpy(), q.detach().numpy(), rtol=1e-9)
    assert ours.lr == 0


@pytest.mark.parametrize("schedule_first", [False, True])
def test_a_schedule_goes_on_from_its_state_to_the_bit(schedule_first: bool) -> None:
    def run(optimizer: Adam, decay: LinearDecay, steps: int) -> list[tuple[float, float]]:
        rows = []
        for _ in range(steps):
            p = optimizer.params[0]
            p.grad = np.cos(p.array)
            optimizer.step()
            decay()
            rows.append((p.item(), optimizer.lr))
        return rows

    def make(value: float) -> tuple[Adam, LinearDecay]:
        optimizer = Adam([leaf([value], None)], 0.3)
        return optimizer, LinearDecay(optimizer, 9, start=1, final=0.01)

    first = make(1.0)
    straight = run(*make(1.0), 10)
    begun = run(*first, 4)
    second = make(begun[-1][0])
    text = json.dumps(first[1].state_dict())
    assert json.loads(text) == {"base_lr": 0.3}
    loads: list[Callable[[], None]] = [
        lambda: second[0].load_state_dict(first[0].state_dict()),
        lambda: second[1].load_state_dict(json.loads(text)),
    ]
    for load in loads[::-1] if schedule_first else loads:
        load()
    assert begun + run(*second, 6) == straight


def test_a_schedule_made_after_its_optimizer_was_restored() -> None:
    optimizer = Adam([leaf([1.0], [1.0])], 0.3)
    decay = LinearDecay(optimizer, 10)
    for _ in range(5):
        optimizer.step()
        decay()
    late = LinearDecay(optimizer, 10)  # takes the lowered rate for the first
    late.load_state_dict(decay.state_dict())
    optimizer.step()
    late()
    assert optimizer.lr == pytest.approx(0.3 * 0.4)


@pytest.mark.parametrize(
    ("steps", "options", "message"),
    [
        (0, {}, "LinearDecay: needs 0 <= start < steps, but start is 0 and steps is 0"),
        (-3, {"start": -5}, "LinearDecay: needs 0 <= start < steps, but start is -5 and steps is -3"),
        (5, {"start": 5}, "LinearDecay: needs 0 <= start < steps, but start is 5 and steps is 5"),
        (5, {"start": -1}, "LinearDecay: needs 0 <= start < steps, but start is -1 and steps is 5"),
        (5, {"final": -0.1}, "LinearDecay: final is a learning rate, finite and >= 0, not -0.1"),
        (5, {"final": float("nan")}, "LinearDecay: final is a learning rate, finite and >= 0, not nan"),
    ],
)
def test_schedules_that_make_no_sense(steps: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        LinearDecay(SGD([leaf([1.0], None)], 0.1), steps, **options)


# ---- gradients --------------------------------------------------------------------------------------------------


def test_norm_and_scale_by_hand() -> None:
    a, b, frozen = leaf([0.0, 0.0], [3.0, 0.0]), leaf(0.0, -4.0), leaf([1.0], None)
    in_place = a.grad
    assert clip_gradients(iter([a, frozen, b]), 1.0) == pytest.approx(5)
    assert a.grad is in_place
    np.testing.assert_allclose([*a.grad, b.grad], [0.6, 0.0, -0.8], rtol=1e-6)
    assert frozen.grad is None
    assert clip_gradients([a, b], 1.0) == pytest.approx(1, rel=1e-6)
    assert clip_gradients([frozen], 1.0) == 0.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("max_norm", [1e-3, 2.0, 1e6, float("inf")])
def test_clipped_as_by_pytorch(dtype: Any, max_norm: float) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal(shape).astype(dtype) for shape in ((4, 4, 3, 5), (7,), (), (0, 3))]
    ours = [leaf(g, g.copy(), dtype) for g in grads]
    theirs = [torch.zeros(g.shape, dtype=torch.from_numpy(g).dtype, requires_grad=True) for g in grads]
    for p, g in zip(theirs, grads, strict=True):
        p.grad = torch.from_numpy(g.copy())
    rtol = 1e-6 if dtype == np.float32 else 1e-12
    assert clip_gradients(ours, max_norm) == pytest.approx(
        torch.nn.utils.clip_grad_norm_(theirs, max_norm).item(), rel=rtol
    )
    for p, q, g in zip(ours, theirs, grads, strict=True):
        assert p.grad is not None
        assert p.grad.dtype == dtype
        np.testing.assert_allclose(p.grad, q.grad.numpy(), rtol=rtol)
        if max_norm >= 1e6:
            np.testing.assert_array_equal(p.grad, g)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_norms_that_are_not_finite_as_in_pytorch(bad: float) -> None:
    torch = pytest.importorskip("torch")
    a, b = leaf([1.0, 2.0], [bad, 1.0]), leaf([3.0], [1.0])
    theirs = [torch.zeros(n, requires_grad=True) for n in (2, 1)]
    theirs[0].grad, theirs[1].grad = torch.tensor([bad, 1.0]), torch.tensor([1.0])
    before = [p.grad.copy() for p in (a, b)]
    GradientNorm([a, b])()  # looks, and changes nothing
    for p, array in zip((a, b), before, strict=True):
        np.testing.assert_array_equal(p.grad, array)
    norm = torch.nn.utils.clip_grad_norm_(theirs, 1.0).item()
    assert not np.isfinite(norm)
    np.testing.assert_equal(clip_gradients([a, b], 1.0), norm)
    np.testing.assert_array_equal(a.grad, theirs[0].grad.numpy())
    np.testing.assert_array_equal(b.grad, theirs[1].grad.numpy())


@needs_device
def test_gradients_on_a_device() -> None:
    shapes = ((300, 3), (7,), ())
    here = [leaf(np.zeros(shape), np.random.default_rng(0).standard_normal(shape)) for shape in shapes]
    there = [mg.Tensor(p.array, requires_grad=True).to(DEVICE).detach() for p in here]
    for p, q in zip(here, there, strict=True):
        assert p.grad is not None
        q.grad = mg.kernels.move(p.grad, DEVICE)
    for max_norm in (100.0, 2.0):
        assert clip_gradients(there, max_norm) == pytest.approx(clip_gradients(here, max_norm), rel=1e-6)
        for p, q in zip(here, there, strict=True):
            np.testing.assert_allclose(mg.kernels.to_host(q.grad), p.grad, rtol=1e-6)


def test_the_norm_before_clipping() -> None:
    a, b = leaf([1.0, 2.0], [3.0, 0.0]), leaf([3.0], [4.0])
    norm = GradientNorm(iter([a, b]))
    assert norm.value == 0
    norm()
    assert norm.value == pytest.approx(5)
    np.testing.assert_array_equal(a.grad, [3.0, 0.0])
    np.testing.assert_array_equal(b.grad, [4.0])
    clip_gradients([a, b], 1.0)
    norm()
    assert norm.value == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("max_norm", [0, -1.0, float("nan")])
def test_max_norm_outside_its_range(max_norm: float) -> None:
    with pytest.raises(ValueError, match=f"^clip_gradients: max_norm must be > 0, not {max_norm}$"):
        clip_gradients([leaf([1.0], [1.0])], max_norm)


def test_one_tensor_is_no_list() -> None:
    with pytest.raises(TypeError, match="clip_gradients: params must be a list of tensors, not one tensor"):
        clip_gradients(leaf([1.0], [1.0]), 1.0)  # type: ignore[arg-type]


# ---- in the loop ------------------------------------------------------------------------------------------------


def toy(seed: int = 0) -> tuple[Game, Any, list[Player]]:
    data = Generator(seed, "data")
    mg.manual_seed(seed)
    G = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    D = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
    real = (data.normal((4, 2)) for _ in itertools.count())
    game = Game(real, Generator(seed, "latent"), 3, 4)
    return game, G, two_player(G, D, NON_SATURATING, SGD(G.parameters(), 1.0), SGD(D.parameters(), 1.0), clip=0.5)


def test_order_of_an_update() -> None:
    game, _, players = toy()
    events: list[str] = []

    def hook(player: Player, name: str) -> Callable[[], None]:
        """Notes its call, and whether the optimizer has stepped in this update."""

        def call() -> None:
            assert all(p.grad is not None and p.requires_grad for p in player.optimizer.params)
            events.append(f"{player.name} {name} {player.optimizer.steps}")

        return call

    players[0].updates = lambda step: 2
    for player in players:
        player.before = [hook(player, "before"), hook(player, "before too")]
        player.after = [*player.after, hook(player, "after")]
    train(game, players, 1)
    one = ["before {}", "before too {}", "after {}"]
    d = [f"d {text.format(n + (text[0] == 'a'))}" for n in (0, 1) for text in one]
    assert events == [*d, *(f"g {text.format(int(text[0] == 'a'))}" for text in one)]


def test_an_update_is_as_long_as_its_clipped_gradient() -> None:
    game, G, players = toy()
    weights, norms = list(G.parameters()), []
    players[1].before = [lambda: norms.append(clip_gradients(weights, 1e-3))]
    before = [p.numpy().copy() for p in weights]
    train(game, players, 1)
    assert norms[0] > 1e-3
    moved = sum(((p.numpy() - b) ** 2).sum() for p, b in zip(weights, before, strict=True)) ** 0.5
    assert moved == pytest.approx(1e-3, rel=1e-3)  # lr is 1


def test_a_gan_trains_the_same_beside_its_average() -> None:
    results = []
    for averaged in (False, True):
        game, G, players = toy()
        ema = EMA(G, 0.9)
        start = copy.deepcopy(ema.net).state_dict()
        players[1].after = [LinearDecay(players[1].optimizer, 6), *([ema] if averaged else [])]
        train(game, players, 6)
        assert players[1].optimizer.lr == 0
        assert ema.calls == 6 * averaged
        moved = any((start[name] != array).any() for name, array in ema.net.state_dict().items())
        assert moved == averaged
        results.append(G.state_dict())
    assert all((results[0][name] == array).all() for name, array in results[1].items())
