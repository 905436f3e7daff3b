"""Where models, decoders and skeletons meet: every method's builder in one plain dict."""

from __future__ import annotations

import inspect
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from multiposenet.checkpoint import Rebuildable, learnt_parts, match_tensors
from multiposenet.families import bottom_up, one_stage, top_down
from multiposenet.families.family import Builder, Decoder, Family
from multiposenet.groupings import GROUPINGS, PART, GroupingMethod, build_grouping, grouping_in, match_grouping
from multiposenet.importers import read_weights
from multiposenet.skeletons import COCO_PERSON, Skeleton, get_skeleton

FAMILIES = (bottom_up.FAMILY, top_down.FAMILY, one_stage.FAMILY)
METHODS: dict[str, Builder] = {name: build for family in FAMILIES for name, build in family.methods.items()}


@dataclass(frozen=True)
class PoseMethod(Rebuildable):
    """A model with everything that is needed to use it.

    Args:
        name: key in ``METHODS``.
        model: ``outputs, losses = model(images, targets=None)``.
        decoder: outputs of the model -> ``Poses``.
        skeleton: whose keypoints it finds.
        options: what the builder was called with, as plain values; enough to build it again.
        metadata: what the weights file said about itself; empty for random weights.
        family: how methods of its kind are run and trained.
    """

    name: str
    model: nn.Module
    decoder: Decoder
    skeleton: Skeleton
    options: dict
    metadata: dict = field(default_factory=dict)
    family: Family = bottom_up.FAMILY


def family_of(name: str, source: str | None = None) -> Family:
    """The family of a method by the method's name.

    Args:
        name: of the method.
        source: of the message, where a file is concerned.

    Raises:
        ValueError: unknown name.
    """
    for family in FAMILIES:
        if name in family.methods:
            return family
    if name not in GROUPINGS:
        problem = f"model {name!r} is unknown; choose one of {', '.join(list_models())}"
        raise ValueError(problem if source is None else f"{source}: {problem}")
    raise ValueError(
        f"{source or repr(name)} {'is' if source is None else 'holds'} a grouping, not a network; give it with "
        f"--init {PART}={source or 'FILE'} to a training, or with --grouping to multiposenet explain"
    )


def list_models() -> list[str]:
    """Names that :func:`create_model` knows."""
    return sorted(METHODS)


def list_models_with_grouping() -> list[str]:
    """Those of :func:`list_models` that give keypoints to people by a grouping."""
    return sorted(bottom_up.FAMILY.methods)


def build_method(
    name: str | None = None,
    weights: str | Path | None = None,
    skeleton: Skeleton | str | Path | None = None,
    parts: Mapping[str, str | Path] | None = None,
    **options,
) -> PoseMethod:
    """Builds a method, with random weights or from files.

    Args:
        name: one of :func:`list_models`; may be None when the weights file says what it is (ours do).
        weights: path of a weights file, ours or one that ``importers`` knows, or the name of weights that others
            publish for this method. Its metadata gives the skeleton and the builder's options. What a file of only some
            parts lacks keeps random weights, with a warning; so does a part that an option adds to the file's model.
        skeleton: a built-in name, a TOML file or a ``Skeleton``; default: the weights', else COCO's person.
        parts: names of parts of the model -> weights files to take them from, instead of from ``weights``; with them
            come those options of the files that concern the part.
        options: arguments of the method's builder; they win over those of files.

    Raises:
        ValueError: unknown name or option, a file of another method, or tensors that do not fit.
        FileNotFoundError, ImportError: no such file, or nothing installed to read it with.
        ConnectionError: published weights could not be downloaded; the message says where to put the file.
    """
    if name is not None and weights is not None:
        fetch = family_of(name).published.get(name, {}).get(str(weights))
        weights = fetch() if fetch else weights
    tensors, metadata = read_weights(weights) if weights is not None else ({}, {})
    others = {part: read_weights(file) for part, file in (parts or {}).items()}
    for part, (content, facts) in others.items():
        options = _options_of(part, content, facts, name or metadata.get("model")) | options
    found = _file_options(tensors, metadata)
    method = _assemble(name, skeleton, found | options, metadata, source=str(weights))
    model = method.model
    learnt = learnt_parts(model)
    new = [part for part in method.family.additions if tensors and not found.get(part)]
    held = [part for part in metadata.get("parts", learnt) if part not in (*others, *new)]
    if weights is not None:
        own = {key: value for key, value in tensors.items() if key.partition(".")[0] not in others}
        match_tensors(model, own, str(weights), held)
        model.load_state_dict(own, strict=False)
    for part, (content, _) in others.items():
        own = {key: value for key, value in content.items() if key.startswith(f"{part}.")}
        match_tensors(model, own, str(parts[part]), [part])
        model.load_state_dict(own, strict=False)
    if random := [part for part in learnt if part not in (*held, *others)]:
        warnings.warn(f"{weights} holds only {', '.join(held)}; random weights in {', '.join(random)}", stacklevel=2)
    return method


