"""Names of packages that are imported at first use: torch and timm take seconds, which not all uses should wait for."""

from collections.abc import Callable, Mapping
from importlib import import_module


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], object]:
    """The function `__getattr__` of a package.

    Args:
        package: its `__name__`.
        modules: for each name, the module that it is imported from.
    """

    def get(name: str) -> object:
        if name in modules:
            return getattr(import_module(modules[name]), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get
