"""Log lines: JSON or for people, with request ids, and never a body, a key, a name or a value.

What an exception says may quote data (a failed statement, a row, a file's content), so of foreign ones
only type and place are logged; the words of our own are written to be shown.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any, Final

import structlog
from structlog.typing import EventDict, Processor

from api.settings import LogFormat

_OUR_ROOMS: Final = ("api", "replication", "vault", "keymgmt")


def configure(form: LogFormat, level: int = logging.INFO) -> None:
    """Send every logger's lines to standard error in one form."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_foreign_words,
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if form is LogFormat.JSON
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    _configure_stdlib(shared, renderer, level)


def _configure_stdlib(shared: list[Processor], renderer: Processor, level: int) -> None:
    """Have what libraries and our own rooms log through the standard library look the same."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("alembic", "httpx", "urllib3", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _without_foreign_words(_logger: Any, _method: str, event: EventDict) -> EventDict:
    given = event.pop("exc_info", None)
    if given is True:
        given = sys.exc_info()
    exc = given[1] if isinstance(given, tuple) else given
    if isinstance(exc, BaseException):
        event["exception"] = describe(exc)
    return event


def describe(exc: BaseException) -> str:
    """The chain of causes, each with type and innermost place, and words only if they are ours."""
    lines = []
    seen: BaseException | None = exc
    while seen is not None:
        lines.append(f"{type(seen).__name__}{_words(seen)} at {_place(seen)}")
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return " <- ".join(lines)


def _words(exc: BaseException) -> str:
    return f": {exc}" if type(exc).__module__.split(".")[0] in _OUR_ROOMS else ""


def _place(exc: BaseException) -> str:
    frames = traceback.extract_tb(exc.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown"
