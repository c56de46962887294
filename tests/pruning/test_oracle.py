"""Criteria against the brute-force oracle on digits."""

import pytest
import torch
from networks import Residual, small
from scipy.stats import spearmanr
from torch.nn import functional as F

from qprune.data import Split, load_data
from qprune.pruning.competition import normalize
from qprune.pruning.criteria import get_criterion
from qprune.pruning.gated import GatedNetwork
from qprune.pruning.oracle import oracle_loss
from qprune.pruning.scoring import Scorer
from qprune.recipe import Recipe, cosine
from qprune.stages.saved import NetworkSpec
from qprune.training import train


def test_oracle_by_hand():
    """Zeroing the weights and BN shifts that make a map is the same removal."""
    network, images, labels = small(Residual)
    split = Split((images * 255).round().to(torch.uint8), labels)
    gated = GatedNetwork(network, (1, 8, 8))
    changes = oracle_loss(gated, split)
    images = split.images.float() / 255
    network.eval()
    with torch.no_grad():
        base = F.cross_entropy(network(images), labels)
        for number, channel in ((4, 0), (6, 2)):  # maps of a1: inside the first block
            without = GatedNetwork(network, (1, 8, 8)).network.eval()
            without.an1.weight[channel] = 0
            without.an1.bias[channel] = 0
            assert changes[number].item() == pytest.approx(
                (F.cross_entropy(without(images), labels) - base).item(), abs=1e-5
            )
    assert gated.alive.all()


@pytest.mark.long
def test_spearman_with_the_oracle(capsys):
    data = load_data({"name": "digits"})
    spec = NetworkSpec({"name": "vgg_tiny"}, 1, 8, 10, data.mean, data.std)
    torch.manual_seed(0)
    network = spec.build()
    recipe = Recipe(batch_size=64)
    train(network, data.train, recipe, range(150), cosine(0.05, 150), seed=0)
    gated = GatedNetwork(network, spec.image_shape)
    few = Split(data.train.images[:512], data.train.labels[:512])
    target = oracle_loss(gated, few).abs()
    target_normalised = normalize(target, gated.groups)
    correlations = {}
    for name in ("taylor", "activation", "weight_norm", "random"):
        scorer = Scorer(gated.network, gated.groups, gated.gates, get_criterion(name))
        gated.network.eval()
        for start in range(0, 512, 64):
            with scorer.minibatch():
                logits = gated.network(few.images[start : start + 64].float() / 255)
                F.cross_entropy(logits, few.labels[start : start + 64]).backward()
        scores = scorer.scores(torch.Generator().manual_seed(0))
        layers = gated.groups.layers
        parts = [spearmanr(scores[a.start : a.stop], target[a.start : a.stop]).statistic for a in layers]
        correlations[name] = (
            sum(parts) / len(parts),
            spearmanr(scores, target).statistic,
            spearmanr(normalize(scores, gated.groups), target_normalised).statistic,
        )
    with capsys.disabled():
        print("\nSpearman with oracle-abs, vgg_tiny on digits (512 images): per layer, raw, l2-normalised")
        for name, values in correlations.items():
            print(f"  {name:12s}" + "".join(f"{value:7.2f}" for value in values))
    assert correlations["taylor"][0] > correlations["random"][0] + 0.2
    assert correlations["taylor"][2] > correlations["random"][2] + 0.2
    assert abs(correlations["random"][2]) < 0.25
