"""The diagonal of the Gauss-Newton matrix of cross-entropy, by backward passes from a network's logits."""

import torch
from torch import Tensor


def gauss_newton_diagonal(
    logits: Tensor, leaves: list[Tensor], estimator: str, samples: int, generator: torch.Generator
) -> list[Tensor]:
    """diag(J^T H J) of every example's cross-entropy: J = d logits / d leaves, H = diag(p) - p p^T, p = softmax(logits).

    logits: [batch, classes]; leaves: what they were computed from, each [batch, ...], every example's its own
    (as with BN in eval mode) -> tensors like the leaves, detached. With ReLU, H doesn't depend on the label and the
    network is piecewise linear in each of its maps, so that it is the Hessian's diagonal.

    estimator "exact": classes backward passes, one for each column of S, H = S S^T.
    "mc": samples backward passes of cross-entropy with labels drawn from p (Martens, "New insights and perspectives
        on the natural gradient method", 2014, Sec. 9: their gradients' second moment is the Fisher matrix, and this H).
    "hutchinson": E[v * J^T H J v] over random signs v (Bekas et al., "An estimator for the diagonal of a matrix",
        2007): one backward pass that builds its own graph, then `samples` backward passes through both graphs. Its
        error also holds the off-diagonal entries, so it is a check on the two others rather than a rival.
    """
    if estimator == "hutchinson":
        return _hutchinson(logits, leaves, samples, generator)
    p = logits.detach().softmax(1)  # [batch, classes]
    if estimator == "exact":
        root = torch.diag_embed(p.sqrt()) - p[:, :, None] * p.sqrt()[:, None, :]  # S, [batch, classes, columns]
        seeds = list(root.unbind(2))
    elif estimator == "mc":
        drawn = torch.multinomial(p, samples, replacement=True, generator=generator)  # [batch, samples]
        labels = torch.nn.functional.one_hot(drawn, p.shape[1]).to(p.dtype)
        seeds = list((p[:, None, :] - labels).div(samples**0.5).unbind(1))
    else:
        raise ValueError(f"unknown estimator {estimator!r}")
    diagonal = [torch.zeros_like(leaf) for leaf in leaves]
    for number, seed in enumerate(seeds, 1):
        gradients = torch.autograd.grad(logits, leaves, seed, retain_graph=number < len(seeds))
        for total, gradient in zip(diagonal, gradients, strict=True):
            total += gradient.square()
    return diagonal


def _hutchinson(logits: Tensor, leaves: list[Tensor], samples: int, generator: torch.Generator) -> list[Tensor]:
    # Its gradient in the logits is 0 at this point and its Hessian there is H; so its Hessian in the leaves is J^T H J,
    # without the term of the network's own curvature.
    divergence = (logits.logsumexp(1) - (logits.detach().softmax(1) * logits).sum(1)).sum()
    gradients = torch.autograd.grad(divergence, leaves, create_graph=True)
    diagonal = [torch.zeros_like(leaf) for leaf in leaves]
    for number in range(1, samples + 1):
        signs = [
            torch.randint(0, 2, leaf.shape, generator=generator, device=leaf.device).to(leaf.dtype) * 2 - 1
            for leaf in leaves
        ]
        products = torch.autograd.grad(gradients, leaves, signs, retain_graph=number < samples)
        for total, product, sign in zip(diagonal, products, signs, strict=True):
            total += (product * sign).detach() / samples
    return diagonal
