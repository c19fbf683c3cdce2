"""The frontier: its experiments, what is chosen from their records, and the command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from synthetic_records import made, part, rich

from recbole_derrd.benchmark.frontier import read_frontier
from recbole_derrd.benchmark.runner import check_experiments
from recbole_derrd.cli import main
from recbole_derrd.config.distill_config import DistillConfig
from recbole_derrd.errors import DataError, OptionError
from recbole_derrd.experiment.preflight import check_run
from recbole_derrd.experiment.refine import OF_THE_PLANS
from recbole_derrd.report import RunRecord
from recbole_derrd.report.frontier import FAMILIES, codebook_bytes, frontier_figure, frontier_table, frontiers_of
from recbole_derrd.report.frontier_pages import frontier_page
from recbole_derrd.shrinking.budget import Split, sizes_of_codebooks
from recbole_derrd.shrinking.plan import coded_settings
from recbole_derrd.teacher import teacher_specs


def written(folder: Path, tiny_data: Path, **content: Any) -> Path:
    base = {
        "model": "BPR", "dataset": "tiny", "data_path": str(tiny_data), "teacher": {"embedding_size": 16},
        "checkpoint_dir": str(folder / "saved"), "epochs": 3, "learning_rate": 0.03, "metrics": ["NDCG"], "topk": [5],
        "valid_metric": "NDCG@5", "latency_users": 0, "teacher_refine": {"epochs": 2},
    }  # fmt: skip
    whole = {"base": base, "bytes": [2], "seeds": [1], "record_dir": str(folder / "records"), **content}
    file = folder / "toy.yaml"
    file.write_text(yaml.safe_dump(whole), encoding="utf-8")
    return file


def test_the_experiments_by_hand(tmp_path: Path, tiny_data: Path) -> None:
    kinds = ["trained", "untrained", "refined", "lloyd_max", "opq", "student"]
    plan = read_frontier(written(tmp_path, tiny_data, bytes=[2, 4], kinds=kinds, seeds=[1, 2]))
    assert [one.name for one in plan.experiments if one.seed == 1] == [
        "2 B: 16 x 1 bit, trained", "2 B: 8 x 2 bits, trained",
        "2 B: 16 x 1 bit of the teacher", "2 B: 8 x 2 bits of the teacher",
        "2 B: 16 x 1 bit of the refined teacher", "2 B: 8 x 2 bits of the refined teacher",
        "2 B: 8 x 2 bits of the teacher, Lloyd-Max", "2 B: OPQ of the teacher, 16 dimensions",
        "2 B: student alone, 2 dimensions",
        "4 B: 16 x 2 bits, trained", "4 B: 8 x 4 bits, trained",
        "4 B: 16 x 2 bits of the teacher", "4 B: 8 x 4 bits of the teacher",
        "4 B: 16 x 2 bits of the refined teacher", "4 B: 8 x 4 bits of the refined teacher",
        "4 B: 16 x 2 bits of the teacher, Lloyd-Max", "4 B: 8 x 4 bits of the teacher, Lloyd-Max",
        "4 B: OPQ of the teacher, 16 dimensions", "4 B: student alone, 4 dimensions",
    ]  # fmt: skip
    assert {one.name for one in plan.experiments if one.proposed} == {
        one.name for one in plan.experiments if one.name.endswith("trained")
    }
    assert [one.name for one in plan.experiments if one.compressed] == [
        one.name for one in plan.experiments if "of the" in one.name
    ]


def test_students_in_codebooks_by_hand(tmp_path: Path, tiny_data: Path) -> None:
    """A byte a codebook, of 16 and 32 dimensions each, as far as the teacher has them; none where bits do as well."""
    plan = read_frontier(written(tmp_path, tiny_data, bytes=[1, 4, 5], kinds=["trained_codebooks"]))
    assert [one.name for one in plan.experiments] == [
        "1 B: 1 codebook of 16 dimensions, trained", "4 B: 4 codebooks of 16 dimensions, trained"
    ]  # fmt: skip
    for number, one in zip((1, 4), plan.experiments):
        assert one.proposed and one.settings["student_codebooks"] == number
        assert one.settings["warm_start"] == "svd" and one.settings["teacher_refine"]
        check_run(DistillConfig(config_dict=one.settings))
    assert sizes_of_codebooks(5, 200) == [160, 80] and sizes_of_codebooks(10, 200) == [200, 160]
    assert sizes_of_codebooks(50, 200) == [200] and sizes_of_codebooks(51, 200) == []


def test_all_have_one_teacher_and_pass_the_checks_of_a_run(tmp_path: Path, tiny_data: Path) -> None:
    plan = read_frontier(written(tmp_path, tiny_data, kinds=["trained", "untrained", "refined", "student"]))
    for one in plan.experiments:
        check_run(DistillConfig(config_dict=one.settings))
        # Whatever learning rate the student has.
        assert one.settings["teacher"]["learning_rate"] == 0.03 and one.settings["teacher"]["epochs"] == 3
        assert one.settings["teacher"]["embedding_size"] == 16
    trained = plan.experiments[0].settings
    wanted = coded_settings_of(plan.experiments[0].settings)
    assert {key: trained[key] for key in wanted} == wanted


def coded_settings_of(settings: dict[str, Any]) -> dict[str, Any]:
    from recbole_derrd.data.prepare import prepare_data
    from recbole_derrd.experiment.plans import Sizes

    data = prepare_data(DistillConfig(config_dict=settings))
    own = coded_settings(Sizes.of(data, 16), Split(16, 1))
    # What the file says of the refined teacher goes over the plan's.
    return {key: value for key, value in own.items() if key != "teacher_refine"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"bytes": []}, "how many bytes an item may take"),
        ({"bytes": [2, 2]}, "none twice"),
        ({"bytes": [2.5]}, "bytes must be whole numbers"),
        ({"bytes": [64]}, "too many for"),
        ({"kinds": ["itq"]}, "kinds cannot hold 'itq'"),
        ({"ways": 0}, "ways"),
        ({"byte": [2]}, "Unknown key 'byte'"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, tiny_data: Path, content: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        read_frontier(written(tmp_path, tiny_data, **content))


def _base(tiny_data: Path, folder: Path, **own: Any) -> dict[str, Any]:
    return {
        "model": "BPR", "dataset": "tiny", "data_path": str(tiny_data), "checkpoint_dir": str(folder / "saved"),
        "metrics": ["NDCG"], "topk": [5], "valid_metric": "NDCG@5", "latency_users": 0, **own,
    }  # fmt: skip


@pytest.mark.parametrize(
    "named",
    [
        {},
        {"teacher_model": "LightGCN", "teacher": {"embedding_size": 16}},
        {"teachers": ["LightGCN", {"embedding_size": 12}]},
        {"teacher_model": "EASE"},
    ],
)
def test_all_have_one_teacher_where_its_settings_are_recboles(
    tmp_path: Path, tiny_data: Path, named: dict[str, Any]
) -> None:
    """Plans set batches, validations and decay that the file leaves open: they are no teacher's."""
    plan = read_frontier(written(tmp_path, tiny_data, base=_base(tiny_data, tmp_path, **named), kinds=["trained"]))
    assert len(plan.experiments) > 1
    found = []
    for one in plan.experiments:
        config = DistillConfig(config_dict=one.settings)
        specs = teacher_specs(config)
        own = [config.derived(spec.name(config), spec.settings, teacher=True) for spec in specs]
        found.append([{key: each[key] for key in ("model", *OF_THE_PLANS)} for each in own])
    plainly = DistillConfig(config_dict=_base(tiny_data, tmp_path, **named))
    wanted = [plainly.derived(one.name(plainly), one.settings, teacher=True) for one in teacher_specs(plainly)]
    assert all(one == [{key: each[key] for key in ("model", *OF_THE_PLANS)} for each in wanted] for one in found)


