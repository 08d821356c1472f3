"""Recipes: each shipped one fixes a run of a network that can be built; files of one's own; what is refused."""

from dataclasses import fields

import pytest

torch = pytest.importorskip("torch")

from bnncc.errors import BadInput
from bnncc.models import data, recipes
from bnncc.models.networks import build_network
from bnncc.models.schedules import learning_rate
from bnncc.models.train import TrainConfig

KNOWN = [field.name for field in fields(TrainConfig)]


@pytest.mark.parametrize("name", recipes.recipe_names())
def test_shipped_recipes_are_runs(name):
    settings = recipes.load_recipe(name, KNOWN)
    config = TrainConfig(**settings)
    source = data.SOURCES[config.dataset]
    said = {"in_channels": source.shape[0], "image_size": source.shape[1], "classes": source.classes}
    if config.network.startswith(("resnet", "bireal", "react")):
        del said["image_size"]
    with torch.device("meta"):
        build_network(config.network, **said, **config.options)
    assert len(recipes.summary(name)) > 20


def test_the_papers_settings():
    conv2 = TrainConfig(**recipes.load_recipe("equal-bits-conv2", KNOWN))
    assert (conv2.epochs, conv2.batch, conv2.optimizer, conv2.lr, conv2.weight_decay) == (100, 128, "sgd", 0.1, 1e-4)
    resnet = TrainConfig(**recipes.load_recipe("equal-bits-resnet18-cifar100", KNOWN))
    assert (resnet.milestones, resnet.gamma, resnet.weight_decay) == ((150, 250, 320), 0.1, 5e-4)
    sketch = TrainConfig(**recipes.load_recipe("dab-sketch-a-net", KNOWN))
    assert (sketch.lr, sketch.gamma, sketch.batch) == (2e-3, 0.5, 256)
    progresses = [milestone / sketch.epochs for milestone in sketch.milestones]
    assert learning_rate("steps", sketch.lr, 0.999, progresses, sketch.gamma, sketch.min_lr) == 5e-5
    assert TrainConfig(**recipes.load_recipe("mst-vgg-small", KNOWN)).mst_weight == 4e-6


def test_refused_recipes(tmp_path):
    with pytest.raises(
        BadInput, match=r"no recipe named 'conv3'; there are: dab-sketch-a-net, .* or a file NAME\.toml"
    ):
        recipes.load_recipe("conv3", KNOWN)
    with pytest.raises(BadInput, match=r"none\.toml: cannot be read: No such file"):
        recipes.load_recipe(str(tmp_path / "none.toml"), KNOWN)
    path = tmp_path / "r.toml"
    for text, message in (
        ("epoch = 3", "unknown option 'epoch'; did you mean epochs"),
        ("epochs = ", "not a TOML file"),
        ("options = 3", "options is a table of the network's arguments"),
    ):
        path.write_text(text)
        with pytest.raises(BadInput, match=message) as caught:
            recipes.load_recipe(str(path), KNOWN)
        assert str(path) in str(caught.value)


def test_learning_rates():
    cosine = [learning_rate("cosine", 0.1, progress, (), 0.1, 0.0) for progress in (0, 0.5, 1)]
    assert cosine == pytest.approx([0.1, 0.05, 0])
    steps = [learning_rate("steps", 0.1, progress, (0.3, 0.6), 0.1, 0.005) for progress in (0, 0.29, 0.3, 0.59, 0.6)]
    assert steps == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.005])
