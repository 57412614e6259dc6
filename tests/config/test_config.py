"""Configs hold differences only, are checked when they are read, and cannot change afterwards."""

from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nuclei.config.load import load_config, merge, parse_changes, parse_config, read_base, run_name
from nuclei.config.schema import FOR_MAPS, Config, Section, check_name
from nuclei.errors import UserError


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
    with pytest.raises(ValueError, match=r"\S") as raised:
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


# section -> key -> (values at the limits of what makes sense, values beyond them)
LIMITS: dict[str, dict[str, tuple]] = {
    "data": {
        "folds_seed": ([0], [-1, 10**20, True]),
        "folds": (["a/b.csv", "ä b"], ["", " ", "a\0b", "a/", True]),
        "only_folds": ([[], [0, 3]], [[1, 1], [-1]]),
        "unseen": ([[], ["test"]], [["test", "test"], ["train"]]),
        "dataset": (["dsb2018", "a.b-c_D"], ["", "..", "a/b", "a\\b", ".a", "-a", "a" * 101, "a b"]),
    },
    "model": {
        "decoder_channels": ([[1, 2]], [[0], [-8]]),
        "channels": ([["mask"]], [["mask", "mask"]]),
        "min_side_px": ([300, "300"], [True, 10**12]),
        "mean": ([[0, 0.5, 1]], [[0, 0, 1.1], [-0.1, 0, 0]]),
        "std": ([[0.1, 0.1, 0.1]], [[0, 0.1, 0.1]]),
    },
    "train": {
        "start": ([None, "a_run"], ["../a_run", "runs/a_run"]),
        "teacher": ([None, "a_run"], ["../a_run", "runs/a_run"]),
        "teacher_share": ([0.1, 1], [0, 1.1]),
        "unlabelled": ([0], [-0.1, 0.1, 1]),
        "scale": ([0.5, 2], [0, -1]),
        "augment": ([{"stain": 0}, {"stain": 1}, "full"], [{"stain": 1.5}, {"stain": -0.1}]),
        "leave_out": ([["stain"]], [["stain", "stain"]]),
        "loss": ([{"bce": 0.1}], [{}, {"bce": 0}, {"bce": -1}]),
        "channel_weights": ([{"border": 0}], [{"border": -1}]),
        "encoder_rate": ([0], [-0.1, float("inf")]),
        "warmup": ([0, 1], [-0.1, 1.1]),
        "weight_decay": ([0], [-1e-3]),
        "clip_norm": ([0.1], [0, -1]),
        "ema": ([0, 1], [-0.1, 1.1, float("nan")]),
        "evaluate_images": ([1], [0]),
        "workers": ([0], [-1, 10**6]),
        "steps": ([1, "12", 12.0], [True, 10**21, "9" * 20]),
        "learning_rate": ([1, "1e-3"], [True, 1e300]),
        "crop_px": ([64], [10**6]),
        "seed": ([0], [-1, 2**31]),
    },
    "predict": {
        "scales": ([[0.5, 1]], [[], [0], [-1], [1, 1.0], [1e-4], [1000]]),
        "tile_px": ([129], [128, 0, -5]),
        "overlap_px": ([0, 1279], [-1, 1280, 2000]),
    },
    "plain": {
        key: ([[0, 1], [0.5]], [[], [1.1], [-0.1], [0.5, 0.5]]) for key in ("mask_thresholds", "seed_levels", "scores")
    },
    "watershed": {
        "mask_thresholds": ([[0, 1]], [[], [1.1], [0.5, 0.5]]),
        "floor": ([0, 1], [-0.1, 1.1]),
        "center_weight": ([0, 1], [-0.1, 1.1]),
        "smooth_px": ([0], [-1, 1e5]),
        "depth": ([0], [-0.1]),
        "max_leaves": ([1], [0]),
        "min_area_px": ([0], [-1]),
    },
    "scorer": {
        "leave_out": ([["shape"]], [["shape", "shape"]]),
        "rounds": ([1], [0]),
        "leaves": ([2], [1, 10**6]),
        "learning_rate": ([0.01], [0, -1]),
        "min_leaf_rows": ([1], [0]),
        "share": ([1], [0, 1.1]),
        "seeds": ([1], [0]),
        "seed": ([0], [-1]),
    },
    "selection": {"keep_grid": ([[-1, 2]], [[], [0.1, 0.1]])},
}
CASES = [(section, key, *values) for section, keys in LIMITS.items() for key, values in keys.items()]