def test_a_teacher_of_the_command_line_is_that_of_all(tmp_path: Path, tiny_data: Path) -> None:
    file = written(tmp_path, tiny_data, kinds=["trained", "untrained", "student"])
    plan = read_frontier(file, ["--teacher={embedding_size: 32}", "--teacher_refine={epochs: 5}"])
    for one in plan.experiments:
        assert one.settings["teacher"]["embedding_size"] == 32 and one.settings["teacher"]["learning_rate"] == 0.03
        # Codes of the teacher are not those of the refined one.
        refine = {"epochs": 5} if one.name.endswith("trained") else None
        assert one.settings.get("teacher_refine") == refine


def test_a_refining_of_a_config_file_is_that_of_its_kinds(tmp_path: Path, tiny_data: Path) -> None:
    (tmp_path / "under.yaml").write_text("teacher_refine: {epochs: 5}\n")
    base = _base(tiny_data, tmp_path, teacher={"embedding_size": 16})
    own = {"base": base, "config_files": "under.yaml", "kinds": ["trained", "untrained"]}
    for one in read_frontier(written(tmp_path, tiny_data, **own)).experiments:
        asked = DistillConfig(config_dict=one.settings).run_options.teacher_refine
        assert asked == ({"epochs": 5} if one.name.endswith("trained") else False)


