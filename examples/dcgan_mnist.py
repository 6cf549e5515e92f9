"""Trains a GAN, a WGAN or a WGAN-GP on images: python examples/dcgan_mnist.py

Writes a folder with sample pictures, loss curves, metrics, weights and checkpoints; see --help for the options. It is
`minigan train` with flags. Who wants to know how a GAN comes together reads minigan/gan/recipes/gan.py, then train.py,
then run.py.
"""

import argparse
import re
import sys
from collections.abc import Sequence

from minigan.cli.main import guarded
from minigan.cli.train import start
from minigan.gan.recipes import RECIPES, Settings
from minigan.options import Option, OptionError, fields_of

PROGRAM = "dcgan_mnist.py"
METAVAR = {int: "N", float: "X", str: "NAME"}


def add_option(parser: argparse._ActionsContainer, option: Option) -> None:
    """--batch-size N for batch_size=N; --long-phases for long_phases=true, --no-metrics for metrics=false."""
    flag = option.name.replace("_", "-")
    if option.type is bool and option.default:
        parser.add_argument(
            f"--no-{flag}", dest=option.name, action="store_const", const="false", help=f"do not {option.help}"
        )
    elif option.type is bool:
        parser.add_argument(f"--{flag}", dest=option.name, action="store_const", const="true", help=option.help)
    else:
        kind = f"{{{option.listed.replace(' ', '')}}}" if option.choices else METAVAR[option.type]
        parser.add_argument(f"--{flag}", dest=option.name, metavar=kind, help=option.help)


def arguments(words: Sequence[str] | None = None) -> tuple[str, Settings]:
    """The recipe's name and the settings."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Train a GAN on MNIST or other images. What is not given comes from the objective and the preset.",
        epilog=f"example: python examples/{PROGRAM} --objective wgan-gp --steps 500 --out runs/first",
    )
    parser.add_argument("--objective", choices=RECIPES, default="gan", help="what the players minimise (%(default)s)")
    users: dict[str, list[str]] = {}
    options: dict[str, Option] = {}
    for recipe in RECIPES.values():
        for option in fields_of(recipe.settings):
            options.setdefault(option.name, option)
            users.setdefault(option.name, []).append(recipe.name)
    common = {option.name for option in fields_of(Settings)}
    some = parser.add_argument_group("options of some objectives")
    for name, option in options.items():
        if name in common:
            add_option(parser, option)
        else:
            whose = f" ({', '.join(users[name])})" if len(users[name]) <= 4 else ""
            add_option(some, option._replace(help=option.help + whose))
    given = {key: value for key, value in vars(parser.parse_args(words)).items() if value is not None}
    objective = given.pop("objective")
    for key in given:
        if objective not in users[key]:
            parser.error(f"--{key.replace('_', '-')} is an option of {' and '.join(users[key])}, not of {objective}")
    try:
        return objective, RECIPES[objective].parse([f"{key}={value}" for key, value in given.items()], PROGRAM)
    except OptionError as error:
        text = str(error).removeprefix(f"{PROGRAM}: ")
        parser.error(re.sub(r"^(\w+)=", lambda key: f"--{key[1].replace('_', '-')} ", text))  # as it was written


def main() -> None:
    objective, settings = arguments()
    start(RECIPES[objective], settings)


if __name__ == "__main__":
    sys.exit(guarded(PROGRAM, main))
