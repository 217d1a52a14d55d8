"""Access tokens: the keys that sign them, what they say, and those that were verified already."""
