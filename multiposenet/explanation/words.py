"""The grouping of one picture in plain words: one sentence a keypoint, a few lines a person, a summary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from multiposenet.explanation.structures import (
    BOXLESS,
    NOBODY,
    ExplainedKeypoint,
    ExplainedPeak,
    ExplainedPerson,
    Explanation,
    Pair,
)

_RIVALS_TOLD = 2
_NOBODYS_BOX = "by the labels this box is nobody's"


def keypoint_story(explanation: Explanation, person: int, keypoint: int) -> str:
    """What one keypoint of one person got and why, in a sentence without the keypoint's name.

    Args:
        explanation: of the picture.
        person: number from 1.
        keypoint: position in the skeleton.
    """
    own = explanation.people[person - 1].keypoints[keypoint]
    pieces = [
        _outcome(own, explanation.peaks[keypoint]),
        *(_of_rival(explanation, rival, keypoint, own) for rival in own.serious_rivals[:_RIVALS_TOLD]),
        *_of_other_peak(explanation, keypoint, own),
        *_verdict(explanation, keypoint, own),
    ]
    return "; ".join(pieces)


def summary(explanation: Explanation) -> list[str]:
    """What there was and what became of it, in a few sentences."""
    people, peaks = explanation.people, [peak for own in explanation.peaks for peak in own]
    if not people:
        return [f"Nobody in this picture: no boxes, so there is nothing to group; {_count(len(peaks), 'peak')}."]
    left = sum(not peak.people for peak in peaks)
    twice = sum(len(peak.people) > 1 for peak in peaks)
    keypoints = [keypoint for person in people for keypoint in person.keypoints]
    there = f"{_count(len(people), 'box', 'boxes')} and {_count(len(peaks), 'peak')}"
    given = f"{len(peaks) - left} given away, {left} left over"
    questions = sum(keypoint.questioned for keypoint in keypoints)
    lines = [
        f"{there}: {given}{f', {twice} given to several people' if twice else ''}.",
        f"{questions} of {len(keypoints)} keypoints were a question: another peak for the person, or another person "
        "for the peak, came near.",
    ]
    if people[0].labelled is not None:
        lines.append(f"By the labels {right_and_wrong(people)}.")
    return lines


def right_and_wrong(people: Sequence[ExplainedPerson]) -> str:
    """How often people got their own peaks, by the labels."""
    keypoints = [keypoint for person in people for keypoint in person.keypoints]
    own = [keypoint for keypoint in keypoints if keypoint.own is not None]
    right = sum(bool(keypoint.right) for keypoint in own)
    wrong = sum(keypoint.right is False for keypoint in keypoints if keypoint.own is None)
    text = f"{right} of {_count(len(own), 'peak')} went to the person whose {'it is' if len(own) == 1 else 'they are'}"
    takers = "1 keypoint without a peak of its own" if wrong == 1 else f"{wrong} keypoints without a peak of their own"
    return f"{text}, and {takers} took a wrong one" if wrong else text


def person_lines(explanation: Explanation, person: ExplainedPerson) -> list[str]:
    """One person for the terminal: every keypoint that was a question or went wrong; the others by name alone."""
    names = explanation.skeleton.keypoints
    lines = [person_head(person)]
    plain: dict[str, list[str]] = {"no question": [], "guessed, no peak for it": []}
    for number, (name, keypoint) in enumerate(zip(names, person.keypoints, strict=True)):
        if keypoint.questioned or keypoint.right is False:
            lines.append(f"  {name}: {keypoint_story(explanation, person.person, number)}")
        else:
            plain["guessed, no peak for it" if keypoint.peak is None else "no question"].append(name)
    return lines + [f"  {what}: {', '.join(names)}" for what, names in plain.items() if names]


def person_head(person: ExplainedPerson) -> str:
    """Who it is, in a line."""
    x1, y1, x2, y2 = person.box
    text = (
        f"person {person.person}, score {person.score:.2f}: box from ({x1:.0f}, {y1:.0f}) to ({x2:.0f}, {y2:.0f}) with "
        f"score {person.box_score:.2f}; {person.num_peaks} of {len(person.keypoints)} keypoints got a peak"
    )
    if person.labelled is None:
        return text
    return f"{text}; {right_and_wrong([person]) if person.labelled else _NOBODYS_BOX}"


def grids_line(person: ExplainedPerson) -> str:
    """What a network on grids made of its input, for one person.

    Raises:
        ValueError: the grouping's network works on no grids.
    """
    if person.grids is None:
        raise ValueError(f"person {person.person} has no grids: the grouping's network does not work on grids")
    drawn = sum(len(own) for own in person.grids.places)
    several = sum(len(own) > 1 for own in person.grids.places)
    kinds = ("that the person got", "that it did not get")
    if person.labelled:  # then it can be told without going by what the network itself decided
        kinds = ("that are the person's own", "that are not")
    masses: dict[str, list[float]] = {kind: [] for kind in kinds}
    for keypoint, own in zip(person.keypoints, person.grids.places, strict=True):
        suits = {pair.peak: pair.suits for pair in keypoint.pairs}
        for number, _, _ in own:
            its_own = number == (keypoint.own if person.labelled else keypoint.peak)
            masses[kinds[0] if its_own else kinds[1]].append(suits.get(number, 0.0))
    means = [
        f"{sum(values) / len(values):.2f} of a map around each of the {len(values)} {kind}"
        for kind, values in masses.items()
        if values
    ]
    return (
        f"The network was shown {_count(drawn, 'peak')}, whoever's they are; {_count(several, 'keypoint')} had more "
        f"than one, so that copying the input could not tell which to take. Its answer puts, on average, "
        f"{' and '.join(means) or 'nothing around any peak'}."
    )


def explanation_lines(explanation: Explanation, least_score: float = 0.0) -> Iterator[str]:
    """Everything for the terminal: the summary, then each person whose score is at least ``least_score``."""
    yield from summary(explanation)
    for person in explanation.people:
        if person.score >= least_score:
            yield ""
            yield from person_lines(explanation, person)
    if below := sum(person.score < least_score for person in explanation.people):
        yield ""
        yield f"{_count(below, 'person', 'people')} with a score below {least_score:g} not told of"


def to_json(explanation: Explanation) -> dict:
    """All numbers but the grids, each keypoint with its sentence, as plain values."""
    content = {"skeleton": explanation.skeleton.to_dict(), "summary": summary(explanation), **explanation.to_dict()}
    for person in content["people"]:
        for number, keypoint in enumerate(person["keypoints"].values()):
            keypoint["why"] = keypoint_story(explanation, person["person"], number)
    return content


def _outcome(own: ExplainedKeypoint, peaks: Sequence[ExplainedPeak]) -> str:
    got = own.given
    if got is not None:
        return f"peak {got.peak} (height {peaks[got.peak - 1].score:.2f}) with {_scored(got)}"
    if not peaks:
        reason = "no peak in the picture"
    elif own.serious_others:
        reason = "no peak left"
    else:
        reason = "no peak of the picture suits this box"
    return f"{reason}, {f'a guess stands in (score {own.score:.2f})' if own.score > 0 else 'it stays empty'}"


def _of_rival(explanation: Explanation, rival: Pair, keypoint: int, own: ExplainedKeypoint) -> str:
    """What another person who could have had the peak got instead."""
    mine, theirs = own.given, explanation.people[rival.person - 1].keypoints[keypoint]
    best = theirs.pairs[0].peak == rival.peak
    text = f"person {rival.person} {'wanted it most of all' if best else 'could have had it'} ({rival.score:.2f})"
    if rival.given:
        return f"{text} and got it as well"
    text += " and got none" if theirs.given is None else f" and got peak {theirs.peak} ({theirs.given.score:.2f})"
    if rival.weight > mine.weight and best:
        return text + (", for the sake of the largest sum" if explanation.rule == "optimal" else "")
    if rival.score > mine.score and best:
        return f"{text}, {explanation.weight_is} being {rival.weight:.2f} against {mine.weight:.2f}"
    return text


def _of_other_peak(explanation: Explanation, keypoint: int, own: ExplainedKeypoint) -> Iterator[str]:
    """The best of the other peaks that the person could have had, and where it went."""
    for other in own.serious_others[:1]:
        how = "it wanted"
        if own.given is not None:
            how = "it would rather have had" if other.weight > own.given.weight else "runner-up:"
        owners = [person for person in explanation.peaks[keypoint][other.peak - 1].people if person != other.person]
        where = "nobody got"
        if owners:
            got = explanation.people[owners[0] - 1].keypoints[keypoint].given
            where = f"person {owners[0]} got with {got.score:.2f}"
        yield f"{how} peak {other.peak} with {_scored(other)}, which {where}"


def _verdict(explanation: Explanation, keypoint: int, own: ExplainedKeypoint) -> Iterator[str]:
    if own.right:
        yield "right"
    elif own.right is False and own.own is not None:
        people = explanation.peaks[keypoint][own.own - 1].people
        yield f"WRONG: its own is peak {own.own}, which {f'person {people[0]} got' if people else 'nobody got'}"
    elif own.right is False:
        owner = explanation.peaks[keypoint][own.peak - 1].owner
        whose = {NOBODY: "nobody's", BOXLESS: "that of somebody without a box"}.get(owner, f"person {owner}'s")
        yield f"WRONG: it has no peak of its own, this one is {whose}"


def _scored(pair: Pair) -> str:
    parts = ", ".join(f"{name} {part:.2f}" for name, part in pair.parts.items())
    return f"{pair.score:.2f}{f' ({parts})' if parts else ''}"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
