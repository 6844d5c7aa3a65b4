"""Tell short children's stories from a grammar written for this project.

A story has a beginning (who lives where), a middle (a small problem of `plots.py`) and an end (the
solution and what it teaches). Names, objects and places are bound once, so that everything which
is introduced is the same thing later. The text is our own: no third-party text is used.

Run ``python text.py 3 7`` to print three stories of seed 7.
"""

import random
import re
import sys

from plots import PLOTS, Plot

GIRLS = ("Lily", "Mia", "Anna", "Lucy", "Emma", "Rose", "Nora", "Ella")
BOYS = ("Tom", "Ben", "Sam", "Max", "Leo", "Tim", "Jack", "Finn")
#: Names of animals that are she, and he.
ANIMALS_SHE = ("Dot", "Fern", "Poppy")
ANIMALS_HE = ("Pip", "Bo", "Sunny")
ANIMALS = ("rabbit", "mouse", "fox", "bear", "frog", "cat")

TRAITS = ("kind", "clever", "brave", "quiet", "happy")
HOBBIES = (
    "to sing",
    "to play outside",
    "to look at the stars",
    "to ask questions",
    "to help others",
    "to hear stories",
)
#: Where children live, and where animals live.
HOMES_CHILD = ("in a small house by the river", "in a little town", "on a farm near the forest")
HOMES_ANIMAL = ("in an old tree", "in a hole under a tree", "in the forest", "near a quiet pond")
FAMILY = ("mother", "father", "grandmother", "grandfather")
#: Elders outside the family: at first mention, and later.
VILLAGERS = (
    ("the old baker", "the baker"),
    ("a wise old woman", "the old woman"),
    ("a wise old man", "the old man"),
)
ELDER_ANIMALS = (("the wise old owl", "the owl"), ("the old goose", "the goose"))

#: Beginnings that introduce the hero, before "One day, ...", and how often each is used.
INTRODUCTIONS = {
    "Once upon a time, there was a {size} {kind} named {hero}.": 3,
    "Once upon a time, there was a {size} {kind} named {hero}. {He} lived {home}.": 3,
    "Once upon a time, there was a {size} {kind} named {hero}. {He} loved {hobby}.": 4,
    "Once upon a time, a {trait} {kind} named {hero} lived {home}.": 2,
    "Once there was a {size} {kind} named {hero}. {He} was very {trait}.": 1,
    "There was once a {trait} {kind} named {hero}. {He} loved {hobby}.": 1,
    "{hero} was a {trait} {kind} who lived {home}.": 1,
}


def cast(rng: random.Random, *, family: bool) -> dict[str, str]:
    """Choose a hero, a friend and an elder, and every form in which a plot may name them.

    Parameters
    ----------
    rng : random.Random
    family : bool
        Whether the elder must be of the hero's family.

    Returns
    -------
    dict
        ``hero``, ``kind``, ``he him his He His``; the same of the friend with ``f`` before the
        pronouns; ``friend2`` or ``stranger`` at first mention; ``elder`` and ``Elder``, with ``2``
        at first mention.
    """
    words: dict[str, str] = {}
    animal = rng.random() < 0.3
    species = rng.sample(ANIMALS, 2)
    names: list[str] = []
    for role, prefix in enumerate(("", "f")):
        female = rng.random() < 0.5
        if animal:
            pool, kind = ANIMALS_SHE if female else ANIMALS_HE, species[role]
        else:
            pool, kind = (GIRLS, "girl") if female else (BOYS, "boy")
        names.append(rng.choice([name for name in pool if name not in names]))
        words[f"{prefix}kind"] = kind
        pronouns = ("she", "her", "her") if female else ("he", "him", "his")
        for form, pronoun in zip(("he", "him", "his"), pronouns, strict=True):
            words[prefix + form] = pronoun
            words[prefix + form.capitalize()] = pronoun.capitalize()
    words["hero"], words["friend"] = names
    words["named"], words["stranger"] = (
        [f"{name} the {kind}" for name, kind in zip(names, species, strict=True)]
        if animal
        else names
    )
    friend2 = rng.choice(("", f"{words['his']} friend ")) + words["stranger"]
    if family or rng.random() < 0.5:
        elder = elder2 = f"{words['his']} {rng.choice(FAMILY)}"
    else:
        elder2, elder = rng.choice(ELDER_ANIMALS if animal else VILLAGERS)
    for key, phrase in (
        ("stranger", words["stranger"]),
        ("friend2", friend2),
        ("elder", elder),
        ("elder2", elder2),
    ):
        words[key] = phrase
        words[key.capitalize()] = phrase[0].upper() + phrase[1:]
    words["home"] = rng.choice(HOMES_ANIMAL if animal else HOMES_CHILD)
    words["trait"] = rng.choice(TRAITS)
    words["size"] = rng.choice(("little", "little", "small", "young"))
    words["hobby"] = rng.choice(HOBBIES)
    words["X"] = names[0]
    return words


def bind_props(plot: Plot, words: dict[str, str], rng: random.Random) -> None:
    """Choose the props of a plot and add them to `words`."""
    for names, options in plot.props.items():
        keys = names.split()
        if isinstance(options[0], tuple):
            values = rng.choice(options)
        else:
            values = rng.sample(options, len(keys))
        for key, value in zip(keys, values, strict=True):
            words[key] = str(value).format_map(words)


def expand(template: str, words: dict[str, str], rng: random.Random) -> str:
    """Choose among ``[a|b]``, innermost first, and fill in ``{name}``."""
    text = template
    while match := re.search(r"\[([^\[\]]*)\]", text):
        text = text[: match.start()] + rng.choice(match[1].split("|")) + text[match.end() :]
    return " ".join(text.format_map(words).split())


def story(rng: random.Random) -> str:
    """Tell one story.

    Parameters
    ----------
    rng : random.Random
        Source of every choice: the same state gives the same story.

    Returns
    -------
    str
        One paragraph of 80 to 180 words in ASCII.
    """
    plot = rng.choice(PLOTS)
    words = cast(rng, family=plot.family)
    time = rng.choice(plot.times)
    if rng.random() < 0.7:
        introductions, weights = list(INTRODUCTIONS), list(INTRODUCTIONS.values())
        beginning = f"{rng.choices(introductions, weights)[0]} {time}"
    else:
        beginning = time
        words["X"] = words["named"]
    bind_props(plot, words, rng)
    return expand(f"{beginning}{plot.scenes.strip()}", words, rng)


def stories(count: int, seed: int) -> list[str]:
    """Tell `count` stories; the same `seed` gives the same stories."""
    rng = random.Random(seed)
    return [story(rng) for _ in range(count)]


if __name__ == "__main__":
    print("\n\n".join(stories(int(sys.argv[1]), int(sys.argv[2]))))
