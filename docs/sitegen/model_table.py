"""The page of models: what is known by name, under which licence, with which published scores."""

from __future__ import annotations

from collections.abc import Iterator

from vjepa_sdk import list_models, list_protocols
from vjepa_sdk.config.registry import ModelInfo

_HEAD = """\
# Models, licences, scores

Made from the table that `vjepa models` and `VJEPA.from_pretrained` use. `features` is the feature dimension of a model,
the length of the vector that `encode` returns for one video; of a loaded one it is `model.embed_dim`. How files are
fetched, checked and converted: [the hub](../hub.md#official-weights).

"""
_LICENCES = """
## Licences

| what | licence |
|---|---|
| the code of vjepa-sdk | Apache-2.0. None of it is taken from the official repositories, which it equals by test |
| `vjepa-tiny`, which comes along | Apache-2.0; its model card names the videos it learnt from and their licences |
| the sample clips | Apache-2.0: they are rendered |
| V-JEPA 1 and I-JEPA, official weights | CC-BY-NC-4.0: no commercial use, also of models that start from them |
| V-JEPA 2 and 2.1, official weights | MIT, or Apache-2.0 where the table says so |
| what you train on your own videos | yours to choose, as far as the videos and the weights you start from allow |

Only your choice of a model brings a non-commercial licence in: the table names it, loading it says so once, before the
download, and a copy keeps it. The official code of V-JEPA 1 and I-JEPA is CC-BY-NC too; none of it is in this package.
"""
_SCORES = """
## Published scores

Top-1 accuracy of frozen attentive probes in per cent, as the papers give them. `vjepa probe train --protocol NAME`
repeats them, with every difference from its setting beside your number: [evaluations](../evaluations.md).

"""


def page() -> str:
    """Return the page."""
    return "\n".join([*_models(), *_scores(), _LICENCES]).replace("\n\n\n", "\n\n")


def _models() -> Iterator[str]:
    yield _HEAD
    yield "| name | family | parameters | clip | features | licence | from |"
    yield "|---|---|---|---|---|---|---|"
    for info in list_models():
        clip = f"{info.num_frames} x {info.resolution}" if info.num_frames > 1 else f"{info.resolution}"
        cells = (
            f"`{info.name}`",
            info.family,
            _millions(info.parameters),
            clip,
            info.embed_dim,
            info.licence,
            _origin(info),
        )
        yield "| " + " | ".join(map(str, cells)) + " |"


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f} M" if count < 1e7 else f"{count / 1e6:,.0f} M"


def _origin(info: ModelInfo) -> str:
    if info.is_bundled:
        return "the package"
    return f"hub: {info.source}" if info.is_on_hub else "official file, converted at first use"


def _scores() -> Iterator[str]:
    yield _SCORES
    yield "| protocol | data | published | source |"
    yield "|---|---|---|---|"
    for protocol in list_protocols():
        if protocol.published:
            scores = ", ".join(f"`{model}` {score}" for model, score in protocol.published.items())
            yield f"| `{protocol.name}` | {protocol.data} | {scores} | {protocol.source} |"
