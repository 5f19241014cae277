"""The loss in chunks: equal to torch's over all answers at once, at a small part of its memory."""

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy

from finetune_trainer.language import answer_loss
from finetune_trainer.language.answer_loss import some_logits, summed_cross_entropy
from tests.trainer.live_memory import live_memory

VOCABULARY = 31


def at_once(head: torch.nn.Linear, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return cross_entropy(head(hidden).float(), targets, reduction="sum")


def loss_and_gradients(loss: Any, answers: int, *, bf16: bool, trained: bool) -> list[torch.Tensor]:
    """Loss, gradient of the hidden states, gradient of the head if it is trained; the loss is divided by 7."""
    generator = torch.Generator().manual_seed(answers)
    head = torch.nn.Linear(16, VOCABULARY, bias=False).requires_grad_(trained)
    head.weight.data.copy_(torch.randn(head.weight.shape, generator=generator))
    hidden = torch.randn(answers, 16, generator=generator, requires_grad=True)
    targets = torch.randint(VOCABULARY, (answers,), generator=generator)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        total = loss(head, hidden, targets)
    (total / 7).backward()
    found = [total.detach(), hidden.grad, head.weight.grad]
    return [tensor for tensor in found if tensor is not None]


@pytest.mark.parametrize("trained", [False, True], ids=["frozen head", "trained head"])
@pytest.mark.parametrize("answers", [1, 4, 5, 8, 9, 23])
def test_chunks_are_equal_to_all_at_once(monkeypatch: pytest.MonkeyPatch, answers: int, trained: bool) -> None:
    monkeypatch.setattr(answer_loss, "LOGITS", 4 * VOCABULARY)
    expected = loss_and_gradients(at_once, answers, bf16=False, trained=trained)
    found = loss_and_gradients(summed_cross_entropy, answers, bf16=False, trained=trained)
    assert len(found) == 2 + trained
    for ours, theirs in zip(found, expected, strict=True):
        exact = 0 if answers <= 4 else 1e-6  # one chunk is computed as before, to the bit
        torch.testing.assert_close(ours, theirs, rtol=exact, atol=exact)


@pytest.mark.parametrize("trained", [False, True], ids=["frozen head", "trained head"])
def test_in_bf16_chunks_are_as_near_to_float32(monkeypatch: pytest.MonkeyPatch, trained: bool) -> None:
    monkeypatch.setattr(answer_loss, "LOGITS", 4 * VOCABULARY)
    exact = loss_and_gradients(at_once, 203, bf16=False, trained=trained)
    at_once_in_bf16 = loss_and_gradients(at_once, 203, bf16=True, trained=trained)
    found = loss_and_gradients(summed_cross_entropy, 203, bf16=True, trained=trained)
    for ours, theirs, true in zip(found, at_once_in_bf16, exact, strict=True):
        assert ours.dtype is theirs.dtype
        assert 0 < (ours - true).norm() <= 1.05 * (theirs - true).norm() + 1e-6 * true.norm()


def test_chunks_hold_as_many_answers_as_their_logits_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, matrix = torch.zeros(4096, 2), torch.zeros(151_936, 2)
    sizes = [len(chunk) for chunk in answer_loss._chunks(hidden, matrix)]
    assert (sum(sizes), max(sizes) - min(sizes), sizes) == (4096, 1, sorted(sizes, reverse=True))
    assert max(sizes) * 151_936 <= answer_loss.LOGITS < (max(sizes) + 10) * 151_936
    monkeypatch.setattr(answer_loss, "LOGITS", 1)
    assert len(answer_loss._chunks(hidden[:3], matrix)) == 3  # a vocabulary that is too large for any chunk


def test_without_gradients_it_is_the_same_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_loss, "LOGITS", 4 * VOCABULARY)
    head, hidden, targets = torch.nn.Linear(16, VOCABULARY, bias=False), torch.randn(9, 16), torch.arange(9)
    with torch.no_grad():
        evaluated = summed_cross_entropy(head, hidden, targets)
    assert not evaluated.requires_grad
    assert torch.equal(evaluated, summed_cross_entropy(head, hidden, targets).detach())


def test_outputs_are_spread_over_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    head, hidden = torch.nn.Linear(16, VOCABULARY, bias=False), torch.randn(10, 16)
    torch.testing.assert_close(some_logits(head, hidden), head(hidden), rtol=0, atol=0)
    monkeypatch.setattr(answer_loss, "LOGITS", 4 * VOCABULARY)
    torch.testing.assert_close(some_logits(head, hidden), head(hidden[[0, 3, 6, 9]]))


@pytest.mark.parametrize("trained", [False, True], ids=["frozen head", "trained head"])
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
def test_a_tenth_of_the_memory_at_a_real_size(bf16: bool, trained: bool) -> None:
    """4,096 answers of a vocabulary of 151,936, width 4,096, without data; gradients of weights not counted."""

    def peak(loss: Any) -> int:
        with FakeTensorMode():
            stored = torch.bfloat16 if bf16 and not trained else torch.float32
            head = torch.nn.Linear(4096, 151_936, bias=False, dtype=stored).requires_grad_(trained)
            hidden = torch.randn(4096, 4096, dtype=torch.bfloat16 if bf16 else torch.float32, requires_grad=True)
            targets = torch.randint(151_936, (4096,))

            def step() -> None:
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    total = loss(head, hidden, targets)
                total.backward()

            found = live_memory(step)
            assert found.now == hidden.nbytes + trained * head.weight.nbytes  # the gradients stay
            in_bf16 = head.weight.numel() * 2 if bf16 and trained else 0  # autocast's copy of the head
            return found.peak - trained * head.weight.nbytes - in_bf16

    logits = 4096 * 151_936
    assert peak(summed_cross_entropy) <= 0.1 * 3 * 4 * logits
    assert peak(at_once) >= (2 if trained else 3) * 4 * logits  # what it would be otherwise
