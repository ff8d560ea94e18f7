"""The llama.cpp baseline of speed: its weights are transformers' and every response is that of its prompt alone."""
import pytest
import torch
from transformers import AutoModelForCausalLM

from test_model import prompts_of

llamacpp = pytest.importorskip("speed.llamacpp", reason="needs llama-cpp-python and gguf", exc_type=ImportError)


def greedy(logits_NV, rng):
    return logits_NV.argmax(1).tolist()


@pytest.mark.parametrize("tied", [True, False])
def test_greedy_responses_are_those_of_transformers(tiny, tied):
    """More responses than run at once, prompts and responses of all lengths: places are refilled, and closed up."""
    plain = AutoModelForCausalLM.from_pretrained(tiny(tie_word_embeddings=tied)).eval().requires_grad_(False)
    work = [(prompt, [1 + (7 * i + 5 * j) % 11 for j in range(3)])
            for i, prompt in enumerate(prompts_of([5, 40, 17, 1, 9, 33, 2]))]
    model = llamacpp.load(plain)
    made = llamacpp.generate(model, plain.dtype, work, 5, draw=greedy)
    for (prompt, lengths), responses in zip(work, made):
        whole = plain.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=max(lengths), eos_token_id=None,
                               pad_token_id=0)[0, len(prompt):].tolist()
        assert responses == [whole[:length] for length in lengths]


def test_bf16_and_what_it_draws(tiny):
    plain = AutoModelForCausalLM.from_pretrained(tiny(), dtype=torch.bfloat16).eval().requires_grad_(False)
    [prompt] = prompts_of([12])
    [drawn] = llamacpp.generate(llamacpp.load(plain), plain.dtype, [(prompt, [1] * 20000)], 8, flash=True)
    wanted_V = plain(torch.tensor([prompt])).logits[0, -1].float().softmax(-1)
    made_V = torch.bincount(torch.tensor(drawn)[:, 0], minlength=len(wanted_V)) / len(drawn)
    assert (made_V - wanted_V).abs().sum() < 0.1


def test_other_families_are_refused(tiny):
    with pytest.raises(ValueError, match="no GGUF of qwen3"):
        llamacpp.load(AutoModelForCausalLM.from_pretrained(tiny("qwen3", head_dim=16)))
