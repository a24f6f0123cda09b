"""The objective's terms and the signs of collapse, against independent computations."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from vjepa_sdk.config.model import ModelConfig
from vjepa_sdk.config.training import ObjectiveConfig
from vjepa_sdk.models.jepa import JEPA, distance_to_nearest, layer_norm_levels, variance_covariance
from vjepa_sdk.models.layers import gather_tokens
from vjepa_sdk.models.masks import Masks
from vjepa_sdk.training.guards import spread

MODEL = ModelConfig(
    img_size=32,
    num_frames=4,
    embed_dim=24,
    depth=2,
    num_heads=2,
    level_layers=(0, 1),
    predictor_embed_dim=12,
    predictor_depth=1,
    predictor_num_heads=1,
    predictor_levels=2,
    predictor_context=True,
)
MASKS = Masks((torch.tensor([[0, 1, 4, 5]] * 2),), (torch.tensor([[2, 3, 6, 7]] * 2),))


@pytest.fixture
def clips() -> torch.Tensor:
    return torch.rand(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))


def jepa(**objective: object) -> JEPA:
    torch.manual_seed(0)
    return JEPA(MODEL, ObjectiveConfig(**objective))  # type: ignore[arg-type]


def test_target_encoder_starts_as_a_copy_and_gets_no_gradient(clips: torch.Tensor) -> None:
    module = jepa()
    module(clips, MASKS).total.backward()
    pairs = zip(module.target_encoder.parameters(), module.context_encoder.parameters(), strict=True)
    assert all(torch.equal(target, context) for target, context in pairs)
    assert all(parameter.grad is None for parameter in module.target_encoder.parameters())
    assert any(parameter.grad is not None for parameter in module.context_encoder.parameters())


def test_update_is_an_exponential_moving_average() -> None:
    module = jepa()
    before = copy.deepcopy(module.target_encoder)
    with torch.no_grad():
        for parameter in module.context_encoder.parameters():
            parameter.add_(1.0)
    module.update_target(0.9)
    for old, new, online in zip(
        before.parameters(), module.target_encoder.parameters(), module.context_encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * online)


def test_hidden_pixels_reach_the_loss_through_the_target_alone(clips: torch.Tensor) -> None:
    module = jepa()
    changed = clips.clone()
    changed[..., 16:, :] += 1.0  # the rows of tokens 2, 3, 6, 7
    with torch.no_grad():
        assert torch.equal(
            module.context_encoder(clips, MASKS.context[0]), module.context_encoder(changed, MASKS.context[0])
        )
        assert not torch.equal(module.targets(clips), module.targets(changed))


def test_terms_add_up_with_their_weights(clips: torch.Tensor) -> None:
    losses = jepa(context_weight=0.5, variance_weight=0.05, covariance_weight=0.001)(clips, MASKS)
    expected = losses.prediction + 0.5 * losses.context + 0.05 * losses.variance + 0.001 * losses.covariance
    torch.testing.assert_close(losses.total, expected)
    assert min(term.item() for term in (losses.context, losses.variance, losses.covariance)) > 0


def test_unweighted_terms_are_not_computed(clips: torch.Tensor) -> None:
    losses = jepa()(clips, MASKS)
    assert float(losses.context) == float(losses.variance) == float(losses.covariance) == 0.0


def test_shared_mask_token_trains_the_first_alone(clips: torch.Tensor) -> None:
    masks = Masks(MASKS.context * 2, MASKS.target * 2)
    for kind, trained in (("shared", [True, False]), ("per_mask", [True, True])):
        module = jepa(mask_token=kind)
        module(clips, masks).total.backward()
        assert [token.grad is not None for token in module.predictor.mask_tokens] == trained


def test_each_level_is_normed_on_its_own() -> None:
    features = torch.randn(2, 5, 48) * torch.cat([torch.ones(24), torch.full((24,), 100.0)])
    normed = layer_norm_levels(features, 2)
    for chunk in normed.chunk(2, dim=-1):
        torch.testing.assert_close(chunk.mean(-1), torch.zeros(2, 5), atol=1e-5, rtol=0)
        torch.testing.assert_close(chunk.var(-1, unbiased=False), torch.ones(2, 5), atol=1e-3, rtol=0)


def test_distance_is_euclidean_in_tokens() -> None:
    # places in a grid of 2 x 3 x 4: (0,0,0), (1,2,3) against (0,0,1), (1,0,0)
    index, others = torch.tensor([[0, 23]]), torch.tensor([[1, 12]])
    distances = distance_to_nearest(index, others, grid=(2, 3, 4))
    torch.testing.assert_close(distances, torch.tensor([[1.0, 3.0]]))


def test_variance_and_covariance_match_numpy() -> None:
    features = torch.randn(4, 50, 6, generator=torch.Generator().manual_seed(1)) * 0.7
    variance, covariance = variance_covariance(features)
    matrix = np.cov(features.flatten(0, 1).double().numpy().T)
    hinge = np.maximum(0, 1 - np.sqrt(np.diag(matrix) + 1e-4)).mean()
    off_diagonal = (matrix**2).sum() - (np.diag(matrix) ** 2).sum()
    assert float(variance) == pytest.approx(hinge, rel=1e-4)
    assert float(covariance) == pytest.approx(off_diagonal / 6, rel=1e-4)


def test_spread_of_equal_tokens_is_collapsed() -> None:
    signs = spread(torch.ones(2, 100, 8))
    assert signs.std == pytest.approx(0, abs=1e-6)
    assert signs.effective_rank == pytest.approx(1, abs=0.01)
    assert signs.mean_cosine == pytest.approx(1, abs=1e-4)


def test_spread_of_isotropic_tokens_is_full() -> None:
    signs = spread(torch.randn(2, 1000, 8, generator=torch.Generator().manual_seed(0)))
    assert signs.std == pytest.approx(1, abs=0.05)
    assert signs.effective_rank == pytest.approx(8, abs=0.1)
    assert signs.mean_cosine == pytest.approx(0, abs=0.01)


def test_one_level_model_predicts_plain_features(clips: torch.Tensor) -> None:
    config = dataclasses.replace(MODEL, level_layers=(), predictor_levels=1, predictor_context=False)
    module = JEPA(config, ObjectiveConfig())
    assert module.targets(clips).shape == (2, 8, 24)
    assert module(clips, MASKS).total.isfinite()


def test_target_blocks_are_predicted_one_by_one_from_one_context(clips: torch.Tensor) -> None:
    model = dataclasses.replace(MODEL, level_layers=(), predictor_levels=1, predictor_context=False)
    torch.manual_seed(0)
    module = JEPA(model, ObjectiveConfig(loss="smooth_l1")).eval()
    blocks = [torch.tensor([[2, 3], [6, 7]]), torch.tensor([[6, 7], [2, 6]])]
    together = module(clips, Masks(MASKS.context, (torch.stack(blocks, dim=1),))).total
    one_by_one = [module(clips, Masks(MASKS.context, (block,))).total for block in blocks]
    torch.testing.assert_close(together, torch.stack(one_by_one).mean())


@pytest.mark.parametrize(
    ("loss", "oracle"),
    [
        ("l1", torch.nn.functional.l1_loss),
        ("l2", lambda a, b: torch.nn.functional.mse_loss(a, b) / 2),
        ("smooth_l1", torch.nn.functional.smooth_l1_loss),
    ],
)
def test_distance_is_the_one_named(
    loss: str, oracle: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], clips: torch.Tensor
) -> None:
    module = jepa(loss=loss)
    visible, hidden = MASKS.context[0], MASKS.target[0]
    features = module.context_encoder.forward_levels(clips, visible)
    predicted = module.predictor(features, visible, hidden, grid=(2, 2, 2))
    expected = oracle(predicted, gather_tokens(module.targets(clips), hidden))
    torch.testing.assert_close(module(clips, MASKS).prediction, expected)


def test_context_is_predicted_while_its_ramp_weighs_nothing(clips: torch.Tensor) -> None:
    module = jepa(context_weight=0.5, context_ramp=(10, 20))
    losses = module(clips, MASKS, context_weight=0.0)
    assert float(losses.context.detach()) > 0.1
    assert torch.equal(losses.total, losses.prediction)


def test_recomputed_activations_give_the_same_gradients(clips: torch.Tensor) -> None:
    gradients = []
    for recompute in (False, True):
        module = jepa(context_weight=0.5)
        module.set_activation_checkpointing(recompute)
        module(clips, MASKS).total.backward()
        gradients.append([parameter.grad for parameter in module.parameters() if parameter.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
