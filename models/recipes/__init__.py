"""Recipes: files that fix a training run, those of the papers and small ones for a CPU.

A recipe is a TOML file of `bnncc.models.train.TrainConfig`'s fields, with the network's arguments in the table
`options`. Augmentation that it does not name is the data set's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bnncc.config import read_toml
from bnncc.errors import BadInput

FOLDER = Path(__file__).resolve().parent


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def recipe_path(name: str) -> Path:
    """Return the file of a recipe by its name, or the path itself if it ends in .toml.

    Raises BadInput, naming what there is, for an unknown name.
    """
    if name.endswith(".toml"):
        return Path(name)
    if name not in recipe_names():
        raise BadInput(f"no recipe named {name!r}; there are: {', '.join(recipe_names())}, or a file NAME.toml")
    return FOLDER / f"{name}.toml"


def summary(name: str) -> str:
    """Return the first line of a recipe's comment, which says what it is."""
    return recipe_path(name).read_text(encoding="utf-8").splitlines()[0].lstrip("# ")


def load_recipe(name: str, known: list[str]) -> dict[str, Any]:
    """Read a recipe: values by field, of the `known` ones. Raises BadInput for a file that is not one."""
    path = recipe_path(name)
    values = read_toml(path, known)
    if not isinstance(values.get("options", {}), dict):
        raise BadInput(f"{path}: options is a table of the network's arguments")
    return values