@settings(max_examples=200)
@given(st.data())
def test_no_number_is_beyond_reason_and_no_switch_is_a_number(data):
    """Whatever the setting, at whatever depth: libraries would fail on it hours later, or take yes for 1."""
    sections = {name: field.annotation for name, field in Config.model_fields.items()}
    sections = {name: kind for name, kind in sections.items() if isinstance(kind, type) and issubclass(kind, Section)}
    section = data.draw(st.sampled_from(sorted(sections)))
    key = data.draw(st.sampled_from(sorted(sections[section].model_fields)))
    value = data.draw(st.sampled_from([2**31, -(10**30), 1e12, float("inf"), True, False]))
    wrapped = data.draw(st.sampled_from([value, [value], {"bce": value}, str(value) if type(value) is int else value]))
    if (section, key) == ("train", "cuda_graph") and isinstance(wrapped, bool):
        return
    try:
        config = parse_config({section: {key: wrapped}}, "a test")
    except UserError as error:
        assert f"{section}" in str(error)  # noqa: PT017 (not every one is an error: a text may hold any digits)
    else:
        assert isinstance(getattr(getattr(config, section), key), str)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model": {"channels": []}}, "must have mask"),
        ({"model": {"channels": ["border", "center"]}}, "must have mask"),
        ({"train": {"channel_weights": {"mask": 0, "border": 0, "center": 0}}}, "nothing would be learnt"),
        ({"model": {"channels": ["mask"]}, "train": {"channel_weights": {"mask": 0}}}, "nothing would be learnt"),
        ({"train": {"pool": 3, "batch_size": 4}}, "fewer crops than a step takes"),
    ],
)
def test_settings_that_make_no_sense_together_are_refused(content, said):
    with pytest.raises(UserError, match=said):
        parse_config(content, "a test")


@pytest.mark.parametrize("name", ["data", "Data", "comparisons"])
def test_no_run_has_the_name_of_a_folder_beside_the_runs(name, tmp_path):
    with pytest.raises(UserError, match=rf"{name}\.yaml cannot name a run"):
        run_name(tmp_path / f"{name}.yaml")
    with pytest.raises(UserError, match="members"):
        parse_config({"members": {name: 1}}, "a test")


def test_an_error_does_not_repeat_a_value_of_any_length(write):
    laughs = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcde", "bcdef", strict=True))
    with pytest.raises(UserError) as caught:
        load_config(write("a.yaml", f"a: &a [{', '.join('x' * 9)}]\n{laughs}hypothesis: *f\n"))
    assert len(str(caught.value)) < 3000


@pytest.mark.parametrize(("section", "key", "valid", "senseless"), CASES, ids=[f"{c[0]}.{c[1]}" for c in CASES])
def test_a_value_that_makes_no_sense_is_an_error_naming_the_key(section, key, valid, senseless):
    for value in valid:
        assert parse_config({section: {key: value}}, "a test")
    for value in senseless:
        with pytest.raises(ValueError, match=rf"^a test:\n  {section}(\.{key}|: overlap_px )"):
            parse_config({section: {key: value}}, "a test")


@pytest.mark.parametrize("members", [{"../a": 1}, {"a/b": 1}, {"": 1}, {"a": 0}, {"a": -1}, {"a": float("inf")}])
def test_members_have_names_and_weights_above_zero(members):
    assert parse_config({"members": {"a": 0.5}}, "a test").members == {"a": 0.5}
    with pytest.raises(ValueError, match=r"^a test:\n  members\."):
        parse_config({"members": members}, "a test")


def test_the_error_of_a_name_says_what_a_name_is():
    with pytest.raises(ValueError, match=r"data\.dataset: '\.\./x' cannot be a name; valid: 1 to 100 letters"):
        parse_config({"data": {"dataset": "../x"}}, "a test")