def match_weights(tensors: Mapping[str, Tensor], metadata: dict, source: str, name: str | None = None) -> str:
    """Checks that what ``importers.read_weights`` gave fits its model, or its grouping, without memory for it.

    Args:
        tensors, metadata: of the file.
        source: of the messages.
        name: of a model or a grouping; may be None when the metadata say what it is.

    Returns:
        The model's or the grouping's name.

    Raises:
        ValueError: see :func:`build_method`.
    """
    if (name or metadata.get("model")) in GROUPINGS:
        return match_grouping(tensors, metadata, source, name)
    with torch.device("meta"):
        method = _assemble(name, None, _file_options(tensors, metadata), metadata, source)
    match_tensors(method.model, tensors, source, metadata.get("parts"))
    return method.name


def _file_options(tensors: Mapping[str, Tensor], metadata: dict) -> dict:
    """A file's options, with its grouping and additions said: what a model has unless told is not the same for all
    time.
    """
    found = grouping_in(tensors)
    said = {} if found is None else {"grouping": found}
    if metadata.get("model") in METHODS and "parts" not in metadata:
        held = {name.partition(".")[0] for name in tensors}
        said |= {part: part in held for part in family_of(metadata["model"]).additions}
    return said | metadata.get("options", {})


def _options_of(part: str, tensors: Mapping[str, Tensor], metadata: dict, name: str | None) -> dict:
    """Those options of a file without which its weights of a part would mean something else in the model ``name``."""
    options = metadata.get("options", {})
    # A grouping's own file has its builder's own options, one of a chain's part those of the chain.
    if metadata.get("model") in GROUPINGS and "parts" not in metadata:
        return {"grouping": metadata["model"], "grouping_options": options}
    options = _file_options(tensors, metadata)
    beginnings = () if name is None else family_of(name).part_options.get(part, ())
    return {option: value for option, value in options.items() if option.startswith(beginnings)}


def _assemble(
    name: str | None, skeleton: Skeleton | str | Path | None, options: dict, metadata: dict, source: str
) -> PoseMethod:
    """The method with random weights that options (a file's among them) and the file's metadata describe."""
    name = name or metadata.get("model")
    if name is None:
        raise ValueError(f"{source}: the file does not say which model it is; give the model's name")
    family = family_of(name, source if metadata else None)
    if metadata.get("model", name) != name:
        raise ValueError(f"{source} holds {metadata['model']!r}, not {name!r}")
    if skeleton is None and "skeleton" in metadata:
        skeleton = Skeleton.from_dict(metadata["skeleton"], source=f"{source} (metadata)")
    skeleton = get_skeleton(skeleton if skeleton is not None else COCO_PERSON)
    options = dict(options)
    _refuse_wrong_kinds(name, family.methods[name], options)
    try:
        model, decoder = family.methods[name](skeleton, **options)
    except TypeError as error:
        raise ValueError(f"model {name!r}: {_in_options(error)}") from None
    # Other weights are a starting point, not part of what the network is: do not ask for them again on loading.
    for start in ("backbone_weights", "warm_start"):
        options.pop(start, None)
    if found := grouping_in(model.state_dict()):
        options.setdefault("grouping", found)
    return PoseMethod(name, model, decoder, skeleton, options, metadata, family)


