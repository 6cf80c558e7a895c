"""Saliencies of first order: what the loss, its gradient or a path sum makes of switching a weight off.

With c ⊙ w the weights in force, c the masks, g = ∂L/∂(c ⊙ w) the gradient of the mean loss there and H the Hessian:

    SNIP             |∂L/∂c| = |w ⊙ g|                              Lee et al. (2019), eq. 4-5
    GraSP            w ⊙ H g, the gradient flow gᵀg that is lost      Wang et al. (2020), eq. 8
    SynFlow          |w| ⊙ ∂R/∂|w|,  R = 1ᵀ ∏ |W_l| 1                Tanaka et al. (2020), eq. 2
    Skeletonization  -∂L/∂α_i, α_i a gate on the unit i               Mozer and Smolensky (1988)

SNIP at many rounds is iterative SNIP, and with pruned weights allowed back it is FORCE (de Jorge et al. 2021):
`mcmcopt.sparsity.prune` has the loop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mcmcopt.sparsity.criteria import Batch, LossFn
from mcmcopt.sparsity.masks import weights
from mcmcopt.sparsity.network import Network, checked, mean_gradient, modes, ones_enter, random_state_kept


class SNIP:
    """Connection sensitivity |∂L/∂c|: by how much the loss feels a weight's switch (Lee, Ajanthan and Torr 2019).

    The authors divide by the sum over all weights, which changes no order.  They score at initialisation on one batch,
    over all layers together (scope `"global"`).
    """

    name = "snip"

    @torch.enable_grad()
    def __call__(
        self,
        model: nn.Module,
        loss_fn: LossFn | None = None,
        batches: Sequence[Batch] = (),
        keep: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return |w ⊙ g| by weight, g taken at c ⊙ w: weights that are off have a score as well.

        Raises:
            ValueError: without a loss function or batches.
        """
        gradient = mean_gradient(model, loss_fn, batches, keep, self.name)
        return {name: (weight.detach() * gradient[name]).abs() for name, weight in weights(model).items()}

    def __repr__(self) -> str:
        return "SNIP()"


