"""Settings from words and from JSON: what is accepted, and every sentence that refuses the rest."""

import json
import re
from dataclasses import asdict, dataclass, field, make_dataclass, replace
from typing import Any, Optional

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minigan.options import Option, OptionError, fields_of, from_json, option, parse, table, to_json


@dataclass(frozen=True)
class Base:
    steps: int = option(3000, "updates of the generator", above=0)
    seed: int = option(0, "of all random numbers")


@dataclass(frozen=True)
class Settings(Base):
    batch_size: int = option(64, "images an update", at_least=2)
    epochs: int | None = option(None, "passes of D over the data, in place of steps", above=0)
    image_size: int | None = option(28, "pixels; the data are resized", choices=(28, 32, 64))
    lr: float = option(2e-4, "the optimizers' step size", above=0)
    beta1: float = option(0.5, "decay of Adam's first moment", at_least=0, below=1)
    clip: float | None = option(None, "bound of the critic's weights", above=0)
    shift: float = option(0, "added to every pixel")
    long_phases: bool = option(False, "100 critic updates in the first 25 steps")
    resize: bool | None = option(None, "whether the data are resized; none: where they must be")
    objective: str = option("gan", "what the players minimise", choices=("gan", "minimax", "wgan-clip", "wgan-gp"))
    data: str | None = option(None, "a folder or a file of images")
    name: str = option("run", "of the folder")

    def __post_init__(self) -> None:
        if self.epochs is not None and self.steps < self.epochs:
            raise ValueError(f"epochs={self.epochs} are more than steps={self.steps}; leave one out")


@dataclass
class Nothing:
    pass


KEYS = "steps, seed, batch_size, epochs, image_size, lr, beta1, clip, shift, long_phases, resize, objective, data, name"
OBJECTIVES = "gan, minimax, wgan-clip, wgan-gp"
WHERE = "minigan train gan"


def refusal(*words: str, kind: object = Settings) -> str:
    """What `parse` says, after the command."""
    with pytest.raises(OptionError) as caught:
        parse(kind, words, WHERE)
    before, message = str(caught.value).split(": ", 1)
    assert before == WHERE
    return message


# ---- words ----------------------------------------------------------------------------------------------------------


