"""Names of packages that are imported at first use: torch and timm take seconds, which not all uses should wait for."""

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], object]:
    """The function `__getattr__` of a package, which also imports its modules at first use.

    Args:
        package: its `__name__`.
        modules: for each name, the module that it is imported from.
    """

    def get(name: str) -> object:
        if name in modules:
            return getattr(import_module(modules[name]), name)
        if not name.startswith("_") and find_spec(f"{package}.{name}"):
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get