class GraSP:
    """Gradient signal preservation w ⊙ H g (Wang, Zhang and Grosse 2020): weights whose loss would cost gradient flow.

    To first order, switching w_j off changes gᵀg by -2 w_j (H g)_j; those that would raise it go first.

    Args:
        temperature: the network's outputs are divided by it, as in the authors' code (200).

    Raises:
        ValueError: for a temperature that is not positive.
    """

    name = "grasp"

    def __init__(self, temperature: float = 200.0) -> None:
        if isinstance(temperature, bool) or not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {temperature!r}")
        self.temperature = float(temperature)

    @torch.enable_grad()
    def __call__(
        self,
        model: nn.Module,
        loss_fn: LossFn | None = None,
        batches: Sequence[Batch] = (),
        keep: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return w ⊙ H g by weight, of any sign; g and H are those of the mean over all batches.

        Raises:
            ValueError: without a loss function or batches.
        """
        loss_fn, total = checked(loss_fn, batches, self.name)
        network = Network(model, keep)

        def loss(x: Tensor, y: Tensor) -> Tensor:
            return loss_fn(network(x) / self.temperature, y) * (len(y) / total)

        gradient = [torch.zeros_like(leaf) for leaf in network.leaves]
        with random_state_kept(batches):
            for x, y in batches:
                for sum_, part in zip(gradient, network.gradient(loss(x, y)), strict=True):
                    sum_ += part
        product = [torch.zeros_like(leaf) for leaf in network.leaves]
        with random_state_kept(batches):  # so that g and H are those of one function
            for x, y in batches:
                own = network.gradient(loss(x, y), create_graph=True)
                flow = sum((a * b).sum() for a, b in zip(own, gradient, strict=True) if a.requires_grad)
                if isinstance(flow, Tensor):
                    for sum_, part in zip(product, network.gradient(flow), strict=True):
                        sum_ += part
        found = weights(model)
        return {n: w.detach() * hg for (n, w), hg in zip(found.items(), product, strict=True)}

    def __repr__(self) -> str:
        return f"GraSP(temperature={self.temperature})"


class SynFlow:
    """Synaptic flow: the sum over all paths through a weight of the product of |w| along them (Tanaka et al. 2020).

    R is the sum of outputs of the network with every weight replaced by its absolute value, in float64 and eval mode,
    when ones enter its first linear or convolutional layers.  Additive terms (biases, running means) are zero there, so
    that R is homogeneous in each layer and the scores of every layer on the path sum to R, which the authors' code,
    with |biases| left in, has only approximately.  One round lets layers collapse; they take 100, exponentially.

    What breaks it: activations and normalisations that are not positively homogeneous (sigmoid, tanh, LayerNorm), and
    values of the data that pass all such layers by (an embedding, a shortcut from the input to the output).
    """

    name = "synflow"

    @torch.enable_grad()
    def __call__(
        self,
        model: nn.Module,
        loss_fn: LossFn | None = None,
        batches: Sequence[Batch] = (),
        keep: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return |w| ⊙ ∂R/∂|w| at c ⊙ |w|, float64; of the batches the shape of one sample counts, no value.

        Raises:
            ValueError: without a batch.
        """
        if not len(batches):
            raise ValueError("batches must have one, of which synflow takes the shape, got none")
        network = Network(model, keep, linearised=True)
        with modes(model), ones_enter(model):
            model.eval()
            flow = network(batches[0][0][:1]).sum()
            gradient = network.gradient(flow)
        found = weights(model)
        return {n: w.detach().double().abs() * g for (n, w), g in zip(found.items(), gradient, strict=True)}

    def __repr__(self) -> str:
        return "SynFlow()"


class Skeletonization:
    """Relevance of units -∂L/∂α_i, α_i = 1 a gate on the activity of unit i (Mozer and Smolensky 1988).

    Unit i of a layer's inputs is gated where it enters: -∂L/∂α_i = -Σ_jk w_jik g_jik, over all weights that leave it.
    Every weight that leaves a unit has that score; scopes `"unit"` and `"global-unit"` prune units whole.  The authors
    take |error| as the loss, since the squared error's gradient vanishes where training succeeded, and average over
    time; here the loss is the caller's, and the average that over batches.

    Args:
        inputs: whether the data's own channels or features, the units that enter the first layer that the model has,
            may go; otherwise their relevance is infinite, and with scope `"global-unit"` they stay (`"unit"` takes its
            share of each layer, whatever the scores).
    """

    name = "skeletonization"

    def __init__(self, inputs: bool = False) -> None:
        self.inputs = bool(inputs)

    @torch.enable_grad()
    def __call__(
        self,
        model: nn.Module,
        loss_fn: LossFn | None = None,
        batches: Sequence[Batch] = (),
        keep: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return each unit's relevance at all of its outgoing weights, of any sign.

        Raises:
            ValueError: without a loss function or batches.
        """
        gradient = mean_gradient(model, loss_fn, batches, keep, self.name)
        layers = dict(model.named_modules())
        out: dict[str, Tensor] = {}
        for name, weight in weights(model).items():
            layer = layers[name.rpartition(".")[0]]
            transposed = getattr(layer, "transposed", False)  # its weight is (in, out / groups, …)
            value = weight.detach() if keep is None else weight.detach() * keep[name]
            slope = -(value.double() * gradient[name].double())
            groups = 1 if transposed else getattr(layer, "groups", 1)
            slope = slope.reshape(groups, -1, *weight.shape[1:])
            others = [i for i in range(1, slope.dim()) if i != (1 if transposed else 2)]
            relevance = slope.sum(others, keepdim=True).expand(slope.shape).flatten(0, 1)
            out[name] = torch.full_like(relevance, math.inf) if not self.inputs and not out else relevance
        return out

    def __repr__(self) -> str:
        return f"Skeletonization(inputs={self.inputs})"
