"""The version of the package: the only place that holds it."""

__version__ = "0.1.0"


def library_versions() -> dict[str, str]:
    """The versions of xvit and of the libraries on which its results depend."""
    from importlib.metadata import version  # not needed by the command line's start

    return {"xvit": __version__, **{name: version(name) for name in ("torch", "timm", "av")}}
