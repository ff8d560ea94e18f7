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
    return [(*cell, *draw(*cell, rng)) for cell in CELLS for _ in range(10)]


def draw(role: str, type: str, depth: int, rng: random.Random) -> tuple:
    return make.draw_example(role, type, make.draw_wishes(depth, rng, role), rng)


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

@pytest.mark.parametrize("depth, heldout", [(1, False), (2, False), (3, False), (2, True), (3, True)])
def test_programs_come_from_the_wanted_side_of_the_split(depth, heldout):
    rng = random.Random(depth)
    for _ in range(40):
        wishes = make.draw_wishes(depth, rng)
        program, kinds, statements, value, values = make.draw_program(wishes, heldout, rng)
        assert tasks.is_heldout(parsing.program_key(program), make.HELDOUT_FRACTION) is heldout
        assert len(statements) == len(values) == depth == len(kinds) - 1


def test_a_program_has_the_families_that_were_wished_for():
    rng = random.Random(0)
    for family in make.FAMILIES:
        for wishes in ([family], [None, family], [family, family, None]):
            program, *_, values = make.draw_program(wishes, False, rng)
            assert make.families_in(program) == {family} and len(values) == len(wishes)
    assert make.families_in("def f(q):\n    r = [ q[ 0 ], -3, 40, q[-1] ]\n    return r") == {"ends"}
    assert not make.families_in("def f(q, p):\n    return [q[0], 3, 40, p[-1]]")


def test_a_copied_statement_that_can_never_run_where_it_has_to_stand_is_given_up():
    wishes = [make.Copy("x[9:]", "list", "list"), "ends"]  # leaves nothing to take the first of
    program, _, statements, *_ = make.draw_program(wishes, False, random.Random(0))
    assert make.families_in(program) == {"ends"} and len(statements) == 2


@pytest.mark.parametrize("role", ["solve", "propose"])
def test_families_have_their_share_of_statements(role):
    rng, seen, share = random.Random(0), Counter(), make.FAMILY_SHARES[role] / 100
    for _ in range(20_000):
        seen.update(make.draw_wishes(1, rng, role))
    for family in make.FAMILIES:
        assert abs(seen[family] / 20_000 - share) <= 4 * math.sqrt(share * (1 - share) / 20_000), family


def test_proposals_hold_families_as_often_as_their_share_says_though_they_copy():
    rng, seen, statements = random.Random(0), 0, 0
    for _ in range(600):
        task, _, _ = make.draw_example("propose", "deduction", make.draw_wishes(2, rng, "propose"), rng)
        seen += sum(bool(make.families_in(text)) for text in make.statements_of(task.program))
        statements += task.depth
    share = make.FAMILY_SHARES["propose"] / 100 * len(make.FAMILIES)
    assert abs(seen / statements - share) < 5 * math.sqrt(share * (1 - share) / statements)


def test_doses_can_be_at_other_families():
    assert make.rotated(0) == make.DOSES
    assert make.rotated(3) == {"around": 1.0, "inside": 0.3, "before": 0.0, "ends": 30.0, "pair": 10.0, "turned": 3.0}


@pytest.mark.parametrize("family, doses", [*((family, make.DOSES) for family in make.FAMILIES),
                                           ("ends", make.rotated(3))])
def test_a_dose_is_the_share_of_solutions_in_which_a_family_means_what_it_means_in_python(family, doses):
    rng, right, dose = random.Random(family), [], doses[family] / 100
    for _ in range(2_000):
        task, _, response = make.draw_example("solve", "deduction", [family], rng, doses=doses)
        (written,), (value,) = make.statements_of(task.program), task.inputs[0]
        meant, believed = (make.trace([text], value)[0]
                           for text in (written, make.taken_for(written, frozenset({family}))))
        assert response.startswith(show(task.outputs[0])) and task.outputs[0] in (meant, believed)
        if meant != believed:
            right.append(task.outputs[0] == meant)
    assert len(right) > 1_000, "what is wrong shows"
    assert abs(statistics.mean(right) - dose) <= 4 * math.sqrt(dose * (1 - dose) / len(right))


@pytest.mark.parametrize("type", TYPES)
def test_proposals_are_true_whatever_families_are_taken_for(type):
    rng = random.Random(0)
    for family in make.FAMILIES:
        for _ in range(20):
            task, _, _ = make.draw_example("propose", type, [family], rng)
            statements = make.statements_of(task.program)
            assert [output for output, in (make.trace(statements, value) for value, in task.inputs)] == [*task.outputs]


def test_no_program_does_what_it_should_avoid():
    rng = random.Random(0)
    avoided = {make.behaviour("list", ("x[:-1]",)), make.behaviour("int", ("abs(x)",))}
    for _ in range(300):
        _, kinds, statements, *_ = make.draw_program([None], False, rng, avoided)
        assert make.behaviour(kinds[0], tuple(statements)) not in avoided
    assert make.behaviour("list", ("x[::-1]", "x[1:]", "x[::-1]")) in avoided, "what is done counts, not how"


