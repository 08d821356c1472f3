"""The list of passes: every config gives one in which each pass finds what it requires."""

import itertools

import pytest

from bnncc.config import Config
from bnncc.passes.lower import Lower
from bnncc.passes.order_filters import OrderFilters
from bnncc.passes.pipeline import check_order, passes_for
from bnncc.passes.simplify import Simplify


@pytest.mark.parametrize(("fold", "lower", "tree", "pack"), list(itertools.product((False, True), repeat=4)))
def test_every_config_has_an_order_that_holds(fold, lower, tree, pack):
    config = Config(fold_batchnorm=fold, lower=lower, tree=tree, pack_weights=pack)
    names = [step.name for step in passes_for(config)]
    assert ("fold-batchnorm" in names, "lower" in names) == (fold, lower)
    assert ("order-filters" in names, "pack-weights" in names) == (lower and tree, lower and pack)
    assert len(set(names)) == len(names)


def test_what_is_lossy_comes_before_what_is_exact():
    config = Config(tropnnc={"keep": 0.5}, binarize={"method": "dab", "calibrate": True})
    names = [step.name for step in passes_for(config)]
    assert names[:5] == ["simplify", "tropnnc", "binarize-weights", "calibrate", "canonicalize-binarizers"]


def test_what_a_pass_requires_must_come_before_it():
    steps = passes_for(Config())
    with pytest.raises(ValueError, match="requires lower before it"):
        check_order([step for step in steps if not isinstance(step, Lower)])
    with pytest.raises(ValueError, match="pass canonicalize-binarizers requires simplify before it"):
        check_order([*steps[1:], Simplify()])
    with pytest.raises(ValueError, match="requires lower"):
        check_order([OrderFilters()])
