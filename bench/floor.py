"""The floor app: what this stack costs when it does nothing but take bytes in and hand them out.

FastAPI, one INSERT, one PUT; no encryption, no events, no authentication. Server settings, thread pool,
engine and commit before the answer are the service's. Run as a process of its own, so that it shares no
interpreter with its clients: `python -m bench.floor`, with a `FloorConfig` as JSON on standard input.
"""

from __future__ import annotations

import io
import json
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final
from uuid import UUID, uuid4

import uvicorn
from anyio import to_thread
from fastapi import Depends, FastAPI, Request
from fastapi.responses import StreamingResponse
from sqlalchemy import create_engine, text

from api.server import BACKLOG
from api.settings import Settings
from bench.plan import MIB
from bench.s3 import Bucket
from vault.objects.keys import object_key

TABLE: Final = """
CREATE TABLE floor_documents (
    id UUID PRIMARY KEY,
    name TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL
);
GRANT INSERT ON floor_documents TO strongroom_service"""

_INSERT = text(
    "INSERT INTO floor_documents (id, name, size_bytes) VALUES (:id, :name, :size_bytes)"
)


@dataclass(frozen=True)
class FloorConfig:
    """Where the floor app keeps things: the service's database and store, a bucket of its own."""

    database_url: str
    bucket: Bucket


async def _whole_body(request: Request) -> bytes:
    return await request.body()


def create_app(config: FloorConfig) -> FastAPI:
    """The floor app."""
    app = FastAPI(
        lifespan=_lifespan, telemetry={"logs": False, "auto_configure": False}, max_body_size=None
    )
    engine = create_engine(config.database_url, pool_size=_default("database_connections"))
    client = config.bucket.client()
    bucket = config.bucket.name

    @app.post("/v1/documents", status_code=201)
    def create(request: Request, body: Annotated[bytes, Depends(_whole_body)]) -> dict[str, Any]:
        document_id = uuid4()
        client.put_object(bucket, object_key(document_id), io.BytesIO(body), len(body))
        row = {"id": document_id, "name": request.headers["content-disposition"]}
        with engine.begin() as connection:
            connection.execute(_INSERT, {**row, "size_bytes": len(body)})
        return {"id": document_id, "size_bytes": len(body)}

    @app.get("/objects/{bucket}/{object_id}")
    def fetch(bucket: str, object_id: UUID) -> StreamingResponse:
        stored = client.get_object(bucket, object_key(object_id))
        headers = {"Content-Length": stored.headers["Content-Length"]}
        return StreamingResponse(_chunks(stored), headers=headers)

    return app


def _chunks(stored: Any) -> Iterator[bytes]:
    try:
        yield from stored.stream(MIB)
    finally:
        stored.close()
        stored.release_conn()


@asynccontextmanager
async def _lifespan(_app: FastAPI) -> AsyncIterator[None]:
    to_thread.current_default_thread_limiter().total_tokens = _default("threads")
    yield


def _default(setting: str) -> int:
    """What the service is set to unless told otherwise."""
    value: int = Settings.model_fields[setting].default
    return value


def main() -> None:
    """Serve until told to stop; the first line printed is the URL."""
    given = json.load(sys.stdin)
    config = FloorConfig(given["database_url"], Bucket(**given["bucket"]))
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(config),
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
        )
    )
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
