"""What services made with FastAPI share. FastAPI is theirs to depend on: nothing else here imports this package."""
