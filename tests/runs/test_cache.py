"""A stage is made exactly when it must be, part by part, by one process at a time."""

import pytest
from processes import run_and_die, start

from nuclei.config.schema import DataConfig
from nuclei.errors import UserError
from nuclei.runs import cache
from nuclei.runs.cache import Part, expected_fingerprint, fingerprint, recorded_inputs, stage
from nuclei.runs.cores import say_cores
from nuclei.runs.files import read_json, write_bytes, write_json
from nuclei.runs.layout import Dataset


@pytest.fixture
def meta(tmp_path):
    return tmp_path / "a_run/meta/train.json"


@pytest.fixture
def outputs(meta):
    """Name a folder and a file that a stage writes."""
    return [meta.parents[1] / "maps", meta.parents[1] / "metrics.json"]


def make(meta, outputs, settings=None, inputs=None, force=False, text="made", **more) -> list[str]:
    """Run a stage that writes `text` into both outputs, and return what it was asked to make."""
    with stage(meta, settings or {"steps": 1}, inputs or {}, outputs, force, **more) as needed:
        if needed:
            write_outputs(outputs, text)
    return needed


def write_outputs(outputs, text) -> None:
    write_bytes(outputs[0] / f"{text}.txt", text.encode())
    write_bytes(outputs[1], text.encode())


def files(outputs) -> list[str]:
    """List what is in the folder, and the file if it is there."""
    return sorted(p.name for p in outputs[0].rglob("*")) + [p.name for p in outputs[1:] if p.exists()]


def test_a_stage_runs_once(meta, outputs, capsys):
    settings = {"steps": 1, "widths": (1, 2)}
    assert make(meta, outputs, settings)
    assert files(outputs) == ["made.txt", "metrics.json"]
    assert sorted(meta.parent.iterdir()) == [meta, meta.with_suffix(".lock")]
    capsys.readouterr()
    before = meta.read_bytes()
    assert not make(meta, outputs, settings, text="again")
    assert capsys.readouterr().out == "a_run train: up to date\n"
    assert files(outputs) == ["made.txt", "metrics.json"]
    assert meta.read_bytes() == before


def test_a_finished_stage_says_what_it_was_made_of(meta, outputs):
    make(meta, outputs, {"steps": 1}, {"data": "abc"})
    content = read_json(meta)
    assert content["stage"] == "train"
    assert content["settings"] == {"steps": 1}
    assert content["inputs"] == {"data": "abc"}
    assert content["seconds"] >= 0
    assert content["versions"]["torch"]
    assert "commit" in content
    assert "dirty" in content
    assert content["fingerprint"] == fingerprint(meta)


def test_other_settings_are_refused_unless_forced(meta, outputs):
    make(meta, outputs, {"steps": 1}, {"data": "x"})
    before = meta.read_bytes()
    with pytest.raises(UserError) as raised:
        make(meta, outputs, {"steps": 2}, {"data": "x"}, text="other")
    for words in ("a_run train", "settings.steps: 1 -> 2", "--force"):
        assert words in str(raised.value)
    assert files(outputs) == ["made.txt", "metrics.json"]
    assert meta.read_bytes() == before
    assert make(meta, outputs, {"steps": 2}, {"data": "x"}, force=True, text="other")
    assert files(outputs) == ["other.txt", "metrics.json"], "what the old settings made is gone"
    assert not make(meta, outputs, {"steps": 2}, {"data": "x"})


OTHERS = [
    ({"inputs": {"data": "y"}}, "inputs.data: 'x' -> 'y'"),
    ({"version": 2}, "version: 1 -> 2"),
    ({"code": {"features": ["area", "hue"]}}, "code.features: with 'hue'"),
]


@pytest.mark.parametrize(("change", "said"), OTHERS)
def test_other_inputs_or_code_are_made_anew_and_the_reason_is_said(meta, outputs, capsys, change, said):
    first = {"inputs": {"data": "x"}, "code": {"features": ["area"]}}
    make(meta, outputs, **first)
    old = fingerprint(meta)
    capsys.readouterr()
    assert make(meta, outputs, **first | change, text="other")
    assert capsys.readouterr().out == f"a_run train: running again ({said}), {say_cores()}\n"
    assert files(outputs) == ["other.txt", "metrics.json"]
    assert fingerprint(meta) != old
    assert not make(meta, outputs, **first | change)


