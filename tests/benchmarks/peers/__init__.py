"""qprune and its peers on one plot: same data, same budgets of updates, costs counted alike.

python tests/benchmarks/peers [SWEEP.yaml] [--workers 2]
"""
