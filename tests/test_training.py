"""The training loop: which images, which rates, and that a run which stops and goes on is the run that never stopped."""

import copy
import math

import pytest
import torch
from small_training import classes, small_network
from torch.nn import functional as F

from qprune import training
from qprune.data import Split
from qprune.recipe import Recipe, constant, cosine, seed_of, shuffle_of, takes_channels_last, updates_per_epoch
from qprune.training import Diverged, evaluate, make_optimizer, minibatch, train


def numbered(count: int) -> Split:
    """Images whose labels are their numbers, and whose pixels are, too."""
    numbers = torch.arange(count)
    return Split(numbers.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous(), numbers)


def test_cosine_by_hand():
    rate = cosine(0.1, 4)
    middle = 0.05 * math.sqrt(0.5)
    assert [rate(update) for update in range(5)] == pytest.approx([0.1, 0.05 + middle, 0.05, 0.05 - middle, 0.0])


def test_constant():
    assert {constant(0.02)(update) for update in range(100)} == {0.02}


@pytest.mark.parametrize(
    ("images", "batch", "updates"), [(64, 16, 4), (70, 16, 4), (79, 16, 4), (80, 16, 5), (5, 16, 1)]
)
def test_updates_per_epoch(images, batch, updates):
    assert updates_per_epoch(images, batch) == updates


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_every_image_once_per_epoch(epoch):
    split, recipe = numbered(64), Recipe(batch_size=16)
    batches = [minibatch(split, recipe, 3, update) for update in range(4 * epoch, 4 * epoch + 4)]
    seen = torch.cat([labels for _, labels in batches])
    assert sorted(seen.tolist()) == list(range(64))
    assert seen.tolist() != list(range(64))
    for images, labels in batches:
        assert images.dtype == torch.float32 and images.shape == (16, 1, 4, 4)
        assert torch.equal(images[:, 0, 0, 0], labels / 255)


def test_images_that_fill_no_minibatch_wait_for_another_epoch():
    split, recipe = numbered(70), Recipe(batch_size=16)
    epochs = [torch.cat([minibatch(split, recipe, 0, 4 * epoch + i)[1] for i in range(4)]) for epoch in range(30)]
    assert all(len(set(epoch.tolist())) == 64 for epoch in epochs)
    assert set(torch.cat(epochs).tolist()) == set(range(70))


def test_fewer_images_than_a_minibatch():
    images, labels = minibatch(numbered(5), Recipe(batch_size=16), 0, 9)
    assert sorted(labels.tolist()) == [0, 1, 2, 3, 4] and len(images) == 5


@pytest.fixture
def small_windows(monkeypatch):
    """Blocks of 3 images of 16 bytes, windows of 4 blocks."""
    monkeypatch.setattr(training, "BLOCK_BYTES", 3 * 16)
    monkeypatch.setattr(training, "WINDOW_BLOCKS", 4)
    monkeypatch.setattr(training, "_last_order", None)