@given(st.text(max_size=8) | st.text("ab./\\-:~\0\n ", max_size=8) | st.text("a", min_size=95, max_size=105))
@example("..")
@example("a\n")
@example("C:")
@example("CON/..")
def test_no_name_escapes_its_folder(name):
    try:
        check_name(name)
    except ValueError:
        return
    for flavour in (PurePosixPath, PureWindowsPath):
        path = flavour("runs") / name
        assert path.parent == flavour("runs")
        assert path.name == name
    assert name.isascii()
    assert name.isprintable()
    assert name[0] not in "-."
    assert 1 <= len(name) <= 100


@given(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", fullmatch=True))
def test_every_plain_name_is_taken(name):
    assert check_name(name) == name


def test_a_run_has_the_name_of_its_file_or_of_its_folder(tmp_path, monkeypatch):
    assert run_name(Path("configs/resnet34.yaml")) == "resnet34"
    assert run_name(tmp_path / "demo/config.yaml") == "demo"
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path / "demo")
    assert run_name(Path("config.yaml")) == "demo"
    for path in (Path("configs/my run.yaml"), Path("configs/-x.yaml"), Path("runs/.hidden/config.yaml")):
        with pytest.raises(ValueError, match=f"^{path} cannot name a run: "):
            run_name(path)


@pytest.mark.parametrize("character", ["\\0", "\\a", "\\e", "\\udcff"])
def test_a_text_holds_nothing_that_no_page_can(tmp_path, character):
    path = tmp_path / "a.yaml"
    path.write_text(f'hypothesis: "nuclei{character}"')
    with pytest.raises(UserError, match="a.yaml:\n  hypothesis: .* is no character of a text"):
        load_config(path)


UNREADABLE = {
    "latin.yaml": ("hypothesis: caf\u00e9".encode("latin-1"), "is not UTF-8 text"),
    "utf16.yaml": ("hypothesis: a".encode("utf-16"), "is not UTF-8 text"),
    "date.yaml": (b"hypothesis: 2001-99-99", "is not valid YAML"),
    "long.yaml": (b"train: {steps: " + b"9" * 5000 + b"}", "is not valid YAML"),
    "nul.yaml": (b"hypothesis: \0", "is not valid YAML"),
    "object.yaml": (b"hypothesis: !!python/object/apply:os.getcwd []", "is not valid YAML"),
    "deep.yaml": (b"hypothesis: " + b"[" * 20_000, "is nested too deeply"),
    "twice.yaml": (b"train:\n  steps: 1\n  steps: 2\n", "the key 'steps' is given twice"),
    "twice_quoted.yaml": (b"train: {}\n'train': {}\n", "the key 'train' is given twice"),
    "list_base.yaml": (b"base: [a.yaml]", "base must be the path of a config"),
    "number_base.yaml": (b"base: 0", "base must be the path of a config"),
    "empty_base.yaml": (b"base: ''", "base must be the path of a config"),
    "nul_base.yaml": (b'base: "a\\0.yaml"', "base must be the path of a config"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_cannot_be_read_is_an_error_naming_it(tmp_path, name):
    content, said = UNREADABLE[name]
    path = tmp_path / name
    path.write_bytes(content)
    for read in (load_config, read_base):
        with pytest.raises(ValueError, match=said) as raised:
            read(path)
        assert str(raised.value).startswith(str(path))
    if "twice" in name:
        assert f"line {2 if name == 'twice_quoted.yaml' else 3}, column" in str(raised.value)


def test_a_folder_in_place_of_a_file_is_an_error_naming_it(tmp_path):
    assert error_of(tmp_path) == f"{tmp_path} is a folder, not a config: name one of its YAML files"


def test_a_merge_key_may_repeat_what_it_merges(write):
    text = "train: &t {steps: 7, seed: 1}\nmodel: {}\nscorer: {<<: {seed: 2, rounds: 3}, seed: 4}\n"
    config = load_config(write("merged.yaml", text))
    assert (config.train.steps, config.scorer.seed, config.scorer.rounds) == (7, 4, 3)


def test_the_base_of_a_file_is_found(write, tmp_path):
    assert read_base(write("top.yaml", "base: a/b.yaml\n")) == tmp_path / "a/b.yaml"
    assert read_base(write("plain.yaml", "hypothesis: x\n")) is None
    assert read_base(tmp_path / "gone.yaml") is None


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
    later_sections = {name for name, field in Config.model_fields.items() if field.json_schema_extra}
    assert later_sections == set(Config.model_fields) - set(plain.record()) == {"labels", "submit"}
    for name, section in Config.model_fields.items():
        if name in later_sections:
            continue
        fields = getattr(section.annotation, "model_fields", {})
        later = {key for key, field in fields.items() if field.json_schema_extra}
        assert not fields or set(plain.record()[name]) == set(fields) - later


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": {"precision": "16-mixed"}}, r"train\.cuda_graph is not for fp16"),
        ({"model": {"decoder": "MaskRCNN", "channels": []}}, r"train\.cuda_graph: for networks that give maps"),
    ],
)
def test_a_graph_is_refused_of_steps_that_wait_for_the_gpu(change, said):
    graph = {"train": {"cuda_graph": True}}
    assert parse_config(graph, "a test").train.cuda_graph
    with pytest.raises(ValueError, match=said):
        parse_config(merge(change, graph), "a test")


