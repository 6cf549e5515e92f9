"""Every recipe trains, repeats itself and goes on to the bit; each does what its paper says."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigan import nn, no_grad
from minigan.cli.main import main
from minigan.data import DataSet
from minigan.gan import train
from minigan.gan.recipes import RECIPES, began
from minigan.gan.records import Record
from minigan.gan.run import Run, Training
from minigan.gan.sampling import SHOWN, generate, latent_vectors, trained_generator
from minigan.gan.train import Logs, frozen, of_others
from minigan.metrics import mean_pairwise_distance
from minigan.metrics.images import pixels
from minigan.options import OptionError
from minigan.tensor import Array, Tensor

TINY = ("width=2", "batch_size=4", "latent=3")
FAMILIES = ["objectives", "penalties", "tricks", "conditional", "baselines"]

rng = np.random.default_rng(0)
DATA = DataSet("noise", rng.integers(0, 256, (30, 28, 28, 1)).astype(np.uint8), np.arange(30) % 10, None, None)

FEW = {
    "wgan-clip": ("n_critic=2",),
    "wgan-gp": ("n_critic=2",),
    "fgan": ("lr=1e-3",),
}
WORDS = {
    **{name: (name, *FEW.get(name, ())) for name in RECIPES},
    "both penalties": ("gan-r1", "r2_lambda=1"),
    "one-sided": ("wgan-gp", "n_critic=1", "one_sided=true", "drift=1e-3"),
    "virtual": ("improved", "d_norm=virtual", "g_norm=virtual", "attention=true", "replay=6"),
    "noise": ("improved", "noise=0.5"),
    "spectral": (
        "improved", "d_norm=spectral", "g_norm=self-modulated", "minibatch=discrimination", "feature_matching=true",
    ),
    "pixel": ("improved", "d_norm=layer", "g_norm=pixel", "minibatch=std", "equalized=true", "smoothing=0.9"),
}  # fmt: skip


def training(*words: str, data: DataSet = DATA) -> Training:
    name, *more = words if any(word.startswith(("steps=", "epochs=")) for word in words) else (*words, "steps=10")
    return Training(RECIPES[name], RECIPES[name].parse([*TINY, *more], "test"), data)


def trained(
    t: Training, last: int, first: int = 1, look: Callable[[int], None] | None = None, capture: bool = True
) -> list[Logs]:
    """The logs of steps `first` .. `last`; look(step) after each."""
    rows: list[Logs] = []

    def after(step: int, logs: Logs) -> None:
        rows.append(logs)
        if look is not None:
            look(step)

    train(t.game, t.parts.players, last, [after], first, capture)
    return rows


def assert_equal(a: dict[str, Array], b: dict[str, Array]) -> None:
    assert a.keys() == b.keys()
    assert [key for key in a if a[key].tobytes() != b[key].tobytes()] == []


# ---- all of them ----------------------------------------------------------------------------------------------------


def test_each_says_what_it_is() -> None:
    assert list(dict.fromkeys(recipe.family for recipe in RECIPES.values())) == FAMILIES
    for name, recipe in RECIPES.items():
        assert (recipe.name, recipe.summary > "", recipe.paper > "", recipe.formula > "") == (name, True, True, True)
        assert "\n" not in recipe.summary + recipe.formula
        assert len(recipe.name) <= 12
        assert recipe.parse([], "test") == recipe.settings()
        for preset in recipe.presets:
            recipe.parse([f"preset={preset}"], "test")


@pytest.mark.parametrize("name", WORDS)
def test_trains_and_goes_on_to_the_bit(name: str) -> None:
    """Ten steps; ten again, from other objects; six, saved, and four by a third training."""
    words = *WORDS[name], "ema=0.9", "lr_schedule=linear"
    saved: dict[int, Any] = {}
    first, second, third = training(*words), training(*words), training(*words)
    rows = trained(first, 10, look=lambda step: saved.update({step: first.state()} if step in (6, 10) else {}))
    assert all(isinstance(value, float) and np.isfinite(value) for row in rows for value in row.values())
    assert rows[0].keys() == rows[9].keys()
    assert trained(second, 10) == rows
    assert_equal(second.state()[0], saved[10][0])
    third.restore(*saved[6])
    assert trained(third, 10, first=7) == rows[6:]
    arrays, rest = third.state()
    assert_equal(arrays, saved[10][0])
    assert rest == saved[10][1]
    assert any(not np.array_equal(arrays[key], saved[6][0][key]) for key in arrays if key.startswith("nets.G"))


@pytest.mark.parametrize("name", WORDS)
def test_samples_of_a_checkpoint(name: str, tmp_path: Path) -> None:
    """The generator of a run's folder makes what the one that was trained makes."""
    run = Run.start(training(*WORDS[name], "steps=2", f"out={tmp_path / 'run'}", "ema=0.5"))
    run.train()
    codes = run.training.game.z().array
    step, net = trained_generator(Record.read(str(tmp_path / "run")))
    images = generate(net, codes)
    run.folder.close()
    assert (step, images.shape) == (2, (4, 28, 28, 1))
    assert np.array_equal(images, run.training.generate(codes))
    assert abs(images).max() <= 1


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("name", ["sagan", "began", "vae", "virtual", "spectral", "pixel"])
def test_other_sizes_and_colours(name: str, size: int) -> None:
    data = DATA._replace(images=DATA.images.repeat(3, 3))
    t = training(*WORDS[name], f"image_size={size}", data=data)
    trained(t, 1)
    assert t.generate(t.game.z().array).shape == (4, size, size, 3)


