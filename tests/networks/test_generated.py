"""Random small networks: every promise is held, or refused in words. More of them: tests/benchmarks/generated.py."""

import dataclasses

import pytest
import torch
from generated import Written, networks
from hypothesis import HealthCheck, given, settings
from promises import FAULT, OK, REFUSED, check

SOURCE = ("self.conv = nn.Conv2d(1, 4, 3, padding=1)", "self.head = nn.Linear(4, 5)")
PLAIN = Written(SOURCE, ("x = F.relu(self.conv(x))", "x = self.head(x.mean((2, 3)))"), 1, 8, 0)


@pytest.mark.slow
@settings(max_examples=20, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks())
def test_promises_are_held_or_refused_in_words(written):
    outcome = check(written, onnx=False)  # of which the command lists what exporters don't take yet
    assert not [f"{what}: {text}" for what, text in outcome.items() if text.startswith(FAULT)]


def test_a_plain_network_passes_everything():
    outcome = check(PLAIN)
    assert set(outcome.values()) == {OK} and len(outcome) == 3 + 4 * 5


WRONG = {  # what is made wrong: a name in promises, what stands there then, and what notices
    "bytes": ("stored_bytes", lambda network: 0.0, "fp32 bytes"),
    "macs": ("flop_macs", lambda network, written: 1, "macs"),
    "saved": ("Store.tensors", lambda self, stage: {}, "fp32 saved"),
    "exported": ("onnx_file.load", lambda path, cell: lambda images: torch.eye(5)[torch.arange(64) % 5], "fp32 onnx"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_noticed(name, monkeypatch):
    place, wrong, what = WRONG[name]
    monkeypatch.setattr(f"promises.{place}", wrong)
    outcome = check(PLAIN, ("fp32",))
    assert [each for each, text in outcome.items() if text.startswith(FAULT)] == [what]


def test_a_refusal_is_none():
    """Two layers of one weight."""
    tied = dataclasses.replace(
        PLAIN, made=(*SOURCE, "self.other = nn.Linear(4, 5)", "self.other.weight = self.head.weight")
    )
    (text,) = check(tied).values()
    assert text.startswith(REFUSED) and "share one tensor" in text
