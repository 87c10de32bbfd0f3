"""The HTTP service: a trained or exported model behind an address, and its page in the browser.

    create_app    the ASGI application, for any ASGI server
    run_server    the same under uvicorn, until SIGINT or SIGTERM

Needs the extra `serve`. A service for exported models needs no torch.
"""

from typing import TYPE_CHECKING

from xvit.utils.lazy import lazy_names

if TYPE_CHECKING:
    from xvit.serving.app import create_app
    from xvit.serving.server import run_server
    from xvit.serving.settings import Access, Limits

__all__ = ["Access", "Limits", "create_app", "run_server"]
__getattr__ = lazy_names(
    __name__,
    {
        "Access": "xvit.serving.settings",
        "Limits": "xvit.serving.settings",
        "create_app": "xvit.serving.app",
        "run_server": "xvit.serving.server",
    },
)