# ---- began ----------------------------------------------------------------------------------------------------------


def test_began_balances() -> None:
    """k begins at 0, where D's loss is the error of real images; then it moves by the rule of equation 13."""
    first, second = trained(training("began", "gamma=0.9", "lambda_k=0.1"), 2)
    real, fake = first["d_loss"], first["g_loss"]
    assert first["k"] == 0
    assert first["measure"] == pytest.approx(real + abs(0.9 * real - fake), rel=1e-6)
    assert second["k"] == pytest.approx(0.1 * (0.9 * real - fake), rel=1e-5)
    assert second["k"] > 0


def test_began_subtracts_k_times_the_error_of_fakes() -> None:
    losses = []
    for k in (0.0, 0.25, 1.0):
        t = training("began")
        t.parts.state["balance"].load_state_dict({"k": np.array([k])})
        loss, logs = t.parts.players[0].loss(t.game)
        assert logs["k"] == k
        losses.append(loss.item())
    real, quarter, whole = losses
    assert real - quarter == pytest.approx((real - whole) / 4, rel=1e-4)
    assert 0 < real - whole < real


@pytest.mark.parametrize(
    ("k", "real", "fake", "wanted"), [(0.5, 1.0, 0.3, 0.52), (0.01, 0.0, 1.0, 0.0), (0.99, 1.0, 0.0, 1.0)]
)
def test_began_keeps_k_between_0_and_1(k: float, real: float, fake: float, wanted: float) -> None:
    balance = began.Balance(gamma=0.5, rate=0.1)
    balance.load_state_dict({"k": np.array([k])})
    balance.update(real, fake)
    assert balance.state_dict()["k"] == pytest.approx([wanted], rel=1e-6)


def test_began_refuses_a_discriminator() -> None:
    t, wrong = training("began"), training("gan").parts
    G, D = wrong.nets["G"], wrong.nets["D"]
    optimizers = [player.optimizer for player in wrong.players[::-1]]
    with pytest.raises(ValueError, match="BEGAN: D must be an autoencoder") as error:
        began.began_players(G, D, *optimizers, t.parts.state["balance"], (28, 28, 1))  # type: ignore[arg-type]
    assert str(error.value) == (
        "BEGAN: D must be an autoencoder, since its loss is how badly it rebuilds an image, but it makes (2, 1) of "
        "images (2, 28, 28, 1); take an encoder and a decoder behind it, not a discriminator that gives a score"
    )
    assert D.training


# ---- penalties ------------------------------------------------------------------------------------------------------


def test_drift_is_the_critics_mean_square() -> None:
    plain, drifting = training("wgan-gp"), training("wgan-gp", "drift=10", "n_critic=1")
    D = plain.parts.nets["D"]
    for t in (plain, drifting):
        for net in t.parts.nets.values():
            for p in net.parameters():
                with p.writing() as array:
                    array *= 5  # scores that can be seen
    with no_grad():
        scores = D(Tensor.of(next(training("wgan-gp").real))).array
    losses = []
    for t in (plain, drifting):
        loss, _ = t.parts.players[0].loss(t.game)
        losses.append(loss.item())
    assert losses[1] - losses[0] == pytest.approx(10 * (scores**2).mean(), rel=1e-4)


def test_sngan_holds_every_weight_at_norm_1() -> None:
    t = training("sngan")
    trained(t, 10)
    layers = [layer for layer in t.parts.nets["D"].modules() if isinstance(layer, nn.SpectralNorm)]
    assert len(layers) == 3
    assert not any(isinstance(module, nn.BatchNorm1d) for module in t.parts.nets["D"].modules())
    for layer in layers:
        weight = layer.eval().weight().array
        assert np.linalg.svd(weight.reshape(-1, weight.shape[-1]))[1][0] == pytest.approx(1, abs=0.05)


