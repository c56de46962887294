"""A user's network in whose worker processes unfinished work is saved at the end of every epoch, however short."""

import multiprocessing

from qprune.networks import build_model
from qprune.stages import partial

if multiprocessing.parent_process() is not None:
    partial.SAVING_SHARE = float("inf")


def build(num_classes: int):
    return build_model({"name": "vgg_tiny", "width": 0.5}, 1, num_classes, 8)
