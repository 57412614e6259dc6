"""Configs hold differences only, are checked when they are read, and cannot change afterwards."""

import pytest
from pydantic import ValidationError

from nuclei.config.load import load_config, merge, parse_config
from nuclei.config.schema import Config


@pytest.fixture
def write(tmp_path):
    """Give a function that writes a YAML file into one folder and returns its path."""

    def write_file(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write_file


def error_of(path) -> str:
    with pytest.raises(ValueError) as raised:
        load_config(path)
    return str(raised.value)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "hypothesis: ''\n"])
def test_a_file_that_says_nothing_is_the_defaults(write, text):
    assert load_config(write("plain.yaml", text)) == Config()


def test_defaults_survive_being_saved_and_read():
    assert parse_config(Config().model_dump(mode="json"), "saved") == Config()


def test_a_file_holds_the_difference_only(write):
    config = load_config(write("a.yaml", "model:\n  encoder: resnet34\n"))
    assert config.model.encoder == "resnet34"
    assert config.model_copy(update={"model": Config().model}) == Config()
    assert config.model.decoder == Config().model.decoder


@pytest.mark.parametrize(
    ("text", "where", "near"),
    [
        ("modle:\n  encoder: resnet34\n", "modle", "did you mean model?"),
        ("model:\n  encodr: resnet34\n", "model.encodr", "did you mean encoder?"),
        ("train:\n  learning_rat: 0.1\n", "train.learning_rat", "did you mean learning_rate?"),
    ],
)
def test_an_unknown_key_is_an_error_naming_file_key_and_nearest(write, text, where, near):
    path = write("typo.yaml", text)
    message = error_of(path)
    assert message.splitlines()[0] == f"{path}:"
    assert f"  {where}: unknown key, {near}" in message.splitlines()


def test_a_key_like_no_other_lists_the_valid_ones(write):
    message = error_of(write("odd.yaml", "data:\n  qqqqqqq: 1\n"))
    assert "data.qqqqqqq: unknown key; valid: dataset, folds, " in message


def test_every_error_is_named_at_once(write):
    message = error_of(write("two.yaml", "modle: {}\ntrain:\n  steps: many\n"))
    assert "modle: " in message
    assert "train.steps: " in message


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("train:\n  steps: many\n", "train.steps"),
        ("train:\n  steps: 0\n", "train.steps"),
        ("train:\n  precision: 64-true\n", "train.precision"),
        ("predict:\n  tta: rotations\n", "predict.tta"),
        ("model: resnet34\n", "model"),
        ("members: [a, b]\n", "members"),
        ("model:\n  mean: [0.5]\n", "model.mean"),
    ],
)
def test_a_wrong_value_is_an_error_naming_file_and_key(write, text, where):
    path = write("wrong.yaml", text)
    message = error_of(path)
    assert message.startswith(f"{path}:\n  {where}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n- b\n", "not a list"),
        ("a: [1\n", "not valid YAML"),
        ("7\n", "not a int"),
    ],
)
def test_a_file_that_holds_no_mapping_is_an_error_naming_it(write, text, said):
    path = write("list.yaml", text)
    assert str(path) in error_of(path)
    assert said in error_of(path)


def test_a_missing_file_suggests_its_neighbours(write, tmp_path):
    write("resnet34.yaml", "")
    message = error_of(tmp_path / "resnet43.yaml")
    assert str(tmp_path / "resnet43.yaml") in message
    assert "did you mean resnet34.yaml?" in message
    assert "did you mean" not in error_of(tmp_path / "qqqqqqqqqqqqqqqqq")


def test_a_base_is_read_first_from_the_file_s_own_folder(write):
    write("base.yaml", "model:\n  encoder: resnet18\n  decoder: FPN\ntrain:\n  steps: 7\n")
    write("middle.yaml", "base: base.yaml\nmodel:\n  encoder: resnet34\n")
    top = write("ablations/top.yaml", "base: ../middle.yaml\ntrain:\n  batch_size: 3\n")
    config = load_config(top)
    assert (config.model.encoder, config.model.decoder) == ("resnet34", "FPN")
    assert (config.train.steps, config.train.batch_size) == (7, 3)


def test_a_missing_base_names_the_base(write):
    top = write("top.yaml", "base: gone.yaml\n")
    assert f"no config {top.parent / 'gone.yaml'}" in error_of(top)


def test_an_unknown_key_of_a_base_is_an_error_too(write):
    write("base.yaml", "train:\n  stepz: 7\n")
    assert "train.stepz: unknown key, did you mean steps?" in error_of(write("top.yaml", "base: base.yaml\n"))


@pytest.mark.parametrize(("key", "text"), [("members", "{c: 2.0}"), ("train", "{loss: {bce: 1.0}}")])
def test_members_and_loss_replace_those_of_the_base(write, key, text):
    write("base.yaml", "members: {a: 1.0, b: 1.0}\ntrain: {steps: 7, loss: {dice: 1.0, focal: 1.0}}\n")
    config = load_config(write("top.yaml", f"base: base.yaml\n{key}: {text}\n"))
    assert config.train.steps == 7
    assert config.members == ({"c": 2.0} if key == "members" else {"a": 1.0, "b": 1.0})
    assert config.train.loss == ({"bce": 1.0} if key == "train" else {"dice": 1.0, "focal": 1.0})


def test_merging_leaves_both_as_they_were():
    base, change = {"a": {"b": 1, "c": [1, 2]}, "d": {"e": 1}}, {"a": {"c": [3]}, "d": None}
    assert merge(base, change) == {"a": {"b": 1, "c": [3]}, "d": None}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": {"e": 1}}
    assert change == {"a": {"c": [3]}, "d": None}


def test_a_config_is_frozen():
    config = Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.hypothesis = "another"
    with pytest.raises(ValidationError, match="frozen"):
        config.train.steps = 1


def test_a_setting_that_came_later_is_recorded_only_where_it_is_used():
    plain, enlarged = Config(), parse_config({"model": {"min_side_px": 512}}, "a test")
    assert "min_side_px" not in plain.record()["model"]
    assert "output_stride" not in plain.record()["model"]
    assert enlarged.record()["model"] == plain.record()["model"] | {"min_side_px": 512}
    # Nothing else is left out, and every LATER setting has a default to be left out at.
    for name, section in Config.model_fields.items():
        fields = getattr(section.annotation, "model_fields", {})
        later = {key for key, field in fields.items() if field.json_schema_extra}
        assert not fields or set(plain.record()[name]) == set(fields) - later


@pytest.mark.parametrize(
    "change",
    [
        {"train": {"precision": "16-mixed"}},
        {"model": {"decoder": "MaskRCNN", "channels": []}, "selection": {"method": "detections"}},
    ],
)
def test_a_graph_is_refused_of_steps_that_wait_for_the_gpu(change):
    graph = {"train": {"cuda_graph": True}}
    assert parse_config(graph, "a test").train.cuda_graph
    with pytest.raises(ValueError, match="train.cuda_graph is neither for MaskRCNN nor for fp16"):
        parse_config(merge(change, graph), "a test")


@pytest.mark.parametrize(
    "change", [{"model": {"min_side_px": 512}}, {"model": {"output_stride": 2}}, {"train": {"pool": 64}}]
)
def test_what_only_maps_have_is_refused_of_a_detector(change):
    detector = {"model": {"decoder": "MaskRCNN", "channels": []}, "selection": {"method": "detections"}}
    assert parse_config(detector, "a test").detects
    with pytest.raises(ValueError, match="are for networks that give maps, not for MaskRCNN"):
        parse_config(merge(detector, change), "a test")