@pytest.mark.parametrize(("change", "said"), OTHERS)
def test_hours_of_work_are_protected(meta, outputs, change, said):
    first = {"inputs": {"data": "x"}, "code": {"features": ["area"]}, "protect": True}
    make(meta, outputs, **first)
    with pytest.raises(UserError) as raised:
        make(meta, outputs, **first | change)
    for words in ("a_run train", said, "--force", "another file name"):
        assert words in str(raised.value)
    assert make(meta, outputs, **first | change, force=True)


def test_the_meta_of_a_time_without_versions_counts_as_the_first(meta, outputs):
    make(meta, outputs, inputs={"data": "x"})
    found = read_json(meta)
    write_json(meta, {key: found[key] for key in found if key not in ("version", "code")})
    assert not make(meta, outputs, inputs={"data": "x"})
    assert found["version"] == 1
    assert fingerprint(meta) == expected_fingerprint("train", {"steps": 1}, {"data": "x"})
    assert fingerprint(meta) == "76669add4d89c356"


def test_facts_are_part_of_the_fingerprint_and_make_nothing_stale(meta, outputs):
    assert make(meta, outputs, notes={"devices": 2}, facts=["devices"])
    assert fingerprint(meta) == expected_fingerprint("train", {"steps": 1}, {}, facts={"devices": 2})
    assert fingerprint(meta) != expected_fingerprint("train", {"steps": 1}, {}, facts={"devices": 4})
    assert not make(meta, outputs, notes={"devices": 4}, facts=["devices"])
    assert not make(meta, outputs)


def test_force_repeats_a_stage_that_is_up_to_date(meta, outputs):
    make(meta, outputs)
    assert make(meta, outputs, force=True, text="again")
    assert files(outputs) == ["again.txt", "metrics.json"]


def test_a_stage_that_fails_is_not_finished(meta, outputs):
    def fail():
        with stage(meta, {"steps": 1}, {}, outputs):
            write_outputs(outputs, "partial")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not meta.exists()
    assert files(outputs) == ["partial.txt", "metrics.json"]
    assert make(meta, outputs)
    assert files(outputs) == ["made.txt", "partial.txt", "metrics.json"]


KILLED = """
    outputs = [Path("a_run/maps"), Path("a_run/metrics.json")]
    with stage(Path("a_run/meta/train.json"), {"steps": 1}, {}, outputs, force=FORCE):
        write_bytes(outputs[0] / "partial.txt", b"")
        write_bytes(outputs[1], b"")
        die()
"""


@pytest.mark.parametrize("finished_before", [False, True])
def test_a_killed_stage_never_looks_finished(meta, outputs, tmp_path, finished_before):
    if finished_before:
        make(meta, outputs)
    run_and_die(KILLED.replace("FORCE", str(finished_before)), tmp_path)
    with pytest.raises(UserError, match=f"{meta} is missing"):
        fingerprint(meta)
    assert files(outputs) == ["partial.txt", "metrics.json"]


@pytest.mark.parametrize("force", [False, True])
def test_a_killed_stage_goes_on_from_what_it_left(meta, outputs, tmp_path, force):
    run_and_die(KILLED.replace("FORCE", "False"), tmp_path)
    assert make(meta, outputs, force=force)
    assert files(outputs) == ["made.txt", "partial.txt", "metrics.json"]
    assert not meta.with_suffix(".begun").exists()


def test_what_a_killed_stage_left_is_cleared_for_other_settings(meta, outputs, tmp_path):
    run_and_die(KILLED.replace("FORCE", "False"), tmp_path)
    with stage(meta, {"steps": 2}, {}, outputs) as needed:
        assert needed
        assert files(outputs) == []


