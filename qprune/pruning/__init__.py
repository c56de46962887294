"""Which channels are coupled, how much each matters, and how they are taken out. Usable without a sweep."""
