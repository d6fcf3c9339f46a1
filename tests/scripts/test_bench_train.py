"""The training benchmark times what it says: both models take the same samples, parts add up."""

from __future__ import annotations

import torch

from scripts.bench_train import PARTS, configurations, make_models, make_samples


def test_every_configuration_takes_a_step() -> None:
    models = make_models(cuda=False)
    samples = make_samples(models[0], 6)
    assert [bool(sample.pictures) for sample in samples] == [False, True, True, True, False, True]
    again = make_samples(models[0], 6)
    assert all(torch.equal(a.input_ids, b.input_ids) for a, b in zip(samples, again, strict=True))
    ours, llava = configurations(*models, samples, cuda=False)
    before = [model.get_input_embeddings().weight.detach().clone() for model in models]
    for config in [*ours, *llava]:
        parts = config.step(samples)
        assert set(parts) == set(PARTS) and all(seconds >= 0 for seconds in parts.values())
    for model, weight in zip(models, before, strict=True):
        assert not torch.equal(model.get_input_embeddings().weight, weight)


def test_both_models_have_the_same_size() -> None:
    ours, llava = make_models(cuda=False)
    for part in ("vision_tower", "language_model"):
        sizes = [sum(p.numel() for p in getattr(model.model, part).parameters()) for model in (ours, llava)]
        assert sizes[0] == sizes[1]
    assert ours.config.image_tokens == 36