def test_sagan_attends_where_the_maps_are_14_pixels_wide() -> None:
    t = training("sagan")
    wide: list[tuple[Any, ...]] = []

    def look(name: str, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        wide.append((name, *x.shape))
        return forward(x)

    for name in ("G", "D"):
        (layer,) = (module for module in t.parts.nets[name].modules() if isinstance(module, nn.SelfAttention))
        layer.forward = partial(look, name, layer.forward)  # type: ignore[method-assign]
        assert isinstance(layer.f, nn.SpectralNorm)
    trained(t, 2)
    maps = 14, 14, 2  # D sees real images and fakes as one batch of 8; then G's new fakes
    assert wide == 2 * [("G", 4, *maps), ("D", 8, *maps), ("G", 4, *maps), ("D", 4, *maps)]
    for name in ("G", "D"):
        (strength,) = (p for key, p in t.parts.nets[name].named_parameters() if key.endswith("strength"))
        assert strength.item() != 0
    assert [player.optimizer.lr for player in t.parts.players] == [4e-4, 1e-3]


# ---- improved -------------------------------------------------------------------------------------------------------


def test_improved_without_tricks_is_gan() -> None:
    gan, improved = training("gan"), training("improved")
    assert trained(improved, 5) == trained(gan, 5)
    assert_equal(improved.state()[0], gan.state()[0])


def d_losses(*words: str, steps: int = 4) -> list[float]:
    return [row["d_loss"] for row in trained(training("improved", *words), steps)]


def test_smoothing_moves_ds_target() -> None:
    t = training("improved", "smoothing=0.75")
    x, fakes = t.game.images(), t.parts.nets["G"](t.game.z()).array
    D = t.parts.nets["D"]
    real, fake = D(Tensor.of(x)).array.astype(float), D(Tensor.of(fakes)).array.astype(float)
    wanted = (0.75 * np.logaddexp(0, -real) + 0.25 * np.logaddexp(0, real) + np.logaddexp(0, fake)).mean()
    assert d_losses("smoothing=0.75", steps=1) == pytest.approx([wanted], rel=1e-5)


def test_replay_shows_old_fakes() -> None:
    """The pool is full after three batches of 4; until then D is shown what G makes."""
    plain, replayed = d_losses(steps=5), d_losses("replay=12", steps=5)
    assert replayed[:3] == plain[:3]
    assert replayed[3] != plain[3]
    t = training("improved", "replay=12")
    shown: list[Array] = []
    made: list[Array] = []
    judged = t.parts.nets["D"]
    forward = judged.forward

    def look(x: Tensor) -> Tensor:
        shown.append(x.array.copy())
        return forward(x)

    judged.forward = look  # type: ignore[method-assign]
    G = t.parts.nets["G"]
    make = G.forward

    def note(z: Tensor) -> Tensor:
        images = make(z)
        made.append(images.array.copy())
        return images

    G.forward = note  # type: ignore[method-assign]
    trained(t, 4, capture=False)
    # In each step D sees real images, fakes, and fakes of G's own step; G makes fakes for D and for itself.
    fakes, new = shown[10], made[6]
    fresh = [any(np.array_equal(a, b) for b in new) for a in fakes]
    old = [any(np.array_equal(a, b) for batch in made[:6:2] for b in batch) for a in fakes]
    assert (sum(fresh), sum(old)) == (2, 2)


def test_feature_matching_is_of_means_and_trains_g_only() -> None:
    t = training("improved", "feature_matching=true")
    d, g = t.parts.players
    d.loss(t.game)
    counter = t.game.latent.counter
    with frozen(of_others([d, g])[1]):
        loss, _ = g.loss(t.game)
        loss.backward()
    D, G = t.parts.nets["D"], t.parts.nets["G"]
    assert all(p.grad is None for p in D.parameters())
    assert all(p.grad is not None for p in G.parameters())
    t.game.latent.counter = counter
    f = nn.Sequential(*D.layers[:-2])  # type: ignore[attr-defined]
    real, fake = (f(x).array.mean(0, dtype=float) for x in (Tensor.of(t.game.current), G(t.game.z())))
    assert loss.item() == pytest.approx(((real - fake) ** 2).sum(), rel=1e-4)


def test_virtual_batch_norm_refers_to_the_first_real_batch() -> None:
    t = training("improved", "d_norm=virtual", "g_norm=virtual")
    first = next(training("improved").real)
    references: list[Array] = []
    D, G = t.parts.nets["D"], t.parts.nets["G"]
    (batch,) = (module for module in D.modules() if isinstance(module, nn.VirtualBatch))
    trained(t, 3, look=lambda step: references.append(batch.reference.array.copy()))
    assert all(np.array_equal(reference, first) for reference in references)
    z = t.game.z()
    with no_grad():
        alone, together = G(z[:1]).array, G(z).array[:1]
    assert np.allclose(alone, together, atol=1e-6)
    assert not any(isinstance(module, nn.BatchNorm1d) for net in (G, D) for module in net.modules())


def test_noise_falls_to_0() -> None:
    t = training("improved", "noise=0.4", "noise_steps=4")
    noise = t.parts.nets["D"][0]  # type: ignore[index]
    sigmas: list[float] = []
    trained(t, 5, look=lambda step: sigmas.append(noise.sigma))
    assert sigmas == pytest.approx([0.3, 0.2, 0.1, 0, 0])


def test_noise_falls_over_the_run_and_never_rises() -> None:
    """A run that is complete and then made longer has no noise again."""
    run, longer = training("improved", "noise=0.4", "steps=4"), training("improved", "noise=0.4", "steps=8")
    trained(run, 4)
    longer.restore(*run.state())
    for t in (run, longer):
        assert t.parts.nets["D"][0].sigma == 0  # type: ignore[index]
    trained(longer, 5, first=5)
    assert longer.parts.nets["D"][0].sigma == 0  # type: ignore[index]


def test_two_step_sizes() -> None:
    players = training("improved", "lr=1e-4", "d_lr=3e-4").parts.players
    assert {player.name: player.optimizer.lr for player in players} == {"d": 3e-4, "g": 1e-4}


@pytest.mark.parametrize("word", ["minibatch=std", "minibatch=discrimination"])
def test_minibatch_layers_tell_d_of_the_others(word: str) -> None:
    """A logit depends on the other images, and D of copies is another one than D of different images."""
    t = training("improved", word, "d_norm=none")
    D, x = t.parts.nets["D"], Tensor.of(pixels(DATA.images[:4], 28))
    with no_grad():
        apart = D(x).array[0]
        copies = D(x[np.zeros(4, int)]).array
    assert np.allclose(copies, copies[0])
    assert not np.allclose(copies[0], apart, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            "equalized=true d_norm=spectral",
            "equalized=true and d_norm=spectral: the spectral norm divides out the scale that the other sets; take one "
            "of them",
        ),
        (
            "replay=9 minibatch=std",
            "replay=9 and minibatch=std: D would judge how alike the fakes of a batch are, half of which are not from "
            "this G; take one of them",
        ),
        (
            "minibatch=std batch_size=10",
            "minibatch=std compares groups of 4 images, which do not divide batch_size=10; give batch_size=8",
        ),
        (
            "noise=0.1 epochs=2",
            "noise=0.1 falls to 0 over the run's steps, which epochs=2 does not say; give steps in place of epochs, "
            "or, to a new run, noise_steps",
        ),
        ("smoothing=1.5", "smoothing=1.5 is no probability, which D's target is; give at most 1"),
    ],
)
def test_tricks_that_make_no_sense_are_refused(words: str, text: str) -> None:
    with pytest.raises(OptionError) as error:
        RECIPES["improved"].parse(words.split(), "minigan train improved")
    assert str(error.value) == f"minigan train improved: {text}"


