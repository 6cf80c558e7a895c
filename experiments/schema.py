"""The schema of the configuration: it catches a wrong key or type when the configuration is composed.

A file of conf/ names its schema in its defaults list.  One without a schema works as well: keys that it does not have
are refused all the same, types are then its function's affair.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf


@dataclass
class Stream:
    """Arguments of experiments.stream.Stream."""

    chunk: int = MISSING  # samples that arrive together
    memory: int = MISSING  # samples that are kept, the last ones
    steps: int = MISSING  # of the optimizer after each chunk
    change: str = "rotate"  # at the middle; or "labels", "none"
    hindsight_epochs: int = 200  # of the fixed network that regret is taken to


@dataclass
class Train:
    """How long an optimizer trains, on what batches."""

    epochs: int | None = MISSING  # passes over the training data; with the full batch, one step each
    steps: int | None = None  # instead of epochs, which is null then
    max_seconds: float | None = None  # of training: ends the run early
    batch_size: int | None = None  # null: the full batch
    growth: Any = None  # a chain's batch that grows up to the full one: arguments of experiments.growth.Growth
    chain_batch_size: int | None = None  # of a hybrid's chain, a batch each turn; null: that of the gradient step
    steps_per_batch: int = 1  # before the next one is drawn
    stream: Stream | None = None  # data that arrive once; null: passes over the data
    eval_every: int = 1  # epochs (steps where these are given) between two rows of metrics.csv
    eval_seconds: float | None = None  # of training between two rows; takes the place of eval_every
    incremental: bool = False  # score a chain's proposals for what they change alone
    refresh_steps: int = 10  # steps after which all is computed afresh then; checkpoints are taken there
    pruning: Any = None  # of mcmcopt.sparsity: OneShot, Gradual, RigL, DeepR, SoftDeepR, LayerSparsity; null: none
    augment: bool = False  # images of a gradient method shifted by up to four pixels, and mirrored
    bfloat16: bool = False  # gradient steps and evaluation with products in bfloat16 (torch.autocast)
    channels_last: bool = False  # memory format of a gradient method's convolutions: faster where channels are many
    eval_train: int | None = None  # training samples, the first ones, that rows of metrics.csv are of; null: all
    decay: str = "constant"  # of a gradient method's learning rate over the run; or "cosine", to 0
    density_power: float = 0.0  # that learning rate times (share of weights not zero)^-density_power
    # before training, a number sets each weight to plus or minus it times its layer's rms; or of mcmcopt.binary:
    # binary_layers, latent_layers
    binary: Any = None


@dataclass
class GreedyMCMC:
    """Arguments of mcmcopt.GreedyMCMC."""

    _target_: str = "mcmcopt.GreedyMCMC"
    lam: Any = MISSING  # a number, or a schedule with a _target_
    n_proposals: int = 200
    prior: Any = None
    moves: Any = None
    blocks: Any = "scalar"
    lr: float = 1.0
    selection_weight: float = 1.0
    init: str = "dense"
    rule: str = "metropolis"
    adapt: bool = True
    seed: int = 0
    groups: Any = None  # by a regular expression at the start of parameters' names: settings of their own


@dataclass
class SGD:
    """Arguments of torch.optim.SGD."""

    _target_: str = "torch.optim.SGD"
    lr: float = MISSING
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False


@dataclass
class MirrorDescent:
    """Arguments of mcmcopt.MirrorDescent."""

    _target_: str = "mcmcopt.MirrorDescent"
    lr: float = MISSING
    potential: Any = None  # of mcmcopt: Euclidean, PNorm, NegativeEntropy, Hypentropy, ElasticNet; null: Euclidean
    momentum: float = 0.0
    weight_decay: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    density: float = 1.0  # of ElasticNet's first weights
    seed: int = 0  # of their draw
    groups: Any = None  # by a regular expression at the start of parameters' names: settings of their own


@dataclass
class Hybrid:
    """Arguments of mcmcopt.Hybrid; a part may say `only`, a regular expression at the start of parameters' names."""

    _target_: str = "mcmcopt.Hybrid"
    optimizers: Any = MISSING
    every: Any = None


@dataclass
class Adam:
    """Arguments of torch.optim.Adam."""

    _target_: str = "torch.optim.Adam"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0