def test_of_a_link_the_link_is_cleared_and_not_what_it_leads_to(meta, outputs, tmp_path):
    for source, output in zip(("elsewhere", "a_file"), outputs, strict=False):
        path = tmp_path / source
        path.mkdir()
        (path / "mine").touch()
        output.unlink(missing_ok=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.symlink_to(path)
        with stage(meta, {}, {}, outputs):
            assert not output.exists()
        assert (path / "mine").is_file()
        meta.unlink()


def test_what_nobody_began_is_cleared(meta, outputs):
    write_outputs(outputs, "stray")
    with stage(meta, {"steps": 1}, {}, outputs):
        assert files(outputs) == []


def test_a_fingerprint_changes_with_settings_inputs_and_stage(tmp_path):
    seen = []
    for name, settings, inputs in (
        ("train", {"a": 1}, {"b": "x"}),
        ("train", {"a": 2}, {"b": "x"}),
        ("train", {"a": 1}, {"b": "y"}),
        ("predict", {"a": 1}, {"b": "x"}),
        ("train", {"a": 1}, {"b": "x"}),
    ):
        path = tmp_path / f"run{len(seen)}/meta/{name}.json"
        with stage(path, settings, inputs):
            pass
        seen.append(fingerprint(path))
    assert len(set(seen[:4])) == 4
    assert seen[4] == seen[0]


def test_a_change_travels_down_the_chain_of_stages(tmp_path):
    first, second = tmp_path / "run/meta/prepare.json", tmp_path / "run/meta/train.json"

    def chain(size, force=()):
        with stage(first, {"size": size}, {}, force=first in force):
            pass
        with stage(second, {"steps": 1}, {"data": fingerprint(first)}, force=second in force) as needed:
            return needed

    assert chain(1)
    assert not chain(1)
    assert chain(2, force=[first])
    assert not chain(2)


def test_a_stage_before_its_predecessor_says_which_is_missing(tmp_path):
    with pytest.raises(UserError, match=r"prepare.json is missing: .* run it first"):
        fingerprint(Dataset(DataConfig(), tmp_path).meta)


@pytest.mark.parametrize("content", ["", '{"fingerprint": "a', "[]", '{"fingerprint": "a"}'])
def test_a_damaged_meta_is_named_with_the_fix(meta, content):
    write_bytes(meta, content.encode())
    with pytest.raises(
        UserError, match=r"train.json is damaged, or no JSON file \(.*\): delete it and run the stage train again"
    ):
        fingerprint(meta)


def make_parts(meta, data: dict[str, str], settings=None, die_in=None, **more) -> list[str]:
    """Run a stage of one part per split, whose file holds the data it was made of; fail before that of `die_in`."""
    folder = meta.parents[1] / "maps"
    parts = {split: Part({"data": content}, [folder / f"{split}.txt"]) for split, content in data.items()}
    with stage(meta, settings or {}, {"weights": "w"}, [folder], parts=parts, **more) as needed:
        for split in needed:
            if split == die_in:
                raise ZeroDivisionError
            write_bytes(folder / f"{split}.txt", data[split].encode())
    return needed


def contents(meta) -> dict[str, str]:
    return {path.stem: path.read_text() for path in sorted((meta.parents[1] / "maps").glob("*.txt"))}


def test_only_the_parts_that_differ_are_made(meta, capsys):
    assert make_parts(meta, {"oof": "a", "test": "b"}) == ["oof", "test"]
    oof, test = fingerprint(meta, "oof"), fingerprint(meta, "test")
    inode = (meta.parents[1] / "maps/oof.txt").stat().st_ino
    assert make_parts(meta, {"oof": "a", "test": "b", "stage2": "c"}) == ["stage2"]
    assert "running again (stage2: not made yet)" in capsys.readouterr().out
    assert make_parts(meta, {"oof": "a", "test": "other", "stage2": "c"}) == ["test"]
    assert "running again (test: inputs.data: 'b' -> 'other')" in capsys.readouterr().out
    assert contents(meta) == {"oof": "a", "stage2": "c", "test": "other"}
    assert (meta.parents[1] / "maps/oof.txt").stat().st_ino == inode
    assert fingerprint(meta, "oof") == oof
    assert fingerprint(meta, "test") != test
    assert recorded_inputs(meta, "test") == {"weights": "w", "data": "other"}
    assert make_parts(meta, {"oof": "a", "test": "other", "stage2": "c"}) == []


def test_a_part_has_the_fingerprint_of_a_stage_that_is_made_of_the_same(meta):
    make_parts(meta, {"oof": "a"}, {"steps": 1})
    assert fingerprint(meta, "oof") == expected_fingerprint("train", {"steps": 1}, {"weights": "w", "data": "a"})


def test_a_part_that_is_not_made_is_named(meta):
    make_parts(meta, {"oof": "a"})
    with pytest.raises(UserError, match=r"train.json has no stage2: run the stage train again"):
        fingerprint(meta, "stage2")


def test_a_part_that_is_no_longer_asked_for_stays(meta):
    make_parts(meta, {"oof": "a", "test": "b"})
    assert make_parts(meta, {"oof": "a"}) == []
    assert make_parts(meta, {"oof": "a", "stage2": "c"}) == ["stage2"]
    assert contents(meta) == {"oof": "a", "stage2": "c", "test": "b"}
    assert make_parts(meta, {"oof": "a", "test": "b", "stage2": "c"}) == []
    assert make_parts(meta, {"oof": "other"}) == ["oof"], "when all that is asked for is made anew, nothing old stays"
    assert contents(meta) == {"oof": "other"}
    with pytest.raises(UserError):
        fingerprint(meta, "test")


def test_a_part_that_failed_is_not_finished_and_the_others_are(meta):
    make_parts(meta, {"oof": "a"})
    data = {"oof": "a", "test": "b", "stage2": "c"}
    with pytest.raises(ZeroDivisionError):
        make_parts(meta, data, die_in="stage2")
    assert fingerprint(meta, "oof")
    with pytest.raises(UserError):
        fingerprint(meta, "test")
    path = meta.parents[1] / "maps/test.txt"
    inode = path.stat().st_ino
    with stage(meta, {}, {"weights": "w"}, parts={s: Part({"data": d}, [path]) for s, d in data.items()}) as needed:
        assert needed == ["test", "stage2"]
        assert path.stat().st_ino == inode, "what was made of it is there to resume from"
    with pytest.raises(UserError, match=r"settings.steps: None -> 1"):
        make_parts(meta, data, {"steps": 1})


def test_a_stage_that_was_not_divided_then_counts_part_by_part(meta):
    parts = {"oof": "a", "test": "a"}
    make_parts(meta, parts)
    found = read_json(meta) | {"inputs": {"weights": "w", "data": "a"}, "fingerprint": "whole"}
    write_json(meta, {key: found[key] for key in found if key not in ("parts", "version", "code")})
    assert make_parts(meta, parts) == []
    assert make_parts(meta, parts | {"stage2": "c"}) == ["stage2"]
    assert fingerprint(meta, "oof") == fingerprint(meta, "test") == "whole"


@pytest.mark.parametrize("has_other", [False, True])
def test_the_parts_of_another_run_are_taken(meta, tmp_path, capsys, has_other):
    other = tmp_path / "other_run/meta/train.json"
    make_parts(other, {"oof": "a", "test": "b"} | ({"stage2": "c"} if has_other else {}))
    make_parts(meta, {"oof": "mine", "test": "b"})
    capsys.readouterr()
    needed = make_parts(meta, {"oof": "mine", "test": "b", "stage2": "c"}, share=True)
    assert needed == ([] if has_other else ["stage2"])
    assert ("the same as that of" in capsys.readouterr().out) == has_other
    assert contents(meta) == {"oof": "mine", "stage2": "c", "test": "b"}
    assert make_parts(meta, {"oof": "mine", "test": "b", "stage2": "c"}) == []


def test_what_is_made_anew_while_it_is_taken_is_not_taken(meta, outputs, tmp_path, monkeypatch):
    other = tmp_path / "other_run/meta/train.json"
    make(other, [tmp_path / "other_run" / path.name for path in outputs], text="theirs")
    link = cache.link_outputs

    def link_late(*arguments):
        link(*arguments)
        other.unlink()  # as the other run's stage does first when it must run again

    monkeypatch.setattr(cache, "link_outputs", link_late)
    assert make(meta, outputs, share=True)
    assert files(outputs) == ["made.txt", "metrics.json"]


def test_what_killed_writes_left_is_removed(meta, outputs, tmp_path):
    killed = """
        with stage(Path("a_run/meta/train.json"), {"steps": 1}, {}, [Path("a_run/maps"), Path("a_run/metrics.json")]):
            with atomic(Path("a_run/maps/made.txt")) as first, atomic(Path("a_run/metrics.json")) as second:
                first.write_text("half"), second.write_text("half")
                die()
    """
    run_and_die(killed, tmp_path)
    assert len(list((tmp_path / "a_run").rglob(".*.partial.*"))) == 2
    for name in ("train.json", "train.begun"):  # as of a process killed while it wrote these
        (meta.parent / f".1.partial.{name}").touch()
    assert make(meta, outputs)
    assert not list((tmp_path / "a_run").rglob(".*.partial.*"))


HELD = """
    with stage(Path("a_run/meta/train.json"), {"steps": 1}, {}, [Path("a_run/maps")]) as needed:
        if needed:
            print(*sorted(path.name for path in Path("a_run/maps").glob("*")), flush=True)
            write_bytes(Path("a_run/maps") / f"{os.getpid()}.txt", b"")
            print("inside", flush=True)
            input()
"""


@pytest.mark.parametrize("killed", [False, True])
def test_a_second_process_waits_for_the_first_or_takes_over_from_a_dead_one(tmp_path, killed):
    first = start(HELD, tmp_path)
    assert [first.stdout.readline() for _ in range(3)] == [f"a_run train: running, {say_cores()}\n", "\n", "inside\n"]
    second = start(HELD, tmp_path)
    assert second.stdout.readline().startswith(f"a_run train: waiting for process {first.pid} on ")
    if killed:
        first.kill()
        assert second.stdout.readline() == f"a_run train: running, {say_cores()}\n"
        assert second.stdout.readline() == f"{first.pid}.txt\n", "it resumes"
    else:
        first.communicate("\n")
        assert second.stdout.readline() == "a_run train: up to date\n"
    second.communicate("\n")
    first.communicate()
    assert second.returncode == 0
    made_by = [first.pid, second.pid] if killed else [first.pid]
    assert {path.name for path in (tmp_path / "a_run/maps").iterdir()} == {f"{pid}.txt" for pid in made_by}


@pytest.mark.parametrize("content", [b"\xff", b"[1]", b"{}", b'{"parts": "x"}', b'{"parts": null}', b"[" * 9999])
def test_a_damaged_note_of_what_was_begun_is_none(meta, outputs, content):
    write_bytes(meta.with_suffix(".begun"), content)
    assert make(meta, outputs)
    assert files(outputs) == ["made.txt", "metrics.json"]


def test_a_note_of_what_was_begun_may_be_gone_at_the_end(meta, outputs):
    with stage(meta, {"steps": 1}, {}, outputs):
        meta.with_suffix(".begun").unlink()
    assert not make(meta, outputs)


DAMAGE = [
    (lambda path: path.unlink(), "is missing"),
    (lambda path: path.write_bytes(b"mad"), "is damaged: 3 bytes, not 4"),
    (lambda path: path.write_bytes(b"mode"), "is damaged or was changed: its sha256 differs"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGE)
def test_a_damaged_output_is_named_and_made_again_and_the_rest_is_kept(meta, outputs, capsys, damage, said):
    make(meta, outputs)
    before = fingerprint(meta)
    inode = (outputs[0] / "made.txt").stat().st_ino
    damage(outputs[1])
    capsys.readouterr()
    with stage(meta, {"steps": 1}, {}, outputs) as needed:
        assert needed
        assert files(outputs) == ["made.txt"]
        write_bytes(outputs[1], b"made")
    assert capsys.readouterr().out == f"a_run train: running again ({outputs[1]} {said}), {say_cores()}\n"
    assert (outputs[0] / "made.txt").stat().st_ino == inode
    assert fingerprint(meta) == before
    assert not make(meta, outputs)


@pytest.mark.parametrize(("damage", "said"), DAMAGE)
def test_damage_to_hours_of_work_is_an_error_that_names_the_file(meta, outputs, damage, said):
    make(meta, outputs, protect=True)
    damage(outputs[1])
    assert not cache.is_up_to_date(meta, {"steps": 1}, {})
    with pytest.raises(
        UserError, match=rf"what a_run train made is no longer whole:\n  {outputs[1]} {said}\n.*--force"
    ):
        make(meta, outputs, protect=True)
    assert make(meta, outputs, protect=True, force=True)


def test_of_a_folder_of_a_file_per_image_number_and_size_are_compared(meta, capsys):
    folder = meta.parents[1] / "maps"
    made: list[list[str]] = []

    def make_maps() -> None:
        with stage(meta, {}, {}, [folder]) as needed:
            missing = [name for name in "abc" if needed and not (folder / f"{name}.npz").exists()]
            for name in missing:
                write_bytes(folder / f"{name}.npz", b"map")
        made.append(missing)

    make_maps()
    assert read_json(meta)["files"] == {"maps": {"files": 3, "bytes": 9}}
    make_maps()
    (folder / "b.npz").unlink()
    make_maps()
    assert f"({folder} lacks 1 of 3 files)" in capsys.readouterr().out
    (folder / "b.npz").write_bytes(b"ma")
    make_maps()
    assert f"({folder} has files of 8 bytes in all, not of 9)" in capsys.readouterr().out
    (folder / ".DS_Store").write_bytes(b"hidden")
    (folder / "mine.txt").write_bytes(b"something of the user's")
    make_maps()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()  # deleted to save space, which is no damage
    make_maps()
    assert made == [["a", "b", "c"], [], ["b"], ["a", "b", "c"], [], []]


def test_only_the_part_that_is_damaged_is_made_again(meta, capsys):
    data = {"oof": "a", "test": "b"}
    make_parts(meta, data)
    (meta.parents[1] / "maps/test.txt").write_text("damaged")
    capsys.readouterr()
    assert make_parts(meta, data) == ["test"]
    assert "running again (test: " in capsys.readouterr().out
    assert contents(meta) == data
    (meta.parents[1] / "maps/oof.txt").unlink()
    assert make_parts(meta, {"oof": "a", "test": "c"}) == ["oof", "test"]
    assert make_parts(meta, {"oof": "a", "test": "c"}) == []


def test_a_meta_from_before_outputs_were_recorded_has_nothing_to_compare(meta, outputs):
    make(meta, outputs)
    write_json(meta, {key: value for key, value in read_json(meta).items() if key != "files"})
    outputs[1].unlink()
    assert not make(meta, outputs)


def test_what_is_damaged_in_another_run_is_not_taken_from_it(meta, outputs, tmp_path, capsys):
    other = [tmp_path / "other_run" / path.name for path in outputs]
    make(tmp_path / "other_run/meta/train.json", other, text="theirs")
    other[1].write_text("damaged")
    assert make(meta, outputs, share=True)
    assert "the same as" not in capsys.readouterr().out


def test_a_shared_output_that_is_damaged_is_made_again_for_each_run(meta, outputs, tmp_path):
    theirs = tmp_path / "other_run/meta/train.json"
    other = [tmp_path / "other_run" / path.name for path in outputs]
    make(theirs, other)
    assert not make(meta, outputs, share=True)
    outputs[1].write_text("damaged")  # and that of the other run, which is the same file
    assert make(meta, outputs, share=True)
    assert other[1].read_text() == "damaged"
    assert make(theirs, other)
    assert not make(meta, outputs, share=True)
    assert outputs[1].read_text() == other[1].read_text() == "made"
