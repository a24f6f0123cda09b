"""The pages of the Python reference: which names are on which page; mkdocstrings fills in what their docstrings say."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import vjepa_sdk

_PAGES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "inference": (
        "Models at work",
        ("inference.",),
        "Load a model; encode videos, windows and archives; predict what is hidden; measure surprise. "
        "Guides: [features](../encoding.md), [archives](../corpora.md), [long videos](../long-videos.md), "
        "[fine-tuning](../fine-tuning.md).",
    ),
    "features": (
        "Features",
        ("features.", "hub.locate"),
        "What features are once they are computed. Guide: [archives](../corpora.md). On disk: [files](files.md).",
    ),
    "clips": (
        "Clips and videos",
        ("corpus.", "video."),
        "Which clips there are, whether they can be read, and their frames. Guide: [features](../encoding.md).",
    ),
    "downstream": (
        "Search and probes",
        ("downstream.", "config.protocols"),
        "Answers on frozen features. Guides: [search](../search.md), [probes](../probes.md), "
        "[evaluations](../evaluations.md), [surprise](../surprise.md).",
    ),
    "viz": (
        "Pictures",
        ("viz.",),
        "What an encoder sees, as films, sheets and pages. Guide: [pictures](../pictures.md).",
    ),
    "training": (
        "Pretraining",
        ("training.", "config.training", "config.recipes"),
        "From videos without labels to a model. Guide: [pretraining](../pretraining.md).",
    ),
    "hub": ("Hub", ("hub.upload", "hub.publish"), "Publish models, probes and features. Guide: [the hub](../hub.md)."),
    "config": (
        "Configuration and errors",
        ("config.model", "config.registry", "errors"),
        "What a model is, which are known by name ([models](models.md)), and what goes wrong "
        "([messages](messages.md)).",
    ),
}


def pages() -> dict[str, Callable[[], str]]:
    """Return the pages by the names of their files."""
    return {f"reference/python-{name}.md": lambda name=name: _page(name) for name in _PAGES}  # type: ignore[misc]


def names_on(page: str) -> list[str]:
    """Return the public names of a page: functions and the classes that are made by callers first."""
    homes = _PAGES[page][1]
    names = [name for name, home in vjepa_sdk._HOMES.items() if home.startswith(homes)]
    return sorted(names, key=lambda name: (name != "VJEPA", inspect.isclass(getattr(vjepa_sdk, name)), name.lower()))


def _page(name: str) -> str:
    title, _, text = _PAGES[name]
    lines = [f"# {title}", "", text, ""]
    for public in names_on(name):
        summary = (inspect.getdoc(getattr(vjepa_sdk, public)) or "").split("\n\n")[0].replace("\n", " ")
        lines.append(f"- [`{public}`][vjepa_sdk.{public}]: {summary}")
    lines.append("")
    for public in names_on(name):
        lines += [f"::: vjepa_sdk.{public}", ""]
    if name == "config":
        lines += ["## All errors", "", "::: vjepa_sdk.errors", "    options:", "      show_root_heading: false", ""]
    return "\n".join(lines)
