"""What cells are made of: one function each, from settings to stages. Their names: qprune.settings.methods."""

from qprune.methods.maker import Made, Maker

__all__ = ["Made", "Maker"]