def test_without_words_all_is_as_the_class_or_the_instance_says() -> None:
    assert parse(Settings, [], WHERE) == Settings()
    preset = Settings(steps=10, clip=0.5)
    assert parse(preset, [], WHERE) == preset
    assert parse(preset, ["steps=20", "clip=none"], WHERE) == Settings(steps=20)
    assert preset == Settings(steps=10, clip=0.5)
    assert parse(Nothing, [], WHERE) == Nothing()


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("steps=3000", 3000), ("steps=3_000", 3000), ("steps=1e4", 10_000), ("steps=1.5E3", 1500), ("seed=-3", -3),
        ("seed=9007199254740993", 2**53 + 1), ("epochs=3", 3), ("epochs=none", None), ("image_size=32", 32),
        ("image_size=none", None), ("lr=1e-4", 1e-4), ("lr=1", 1.0), ("beta1=0", 0.0), ("clip=None", None),
        ("shift=-.5", -0.5), ("long_phases=TRUE", True), ("long_phases=yes", True), ("long_phases=On", True),
        ("long_phases=1", True), ("long_phases=False", False), ("long_phases=no", False), ("long_phases=off", False),
        ("long_phases=0", False), ("resize=no", False), ("resize=none", None), ("objective=wgan-gp", "wgan-gp"),
        ("data=a b/c=d.npz", "a b/c=d.npz"), ("data=none", None), ("name=none", "none"), ("name= ", " "),
    ],
)  # fmt: skip
def test_values(word: str, value: Any) -> None:
    name = word.partition("=")[0]
    made = getattr(parse(Settings, [word], WHERE), name)
    assert (made, type(made)) == (value, type(value))
    assert parse(Settings, [word], WHERE) == replace(Settings(), **{name: value})  # and nothing else has changed


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("lr=abc", "a number above 0"), ("lr=0", "a number above 0"), ("lr=nan", "a number above 0"),
        ("lr=inf", "a number above 0"), ("lr=1e999", "a number above 0"), ("lr=", "a number above 0"),
        ("lr=none", "a number above 0"), ("beta1=1", "a number of at least 0 and below 1"),
        ("beta1=-0.1", "a number of at least 0 and below 1"), ("shift=one", "a number"), ("shift=-inf", "a number"),
        ("clip=0", "a number above 0, or none"), ("clip=", "a number above 0, or none"),
        ("steps=2.5", "a whole number above 0"), ("steps=25e-1", "a whole number above 0"),
        ("steps=1e999", "a whole number above 0"), ("steps=1e300", "a whole number above 0"),
        ("steps=true", "a whole number above 0"), ("steps=", "a whole number above 0"), ("seed=x", "a whole number"),
        ("batch_size=1", "a whole number of at least 2"), ("long_phases=maybe", "true or false"),
        ("long_phases=", "true or false"), ("long_phases=none", "true or false"),
        ("resize=2", "true or false, or none"),
        ("image_size=30", "one of 28, 32, 64, or none"), ("objective=x", f"one of {OBJECTIVES}"),
        ("objective=", f"one of {OBJECTIVES}"), ("data=", "some text, or none"), ("name=", "some text"),
    ],
)  # fmt: skip
def test_bad_values(word: str, expected: str) -> None:
    assert refusal(word) == f"{word}: '{word.partition('=')[2]}' is not {expected}"


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("objective=gna", "gan"),
        ("objective=WGAN_GP", "wgan-gp"),
        ("objective=wgan-pg", "wgan-gp"),
        ("image_size=320", "32"),
    ],
)
def test_a_choice_that_was_meant(word: str, meant: str) -> None:
    choices = OBJECTIVES if word.startswith("objective") else "28, 32, 64, or none"
    assert refusal(word) == f"{word}: '{word.partition('=')[2]}' is not one of {choices}; did you mean '{meant}'?"


def test_capitals_are_no_hindrance_to_what_was_meant() -> None:
    @dataclass
    class Letters:
        N: int = option(1, "images")
        optimizer: str = option("SGD", "of both players", choices=("SGD", "Adam"))

    assert refusal("n=3", kind=Letters) == "there is no key 'n'; did you mean 'N'?"
    assert refusal("optimizer=sgd", kind=Letters).endswith("is not one of SGD, Adam; did you mean 'SGD'?")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("step=500", "there is no key 'step'; did you mean 'steps'?"),
        ("batch-size=8", "there is no key 'batch-size'; did you mean 'batch_size'?"),
        ("BATCH_SIZE=8", "there is no key 'BATCH_SIZE'; did you mean 'batch_size'?"),
        ("batch=8", "there is no key 'batch'; did you mean 'batch_size'?"),
        (" steps=8", "there is no key ' steps'; did you mean 'steps'?"),
        ("colour=red", f"there is no key 'colour'; the keys are {KEYS}"),
        ("=3", f"there is no key ''; the keys are {KEYS}"),
        ("steps", "'steps' is not key=value; write steps=..."),
        ("batch-size", "'batch-size' is not key=value; write batch_size=..."),
        ("hello", f"'hello' is not key=value; the keys are {KEYS}"),
        ("", f"'' is not key=value; the keys are {KEYS}"),
        ("--steps=500", "'--steps=500' is not key=value; write steps=500, without dashes"),
        ("-steps=500", "'-steps=500' is not key=value; write steps=500, without dashes"),
        ("--batch-size=8", "'--batch-size=8' is not key=value; write batch_size=8, without dashes"),
        ("--steps", "'--steps' is not key=value; write steps=..., without dashes"),
        ("--steps=", "'--steps=' is not key=value; write steps=..., without dashes"),
        ("--colour=red", f"'--colour=red' is not key=value; the keys are {KEYS}"),
    ],
)
def test_bad_keys(word: str, message: str) -> None:
    assert refusal(word) == message