@pytest.mark.parametrize("count", [64, 61, 12 * 5])
def test_a_windowed_epoch_has_every_image_once_from_few_blocks_at_a_time(small_windows, count):
    split, recipe = numbered(count), Recipe(batch_size=1, shuffle="windowed")
    epochs = [[int(minibatch(split, recipe, 3, count * epoch + i)[1]) for i in range(count)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != sorted(epochs[2])
    whole = [epoch[12 * i : 12 * (i + 1)] for epoch in epochs for i in range(count // 12)]
    blocks = [{image // 3 for image in window} for window in whole]
    assert all(
        len(one) == 4 if count % 12 == 0 else len(one) <= 8 for one in blocks
    )  # a shorter last block shifts what follows
    assert all(window != sorted(window) for window in whole)
    assert any(max(one) - min(one) > 8 for one in blocks)  # from all over


def test_few_images_are_shuffled_as_a_whole(small_windows):
    for count, same in ((12, True), (13, False)):
        split = numbered(count)
        one, other = (minibatch(split, Recipe(batch_size=count, shuffle=how), 0, 0)[1] for how in ("full", "windowed"))
        assert torch.equal(one, other) == same


def test_windows_are_for_what_is_large_on_every_machine():
    assert shuffle_of(2**32 - 1) == "full" and shuffle_of(2**32) == "windowed"


@pytest.mark.parametrize("augment", [(), ("flip", "crop")])
def test_a_minibatch_depends_on_seed_and_update_alone(augment):
    split, recipe = classes(), Recipe(batch_size=16, augment=augment)
    forwards = [minibatch(split, recipe, 1, update) for update in range(6)]
    torch.manual_seed(123)
    backwards = [minibatch(split, recipe, 1, update) for update in reversed(range(6))][::-1]
    for (images, labels), (again, labels_again) in zip(forwards, backwards, strict=True):
        assert torch.equal(images, again) and torch.equal(labels, labels_again)
    other_seed = minibatch(split, recipe, 2, 0)
    assert not torch.equal(forwards[0][0], other_seed[0])
    assert not torch.equal(forwards[0][0], forwards[3][0])  # the same place in the next epoch


def test_seeds_of_different_things_differ():
    seeds = {seed_of(*parts) for parts in [(0, "dense"), (0, "prune"), (1, "dense"), (0, "epoch", 1), (0, "epoch", 11)]}
    assert len(seeds) == 5 and all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(0, "dense") == seed_of(0, "dense")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("stop", [1, 5, 11])
def test_interrupted_training_is_bit_identical(optimizer, stop):
    split, recipe = classes(), Recipe(batch_size=16, optimizer=optimizer, augment=("shift",))
    whole, parts = small_network(), small_network()
    rate = cosine(0.05 if optimizer == "sgd" else 0.005, 12)
    train(whole, split, recipe, range(12), rate, 9)
    kept = train(parts, split, recipe, range(stop), rate, 9)
    evaluate(parts, split)  # as a snapshot is
    torch.rand(17)  # the global generator doesn't matter
    train(parts, split, recipe, range(stop, 12), rate, 9, kept)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_fresh_optimizer_is_another_run(optimizer):
    """So the test above would notice a state that is lost."""
    split, recipe = classes(), Recipe(batch_size=16, optimizer=optimizer)
    whole, parts = small_network(), small_network()
    train(whole, split, recipe, range(12), constant(0.005), 9)
    train(parts, split, recipe, range(6), constant(0.005), 9)
    train(parts, split, recipe, range(6, 12), constant(0.005), 9)
    assert not torch.equal(whole[0].weight, parts[0].weight)


def test_training_equals_a_loop_written_out():
    split, recipe = classes(), Recipe(batch_size=16, momentum=0.8, weight_decay=0.1)
    network, slow = small_network(), small_network()
    train(network, split, recipe, range(3, 8), cosine(0.1, 8), 2)

    slow.train()
    velocity = {name: torch.zeros_like(p) for name, p in slow.named_parameters()}
    for update in range(3, 8):
        images, labels = minibatch(split, recipe, 2, update)
        torch.manual_seed(seed_of(2, "dropout", update))
        slow.zero_grad()
        F.cross_entropy(slow(images), labels).backward()
        rate = 0.1 * (1 + math.cos(math.pi * update / 8)) / 2
        with torch.no_grad():
            for name, p in slow.named_parameters():
                gradient = p.grad + (0.1 * p if p.dim() > 1 else 0)  # no decay of biases and BN
                velocity[name] = gradient.clone() if update == 3 else 0.8 * velocity[name] + gradient
                p -= rate * (gradient + 0.8 * velocity[name])  # Nesterov
    for (name, p), (_, q) in zip(network.named_parameters(), slow.named_parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6), name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_all_parameters_at_once_step_as_one_after_another_does(optimizer):
    split, recipe = classes(), Recipe(batch_size=16, optimizer=optimizer, weight_decay=0.1)
    together, by_turns = small_network(), small_network()
    train(together, split, recipe, range(8), constant(0.01), 3)
    turns = make_optimizer(by_turns, recipe, 0.01)
    for group in turns.param_groups:
        assert group["foreach"]
        group["foreach"] = False
    train(by_turns, split, recipe, range(8), constant(0.01), 3, turns)
    for one, other in zip(together.state_dict().values(), by_turns.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_rates_that_the_optimizer_is_given():
    class Noting(torch.optim.SGD):
        rates: list = []

        def step(self):
            self.rates.append({group["lr"] for group in self.param_groups})
            super().step()

    network = small_network()
    told = []
    train(
        network, classes(), Recipe(batch_size=16), range(2, 6), cosine(1.0, 6), 0, Noting(network.parameters(), lr=7.0),
        on_update=lambda update, loss: told.append(update),
    )  # fmt: skip
    assert told == [2, 3, 4, 5]
    expected = [0.75, 0.5, 0.25, (1 - math.sqrt(0.75)) / 2]  # (1 + cos(pi u / 6)) / 2
    assert [rate for rates in Noting.rates for rate in rates] == pytest.approx(expected)


def test_weight_decay_is_for_weights_only():
    groups = make_optimizer(small_network(), Recipe(weight_decay=0.3), 0.1).param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert [[tuple(p.shape) for p in group["params"]] for group in groups] == [
        [(4, 1, 3, 3), (4, 144)],
        [(4,), (4,), (4,)],
    ]


def test_frozen_parameters_are_left_alone():
    network = small_network()
    network[0].weight.requires_grad_(False)
    before = copy.deepcopy(network[0].weight)
    train(network, classes(), Recipe(batch_size=16), range(3), constant(0.1), 0)
    assert torch.equal(network[0].weight, before)


@pytest.mark.parametrize("updates", [range(1), range(3), range(30), range(7, 9)])
def test_a_loss_that_is_no_number_is_noticed_at_the_end_of_any_stage(updates):
    network = small_network()
    with torch.no_grad():
        network[-1].bias[0] = math.inf
    with pytest.raises(Diverged, match="learning rate"):
        train(network, classes(), Recipe(batch_size=16), updates, constant(0.1), 0)


def test_evaluation_by_hand_and_of_a_network_that_diverged():
    split = classes(50)
    network = small_network().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    result = evaluate(network, split, batch_size=7)
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    network.eval()
    with torch.no_grad():
        logits = torch.cat([network(image[None].float() / 255) for image in split.images])  # one image at a time
    assert result.correct.dtype == torch.bool
    assert result.correct.tolist() == (logits.argmax(1) == split.labels).tolist()
    assert result.loss == pytest.approx(F.cross_entropy(logits, split.labels).item(), rel=1e-5)
    assert result.accuracy == result.correct.sum().item() / 50
    with torch.no_grad():
        network[-1].weight.fill_(math.nan)
    with pytest.raises(Diverged, match="not finite"):
        evaluate(network, split)


# ---- math and memory format


def test_channels_last_from_one_value_for_each_weight_on():
    assert takes_channels_last(0.25, 4) and not takes_channels_last(0.25, 3)
    assert not takes_channels_last(0.0, 4096)  # a network without convolutions


@pytest.mark.parametrize(
    "recipe", [Recipe(math="bf16"), Recipe(channels_last=True), Recipe(math="bf16", channels_last=True)]
)
def test_other_math_trains_nearly_the_same_fp32_weights(recipe):
    plain, other = small_network(), small_network()
    plain[3].p = other[3].p = 0.0
    losses = {plain: [], other: []}
    for network, how in ((plain, Recipe()), (other, recipe)):
        train(
            network,
            classes(),
            how,
            range(12),
            constant(0.05),
            0,
            on_update=lambda _, loss, n=network: losses[n].append(loss),
        )
    assert losses[plain] == pytest.approx(losses[other], rel=0.05)
    assert losses[plain] != losses[other] or recipe.math == "fp32"
    assert {parameter.dtype for parameter in other.parameters()} == {torch.float32}
    assert all(parameter.is_contiguous() for parameter in other.parameters())
    for ours, theirs in zip(plain.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.allclose(ours.float(), theirs.float(), atol=0.03)


def test_evaluation_is_in_fp32_whatever_is_around_it():
    network = small_network()
    with torch.autocast("cpu", torch.bfloat16):
        inside = evaluate(network, classes()).loss
    assert inside == evaluate(network, classes()).loss


def test_tf32_is_on_only_where_it_is_asked_for():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        for math_name in ("fp32", "tf32", "bf16"):
            flags = []

            def note(*_, flags=flags):
                flags.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))

            network = small_network()
            network.register_forward_hook(note)
            network.register_full_backward_hook(note)
            train(network, classes(), Recipe(math=math_name), range(1), constant(0.1), 0)
            assert flags == [(math_name == "tf32",) * 2] * 2
            assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
