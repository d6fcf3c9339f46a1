"""The words' side of an assembly: a fast tokenizer with the placeholders, and the chat template.

Vicuna ships a sentencepiece model only. Its ids are the meaning of the weights, so the conversion must not
change one. transformers' own conversion orders merges by token id; sentencepiece orders them by score, and in
LLaMA's model the runs of blanks (and every single character) have low ids but the lowest scores. Every line
that holds two blanks in a row would come out differently.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rgpt.errors import InputError
from rgpt.hub import open_pretrained
from rgpt.model.answer_form import AnswerForm
from rgpt.model.assemble_sources import Source
from rgpt.model.conversation import chat_template
from rgpt.model.processing_regiongpt import add_placeholders

BLANK = "▁"
_PROBES = (
    "What is the object in <region1>?", "  two  leading blanks", " ", BLANK + "mark",
    "1 + 2 = 3, 50% & café naïve 日本 🙂 \u200b\u3000", "\ttab\n\n  new lines \r\n", "<0x0A> <unk",
    "def f(x):\n        return [0.123, x ** 2]  # code", "ﬁ ½ é e\u0301 \x01", " ".join(map(str, range(60))),
)  # fmt: skip


def fast_from_sentencepiece(model_file: Path, settings: dict[str, Any] | None = None) -> Any:
    """A fast tokenizer with the ids of a sentencepiece BPE model, checked against sentencepiece itself.

    Every stretch of text between special tokens gets sentencepiece's leading blank, as when each were encoded
    alone: how LLaVA writes its training text (it splits at `<image>`), and what its tokenizer.json does [D].

    Args:
        settings: `tokenizer_config.json`; `add_bos_token`, `model_max_length` are read.

    Raises:
        InputError: when the model is none, is not BPE, or a probe text comes out differently.
    """
    import sentencepiece

    try:
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    except (OSError, RuntimeError) as error:
        raise InputError(f"{model_file} is no sentencepiece model ({error}): copy it again.") from error
    count = pieces.get_piece_size()
    vocabulary = {pieces.id_to_piece(i): i for i in range(count)}
    merges = []
    for piece, i in vocabulary.items():
        if pieces.is_control(i) or pieces.is_unknown(i) or pieces.is_byte(i):
            continue
        for k in range(1, len(piece)):
            left, right = vocabulary.get(piece[:k]), vocabulary.get(piece[k:])
            if left is not None and right is not None:
                # The highest score is merged first; ties, which only runs of blanks have, by id: the probes
                # below hold every length of run.
                merges.append((-pieces.get_score(i), i, left, right))
    names = list(vocabulary)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=[(names[left], names[right]) for *_, left, right in sorted(merges)],
            unk_token=pieces.id_to_piece(pieces.unk_id()),
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    for probe in (*_PROBES, *("a" + " " * count + "b" for count in range(1, 130))):
        if tokenizer.encode(probe, add_special_tokens=False).ids != pieces.encode(probe):
            raise InputError(
                f"{model_file} cannot become a fast tokenizer without changing ids (first at {probe!r}): "
                "give a checkpoint with a tokenizer.json."
            )
    return _wrapped(tokenizer, pieces, settings or {})


def _wrapped(tokenizer: Tokenizer, pieces: Any, settings: dict[str, Any]) -> Any:
    special = {}
    for name in ("unk", "bos", "eos", "pad"):
        number = getattr(pieces, f"{name}_id")()
        if number >= 0:
            special[f"{name}_token"] = pieces.id_to_piece(number)
    bos = special.get("bos_token")
    if bos and settings.get("add_bos_token", True):
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A {bos}:1 $B:1",
            special_tokens=[(bos, pieces.bos_id())],
        )
    length = settings.get("model_max_length")
    more = {"model_max_length": int(length)} if isinstance(length, (int, float)) and length < 1e9 else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special, **more
    )


def load_tokenizer(source: Source) -> Any:
    """The fast tokenizer of a checkpoint, with exactly its ids.

    `tokenizer.json` is taken as it is: tokenizer classes of transformers 5 may rebuild their own pipeline
    around its vocabulary. A lone sentencepiece model is converted here.
    """
    settings = source.json("tokenizer_config.json")
    if (source.folder / "tokenizer.json").is_file():
        kind: Any = PreTrainedTokenizerFast
    elif (source.folder / "tokenizer.model").is_file():
        return fast_from_sentencepiece(source.folder / "tokenizer.model", settings)
    else:
        kind = AutoTokenizer
    try:
        return open_pretrained(kind, source.folder)
    except InputError as error:
        if error.__cause__ is None:
            raise
        reason = str(error.__cause__).strip().split("\n")[0]
        raise InputError(
            f"the tokenizer of {source.name} cannot be read ({reason}): copy it again."
        ) from error


def with_placeholders(tokenizer: Any, label: str, image_token: str, region_token: str) -> tuple[int, int]:
    """Add what is missing; returns the ids of the image and of the region placeholder.

    Raises:
        InputError: the region placeholder is there already: its rows were trained for something else.
    """
    taken = tokenizer.get_vocab().get(region_token)
    if taken is not None:
        raise InputError(
            f"the tokenizer of {label} already has {region_token} (id {taken}): if it is a RegionGPT open it "
            "as it is, else choose another placeholder with --region-token."
        )
    known = set(tokenizer.get_vocab())
    add_placeholders(tokenizer, image_token, region_token)
    if image_token in known:
        number = tokenizer.get_vocab()[image_token]
        special = tokenizer.added_tokens_decoder.get(number)
        if special is None or not special.special:
            raise InputError(
                f"{image_token} is an ordinary word of the tokenizer of {label}: "
                "make it a special token of the checkpoint first."
            )
    ids = tokenizer.get_vocab()
    return ids[image_token], ids[region_token]


def choose_template(source: Source, tokenizer: Any, name: str | None) -> str:
    """Name of one of our templates, or the source's own Jinja text.

    The source's own is taken when it marks the assistant's words (`{% generation %}`), which labels need;
    else the family is told by its turn tokens.
    """
    if name is not None:
        chat_template(name)  # a wrong name is told before anything is written
        return name
    own = _own_template(source)
    if own and "{% generation" in own.replace("{%-", "{%"):
        return own
    tokens = tokenizer.get_vocab()
    if {"<|im_start|>", "<|im_end|>"} <= set(tokens):
        return "qwen"
    if {"<|start_header_id|>", "<|eot_id|>"} <= set(tokens):
        return "llama-3"
    if tokenizer.eos_token == "</s>":
        return "vicuna"
    raise InputError(
        f"the chat template of {source.name} cannot be told from its tokens: give --chat-template vicuna, "
        "llama-3, qwen or lines."
    )


def _own_template(source: Source) -> str | None:
    path = source.folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        template = source.json(name).get("chat_template")
        if isinstance(template, str):
            return template
    return None


def end_ids(tokenizer: Any, template: str, given: Any) -> list[int]:
    """Ids that end an answer: the source's own, and those that the template ends answers with.

    Raises:
        InputError: the tokenizer spells the template's end out, so that generation could not stop at it.
    """
    found = [given] if isinstance(given, int) else list(given or [])
    form = AnswerForm.of(tokenizer, template)
    if len(form.end) > 1:
        raise InputError(
            f"the chat template ends an answer with {tokenizer.decode(list(form.end))!r}, for which the "
            "tokenizer has no token of its own: choose another with --chat-template."
        )
    for number in (*sorted(form.stops), tokenizer.eos_token_id):
        if number is not None and number not in found:
            found.append(number)
    return found
