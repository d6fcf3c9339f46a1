"""Folders that name their base: opened everywhere a model is, equal to what PEFT makes of them, and refused
in one sentence where the base is not the one they were trained on."""

from __future__ import annotations

import json
import shutil
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from eval import run as eval_run
from rgpt import cli
from rgpt.chat import ChatSession
from rgpt.errors import InputError
from rgpt.model import bases, load
from rgpt.model.about import About, read_about, write_about
from rgpt.model.bases import base_for, lineage, model_digest, write_base
from rgpt.model.loading import open_config, open_processor
from rgpt.regions import Box
from rgpt.train.adapters import add_adapters, merge_adapter
from rgpt.train.arguments import Lora
from tests.model.tiny_models import make_picture
from tests.serve.conftest import serving
from tests.train.little import little_model

WEIGHTS = "adapter_model.safetensors"


def little_adapter(folder: Path, base: Path | str, seed: int = 0, **changes: Any) -> Path:
    """An adapter as PEFT writes it, with random updates in place of trained ones."""
    model, _ = load(base, device="cpu")
    adapted: Any = add_adapters(model, Lora(rank=4, alpha=8))
    config = adapted.peft_config["default"]
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    for name, value in changes.items():
        setattr(config, name, value)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    write_base(folder, str(base), model_digest(bases.embedded(str(base)) or base))
    return folder


def little_delta(folder: Path, base: Path, by: float = 0.1, part: str = ".connector.") -> Path:
    folder.mkdir()
    changed = {n: v + by for n, v in load_file(base / "model.safetensors").items() if part in n}
    save_file(changed, folder / "model.safetensors", {"format": "pt"})
    write_base(folder, str(base), model_digest(base))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    little_model(folder / "base")
    little_adapter(folder / "adapter", folder / "base")
    little_delta(folder / "delta", folder / "base")
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    """A copy to damage: `base`, `adapter` and `delta`, side by side."""
    return shutil.copytree(made, tmp_path / "here")


def logits(model: Any, processor: Any) -> torch.Tensor:
    batch = processor(text="<image>\nIs <region1> red?", images=make_picture(), regions=[Box(3, 3, 20, 20)])
    with torch.no_grad():
        return model(**batch).logits


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(path, device="cpu", **options)
    said = str(caught.value)
    assert "\n" not in said and said.endswith(".")
    return said


# ---------------------------------------------------------------------------------------- equal answers


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merged_as_peft_merges(made: Path, tmp_path: Path, rslora: bool, dtype: str) -> None:
    from peft import PeftModel

    adapter = little_adapter(tmp_path / "adapter", made / "base", use_rslora=rslora)
    ours, processor = load(adapter, device="cpu", dtype=dtype)
    base, _ = load(made / "base", device="cpu", dtype=dtype)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    theirs: Any = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload().eval()
    own = ours.state_dict()
    assert own.keys() == theirs.state_dict().keys()
    assert all(torch.equal(value, own[name]) for name, value in theirs.state_dict().items())
    assert {name for name, value in before.items() if not torch.equal(value, own[name])} == {
        name
        for name in before
        if "refinement" in name
        or "connector" in name
        or (name.endswith("_proj.weight") and "language" in name)
    }
    assert torch.equal(logits(ours, processor), logits(theirs, processor))
    assert not ours.training


@pytest.mark.parametrize("layer", ["adapter", "delta"])
def test_merge_lora_writes_what_load_answers(made: Path, tmp_path: Path, layer: str) -> None:
    assert cli.main(["merge-lora", str(made / layer), "--out", str(tmp_path / "merged")]) == 0
    merged, opened = load(tmp_path / "merged", device="cpu"), load(made / layer, device="cpu")
    assert torch.equal(logits(*merged), logits(*opened))
    assert not torch.equal(logits(*opened), logits(*load(made / "base", device="cpu")))
    assert not (tmp_path / "merged" / "base.json").exists()


def test_a_layer_that_says_nothing_has_seen_what_its_base_has(here: Path, tmp_path: Path) -> None:
    write_about(here / "base", About("photographs", "x", ("dog",)))
    assert load(here / "adapter", device="cpu")[0].about == read_about(here / "base")
    assert read_about(merge_adapter(here / "adapter", tmp_path / "merged")) == read_about(here / "base")
    write_about(here / "delta", About("drawn scenes"))
    assert load(here / "delta", device="cpu")[0].about == About("drawn scenes")


def test_what_a_layer_has_seen_is_merged_too(made: Path, tmp_path: Path) -> None:
    delta = little_delta(tmp_path / "delta", made / "base")
    (delta / "about.json").write_text('{"pictures": "photographs", "vocabulary": "x", "names": ["dog"]}')
    merged = merge_adapter(delta, tmp_path / "merged")
    assert read_about(merged) == read_about(delta) == About("photographs", "x", ("dog",))


