"""Optimal brain damage: what a weight's removal costs by the curvature of the loss (LeCun, Denker and Solla 1990).

    s_j = ½ h_jj w_j²,    h_jj = mean over samples of (Jᵀ H_L J)_jj

with J the derivative of a sample's outputs by the weights and H_L the Hessian of its loss by the outputs: the diagonal
of the Gauss-Newton matrix (their section 3.1 drops the other term, in which the outputs' own curvature enters).  In a
network of ReLU or max pooling that term has a diagonal of zero almost everywhere, so that h is the exact Hessian's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vjp, vmap

from mcmcopt.sparsity.criteria import Batch, LossFn
from mcmcopt.sparsity.masks import weights
from mcmcopt.sparsity.network import checked, modes, scored_weights

ENTRIES = 2**25
"""Gradients of single samples that are held at a time: so many numbers."""


class OBD:
    """Optimal brain damage ½ h_jj w_j² with the Gauss-Newton diagonal h (LeCun, Denker and Solla 1990, eq. 5).

    The expansion is made at a minimum, after training: at others the gradient's term is missing.  One backward pass per
    sample and output: some hundred samples will do.

    What breaks it: a loss that is not a mean over samples, or that is not convex in the outputs (negative curvature is
    taken as zero).
    """

    name = "obd"

    def __call__(
        self,
        model: nn.Module,
        loss_fn: LossFn | None = None,
        batches: Sequence[Batch] = (),
        keep: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return ½ h w² by weight, h taken at c ⊙ w, in eval mode: weights that are off have a score as well.

        Raises:
            ValueError: without a loss function or batches.
        """
        diagonal = gauss_newton_diagonal(model, loss_fn, batches, keep)
        return {name: diagonal[name] * weight.detach().square() / 2 for name, weight in weights(model).items()}

    def __repr__(self) -> str:
        return "OBD()"


@torch.enable_grad()
def gauss_newton_diagonal(
    model: nn.Module,
    loss_fn: LossFn | None,
    batches: Sequence[Batch],
    keep: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return the diagonal of the Gauss-Newton matrix of the mean loss over all samples, by weight and in its shape.

    Args:
        model: in eval mode for the time of the call; outputs are one vector per sample.
        loss_fn: mean loss of a batch, twice differentiable in the outputs.
        batches: inputs and targets.
        keep: masks c; the matrix is taken at c ⊙ w, with respect to the weights in force.

    Raises:
        ValueError: without a loss function or batches, or for outputs that are not one vector per sample.
    """
    loss_fn, total = checked(loss_fn, batches, "obd")
    found = scored_weights(model)
    leaves = {id(weight) for weight in found.values()}
    tensors = (*model.named_parameters(), *model.named_buffers())
    rest = {name: tensor.detach() for name, tensor in tensors if id(tensor) not in leaves}
    point = {n: w.detach() if keep is None else w.detach() * keep[n] for n, w in found.items()}
    sums = {name: torch.zeros_like(weight) for name, weight in point.items()}

    def outputs(values: dict[str, Tensor], x: Tensor) -> Tensor:
        z: Tensor = functional_call(model, {**values, **rest}, (x.unsqueeze(0),))
        return z.squeeze(0)

    def squares(x: Tensor, root: Tensor) -> dict[str, Tensor]:
        """Return Σ_c (Jᵀ r_c)² of one sample, r_c the columns of a root of its H_L."""
        pull: Callable[[Tensor], tuple[dict[str, Tensor]]]
        _, pull = vjp(lambda values: outputs(values, x), point)  # type: ignore[misc]
        gradients = vmap(lambda column: pull(column)[0])(root.T)
        return {name: value.square().sum(0) for name, value in gradients.items()}

    with modes(model):
        model.eval()
        for x, y in batches:
            with torch.no_grad():
                z = functional_call(model, {**point, **rest}, (x,))
            if z.dim() != 2 or len(z) != len(y):
                raise ValueError(f"outputs must be one vector per sample, got shape {tuple(z.shape)} for {len(y)}")
            roots = _roots(loss_fn, z, y)
            entries = sum(weight.numel() for weight in point.values()) * z.shape[1]
            for rows in _chunks(len(y), max(ENTRIES // max(entries, 1), 1)):
                for name, value in vmap(squares)(x[rows], roots[rows]).items():
                    sums[name].add_(value.detach().sum(0), alpha=1 / total)
    return sums


def _roots(loss_fn: LossFn, z: Tensor, y: Tensor) -> Tensor:
    """Return a root R of the Hessian of each sample's loss by its outputs, R Rᵀ = H_L: (samples, outputs, outputs)."""

    def loss(own: Tensor, target: Tensor) -> Tensor:
        return loss_fn(own.unsqueeze(0), target.unsqueeze(0))

    curvature = vmap(jacrev(jacrev(loss)))(z.double(), y)
    values, vectors = torch.linalg.eigh(curvature)
    root: Tensor = vectors * values.clamp(min=0).sqrt().unsqueeze(1)
    return root.to(z.dtype)


def _chunks(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, start + size)
