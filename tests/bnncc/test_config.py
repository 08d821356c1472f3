"""Config: defaults, its TOML file, and every way in which an option can be wrong."""

from __future__ import annotations

import pytest

import bnncc
from bnncc import BadInput, Config, load_config


def test_file_sets_options(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(
        'fold_batchnorm = false\nverify_samples = 5\nmax_abs_diff = 1\nrequire_binary = "all"\n'
        "tree_steiner = false\ntree_max_depth = 6\n"
        "[input_shapes]\nimage = [-1, 3, 8, 8]\n"
    )
    config = load_config(path)
    assert config == Config(
        fold_batchnorm=False,
        verify_samples=5,
        max_abs_diff=1,
        require_binary="all",
        tree_steiner=False,
        tree_max_depth=6,
        input_shapes={"image": [-1, 3, 8, 8]},
    )
    assert config.lower
    assert config.verify


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("fold_batchnorms = true", "did you mean fold_batchnorm?"),
        ("zzz = 1", "unknown option 'zzz'; known: "),
        ("verify = 1", "verify must be true or false"),
        ("threads = 5000", "threads must be at most 1024"),
        ("verify_samples = 0", "at least 1"),
        ("verify_samples = 2.5", "whole number"),
        ("threads = true", "whole number"),
        ("seed = -1", "at least 0"),
        ("min_argmax_agreement = 1.5", "between 0 and 1"),
        ("min_argmax_agreement = nan", "between 0 and 1"),
        ("tree = 1", "tree must be true or false"),
        ('tree_steiner = "no"', "tree_steiner must be true or false"),
        ("tree_ripple = -1", "tree_ripple must be a whole number of at least 0"),
        ("tree_ripple = 1.5", "tree_ripple must be a whole number"),
        ("tree_max_depth = 0", "tree_max_depth must be a whole number of at least 1"),
        ("tree_depth = 3", "did you mean tree_max_depth?"),
        ('max_abs_diff = "0.1"', "must be a number"),
        ("min_speedup = -2", "at least 0"),
        ('require_binary = "some"', 'can only be "all"'),
        ("input_shapes = 3", "must be a table"),
        ("[input_shapes]\nimage = [0, 3]", "input_shapes.image"),
        ('[input_shapes]\nimage = "1,3"', "input_shapes.image"),
        ("verify = ", "not a TOML file"),
    ],
)
def test_wrong_options_name_file_and_cause(tmp_path, text, cause):
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        load_config(path)
    message = str(caught.value)
    assert str(path) in message
    assert cause in message
    assert "\n" not in message


def test_missing_file(tmp_path):
    with pytest.raises(BadInput, match=r"none\.toml: cannot be read: No such file"):
        load_config(tmp_path / "none.toml")


def test_binary_file(tmp_path):
    path = tmp_path / "c.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="not a TOML file"):
        load_config(path)


def test_replace_checks_again():
    with pytest.raises(BadInput, match="verify_samples"):
        Config().replace(verify_samples=-1)


@pytest.mark.parametrize("function", ["bench", "compile", "inspect", "verify"])
@pytest.mark.parametrize("config", [{}, {"require_binary": "all"}, "c.toml"], ids=repr)
def test_what_is_no_config_is_said(cnn, function, config):
    models = [cnn, cnn] if function == "verify" else [cnn]
    with pytest.raises(BadInput, match=rf"^config: must be a bnncc\.Config .*, not {type(config).__name__}$"):
        getattr(bnncc, function)(*models, config=config)