def test_noise_lets_a_run_become_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It falls to 0 where it would have: the first length is in the checkpoint."""
    monkeypatch.chdir(tmp_path)
    np.savez("noise.npz", DATA.images)
    words = ["width=1", "batch_size=4", "latent=2", "metrics=false", "data=noise.npz", "out=run", "noise=0.5"]
    assert main(["train", "improved", "steps=3", *words]) == 0
    assert main(["resume", "run", "steps=5"]) == 0
    assert Record.read("run").steps == 5
    assert "noise" not in capsys.readouterr().err
    assert main(["train", "improved", "epochs=1", *words[:-2], "out=other", "noise=0.5"]) == 2
    assert "improved: noise=0.5 falls to 0 over the run's steps, which epochs=1 does not say" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["gan", "cgan", "infogan"])
def test_spread_is_of_samples_that_all_have_codes_of_their_own(name: str, tmp_path: Path) -> None:
    """With every label beside the same noise, images differ however alike the samples of a label are."""
    trained = training(name, "steps=2", "sample_every=2", f"out={tmp_path / 'run'}")
    run = Run.start(trained)
    with run.folder:
        run.train()
        (row,) = (row for row in run.folder.rows() if "spread" in row)
    fakes = trained.generate(latent_vectors(trained.recipe, trained.settings, "samples", SHOWN))
    assert row["spread"] == mean_pairwise_distance(fakes) / trained.real_distance