@dataclass
class KLMirrorDescent:
    """Arguments of mcmcopt.KLMirrorDescent."""

    _target_: str = "mcmcopt.KLMirrorDescent"
    lam: float = MISSING
    lr: float = MISSING
    prior: Any = None
    center: str = "zero"
    init_inclusion: float = 0.9
    init_scale: float | None = None
    samples: int = 2
    gates: str = "gaussian"
    hessian: str = "price"
    batch_size: int | None = None  # with hessian=squared_gradient, that of train
    seed: int = 0
    groups: Any = None  # by a regular expression at the start of parameters' names: settings of their own


@dataclass
class MLP:
    """Arguments of experiments.models.mlp."""

    _target_: str = "experiments.models.mlp"
    sizes: list[int] = field(default_factory=lambda: [64, 32, 10])


@dataclass
class MNISTImages:
    """Arguments of a model for MNIST: the mean and standard deviation of its pixels, in units of 0..255."""

    mean: list[float] = field(default_factory=lambda: [33.3184])
    std: list[float] = field(default_factory=lambda: [78.5675])


@dataclass
class CIFAR10Images:
    """Arguments of a model for CIFAR-10: mean and standard deviation by channel, in units of 0..255."""

    mean: list[float] = field(default_factory=lambda: [125.3, 123.0, 113.9])
    std: list[float] = field(default_factory=lambda: [63.0, 62.1, 66.7])


@dataclass
class LeNet300(MNISTImages):
    """Arguments of experiments.models.lenet300."""

    _target_: str = "experiments.models.lenet300"


@dataclass
class LeNet5Caffe(MNISTImages):
    """Arguments of experiments.models.lenet5_caffe."""

    _target_: str = "experiments.models.lenet5_caffe"


@dataclass
class CNN60k(CIFAR10Images):
    """Arguments of experiments.models.cnn60k."""

    _target_: str = "experiments.models.cnn60k"


@dataclass
class VGGD(CIFAR10Images):
    """Arguments of experiments.models.vgg_d."""

    _target_: str = "experiments.models.vgg_d"


@dataclass
class AlexNetCifar(CIFAR10Images):
    """Arguments of experiments.models.alexnet_cifar."""

    _target_: str = "experiments.models.alexnet_cifar"


@dataclass
class ResNet20(CIFAR10Images):
    """Arguments of experiments.models.resnet20."""

    _target_: str = "experiments.models.resnet20"


@dataclass
class Cifar10JPEG:
    """Arguments of experiments.cifar10.cifar10 for files that nobody can download, and the name of the folder."""

    _target_: str = "experiments.cifar10.cifar10"
    name: str = "cifar10_jpeg"
    root: str = MISSING  # where the files are
    n_train: int | None = None  # null: all that validation leaves
    n_validation: int = 0


@dataclass
class Cifar10(Cifar10JPEG):
    """Arguments of experiments.cifar10.cifar10, and the name of the folder."""

    name: str = "cifar10"
    download: bool = False  # the files that are not there


@dataclass
class MNIST:
    """Arguments of experiments.idx.mnist, and the name of the folder."""

    _target_: str = "experiments.idx.mnist"
    name: str = "mnist"
    root: str = MISSING  # where the files are
    n_train: int | None = None  # null: all that validation leaves
    n_validation: int = 0
    download: bool = False  # the files that are not there


@dataclass
class FashionMNIST(MNIST):
    """Arguments of experiments.idx.fashion_mnist, and the name of the folder."""

    _target_: str = "experiments.idx.fashion_mnist"
    name: str = "fashion_mnist"
    root: str | None = None  # null: Debian's package dataset-fashion-mnist


@dataclass
class Digits:
    """Arguments of experiments.data.digits, and the name of the folder."""

    _target_: str = "experiments.data.digits"
    name: str = "digits"
    n_train: int = 1200
    n_validation: int = 197
    n_test: int = 400
    stratified: bool = True


@dataclass
class Progress:
    """What a run says and saves while it works; nothing here changes its results."""

    seconds: float = 5.0  # between two plain lines, where there is no terminal
    checkpoint_seconds: float | None = 30.0  # between two checkpoints; null: not by the clock
    checkpoint_steps: int | None = None  # one every so many steps as well; a chain with caches waits for its refresh
    reference_proposals: int = 0  # timed after training as whole forwards, for comparison; 0: none


