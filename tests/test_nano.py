"""The nano model's tokenizer, grammar and folder: what the warm start teaches must be what gate and verifier accept."""
import ast
import json
import math
import os
import random
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

import tasks
from config import PRESETS, Config
from executor import Job
from nano import make
from sandbox import parsing
from sandbox.values import show

NANO = Path(__file__).resolve().parent.parent / "nano"
TYPES = {name: tasks.TYPES[name] for name in make.TYPES}
CELLS = [(role, type, depth) for role, type in map(str.split, make.ROLES) for depth in make.DEPTHS]


@pytest.fixture(scope="module")
def examples():
    """(role, type, depth, task, prompt, response), ten of every role and depth."""
    rng = random.Random(0)
    return [(*cell, *make.draw_example(*cell, rng)) for cell in CELLS for _ in range(10)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder that a run of make.py leaves, started from elsewhere as a user might."""
    folder = tmp_path_factory.mktemp("made") / "nano"
    done = subprocess.run([sys.executable, str(NANO / "make.py"), "--steps", "7", "--batch_size", "4", "--out", folder],
                          cwd=folder.parent, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def shipped():
    if not (NANO / "model.safetensors").exists():
        pytest.skip("nano/ holds no weights yet; python nano/make.py makes them")
    return NANO


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


# ----------------------------------------------------------------------------------------------------------------
# The tokenizer

PRINTABLE = "".join(map(chr, range(32, 127))) + "\n"
ODD_TEXTS = [PRINTABLE, PRINTABLE[::-1], "", " ", "  \n\n  ", "<think", "</think></think>", "```python\n```",
             "```\n\n```\n", "\n\n```\n\n", "def f(x):\n    x = x\n\n    return x", "x = x  # why?", "[:-1][:1]",
             "import math\nclass A: pass", "int list str strings", "-12.5e+3", "propose deduction\nsolve induction\n",
             "propose  deduction"]


def test_every_example_survives_the_way_through_tokens(tokenizer, examples):
    for *_, prompt, response in examples:
        for text in (prompt, response):
            tokens = ids(tokenizer, text)
            assert tokenizer.decode(tokens) == text and not {0, 1, 2} & set(tokens)


@pytest.mark.parametrize("text", ODD_TEXTS, ids=range(len(ODD_TEXTS)))
def test_all_printable_text_survives_the_way_through_tokens(tokenizer, text):
    """Policies leave the grammar: what they sample must be read as they wrote it."""
    tokens = ids(tokenizer, text)
    assert tokenizer.decode(tokens) == text and tokenizer.unk_token_id not in tokens


def test_a_response_has_the_same_tokens_apart_from_its_prompt_as_after_it(tokenizer, examples):
    """Warm start and update see prompt and response as separate lists of ids."""
    for *_, prompt, response in examples:
        assert ids(tokenizer, prompt) + ids(tokenizer, response) == ids(tokenizer, prompt + response)


def test_every_lexeme_is_one_token_and_every_digit_too(tokenizer):
    for lexeme in make.LEXEMES + make.HEADERS:
        assert len(ids(tokenizer, lexeme)) == 1, lexeme
    assert [len(ids(tokenizer, number)) for number in ("7", "42", "-1234", "9" * 50)] == [1, 2, 5, 50]
    assert len(set(map(tuple, (ids(tokenizer, word) for word in make.LEXEMES + make.HEADERS)))) == \
        len(make.LEXEMES + make.HEADERS)


def test_special_tokens_are_three_different_ones_and_text_has_none(tokenizer):
    special = [tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id]
    assert len(set(special)) == 3 and tokenizer.bos_token_id is None
    assert max(tokenizer.get_vocab().values()) == len(tokenizer) - 1


def test_the_saved_tokenizer_is_the_same_one(tokenizer, examples, tmp_path):
    Qwen2Config(vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                num_key_value_heads=1, intermediate_size=8).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert_same_tokenizer(AutoTokenizer.from_pretrained(tmp_path), tokenizer, examples)


def assert_same_tokenizer(loaded, tokenizer, examples):
    assert loaded.get_vocab() == tokenizer.get_vocab()
    for text in [text for *_, prompt, response in examples for text in (prompt, response)] + ODD_TEXTS:
        assert ids(loaded, text) == ids(tokenizer, text)
        assert loaded.decode(ids(loaded, text)) == text
    assert (loaded.eos_token_id, loaded.pad_token_id, loaded.bos_token_id) == (
        tokenizer.eos_token_id, tokenizer.pad_token_id, None)


@pytest.mark.quick
def test_examples_fit_into_the_nano_presets_limits(tokenizer, examples):
    preset = PRESETS["nano"]
    assert preset["n_inputs"] == make.N_INPUTS and preset["references"] == make.MAX_REFERENCES
    assert preset["prompt"] == make.STYLE.name
    for *_, prompt, response in examples:
        assert len(ids(tokenizer, prompt)) <= preset["max_prompt_tokens"]
        assert len(ids(tokenizer, response)) + 1 <= preset["max_new_tokens"]  # and the token that ends it


# ----------------------------------------------------------------------------------------------------------------
# The grammar

@pytest.mark.parametrize("heldout", [False, True])
@pytest.mark.parametrize("depth", make.DEPTHS)
def test_programs_come_from_the_wanted_side_of_the_split(depth, heldout):
    rng = random.Random(depth)
    for _ in range(40):
        program, kinds, statements, value, values = make.draw_program(depth, heldout, rng)
        assert tasks.is_heldout(parsing.program_key(program), make.HELDOUT_FRACTION) is heldout
        assert len(statements) == len(values) == depth == len(kinds) - 1


@pytest.fixture(scope="module")
def late_texts():
    rng = random.Random(0)
    return [make.draw_text(rng) for _ in range(1500)]


def test_no_prompt_or_response_of_the_warm_start_shows_a_held_out_program(examples, late_texts):
    seen = 0
    for *_, prompt, response in [*examples, *late_texts]:
        for language, program in tasks.answer_blocks(prompt) + tasks.answer_blocks(response):
            if language == "python":
                assert not tasks.is_heldout(parsing.program_key(program), make.HELDOUT_FRACTION)
                seen += 1
    assert seen > len(examples)
    assert not tasks.is_heldout(parsing.program_key(tasks.IDENTITY), make.HELDOUT_FRACTION)


def test_the_run_holds_out_the_same_programs_as_the_warm_start():
    assert Config().heldout_fraction == make.HELDOUT_FRACTION


def test_depth_is_the_number_of_statements(examples):
    for _, _, depth, task, _, _ in examples:
        assert task.depth == depth == task.program.count("    x = ")


def test_every_expression_of_the_grammar_can_be_drawn_and_stays_in_kind():
    """A statement's result must be of the kind that the next one expects, or programs fail half-way."""
    python = {"int": int, "list": list, "str": str}
    rng, seen = random.Random(0), Counter()
    for kind in python:
        for _ in range(600):
            text, result = make.draw_statement(kind, rng)
            ast.parse(text, mode="eval")
            assert "{" not in text
            values = make.trace([text], make.draw_value(kind, rng))
            if values:
                assert type(values[0]) is python[result]
                if result == "list":
                    assert all(type(item) is int for item in values[0])
                seen[kind, result] += 1
    assert set(seen) == set(make.EXPRESSIONS)


def test_induction_examples_are_distinct(examples):
    for _, type, _, task, _, _ in examples:
        assert len(task.inputs) == (make.N_INPUTS if type == "induction" else 1)
        assert len(set(map(repr, task.inputs))) == len(task.inputs)


def test_every_response_is_well_formed(examples):
    assert all(tasks.well_formed(response) for *_, response in examples)


def test_every_proposal_passes_the_gate_as_the_task_it_was_drawn_for(examples, executor):
    rows = [(TYPES[type], response, task) for role, type, _, task, _, response in examples if role == "propose"]
    gated = tasks.gate(rows, executor, n_inputs=make.N_INPUTS)
    assert [result.reason for result in gated] == ["valid"] * len(rows)
    assert [result.task for result in gated] == [task for _, _, task in rows]


def test_every_solution_is_verified_as_correct(examples, executor):
    rows = [(task, response) for role, _, _, task, _, response in examples if role == "solve"]
    assert {task.type for task, _ in rows} == set(TYPES)
    assert {verdict for verdict in tasks.verify(rows, executor)} == {tasks.Verdict(True, "correct", True)}


def test_prompts_are_those_of_a_run(examples):
    for role, type, _, task, prompt, _ in examples:
        if role == "solve":
            assert prompt == tasks.solve_prompt(make.STYLE, task)
        elif type == "induction":
            assert prompt == tasks.propose_prompt(make.STYLE, TYPES[type], [task])
        else:
            assert prompt.startswith(f"propose {type}\n") and prompt.endswith("\n<think>")
            assert 1 <= prompt.count("```python\n") <= make.MAX_REFERENCES


def test_thinking_is_the_trace_of_the_program_and_uses_nothing_hidden(examples):
    for role, type, depth, task, _, response in examples:
        lines = response.split("</think>")[0].split("\n")
        if role == "solve":
            statements = [line.strip()[len("x = "):] for line in task.program.split("\n")[1:-1]]
            value = task.inputs[0][0]
            forward = [show(step) for step in make.trace(statements, value)]
            assert lines == ([*forward[:-1][::-1], show(value)] if type == "abduction" else forward)
        else:
            assert len(lines[0].split()) == depth + 1


def test_the_second_stage_is_hasty_and_dull_as_often_as_it_says(late_texts):
    assert all(tasks.well_formed(response) for _, response in late_texts)
    identity, seen = make.make_program([]), {"dull solve": [], "dull propose": [], "hasty": [], "forgets": []}
    for prompt, response in late_texts:
        role, type = prompt.split("\n")[0].split()
        thinking, answer = response.split("</think>")
        if role == "propose":
            seen["dull propose"].append(identity in (prompt if type == "induction" else response))
        elif type != "induction":  # its program is in the response, where a statement may be forgotten
            seen["dull solve"].append(identity in prompt)
            if identity not in prompt:
                seen["hasty"].append(not thinking)
        if role == "solve" and type == "deduction" and not thinking and identity not in prompt:
            (_, program), (_, value) = tasks.answer_blocks(prompt)
            last = [line[8:] for line in program.split("\n")[1:-1]]
            output = make.trace(last, ast.literal_eval(value))[-1]
            seen["forgets"].append(tasks.answer_blocks(answer)[0][1] != show(output))
    # A statement that changes nothing can be forgotten unseen, and one whose program without it is held out is not.
    shares = {"dull solve": make.DULL["solve"], "dull propose": make.DULL["propose"], "hasty": 1 - make.THINKS,
              "forgets": 0.8 * make.FORGETS}
    for name, share in shares.items():
        slack = 4 * math.sqrt(share * (1 - share) / len(seen[name]))
        assert abs(statistics.mean(seen[name]) - share) < slack, (name, len(seen[name]))


@pytest.mark.parametrize("type", TYPES)
def test_a_dull_task_is_valid_and_its_solution_right_in_either_manner(type, executor):
    task, _, proposal = make.draw_example("propose", type, 0, random.Random(1))
    (gated,) = tasks.gate([(TYPES[type], proposal, task)], executor, n_inputs=make.N_INPUTS)
    assert gated.task == task and task.program == make.make_program([]) and task.inputs[0] == (task.outputs[0],)
    for thinks, forgets in ((True, False), (False, False), (False, True)):  # there is nothing to forget
        task, _, answer = make.draw_example("solve", type, 0, random.Random(1), thinks=thinks, forgets=forgets)
        assert tasks.verify([(task, answer)], executor) == [tasks.Verdict(True, "correct", True)]


@pytest.mark.parametrize("type", TYPES)
def test_who_forgets_answers_for_the_program_without_one_statement(type, executor):
    """Deduction and induction leave out the last one, abduction the first: so depth 1 gives back what it was given."""
    for depth in (1, 2, 3):
        right, wrong = (make.draw_example("solve", type, depth, random.Random(3 + depth), thinks=False, forgets=forgets)
                        for forgets in (False, True))
        assert right[:2] == wrong[:2] and wrong[2].startswith("</think>")
        task, (_, answer) = right[0], tasks.answer_blocks(wrong[2])[0]
        values = [task.inputs[0][0], *make.trace([line[8:] for line in task.program.split("\n")[1:-1]],
                                                 task.inputs[0][0])]
        if type == "induction":
            assert answer == task.program.replace(task.program.split("\n")[-2] + "\n    return", "    return")
        else:
            assert answer == show(values[-2] if type == "deduction" else values[1])


@pytest.mark.quick
def test_examples_are_fixed_by_the_generator():
    def draw(seed):
        rng = random.Random(seed)
        return [make.draw_example(role, type, depth, rng)[1:] for role, type, depth in CELLS]
    assert draw(3) == draw(3) != draw(4)


def test_batches_train_on_responses_and_their_end_only(tokenizer):
    batches = make.make_batches(tokenizer, 3, 8, random.Random(0))
    assert len(batches) == 3
    for ids_BT, labels_BT in batches:
        assert ids_BT.shape == labels_BT.shape and len(ids_BT) == 8
        for row, labels in zip(ids_BT, labels_BT):
            wanted = labels != -100
            assert torch.equal(labels[wanted], row[wanted])
            prompt, response = row[:wanted.nonzero()[0]], row[wanted]
            assert tokenizer.decode(prompt).endswith("<think>")
            assert response[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id not in response[:-1]
            assert tasks.well_formed(tokenizer.decode(response[:-1]))
            assert (row[len(prompt) + len(response):] == tokenizer.pad_token_id).all()


# ----------------------------------------------------------------------------------------------------------------
# The held-out file

def cell(task) -> tuple[str, int]:
    return task.type, task.depth


ALL_CELLS = {(type, depth) for type in TYPES for depth in make.DEPTHS}


def check_heldout_file(path: Path, executor) -> None:
    heldout = tasks.load_tasks(str(path), executor)
    assert Counter(map(cell, heldout)) == dict.fromkeys(ALL_CELLS, make.HELDOUT_PER_CELL)
    assert all(tasks.is_heldout(task.key, make.HELDOUT_FRACTION) for task in heldout)
    assert len(set(map(json.dumps, map(tasks.task_to_json, heldout)))) == len(heldout)
    for start in range(0, 120, 12):  # any first part is a fair sample of all cells
        assert set(map(cell, heldout[start:start + 12])) == ALL_CELLS
    sample = heldout[:60]
    runs = executor.run([Job(task.program, task.inputs) for task in sample])
    assert [tuple(run.value for run in of_task) for of_task in runs] == [task.outputs for task in sample]


def test_held_out_files_are_fixed_by_the_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(make, "HELDOUT_PER_CELL", 3)
    texts = []
    for seed in (0, 0, 1):
        make.write_heldout(tmp_path / "heldout.jsonl", random.Random(seed))
        texts.append((tmp_path / "heldout.jsonl").read_text())
    assert texts[0] == texts[1] != texts[2] and len(texts[0].splitlines()) == 3 * len(ALL_CELLS)


# ----------------------------------------------------------------------------------------------------------------
# The folder

def check_model(folder: Path, tokenizer, examples) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.model_type == "qwen2" and model.config.vocab_size == len(tokenizer)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert_same_tokenizer(AutoTokenizer.from_pretrained(folder), tokenizer, examples)
    logits = model(torch.tensor([ids(tokenizer, examples[0][-2])])).logits
    assert logits.shape[-1] == len(tokenizer) and logits.isfinite().all()


def test_a_short_run_makes_a_folder_that_transformers_loads(made, tokenizer, examples):
    check_model(made, tokenizer, examples)
    assert {path.name for path in made.iterdir()} == {"config.json", "generation_config.json", "heldout.jsonl",
                                                      "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def test_a_short_run_writes_the_held_out_file(made, executor):
    check_heldout_file(made / "heldout.jsonl", executor)


def test_the_shipped_folder_is_small_and_loads(shipped, tokenizer, examples):
    assert sum(path.stat().st_size for path in shipped.iterdir() if path.is_file()) <= 4 * 2**20
    check_model(shipped, tokenizer, examples)


def test_the_shipped_held_out_file_is_the_one_that_make_writes(shipped, made):
    """Steps do not matter for it, so the short run's file must be the same; else the grammar changed after the file."""
    assert (shipped / "heldout.jsonl").read_bytes() == (made / "heldout.jsonl").read_bytes()