def test_experiments_of_ones_own_have_the_files_refining_where_they_ask_for_it(tmp_path: Path, tiny_data: Path) -> None:
    asked = {"asks": True, "refuses": False, "own": {"epochs": 3}}
    others: list[dict[str, Any]] = [
        {"name": name, "distillers": ["rrd"], "rrd_k": place, "teacher_refine": value}
        for place, (name, value) in enumerate(asked.items(), 4)
    ]
    others.append({"name": "silent", "distillers": ["rrd"]})
    file = written(tmp_path, tiny_data, kinds=["student"], experiments=others)
    found = {one.name: one.settings.get("teacher_refine") for one in read_frontier(file).experiments}
    assert {name: found[name] for name in (*asked, "silent")} == {**asked, "asks": {"epochs": 2}, "silent": None}
    (given,) = [one for one in read_frontier(file, ["--teacher_refine={epochs: 5}"]).experiments if one.name == "asks"]
    assert given.settings["teacher_refine"] == {"epochs": 5}
    for typed, value in (("{epochs: 5}", {"epochs": 5}), ("False", False)):
        plan = read_frontier(file, [f"--teacher_refine={typed}"])
        found = {one.name: one.settings.get("teacher_refine") for one in plan.experiments}
        assert (found["asks"], found["refuses"], found["own"], found["silent"]) == (value, False, value, None)
    with pytest.raises(OptionError, match="Each experiment needs a name"):
        read_frontier(written(tmp_path, tiny_data, kinds=["student"], experiments=["rrd"]))


def test_without_a_refined_teacher_there_are_the_kinds_that_need_none(tmp_path: Path, tiny_data: Path) -> None:
    base = _base(tiny_data, tmp_path, teacher={"embedding_size": 16}, teacher_refine=False)
    with pytest.raises(OptionError, match="teacher_refine is False"):
        read_frontier(written(tmp_path, tiny_data, base=base))
    assert read_frontier(written(tmp_path, tiny_data, base=base, kinds=["untrained"])).experiments


def test_dimensions_are_those_of_the_refined_teacher(tmp_path: Path, tiny_data: Path) -> None:
    several = _base(tiny_data, tmp_path, teachers=["LightGCN", {"embedding_size": 12}], embedding_size=8)
    narrow = _base(tiny_data, tmp_path, teacher={"embedding_size": 16}, teacher_refine={"embedding_size": 8})
    for base, most in ((several, 12), (narrow, 8)):
        plan = read_frontier(written(tmp_path, tiny_data, base=base, kinds=["trained"], ways=9))
        assert max(one.settings["embedding_size"] for one in plan.experiments) == most
        with pytest.raises(OptionError, match=f"too many for a teacher of {most} dimensions"):
            read_frontier(written(tmp_path, tiny_data, base=base, bytes=[2 * most]))


def test_codes_of_a_teacher_that_has_none_are_refused_first(tmp_path: Path, tiny_data: Path) -> None:
    base = _base(tiny_data, tmp_path, teacher_model="NeuMF")
    plan = read_frontier(written(tmp_path, tiny_data, base=base, kinds=["trained", "untrained"]))
    with pytest.raises(OptionError, match="of the teacher' cannot run"):
        check_experiments(plan.experiments)


# -- what records show


def coded(name: str, seed: int, test: float, valid: float, item_bytes: float, **options: Any) -> RunRecord:
    """A record of a student trained in few bits, or of a compressed teacher."""
    one = made(name, seed, test)
    one["distilled"] = {
        **part("BPR", test, 100, embedding_size=4), "valid": {"ndcg@10": valid}, "bytes_per_item": item_bytes,
    }  # fmt: skip
    one["options"] = options
    if "compress_method" in options:
        one.update(distillers=[], compression={"method": options["compress_method"]})
    one["benchmark"] = {"name": "toy", "experiment": name, "key": f"{name}{seed}", "settings": name}
    one.pop("student")
    return RunRecord.from_json(one)


def records() -> list[RunRecord]:
    found = []
    for seed in (1, 2):
        found += [
            # The better one on the test split is the worse one on the validation split.
            coded("8 x 1", seed, 0.42 + seed / 100, 0.40, 3.0, student_bits=1),
            coded("4 x 2", seed, 0.44 + seed / 100, 0.39, 3.0, student_bits=2),
            coded("8 x 2", seed, 0.46, 0.45, 4.0, student_bits=2),
            coded("codes", seed, 0.35, 0.35, 3.0, compress_method="quantized"),
            coded("refined codes", seed, 0.37, 0.37, 3.0, compress_method="quantized", teacher_refine=True),
            coded("codebooks", seed, 0.36, 0.36, 3.0, compress_method="product"),
            coded("svd", seed, 0.30, 0.30, 16.0, compress_method="svd"),
            coded("de", seed, 0.41, 0.41, 16.0),
        ]
    return found


