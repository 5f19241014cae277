"""Text families: the numbers, the result as users load it, and the fields of both recipes."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_trainer.language import answer_loss
from tests.trainer.datasets import write_jsonl
from tests.trainer.runs import TrainerRun
from tests.trainer.test_losses import plain_order
from tests.trainer.test_resume import keep_up_to
from tests.trainer.tiny_text import KINDS, as_published, tiny_text

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
TARGETS = dict.fromkeys(KINDS, EVERYTHING) | {"qwen3_moe": ATTENTION, "gpt_oss": ATTENTION}

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
QWEN_SYSTEM = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
QWEN_USER = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
WRITTEN = {
    "llama": (LLAMA_SYSTEM, LLAMA_USER, LLAMA_USER, "{}<|eot_id|>", "{}<|eot_id|>"),
    "mistral": ("<s>", "[INST] {} [/INST]", "[INST] {} [/INST]", "{}</s>", "{}</s>"),
    "qwen2": (QWEN_SYSTEM, QWEN_USER, QWEN_USER, "{}<|im_end|>\n", "{}<|im_end|>\n"),
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


@PEFT_NOISE
@pytest.mark.parametrize(
    ("kind", "lora"), [("gpt_oss", True), ("llama", False), ("qwen2", False)], ids=["lora", "full, tied", "full"]
)
def test_answers_in_chunks_learn_the_same(new: NewRun, monkeypatch: pytest.MonkeyPatch, kind: str, lora: bool) -> None:
    """Seven answers at a time: the plain loop's losses, and a resumed run to the bit. Llama's embedding is its head."""
    recipe = {"useLora": lora, "learningRate": 0.01, "saveStrategy": "steps", "saveStepsRatio": 1 / 6}
    run = new("run", kind, recipe, chats=True, advanced={"keepCheckpoints": 10})
    monkeypatch.setattr(
        answer_loss, "LOGITS", 7 * json.loads((run.checkpoint / "config.json").read_text())["vocab_size"]
    )
    assert run.execute().code == 0
    expected = plain_losses(run.checkpoint, kind, conversations(), lora)
    assert run.losses() == pytest.approx(expected, abs=1e-5)
    [path] = run.output_dir.glob("*model.safetensors")
    weights = path.read_bytes()

    keep_up_to(run, 4)
    assert run.execute().code == 0

    assert path.read_bytes() == weights


@PEFT_NOISE
def test_the_adapter_loads_where_users_load_it(new: NewRun, kind: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = new("run", kind, {"loraAlpha": 32}, chats=True)
    assert run.execute().code == 0

    model: Any = AutoModelForCausalLM.from_pretrained(run.checkpoint, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(run.checkpoint)
    rows = [plain_row(tokenizer, kind, row) for row in conversations()]
    before = mean_loss(model, rows)
    after = mean_loss(PeftModel.from_pretrained(model, run.output_dir).eval(), rows)

    manifest = run.manifest()
    assert manifest["loss"]["before"] == pytest.approx(before, abs=1e-6)
    assert manifest["loss"]["after"] == pytest.approx(after, abs=1e-6)
    assert after < before - 0.02
    names = tensor_names(run.output_dir / "adapter_model.safetensors")
    modules = 7 if TARGETS[kind] == EVERYTHING else 4
    assert len(names) == 2 * 2 * modules
    assert all(re.fullmatch(VLLM_MAPS, name) for name in names)
    assert any("attention only" in note for note in manifest["notes"]) == (modules == 4)


VLLM_MAPS = (
    r"base_model\.model\.model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\.lora_[AB]\.weight"
)


def mean_loss(model: Any, rows: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    total, tokens = 0.0, 0
    for ids, learnt in rows:
        with torch.no_grad():
            logits = model(input_ids=ids).logits[:, :-1]
        chosen = torch.log_softmax(logits, -1).gather(2, ids[:, 1:, None])[..., 0][learnt[:, 1:]]
        total, tokens = total - chosen.sum().item(), tokens + chosen.numel()
    return total / tokens


def tensor_names(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return list(file.keys())


@pytest.mark.parametrize("use_lora", [True, False], ids=["lora", "full"])
def test_four_and_two_steps_are_six(new: NewRun, kind: str, use_lora: bool) -> None:
    recipe = {"useLora": use_lora, "neftuneNoiseAlpha": 5, "saveStrategy": "steps", "saveStepsRatio": 1 / 6}
    advanced = {"keepCheckpoints": 10, "loraDropout": 0.1 if use_lora else 0.0}
    run = new("run", kind, recipe, chats=True, advanced=advanced)
    assert run.execute().code == 0
    name = "adapter_model.safetensors" if use_lora else "model.safetensors"
    expected, metrics = (run.output_dir / name).read_bytes(), run.metrics()

    keep_up_to(run, 4)
    assert run.execute().code == 0

    assert (run.output_dir / name).read_bytes() == expected
    assert run.metrics() == metrics


@PEFT_NOISE
def test_gpt_oss_as_it_is_published(new: NewRun) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, Mxfp4Config

    run = new("run", "gpt_oss", {"epochs": 1})
    base = run.claim("models") / "tiny"
    as_published(base)
    assert run.execute().code == 0, run.execute().message
    manifest = run.manifest()
    assert any("4 bits" in note for note in manifest["notes"])

    model: Any = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, quantization_config=Mxfp4Config(dequantize=True)
    )
    rows = [plain_row(AutoTokenizer.from_pretrained(base), "gpt_oss", row) for row in questions()]
    assert manifest["loss"]["before"] == pytest.approx(mean_loss(model, rows), abs=1e-5)
    adapted = PeftModel.from_pretrained(model, run.output_dir).eval()
    assert manifest["loss"]["after"] == pytest.approx(mean_loss(adapted, rows), abs=1e-5)

    full = new("full", "gpt_oss", {"epochs": 1, "useLora": False})
    as_published(full.claim("models") / "tiny")
    assert full.execute().code == 0
    whole: Any = AutoModelForCausalLM.from_pretrained(full.output_dir, dtype=torch.float32)
    assert full.manifest()["loss"]["after"] == pytest.approx(mean_loss(whole.eval(), rows), abs=1e-5)


def test_other_quantised_checkpoints_are_refused(new: NewRun) -> None:
    run = new("run", "llama")
    path = run.claim("models") / "tiny" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": {"quant_method": "fp8"}}))

    result = run.execute()

    assert (result.code, result.reason) == (2, "ModelNotSupported")
    assert "is quantized (fp8)" in result.message


def test_all_weights_are_exported_as_a_checkpoint(new: NewRun) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = new("run", "llama", {"useLora": False}, chats=True)
    assert run.execute().code == 0

    trained: Any = AutoModelForCausalLM.from_pretrained(run.output_dir)
    tokenizer = AutoTokenizer.from_pretrained(run.output_dir)
    assert tokenizer.chat_template
    rows = [plain_row(tokenizer, "llama", row) for row in conversations()]
    assert run.manifest()["loss"]["after"] == pytest.approx(mean_loss(trained.eval(), rows), abs=1e-6)
    assert trained.lm_head.weight is trained.model.embed_tokens.weight  # tied, as the base model's


def test_thinking(new: NewRun) -> None:
    def run_with(name: str, model: str, **recipe: Any) -> TrainerRun:
        run = new(name, model, {"epochs": 1, **recipe})
        assert run.execute().code == 0
        return run

    off, on = run_with("off", "qwen3"), run_with("on", "qwen3", enableThinking=True)
    assert [line["tokens"] for line in on.metrics()] == [line["tokens"] for line in off.metrics()]
    assert on.losses() != off.losses()  # the block is now the assistant's own, and learnt
    assert not any("enableThinking" in note for note in [*off.manifest()["notes"], *on.manifest()["notes"]])
    assert any(
        "enableThinking has no effect" in note
        for note in run_with("moe", "qwen3_moe", enableThinking=True).manifest()["notes"]
    )


def test_neftune_noise_does_not_depend_on_the_split(new: NewRun) -> None:
    def losses(name: str, **recipe: Any) -> list[float]:
        run = new(name, "qwen3", {"neftuneNoiseAlpha": 50, **recipe})
        assert run.execute().code == 0
        return run.losses()

    together = losses("together", seqLength=512)
    assert losses("apart", seqLength=80) == pytest.approx(together, abs=1e-6)
    assert losses("none", neftuneNoiseAlpha=0) != pytest.approx(together, abs=1e-5)


def test_fields_of_the_recipe(new: NewRun) -> None:
    run = new("run", "llama", {"saveStrategy": "epoch", "loggingSteps": 2, "loraRank": 2, "gradAccum": 3}, chats=True)
    assert run.execute().code == 0
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-00000001", "step-00000002"]
    assert [line["samples"] for line in run.metrics()] == [6, 6]
    config = json.loads((run.output_dir / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (2, 8, "pvc://models/tiny")


@pytest.mark.parametrize("chats", [False, True], ids=["questions", "chats"])
def test_too_long_rows_are_refused_or_counted(new: NewRun, chats: bool) -> None:
    run = new("run", "qwen3", {"seqLength": 120, "epochs": 1}, chats=chats)
    rows = conversations()[:1] * 3 if chats else questions()[:3]
    text = "word " * 30
    rows[1] = (
        {"messages": [{"role": "user", "content": text}, *rows[0]["messages"]]}
        if chats
        else {**rows[1], "answer": text}
    )
    write_jsonl(run.data / "train.jsonl", rows)

    refused = run.execute()
    assert (refused.code, refused.reason) == (3, "DataValidationFailed")
    assert "1 of 3 rows are too long" in refused.message
    assert "row 1: has " in refused.message

    run.advanced = {"tooLong": "skip"}
    assert run.execute().code == 0
    manifest = run.manifest()
    assert (manifest["dataset"]["rows"], manifest["dataset"]["skipped"]) == (2, 1)
    assert manifest["notes"][0].startswith("1 rows were skipped because they are too long, the first: row 1")


def test_rows_that_are_no_conversations_are_refused_with_their_reasons(new: NewRun) -> None:
    said = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    bad: dict[str, Any] = {
        "is not a list of messages": "hello",
        "message 0 is not an object": ["hello"],
        "message 0 has no role": [{"content": "x"}, *said],
        "message 1 of the assistant is empty": [said[0], {"role": "assistant", "content": " "}],
        "has no assistant message": said[:1],
        "message 0 has content of type int instead of text": [{"role": "user", "content": 3}, said[1]],
        "has content other than text": [{"role": "user", "content": [{"type": "image"}]}, said[1]],
        "has tool_calls that are not a list": [said[0], {"role": "assistant", "tool_calls": 3}],
        "drops the content of the role 'human'": [{"role": "human", "content": "lost"}, *said],
        "without function and name": [said[0], {"role": "assistant", "tool_calls": [{"id": 1}]}],
    }
    run = new("run", "qwen3", {"epochs": 1}, chats=True)
    write_jsonl(
        run.data / "train.jsonl", [{"messages": said}, *({"messages": json.dumps(cell)} for cell in bad.values())]
    )

    refused = run.execute()
    assert (refused.code, refused.reason) == (3, "DataValidationFailed")
    for number, reason in enumerate(bad):
        assert f"row {number + 1}: " in refused.message
        assert reason in refused.message

    run.advanced = {"maxSkippedShare": 0.95}
    assert run.execute().code == 0
    assert run.manifest()["dataset"] | {"uri": "", "fingerprint": ""} == {
        "uri": "", "fingerprint": "", "tables": ["train.jsonl"], "rows": 1, "skipped": len(bad),
    }  # fmt: skip


def test_a_model_without_a_chat_template_is_refused(new: NewRun) -> None:
    run = new("run", "llama", chats=True)
    (run.claim("models") / "tiny" / "chat_template.jinja").unlink()
    result = run.execute()
    assert (result.code, result.reason) == (2, "InvalidConfig")
    assert "has no chat template" in result.message
