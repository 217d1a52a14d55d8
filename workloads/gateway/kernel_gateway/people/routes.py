"""The routes of roles, members, invitations and impersonation."""

from fastapi import APIRouter

from kernel_gateway.people import impersonation, invitations, members, ownership, roles

router = APIRouter()
# Before /members/{user_id}: the first route that matches answers.
router.include_router(invitations.router)
router.include_router(roles.router)
router.include_router(members.router)
router.include_router(ownership.router)
router.include_router(impersonation.router)
