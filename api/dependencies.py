"""What routes ask for: the services that `bootstrap.build` made."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from api.services import Services


async def _services(request: Request) -> Services:
    # Not a plain def: the framework would send each request to a thread for this line.
    services: Services = request.app.state.services
    return services


ServicesOf = Annotated[Services, Depends(_services)]
