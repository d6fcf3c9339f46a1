"""Tasks in words: question wordings, guide sentences, and how an answer is read back.

A *guide sentence* appended to a question fixes the form of the answer, in training and at inference alike
(RegionGPT, section on task-guided instruction prompts [P]). The guide sentences here are the paper's; the
wordings are ours [D].

Wordings are format strings: `{region}`, `{other}` and `{regions}` stand for mentions such as `<region1>`,
`{text}` for a description, an attribute or what is counted. Every choice takes a `random.Random`, so that
it is seeded and can be recorded.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

NO_MATCH = "No corresponding options found."

REFERRING_GUIDE = "Answer the question using the template Region [x]."


def classification_guide(vocabulary_name: str) -> str:
    """The guide sentence of closed-set classification, e.g. `classification_guide("COCO-80")` [P]."""
    return f"Answer the question using {vocabulary_name} category names."


WORDINGS: Mapping[str, tuple[str, ...]] = {
    "classification": (
        "What is {region}?",
        "What is the object in {region}?",
        "What is in {region}?",
        "What is the category of {region}?",
        "Which category does {region} belong to?",
        "What kind of object is {region}?",
        "What type of object is {region}?",
        "What object is shown in {region}?",
        "What do you see in {region}?",
        "Which object is in {region}?",
        "Name the object in {region}.",
        "Name {region}.",
        "Identify {region}.",
        "Classify {region}.",
        "Tell me what {region} is.",
        "Can you name the object in {region}?",
    ),
    "classification_followup": (
        "What about {region}?",
        "And {region}?",
        "What is {region}?",
        "And what is {region}?",
        "How about {region}?",
        "Next, {region}?",
        "Now {region}?",
        "And what about {region}?",
        "What is in {region}?",
        "Name {region}.",
        "Classify {region}.",
        "Identify {region}.",
        "Now name {region}.",
        "Then {region}?",
        "What kind of object is {region}?",
    ),
    "brief_caption": (
        "Describe {region}.",
        "Describe {region} briefly.",
        "Describe {region} in a few words.",
        "Give a short description of {region}.",
        "Give a brief description of {region}.",
        "Give a brief caption of {region}.",
        "Write a short caption for {region}.",
        "Caption {region}.",
        "Caption {region} briefly.",
        "Briefly, what does {region} show?",
        "How does {region} look?",
        "What does {region} look like?",
        "Tell me about {region} in a few words.",
        "Summarize {region} in a phrase.",
        "Please describe {region} in short.",
    ),
    "detailed_caption": (
        "Describe {region} in detail.",
        "Give a detailed description of {region}.",
        "Write a detailed caption for {region}.",
        "Tell me everything about {region}.",
        "Describe {region} and where it is.",
        "Describe {region} and what is around it.",
        "Describe {region} in the context of the picture.",
        "Explain {region} in detail.",
        "Give a long description of {region}.",
        "What is {region} and where is it?",
        "Please describe {region} as fully as you can.",
        "Describe {region} with its surroundings.",
        "What can you say about {region} in detail?",
        "Give a full description of {region}.",
        "Give me all details of {region}.",
    ),
    "referring": (
        "From the provided masks denoted by {regions}, which one fits “{text}”?",
        "From the provided regions {regions}, which one fits “{text}”?",
        "Among {regions}, which one is “{text}”?",
        "Among {regions}, which one fits “{text}”?",
        "Which of {regions} is “{text}”?",
        "Which of {regions} fits “{text}”?",
        "Which one of {regions} matches “{text}”?",
        "Out of {regions}, which one is “{text}”?",
        "Given {regions}, which one is “{text}”?",
        "Given {regions}, which one matches “{text}”?",
        "Of {regions}, which one fits the description “{text}”?",
        "Here are {regions}. Which one is “{text}”?",
        "Here are {regions}. Which one fits “{text}”?",
        "Choose from {regions} the one that fits “{text}”.",
        "Select from {regions} the one that is “{text}”.",
    ),
    "referring_followup": (
        "Match the object with its description: “{text}”.",
        "Match the object with its description: “{text}”.",
        "Which one is “{text}”?",
        "Which one fits “{text}”?",
        "Which one matches “{text}”?",
        "And which one is “{text}”?",
        "And which one fits “{text}”?",
        "Now which one is “{text}”?",
        "And “{text}”?",
        "What about “{text}”?",
        "Next, “{text}”?",
        "Find “{text}”.",
        "Now find “{text}”.",
        "Select “{text}”.",
        "Choose “{text}”.",
    ),
    "relation": (
        "Where is {region} relative to {other}?",
        "How does {region} relate to {other}?",
        "What is the relation of {region} to {other}?",
        "How is {region} placed relative to {other}?",
        "Where is {region} compared to {other}?",
        "Where is {region} with respect to {other}?",
        "What is the position of {region} relative to {other}?",
        "On which side of {other} is {region}?",
        "In which direction from {other} is {region}?",
        "Where does {region} stand relative to {other}?",
        "Where can {region} be found relative to {other}?",
        "Describe the position of {region} relative to {other}.",
        "Describe where {region} is relative to {other}.",
        "Tell me where {region} is relative to {other}.",
        "How do {region} and {other} relate?",
    ),
    "relationship": (
        "What is the relationship between {region} and {other}?",
        "What is the relationship of {region} to {other}?",
        "What connects {region} and {other}?",
        "What links {region} with {other}?",
        "How is {region} related to {other}?",
        "How are {region} and {other} related?",
        "How does {region} interact with {other}?",
        "What does {region} have to do with {other}?",
        "In what way is {region} connected with {other}?",
        "Describe the relationship between {region} and {other}.",
        "Describe how {region} and {other} are related.",
        "Name the relationship between {region} and {other}.",
        "State how {region} relates to {other}.",
        "Tell me how {region} and {other} are related.",
        "In a few words, how is {region} related to {other}?",
    ),
    "compare_size": (
        "Which is larger, {region} or {other}?",
        "Which one is larger, {region} or {other}?",
        "Which is bigger, {region} or {other}?",
        "Which one is bigger, {region} or {other}?",
        "What is larger, {region} or {other}?",
        "Is {region} or {other} larger?",
        "Is {region} or {other} bigger?",
        "Compare the size of {region} and {other}.",
        "Compare {region} and {other} by size.",
        "How do {region} and {other} compare in size?",
        "Of {region} and {other}, which is larger?",
        "Of {region} and {other}, which is bigger?",
        "Between {region} and {other}, which is larger?",
        "Between {region} and {other}, which is bigger?",
        "Name the larger one of {region} and {other}.",
    ),
    "compare_attribute": (
        "Do {region} and {other} have the same {text}?",
        "Is the {text} of {region} and {other} the same?",
        "Have {region} and {other} the same {text}?",
        "Are {region} and {other} of the same {text}?",
        "Are {region} and {other} alike in {text}?",
        "Compare the {text} of {region} and {other}.",
        "Compare {region} and {other} by {text}.",
        "Do {region} and {other} share the same {text}?",
        "Does {region} have the same {text} as {other}?",
        "Has {region} the same {text} as {other}?",
        "Is {region} of the same {text} as {other}?",
        "Is the {text} of {region} the same as that of {other}?",
        "Do {region} and {other} agree in {text}?",
        "How do {region} and {other} compare in {text}?",
        "In {text}, are {region} and {other} the same?",
    ),
    "verify": (
        "Is {region} {text}?",
        "Is {region} {text}?",
        "Is the object in {region} {text}?",
        "Does {region} show {text}?",
        "Would you call {region} {text}?",
        "Can {region} be called {text}?",
        "Is it true that {region} is {text}?",
        "Is it right that {region} is {text}?",
        "Would you say {region} is {text}?",
        "Tell me, is {region} {text}?",
        "Do you see {text} in {region}?",
        "Look at {region}. Is it {text}?",
        "Check {region}. Is it {text}?",
        "Yes or no: is {region} {text}?",
        "{region}: is it {text}?",
    ),
    "verify_relation": (
        "Is {region} {text} {other}?",
        "Is {region} {text} {other}?",
        "Does {region} stand {text} {other}?",
        "Is it true that {region} is {text} {other}?",
        "Is it right that {region} is {text} {other}?",
        "Would you say {region} is {text} {other}?",
        "Tell me, is {region} {text} {other}?",
        "Yes or no: is {region} {text} {other}?",
        "Can {region} be found {text} {other}?",
        "Do you see {region} {text} {other}?",
        "Is the object in {region} {text} {other}?",
        "Is the object in {region} {text} the one in {other}?",
        "Look at {region}. Is it {text} {other}?",
        "Check {region}. Is it {text} {other}?",
        "{region}: is it {text} {other}?",
    ),
    "exists": (
        "Is there {text} in the picture?",
        "Is there {text} in the image?",
        "Is there {text}?",
        "Is there {text} here?",
        "Does the picture show {text}?",
        "Does the image show {text}?",
        "Does the picture contain {text}?",
        "Does the image contain {text}?",
        "Do you see {text}?",
        "Do you see {text} in the picture?",
        "Can you see {text}?",
        "Can you see {text} in the picture?",
        "Can you find {text} in the picture?",
        "Yes or no: is there {text}?",
        "Tell me, is there {text} in the picture?",
    ),
    "count": (
        "How many {text} are in the picture?",
        "How many {text} are in the image?",
        "How many {text} are there?",
        "How many {text} are there in the picture?",
        "How many {text} do you see?",
        "How many {text} can you see?",
        "How many {text} does the picture show?",
        "How many {text} can be seen?",
        "Count the {text}.",
        "Count the {text} in the picture.",
        "What is the number of {text}?",
        "What is the number of {text} in the picture?",
        "Give the number of {text}.",
        "Tell me how many {text} there are.",
        "Tell me the number of {text} in the picture.",
    ),
    "picture_caption": (
        "Describe the picture.",
        "Describe the image.",
        "Describe the whole picture.",
        "Describe the scene.",
        "Describe this picture.",
        "Describe this image.",
        "What is in the picture?",
        "What is in the image?",
        "What does the picture show?",
        "What does the image show?",
        "What do you see in the picture?",
        "What do you see?",
        "Caption the picture.",
        "Write a caption for the picture.",
        "Tell me what is in the picture.",
    ),
}

EVERYDAY_NAME: Mapping[str, tuple[str, ...]] = {
    "thing": (
        "What is {region}?",
        "What is {region}?",
        "What's this? {region}",
        "What's {region}?",
        "What is this: {region}?",
        "What am I looking at in {region}?",
        "Do you know what {region} is?",
        "What can you see in {region}?",
        "{region}?",
    ),
    "animal": ("What animal is {region}?", "Which animal is {region}?", "What kind of animal is {region}?"),
    "vehicle": ("What vehicle is {region}?", "What kind of vehicle is {region}?"),
    "food": ("What food is {region}?", "What kind of food is {region}?"),
    "person": ("Who is {region}?", "Who is in {region}?"),
}
"""How people ask what a region is, by what they take it for; what comes up twice comes up more often."""

TASKS = tuple(WORDINGS)

_COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBER_WORDS = {word: number for number, word in enumerate(_COUNTED)}


def choose_wording(task: str, rng: random.Random) -> str:
    """One wording of `task`. Raises KeyError for an unknown task; `TASKS` lists them."""
    return rng.choice(WORDINGS[task])


def asks_for_name(questions: Sequence[str], vocabulary_name: str) -> bool:
    """Whether the last of a conversation's questions asks what one region is.

    It does when it carries the guide sentence of this vocabulary, or reads like a wording of `classification`
    or `EVERYDAY_NAME`, or like one of `classification_followup` after a question that did.
    """
    *before, question = questions
    if classification_guide(vocabulary_name) in question:
        return True
    asked, mentions = re.subn(rf"{MENTION.pattern}|<region>", "{region}", question)
    asked = _plain(asked)
    if mentions != 1:
        return False
    wordings = (*WORDINGS["classification"], *(text for texts in EVERYDAY_NAME.values() for text in texts))
    if asked in {_plain(wording) for wording in wordings}:
        return True
    followups = {_plain(wording) for wording in WORDINGS["classification_followup"]}
    return asked in followups and bool(before) and asks_for_name(before, vocabulary_name)


def guided(question: str, vocabulary_name: str) -> str:
    """The question with the vocabulary's guide sentence, appended unless it is there."""
    guide = classification_guide(vocabulary_name)
    return question if guide in question else f"{question.rstrip()} {guide}"


