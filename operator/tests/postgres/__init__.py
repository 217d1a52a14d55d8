"""Tests of the PostgreSQL target, on a real server."""
