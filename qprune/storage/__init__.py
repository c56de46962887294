"""Files that appear whole or not at all, sealed, and checked when they are read."""
