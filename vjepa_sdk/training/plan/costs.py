"""Count the operations and bytes of one forward and backward pass from the shapes of the networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...config.model import ModelConfig
from ...config.training import ObjectiveConfig, Precision

FLOAT32 = 4
# products of all pairs of tokens: scores and values forward; backward the scores once more and four gradients
_ATTENTION_FORWARD, _ATTENTION_BACKWARD = 2, 5


@dataclass(frozen=True)
class MaskLengths:
    """Tokens that one mask set of one sample shows and hides."""

    context: int
    target: int
    blocks: int = 1
    """Target blocks of `target` tokens each, predicted one by one (I-JEPA)."""


@dataclass(frozen=True, kw_only=True)
class PassShape:
    """What goes through the networks at once, and how."""

    model: ModelConfig
    objective: ObjectiveConfig
    precision: Precision
    activation_checkpointing: bool
    batch_size: int
    num_frames: int
    img_size: int

    @property
    def tubelet_size(self) -> int:
        """Frames of a token; single frames are embedded on their own."""
        return 1 if self.num_frames == 1 else self.model.tubelet_size

    @property
    def tokens(self) -> int:
        """Tokens of one sample."""
        return self.num_frames // self.tubelet_size * (self.img_size // self.model.patch_size) ** 2

    @property
    def values_per_token(self) -> int:
        """Pixel values that one token is made from."""
        return 3 * self.tubelet_size * self.model.patch_size**2

    @property
    def number_bytes(self) -> int:
        """Bytes of a number in the networks."""
        return FLOAT32 if self.precision == "float32" else 2

    @property
    def residual_bytes(self) -> int:
        """Bytes of a number between blocks: what is added to the tokens at float32 makes them float32."""
        adds = self.model.position == "sincos" or self.model.image_tokenizer
        return FLOAT32 if adds else self.number_bytes

    @property
    def encoder(self) -> Stack:
        """The encoder's blocks."""
        model = self.model
        return Stack(model.embed_dim, model.depth, model.num_heads, int(model.embed_dim * model.mlp_ratio))

    @property
    def predictor(self) -> Stack:
        """The predictor's blocks."""
        model, width = self.model, self.model.predictor_embed_dim
        hidden = int(width * model.predictor_mlp_ratio)
        return Stack(width, model.predictor_depth, model.predictor_num_heads, hidden)


@dataclass(frozen=True)
class Stack:
    """Transformer blocks of one network."""

    width: int
    depth: int
    heads: int
    hidden: int
    """Width inside the MLP."""

    def forward_operations(self, tokens: int) -> float:
        """Operations of a forward pass over a sequence."""
        return self.depth * (self._linear(tokens) + _ATTENTION_FORWARD * self._pairs(tokens))

    def recomputed_operations(self, tokens: int) -> float:
        """Operations of the second forward pass of activation checkpointing: all but each block's last product."""
        return self.forward_operations(tokens) - self.depth * 2.0 * tokens * self.width * self.hidden

    def training_operations(self, tokens: int) -> float:
        """Operations of a forward and a backward pass over a sequence."""
        attention = (_ATTENTION_FORWARD + _ATTENTION_BACKWARD) * self._pairs(tokens)
        return self.depth * (3 * self._linear(tokens) + attention)

    def kept_bytes(self, number_bytes: int, *, has_rope: bool) -> int:
        """Bytes that one block keeps of a token for its backward pass."""
        # inputs of both norms; their outputs, queries, keys, values, what attention returns; both sides of the GELU
        numbers = 6 * self.width + 2 * self.hidden + (2 * self.width if has_rope else 0)
        return FLOAT32 * (2 * self.width + self.heads) + number_bytes * numbers

    @property
    def widest(self) -> int:
        """Numbers that a block holds of a token at its widest, around the GELU."""
        return 2 * self.width + 2 * self.hidden

    def _linear(self, tokens: int) -> float:
        return 2.0 * tokens * self.width * (4 * self.width + 2 * self.hidden)

    def _pairs(self, tokens: int) -> float:
        return 2.0 * tokens * tokens * self.width


@dataclass(frozen=True)
class Operations:
    """Floating-point operations; a multiplication with its addition counts as two.

    Matrix products and attention, forward and backward. Norms, activations and the optimizer are left out.
    """

    target_encoder: float
    context_encoder: float
    predictor: float
    recomputation: float
    """Second forward pass through the blocks, with activation checkpointing."""
    total: float


