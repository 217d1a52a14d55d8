"""The gateway's own HTTP API: what login and people are served by."""
