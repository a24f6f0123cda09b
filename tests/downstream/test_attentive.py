"""Attentive probes start as the official ones do, and take the official steps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vjepa_sdk.config.protocols import GridPoint
from vjepa_sdk.downstream.attentive import AttentiveOptions, _Trainer, fit_attentive, train_grid
from vjepa_sdk.downstream.fit import Examples, predict_videos
from vjepa_sdk.errors import ConfigError
from vjepa_sdk.models.attentive_probe import AttentiveProbe, ProbeConfig

STD = 0.02


def options(**changes: Any) -> AttentiveOptions:
    defaults: dict[str, Any] = {
        "num_classes": 3,
        "depth": 1,
        "num_heads": 4,
        "self_attention": "before",
        "epochs": 2,
        "batch_size": 8,
        "grid": (GridPoint(1e-3, 0.1),),
        "one_row_a_video": False,
        "class_weight": None,
        "seed": 0,
        "device": torch.device("cpu"),
        "show_progress_bar": False,
    }
    return AttentiveOptions(**{**defaults, **changes})


def tokens(count: int = 24, *, seed: int = 0) -> Examples:
    """Draw clips whose class shows in one of their tokens, wherever that is."""
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % 3
    drawn = rng.normal(size=(count, 2, 2, 2, 16)).astype(np.float32)
    for clip, target in enumerate(targets):
        drawn[clip].reshape(8, 16)[rng.integers(8), target] += 12.0
    return Examples.of(drawn, np.arange(count), targets)


@pytest.mark.parametrize(
    ("self_attention", "depth", "cross", "blocks"),
    [
        ("before", 1, math.sqrt(2), []),
        ("before", 2, math.sqrt(2), [math.sqrt(2)]),
        ("before", 4, math.sqrt(6), [math.sqrt(2), 2.0, math.sqrt(6)]),
        ("after", 1, math.sqrt(2), []),
        ("after", 3, math.sqrt(2), [2.0, math.sqrt(6)]),
    ],
)
def test_output_layers_start_scaled_as_the_official_loops_leave_them(
    self_attention: Any, depth: int, cross: float, blocks: list[float]
) -> None:
    torch.manual_seed(0)
    config = ProbeConfig(embed_dim=256, num_classes=9, num_heads=4, depth=depth, self_attention=self_attention)
    probe = AttentiveProbe(config)

    def std(name: str) -> float:
        return float(probe.get_parameter(name).detach().std())

    assert std("pooler.cross_attention_block.mlp.fc2.weight") == pytest.approx(STD / cross, rel=0.02)
    assert std("pooler.cross_attention_block.mlp.fc1.weight") == pytest.approx(STD, rel=0.02)
    assert std("pooler.cross_attention_block.xattn.kv.weight") == pytest.approx(STD, rel=0.02)
    for number, divisor in enumerate(blocks):
        for name in ("attn.proj.weight", "mlp.fc2.weight"):
            assert std(f"pooler.blocks.{number}.{name}") == pytest.approx(STD / divisor, rel=0.02)
        assert std(f"pooler.blocks.{number}.attn.qkv.weight") == pytest.approx(STD, rel=0.02)


def test_the_last_layer_starts_as_pytorch_starts_it() -> None:
    torch.manual_seed(0)
    linear = AttentiveProbe(ProbeConfig(embed_dim=256, num_classes=400, num_heads=4)).linear
    bound = 1 / math.sqrt(256)
    assert float(linear.weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert float(linear.weight.detach().abs().max()) <= bound and float(linear.bias.detach().abs().max()) > 0.5 * bound


@pytest.mark.parametrize("self_attention", ["before", "after"])
def test_every_step_is_the_official_one(self_attention: str) -> None:
    """Repeat the training by hand: AdamW written out, with the official groups, schedules and clipping."""
    given, chosen = tokens(16), options(self_attention=self_attention)
    trained = train_grid(given, [GridPoint(0.01, 0.4)], chosen)[0]
    torch.manual_seed(0)
    probe = AttentiveProbe(chosen.config(16)).train()
    order, moments = np.random.default_rng(0), {}
    for step in range(4):
        if step % 2 == 0:
            rows = order.permutation(16)
        taken = np.sort(rows[8 * (step % 2) : 8 * (step % 2) + 8])
        batch, targets = torch.from_numpy(given.table[taken]).flatten(1, 3), torch.from_numpy(given.targets[taken])
        loss = F.cross_entropy(probe(batch), targets)
        gradients = torch.autograd.grad(loss, list(probe.parameters()))
        if self_attention == "after":
            norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
            gradients = tuple(gradient * min(1.0, 1.0 / (norm + 1e-6)) for gradient in gradients)
        progress = (step + 1) / 4
        rate = 0.01 * 0.5 * (1 + math.cos(math.pi * progress))
        decay = 0.4 if self_attention == "before" else 1e-6 + (0.4 - 1e-6) * 0.5 * (1 + math.cos(math.pi * progress))
        with torch.no_grad():
            for (name, weight), gradient in zip(probe.named_parameters(), gradients, strict=True):
                first, second = moments.get(name, (torch.zeros_like(weight), torch.zeros_like(weight)))
                first = 0.9 * first + 0.1 * gradient
                second = 0.999 * second + 0.001 * gradient.square()
                moments[name] = first, second
                is_decayed = self_attention == "before" or weight.ndim > 1
                weight.mul_(1 - rate * decay if is_decayed else 1.0)
                scaled = (second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
                weight.sub_(rate * first / (1 - 0.9 ** (step + 1)) / scaled)
    for name, weight in probe.named_parameters():
        # attention does not change with the bias of its keys: their gradient is rounding, which Adam makes large
        first = 16 if name.endswith("kv.bias") else 0
        torch.testing.assert_close(trained.get_parameter(name)[first:], weight.detach()[first:], atol=1e-5, rtol=1e-4)


def test_a_grid_trains_as_its_members_do_alone() -> None:
    given = tokens()
    both = train_grid(given, [GridPoint(1e-3, 0.1), GridPoint(1e-2, 0.4)], options())
    alone = train_grid(given, [GridPoint(1e-2, 0.4)], options())[0]
    for one, other in zip(both[1].parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_best_of_the_grid_on_what_was_kept_out_is_chosen() -> None:
    given = tokens(120)
    checks = [(given.part(np.arange(90)), given.part(np.arange(90, 120)))]
    found = fit_attentive(
        given, checks, options(grid=(GridPoint(1e-7, 0.1), GridPoint(3e-3, 0.1)), epochs=30, batch_size=30)
    )
    assert found.facts["learning_rate"] == 3e-3
    assert [entry["learning_rate"] for entry in found.facts["grid"]] == [1e-7, 3e-3]
    shares = predict_videos(found.probe, tokens(60, seed=9))
    assert (shares.argmax(1) == np.arange(60) % 3).mean() > 0.6


def test_a_grid_without_anything_to_choose_by_is_refused() -> None:
    with pytest.raises(ConfigError, match="too few groups to choose among 2 learning rates and weight decays"):
        fit_attentive(tokens(), [], options(grid=(GridPoint(1e-3, 0.1), GridPoint(1e-3, 0.2))))
    assert fit_attentive(tokens(), [], options()).facts["num_heads"] == 4


def test_heads_are_sixteen_where_that_divides_the_features() -> None:
    assert options(num_heads=None).config(192).num_heads == 16
    assert options(num_heads=None).config(24).num_heads == 8


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        # 4 epochs of 2 steps: warm up for 1 epoch, which officially ends one step before its last
        (GridPoint(1e-3, 0.4, warmup_epochs=2, start_rate=2e-4), {0: 4e-4, 1: 6e-4, 2: 8e-4, 3: 1e-3, 7: 0.0}),
        (GridPoint(1e-3, 0.4), {3: 5e-4, 7: 0.0}),
    ],
)
def test_rates_warm_up_and_fall_as_officially(point: GridPoint, expected: dict[int, float], monkeypatch: Any) -> None:
    rates, decays = [], []
    original = torch.optim.AdamW.step

    def record(self: torch.optim.AdamW, *arguments: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        decays.append(self.param_groups[0]["weight_decay"])
        return original(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", record)
    train_grid(tokens(16), [point], options(epochs=4))
    assert {step: rates[step] for step in expected} == pytest.approx(expected, abs=1e-9)
    assert decays == [0.4] * 8


def test_a_decay_that_ends_at_nothing_falls_as_a_cosine() -> None:
    trainer = _Trainer(options().config(16), GridPoint(1e-3, 0.4, final_decay=0.0), options(epochs=4), 2)
    assert [trainer.decay(step) for step in (1, 3, 7)] == pytest.approx([0.4 * (2 + 2**0.5) / 4, 0.2, 0.0])


def test_each_epoch_takes_the_next_pass_over_every_video(monkeypatch: pytest.MonkeyPatch) -> None:
    given = tokens(6)
    table = np.repeat(given.table, 3, axis=0)
    given = Examples.of(table, np.repeat(np.array([3, 0, 5, 1, 4, 2]), 3), given.targets)
    seen: list[int] = []
    original = Examples.take
    monkeypatch.setattr(Examples, "take", lambda self, rows: seen.extend(rows.tolist()) or original(self, rows))
    train_grid(given, [GridPoint(1e-3, 0.1)], options(epochs=4, batch_size=4, one_row_a_video=True))
    for epoch in range(4):
        assert sorted(seen[6 * epoch : 6 * epoch + 6]) == [3 * video + epoch % 3 for video in range(6)]
