"""`vjepa cluster`: sort clips into clusters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..config.choices import ClusterMethod, Metric
from .options import Json, Quiet, Verbose, set_up_logging
from .tables import (
    METRIC_HELP,
    TABLE_HELP,
    FeaturesFile,
    Html,
    Overwrite,
    check_file,
    name_of,
    page_options,
    relative_to,
    write_table,
)

_COLUMNS = ("path", "id", "row", "start_seconds", "end_seconds", "cluster", "is_medoid")


def cluster(
    features: FeaturesFile,
    *,
    n_clusters: Annotated[int, typer.Option("--n-clusters", "-n", help="Clusters of kmeans.")] = 8,
    method: Annotated[
        ClusterMethod, typer.Option(help="A number of centres, dense places, or a threshold of likeness.")
    ] = "kmeans",
    threshold: Annotated[float, typer.Option(help="Of communities: least cosine to the centre.")] = 0.75,
    min_size: Annotated[int, typer.Option(help="Of hdbscan and communities: rows of a cluster, at least.")] = 10,
    metric: Annotated[Metric, typer.Option(help=METRIC_HELP)] = "centered",
    seed: Annotated[int, typer.Option(help="Of the starts of kmeans.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help=f"{TABLE_HELP} A line for every row.")] = None,
    html: Html = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Sort clips into clusters. Prints number, rows, likeness and the clip in the middle of each, the largest first."""
    set_up_logging(quiet, verbose)
    check_file(out, overwrite=overwrite)
    check_file(html, overwrite=overwrite, option="html")
    from ..downstream.clusters import cluster as sort
    from ..downstream.stored import open_features

    opened = open_features(features)
    found = sort(
        opened,
        method=method,
        n_clusters=n_clusters,
        threshold=threshold,
        min_size=min_size,
        metric=metric,
        seed=seed,
    )
    if out is not None:
        medoids = {each.medoid for each in found.clusters}
        labelled = zip(opened.entries(), found.labels.tolist(), strict=True)
        rows = [
            {**entry, "path": relative_to(out, entry["path"]), "cluster": label, "is_medoid": entry["row"] in medoids}
            for entry, label in labelled
        ]
        write_table(out, [{key: row[key] for key in _COLUMNS} for row in rows], columns=_COLUMNS)
    if html is not None:
        from ..viz.answer_pages import save_clusters

        of_method: dict[str, dict[str, object]] = {
            "kmeans": {"n_clusters": n_clusters, "seed": seed},
            "hdbscan": {"min_size": min_size},
            "communities": {"threshold": threshold, "min_size": min_size},
        }
        settings: dict[str, object] = {"method": method, "metric": metric, **of_method[method]}
        save_clusters(found, opened, page_options(html, settings, overwrite=overwrite, quiet=quiet))
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
        return
    for each in found.clusters:
        print(f"{each.number}\t{len(each.rows)}\t{each.likeness:.4f}\t{name_of(opened.entry(each.medoid))}")
    if outside := int((found.labels < 0).sum()):
        print(f"-\t{outside}")
