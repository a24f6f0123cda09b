"""Words that options take, each spelt once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import torch

    Device: TypeAlias = str | torch.device | None
    """`cuda`, `mps` or `cpu`, also with a number; None: the best there is."""
else:
    Device = Any  # torch is not loaded to name a type of it


def device_name(device: Device) -> str | None:
    """Return what a device is called, as options keep it."""
    return device if device is None else str(device)


Decoder = Literal["pyav", "decord", "pyav-deinterlace", "torchcodec"]
"""`pyav`: exact on every file; `decord`: frame for frame what the official pipelines get; `pyav-deinterlace`: as `pyav`
is, with frames that are marked as interlaced made whole; `torchcodec`: what pipelines of transformers get."""

CropOffset = Literal["round", "floor"]
"""Where the centre crop begins. `round`: the official evaluation code; `floor`: transformers' video processor."""

Tail = Literal["pad", "drop", "overlap"]
"""What becomes of an end that does not fill a window: `pad`: a window that repeats the last frame; `drop`: none;
`overlap`: a whole window, moved back so that it ends where the video ends."""

EncoderWeights = Literal["target", "context"]
"""`target`: the moving average, whose features the predictor predicts; `context`: the encoder that is trained."""

GRID_SIDE = 3
Pooling = Literal["mean", "temporal", "grid", "change", "none"]
"""`mean`: one vector; `temporal`: one for each tubelet in time; `grid`: nine for each tubelet, the means over 3 x 3
parts of the frame, which keep roughly where something is and when; `change`: one number for each token but the first
tubelet's, how far it is from the token before it; `none`: one vector for each token."""

Dtype = Literal["float32", "float16"]
"""Of features on disk."""

Precision = Literal["float32", "bfloat16", "float16", "int8", "auto"]
"""What an encoder computes its blocks in. `float32`: as its weights are; `int8`: products of integers, scaled by token;
`auto`: bfloat16 where a block is quicker so on this machine, else float32."""

OnError = Literal["skip", "stop"]
"""`skip`: list a clip that fails and go on; `stop`: raise."""

Layout = Literal["vjepa", "transformers"]
"""Of a model directory that `convert` writes."""

Content = Literal["clips", "stills"]
"""What a pass of a training step is made of."""

Metric = Literal["cosine", "centered"]
"""`cosine` of the features as they are; `centered`: after the mean of all rows is taken off, which many features of one
model share, so that their cosines crowd near 1."""

ProbeKind = Literal["linear", "knn", "attentive", "regression"]
"""`linear`: logistic regression; `knn`: a vote of the nearest labelled rows; `attentive`: attention over tokens;
`regression`: ridge regression of a number."""

QueryAggregation = Literal["mean", "max"]
"""How several queries, or the windows of one, are asked together. `mean`: for what is most like all of them, by the
mean of their directions; `max`: for what is most like any of them."""

SearchBackend = Literal["exact", "faiss"]
"""`exact`: every row is compared; `faiss`: an approximate index for many millions of rows."""

ClusterMethod = Literal["kmeans", "hdbscan", "communities"]
"""`kmeans`: a given number around centres; `hdbscan`: dense places; `communities`: a threshold of likeness."""
