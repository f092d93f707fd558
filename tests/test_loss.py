import numpy as np
import pytest
import torch

from sadr_plugin.method.penalty import drift_penalty, head_divergence, selected_heads


@pytest.fixture(params=range(5), ids=lambda case: f"case{case}")
def case(request, golden):
    with np.load(golden / "penalty_cases.npz") as data:
        prefix = f"case{request.param}_"
        return {
            name.removeprefix(prefix): torch.tensor(data[name])
            for name in data.files
            if name.startswith(prefix)
        }


def test_selection_is_the_official_one(case):
    selected = selected_heads(case["baseline"], case["current"], case["subject_index"])
    assert torch.equal(selected, case["selected"])


def test_value_and_gradient_are_the_official_ones(case):
    logits = case["current"].log().requires_grad_()
    heads = case["selected"] if case["select_heads"] else torch.ones_like(case["selected"])
    penalty = drift_penalty(case["baseline"], logits.softmax(-1), heads)
    penalty.backward()
    assert penalty.item() == pytest.approx(case["penalty"].item(), rel=1e-5, abs=1e-9)
    # A masked token's logit is −∞; no gradient is defined there, and none was recorded.
    gradient = logits.grad.nan_to_num(0.0)
    torch.testing.assert_close(gradient, case["grad_wrt_current_logits"], rtol=1e-5, atol=1e-7)


def rows(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)).softmax(-1)


@pytest.mark.parametrize("divergence", ["kl", "js", "l2"])
def test_every_divergence_is_zero_at_the_baseline_and_positive_elsewhere(divergence):
    before = rows(2, 3, 4, 5)
    now = before.roll(1, -1)
    assert head_divergence(before, before, divergence).abs().max() < 1e-7
    assert (head_divergence(before, now, divergence) > 0).all()


def test_js_and_l2_by_hand():
    before, now = torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])
    middle = (before + now) / 2
    js = sum(
        0.5 * p * (p / m).log() for row in (before, now) for p, m in zip(row, middle, strict=True)
    )
    shaped = before.view(1, 1, 1, 2), now.view(1, 1, 1, 2)
    assert head_divergence(*shaped, "js").item() == pytest.approx(js.item(), abs=1e-6)
    assert head_divergence(*shaped, "l2").item() == pytest.approx(0.32, abs=1e-6)


@pytest.mark.parametrize("divergence", ["kl", "js", "l2"])
def test_gradient_flows_to_the_current_rows_only(divergence):
    before = rows(1, 2, 3, 4).requires_grad_()
    now = rows(1, 2, 3, 4).roll(1, -1).requires_grad_()
    drift_penalty(before, now, torch.ones(1, 2, 3, dtype=bool), divergence).backward()
    assert before.grad is None
    assert now.grad.abs().sum() > 0


def test_a_nan_in_a_head_that_is_not_selected_stays_out():
    before, now = rows(1, 1, 2, 3), rows(1, 1, 2, 3)
    now[0, 0, 1] = torch.nan
    assert torch.isfinite(drift_penalty(before, now, torch.tensor([[[True, False]]])))