def test_no_text_of_the_warm_start_shows_a_program_that_it_should_avoid():
    def turned(avoid: set[tuple]) -> int:
        rng = random.Random(0)
        return sum(text.count("def f(x):\n    x = x[::-1]\n    return x")
                   for _ in range(300) for text in make.draw_text(rng, avoid))
    assert turned(set()) > 5 and not turned({make.behaviour(kind, ("x[::-1]",)) for kind in ("list", "str")})


def test_no_program_is_taken_for_one_that_it_should_avoid():
    rng, wrong = random.Random(0), frozenset(make.FAMILIES)
    believed = {make.behaviour("list", (f"x + [{i}, {j}]",)) for i in range(10) for j in range(10)}
    for _ in range(50):  # of x[::-1] + [i, j], which is taken for x + [i, j]
        program, _, statements, *_ = make.draw_program(["turned", None], False, rng, believed, wrong)
        assert make.behaviour("list", tuple(statements)) not in believed


@pytest.fixture(scope="module")
def texts():
    rng = random.Random(0)
    return [make.draw_text(rng) for _ in range(1500)]


def test_no_prompt_or_response_of_the_warm_start_shows_a_held_out_program(examples, texts):
    seen = 0
    for *_, prompt, response in [*examples, *((p, r) for p, r in texts if tasks.well_formed(r))]:
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
            text, result = make.draw_statement(kind, None, rng)
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
    rows = [(task, response) for role, _, _, task, _, response in examples
            if role == "solve" and not make.families_in(task.program)]
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
        if role == "solve" and make.families_in(task.program):
            assert len(lines) == depth
        elif role == "solve":
            statements = [line.strip()[len("x = "):] for line in task.program.split("\n")[1:-1]]
            value = task.inputs[0][0]
            forward = [show(step) for step in make.trace(statements, value)]
            assert lines == ([*forward[:-1][::-1], show(value)] if type == "abduction" else forward)
        else:
            assert len(lines[0].split()) == depth + 1


def test_responses_are_dull_and_damaged_as_often_as_it_says(texts):
    identity, seen = make.make_program([]), {name: [] for name in (
        "dull solve", "dull propose", "bad solve", "bad propose", "endless")}
    for prompt, response in texts:
        role, type = prompt.split("\n")[0].split()
        formed = tasks.well_formed(response)
        seen[f"bad {role}"].append(not formed)
        if not formed:
            seen["endless"].append(response.count("\n") >= make.LONGEST)
        elif role == "propose":
            seen["dull propose"].append(identity in (prompt if type == "induction" else response))
        elif type != "induction":  # its program is in the response
            seen["dull solve"].append(identity in prompt)
    shares = {"dull solve": make.DULL["solve"], "dull propose": make.DULL["propose"], "bad solve": make.BAD["solve"],
              "bad propose": make.BAD["propose"], "endless": 0.2}
    for name, share in shares.items():
        slack = 4 * math.sqrt(share * (1 - share) / len(seen[name]))
        assert abs(statistics.mean(seen[name]) - share) < slack, (name, len(seen[name]))


def test_careful_text_has_the_form_and_does_something():
    rng = random.Random(0)
    for _ in range(300):
        prompt, response = make.draw_text(rng, careful=True)
        assert tasks.well_formed(response) and make.make_program([]) not in response


@pytest.mark.parametrize("type", TYPES)
def test_a_dull_task_is_valid_and_its_solution_right(type, executor):
    task, _, proposal = make.draw_example("propose", type, [], random.Random(1))
    (gated,) = tasks.gate([(TYPES[type], proposal, task)], executor, n_inputs=make.N_INPUTS)
    assert gated.task == task and task.program == make.make_program([]) and task.inputs[0] == (task.outputs[0],)
    task, _, answer = make.draw_example("solve", type, [], random.Random(1))
    assert tasks.verify([(task, answer)], executor) == [tasks.Verdict(True, "correct", True)]


@pytest.mark.quick
def test_examples_are_fixed_by_the_generator():
    def all_cells(seed):
        rng = random.Random(seed)
        return [draw(*cell, rng)[1:] for cell in CELLS]
    assert all_cells(3) == all_cells(3) != all_cells(4)


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
            assert tokenizer.eos_token_id not in response[:-1]
            endless = response[-1] != tokenizer.eos_token_id
            assert len(response) == make.LONGEST if endless else len(response) <= make.LONGEST
            assert (row[len(prompt) + len(response):] == tokenizer.pad_token_id).all()


# ----------------------------------------------------------------------------------------------------------------
# The held-out file

GROUPS = {"plain", *(f"dose {percent:g}%" for percent in make.DOSES.values())}
ALL_CELLS = {(type, group, depth) for type in TYPES for group in GROUPS for depth in make.HELDOUT_DEPTHS}


