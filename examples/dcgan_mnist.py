"""Trains any recipe of `minigan list` on images: python examples/dcgan_mnist.py --objective wgan-gp

Writes a folder with sample pictures, loss curves, metrics, weights and checkpoints; see --help for the options. It is
`minigan train` with flags. Who wants to know how a GAN comes together reads minigan/gan/recipes/gan.py, then train.py,
then run.py.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence

from minigan.cli.main import guarded
from minigan.cli.train import start
from minigan.gan.recipes import RECIPES, Settings
from minigan.options import Option, OptionError, fields_of

PROGRAM = "dcgan_mnist.py"
METAVAR = {int: "N", float: "X", str: "NAME"}


def flag_of(name: str, value: str = "") -> str:
    """--batch-size for batch_size; --no-metrics for metrics=false."""
    return f"--{'no-' if value == 'false' else ''}{name.replace('_', '-')}"


def add_option(parser: argparse._ActionsContainer, option: Option, text: str) -> None:
    """--batch-size N for batch_size=N; --long-phases for long_phases=true, --no-metrics for metrics=false."""
    name = option.name
    if option.type is bool:
        const, text = ("false", f"do not {text}") if option.default else ("true", text)
        parser.add_argument(flag_of(name, const), dest=name, action="store_const", const=const, help=text)
    else:
        kind = f"{{{option.listed.replace(' ', '')}}}" if option.choices else METAVAR[option.type]
        parser.add_argument(flag_of(name), dest=name, metavar=kind, help=text)


def help_of(users: Mapping[str, Option]) -> str:
    """The text on an option that these recipes have: that of most, whose they are if they are few, and the others'."""
    texts: dict[str, list[str]] = {}
    for recipe, option in users.items():
        texts.setdefault(option.help, []).append(recipe)
    most = max(texts, key=lambda text: len(texts[text]))
    names = texts.pop(most)
    whose = f" ({', '.join(names)})" if len(users) <= 4 else ""
    return "; ".join([most + whose, *(f"{', '.join(others)}: {text}" for text, others in texts.items())])


def as_flags(text: str, options: Mapping[str, Option]) -> str:
    """A message about key=value in the words of the command line: batch_size=10 becomes --batch-size 10."""

    def flag(found: re.Match[str]) -> str:
        name, value = found[1] or found[3], found[2] or ""
        return flag_of(name, value) if options[name].type is bool else f"{flag_of(name)} {value}".rstrip()

    bare = "|".join(name for name in options if "_" in name)  # no word of a sentence
    return re.sub(rf"\b(?:({'|'.join(options)})=([^\s,;:]*)|({bare})\b)", flag, text)


def arguments(words: Sequence[str] | None = None) -> tuple[str, Settings]:
    """The recipe's name and the settings."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Train a GAN on MNIST or other images. What is not given comes from the objective and the preset.",
        epilog=f"example: python examples/{PROGRAM} --objective wgan-gp --steps 500 --out runs/first",
        usage="%(prog)s [-h] [--objective NAME] [--OPTION VALUE ...]; --help lists all",
    )
    parser.add_argument(
        "--objective", choices=RECIPES, default="gan", help="the recipe: minigan list says what each is (%(default)s)"
    )
    users: dict[str, dict[str, Option]] = {}
    for recipe in RECIPES.values():
        for option in fields_of(recipe.settings):
            users.setdefault(option.name, {})[recipe.name] = option
    options = {name: next(iter(found.values())) for name, found in users.items()}
    common = {option.name for option in fields_of(Settings)}
    some = parser.add_argument_group("options of some objectives")
    for name, option in options.items():
        add_option(parser if name in common else some, option, help_of(users[name]))
    given = {key: value for key, value in vars(parser.parse_args(words)).items() if value is not None}
    objective = given.pop("objective")
    for key in given:
        if objective not in users[key]:
            own = [flag_of(name) for name in options if name not in common and objective in users[name]]
            parser.error(
                f"{flag_of(key, given[key])} is not an option of {objective}; of its own it has {', '.join(own)}"
            )
    try:
        return objective, RECIPES[objective].parse([f"{key}={value}" for key, value in given.items()], PROGRAM)
    except OptionError as error:
        text = str(error).removeprefix(f"{PROGRAM}: ")
        parser.error(as_flags(text, options))


def main() -> None:
    objective, settings = arguments()
    start(RECIPES[objective], settings)


if __name__ == "__main__":
    sys.exit(guarded(PROGRAM, main))