_KINDS = {str: ("str",), tuple: ("tuple", "Sequence")}
"""What a value that is read as such must be said to be where it is taken; numbers are told apart by the builders."""


def _refuse_wrong_kinds(name: str, builder: Callable, options: Mapping[str, object]) -> None:
    """ValueError for text, or several numbers, where the builders of this family say that they take something else.

    Many options are only used when a picture is decoded, and would fail there.
    """
    functions = [part for part in vars(sys.modules[builder.__module__]).values() if inspect.isfunction(part)]
    for option, value in options.items():
        said = {str(own.__annotations__[option]) for own in functions if option in own.__annotations__}
        wanted = _KINDS.get(type(value))
        if wanted and said and not any(word in kind for kind in said for word in wanted):
            raise ValueError(f"model {name!r}: option {option} must be {' or '.join(sorted(said))}, got {value!r}")


def _in_options(error: TypeError) -> str:
    """What a builder complains about; of an option that it does not have, also which there are."""
    unknown = re.match(r"(\w+)\(\) got an unexpected keyword argument '(\w+)'", str(error))
    if unknown is None:
        return str(error)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    # The builder that refuses has not begun; those before it have passed the options on.
    places = [(frame.f_code.co_name, frame.f_globals) for frame in frames[1:]]
    builders = [found.get(name) for name, found in (*places, (unknown[1], frames[-1].f_globals))]
    known = {
        parameter.name
        for builder in builders
        if inspect.isfunction(builder)
        for parameter in inspect.signature(builder).parameters.values()
        if parameter.default is not parameter.empty
    }
    return f"there is no option {unknown[2]!r}; there are {', '.join(sorted(known))}"


def create_model(
    name: str,
    weights: str | Path | None = None,
    skeleton: Skeleton | str | Path | None = None,
    parts: Mapping[str, str | Path] | None = None,
    **options,
) -> nn.Module:
    """A model by name, e.g. ``create_model("multiposenet_resnet50")``; arguments as for :func:`build_method`."""
    return build_method(name, weights, skeleton, parts, **options).model


def with_decoding(method: PoseMethod, box_threshold: float | None = None, max_people: int | None = None) -> PoseMethod:
    """The same method with other decoding limits; None keeps what it has."""
    return replace(method, decoder=method.decoder.limited(box_threshold, max_people))


def open_grouping(weights: str | Path) -> GroupingMethod:
    """The grouping in a weights file: of a grouping alone, or of a method that has one.

    Raises:
        FileNotFoundError, ValueError: see :func:`build_method`; or the file's method has no grouping.
    """
    _, metadata = read_weights(weights)
    if metadata.get("model") in GROUPINGS:
        return build_grouping(weights=weights)
    return grouping_of(build_method(weights=weights))


def grouping_of(method: PoseMethod) -> GroupingMethod:
    """The grouping of a method by itself.

    Raises:
        ValueError: the method groups nothing.
    """
    grouping = getattr(method.decoder, "grouping", None)
    if grouping is None:
        having = ", ".join(list_models_with_grouping())
        raise ValueError(
            f"{method.name} has no grouping: it looks for the keypoints of one person at a time, so that there is "
            f"nothing to give away; those that have one are {having}"
        )
    name = f"{method.options['grouping']} of {method.name}"
    part = nn.ModuleDict({PART: method.model.get_submodule(PART)})
    return GroupingMethod(name, part, grouping, method.skeleton, method.options, method.metadata)


def ensemble(methods: Sequence[PoseMethod]) -> PoseMethod:
    """Several methods as one that answers with the mean of their models; everything else is the first's.

    Raises:
        ValueError: of a family whose answers cannot be averaged, of different families, or with different keypoints.
    """
    first = methods[0]
    if len(methods) == 1:
        return first
    names = ", ".join(method.name for method in methods)
    if any(method.family is not first.family for method in methods) or first.family.average is None:
        raise ValueError(f"cannot average {names}: only models of one family that looks at persons' crops can")
    if any(method.skeleton != first.skeleton for method in methods):
        raise ValueError(f"cannot average {names}: they find different keypoints")
    return replace(first, model=first.family.average([method.model for method in methods]))