def test_where_there_are_no_keys() -> None:
    assert refusal("steps=3", kind=Nothing) == "there is no key 'steps'; nothing can be set here"
    assert refusal("fast", kind=Nothing) == "'fast' is not key=value; nothing can be set here"


def test_a_key_that_is_given_twice() -> None:
    assert refusal("steps=5", "lr=1", "steps=6") == "steps is given twice, as '5' and '6'; leave one out"
    assert refusal("steps=5", "steps=5") == "steps is given twice, as '5' and '5'; leave one out"


def test_the_first_fault_is_reported() -> None:
    assert refusal("seed=1", "lr=x", "step=3", "steps").startswith("lr=x: ")
    assert refusal("seed=1", "step=3", "lr=x", "steps").startswith("there is no key 'step'")
    assert refusal("steps=4", "epochs=5", "lr=x").startswith("lr=x: ")  # each word, before all of them together


def test_values_that_do_not_go_together() -> None:
    assert refusal("steps=4", "epochs=5") == "epochs=5 are more than steps=4; leave one out"
    with pytest.raises(OptionError, match=r"^config\.json: epochs=5 are more than steps=4; leave one out$"):
        from_json(Settings, {**to_json(Settings()), "steps": 4, "epochs": 5}, "config.json")


def test_long_and_unprintable_text_is_shown_on_one_short_line() -> None:
    long = "x" * 57 + "..."
    assert refusal("lr=" + "x" * 60) == f"lr={'x' * 60}: '{'x' * 60}' is not a number above 0"
    assert refusal("lr=" + "x" * 61) == f"lr={long}: '{long}' is not a number above 0"
    assert refusal("x" * 1000) == f"'{long}' is not key=value; the keys are {KEYS}"
    assert refusal("x" * 1000 + "=3") == f"there is no key '{long}'; the keys are {KEYS}"
    assert refusal("lr=1\n2") == r"lr=1\n2: '1\n2' is not a number above 0"
    assert refusal("--lr=1\n2").endswith(r"write lr=1\n2, without dashes")
    assert refusal("name=a", "name=\udc80") == r"name is given twice, as 'a' and '\udc80'; leave one out"


KEY = st.sampled_from(KEYS.split(", "))
WORD = st.text() | st.builds("{}={}".format, KEY, st.text() | st.floats().map(str) | st.integers().map(str))


@given(st.lists(WORD | st.builds("--{}".format, WORD), max_size=3))
@example(["steps=" + "9" * 5000])
@example(["seed=" + "9" * 4000])
@example(["lr=" + "9" * 5000])
def test_any_words_are_read_or_refused_on_one_line(words: list[str]) -> None:
    try:
        made = parse(Settings, words, WHERE)
    except OptionError as error:
        message = str(error)
        assert message.startswith(f"{WHERE}: ")
        assert len(message.splitlines()) == 1
        assert message.isprintable()
        assert len(message) < 1500
    else:
        assert from_json(Settings, json.loads(json.dumps(to_json(made))), WHERE) == made


# ---- JSON -----------------------------------------------------------------------------------------------------------

POSITIVE = st.floats(0, exclude_min=True, allow_infinity=False)
TEXT = st.text(min_size=1)
SETTINGS = st.builds(
    Settings,
    steps=st.integers(1000, 10**30),
    seed=st.integers(),
    batch_size=st.integers(2),
    epochs=st.none() | st.integers(1, 1000),
    image_size=st.sampled_from([28, 32, 64, None]),
    lr=POSITIVE,
    beta1=st.floats(0, 1, exclude_max=True),
    clip=st.none() | POSITIVE,
    shift=st.floats(allow_nan=False, allow_infinity=False),
    long_phases=st.booleans(),
    resize=st.none() | st.booleans(),
    objective=st.sampled_from(OBJECTIVES.split(", ")),
    data=st.none() | TEXT.filter(lambda text: text.lower() != "none"),
    name=TEXT,
)


