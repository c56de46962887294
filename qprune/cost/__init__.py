"""What a network costs: see count.py."""

from qprune.cost.count import Cost, LayerCost, count_cost

__all__ = ["Cost", "LayerCost", "count_cost"]