def test_the_validation_split_chooses_and_the_test_split_is_shown() -> None:
    (frontier,) = frontiers_of(records())
    assert [(one.family, one.row.label, one.item_bytes, one.among) for one in frontier.points] == [
        ("trained", "8 x 1", 3.0, 2), ("trained", "8 x 2", 4.0, 1), ("distilled", "de", 16.0, 1),
        ("refined", "refined codes", 3.0, 1), ("codes", "codes", 3.0, 1), ("codebooks", "codebooks", 3.0, 1),
        ("svd", "svd", 16.0, 1),
    ]  # fmt: skip
    table = frontier_table(frontier)
    lines = [[cell.text for cell in row] for row in table.rows]
    assert lines[0][1] == "Teacher" and lines[0][3:5] == ["0.5000", "100 %"]
    assert lines[1][:5] == ["3", "8 x 1", "2", "0.4350 ± 0.0071", "87 %"] and lines[1][5] == "2"
    assert [row[3].mark for row in table.rows[1:5]] == ["best", "", "", ""]


def test_codebooks_are_shared_out_over_the_items() -> None:
    """9 users of 8 numbers, 19 items of 2 codes, and a codebook of 400 bytes; a padding row on both sides."""
    more = {"data": {"users": 9, "items": 19, "fingerprint": {"ids": "i", "train": "t", "valid": "v", "test": "w"}}}
    whole = 10 * 8 * 4 + 20 * 2 + 400

    def one(name: str, size: int, **options: Any) -> RunRecord:
        record = {**made(name, 1, 0.4), **more, "options": options}
        record["distilled"] = {**part("BPR", 0.4, size // 4, embedding_size=8), "bytes_per_item": 2.0}
        return RunRecord.from_json(record)

    (frontier,) = frontiers_of([
        one("ours", whole, student_codebooks=2),
        one("theirs", whole + 200, compress_method="product"),
        one("unknown", whole, compress_method="product", compress_users=True),
    ])  # fmt: skip
    shared = {row.label: codebook_bytes(row, 9, 19) for row in frontier.group.rows.values() if row.distilled}
    assert shared == {"ours": pytest.approx(400 / 19), "theirs": pytest.approx(600 / 19), "unknown": None}
    table = frontier_table(frontier)
    assert table.head[:3] == ["bytes an item", "codebooks, bytes an item", ""]
    lines = {row[2].text: row[1].text for row in table.rows}
    assert lines["ours"] == "21" and lines["Teacher"] == "0"
    assert any("Codebooks are stored once" in note for note in table.notes)


def test_in_text_the_best_has_a_star_and_the_first_places_data_come_first(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name, dataset in (("own", "zoo"), ("beside", "abacus")):
        (tmp_path / name).mkdir()
        for number, record in enumerate(records()):
            entry = record.benchmark and dataclasses.replace(record.benchmark, position=0)
            one = dataclasses.replace(record, dataset=dataset, benchmark=entry)
            (tmp_path / name / f"{number}.json").write_text(json.dumps(one.to_json()))
    page = frontier_page([tmp_path / "own", tmp_path / "beside"], tmp_path / "front.svg")
    assert page.index("zoo,") < page.index("front.svg") < page.index("abacus,") < page.index("front-2.svg")
    assert "0.4350 ± 0.0071 *" in page and "has a *" in page and "bold" not in page


def test_students_alone_are_one_line_and_those_quantised_afterwards_another() -> None:
    plain = {**made("plain", 1, 0.3), "distillers": [], "options": {}}
    stored = {**part("BPR", 0.29, 100), "bytes_per_item": 6.0, "bits": 8, "users": False}
    records = [
        RunRecord.from_json({**plain, "stored": stored}),
        RunRecord.from_json({**made("DE", 1, 0.4), "stored": stored}),
    ]
    (frontier,) = frontiers_of(records)
    found = {one.family for one in frontier.points}
    assert found == {"plain", "distilled", "quantized afterwards"} and found <= set(FAMILIES)
    assert [one.item_bytes for one in frontier.of("plain")] == [6.0, 16.0]
    # In 16 bytes it is a little better; were it not, the picture would leave it out.
    assert [one.item_bytes for one in frontier.front("plain")] == [6.0, 16.0]


def test_the_picture_leaves_out_what_fewer_bytes_are_as_good_as() -> None:
    worse = [coded("wide", seed, 0.40, 0.46, 9.0, student_bits=8) for seed in (1, 2)]
    (frontier,) = frontiers_of([*records(), *worse])
    assert [one.item_bytes for one in frontier.of("trained")] == [3.0, 4.0, 9.0]
    assert [one.item_bytes for one in frontier.front("trained")] == [3.0, 4.0]


def test_records_without_sizes_have_no_frontier() -> None:
    one = made("DE", 1, 0.4)
    for entry in (one["distilled"], one["student"]):
        entry["bytes_per_item"] = None
    with pytest.raises(DataError, match="how many bytes"):
        frontiers_of([RunRecord.from_json(one)])


def test_the_picture_names_every_line_once_and_apart() -> None:
    pytest.importorskip("matplotlib")
    (frontier,) = frontiers_of(records())
    figure = frontier_figure(frontier)
    (axes,) = figure.axes
    names = [text.get_text() for text in axes.texts]
    assert sorted(names) == sorted(
        [FAMILIES[family] for family in {one.family for one in frontier.points}] + ["teacher, 16 B"]
    )
    heights = sorted(text.xy[1] for text in axes.texts)
    low, high = axes.get_ylim()
    assert all(upper - lower > 0.05 * (high - low) for lower, upper in zip(heights, heights[1:]))


@pytest.mark.slow
def test_a_frontier_is_run_shown_and_not_run_again(
    tmp_path: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    file = written(tmp_path, tiny_data, kinds=["trained", "untrained"], ways=1)
    picture = tmp_path / "front.png"
    assert main(["frontier", str(file), f"--plot={picture}"]) == 0
    said = capsys.readouterr().out
    assert "2 B: 16 x 1 bit, trained" in said and "of the teacher" in said and picture.stat().st_size > 1000
    assert main(["frontier", str(file)]) == 0
    assert "2 of 2 experiments are recorded" in capsys.readouterr().out
    assert (tmp_path / "records" / "frontier.svg").exists()


def test_a_picture_of_another_kind_is_refused_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["frontier", str(tmp_path / "absent.yaml"), "--plot=front.doc"]) == 2
    assert "must name a file that ends in .svg" in capsys.readouterr().err


def test_records_beside_are_looked_for_first(
    tmp_path: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["frontier", str(written(tmp_path, tiny_data)), f"--also={tmp_path / 'absent'}"]) == 2
    assert "There is no folder or file" in capsys.readouterr().err and not (tmp_path / "records").exists()


def test_what_is_not_there_yet_is_no_damaged_record(
    tmp_path: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["frontier", str(written(tmp_path, tiny_data)), "--dry=True"]) == 0
    said = capsys.readouterr().out
    assert "counts as missing" not in said and "0 of 7 experiments are recorded" in said


def test_models_that_are_alike_on_the_validation_split_alone_are_points_of_their_own() -> None:
    """As two runs of one experiment are, of a metric that few validation items hold apart."""
    twice = [coded("codes", 1, score, 0.4, 3.0, compress_method="quantized") for score in (0.35, 0.36)]
    (frontier,) = frontiers_of(twice)
    assert [one.among for one in frontier.points] == [2]


def test_of_several_teachers_it_is_what_they_are_together() -> None:
    (frontier,) = frontiers_of([RunRecord.from_json(rich())])
    assert frontier.teacher is not None and frontier.teacher.label == "Ensemble of all teachers"
    lines = [[cell.text for cell in row] for row in frontier_table(frontier).rows]
    assert lines[0][1:5] == ["Ensemble of all teachers", "1", "0.5000", "100 %"] and lines[1][4] == "80 %"


def test_a_picture_that_cannot_be_written_is_refused_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.svg").mkdir()
    for place, words in (("file/front.svg", "Choose another place."), ("folder.svg", "is a folder.")):
        assert main(["frontier", str(tmp_path / "absent.yaml"), f"--plot={tmp_path / place}"]) == 2
        assert words in capsys.readouterr().err


def test_without_a_validation_split_nothing_can_be_chosen(tmp_path: Path, tiny_data: Path) -> None:
    file = written(tmp_path, tiny_data)
    with pytest.raises(OptionError, match="chosen on the validation split, and eval_args leaves none"):
        read_frontier(file, ["--eval_args={split: {RS: [0.8, 0.0, 0.2]}}"])


@pytest.mark.parametrize("bits", [None, "2"])
def test_bits_that_are_no_number_are_none(bits: Any) -> None:
    (frontier,) = frontiers_of([coded("de", 1, 0.4, 0.4, 16.0, student_bits=bits, user_bits=bits)])
    assert [one.family for one in frontier.points] == ["distilled"]