@given(SETTINGS)
@settings(max_examples=200)
def test_settings_come_back_from_words_and_from_json(made: Settings) -> None:
    values = json.loads(json.dumps(to_json(made)))
    assert list(values) == KEYS.split(", ")
    words = [f"{name}={value}" for name, value in values.items()]
    for back in (from_json(Settings, values, WHERE), parse(Settings, words, WHERE)):
        assert back == made
        assert [type(value) for value in asdict(back).values()] == [type(value) for value in asdict(made).values()]


def test_a_preset_gives_json_no_defaults() -> None:
    values = to_json(Settings(lr=0.1))
    assert from_json(Settings(lr=0.2), values, "config.json") == Settings(lr=0.1)
    with pytest.raises(OptionError, match="lr missing"):
        from_json(Settings(lr=0.2), {k: v for k, v in values.items() if k != "lr"}, "config.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": "abc"}, "lr is 'abc', not a number above 0"),
        ({"lr": "1e-4"}, "lr is '1e-4', not a number above 0"),
        ({"lr": True}, "lr is true, not a number above 0"),
        ({"lr": None}, "lr is none, not a number above 0"),
        ({"lr": -1}, "lr is -1, not a number above 0"),
        ({"lr": float("nan")}, "lr is nan, not a number above 0"),
        ({"lr": 10**400}, f"lr is 1{'0' * 56}..., not a number above 0"),
        ({"lr": [0.1]}, "lr is [0.1], not a number above 0"),
        ({"beta1": 1.0}, "beta1 is 1.0, not a number of at least 0 and below 1"),
        ({"steps": 3.0}, "steps is 3.0, not a whole number above 0"),
        ({"steps": False}, "steps is false, not a whole number above 0"),
        ({"image_size": 28.0}, "image_size is 28.0, not one of 28, 32, 64, or none"),
        ({"long_phases": 1}, "long_phases is 1, not true or false"),
        ({"objective": "wgan"}, f"objective is 'wgan', not one of {OBJECTIVES}"),
        ({"data": ""}, "data is '', not some text, or none"),
        ({"name": None}, "name is none, not some text"),
        ({"name": 3}, "name is 3, not some text"),
        ({"clip": "x\n" * 100, "lr": 3.0}, r"clip is '" + r"x\n" * 28 + "x...', not a number above 0, or none"),
        ({"lr": "x", "steps": 0}, "steps is 0, not a whole number above 0"),  # the first in the order of the fields
    ],
)
def test_bad_json_values(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        from_json(Settings, {**to_json(Settings()), **change}, "runs/a/config.json")
    assert str(caught.value) == f"runs/a/config.json: {message}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 3}, "seed missing; the keys must be steps, seed"),
        ({}, "steps, seed missing; the keys must be steps, seed"),
        ({"steps": 3, "seed": 0, "step": 3}, "'step' unknown; the keys must be steps, seed"),
        ({"step": "x", "speed": 1}, "steps, seed missing and 'step', 'speed' unknown; the keys must be steps, seed"),
        ([1, 2], "[1, 2] is not an object of keys and values"),
        ("steps", "'steps' is not an object of keys and values"),
        (None, "none is not an object of keys and values"),
    ],
)
def test_bad_json_keys(values: Any, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        from_json(Base, values, "config.json")
    assert str(caught.value) == f"config.json: {message}"


def test_json_of_no_keys() -> None:
    assert to_json(Nothing()) == {}
    assert from_json(Nothing, {}, "config.json") == Nothing()
    with pytest.raises(OptionError, match=r"^config\.json: 'a' unknown; the keys must be none$"):
        from_json(Nothing, {"a": 1}, "config.json")


def test_a_whole_number_in_json_becomes_a_float() -> None:
    made = from_json(Settings, {**to_json(Settings()), "lr": 1}, "config.json")
    assert (made.lr, type(made.lr)) == (1.0, float)


# ---- --help ---------------------------------------------------------------------------------------------------------


def test_table() -> None:
    assert table(Settings(long_phases=True)) == [
        "  steps=3000         updates of the generator",
        "  seed=0             of all random numbers",
        "  batch_size=64      images an update (at least 2)",
        "  epochs=none        passes of D over the data, in place of steps (above 0)",
        "  image_size=28      pixels; the data are resized (28, 32, 64, or none)",
        "  lr=0.0002          the optimizers' step size",
        "  beta1=0.5          decay of Adam's first moment (at least 0 and below 1)",
        "  clip=none          bound of the critic's weights (above 0)",
        "  shift=0            added to every pixel",
        "  long_phases=true   100 critic updates in the first 25 steps",
        "  resize=none        whether the data are resized; none: where they must be",
        "  objective=gan      what the players minimise (gan, minimax, wgan-clip, wgan-gp)",
        "  data=none          a folder or a file of images",
        "  name=run           of the folder",
    ]
    assert table(Nothing) == []


def test_table_wraps_at_100_columns_and_leaves_long_defaults_whole() -> None:
    @dataclass
    class Long:
        fits: int = option(1, f"{'x' * 31} {'y' * 32}", at_least=1)
        over: int = option(1, f"{'x' * 31} {'y' * 33}", at_least=1)
        hyphen: str = option("h", f"{'x' * 48} wgan-clip wgan-gp")
        before: str = option("b" * 26, "images")  # 35 columns
        after: str | None = option("a" * 28, "images")  # 36 columns
        data: str | None = option("d/" * 60, "images")

    indent = " " * 36
    assert table(Long) == [
        f"  fits=1{indent[8:]}{'x' * 31} {'y' * 32}",
        f"  over=1{indent[8:]}{'x' * 31}",
        f"{indent}{'y' * 33}",
        f"  hyphen=h{indent[10:]}{'x' * 48} wgan-clip",
        f"{indent}wgan-gp",
        f"  before={'b' * 26} images",
        f"  after={'a' * 28}",
        f"{indent}images (or none)",
        f"  data={'d/' * 60}",
        f"{indent}images (or none)",
    ]


# ---- dataclasses ----------------------------------------------------------------------------------------------------


def test_fields_of() -> None:
    assert fields_of(Base(steps=5)) == [
        Option("steps", int, False, 5, "updates of the generator", 0, None, None, ()),
        Option("seed", int, False, 0, "of all random numbers", None, None, None, ()),
    ]
    known = {one.name: one for one in fields_of(Settings)}
    assert ", ".join(known) == KEYS
    assert (known["clip"].type, known["clip"].optional, known["clip"].default) == (float, True, None)
    assert known["image_size"].choices == (28, 32, 64)
    assert (known["beta1"].at_least, known["beta1"].below) == (0, 1)


def test_one_option_reads_text_for_another_parser() -> None:
    [steps, _] = fields_of(Base)
    assert steps.read("1e3") == 1000
    with pytest.raises(OptionError, match=r"^'-1' is not a whole number above 0$"):
        steps.read("-1")


def test_types_in_other_spellings() -> None:
    made = make_dataclass(
        "Made",
        [("a", Optional[int], option(None, "a")), ("b", "float | None", option(None, "b"))],  # noqa: UP045
    )
    assert [(one.type, one.optional) for one in fields_of(made)] == [(int, True), (float, True)]


@pytest.mark.parametrize(
    ("kind", "default"),
    [
        (int, 3), (list[int], option((), "a list")), (int | str, option(3, "either")), (int, field(default=3)),
        (tuple[float, float], option((0.5, 0.9), "two")), (int, option(3, "")), (None, option(None, "nothing")),
    ],
)  # fmt: skip
def test_a_field_that_is_no_option(kind: Any, default: Any) -> None:
    wrong = make_dataclass("Wrong", [("a", kind, default)])
    message = (
        "Wrong.a is no option; write a: TYPE = option(default, help), where TYPE is int, float, bool or str, or one of "
        "them | None"
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        fields_of(wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": -1.0}, "Settings.lr: the default -1.0 is not a number above 0"),
        ({"objective": "x"}, f"Settings.objective: the default 'x' is not one of {OBJECTIVES}"),
        ({"steps": None}, "Settings.steps: the default none is not a whole number above 0"),
        ({"name": ""}, "Settings.name: the default '' is not some text"),
    ],
)
def test_a_default_that_the_option_itself_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        to_json(replace(Settings(), **change))