def pass_operations(shape: PassShape, masks: Sequence[MaskLengths]) -> Operations:
    """Return the operations of one forward and backward pass over a batch."""
    width, embed = shape.model.embed_dim, 2.0 * shape.values_per_token * shape.model.embed_dim
    target = shape.tokens * embed + shape.encoder.forward_operations(shape.tokens)
    context = predictor = again = 0.0
    for mask in masks:
        seen, length = mask.context, mask.context + mask.target
        # pixels need no gradient: this product is done twice, not three times
        context += 2 * seen * embed + shape.encoder.training_operations(seen)
        if shape.objective.variance_weight or shape.objective.covariance_weight:
            context += 3 * 2.0 * seen * width**2
        predictor += mask.blocks * (_ends_of_predictor(shape, mask) + shape.predictor.training_operations(length))
        again += shape.encoder.recomputed_operations(seen) + mask.blocks * shape.predictor.recomputed_operations(length)
    parts = (target, context, predictor, again if shape.activation_checkpointing else 0.0)
    return Operations(*(shape.batch_size * part for part in (*parts, sum(parts))))


def _ends_of_predictor(shape: PassShape, mask: MaskLengths) -> float:
    """Return the operations of the layers around the predictor's blocks, forward and backward."""
    model, width = shape.model, shape.model.predictor_embed_dim
    features = model.predictor_levels * model.embed_dim
    embed = features * width if model.predictor_levels == 1 else (features + width) * model.embed_dim
    outputs = mask.target + (mask.context if shape.objective.context_weight else 0)
    return 3 * 2.0 * (mask.context * embed + outputs * width * model.prediction_dim)


@dataclass(frozen=True)
class PassMemory:
    """Bytes of one pass, beside weights, gradients and optimizer state."""

    activations: int
    """Kept from the forward pass until the backward pass needs it."""
    working: int
    """Needed for a moment, on top of that."""


def pass_memory(shape: PassShape, masks: Sequence[MaskLengths]) -> PassMemory:
    """Return the bytes that one pass holds beside weights, gradients and optimizer state.

    Kept is what autograd keeps with fused attention, norms in float32 and the rest at the run's precision; of all mask
    sets at once, because their losses are added before the backward pass. With activation checkpointing each block
    keeps its input alone, and one block at a time is computed again.
    """
    number, has_rope = shape.number_bytes, shape.model.position == "rope"
    targets = shape.tokens * shape.model.predictor_levels * shape.model.embed_dim * FLOAT32
    kept = clips = shape.tokens * shape.values_per_token * FLOAT32
    block, loss = 0, 0
    for mask in masks:
        kept += _ends_memory(shape, mask)
        loss = max(loss, _loss_memory(shape, mask))
        parts = ((shape.encoder, mask.context), (shape.predictor, mask.blocks * (mask.context + mask.target)))
        for stack, tokens in parts:
            inside, moving = tokens * stack.kept_bytes(number, has_rope=has_rope), tokens * stack.widest * number
            if shape.activation_checkpointing:
                kept += stack.depth * tokens * stack.width * shape.residual_bytes
                block = max(block, inside + moving)
            else:
                kept += stack.depth * inside
                block = max(block, moving)
    # autocast holds a 16-bit copy of each trained weight during the forward pass, and the graph holds on to it
    copies = 0 if shape.precision == "float32" else shape.model.num_parameters * number
    activations = kept * shape.batch_size + (0 if shape.activation_checkpointing else copies)
    peak = max(
        shape.batch_size * (clips + max(shape.tokens * shape.encoder.widest * number, 3 * targets)),
        shape.batch_size * (kept + targets + 2 * loss) + copies,
        shape.batch_size * block + activations,
    )
    return PassMemory(activations, peak - activations)


def _ends_memory(shape: PassShape, mask: MaskLengths) -> int:
    """Return the bytes that one sample keeps around the blocks of both networks."""
    model, number = shape.model, shape.number_bytes
    dim, levels, length = model.embed_dim, model.predictor_levels, mask.context + mask.target
    visible = number * (shape.values_per_token + mask.blocks * levels * dim) + FLOAT32 * levels * dim
    if levels > 1:
        visible += number * 2 * dim
    if shape.objective.variance_weight or shape.objective.covariance_weight:
        visible += FLOAT32 * dim
    everywhere = (FLOAT32 + number) * shape.predictor.width
    if model.position == "rope":
        visible += FLOAT32 * 2 * (dim // model.num_heads)
        everywhere += FLOAT32 * 2 * (shape.predictor.width // shape.predictor.heads)
    return mask.context * visible + mask.blocks * length * everywhere + _loss_memory(shape, mask)


def _loss_memory(shape: PassShape, mask: MaskLengths) -> int:
    """Return the bytes of the differences between predictions and targets of one sample."""
    predicted = mask.blocks * mask.target * (2 if shape.objective.loss == "smooth_l1" else 1)
    restored = mask.context if shape.objective.context_weight else 0
    return FLOAT32 * shape.model.prediction_dim * (predicted + restored)