@dataclass
class Resistance:
    """How a trained network is pruned to see what it is worth then: rows of resistance.csv."""

    # "layer" (with it, random pruning as the control), "global", "block", "filter", "unit", "global-block",
    # "global-filter", "global-unit"; []: no curves
    scopes: list[str] = field(default_factory=lambda: ["layer", "global"])
    criteria: list[str] = field(default_factory=lambda: ["magnitude", "random"])
    block: list[int] = field(default_factory=lambda: [4, 4])  # rows and columns of a tile, with scope "block"
    finetune_epochs: int = 1  # of SGD with momentum 0.9 after pruning by magnitude, zeros held; 0: none
    finetune_at: list[float] = field(default_factory=lambda: [0.9, 0.95, 0.98])  # shares of each layer; []: none
    finetune_lr: float = 0.01
    finetune_batch_size: int = 64


@dataclass
class Energy:
    """How energy is measured; nothing here changes a run's results."""

    enabled: bool = True
    cpu_estimate: Any = None  # watts per core, or "table", where no sensor measures the processor; null: no estimate
    period_s: float = 1.0  # between two samples
    inference_seconds: float = 2.0  # to repeat the inference of the test set for, where anything is measured; 0: not
    idle_seconds: float = 0.0  # to measure the machine at rest for, before each run


@dataclass
class Csv:
    """experiments.loggers.Csv, which has no arguments."""

    _target_: str = "experiments.loggers.Csv"


@dataclass
class Wandb:
    """Arguments of experiments.loggers.Wandb."""

    _target_: str = "experiments.loggers.Wandb"
    mode: str = "offline"  # or "online"
    project: str = "mcmcopt"
    entity: str | None = None  # user or team; null: the user's own
    group: str | None = None  # null: runs that differ in the seed only
    tags: list[str] = field(default_factory=list)
    artifacts: bool = False  # keep the tables and the summary there as files too


@dataclass
class Config:
    """One run."""

    name: str = MISSING  # of the method, in folders, tables and figures
    seed: int = 0  # of the split, the initial weights, the order of batches and the chain
    out: str = "outputs"  # where run folders go
    init: str = "torch"  # of the weights: torch's own; or "glorot": normal, variance 2/(fan in + fan out), biases 0
    density: float = 0.05  # share of weights that the methods of conf/pruning and of experiment=informed may keep
    threads: int = 1
    device: str = "cpu"  # or "cuda", "cuda:1": an NVIDIA board
    train: Train = field(default_factory=Train)
    resistance: Resistance = field(default_factory=Resistance)
    progress: Progress = field(default_factory=Progress)
    energy: Any = MISSING
    logger: Any = MISSING
    optimizer: Any = MISSING
    model: Any = MISSING
    data: Any = MISSING


def register() -> None:
    """Put the schemas where the files of conf/ find them."""
    OmegaConf.register_new_resolver("times", lambda a, b: a * b, replace=True)  # ${times:${density},0.9}
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    store.store(group="schema/optimizer", name="kl_mirror_descent", node=KLMirrorDescent)
    store.store(group="schema/optimizer", name="hybrid", node=Hybrid)
    for name, node in (("greedy_mcmc", GreedyMCMC), ("sgd", SGD), ("adam", Adam), ("mirror_descent", MirrorDescent)):
        store.store(group="schema/optimizer", name=name, node=node)
    for name, node in (
        ("mlp", MLP),
        ("lenet300", LeNet300),
        ("lenet5_caffe", LeNet5Caffe),
        ("cnn60k", CNN60k),
        ("vgg_d", VGGD),
        ("alexnet_cifar", AlexNetCifar),
        ("resnet20", ResNet20),
    ):
        store.store(group="schema/model", name=name, node=node)
    store.store(group="schema/energy", name="meter", node=Energy)
    for name, node in (("csv", Csv), ("wandb", Wandb)):
        store.store(group="schema/logger", name=name, node=node)
    for name, node in (
        ("digits", Digits),
        ("cifar10", Cifar10),
        ("cifar10_jpeg", Cifar10JPEG),
        ("mnist", MNIST),
        ("fashion_mnist", FashionMNIST),
    ):
        store.store(group="schema/data", name=name, node=node)


register()
