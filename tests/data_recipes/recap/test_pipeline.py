"""RecapD as a whole: input → journal → scores → samples, on the fake endpoint and with `tiny`."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_recipes import shapes, validate
from data_recipes.recap.__main__ import STOPPED, main
from data_recipes.recap.clip_score import ClipScorer, score, sentences
from data_recipes.recap.run import Settings
from rgpt.data.scenes import draw_scene
from rgpt.data.schema import read_jsonl
from rgpt.errors import InputError
from rgpt.journal import read_journal
from tests.data_recipes.recap.conftest import make_input
from tests.data_recipes.recap.fake_endpoint import FAULTS, PATIENCE, TIMEOUT, FakeEndpoint


def command(source: Path, out: Path, endpoint: FakeEndpoint, *more: str) -> list[str]:
    return [
        *("run", str(source), "--backend", f"openai:fake@{endpoint.url}", "--out", str(out)),
        *("--max-tokens", "60", "--timeout", str(PATIENCE), "--backoff", "0.01", *more),
    ]


def regions_of(out: Path) -> dict[str, dict[str, Any]]:
    found = [r for path in sorted(out.glob("journal-*")) for r in read_journal(path) if r["kind"] == "region"]
    by_id = {record["id"]: record for record in found}
    assert len(by_id) == len(found), "a region was finished twice"
    return by_id


def test_what_is_no_caption_is_recorded_as_what_it_is(tmp_path: Path) -> None:
    kinds = (
        "thing",
        "refused thing",
        "empty thing",
        "looping thing",
        "blocked thing",
        "bad thing",
        "copying thing",
    )
    source, out = make_input(tmp_path, 2, 14, kinds), tmp_path / "out"
    with FakeEndpoint() as endpoint:
        assert main(command(source, out, endpoint, "--max-tokens", "200", "--rephrasings", "2")) == 0
        asked = len(endpoint.requests)
        assert main(command(source, out, endpoint, "--max-tokens", "200", "--rephrasings", "2")) == 0
        assert len(endpoint.requests) == asked, "a finished run asks nothing"
    found = regions_of(out)
    by_name = {kind: Counter(r["status"] for r in found.values() if r["name"] == kind) for kind in kinds}
    assert by_name == {
        "thing": {"ok": 4},
        "refused thing": {"refused": 4},
        "empty thing": {"empty": 4},
        "looping thing": {"repeated": 4},
        "blocked thing": {"refused": 4},
        "bad thing": {"rejected": 4},
        "copying thing": {"ok": 2, "repeated": 2},  # the first of each picture is a caption
    }
    fine = [r for r in found.values() if r["name"] == "thing"]
    assert all(len({r["caption"], *r["rephrasings"]}) == 3 for r in fine)
    new = tmp_path / "samples"
    assert main(["samples", str(out), "--out", str(new), "--max-turns", "2"]) == 0
    answers = [turn.answer for sample in read_jsonl(new / "samples.jsonl") for turn in sample.turns]
    usable = [t for r in found.values() if r["status"] == "ok" for t in (r["caption"], *r["rephrasings"])]
    assert sorted(answers) == sorted(usable)
    report = json.loads((new / "report.json").read_text())
    assert report["regions_read"] == 28
    assert report["regions_dropped"] == {"refused": 8, "empty": 4, "repeated": 6, "rejected": 4}


def test_stage_two_is_told_the_caption_and_the_class(tmp_path: Path) -> None:
    source, out = make_input(tmp_path, 1, 3, ("baseball_bat",)), tmp_path / "out"
    with FakeEndpoint() as endpoint:
        assert main(command(source, out, endpoint, "--rephrasings", "1", "--concurrency", "1")) == 0
    asked = [request["messages"][0]["content"] for request in endpoint.requests]
    assert [[part["type"] for part in parts] for parts in asked] == [
        ["image_url", "text"],
        *[["image_url", "text"], ["text"]] * 3,
    ]
    for record in regions_of(out).values():
        (stage_two,) = [p[-1]["text"] for p in asked if record["picture_caption"] in p[-1]["text"]
                        and record["region"]["box"] is not None][:1]  # fmt: skip
        assert "baseball bat" in stage_two
        assert any(record["caption"] in parts[-1]["text"] for parts in asked), "it was rephrased"


def test_what_the_endpoint_does_not_take_is_in_the_journal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(request: dict[str, Any]) -> dict[str, Any] | None:
        if "temperature" not in request:
            return None
        return {"error": {"message": "Unsupported value", "param": "temperature"}}

    source, out = make_input(tmp_path, 1, 2), tmp_path / "out"
    with FakeEndpoint(refuse=refuse) as endpoint:
        first = command(source, out, endpoint, "--concurrency", "1", "--budget-tokens", "100000")
        assert main([*first, "--limit", "1"]) == 0
        assert len(endpoint.requests) == 1 + 3, "refused once, then remembered"
        journal = out / "journal-1-of-1.jsonl"
        records = list(read_journal(journal))
        changes = {"kind": "parameters", "backend": "openai:fake", "changed": {"temperature": None}}
        assert records.count(changes) == 1
        said = capsys.readouterr()
        assert "temperature is left out" in said.out and "does not take temperature" in said.err
        lines = journal.read_text().splitlines(keepends=True)
        last = next(n for n, record in enumerate(records) if record["kind"] == "answer")
        journal.write_text("".join(lines[: last + 1]))  # killed there
        endpoint.requests.clear()
        assert main(first) == 0
        assert not any("temperature" in request for request in endpoint.requests), "remembered by the journal"
    capsys.readouterr()
    assert main(["status", str(out)]) == 0
    status = json.loads(capsys.readouterr().out)[journal.name]
    assert status["parameters_not_taken"] == {"openai:fake": {"temperature": None}}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_failure_is_tried_again(tmp_path: Path, fault: str) -> None:
    source, out = make_input(tmp_path, 1, 2), tmp_path / "out"
    with FakeEndpoint(plan=(fault, "", fault)) as endpoint:
        more = ("--concurrency", "1", "--price", "1", "2", "--tries", "20")
        hurry = ("--timeout", str(TIMEOUT)) if fault == "timeout" else ()
        assert main(command(source, out, endpoint, *more, *hurry)) == 0
    # Each failed request was asked again, and nothing else. (Hurried on a busy machine, more may fail.)
    retried = len(endpoint.requests) - 3
    assert retried >= 2 if hurry else retried == (0 if fault == "slow" else 2)
    records = list(read_journal(out / "journal-1-of-1.jsonl"))
    failures = [record for record in records if record["kind"] == "failure"]
    assert len(failures) == retried
    charged = fault not in ("429", "500")
    assert all((record["cost"][2] > 0) == charged for record in failures), failures
    assert {r["status"] for r in regions_of(out).values()} == {"ok"}


def test_given_up_regions_are_left_for_the_next_run(tmp_path: Path) -> None:
    source, out = make_input(tmp_path, 1, 3), tmp_path / "out"
    with FakeEndpoint(plan=("", "", "500", "500")) as endpoint:
        arguments = command(source, out, endpoint, "--concurrency", "1", "--tries", "2")
        assert main(arguments) == STOPPED
        assert sorted(regions_of(out)) == ["record-0#1", "record-0#3"]
        assert main(arguments) == 0
    assert sorted(regions_of(out)) == ["record-0#1", "record-0#2", "record-0#3"]


@pytest.mark.parametrize(("fault", "requests"), [("401", 1), ("quota", 1), ("500", 6)])
def test_a_hopeless_endpoint_ends_the_run(tmp_path: Path, fault: str, requests: int, capsys: Any) -> None:
    source, out = make_input(tmp_path, 9, 1), tmp_path / "out"
    with FakeEndpoint({fault: 1.0}, plan=(fault,) * 50) as endpoint:
        more = ("--concurrency", "1", "--tries", "2", "--stop-after", "3")
        assert main(command(source, out, endpoint, *more)) == STOPPED
    assert len(endpoint.requests) == requests
    assert "the same command continues" in capsys.readouterr().err


def test_shards_share_nothing_and_make_one_whole(tmp_path: Path, capsys: Any) -> None:
    source, out = make_input(tmp_path, 10, 2), tmp_path / "out"
    with FakeEndpoint() as endpoint:
        for shard in ("1/3", "2/3"):
            assert main(command(source, out, endpoint, "--shard", shard)) == 0
        assert main(["samples", str(out), "--out", str(tmp_path / "a")]) == 2
        assert "3-of-3" in capsys.readouterr().err and not (tmp_path / "a").exists()
        assert main(command(source, out, endpoint, "--shard", "3/3", "--limit", "1")) == 0
        assert main(["samples", str(out), "--out", str(tmp_path / "a")]) == 2
        assert "run it again" in capsys.readouterr().err
        assert main(command(source, out, endpoint, "--shard", "3/3")) == 0
        assert len(endpoint.requests) == 10 + 20
    assert main(["samples", str(out), "--out", str(tmp_path / "a")]) == 0
    assert len(regions_of(out)) == 20
    assert sum(len(sample.regions) for sample in read_jsonl(tmp_path / "a" / "samples.jsonl")) == 20


def test_the_order_of_the_workers_does_not_show_in_the_samples(tmp_path: Path) -> None:
    source = make_input(tmp_path, 6, 3)
    made = []
    for workers, faults in (("1", {}), ("6", {"500": 0.2, "slow": 0.2})):
        out = tmp_path / f"out{workers}"
        with FakeEndpoint(faults) as endpoint:
            assert main(command(source, out, endpoint, "--rephrasings", "1", "--concurrency", workers)) == 0
        assert main(["samples", str(out), "--out", str(tmp_path / f"new{workers}")]) == 0
        made.append((tmp_path / f"new{workers}" / "samples.jsonl").read_bytes())
    assert made[0] == made[1]


def test_other_settings_are_refused_and_other_addresses_are_not(tmp_path: Path, capsys: Any) -> None:
    source, out = make_input(tmp_path, 1, 1), tmp_path / "out"
    with FakeEndpoint() as endpoint:
        assert main(command(source, out, endpoint)) == 0
        assert main(command(source, out, endpoint, "--seed", "1")) == 2
        assert "begun with seed 0" in capsys.readouterr().err
    with FakeEndpoint() as elsewhere:
        assert main(command(source, out, elsewhere, "--concurrency", "2", "--tries", "9")) == 0
    source.write_text(source.read_text().replace("thing", "other"))
    assert main(command(source, out, elsewhere)) == 2
    assert "input" in capsys.readouterr().err


def test_pictures_and_regions_that_cannot_be_used(tmp_path: Path) -> None:
    source, out = make_input(tmp_path, 3, 2), tmp_path / "out"
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:200])
    source.write_text(source.read_text().replace("[0, 4, 12, 30]", "[900, 4, 912, 30]"))
    with FakeEndpoint() as endpoint:
        assert main(command(source, out, endpoint)) == 0
    assert Counter(r["status"] for r in regions_of(out).values()) == {
        "ok": 2,
        "bad_region": 2,
        "bad_picture": 2,
    }


def test_a_dry_run_asks_nothing_and_says_the_price(tmp_path: Path, capsys: Any) -> None:
    source, out = make_input(tmp_path, 4, 5), tmp_path / "out"
    with FakeEndpoint() as endpoint:
        more = ("--dry-run", "--rephrasings", "2", "--price", "1000", "2000")
        assert main(command(source, out, endpoint, *more)) == 0
        told = capsys.readouterr().out
        assert not endpoint.requests and not out.exists()
        assert main(command(source, out, endpoint, "--rephrasings", "2", "--price", "1000", "2000")) == 0
        capsys.readouterr()
        assert main(command(source, out, endpoint, *more)) == 0
    assert re.findall(r"^(picture|region|rephrase) +(\d+)", told, re.MULTILINE) == [
        ("picture", "4"),
        ("region", "20"),
        ("rephrase", "40"),
    ]
    assert "[picture, 52 x 40 pixels]" in told and "price: about" in told
    again = capsys.readouterr().out
    assert "20 finished" in again and "price: about 0.0000" in again


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend", "tiny"], "backend"),
        (["--budget", "1"], "--price"),
        (["--concurrency", "0"], "--concurrency"),
        (["--rephrasings", "-1"], "--rephrasings"),
        (["--temperature", "nan"], "--temperature"),
        (["--style", "regions"], "--style"),
        (["--backend", "rgpt:tiny", "--rephrasings", "1"], "--rephrase-backend"),
        (["--shard", "3/2"], "--shard"),
        (["--tries", "0"], "--tries"),
    ],
)
def test_bad_options_are_one_line(tmp_path: Path, options: list[str], message: str, capsys: Any) -> None:
    source = make_input(tmp_path, 1, 1)
    with FakeEndpoint() as endpoint:
        assert main([*command(source, tmp_path / "out", endpoint), *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_picture_shared_by_two_records_is_described_once(tmp_path: Path) -> None:
    source, out = make_input(tmp_path, 1, 2), tmp_path / "out"
    line = source.read_text()
    source.write_text(line + line.replace("record-0", "record-1"))
    with FakeEndpoint() as endpoint:
        assert main(command(source, out, endpoint)) == 0
    assert len(endpoint.requests) == 1 + 4 and len(regions_of(out)) == 4


def test_placeholders_never_reach_the_samples(tmp_path: Path) -> None:
    source, out = make_input(tmp_path, 1, 3), tmp_path / "out"
    with FakeEndpoint() as endpoint:
        assert main(command(source, out, endpoint)) == 0
    journal = out / "journal-1-of-1.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for line, text in zip(
        (x for x in lines if x["kind"] == "region"), ("See <region9>.", "An <image> of it."), strict=False
    ):
        line["caption"] = text
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["samples", str(out), "--out", str(tmp_path / "new")]) == 0
    (sample,) = read_jsonl(tmp_path / "new" / "samples.jsonl")
    assert len(sample.turns) == 1


# ------------------------------------------------------------------------------------------------- CLIP


class Redness:
    """Ten lines of CLIP: how much a text says "red" against how red the close-up is."""

    def cosines(self, pictures: list[Image.Image], texts: list[list[str]]) -> list[list[float]]:
        return [
            [1.0 if ("red" in text) == (picture.getpixel((0, 0))[0] > 128) else 0.0 for text in some]
            for picture, some in zip(pictures, texts, strict=True)
        ]


def test_captions_that_do_not_fit_are_left_out(tmp_path: Path, capsys: Any) -> None:
    source, out = make_input(tmp_path, 2, 4), tmp_path / "out"
    with FakeEndpoint() as endpoint:
        assert main(command(source, out, endpoint)) == 0
    assert main(["samples", str(out), "--out", str(tmp_path / "a"), "--min-clip", "0.5"]) == 2
    assert "score" in capsys.readouterr().err
    scored = score(out, Redness(), "redness", batch=3)
    assert scored == 8 and score(out, Redness(), "redness") == 0, "scores are kept"
    with pytest.raises(InputError, match="model"):
        score(out, Redness(), "another")
    scores = [record["score"] for record in list(read_journal(out / "scores.jsonl"))[1:]]
    assert set(scores) == {0.0, 1.0}
    assert main(["samples", str(out), "--out", str(tmp_path / "a"), "--min-clip", "0.5"]) == 0
    kept = sum(len(sample.regions) for sample in read_jsonl(tmp_path / "a" / "samples.jsonl"))
    assert kept == scores.count(1.0)


def test_a_clip_from_a_folder_gives_the_cosines_of_its_own_features(tmp_path: Path, capsys: Any) -> None:
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    from tests.model.tiny_models import VIT, make_picture, make_tokenizer

    torch.manual_seed(0)
    text = {"vocab_size": 160, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 77, "eos_token_id": 2}
    config = CLIPConfig(text_config=text, vision_config=VIT, projection_dim=8)
    model = CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 77
    images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = CLIPProcessor(images, tokenizer)
    processor.save_pretrained(tmp_path)
    pictures = [make_picture(1), make_picture(2)]
    texts = [["A dog.", "It is brown and has a very long description " * 4], ["A cat."]]
    found = ClipScorer(tmp_path).cosines(pictures, texts)
    flat = [t for some in texts for t in some]
    batch = processor(text=flat, images=pictures, return_tensors="pt", padding=True, truncation=True)
    with torch.inference_mode():
        expected = model(**batch).logits_per_image / model.logit_scale.exp()
    assert found[0] == pytest.approx(expected[0, :2].tolist(), abs=1e-5)
    assert found[1] == pytest.approx(expected[1, 2:].tolist(), abs=1e-5)
    assert main(["score", str(tmp_path / "none"), "--clip", str(tmp_path / "nothing")]) == 2
    assert "CLIP folder" in capsys.readouterr().err


def test_sentences() -> None:
    assert sentences("A dog. It is 1.5 m long! Yes?") == ["A dog.", "It is 1.5 m long!", "Yes?"]
    assert sentences("no stop") == ["no stop"] and sentences("…") == ["…"]


# -------------------------------------------------------------------------------------------- end to end


def test_shapes_through_tiny_to_samples(tmp_path: Path) -> None:
    """Drawn scenes → captions by `tiny` → samples → validate; captions are checked against the truth."""
    first = 3_200_000_000
    scenes, out, new = tmp_path / "scenes", tmp_path / "recap", tmp_path / "samples"
    assert shapes.main(["--seed", str(first), "--count", "6", "--out", str(scenes)]) == 0
    run = ["run", str(scenes / "detections.jsonl"), "--backend", "rgpt:tiny", "--out", str(out)]
    assert main([*run, "--limit", "4"]) == 0
    begun = set(regions_of(out))
    assert main(run) == 0
    assert main(["samples", str(out), "--out", str(new)]) == 0
    found = regions_of(out)
    assert begun < set(found) and len(found) > 15
    assert validate.main([str(new / "samples.jsonl")]) == 0
    samples = list(read_jsonl(new / "samples.jsonl"))
    fine = {key: record for key, record in found.items() if record["status"] == "ok"}
    assert sum(len(sample.regions) for sample in samples) == len(fine) > 0.8 * len(found)
    right = 0
    for record in fine.values():
        seed = int(re.search(r"(\d{9,})", record["id"]).group(1))  # type: ignore[union-attr]
        scene = draw_scene(seed)
        assert record["name"] in {o.scene_object.shape for o in scene.objects}
        right += f" {record['name']} " in record["caption"].lower()
    assert right / len(fine) > 0.8, f"{right} of {len(fine)} captions name the class that the input names"


def test_settings_know_their_style(tmp_path: Path) -> None:
    assert Settings(tmp_path, tmp_path, "rgpt:tiny").prompt_style == "regions"
    assert Settings(tmp_path, tmp_path, "rgpt:tiny", style="recapd").prompt_style == "recapd"
    assert Settings(tmp_path, tmp_path, "openai:x@http://y").prompt_style == "recapd"


def test_a_local_vlm_goes_the_same_way(tmp_path: Path) -> None:
    """A random LLaVA babbles, and most of it is cut off: what it said is recorded, whatever it is worth."""
    from tests.test_backends import save_llava

    model = tmp_path / "llava"
    save_llava(model)
    source, out = make_input(tmp_path, 2, 2), tmp_path / "out"
    run = ["run", str(source), "--backend", f"local:{model}", "--out", str(out), "--max-tokens", "12"]
    assert main(run) == 0
    records = list(read_journal(out / "journal-1-of-1.jsonl"))
    said = {record["key"]: record["text"] for record in records if record["kind"] == "answer"}
    assert {"picture:0.png", "picture:1.png"} <= set(said)
    found = regions_of(out)
    assert len(found) == 4
    asked = {key: record for key, record in found.items() if record["status"] != "no_context"}
    assert {f"region:{key}" for key in asked} == {key for key in said if key.startswith("region")}
    assert all(record["caption"] == said[f"region:{key}"] for key, record in asked.items())


@pytest.mark.parametrize("seed", [1, 2])
def test_the_budget_holds_when_answers_are_paid_for_and_lost(tmp_path: Path, seed: int, capsys: Any) -> None:
    source, out = make_input(tmp_path, 10, 6), tmp_path / "out"
    lost = dict.fromkeys(("malformed", "html", "no choices", "disconnect", "half"), 0.09)
    with FakeEndpoint(lost, seed=seed) as endpoint:
        priced = command(source, out, endpoint, "--price", "1", "2", "--image-tokens", "300")
        for budget in (0.01, 0.02):
            assert main([*priced, "--budget", str(budget)]) == STOPPED
            assert 0.2 * budget < endpoint.money <= budget
            assert "the budget is reached" in capsys.readouterr().err
        assert main([*priced, "--budget-tokens", "1000"]) == STOPPED, "more than that was spent before"
        asked = len(endpoint.requests)
        assert main([*priced, "--budget-tokens", "20000"]) == STOPPED and len(endpoint.requests) > asked
        assert endpoint.prompt_tokens + endpoint.completion_tokens <= 20000
