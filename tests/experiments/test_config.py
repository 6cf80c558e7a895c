"""Composition catches mistakes; targets from elsewhere are refused; folders are made of content."""

from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import MissingMandatoryValue

from experiments.config import build, folder, group_hash, resolved

from .conftest import ROOT, SHORT, composed


def test_every_optimizer_file_is_tested():
    assert {path.stem for path in (ROOT / "conf" / "optimizer").glob("*.yaml")} == set(SHORT)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("optimizer.lamm=3", "lamm"),
        ("train.epoch=3", "epoch"),
        ("optimiser.lam=3", "optimiser"),
        ("model.size=[3]", "size"),
        ("train.epochs=many", "many"),
        ("optimizer.n_proposals=1.5", "1.5"),
        ("seed=zero", "zero"),
        ("model.sizes=[64,wide]", "wide"),
        ("data.stratified=perhaps", "perhaps"),
    ],
)
def test_wrong_key_or_type_is_named(override, named):
    with pytest.raises(ConfigCompositionException) as caught:
        composed(override)
    assert named in f"{caught.value} {caught.value.__cause__}"


def test_unknown_option_names_the_known_ones():
    with pytest.raises(MissingConfigException, match="sgd_pruned"):
        composed("optimizer=sgdd")


def test_missing_value_is_named():
    cfg = composed()
    cfg.train.epochs = "???"
    with pytest.raises(MissingMandatoryValue, match="epochs"):
        resolved(cfg)


def test_settings_tuned_to_a_network_are_its_own():
    """They come with optimizer and model, replace what is meant for digits, and give way to the command line."""
    cifar = ("data=cifar10", "model=cnn60k", "data.root=x")
    chain = resolved(composed("optimizer=mcmc_dense", *cifar))
    assert chain["optimizer"]["prior"] == {"_target_": "mcmcopt.Gaussian", "scale": 0.3}
    assert list(chain["optimizer"]["groups"]) == ["conv1", "fc"]
    assert (chain["train"]["epochs"], chain["train"]["incremental"], chain["threads"]) == (None, True, 2)
    assert (chain["name"], chain["data"]["name"]) == ("mcmc_dense", "cifar10")
    own = resolved(composed("optimizer=mcmc_dense", *cifar, "threads=1", "optimizer.lam=2", "train.growth={start: 7}"))
    assert (own["threads"], own["optimizer"]["lam"], own["train"]["growth"]) == (1, 2, {"start": 7})
    sparse = resolved(composed("optimizer=mcmc", *cifar))
    assert sparse["optimizer"]["prior"] is None
    assert list(sparse["optimizer"]["groups"]) == ["conv1", "fc"]
    sgd = resolved(composed("optimizer=sgd", *cifar))
    assert (sgd["optimizer"]["lr"], sgd["train"]["batch_size"], sgd["train"]["epochs"]) == (0.02, 256, 20)
    digits = resolved(composed("optimizer=mcmc"))
    assert (digits["optimizer"]["lam"], digits["optimizer"]["groups"], digits["threads"]) == (12000, None, 1)
    assert (digits["train"]["incremental"], digits["train"]["growth"], digits["train"]["epochs"]) == (True, None, 800)


def test_tuned_settings_name_an_optimizer_and_a_model():
    stems = {part: {path.stem for path in (ROOT / "conf" / part).glob("*.yaml")} for part in ("optimizer", "model")}
    pairs = {f"{optimizer}_{model}" for optimizer in stems["optimizer"] for model in stems["model"]}
    assert {path.stem for path in (ROOT / "conf" / "tuned").glob("*.yaml")} - {"for_digits_off"} <= pairs


def test_cifar10_needs_to_know_where():
    with pytest.raises(MissingMandatoryValue, match="root"):
        resolved(composed("data=cifar10", "model=cnn60k"))


def test_interpolations():
    assert resolved(composed("seed=3"))["optimizer"]["seed"] == 3


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "experiments.record.subprocess.run",
        "mcmcopt_evil.f",
        "torch.load",
        "hydra.utils.call",
    ],
)
def test_other_targets_are_refused_at_any_depth(target):
    for node in ({"_target_": target}, {"_target_": "mcmcopt.SpikeSlab", "p": 0.5, "slab": [{"_target_": target}]}):
        with pytest.raises(ValueError, match="_target_ must"):
            build(node)


def test_the_library_sees_plain_containers():
    from experiments.models import mlp
    from experiments.optimizers import make_optimizer
    from mcmcopt import GreedyMCMC, RandomWalk

    node = resolved(composed("optimizer.moves=[{_target_: mcmcopt.RandomWalk, k: 2}]", "optimizer.blocks=[2,2]"))[
        "optimizer"
    ]
    chain = make_optimizer(node, mlp())
    assert isinstance(chain, GreedyMCMC)
    assert type(chain.param_groups[0]["blocks"]) is tuple
    assert isinstance(chain.param_groups[0]["moves"][0], RandomWalk)
    lam = resolved(composed("optimizer.lam={_target_: mcmcopt.GeometricAnnealing, start: 1.0, end: 2.0, steps: 4}"))
    assert make_optimizer(lam["optimizer"], mlp()).param_groups[0]["lam"] == 1.0


def test_groups_get_the_parameters_that_their_patterns_match():
    from experiments.models import mlp
    from experiments.optimizers import make_optimizer

    node = resolved(composed("optimizer.groups={fc2: {lam: 5.0}}"))
    node["optimizer"]["groups"]["fc2"]["prior"] = {"_target_": "mcmcopt.Laplace", "scale": 2.0}
    first, second = make_optimizer(node["optimizer"], mlp()).param_groups
    assert (first["param_names"], second["param_names"]) == (["fc1.weight", "fc1.bias"], ["fc2.weight", "fc2.bias"])
    assert (first["lam"], second["lam"], repr(second["prior"])) == (12000, 5, "Laplace(scale=2.0)")
    with pytest.raises(ValueError, match=r"optimizer.groups: 'conv' matches none of fc1.weight"):
        make_optimizer({**node["optimizer"], "groups": {"conv": {"lam": 1.0}}}, mlp())


def test_folder_depends_on_what_matters():
    base = resolved(composed("out=a"))
    assert folder(base) == Path("a/digits/mcmc") / folder(base).name
    assert folder(base).name.startswith("seed-0-")
    same = resolved(composed("out=b", "progress.seconds=1"))
    assert folder(same).name == folder(base).name
    other = resolved(composed("out=a", "optimizer.lam=7"))
    assert folder(other) != folder(base)
    seed = resolved(composed("out=a", "seed=1"))
    assert folder(seed).name[:7] == "seed-1-"
    assert group_hash(seed) == group_hash(base) != group_hash(other)