def _plain(question: str) -> str:
    """What is left of a question when case, blanks, its final mark and "What's" do not matter."""
    text = re.sub(r"\s+", " ", question).strip().casefold().replace("’", "'").replace("what's", "what is")
    return text.rstrip(".?! ")


def mention(number: int) -> str:
    """The way a person refers to a region in text: `<region1>` (numbers are 1-based)."""
    return f"<region{number}>"


MENTION = re.compile(r"<region([0-9]{1,9})>")
"""A mention in a text; its group is the number. Longer numbers and other digits are words."""


def mentioned(text: str) -> list[int]:
    """Numbers of the regions that a text mentions, in reading order, as often as they are mentioned."""
    return [int(number) for number in MENTION.findall(text)]


def list_mentions(numbers: Sequence[int]) -> str:
    """`<region1>, <region2>, <region3>`"""
    return ", ".join(mention(n) for n in numbers)


def normalise_answer(text: str) -> str:
    """Lower case, single blanks, no closing full stop, no quotes around it: what equal answers share."""
    return re.sub(r"\s+", " ", text).strip().strip("\"'“”").rstrip(".").strip().lower()


def parse_region_answer(text: str) -> int | None:
    """Read "Region [2]." as 2, "No corresponding options found." as 0, and anything else as None."""
    if normalise_answer(text) == normalise_answer(NO_MATCH):
        return 0
    found = re.search(r"region\s*\[\s*(\d+)\s*\]", text, re.IGNORECASE)
    return int(found.group(1)) if found else None


def parse_yes_no(text: str) -> bool | None:
    """True for an answer whose first word is yes, False for no, None for neither."""
    first = re.match(r"\W*(yes|no)\b", text, re.IGNORECASE)
    return None if first is None else first.group(1).lower() == "yes"


def parse_count(text: str) -> int | None:
    """The first number of an answer, as a digit or as a word up to ten; None where there is none."""
    for word in re.findall(r"\d+|[a-z]+", text.lower()):
        if word.isdigit():
            return int(word)
        if word in _NUMBER_WORDS:
            return _NUMBER_WORDS[word]
    return None
