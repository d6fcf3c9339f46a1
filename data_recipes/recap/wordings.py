"""What is asked: ten wordings a stage, chosen by the region's id and the run's seed [D].

Stage 2 follows the paper's pattern, "in the context of the whole image, <caption>, describe the <class> in
the close-up in detail" [P]. A RegionGPT is asked in its own words instead (style `regions`): it sees the
whole picture and the region on it, and was never taught to read a caption in the question.
"""

from __future__ import annotations

import random
from typing import Any

from PIL import Image

from rgpt import prompts
from rgpt.backends import image_part, region_part, text_part
from rgpt.files import sha256
from rgpt.regions import Region

STYLES = ("recapd", "regions")

PICTURE = (
    "Describe this image in detail.",
    "Describe the whole image: the scene, the objects in it and how they relate.",
    "Write a detailed caption of this image.",
    "What does this image show? Describe the scene and everything that matters in it.",
    "Give a full description of the image, from the setting to its main objects.",
    "Describe the image as if to a person who cannot see it.",
    "Look at the whole image and describe what is happening and where.",
    "Write one paragraph that describes this image.",
    "Describe the setting, the objects and their positions in this image.",
    "Explain what can be seen in this image, in detail.",
)

REGION = (
    "In the context of the whole image, “{caption}”, describe the {name} in the close-up in detail.",
    "The whole image shows: “{caption}” Here is a close-up of the {name} in it. Describe it in detail.",
    "Given that the whole image is “{caption}”, give a detailed description of the {name} in this close-up.",
    "This crop shows the {name} of a larger image: “{caption}” Describe the {name} as exactly as you can.",
    "With the whole image in mind, “{caption}”, describe how the {name} in the close-up looks.",
    "Here is a close-up of the {name}. The image it comes from: “{caption}” Describe the {name} in detail.",
    "The larger image is described as “{caption}” Describe only the {name} in this crop: its looks, its "
    "parts and what it is doing.",
    "Knowing the whole scene, “{caption}”, write a detailed caption for the {name} in the close-up.",
    "From an image of “{caption}”, this part shows the {name}. What does the {name} look like, in detail?",
    "Describe the {name} in this close-up in detail. For context, the whole image: “{caption}”",
)

REPHRASE = (
    "Rephrase this description without adding or dropping facts: “{text}”",
    "Say the same in other words, with the same facts: “{text}”",
    "Rewrite the description below in a different style. Keep every fact and add none: “{text}”",
    "Paraphrase this caption. Nothing may be added or lost: “{text}”",
    "Put this description in your own words and change none of its facts: “{text}”",
    "Write another version of this text that says exactly the same: “{text}”",
    "Reword the following description, true to all its details: “{text}”",
    "Restate the description with other sentences and the same meaning: “{text}”",
    "Give an alternative wording of this description, no new facts: “{text}”",
    "Express the following in a different way, keeping all details: “{text}”",
)
ONLY = " Answer with the description only."

Messages = list[dict[str, Any]]


def number_for(seed: int, key: str) -> int:
    """A number below 2³¹ that depends on nothing else: a killed run asks the same again."""
    return int(sha256(f"{seed} {key}")[:8], 16) >> 1


def picture_question(style: str, image: Image.Image, choice: int) -> Messages:
    """Stage 1: the whole picture."""
    if style == "regions":
        return _user(image_part(image), text_part(prompts.choose_wording("picture_caption", _rng(choice))))
    return _user(image_part(image), text_part(PICTURE[choice % len(PICTURE)]))


def region_question(
    style: str,
    image: Image.Image,
    close_up: Image.Image,
    region: Region,
    caption: str,
    name: str,
    choice: int,
) -> Messages:
    """Stage 2: the close-up with caption and class name, or the region on the whole picture."""
    if style == "regions":
        wording = prompts.choose_wording("detailed_caption", _rng(choice)).format(region=prompts.mention(1))
        return _user(image_part(image), region_part(region), text_part(wording))
    # Quotation marks of the caption must not end the quotation early.
    quoted = " ".join(caption.replace("“", '"').replace("”", '"').split())
    text = REGION[choice % len(REGION)].format(caption=quoted, name=name)
    return _user(image_part(close_up), text_part(text + ONLY))


def rephrase_question(text: str, choice: int) -> Messages:
    """Augmentation: text only."""
    return _user(text_part(REPHRASE[choice % len(REPHRASE)].format(text=" ".join(text.split())) + ONLY))


def shown(messages: Messages) -> str:
    """Messages as a person reads them; pictures as their size."""
    lines = []
    for message in messages:
        for part in message["content"]:
            if part["type"] == "text":
                lines.append(part["text"])
            elif part["type"] == "image":
                lines.append(f"[picture, {part['image'].width} x {part['image'].height} pixels]")
            else:
                lines.append(f"[<region1> as a {type(part['region']).__name__.lower()}]")
    return "\n".join(f"    {line}" for line in lines)


def _rng(choice: int) -> random.Random:
    return random.Random(choice)


def _user(*parts: dict[str, Any]) -> Messages:
    return [{"role": "user", "content": list(parts)}]
