"""Settings as dataclasses: from `key=value` words, from JSON and back, and as the lines of --help.

    @dataclass(frozen=True)
    class Settings:
        steps: int = option(3000, "updates of the generator", above=0)
        clip: float | None = option(None, "bound of the critic's weights", above=0)

    parse(Settings, ["steps=1e4", "clip=0.01"], "minigan train")

Types are int, float, bool and str, each also `| None`. Instead of the class, an instance brings its values as the
defaults. Whatever is refused is refused by an OptionError: one sentence on one line, which begins with `where`.
"""

import dataclasses
import difflib
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints, overload

T = TypeVar("T")
S = TypeVar("S")

COLUMNS = 100  # of the terminal that --help is written for
SHOWN = 60  # letters of a bad value that a message repeats


class OptionError(ValueError):
    """A word or a value that was refused: what it was, and what to write in its place."""


def option(
    default: T,
    help: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    choices: Sequence[T] = (),
) -> T:
    """A field of a dataclass of settings. Bounds and choices do not hold for None."""
    limits = {"above": above, "at_least": at_least, "below": below, "choices": tuple(choices)}
    return dataclasses.field(default=default, metadata={"help": help, **limits})


class Option(NamedTuple):
    """What is known of one field: `type` without its `| None`, which is `optional`."""

    name: str
    type: type[Any]
    optional: bool
    default: Any
    help: str
    above: float | None
    at_least: float | None
    below: float | None
    choices: tuple[Any, ...]

    def read(self, text: str) -> Any:
        """The value that is written so. OptionError, without the name: "'abc' is not a number above 0"."""
        try:
            value = None if self.optional and text.lower() == "none" else READ[self.type](text)
        except ValueError:
            pass
        else:
            if self.takes(value):
                return value
        near = _near(text, map(_text, self.choices))
        hint = f"; did you mean '{near}'?" if near else ""
        raise OptionError(f"{_shown(text)} is not {self.expected}{hint}")

    def takes(self, value: Any) -> bool:
        """Whether it can have this value; a whole number is a float, too, but no bool is a number."""
        if value is None:
            return self.optional
        if type(value) is not self.type and (type(value), self.type) != (int, float):
            return False
        if self.choices:
            return value in self.choices
        if self.type in (bool, str):
            return bool(value != "")  # which no word could say
        return (
            abs(value) <= sys.float_info.max  # neither NaN nor infinite, nor a whole number that no float can hold
            and (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.below is None or value < self.below)
        )

    @property
    def expected(self) -> str:
        """What it takes, in words: "a number above 0, or none"."""
        if self.choices:
            what = f"one of {self.listed}"
        else:
            what = " ".join(filter(None, [CALLED[self.type], self.bounds.replace("at least", "of at least")]))
        return f"{what}, or none" if self.optional else what

    @property
    def bounds(self) -> str:
        """ "above 0 and below 1"; empty without any."""
        limits = {"above": self.above, "at least": self.at_least, "below": self.below}
        return " and ".join(f"{word} {limit}" for word, limit in limits.items() if limit is not None)

    @property
    def listed(self) -> str:
        """The choices."""
        return ", ".join(map(_text, self.choices))


def _whole(text: str) -> int:
    """3000, 3_000 and 1e4. ValueError."""
    if "e" not in text.lower():
        return int(text)
    value = float(text)
    if not value.is_integer() or abs(value) >= 2**53:  # from there on floats leave whole numbers out
        raise ValueError(text)
    return int(value)


def _truth(text: str) -> bool:
    """true, yes, on, 1 and their opposites, in any case. ValueError."""
    for value, words in ((True, ("true", "yes", "on", "1")), (False, ("false", "no", "off", "0"))):
        if text.lower() in words:
            return value
    raise ValueError(text)


READ: dict[type[Any], Callable[[str], Any]] = {int: _whole, float: float, bool: _truth, str: str}
CALLED = {int: "a whole number", float: "a number", bool: "true or false", str: "some text"}


def fields_of(kind: object) -> list[Option]:
    """The options of a dataclass or of an instance, those of its bases first.

    TypeError for a field that is none, ValueError for a default that it does not take itself: mistakes of a program.
    """
    settings = _instance(kind)
    hints = get_type_hints(type(settings))
    options = []
    for field in dataclasses.fields(settings):
        name, where, hint = field.name, f"{type(settings).__name__}.{field.name}", hints[field.name]
        members = get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)
        types = [member for member in members if member is not NoneType]
        if not field.metadata.get("help") or len(types) != 1 or types[0] not in READ:
            raise TypeError(
                f"{where} is no option; write {name}: TYPE = option(default, help), where TYPE is int, float, bool or "
                "str, or one of them | None"
            )
        made = Option(name, types[0], len(members) == 2, getattr(settings, name), **field.metadata)
        if not made.takes(made.default):
            raise ValueError(f"{where}: the default {_shown(made.default)} is not {made.expected}")
        options.append(made)
    return options


