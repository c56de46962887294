"""How criteria rank the feature maps of dense networks, held against the brute-force oracle; and where two differ."""
