"""One optimizer step: parts add up, bad numbers change nothing, float16 recovers from overflow."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_models import VIDEO
from torch import Tensor

from vjepa_sdk.config.training import OptimConfig, TrainConfig
from vjepa_sdk.models.jepa import JEPA
from vjepa_sdk.models.masks import Masks
from vjepa_sdk.training.data.masking import draw_masks
from vjepa_sdk.training.guards import gradient_norms
from vjepa_sdk.training.step import ForwardPass, NonFiniteError, make_optimizer, make_scaler, train_step

CPU = torch.device("cpu")
CONFIG = TrainConfig(model=VIDEO, optim=OptimConfig(lr=1e-3, max_grad_norm=1.0), steps=10, batch_size=4)


class Run:
    """A model, its optimizer and some clips, always the same."""

    def __init__(self, config: TrainConfig = CONFIG) -> None:
        torch.manual_seed(0)
        self.config, self.jepa = config, JEPA(config.model, config.objective)
        self.optimizer, self.scaler = make_optimizer(self.jepa, config), make_scaler(config, CPU)
        self.clips = torch.rand(4, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))
        self.masks = draw_masks(config, batch_size=4, step=0)

    def step(self, *passes: ForwardPass, number: int = 0) -> float:
        given = passes or (ForwardPass(self.clips, self.masks),)
        report = train_step(self.jepa, self.optimizer, given, config=self.config, step=number, scaler=self.scaler)
        return report.loss

    def halves(self) -> list[ForwardPass]:
        """Return the same clips and masks in two parts."""
        parts = []
        for rows in (slice(0, 2), slice(2, 4)):
            masks = Masks(tuple(m[rows] for m in self.masks.context), tuple(m[rows] for m in self.masks.target))
            parts.append(ForwardPass(self.clips[rows], masks, 0.5))
        return parts

    def state(self) -> dict[str, Tensor]:
        state = {name: value.clone() for name, value in self.jepa.state_dict().items()}
        for number, values in self.optimizer.state_dict()["state"].items():
            state |= {f"{number}.{name}": value.clone() for name, value in values.items()}
        return state


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_loss_of_two_parts_is_their_mean_and_their_step_that_of_the_whole() -> None:
    whole, parted = Run(), Run()
    parts = [parted.jepa(part.clips, part.masks).total.item() for part in parted.halves()]
    loss = parted.step(*parted.halves())
    assert loss == pytest.approx(sum(parts) / 2, rel=1e-6)
    assert loss == pytest.approx(whole.step(), rel=1e-5)
    for name, norm in gradient_norms(whole.jepa).items():
        assert gradient_norms(parted.jepa)[name] == pytest.approx(norm, rel=1e-3, abs=1e-7), name


def test_gradient_norms_name_every_block_once() -> None:
    (run := Run()).step()
    norms = gradient_norms(run.jepa)
    assert {"context_encoder.patch_embed", "context_encoder.blocks.1", "predictor.mask_tokens.0"} <= norms.keys()
    assert not any(name.startswith("target_encoder") for name in norms)
    total = sum(float(p.grad.square().sum()) for p in run.jepa.parameters() if p.grad is not None)
    assert sum(norm**2 for norm in norms.values()) == pytest.approx(total, rel=1e-5)


def bad_loss(run: Run) -> None:
    original = run.jepa.forward

    def forward(*args: object, **options: object) -> object:
        losses = original(*args, **options)
        return type(losses)(losses.total * float("nan"), *list(vars(losses).values())[1:])

    run.jepa.forward = forward  # type: ignore[method-assign]


def bad_gradient(run: Run) -> None:
    run.jepa.predictor.predictor_norm.weight.register_hook(lambda gradient: gradient * float("inf"))


def bad_input(run: Run) -> None:
    run.clips[3, 0, 0, 0, 0] = float("nan")


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("inject", [bad_loss, bad_gradient, bad_input])
def test_number_that_is_not_finite_changes_nothing(inject: Callable[[Run], None], parts: int) -> None:
    run = Run()
    run.step()
    before = run.state()
    inject(run)
    with pytest.raises(NonFiniteError, match="step 2: .* must be finite") as caught:
        run.step(*(run.halves() if parts == 2 else ()), number=1)
    assert equal(run.state(), before)
    # every part's loss is bad, only one part's input is, and a bad gradient has no part
    expected = {bad_loss: 0, bad_gradient: None, bad_input: parts - 1}[inject]
    assert caught.value.forward_pass == expected
    assert caught.value.report.hyperparameters.lr > 0


def test_run_goes_on_after_a_skipped_step_as_if_it_had_not_been() -> None:
    skipping, whole = Run(), Run()
    for run in (skipping, whole):
        run.step()
    with pytest.raises(NonFiniteError):
        skipping.step(ForwardPass(skipping.clips * float("nan"), skipping.masks), number=1)
    assert skipping.step(number=2) == whole.step(number=2)
    assert equal(skipping.state(), whole.state())


def test_float16_overflow_lowers_the_scale_and_then_learns() -> None:
    run = Run(TrainConfig(model=VIDEO, steps=10, batch_size=4, precision="float16"))
    run.scaler.load_state_dict({**run.scaler.state_dict(), "scale": 2.0**40})
    before = run.state()
    first = train_step(
        run.jepa, run.optimizer, [ForwardPass(run.clips, run.masks)], config=run.config, step=0, scaler=run.scaler
    )
    assert first.is_overflow
    # the optimizer's state is made, and empty: no moment, no step
    assert all(torch.equal(before.get(name, torch.zeros_like(value)), value) for name, value in run.state().items())
    losses = [run.step(number=number) for number in range(1, 60)]
    assert run.scaler.get_scale() < 2.0**40
    assert losses[-1] < losses[0]
    assert not equal(run.state(), before)


def test_float16_agrees_with_float32() -> None:
    half, full = Run(TrainConfig(model=VIDEO, steps=10, batch_size=4, precision="float16")), Run()
    assert half.step() == pytest.approx(full.step(), rel=5e-3)
