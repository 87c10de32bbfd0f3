"""The version of the package: the only place that holds it."""

from contextlib import suppress

__version__ = "0.1.0"


def library_versions() -> dict[str, str]:
    """The versions of xvit and of the libraries on which its results depend, as far as they are installed."""
    from importlib.metadata import PackageNotFoundError, version  # not needed by the command line's start

    versions = {"xvit": __version__}
    for name in ("torch", "timm", "av"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions
