"""`vjepa push`: publish a model, a probe or features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import printable
from .options import Json, Quiet, Verbose, print_result, set_up_logging


def push(
    path: Annotated[Path, typer.Argument(metavar="DIR", help="Model or probe directory, or features.")],
    repository: Annotated[str, typer.Argument(metavar="REPO", help="Hub id, owner/name; made if it is not there.")],
    *,
    branch: Annotated[str | None, typer.Option(help="Branch to push to, made if it is not there; or main.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Propose the commit as a pull request.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and list the files, but send nothing.")] = False,
    new_card: Annotated[bool, typer.Option("--new-card", help="Write the model's README.md anew first.")] = False,
    keep_card: Annotated[bool, typer.Option("--keep-card", help="Leave the card that the hub has as it is.")] = False,
    commit_message: Annotated[str | None, typer.Option(help="First line of the commit's message.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Publish a model, a probe or features on the hub. Log in first: `hf auth login`, or set HF_TOKEN."""
    set_up_logging(quiet, verbose)
    from ..hub.publish import push as run_push

    report = run_push(
        path,
        repository,
        branch=branch,
        private=private,
        create_pr=create_pr,
        dry_run=dry_run,
        new_card=new_card,
        keep_card=keep_card,
        commit_message=commit_message,
    )
    lines = [f"{name}  {size:,} bytes" for name, size in report.files.items()]
    lines += [f"{name}  deleted on the hub, replaced by these" for name in report.deleted]
    lines += [f"{name}  left out: {reason}" for name, reason in report.left_out.items()]
    state = (
        "would be pushed" if report.dry_run else f"pushed, {report.url}" if report.changed else "unchanged, no commit"
    )
    print_result(report, as_json, "\n".join([*map(printable, lines), f"{repository}: {state}"]))
