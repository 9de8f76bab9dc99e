"""The losses: the authors' numbers, and properties of relation, passes and groups."""

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from penguin_training.model import losses
from penguin_training.model.losses import amplitude_loss, direction_loss, log_probabilities, relation_loss


@pytest.fixture(scope="module")
def reference_losses(reference):
    return load_file(reference / "stage1_losses.safetensors")


def test_they_equal_the_authors_numbers(reference_losses):
    t = reference_losses
    student = torch.nn.functional.linear(t["student"], t["distill.weight"], t["distill.bias"])
    exact = {"atol": 1e-6, "rtol": 1e-6}
    torch.testing.assert_close(direction_loss(student, t["teacher"]), t["direction"][0], **exact)
    torch.testing.assert_close(amplitude_loss(student, t["teacher"]), t["amplitude"][0], **exact)
    torch.testing.assert_close(relation_loss(student, t["teacher"]), t["relation"][0], **exact)
    torch.testing.assert_close(relation_loss(student, t["teacher"], [37]), t["relation"][0], **exact)


def test_relation_of_each_image_is_averaged_over_images(reference_losses):
    student, teacher = reference_losses["student"], reference_losses["teacher"]
    groups = [10, 7, 10, 10]
    parts = [relation_loss(s, t) for s, t in zip(student.split(groups), teacher.split(groups), strict=True)]
    torch.testing.assert_close(relation_loss(student, teacher, groups), torch.stack(parts).mean())
    assert relation_loss(student, teacher, groups) != relation_loss(student, teacher)


def test_a_student_with_the_same_directions_has_no_loss():
    features = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    assert direction_loss(3 * features, features).abs() < 1e-6
    assert relation_loss(3 * features, features, [4, 5]).abs() < 1e-6
    assert amplitude_loss(features, features) == 0 and amplitude_loss(3 * features, features) > 0


def test_losses_are_float32_under_autocast():
    random = torch.Generator().manual_seed(0)
    hidden, targets = torch.randn(23, 11, generator=random), torch.randint(11, (23,), generator=random)
    weights = torch.rand(23, generator=random)
    teacher = torch.randn(9, 16, generator=random)
    student = teacher + 0.03 * torch.randn(9, 16, generator=random)

    def found():
        between = [relation_loss(student, teacher, groups) for groups in (None, [4, 5])]
        learnt = log_probabilities(hidden, targets, lambda rows: rows)
        return torch.stack([(weights * learnt).sum(), *between])

    exact = found()
    with torch.autocast("cpu", torch.bfloat16):
        under = found()
    assert under.dtype == torch.float32
    torch.testing.assert_close(under, exact)


def test_log_probabilities_do_not_depend_on_the_passes(monkeypatch):
    random = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(6, 11)
    hidden, targets = torch.randn(23, 6, generator=random), torch.randint(11, (23,), generator=random)
    weights = torch.rand(23, generator=random)
    results = []
    for rows in (100, 5):
        monkeypatch.setattr(losses, "_ROWS_PER_PASS", rows)
        states = hidden.clone().requires_grad_()
        loss = -weights @ log_probabilities(states, targets, head)
        head.zero_grad()
        loss.backward()
        results.append((loss.detach(), states.grad, head.weight.grad.clone()))
    for ours, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(results[0][0], weights @ cross_entropy(head(hidden), targets, reduction="none").detach())
