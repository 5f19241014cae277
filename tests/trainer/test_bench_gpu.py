"""`make bench-gpu` where no GPU is: its code runs on tiny shapes, and says that nothing was measured."""

import pytest
import torch

from tests.bench import gpu, gpu_shapes

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # diffusers' own


def test_tiny_shapes_go_through_all_of_it() -> None:
    report = gpu.bench(gpu_shapes.tiny(), warm=1, steps=2, matmul_size=64)

    assert list(report["cases"]) == ["Qwen3-VL", "Qwen-Image-Edit"]
    for loops in report["cases"].values():
        trainer, plain = loops["finetune-trainer"], loops["plain loop"]
        assert trainer["tokens"] == plain["tokens"] > 0
        assert trainer["flops"] == pytest.approx(plain["flops"])
        assert trainer["memory"]["fits"]
        for speed in (trainer, plain):
            assert speed["tokens/s"] == pytest.approx(speed["tokens"] / speed["seconds"])
            assert speed["utilisation"] > 0
    assert len(gpu.table(report).splitlines()) == 4 + 4


def test_the_flops_that_a_step_needs() -> None:
    counts = {
        "Global": {"aten.mm": 100, "aten._scaled_dot_product_flash_attention": 40},
        "Model.model.visual": {"aten.mm": 10, "aten._scaled_dot_product_flash_attention": 4},
    }
    assert gpu.needed(counts, causal=True) == 2 * 90 + 3.5 * 0.5 * 36 + 14
    assert gpu.needed({"Global": {"aten.mm": 100}}, causal=False) == 200


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main() == 0
    assert capsys.readouterr().out == "bench-gpu: no GPU is at hand, so nothing was measured\n"


def test_the_real_shapes_are_those_of_the_models() -> None:
    """Counted on the meta device: nothing is allocated."""
    from diffusers import QwenImageTransformer2DModel
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    with torch.device("meta"):
        text = {**gpu_shapes.EIGHT_BILLION}
        language = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=gpu_shapes.VISION))
        editor = QwenImageTransformer2DModel(**gpu_shapes.TWENTY_BILLION)
    assert sum(weight.numel() for weight in language.parameters()) == pytest.approx(8.77e9, rel=0.01)
    assert sum(weight.numel() for weight in editor.parameters()) == pytest.approx(20.43e9, rel=0.01)
