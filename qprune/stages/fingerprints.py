"""What a stage's data, model and checkpoint are named by, each looked at once in each process."""

import hashlib
from functools import lru_cache

from qprune.data import data_fingerprint
from qprune.networks import model_fingerprint
from qprune.registry.choice import Choice
from qprune.registry.errors import UserError


@lru_cache
def data_fingerprint_of(data: Choice) -> str:
    """data_fingerprint, once in each process."""
    return data_fingerprint(data.settings)


@lru_cache
def model_fingerprint_of(model: Choice) -> str:
    """model_fingerprint, once in each process."""
    return model_fingerprint(model.settings)


@lru_cache
def file_hash(path: str) -> str:
    """SHA-256 of a checkpoint, once in each process. Raises UserError where it can't be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"train.checkpoint: {path} can't be read: {error.strerror}") from None
