"""The people of a tenant: roles, members, invitations."""