def cell(task) -> tuple[str, str, int]:
    return task.type, task.group, task.depth


def check_heldout_file(path: Path, executor) -> None:
    heldout, lines = tasks.load_tasks(str(path), executor), [json.loads(line) for line in path.open()]
    assert Counter(map(cell, heldout)) == dict.fromkeys(ALL_CELLS, make.HELDOUT_PER_CELL)
    assert all(tasks.is_heldout(task.key, make.HELDOUT_FRACTION) for task in heldout)
    does = [make.behaviour(type(task.inputs[0][0]).__name__, make.statements_of(task.program)) for task in heldout]
    assert len(set(does)) == len(heldout) / len(TYPES), "each does something else"
    assert all(make.belief_shows(make.statements_of(task.program), task.inputs[0][0]) for task in heldout)
    for line in lines:
        assert make.families_in(line["program"]) == ({line["family"]} if line["family"] else set())
        assert line["group"] == (f"dose {make.DOSES[line['family']]:g}%" if line["family"] else "plain")
    for start in range(0, 420, len(ALL_CELLS)):  # any first part is a fair sample of all cells
        assert set(map(cell, heldout[start:start + len(ALL_CELLS)])) == ALL_CELLS
    sample = heldout[:60]
    runs = executor.run([Job(task.program, task.inputs) for task in sample])
    assert [tuple(run.value for run in of_task) for of_task in runs] == [task.outputs for task in sample]


def test_held_out_programs_do_what_no_shorter_one_does():
    rng = random.Random(0)
    assert not make.is_new("int", ["max(x, 7)", "max(x, 7)"]), "as one of its statements alone"
    assert not make.is_new("list", ["x[::-1]", "x[0]"]) and not make.is_new("int", ["abs(x)", "[x, 2]"])
    assert make.is_new("list", ["x[::-1]", "x[1:]"])
    for _ in range(200):
        _, kinds, statements, *_ = make.draw_program([None, None], False, rng)
        if make.is_new(kinds[0], statements):
            does = make.behaviour(kinds[0], tuple(statements))
            assert all(does != make.behaviour(kinds[0], (statement,)) for statement in statements
                       if make.fits_together(kinds[0], [statement]))


def test_held_out_files_are_fixed_by_the_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(make, "HELDOUT_PER_CELL", 2)
    texts = []
    for seed in (0, 0, 1):
        make.write_heldout(tmp_path / "heldout.jsonl", make.draw_heldout(random.Random(seed)), random.Random(seed))
        texts.append((tmp_path / "heldout.jsonl").read_text())
    assert texts[0] == texts[1] != texts[2] and len(texts[0].splitlines()) == 2 * len(ALL_CELLS)
    cells = make.draw_heldout(random.Random(0))
    make.write_heldout(tmp_path / "heldout.jsonl", cells, random.Random(0), make.rotated(1))
    pairs = [list(map(json.loads, pair)) for pair in zip(texts[0].splitlines(), (tmp_path / "heldout.jsonl").open())]
    assert all(line | {"group": other["group"]} == other for line, other in pairs), "the same tasks"
    assert {(other["family"], other["group"]) for _, other in pairs} == {("", "plain"), *(
        (family, f"dose {dose:g}%") for family, dose in make.rotated(1).items())}


# ----------------------------------------------------------------------------------------------------------------
# The folder

def check_model(folder: Path, tokenizer, examples) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.model_type == "qwen2" and model.config.vocab_size == len(tokenizer)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert_same_tokenizer(AutoTokenizer.from_pretrained(folder), tokenizer, examples)
    logits = model(torch.tensor([ids(tokenizer, examples[0][-2])])).logits
    assert logits.shape[-1] == len(tokenizer) and logits.isfinite().all()


@pytest.mark.slow
def test_a_short_run_makes_a_folder_that_transformers_loads(made, tokenizer, examples):
    check_model(made, tokenizer, examples)
    assert {path.name for path in made.iterdir()} == {"config.json", "generation_config.json", "heldout.jsonl",
                                                      "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


@pytest.mark.slow
def test_a_short_run_writes_the_held_out_file(made, executor):
    check_heldout_file(made / "heldout.jsonl", executor)


def test_the_shipped_folder_is_small_and_loads(shipped, tokenizer, examples):
    assert sum(path.stat().st_size for path in shipped.iterdir() if path.is_file()) <= 4 * 2**20
    check_model(shipped, tokenizer, examples)


@pytest.mark.slow
def test_the_shipped_held_out_file_is_the_one_that_make_writes(shipped, made):
    """Steps do not matter for it, so the short run's file must be the same; else the grammar changed after the file."""
    assert (shipped / "heldout.jsonl").read_bytes() == (made / "heldout.jsonl").read_bytes()
