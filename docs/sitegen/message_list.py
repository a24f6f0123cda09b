"""The page of messages: what the code raises, warns of and refuses, read from its sources."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vjepa_sdk import errors
from vjepa_sdk.cli.exit_codes import EXIT_CODES

PACKAGE = Path(errors.__file__).parent
_HEAD = """\
# Messages and remedies

What vjepa-sdk says when something is wrong, word for word, read from its sources: search this page, or the site, for
the words that stay the same. `…` stands for what differs from case to case: a path, a number, a name. A message has the
value, the rule and the remedy; where that is not enough, the guide named with each part says more.

All error classes are a `VJEPAError`: `except vjepa_sdk.VJEPAError` catches them. On the command line a message is one
line, `vjepa: …`, and the number is the [exit code](exit-codes.md). Warnings do not end a command.
"""
_PARTS = {
    "cli": ("Commands and options", "[Command line](command-line.md)"),
    "config": ("Settings, recipes and names", "[Pretraining](../pretraining.md)"),
    "corpus": ("Lists and directories of clips", "[From an archive to features](../corpora.md)"),
    "video": (
        "Videos, images and frames",
        "[From videos to features](../encoding.md), [Damaged files](../damaged-files.md)",
    ),
    "features": ("Files of features", "[Files](files.md)"),
    "weights": ("Model and probe directories, conversion", "[The hub](../hub.md), [Models](models.md)"),
    "hub": ("The hub", "[The hub](../hub.md)"),
    "models": ("Networks and masks", "[How it works](../how-it-works.md)"),
    "inference": ("Encoding, predicting, jobs", "[From an archive to features](../corpora.md)"),
    "training": ("Pretraining", "[Pretraining](../pretraining.md)"),
    "downstream": (
        "Search, probes, surprise",
        "[Search](../search.md), [Probes](../probes.md), [Surprise](../surprise.md)",
    ),
    "viz": ("Pictures", "[Pictures](../pictures.md)"),
    "runtime": ("Processes, files and signals", "[From an archive to features](../corpora.md)"),
}
_CLASSES = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
_WORDS = re.compile(r"[A-Za-z]{2,}.*[A-Za-z]{2,}", re.S)
_DIRECTIVE = re.compile(r"%(?:\.\d+)?[sdrf]")
"""Of logging's texts."""


@dataclass(frozen=True, order=True)
class Message:
    """One thing that is said, as it stands in the code."""

    text: str
    kind: str
    """The class of an error, or `warning`."""
    wing: str


def page() -> str:
    """Return the page."""
    by_wing: dict[str, set[Message]] = defaultdict(set)
    for message in messages():
        by_wing[message.wing].add(message)
    lines = [_HEAD]
    for wing, (title, guides) in _PARTS.items():
        lines += [f"## {title}", "", f"More: {guides}.", ""]
        lines += [f"- {_code(message.text)} {_outcome(message.kind)}" for message in sorted(by_wing[wing], key=_order)]
        lines += [""]
    return "\n".join(lines)


def messages() -> Iterator[Message]:
    """Yield what can be read from the sources: texts that are put together elsewhere are not."""
    for path in sorted(PACKAGE.rglob("*.py")):
        wing = path.relative_to(PACKAGE).parts[0]
        if wing in _PARTS:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            constants = {
                node.targets[0].id: node.value
                for node in tree.body
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            }
            for kind, value in _said(tree):
                value = constants.get(value.id, value) if isinstance(value, ast.Name) else value
                yield from (Message(text, kind, wing) for text in _texts(value) if _WORDS.search(text))


def _said(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Yield class and text of every error that is made, and the text of every warning."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in _CLASSES:
            yield name, node.args[0]
        elif name == "warning" and isinstance(node.func, ast.Attribute):
            yield "warning", node.args[0]


def _texts(value: ast.expr) -> Iterator[str]:
    """Yield what an expression says, for each way that it can go."""
    match value:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)
        case ast.IfExp(body=body, orelse=orelse):
            yield from (*_texts(body), *_texts(orelse))
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            yield from (f"{one}{two}" for one in _texts(left) or ["…"] for two in _texts(right))
        case _:
            yield "…"


def _code(text: str) -> str:
    """Return a text as code, in one line."""
    text = " ".join(_DIRECTIVE.sub("…", text).replace("%%", "%").split())
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _outcome(kind: str) -> str:
    if kind == "warning":
        return "*warning*"
    code = next(code for error, code in EXIT_CODES if issubclass(_CLASSES[kind], error))
    return f"*{kind}, exit code {code}*"


def _order(message: Message) -> tuple[str, str]:
    """Sort by the words, not by what is put in before them."""
    return message.text.lstrip("…'\"`: ").lower(), message.kind