def test_a_layer_may_say_how_answers_are_decoded(made: Path, tmp_path: Path) -> None:
    delta = little_delta(tmp_path / "delta", made / "base")
    before = load(delta, device="cpu")[0].generation_config.to_dict()
    (delta / "generation_config.json").write_text('{"no_repeat_ngram_size": 3}')
    for folder in (delta, merge_adapter(delta, tmp_path / "merged")):
        after = load(folder, device="cpu")[0].generation_config.to_dict()
        assert after["no_repeat_ngram_size"] == 3
        assert after["eos_token_id"] == before["eos_token_id"]


def test_a_layer_on_a_layer_on_a_layer(made: Path, tmp_path: Path) -> None:
    first = little_delta(tmp_path / "first", made / "base", part="lm_head")
    second = little_adapter(tmp_path / "second", first, seed=1)
    third = little_adapter(tmp_path / "third", second, seed=2)
    root, layers = lineage(third)
    assert [layer.name for layer in layers] == ["first", "second", "third"] and Path(root).name == "base"
    step = merge_adapter(second, tmp_path / "step")
    by_hand = little_adapter(tmp_path / "by-hand", step, seed=2)
    shutil.copy(third / WEIGHTS, by_hand)
    assert torch.equal(logits(*load(third, device="cpu")), logits(*load(by_hand, device="cpu")))


def test_a_delta_that_is_replaced_whole_need_not_travel(made: Path, tmp_path: Path) -> None:
    """After stage 1, an adapter that holds the connector names what stage 1 began with."""
    base, delta = made / "base", made / "delta"
    assert Path(base_for(str(delta), ["connector"])[0]).samefile(base)
    assert base_for(str(delta), ["connector"])[1] == model_digest(base)
    assert base_for(str(delta), ["refinement"]) == (str(delta), model_digest(delta))
    assert base_for(str(made / "adapter"), ["connector"])[0] == str(made / "adapter")
    assert base_for("tiny", ["connector"])[0] == "tiny"
    on_delta = little_adapter(tmp_path / "on-delta", delta)
    expected = logits(*load(on_delta, device="cpu"))
    write_base(on_delta, *base_for(str(delta), ["refinement", "connector"]))
    assert len(lineage(on_delta)[1]) == 1
    assert torch.equal(logits(*load(on_delta, device="cpu")), expected)


# ---------------------------------------------------------------------------------------- every door


