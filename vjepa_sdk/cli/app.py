"""The `vjepa` command: its commands, and what becomes of errors."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from typing import Annotated

import typer

from .._version import __version__
from ..errors import VJEPAError, one_line
from ..runtime.host import load_torch_from_anywhere
from .bench import bench
from .check import check
from .cluster import cluster
from .convert import convert
from .demo import demo
from .doctor import doctor
from .duplicates import duplicates
from .embed import embed
from .exit_codes import EXIT_CODES, FAILED
from .merge import merge
from .models import models
from .outliers import outliers
from .pretrain import PretrainCommand, pretrain
from .probe import probe
from .push import push
from .search import search
from .stdout import patient_stdout
from .surprise import surprise
from .viz.group import viz

app = typer.Typer(
    rich_markup_mode=None,  # its table cuts off the names of options
    epilog="Exit codes: 0 complete; 1 failed; 2 wrong option or input; 3 complete, some clips skipped; "
    "4 output in use; 5 resume refused; 6 training stopped by a guard; 75 stopped by a signal, run again to go on.",
    help="Turn video into features with joint-embedding predictive models, and train such models.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command()(embed)
app.command()(merge)
app.command()(search)
app.command()(duplicates)
app.command()(outliers)
app.command()(cluster)
app.command()(surprise)
app.command()(check)
app.command(cls=PretrainCommand)(pretrain)
app.command()(convert)
app.command()(push)
app.command()(models)
app.command()(bench)
app.command()(doctor)
app.add_typer(probe, name="probe")
app.add_typer(viz, name="viz")


def main() -> None:
    """Run the command line; every error of ours becomes one line on stderr and an exit code."""
    # Threads of torch that wait by spinning take the processor from decoders and from other programs: on two busy cores
    # that made a command three to six times as dear, and on idle ones it gains nothing. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Python's last act is to search everything for garbage, a third of a second where torch is loaded; this hides it.
    atexit.register(gc.freeze)
    load_torch_from_anywhere()
    try:
        with patient_stdout():
            app()
    except VJEPAError as error:
        code = next(code for kind, code in EXIT_CODES if isinstance(error, kind))
        print(f"vjepa: {one_line(str(error))}", file=sys.stderr)
        sys.exit(code)
    except KeyboardInterrupt:
        print("vjepa: interrupted", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        # a disk that fills up, say: nothing that a traceback would explain better
        print(f"vjepa: {one_line(str(error))}", file=sys.stderr)
        sys.exit(FAILED)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"vjepa-sdk {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass
