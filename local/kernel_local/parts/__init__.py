"""The servers of the platform, one module each."""
