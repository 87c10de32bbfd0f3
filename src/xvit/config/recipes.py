"""The recipes that are installed with xvit."""

from pathlib import Path

from xvit.utils.errors import XViTError, did_you_mean

_FOLDER = Path(__file__).parents[1] / "recipes"


def find_recipe(name: str | Path) -> Path:
    """The recipe file at a path, or else the packaged recipe of that name, such as "finetune".

    The ending .yaml may be left out, and the name may have the folder of the repository: recipes/finetune.yaml.

    Raises:
        XViTError: there is none; the message lists the packaged recipes.
    """
    path = Path(name)
    if path.is_file():
        return path
    stem = path.stem if path.suffix in (".yaml", ".yml") else path.name
    packaged = {file.stem: file for file in sorted(_FOLDER.glob("*.yaml"), key=lambda file: file.stem)}
    if stem in packaged and path.parent in (Path(), Path("recipes")):
        return packaged[stem]
    what = "a folder, not a recipe file" if path.is_dir() else "no such file, and no recipe of that name"
    raise XViTError(f"{name}: {what}.{did_you_mean(stem, packaged)} Recipes: {', '.join(packaged)}")
