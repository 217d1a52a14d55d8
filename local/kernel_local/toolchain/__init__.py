"""Programs that the parts need and the Python environment does not carry: the machine's, or made once and cached."""
