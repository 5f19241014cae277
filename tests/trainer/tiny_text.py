"""Tiny checkpoints of the text families: real architectures and chat templates, byte-level tokens, random weights."""

import json
from importlib import import_module, resources
from pathlib import Path
from typing import Any, Final

KINDS: Final = ("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "gpt_oss")
TEMPLATES: Final = {
    "llama": "llama3_2",
    "qwen2": "qwen2_5",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3_instruct_2507",
    "gpt_oss": "gptoss",
}
"""trl carries the published templates, word for word."""
INST: Final = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
"""Mistral's of 7B-Instruct-v0.2, which trl does not carry."""
CLASSES: Final = {
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {"sliding_window": 16}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {}),
    "qwen3_moe": ("Qwen3Moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}),
    "gpt_oss": ("GptOss", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8}),
}
CHATML: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SPECIAL: Final = {
    "llama": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"),
    "mistral": ("<s>", "[INST]", "[/INST]", "</s>"),
    "qwen2": CHATML,
    "qwen3": CHATML,
    "qwen3_moe": CHATML,
    "gpt_oss": ("<|startoftext|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>", "<|return|>"),
}


def template(name: str) -> str:
    """The text of a published chat template."""
    return resources.files("trl").joinpath("chat_templates", f"{name}.jinja").read_text()


def tiny_text(kind: str, folder: Path, *, hidden: int = 32, chat_template: str | None = None) -> Path:
    """Write a checkpoint of `model_type` kind into `folder` and return it."""
    import torch
    from transformers import AutoConfig

    tokenizer = byte_tokenizer(SPECIAL[kind])
    published = template(TEMPLATES[kind]) if kind in TEMPLATES else INST
    tokenizer.chat_template = published if chat_template is None else chat_template
    name, extra = CLASSES[kind]
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        tie_word_embeddings=kind == "llama",
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        **extra,
    )
    model_class: Any = getattr(import_module(f"transformers.models.{kind}.modeling_{kind}"), f"{name}ForCausalLM")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(config)
        for weight in model.parameters():
            weight.data.add_(0.02 * torch.randn_like(weight))  # sinks and biases start at 0, and would hide mistakes
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def byte_tokenizer(special: tuple[str, ...]) -> Any:
    """One token per byte and the special ones; the first is the beginning of a text, the last its end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(alphabet)}, merges=[]))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    bare.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(tokenizer_object=bare, bos_token=special[0], eos_token=special[-1])


def as_published(folder: Path) -> None:
    """Store the experts of a tiny gpt-oss as the published checkpoints do: in MXFP4 (with random numbers)."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name in [name for name in weights if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inner, outer = weights.pop(name).shape
        blocks = torch.randint(0, 256, (experts, outer, inner // 32, 16), generator=generator)
        weights[f"{name}_blocks"] = blocks.to(torch.uint8)
        weights[f"{name}_scales"] = torch.full((experts, outer, inner // 32), 121, dtype=torch.uint8)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    skipped = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": skipped}
    (folder / "config.json").write_text(json.dumps(config))