@pytest.fixture(scope="module")
def on_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter on the embedded model, far from any base folder."""
    return little_adapter(tmp_path_factory.mktemp("on-tiny") / "adapter", "tiny")


def chat(model: Path) -> str:
    return ChatSession.from_pretrained(str(model)).ask("Hello?", max_new_tokens=4)


def test_chat_and_session(on_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_picture().save(tmp_path / "p.png")
    session = ChatSession.from_pretrained(str(on_tiny), device="cpu")
    session.set_image(tmp_path / "p.png")
    session.add_region(Box(3, 3, 20, 20))
    expected = session.ask("What is <region1>?", max_new_tokens=8)
    words = ["--image", str(tmp_path / "p.png"), "--region", "box:3,3,20,20", "--ask", "What is <region1>?"]
    command = ["chat", "--model", str(on_tiny), *words, "--max-new-tokens", "8", "--json"]
    assert cli.main(command) == 0
    assert json.loads(capsys.readouterr().out)["turns"][0]["answer"] == expected
    assert json.loads((on_tiny / "base.json").read_text())["base"] == "tiny"


def test_the_server(on_tiny: Path) -> None:
    with serving("-m", "rgpt.cli", "serve", "--model", str(on_tiny), "--port", "0") as server:
        question = {"model": "rgpt", "messages": [{"role": "user", "content": "Hello?"}], "max_tokens": 4}
        request = urllib.request.Request(
            f"{server.url}/v1/chat/completions",
            json.dumps(question).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)["choices"][0]["message"]["content"]
    assert answer == chat(on_tiny)


def test_evaluation_tells_adapters_of_one_base_apart(on_tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["shapes", "--model", str(on_tiny), "--count", "1", "--out", str(out), "--no-sheet"]
    assert eval_run.main(command) == 0
    found = json.loads((out / "run.json").read_text())["revision"]
    other = little_adapter(tmp_path / "other", "tiny", seed=1)
    sessions = [SimpleNamespace(model=load(path)[0]) for path in (on_tiny, other)]
    for session in sessions:
        session.model.config._commit_hash = "of the base"
    assert eval_run.revision(sessions[0], str(on_tiny)) == found
    assert eval_run.revision(sessions[1], str(other)) != found


def test_the_other_doors(on_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from app.engine import ModelEngine
    from data_recipes.token_lengths import length_counter
    from rgpt.backends import open_backend
    from rgpt.model import RegionGPTProcessor

    assert cli.main(["info", str(on_tiny), "--json"]) == 0
    ours = json.loads(capsys.readouterr().out)
    assert cli.main(["info", "tiny", "--json"]) == 0
    assert ours["parameters"] == json.loads(capsys.readouterr().out)["parameters"]
    assert open_config(on_tiny).merge_grid == open_config("tiny").merge_grid
    assert isinstance(open_processor(on_tiny), RegionGPTProcessor)
    assert length_counter(str(on_tiny))[1] == open_processor("tiny").max_length
    expected = load(on_tiny)[0].state_dict()
    for model in (ModelEngine.load(str(on_tiny)).model, open_backend(f"rgpt:{on_tiny}").model):  # type: ignore[attr-defined]
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


# ---------------------------------------------------------------------------------------- which base


def test_folders_move_together_and_the_base_may_be_cut_anew(here: Path, made: Path, tmp_path: Path) -> None:
    expected = logits(*load(made / "adapter", device="cpu"))
    model, _ = load(here / "base", device="cpu")
    (here / "base" / "model.safetensors").unlink()
    model.save_pretrained(here / "base", max_shard_size="20KB")  # in many files
    config = json.loads((here / "base" / "config.json").read_text())
    config["transformers_version"] = "99"  # a newer library, with a setting more
    config["text_config"]["new_setting"] = 1
    (here / "base" / "config.json").write_text(json.dumps(config))
    assert torch.equal(logits(*load(here / "adapter", device="cpu")), expected)
    assert str(made) not in "".join(path.read_text() for path in (here / "adapter").glob("*.json"))


def change_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.connector.linear_1.bias"][3] += 1e-3
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def change_json(name: str, **changes: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**values, **changes}))

    return change


@pytest.mark.parametrize(
    "change",
    [
        change_weight,
        change_json("config.json", vision_feature_layer=-1),
        change_json("processor_config.json", region_mention="<region>"),
        lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
    ],
    ids=["weight", "config", "processor", "template"],
)
@pytest.mark.parametrize("layer", ["adapter", "delta"])
def test_another_base_is_refused(here: Path, change: Callable[[Path], object], layer: str) -> None:
    change(here / "base")
    assert "expected the model it was trained on (digest" in refusal(here / layer)
    with pytest.raises(InputError, match="digest"):
        merge_adapter(here / layer, here / "merged", str(here / "base"))  # given by hand, and still another
    assert not (here / "merged").exists()


def test_every_piece_of_a_large_tensor_that_is_read_counts(tmp_path: Path, here: Path) -> None:
    base, large = here / "base", torch.zeros(3, bases.WHOLE)
    small = load_file(base / "model.safetensors")
    found = set()
    for spot in (None, 0, large.numel() // 2, large.numel() - 1, 100):
        tensor = large.clone()
        if spot is not None:
            tensor.view(-1)[spot] = 1.0
        save_file({**small, "large": tensor}, base / "model.safetensors", {"format": "pt"})
        found.add(model_digest(base))
    assert len(found) == 5


def test_a_base_that_moved_is_given_by_hand(here: Path) -> None:
    (here / "base").rename(here / "elsewhere")
    said = refusal(here / "adapter")
    assert "expected a model at '../base'" in said and "merge-lora and --base" in said
    merged = merge_adapter(here / "adapter", here / "merged", str(here / "elsewhere"))
    opened = load(here / "adapter", device="cpu", base=here / "elsewhere")
    assert torch.equal(logits(*load(merged, device="cpu")), logits(*opened))


def test_an_adapter_of_another_program(here: Path) -> None:
    (here / "adapter" / "base.json").unlink()
    assert "expected base.json, which names its base" in refusal(here / "adapter")
    with pytest.raises(InputError, match="give --base"):
        merge_adapter(here / "adapter", here / "merged")
    change_json("adapter_config.json", base_model_name_or_path=str(here / "base"))(here / "adapter")
    assert merge_adapter(here / "adapter", here / "merged").is_dir()


def test_circles(here: Path) -> None:
    write_base(here / "adapter", str(here / "delta"), "0")
    write_base(here / "delta", str(here / "adapter"), "0")
    for layer in ("adapter", "delta"):
        assert "leads back to its own folder" in refusal(here / layer)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "is no JSON"),
        ("[]", "holds list, not an object"),
        ('{"base": "x"}', "expected the texts base and digest, got base"),
        ('{"base": "x", "digest": 1}', "expected the texts base and digest"),
        ('{"base": "x", "digest": "0", "more": ""}', "expected the texts base and digest"),
        ('{"base": "nowhere", "digest": "0"}', "expected a model at 'nowhere'"),
        ('{"base": "../nowhere", "digest": "0"}', "expected a model at '../nowhere'"),
        ('{"base": ".", "digest": "0"}', "leads back"),
    ],
)
def test_a_bad_base_file(here: Path, text: str, match: str) -> None:
    (here / "adapter" / "base.json").write_text(text)
    assert match in refusal(here / "adapter")


def test_a_hub_id_and_a_fetched_base(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = logits(*load(here / "adapter", device="cpu"))
    asked = []
    away = (here / "base").rename(here / "away")

    def download(name: str, **settings: Any) -> str:
        asked.append((name, settings["revision"]))
        return str(away)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    digest = model_digest(away)
    write_base(here / "adapter", "owner/name@v1", digest)
    assert torch.equal(logits(*load(here / "adapter", device="cpu")), expected)
    assert asked == [("owner/name", "v1")]
    module = SimpleNamespace(ensure_base=lambda progress=True: away, base_digest=lambda: digest)
    monkeypatch.setitem(sys.modules, "rgpt.model.photo_base", module)
    write_base(here / "adapter", "package:photo", digest)
    assert torch.equal(logits(*load(here / "adapter", device="cpu")), expected)
    monkeypatch.setitem(bases.PACKAGED, "photo", here / "adapter")
    assert torch.equal(logits(*load("photo", device="cpu")), expected)
    assert torch.equal(logits(*load("package:photo", device="cpu")), logits(*load(away, device="cpu")))


# ---------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"use_dora": True}, "use_dora = True"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern"),
        ({"lora_bias": True}, "lora_bias"),
        ({"some_future_feature": {"x": 1}}, "some_future_feature"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa'"),
        ({"peft_type": "IA3"}, "peft_type = 'IA3'"),
        ({"r": None}, "numbers r and lora_alpha"),
        ({"r": 8}, "another rank than r = 8"),
        ({"target_modules": ["q_proj", "linear_1"]}, "lacks model.connector.linear_1"),
        ({"modules_to_save": ["connector", "lm_head"]}, "lacks lm_head.weight"),
    ],
)
def test_other_features_of_peft_are_refused(here: Path, changes: dict[str, Any], match: str) -> None:
    change_json("adapter_config.json", **changes)(here / "adapter")
    assert match in refusal(here / "adapter")


def rewrite(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def apply(file: Path) -> None:
        tensors = load_file(file)
        save_file(change(tensors) or tensors, file)

    return apply


Q = "base_model.model.model.language_model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-9]), "cannot be read"),
        (lambda file: file.unlink(), "expected adapter_model.safetensors, got none"),
        (rewrite(lambda t: {n: v for n, v in t.items() if n != f"{Q}.lora_A.weight"}), "lacks"),
        (rewrite(lambda t: {n: v for n, v in t.items() if n != f"{Q}.lora_B.weight"}), "lacks"),
        (rewrite(lambda t: {n: v for n, v in t.items() if "linear_2.bias" not in n}), "lacks"),
        (rewrite(lambda t: {**t, f"{Q}.lora_magnitude_vector": torch.ones(1)}), "only LoRA of linear layers"),
        (rewrite(lambda t: {n.replace("q_proj", "query"): v for n, v in t.items()}), "lacks"),
        (rewrite(lambda t: {**t, "base_model.model.roberta.weight": torch.ones(1)}), "another kind of model"),
        (
            rewrite(lambda t: {**t, f"{Q}.lora_B.weight": torch.ones(7, 4)}),
            "expected the base's shape [32, 32]",
        ),
    ],
)
def test_damaged_adapters(here: Path, damage: Callable[[Path], object], match: str) -> None:
    damage(here / "adapter" / WEIGHTS)
    assert match in refusal(here / "adapter")


def test_a_layer_of_another_shape(here: Path, tmp_path: Path) -> None:
    other = little_model(tmp_path / "other", refinement="none")
    write_base(here / "adapter", str(other), model_digest(other))
    assert "changes model.refinement" in refusal(here / "adapter")
    write_base(here / "delta", str(other), model_digest(other))
    save_file({"model.connector.linear_1.bias": torch.ones(5)}, here / "delta" / "model.safetensors")
    assert "expected the base's shape [32], got [5]" in refusal(here / "delta")


def test_quantised_loading_names_the_way(here: Path) -> None:
    assert "rgpt merge-lora" in refusal(here / "adapter", bits=8)


def test_an_embedded_model_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(bases.PACKAGED, "photo", tmp_path)
    with pytest.raises(InputError, match="train_photo"):
        load("photo")
