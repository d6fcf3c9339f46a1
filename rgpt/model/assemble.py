"""Real checkpoints become a RegionGPT folder: LLaVA, a vision tower and a language model, or SpatialRGPT.

Three ways in, one way out: a way in reads configurations and headers and makes a `Plan`; `write_model` checks
every key against it and copies.

    assemble_llava         any LlavaForConditionalGeneration: exact, useful before any training [D]
    assemble_parts         CLIP + Vicuna, the paper's start: connector and refinement are new [P]
    assemble_spatialrgpt   the authors' later public weights, region extractor `regiongpt` [A]
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    TimmWrapperConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from rgpt.errors import InputError
from rgpt.hub import open_pretrained
from rgpt.model import assemble_keys as keys
from rgpt.model.assemble_head import check_head, text_prefixes
from rgpt.model.assemble_library import LibraryWeights, on_meta, published_class, resized_tower
from rgpt.model.assemble_openclip import PREFIX, open_clip_tower
from rgpt.model.assemble_plan import (
    Assembled,
    Options,
    Part,
    Plan,
    make_processor,
    prepare_text,
    refuse_existing,
    write_model,
)
from rgpt.model.assemble_sources import FileWeights, MemoryWeights, Source, find_source
from rgpt.model.assemble_text import choose_template, load_tokenizer
from rgpt.model.assemble_tower import default_output, patch_grid, picture_settings, token_grid, tower_output
from rgpt.model.configuration_regiongpt import RegionGPTConfig
from rgpt.model.feature_map import build_tower


def assemble_llava(name: str, out: str | Path, options: Options | None = None) -> Assembled:
    """A `LlavaForConditionalGeneration` checkpoint becomes a RegionGPT with the same image-only logits.

    The refinement is residual unless told otherwise: it starts as plain upsampling, merging back to the
    tower's own grid gives the tower's own map, and regions are pooled from vectors that LLaVA's connector
    knows [D].

    Args:
        name: folder or hub id, e.g. `llava-hf/llava-1.5-7b-hf`.
        out: a new folder.

    Raises:
        InputError: it is not LLaVA-shaped, or see `write_model`.
    """
    options = options or Options()
    _refuse_tower_options(options)
    refuse_existing(out)
    source = find_source(name)
    raw = source.config()
    if "mm_vision_tower" in raw:
        raise InputError(
            f"{name} is in the layout of the original LLaVA code: give its transformers form, "
            "such as llava-hf/llava-1.5-7b-hf."
        )
    if raw.get("model_type") != "llava" or not {"vision_config", "text_config"} <= set(raw):
        raise InputError(
            f"{name} is of type {raw.get('model_type')!r}, not a 'llava' with vision_config and text_config: "
            "give a LlavaForConditionalGeneration checkpoint, or use --vision and --llm."
        )
    llava: Any = _config(LlavaConfig, source)
    vision, text = llava.vision_config, llava.text_config
    layer, strategy = llava.vision_feature_layer, llava.vision_feature_select_strategy
    if not isinstance(layer, int):
        raise InputError(
            f"{name} joins the layers {list(layer)} of its tower: RegionGPT reads one layer, so only a "
            "checkpoint with a single vision_feature_layer can be taken."
        )
    pictures = picture_settings(source, vision)
    grid = patch_grid(tower_output(vision, pictures["image_size"], layer, name), strategy, name)
    tokenizer = load_tokenizer(source)
    generation = source.json("generation_config.json") or {"eos_token_id": text.eos_token_id}
    built = on_meta(lambda: LlavaForConditionalGeneration(deepcopy(llava)), name)
    part = Part(
        name,
        LibraryWeights(FileWeights(source.folder), built, name),
        keys.LLAVA,
        keys.COMPUTED,
        source,
        provides=[keys.TOWER, keys.LANGUAGE, keys.HEAD, keys.CONNECTOR],
    )
    template, ends, ids = prepare_text(source, tokenizer, text.vocab_size, generation, options)
    if ids["image_token_id"] != llava.image_token_index:
        raise InputError(
            f"{options.image_token} is token {ids['image_token_id']} in the tokenizer of {name} but "
            f"{llava.image_token_index} in its config.json: they do not belong together."
        )
    text.vocab_size = ids.pop("vocab_size")
    config = RegionGPTConfig(
        vision_config=vision,
        text_config=text,
        vision_feature_layer=layer,
        vision_feature_select_strategy=strategy,
        vision_grid=grid,
        merge_grid=options.merge_grid or grid,
        refinement=options.refinement or "residual",  # type: ignore[arg-type]
        connector_act=llava.projector_hidden_act,
        tie_word_embeddings=bool(llava.tie_word_embeddings or text.tie_word_embeddings),
        **ids,
    )
    plan = Plan(
        "llava",
        name,
        config,
        make_processor(config, tokenizer, template, pictures, options),
        [part],
        zero_bias=not llava.multimodal_projector_bias,
        ends=ends,
    )
    return write_model(plan, out, options)


def assemble_parts(vision: str, llm: str, out: str | Path, options: Options | None = None) -> Assembled:
    """A vision tower and a language model, joined by a new connector and refinement: the start of training.

    Args:
        vision: folder or hub id of a tower, or of a model around one (CLIP, SigLIP, a classifier), in
            transformers' or timm's layout; `open_clip:MODEL/TAG`.
        llm: folder or hub id of a causal language model.
        out: a new folder.

    Raises:
        InputError: either is something else, or see `write_model`.
    """
    options = options or Options()
    refuse_existing(out)
    tower, tower_config, pictures = _tower(vision, options.image_size)
    source = find_source(llm)
    text = _language_config(source)
    size = pictures["image_size"]
    if options.vision_layer is None:
        layer, output = default_output(tower_config, size, vision)
    else:
        layer = None if options.vision_layer == "last" else options.vision_layer
        output = tower_output(tower_config, size, layer, vision)
    tower.spare(output.unused)
    patch = getattr(tower_config, "patch_size", None)
    patches = size // patch if isinstance(patch, int) else None
    cells, strategy = token_grid(output, patches, vision)
    unit: int = patch if patch and cells == patches else -(-size // cells)
    if options.image_size and size != unit * cells:
        raise InputError(
            f"--image-size {size} does not divide into the patches of {vision}, {unit} pixels wide: "
            f"give a multiple, such as {max(1, round(size / unit)) * unit}."
        )
    words, head_bias = _language_part(source, text)
    tokenizer = load_tokenizer(source)
    generation = source.json("generation_config.json") or {"eos_token_id": text.eos_token_id}
    template, ends, ids = prepare_text(source, tokenizer, text.vocab_size, generation, options)
    text.vocab_size = ids.pop("vocab_size")
    config = RegionGPTConfig(
        vision_config=tower_config,
        text_config=text,
        vision_feature_layer=layer,
        vision_feature_select_strategy=strategy,
        vision_hidden_size=output.channels,
        vision_grid=cells,
        merge_grid=options.merge_grid,
        refinement=options.refinement or "deconv",  # type: ignore[arg-type]
        region_geometry=options.region_geometry,
        head_bias=head_bias,
        tie_word_embeddings=bool(text.tie_word_embeddings),
        **ids,
    )
    processor = make_processor(config, tokenizer, template, pictures, options)
    return write_model(
        Plan("parts", f"{vision} + {llm}", config, processor, [tower, words], ends=ends), out, options
    )


def _tower(name: str, size: int | None) -> tuple[Part, Any, dict[str, Any]]:
    """(weights, configuration, picture settings) of `--vision`, for pictures of `size` or its own size."""
    part, config, pictures = _published_tower(name)
    if size is not None:
        config, part.weights, part.resized = resized_tower(config, part.weights, size, name)
        pictures["image_size"] = size
    if pictures["image_size"] is None:
        raise InputError(
            f"{name} does not state its picture size: give --image-size, or copy its "
            "preprocessor_config.json beside it."
        )
    return part, config, pictures


def _published_tower(name: str) -> tuple[Part, Any, dict[str, Any]]:
    if name.startswith(PREFIX):
        config, weights, ignored, values = open_clip_tower(name)
        part = Part(
            name, MemoryWeights(weights), keys.VISION_TOWER, [], provides=[keys.TOWER], ignored=ignored
        )
        return part, config, {**values, "image_size": config.image_size}
    source = find_source(name)
    whole: Any = _config(AutoConfig, source)
    config = getattr(whole, "vision_config", whole)
    pictures = picture_settings(source, config)
    if isinstance(config, TimmWrapperConfig):
        # timm records the classes among the arguments of the model, which transformers gives by itself; and
        # the names of the classes, of which a tower has none.
        whole.model_args = {k: v for k, v in (whole.model_args or {}).items() if k != "num_classes"}
        config = TimmWrapperConfig(
            architecture=whole.architecture,
            model_args=whole.model_args,
            do_pooling=False,
            num_labels=0,
            image_size=pictures["image_size"],
        )
    return _tower_part(source, config, whole), config, pictures


def _tower_part(source: Source, config: Any, whole: Any) -> Part:
    """The weights of a tower of `config`, out of a checkpoint whose own configuration is `whole`."""
    tower = on_meta(lambda: build_tower(config), source.name)
    files = FileWeights(source.folder)
    weights = LibraryWeights(files, tower, source.name, published_class(whole, source.name))
    return Part(
        source.name,
        weights,
        keys.VISION_TOWER,
        keys.COMPUTED,
        source,
        provides=[keys.TOWER],
        ignored=weights.ignored,
        absent=[keys.TOWER + name for name in sorted(weights.absent)],
    )


def _language_part(source: Source, text: Any) -> tuple[Part, bool]:
    """The weights of a language model, and whether its head has a bias."""

    # From a copy: the vocabulary of `text` grows later, but not that of the checkpoint.
    def build() -> Any:
        return AutoModelForCausalLM.from_config(deepcopy(text))

    bias = check_head(on_meta(build, source.name), source.name)
    model = on_meta(build, source.name)
    weights = LibraryWeights(FileWeights(source.folder), model, source.name)
    part = Part(
        source.name,
        weights,
        text_prefixes(model),
        keys.COMPUTED,
        source,
        [keys.LANGUAGE, keys.HEAD],
        weights.ignored,
    )
    return part, bias


def _refuse_tower_options(options: Options) -> None:
    for name in ("image_size", "vision_layer", "region_geometry"):
        if getattr(options, name) not in (None, False):
            raise InputError(
                f"--{name.replace('_', '-')} goes with --vision: other checkpoints were trained with theirs."
            )


def _language_config(source: Source) -> Any:
    config: Any = _config(AutoConfig, source)
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or hasattr(config, "vision_config"):
        raise InputError(
            f"{source.name} is of type {config.model_type!r}, not a causal language model: "
            "give one such as lmsys/vicuna-7b-v1.5."
        )
    return config


def assemble_spatialrgpt(name: str, out: str | Path, options: Options | None = None) -> Assembled:
    """Weights of SpatialRGPT whose region extractor is `regiongpt` (profile `spatialrgpt`) [A].

    The folder holds `llm/`, `vision_tower/`, `mm_projector/` and `region_extractor/`. Its depth branch is
    left out. Two things differ from the authors' code, both [D]: pictures are padded to a square where theirs
    are stretched, and masks are weighed by area where theirs are resampled.

    Raises:
        InputError: a part is missing or of another kind, or see `write_model`.
    """
    options = options or Options()
    _refuse_tower_options(options)
    refuse_existing(out)
    source = find_source(name)
    raw = source.config()
    folders = {}
    for part in ("llm", "vision_tower", "mm_projector", "region_extractor"):
        if not (source.folder / part / "config.json").is_file():
            raise InputError(
                f"{name} has no {part}/config.json: a SpatialRGPT folder holds llm, vision_tower, "
                "mm_projector and region_extractor."
            )
        folders[part] = replace(source, name=f"{name}/{part}", folder=source.folder / part)
    _check_kind(folders["region_extractor"], "region_extractor_type", ["regiongpt"])
    connector = _check_kind(folders["mm_projector"], "mm_projector_type", list(keys.SPATIALRGPT_CONNECTOR))
    if raw.get("s2"):
        raise InputError(f"{name} reads pictures at several scales (s2), which RegionGPT does not.")
    layer = raw.get("mm_vision_select_layer", -2)
    strategy = {"cls_patch": "full", "patch": "default"}.get(raw.get("mm_vision_select_feature", "patch"))
    if strategy is None or not isinstance(layer, int):
        raise InputError(f"{name} selects vision features in an unknown way: {layer}, {strategy}.")

    whole: Any = _config(AutoConfig, folders["vision_tower"])
    vision = getattr(whole, "vision_config", whole)
    pictures = picture_settings(folders["vision_tower"], vision)
    output = tower_output(vision, pictures["image_size"], layer, name)
    grid = patch_grid(output, strategy, name)
    tower = _tower_part(folders["vision_tower"], vision, whole)
    tower.spare(output.unused)
    text = _language_config(folders["llm"])
    words, head_bias = _language_part(folders["llm"], text)
    tokenizer = load_tokenizer(folders["llm"])
    generation = folders["llm"].json("generation_config.json") or {"eos_token_id": text.eos_token_id}
    if options.region_mention is None:
        # The authors write the bare placeholder; these weights have never seen a number before it [A].
        options = replace(options, region_mention=options.region_token)
    plan_parts = [
        tower,
        words,
        *(
            Part(source.name, FileWeights(source.folder), prefixes, reasons, source, provides)
            for source, prefixes, reasons, provides in (
                (folders["mm_projector"], keys.SPATIALRGPT_CONNECTOR[connector], [], [keys.CONNECTOR]),
                (
                    folders["region_extractor"],
                    keys.SPATIALRGPT_REGIONS,
                    keys.DEPTH,
                    [keys.REFINEMENT, keys.PROJECTOR],
                ),
            )
        ),
    ]
    if options.chat_template is None and choose_template(folders["llm"], tokenizer, None) == "llama-3":
        options = replace(
            options, chat_template="spatialrgpt"
        )  # the words these weights were trained with [A]
    template, ends, ids = prepare_text(folders["llm"], tokenizer, text.vocab_size, generation, options)
    text.vocab_size = ids.pop("vocab_size")
    config = RegionGPTConfig(
        profile="spatialrgpt",
        vision_config=vision,
        text_config=text,
        vision_feature_layer=layer,
        vision_feature_select_strategy=strategy,  # type: ignore[arg-type]
        vision_grid=grid,
        merge_grid=options.merge_grid or 27,  # written into the authors' code [A]
        refinement="deconv",
        region_projector="linear",
        connector="mlp_downsample" if connector == "mlp_downsample" else "mlp",
        head_bias=head_bias,
        tie_word_embeddings=bool(text.tie_word_embeddings),
        **ids,
    )
    processor = make_processor(config, tokenizer, template, pictures, options)
    return write_model(Plan("spatialrgpt", name, config, processor, plan_parts, ends=ends), out, options)


def _check_kind(source: Source, key: str, known: list[str]) -> str:
    kind = source.config().get(key)
    if kind not in known:
        raise InputError(f"{source.name} has the {key} {kind!r}: only {' and '.join(known)} can be taken.")
    return str(kind)


def _config(kind: Any, source: Source) -> PreTrainedConfig:
    source.config()  # absent or broken: told in our words
    try:
        return open_pretrained(kind, source.folder)
    except Exception as error:  # strict configurations raise types of their own
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"the config.json of {source.name} cannot be used ({reason}).") from error


__all__ = ["Assembled", "Options", "assemble_llava", "assemble_parts", "assemble_spatialrgpt"]
