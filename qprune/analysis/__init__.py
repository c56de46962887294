"""Tables of cells -> fronts and statistics over seeds."""
