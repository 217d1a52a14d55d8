"""``kernel demo``: the main job on real input, and proof of it asked from each system."""
