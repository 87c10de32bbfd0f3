"""What `import xvit` offers, and what it does not load."""

import inspect
import re
import subprocess
import sys
from importlib import import_module
from pkgutil import iter_modules

import pytest

import xvit
from helpers.warm_processes import WarmProcess


def test_dir_shows_the_public_api_and_nothing_else():
    assert sorted(dir(xvit)) == sorted(xvit.__all__)
    for name in xvit.__all__:
        assert getattr(xvit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Missing'"):
        xvit.Missing  # noqa: B018


def test_help_names_every_public_object():
    code, text, err = WarmProcess("-c", "import xvit; help(xvit)").wait()
    assert (code, err) == (0, "")
    for name in set(xvit.__all__) - {"__version__"}:
        assert name in text
    assert "import_module" not in text


def test_importing_the_package_loads_no_heavy_library():
    code = "import sys, xvit, xvit.cli.main; print([m for m in ('torch', 'timm', 'av', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def documented() -> dict[str, object]:
    """The public functions, classes and their methods that xvit defines, by name."""
    found = {}
    for package in ("xvit", *(f"xvit.{module.name}" for module in iter_modules(xvit.__path__) if module.ispkg)):
        for name in getattr(import_module(package), "__all__", ()):
            value = getattr(import_module(package), name)
            if inspect.isfunction(value) or inspect.isclass(value):
                found[f"{package}.{name}"] = value
            if inspect.isclass(value):
                own = {key: getattr(item, "__func__", item) for key, item in vars(value).items() if key[0] != "_"}
                found |= {f"{package}.{name}.{key}": item for key, item in own.items() if inspect.isfunction(item)}
    return found


@pytest.mark.parametrize("name", documented())
def test_public_names_have_docstrings_that_describe_their_arguments(name):
    """All of them from three arguments on; one or two are often in the sentence."""
    value = documented()[name]
    text = value.__doc__ or ""
    assert len(text.split()) > 2
    if inspect.isclass(value) and not value.__init__.__module__.startswith("xvit"):
        return  # timm's constructor
    arguments = set(inspect.signature(value).parameters) - {"self", "cls", "args", "kwargs"}
    if inspect.isclass(value):
        text += "".join(base.__doc__ or "" for base in value.__mro__[1:-1])
    missing = {argument for argument in arguments if not re.search(rf"\b{argument}\b", text)}
    assert len(arguments) < 3 or "arguments are those of" in text or not missing
