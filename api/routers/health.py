"""/healthz, /readyz, /metrics: for load balancers and monitoring; they show nothing of any document."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api import health, metrics
from api.dependencies import ServicesOf

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """The process answers."""
    return {"status": "alive"}


@router.get("/readyz")
def ready(services: ServicesOf) -> Response:
    """Whether this process can serve, dependency by dependency; 503 if not."""
    checks = health.check(services)
    usable = all(check.ok for check in checks if check.needed)
    body = {
        "status": "ready" if usable else "not ready",
        "dependencies": {check.name: check.state for check in checks},
    }
    headers = {} if usable else {"Retry-After": "5"}
    return JSONResponse(body, 200 if usable else 503, headers)


@router.get("/metrics", response_class=Response)
def measurements() -> Response:
    """Prometheus metrics."""
    return Response(generate_latest(metrics.REGISTRY), media_type=CONTENT_TYPE_LATEST)