@overload
def parse(kind: type[S], words: Sequence[str], where: str) -> S: ...
@overload
def parse(kind: S, words: Sequence[str], where: str) -> S: ...
def parse(kind: Any, words: Sequence[str], where: str) -> Any:
    """The defaults, changed by words like "lr=1e-4"; none stands for None. OptionError for the first bad word.

    where: what the message begins with, the command: "minigan train gan".
    """
    options = {one.name: one for one in fields_of(kind)}
    given: dict[str, str] = {}
    values = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or key not in options:
            raise OptionError(f"{where}: {_fault_of_key(word, list(options))}")
        if key in given:
            raise OptionError(
                f"{where}: {key} is given twice, as {_shown(given[key])} and {_shown(text)}; leave one out"
            )
        given[key] = text
        try:
            values[key] = options[key].read(text)
        except OptionError as error:
            raise OptionError(f"{where}: {key}={_bare(text)}: {error}") from error
    return _changed(kind, values, where)


def _fault_of_key(word: str, keys: Sequence[str]) -> str:
    """What is wrong with a word that does not begin with one of the keys and "=", and what to write."""
    name, equals, text = word.partition("=")
    key = name.lstrip("-")
    near = _near(key, keys)
    all_keys = f"the keys are {', '.join(keys)}" if keys else "nothing can be set here"
    if equals and key == name:
        return f"there is no key {_shown(key)}; " + (f"did you mean '{near}'?" if near else all_keys)
    dashes = "" if key == name else ", without dashes"
    return f"{_shown(word)} is not key=value; " + (f"write {near}={_bare(text) or '...'}{dashes}" if near else all_keys)


@overload
def from_json(kind: type[S], values: Mapping[str, Any], where: str) -> S: ...
@overload
def from_json(kind: S, values: Mapping[str, Any], where: str) -> S: ...
def from_json(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    """What `to_json` gave. OptionError if the keys are not exactly those, or for the first bad value.

    where: what the message begins with, the file: "runs/gan-0001/config.json".
    """
    if not isinstance(values, Mapping):
        raise OptionError(f"{where}: {_shown(values)} is not an object of keys and values")
    options = {one.name: one for one in fields_of(kind)}
    missing = [key for key in options if key not in values]
    unknown = [_shown(key) for key in values if key not in options]
    if missing or unknown:
        faults = [f"{', '.join(missing)} missing"] if missing else []
        faults += [f"{', '.join(unknown)} unknown"] if unknown else []
        raise OptionError(f"{where}: {' and '.join(faults)}; the keys must be {', '.join(options) or 'none'}")
    for key, one in options.items():
        if not one.takes(values[key]):
            raise OptionError(f"{where}: {key} is {_shown(values[key])}, not {one.expected}")
    floats = {key: float(values[key]) for key, one in options.items() if one.type is float and values[key] is not None}
    return _changed(kind, {**values, **floats}, where)


def to_json(settings: object) -> dict[str, Any]:
    """Every value by name, in the order of the fields."""
    return {one.name: one.default for one in fields_of(settings)}


def table(kind: object, names: Collection[str] | None = None) -> list[str]:
    """What --help says of each: "  width=32  channels of the layers next to the image", on lines of 100 columns.

    names: of these only.
    """
    options = [one for one in fields_of(kind) if names is None or one.name in names]
    heads = [f"  {one.name}={_text(one.default)}" for one in options]
    column = min(36, max(map(len, heads), default=0) + 3)
    lines = []
    for one, head in zip(options, heads, strict=True):
        if len(head) >= column:
            lines.append(head)
            head = ""
        lines += textwrap.wrap(
            f"{one.help} {_remark(one)}", COLUMNS, initial_indent=head.ljust(column),
            subsequent_indent=" " * column, break_on_hyphens=False,
        )  # fmt: skip
    return lines


def _remark(one: Option) -> str:
    """What help and default do not tell: not that a number of things is above 0, but that none can be a number."""
    plain = (one.above, one.at_least, one.below) in ((0, None, None), (None, 0, None), (None, 1, None))
    limits = "" if plain and one.default is not None else one.bounds
    none = "or none" if one.optional and one.default is not None else ""
    remark = ", ".join(filter(None, [one.listed or limits, none]))
    return f"({remark})" if remark else ""


def _instance(kind: object) -> Any:
    return kind() if isinstance(kind, type) else kind


def _changed(kind: object, values: Mapping[str, Any], where: str) -> Any:
    """A ValueError of the dataclass itself, of values that do not go together, begins with `where`, too."""
    try:
        return dataclasses.replace(_instance(kind), **values)
    except ValueError as error:
        raise OptionError(f"{where}: {error}") from error


def _text(value: Any) -> str:
    """As in a word."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _shown(value: Any) -> str:
    """On one line, of no more letters than can be read; text in quotes."""
    text = value if isinstance(value, str) else _text(value)
    text = text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
    return repr(text) if isinstance(value, str) else text


def _bare(text: str) -> str:
    """Shown without the quotes."""
    return _shown(text)[1:-1]


def _near(text: str, names: Iterable[str]) -> str | None:
    """The name that was meant: case and a few letters may be wrong, among them dashes."""
    plain = {name.lower(): name for name in names}
    found = difflib.get_close_matches(text.lower(), plain, 1)
    return plain[found[0]] if found else None
