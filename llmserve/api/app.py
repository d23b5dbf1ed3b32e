"""The ASGI application: `Envelope` around `Guards` around the router."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.routing import Route, Router
from starlette.types import ASGIApp

from llmserve.api.dialects import Dialects, error_body
from llmserve.api.endpoint import unwrapped
from llmserve.api.envelope import Envelope
from llmserve.api.gateway import Gateway
from llmserve.api.guards import Guards
from llmserve.api.open_webui import BackgroundTasks
from llmserve.api.openapi import OpenApiRoute
from llmserve.api.overview import OverviewRoutes
from llmserve.api.page import Page
from llmserve.api.routes import Routes
from llmserve.settings import Settings

if TYPE_CHECKING:
    from llmserve.fleet.fleet import Fleet
    from llmserve.store.store import Store


def create_app(fleet: Fleet, store: Store, settings: Settings) -> ASGIApp:
    """The whole HTTP side of a gateway. Its lifespan closes `fleet`. Raises `SettingsError`."""
    return build_app(Gateway(fleet, store, settings))


def route_table(gateway: Gateway, dialects: Dialects, page: Page | None) -> list[Route]:
    """Every route of a gateway, in the order in which they are tried."""
    description = OpenApiRoute()
    ours = Routes(gateway)
    # What is asked most is found first. Then the dialects: some of their routes are there for certain clients only, and
    # leave the rest to the others.
    routes = [
        *ours.answered_by_workers(),
        *(() if page is None else page.table()),
        *dialects.table(),
        *ours.answered_here(),
        *OverviewRoutes(gateway).table(),
        description.route(),
    ]
    description.describe(routes)
    return [unwrapped(route) for route in routes]


def build_app(gateway: Gateway) -> ASGIApp:
    """As `create_app`, for a gateway that the caller keeps in hand."""
    dialects = Dialects(gateway)
    page = None if gateway.settings.page is False else Page()
    routes = route_table(gateway, dialects, page)

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        await dialects.start(inner)
        yield
        await gateway.close()
        await dialects.close()

    # `Router` itself and not the `Starlette` class: errors pass through to the envelope, which alone answers them.
    router = Router(routes, redirect_slashes=False, lifespan=lifespan)
    # What this program asks itself needs no guards.
    inner = Envelope(router, gateway.metrics, gateway.problems, routes, error_body)
    is_public = None if page is None else page.is_public
    guards = Guards(BackgroundTasks(router), gateway.settings, gateway.limits, is_public)
    return Envelope(guards, gateway.metrics, gateway.problems, routes, error_body)
