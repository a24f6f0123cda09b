"""`vjepa viz` and its commands."""

from __future__ import annotations

import typer

from .attention import attention
from .embeddings import embeddings
from .pca import pca
from .probe import probe
from .run import run
from .similarity import similarity
from .surprise import surprise

viz = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Draw what models see, features, probes and runs.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (pca, similarity, attention, surprise, probe, embeddings, run):
    viz.command()(command)
