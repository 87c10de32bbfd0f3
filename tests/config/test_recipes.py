"""Recipes by their name."""

import pytest

from xvit.config import find_recipe
from xvit.utils.errors import XViTError

NAMES = ("demo", "epic100", "finetune", "kinetics400", "kinetics600", "motion", "motion-streaming", "ssv2")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spelling", ["{}", "{}.yaml", "{}.yml", "recipes/{}.yaml", "recipes/{}", "./{}"])
def test_a_packaged_recipe_is_found_by_its_name(name, spelling, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = find_recipe(spelling.format(name))
    assert (found.name, found.is_file()) == (f"{name}.yaml", True)
    (tmp_path / name).mkdir()  # a folder of that name, such as the run, is no recipe
    assert find_recipe(spelling.format(name)) == found
    own = tmp_path / spelling.format(name).replace("recipes/", "mine-")
    if not own.exists():
        own.write_text("model: {}")
        assert find_recipe(own) == own  # an existing file comes first


@pytest.mark.parametrize(("typo", "meant"), [
    ("finetun", "finetune"), ("fine-tune.yaml", "finetune"), ("recipes/motoin.yaml", "motion"),
    ("kinetics-400", "kinetics400"),
])  # fmt: skip
def test_a_typo_lists_the_recipes(typo, meant):
    with pytest.raises(XViTError) as caught:
        find_recipe(typo)
    message = str(caught.value)
    assert message.startswith(f"{typo}: no such file, and no recipe of that name")
    assert f'Did you mean "{meant}"?' in message
    assert message.endswith(f"Recipes: {', '.join(NAMES)}")


def test_paths_elsewhere_are_no_names(tmp_path):
    for path in (tmp_path / "finetune.yaml", "other/finetune.yaml"):
        with pytest.raises(XViTError, match="no such file"):
            find_recipe(path)
    with pytest.raises(XViTError, match="a folder, not a recipe file"):
        find_recipe(tmp_path)
