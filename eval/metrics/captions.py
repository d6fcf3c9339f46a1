"""BLEU, METEOR, ROUGE-L and CIDEr by pycocoevalcap, after its own PTB tokeniser.

METEOR and the tokeniser are Java programs that pycocoevalcap carries; `require_java` is asked before any
work. SPICE is not computed (its models would have to be downloaded).
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rgpt.errors import InputError

Captions = Mapping[Any, Sequence[str]]


def require_java() -> None:
    """Raises InputError, with what to install, unless `java` runs."""
    hint = "install one (Debian: apt install openjdk-17-jre-headless) and put it on the PATH"
    java = shutil.which("java")
    if java is None:
        raise InputError.about("METEOR and the PTB tokeniser", "a Java runtime", "no java on the PATH", hint)
    ran = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    if ran.returncode:
        said = (ran.stderr or ran.stdout).strip().partition("\n")[0][:80]
        raise InputError.about("METEOR and the PTB tokeniser", "a Java runtime", f"{java}: {said}", hint)


def tokenise(captions: Captions) -> dict[Any, list[str]]:
    """Lower-case PTB tokens without punctuation, joined by blanks; ids and order stay.

    The jar and the list of punctuation are pycocoevalcap's. Its own wrapper is not called: it writes a file
    into site-packages, and it loses step when a caption holds a line break other than \\n (U+2028, \\r) or
    when the last one is empty, so that captions silently slip to other ids.
    """
    from pycocoevalcap.tokenizer import ptbtokenizer

    flat = [" ".join(caption.split()) for listed in captions.values() for caption in listed]
    spoken = [caption for caption in flat if caption]
    jar = Path(ptbtokenizer.__file__).parent / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR
    tokens: list[str] = []
    if spoken:
        # Without the encoding, Java reads and writes in that of the locale.
        command = ["java", "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-cp", str(jar)]
        command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
        ran = subprocess.run(
            command, input="\n".join(spoken).encode() + b"\n", capture_output=True, check=False
        )
        tokens = ran.stdout.decode().removesuffix("\n").split("\n")
        if ran.returncode or len(tokens) != len(spoken):
            said = ran.stderr.decode(errors="replace").strip()[-200:]
            raise RuntimeError(f"the PTB tokeniser gave {len(tokens)} lines for {len(spoken)}: {said}")
    lines = iter(tokens)
    dropped = set(ptbtokenizer.PUNCTUATIONS)
    plain = iter(
        " ".join(word for word in next(lines).split(" ") if word and word not in dropped) if caption else ""
        for caption in flat
    )
    return {id_: [next(plain) for _ in listed] for id_, listed in captions.items()}


def caption_scores(
    references: Captions, hypotheses: Mapping[str, str], tokenised: bool = False
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Corpus scores, and the same for each item (CIDEr, METEOR, ROUGE_L).

    Args:
        references: one or more for each id. Their order is the order of the sums, whatever that of
        `hypotheses`.
        hypotheses: one for each id of `references`; the empty string stands for an item that failed.
        tokenised: both are tokenised already.

    Returns:
        `Bleu_1` to `Bleu_4`, `METEOR`, `ROUGE_L`, `CIDEr` (CIDEr-D, times 10 as published; its idf is that of
        these references, so it is 0 for a single item and moves with the subset); and rows by id.

    Raises:
        InputError: there is no Java. ValueError: the ids differ.
    """
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    require_java()
    if references.keys() != hypotheses.keys():
        raise ValueError("references and hypotheses have different ids")
    expected = {id_: list(listed) for id_, listed in references.items()}
    said = {id_: [hypotheses[id_]] for id_ in references}
    if not tokenised:
        keyed = {("expected", i): v for i, v in expected.items()} | {("said", i): v for i, v in said.items()}
        tokens = tokenise(keyed)  # one start of Java
        expected = {i: tokens["expected", i] for i in expected}
        said = {i: tokens["said", i] for i in said}
    with contextlib.redirect_stdout(io.StringIO()):  # BLEU prints lengths
        bleu, _ = Bleu(4).compute_score(expected, said, verbose=0)
    cider, each_cider = Cider().compute_score(expected, said)
    rouge, each_rouge = Rouge().compute_score(expected, said)
    meteor, each_meteor = meteor_scores(expected, said)
    scores = {f"Bleu_{n}": float(value) for n, value in enumerate(bleu, start=1)}
    scores |= {"METEOR": meteor, "ROUGE_L": float(rouge), "CIDEr": float(cider)}
    rows = zip(expected, np.asarray(each_cider), each_meteor, np.asarray(each_rouge), strict=True)
    return scores, {i: {"CIDEr": float(c), "METEOR": float(m), "ROUGE_L": float(r)} for i, c, m, r in rows}


def meteor_scores(
    expected: Mapping[Any, list[str]], said: Mapping[Any, list[str]]
) -> tuple[float, list[float]]:
    """METEOR 1.5 (`-l en -norm`): the corpus value from aggregated statistics, and one value an item."""
    # "|||" separates fields of METEOR's protocol; the wrapper removes it from hypotheses only.
    clean = {id_: [text.replace("|||", " ") for text in listed] for id_, listed in expected.items()}
    try:
        corpus, each = _meteor().compute_score(clean, {id_: list(said[id_]) for id_ in clean})
    except (ValueError, OSError) as error:  # the program died: its answer is empty
        stop_meteor()
        raise RuntimeError(f"METEOR gave no score: {error}") from error
    except BaseException:  # stopped half-way: answers that nobody read are still in the pipe
        stop_meteor()
        raise
    return float(corpus), [float(value) for value in each]


@functools.cache
def _meteor() -> Any:
    """METEOR's process. It reads its paraphrases for many seconds, so it is kept until this process ends."""
    from pycocoevalcap.meteor.meteor import Meteor

    atexit.register(stop_meteor)
    return Meteor()


def stop_meteor() -> None:
    """End METEOR's process (up to 2 GB) if there is one; the next score starts another."""
    if _meteor.cache_info().currsize:
        scorer = _meteor()
        if scorer.lock.locked():  # a failed compute_score leaves it taken, and __del__ waits for it
            scorer.lock.release()
        _meteor.cache_clear()
