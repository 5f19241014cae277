"""Text families: the numbers, the result as users load it, and the fields of both recipes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.datasets import write_jsonl
from tests.trainer.runs import TrainerRun
from tests.trainer.test_losses import plain_order
from tests.trainer.tiny_text import KINDS, tiny_text

STEPS = 6
NewRun = Callable[..., TrainerRun]
PEFT_NOISE = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
BASE = {
    "epochs": 2, "batchSize": 2, "gradAccum": 1, "learningRate": 0.01, "loraRank": 4, "loraAlpha": 8, "loggingSteps": 1,
    "seqLength": 512, "seed": 7,
}  # fmt: skip
QUESTIONS = {**BASE, "questionColumn": "question", "answerColumn": "answer"}
CHATS = {**BASE, "messagesColumn": "messages"}
ATTENTION = r".*\.(q_proj|k_proj|v_proj|o_proj)"
EVERYTHING = r".*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
TARGETS = {"llama": EVERYTHING, "qwen3": EVERYTHING, "qwen3_moe": ATTENTION, "gpt_oss": ATTENTION}

# What the published templates write, by hand: before everything, around a question, and before and behind an answer,
# older and newest.
LLAMA_SYSTEM = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
    "Today Date: 26 Jul 2024\n\n<|eot_id|>"
)
LLAMA_USER = "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
GPT_SYSTEM = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n"
    "Current date: 2024-07-26\n\nReasoning: medium\n\n# Valid channels: analysis, commentary, final. Channel must be "
    "included for every message.<|end|>"
)
QWEN_USER = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
WRITTEN = {
    "llama": (LLAMA_SYSTEM, LLAMA_USER, LLAMA_USER, "{}<|eot_id|>", "{}<|eot_id|>"),
    "qwen3": ("", QWEN_USER, QWEN_USER + "<think>\n\n</think>\n\n", "{}<|im_end|>\n", "{}<|im_end|>\n"),
    "qwen3_moe": ("", QWEN_USER, QWEN_USER, "{}<|im_end|>\n", "{}<|im_end|>\n"),
    "gpt_oss": (
        GPT_SYSTEM,
        "<|start|>user<|message|>{}<|end|><|start|>assistant",
        "<|start|>user<|message|>{}<|end|><|start|>assistant",
        "<|channel|>final<|message|>{}<|end|>",
        "<|channel|>final<|message|>{}<|return|>",
    ),
}


@pytest.fixture(scope="session", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes each tiny checkpoint once."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            torch.set_num_threads(1)
            made[kind] = tiny_text(kind, tmp_path_factory.mktemp(kind) / "tiny")
        return made[kind]

    return folder


@pytest.fixture
def new(folders: Callable[[str], Path], tmp_path: Path) -> NewRun:
    """Makes runs of a kind of model on questions, or on chats; the first argument is the folder's name."""

    def make(name: str, model: str = "llama", recipe: dict[str, Any] | None = None, **options: Any) -> TrainerRun:
        (tmp_path / name).mkdir()
        chats = options.pop("chats", False)
        run = TrainerRun(
            tmp_path / name,
            folders(model),
            recipe={**(CHATS if chats else QUESTIONS), **(recipe or {})},
            kind="textChatMessages" if chats else "textGeneration",
            **options,
        )
        write_jsonl(run.data / "train.jsonl", conversations() if chats else questions())
        return run

    return make


def questions() -> list[dict[str, Any]]:
    return [{"question": f"What is {n}{' and why' * (n % 3)}?", "answer": f"It is {n}{'!' * n}"} for n in range(6)]


def conversations() -> list[dict[str, Any]]:
    """1 to 3 questions and answers."""
    return [
        {
            "messages": [
                {"role": role, "content": f"{text} {number}.{turn}" + "?" * number}
                for turn in range(1 + number % 3)
                for role, text in (("user", "Say"), ("assistant", "I say"))
            ]
        }
        for number in range(6)
    ]


def as_turns(row: dict[str, Any]) -> list[tuple[str, str]]:
    if "question" in row:
        return [(row["question"], row["answer"])]
    contents = [message["content"] for message in row["messages"]]
    return list(zip(contents[::2], contents[1::2], strict=True))


def plain_row(tokenizer: Any, kind: str, row: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """ids and whether each is learnt, (1, length)."""
    system, older_user, newest_user, older_answer, newest_answer = WRITTEN[kind]
    parts = [(system, False)]
    turns = as_turns(row)
    for number, (question, answer) in enumerate(turns):
        last = number == len(turns) - 1
        parts.append(((newest_user if last else older_user).format(question), False))
        parts.append(((newest_answer if last else older_answer).format(answer), True))
    ids = [
        (token, learnt) for text, learnt in parts for token in tokenizer(text, add_special_tokens=False)["input_ids"]
    ]
    return torch.tensor([[token for token, _ in ids]]), torch.tensor([[learnt for _, learnt in ids]])


def plain_losses(folder: Path, kind: str, rows: list[dict[str, Any]], lora: bool) -> list[float]:
    """One row at a time, nothing packed, whole logits; 2 epochs of 6 rows in steps of 2 rows."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if lora:
        torch.manual_seed(7)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS[kind], task_type="CAUSAL_LM")
        model = get_peft_model(model, config)
    model.train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=0.01, weight_decay=0.0)
    draws = [row for epoch in range(2) for row in plain_order(7, epoch, len(rows))]
    losses = []
    for step in range(STEPS):
        total, tokens = torch.zeros(()), 0
        for index in draws[2 * step : 2 * step + 2]:
            ids, learnt = plain_row(tokenizer, kind, rows[index])
            logits = model(input_ids=ids).logits[:, :-1]
            chosen = torch.log_softmax(logits, -1).gather(2, ids[:, 1:, None])[..., 0]
            total = total - chosen[learnt[:, 1:]].sum()
            tokens += int(learnt[:, 1:].sum())
        loss = total / tokens
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@PEFT_NOISE
@pytest.mark.parametrize(
    ("chats", "lora"), [(False, True), (True, True), (True, False)], ids=["questions", "chats", "chats-full"]
)
def test_losses_equal_a_plain_loop(new: NewRun, kind: str, chats: bool, lora: bool) -> None:
    run = new("run", kind, {"useLora": lora, "learningRate": 0.01}, chats=chats)
    assert run.execute().code == 0, run.execute().message

    expected = plain_losses(run.checkpoint, kind, conversations() if chats else questions(), lora)
    assert run.losses() == pytest.approx(expected, abs=1e-5)
    assert expected[-1] < expected[0] - 0.02
