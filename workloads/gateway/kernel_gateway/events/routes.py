"""The routes of the event API."""

from fastapi import APIRouter

from kernel_gateway.events import group_routes, letter_routes, publish_routes, topics

router = APIRouter()
for each in (publish_routes, topics, group_routes, letter_routes):
    router.include_router(each.router)