CHANGED = {"min_side_px": 512, "output_stride": 2, "pool": 64, "scale": 0.5, "cuda_graph": True, "diameter_px": 36}


@pytest.mark.parametrize(("section", "key"), FOR_MAPS)
def test_what_only_maps_have_is_refused_of_a_detector(section, key):
    change = {section: {key: CHANGED.get(key, "other")}}
    detector = {"model": {"decoder": "MaskRCNN", "channels": []}, "selection": {"method": "detections"}}
    assert parse_config(detector, "a test").model.gives == "detections"
    with pytest.raises(ValueError, match="for networks that give maps, not for MaskRCNN, which gives detections"):
        parse_config(merge(detector, change), "a test")


def test_changes_are_read_as_yaml():
    changes = parse_changes(["train.steps=100", "predict.scales=[1, 2]", "model.weights=", "train.loss={dice: 1}"])
    assert changes == {
        "train": {"steps": 100, "loss": {"dice": 1}},
        "predict": {"scales": [1, 2]},
        "model": {"weights": None},
    }
    assert parse_changes([]) == {}


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["train.steps"], "--set train.steps: give a setting and its value, for example --set train.steps=100"),
        (["=3"], "--set =3: give a setting"),
        (["train..steps=3"], "give a setting"),
        (["train.steps=3", "train.steps=4"], "train.steps is given twice"),
        (["train.steps=[3"], r"the value of --set train.steps=\[3 is not valid YAML"),
        (["train.steps=" + "[" * 3000], "nested too deeply"),
    ],
)
def test_changes_of_another_form_are_refused(texts, words):
    with pytest.raises(UserError, match=words):
        parse_changes(texts)


def test_a_changed_setting_is_checked_as_the_file_is(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("train: {steps: 7, seed: 3}\n")
    config = load_config(path, parse_changes(["train.steps=9"]))
    assert (config.train.steps, config.train.seed) == (9, 3)
    for text, words in (
        ("train.stepz=3", "a.yaml, changed by --set:\n  train.stepz: unknown key, did you mean steps\\?"),
        ("trian.steps=3", "did you mean train\\?"),
        ("train.steps=many", "train.steps: .*got 'many'"),
        ("train=3", "train: "),
        ("members.b=0", "members.b: "),
    ):
        with pytest.raises(UserError, match=words):
            load_config(path, parse_changes([text]))


def test_external_data_are_recorded_where_there_are_any_and_a_weight_of_0_leaves_a_set_out():
    def record(external):
        return Config.model_validate({"data": {"external": external}}).record_training()

    assert record({}) == record({"tnbc": 0}) == Config().record_training()
    assert "external" not in record({})
    one = record({"tnbc": 4, "nuinsseg": 0})
    assert one == Config().record_training() | {"external": {"tnbc": 4}, "external_area_px": 1500}
    assert record({"tnbc": 4}) == one
    assert record({"tnbc": 2}) != one
    with pytest.raises(ValueError, match="cannot be a name"):
        record({"../tnbc": 1})


@pytest.mark.parametrize("name", ["external", "External"])
def test_no_data_set_lies_where_external_sets_do(name):
    with pytest.raises(UserError, match=f"{name!r} cannot name a data set"):
        parse_config({"data": {"dataset": name}}, "a test")
    assert parse_config({"data": {"dataset": "externals"}}, "a test").data.dataset == "externals"
