"""minigan list and minigan doctor."""

import json
from collections.abc import Sequence
from itertools import groupby

from .. import doctor as examination
from ..gan.recipes import RECIPES
from ..options import to_json
from .words import UsageError, split

HELP = {
    "list": """usage: minigan list [--names | --json]

What can be trained, by families: each name, what it is, and the paper. --names prints names only; --json also formulas,
what was measured, and all settings.

  minigan list
  for name in $(minigan list --names); do minigan train $name steps=100 data=drawn; done""",
    "doctor": """usage: minigan doctor [--json]

Versions and devices; runs a kernel on each device, and says what to install for those that do not work. The exit code
is 0 if there is a device that trains, else 1.

  minigan doctor""",
}


def help_on(command: str, rest: Sequence[str]) -> str:
    """The text of --help."""
    return HELP[command]


def list(words: Sequence[str]) -> None:
    """All recipes."""
    found = split(words, "minigan list", ("--names", "--json"))
    if found.names or found.pairs or len(found.flags) > 1:
        raise UsageError("minigan list: takes --names or --json and nothing else")
    if "--names" in found.flags:
        print("\n".join(RECIPES))
    elif "--json" in found.flags:
        rows = [
            {"name": r.name, "family": r.family, "summary": r.summary, "formula": r.formula, "paper": r.paper,
             "expected": r.expected, "presets": ["quick", *r.presets], "settings": to_json(r.settings())}
            for r in RECIPES.values()
        ]  # fmt: skip
        print(json.dumps(rows, indent=2))
    else:
        for family, recipes in groupby(RECIPES.values(), lambda recipe: recipe.family):
            print(family)
            for recipe in recipes:
                print(f"  {recipe.name:<12} {recipe.summary} ({recipe.paper})")


def doctor(words: Sequence[str]) -> int:
    """What works here."""
    found = split(words, "minigan doctor", ("--json",))
    if found.names or found.pairs:
        raise UsageError("minigan doctor: takes --json and nothing else")
    return examination.main("--json" in found.flags)
