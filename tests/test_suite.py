"""What the benchmarks' files become: items, prompts, the answers found in responses; the data's own answers, judged."""
import base64
import hashlib
import json
import os
import pickle
import re
import threading
import zlib
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import files, items, prompts, stages, suite, taskfiles
import runfolder
import tasks
from benchmarks.items import DataError, Item
from benchmarks.prompts import Prompt
from benchmarks.selfcheck import selfcheck
from benchmarks.stages import Sampling
from benchmarks.suite import BENCHMARKS
from executor import Job
from model import chat_template
from toys import CODE, contest_row, function_item, function_row


# ---- rows -----------------------------------------------------------------------------------------


def test_mbpp_inputs_get_their_types_back():
    rows = [function_row(id=f"Mbpp/{number}", base=[args], plus=()) for number, args in (
        (2, ([1], [2])), (63, ([[1, 2]],)), (75, ([[1]], 2)), (106, ([1], [2])), (115, ([[1, 2], [], {}],)),
        (124, ("1", "2j")), (250, ([1], 2)), (252, ("3+1j",)), (259, ([[1]],)), (278, ([1, [2]],)),
        (722, ({"a": [1]}, 2)), (793, ([1], 2)))]
    rows[-1]["plus_input"] = {}
    found = [item.row["base_input"][0] for item in items.read_functions(rows)]
    assert found == [((1,), (2,)), ([(1, 2)],), ([(1,)], 2), ([1], (2,)), ([{1, 2}, {}, {}],), (1.0, 2j), ((1,), 2),
                     (3 + 1j,), (((1,),),), ((1, (2,)),), ({"a": (1,)}, 2), ([1], 2)]


@pytest.mark.quick
def test_pickled_tests_cannot_call_anything(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)
    for thing in (Evil(), [Evil()], os.system, Path("x")):
        private = base64.b64encode(zlib.compress(pickle.dumps(thing))).decode()
        with pytest.raises(DataError, match="LiveCodeBench: tests that cannot be read"):
            items.contest_tests(contest_row([("1", "1")], private=private))
    assert not (tmp_path / "made").exists()
    for junk in ("", "not base64!", base64.b64encode(b"not zlib").decode()):
        with pytest.raises(DataError):
            items.contest_tests(contest_row([("1", "1")], private=junk))
    plain = contest_row([("1", "1")], private='[{"input": "2", "output": "3"}]')
    assert items.contest_tests(plain) == [("1", "1"), ("2", "3")]


def test_contest_windows_load_the_releases_that_they_need(tmp_path):
    days = {"test": "2023-06-30", "test4": "2024-09-30", "test5": "2024-10-01", "test6": "2025-02-01"}
    (tmp_path / "lcb").mkdir()
    for name, day in days.items():
        (tmp_path / "lcb" / f"{name}.jsonl").write_text(json.dumps(contest_row([("1", "1")], date=f"{day}T10:00:00",
                                                                               id=day)))

    def loaded(*window):
        told = []
        [work], left_out = stages.prepare(["lcb"], tmp_path, None, None, window=window, note=told.append)
        return [item.id for item in work.items], left_out, [file["file"] for file in work.facts["files"]]
    assert loaded("2024-10-01", "9999") == (["2024-10-01", "2025-02-01"], [], ["lcb/test5.jsonl", "lcb/test6.jsonl"])
    assert loaded("2024-10-01", "2024-11-30") == (["2024-10-01"], [], ["lcb/test5.jsonl"])
    ids, left_out, _ = loaded("", "9999")
    assert ids == list(days.values()) and len(left_out) == 2
    assert "a part of LiveCodeBench is left out" in left_out[0] and "test2.jsonl: no such file" in left_out[0]
    works, left_out = stages.prepare(["lcb"], tmp_path, None, None, window=("2024-04-01", "2024-05-31"))
    assert not works and "LiveCodeBench is skipped" in left_out[0]


# ---- prompts, and answers in responses ------------------------------------------------------------


ITEMS = {
    "humanevalplus": function_item(body="    return GOLD"),
    "mbppplus": function_item(body="    return GOLD", id="Mbpp/900"),
    "lcb": items.read_contests([contest_row([("1", "GOLD")])])[0],
    "lcb_execution": Item("1", {"code": "def g(): pass", "call": "g()", "output": "'GOLD'"}),
    "cruxeval_o": Item("1", {"code": "def f(x): pass", "input": "1", "output": "'GOLD'"}),
    "cruxeval_i": Item("1", {"code": "def f(x): pass", "input": "'GOLD'", "output": "1"}),
    "aime24": Item("1", {"question": "How many?", "gold": "GOLD"}),
    "math500": Item("1", {"question": "How many?", "gold": "GOLD"}),
}


@pytest.mark.quick
def test_no_prompt_holds_its_answer_and_every_style_is_there():
    for name, item in ITEMS.items():
        for style in suite.STYLES:
            prompt = BENCHMARKS[name].kind.prompts[style](item)
            assert bool(prompt.text) != bool(prompt.user)
            assert "GOLD" not in prompt.text + prompt.user + prompt.system + prompt.prefill
        azr = BENCHMARKS[name].kind.prompts["azr"](item).text
        assert azr.startswith(tasks.PREAMBLE) and azr.endswith("\nAssistant: <think>") and "<answer>" in azr
    raw = BENCHMARKS["humanevalplus"].kind.prompts["base"](ITEMS["humanevalplus"])
    assert raw.text == ITEMS["humanevalplus"].row["prompt"]  # with its trailing newline: it moves scores


def test_worked_examples_are_true_and_of_both_shapes(executor):
    for text, calls in ((prompts.INPUT_EXAMPLE, 2), (prompts.OUTPUT_EXAMPLE, 1)):
        parts = text.split("[PYTHON]\n")[1:]
        assert len(parts) == calls
        for part in parts:
            program, given = part.split("\n[/PYTHON]")[0].rsplit("\n", 1)
            answer = part.split("[ANSWER]\n")[1].split("\n[/ANSWER]")[0]
            job = Job(f"{program}\ndef holds():\n    return {given.replace('f(??)', answer).replace('??', answer)}",
                      ((),), "holds")
            assert executor.run([job])[0][0].value is True
    one = prompts.INPUT_EXAMPLE.rsplit("[PYTHON]", 1)[1]
    assert "def f(text):" in one and "f takes one argument" in one  # the last one seen is of the commonest shape


@pytest.mark.quick
def test_programs_are_found():
    item, kind = function_item(), BENCHMARKS["humanevalplus"].kind
    good = "def double(x):\n    return 2 * x"
    answers = {
        "azr": [f"thought</think> <answer>\n```python\n{good}\n```\n</answer>",
                f"```python\ndef double(x): 0\n```</think><answer>```python\n{good}\n```\n```python\ndouble(3)\n```",
                f"</think><answer>```python\n{good}\n", f"</think>\n{good}"],
        "chat": [f"{good}\n```\nIt doubles.", good, f"{good}\nprint(double(2))", f"{good}\nif __name__ == 'x': 1 / 0"],
        "qwen": [f"{good}\n```\nThis is why:\n```python\ndef double(x): 0\n```", f"{good}\n"],
    }
    for style, texts in answers.items():
        for text in texts:
            assert kind.find(item, kind.prompts[style](item), text).strip() == good, (style, text)
    assert kind.find(item, kind.prompts["azr"](item), "I cannot.</think>") is None
    base = kind.find(item, kind.prompts["base"](item), "    return 2 * x\n\ndef other():\n    1")
    assert base == item.row["prompt"] + "    return 2 * x\n"


@pytest.mark.parametrize("cuts", [False, True])
def test_cruxeval_is_asked_as_training_asks(cuts, monkeypatch):
    """With the worked example of runs with --example too, also where a template cuts thoughts out of earlier turns."""
    def template(messages, **_):
        texts = [(m["role"], m["content"].split("</think>")[-1] if cuts and m["role"] == "assistant" else m["content"])
                 for m in messages]
        return "".join(f"<{role}>{text}" for role, text in texts) + "<assistant>"
    policy = SimpleNamespace(tokenizer=SimpleNamespace(apply_chat_template=template, chat_template="there is one",
                                                       get_chat_template=lambda: "there is one",
                                                       added_tokens_decoder={}, all_special_tokens=[]))
    item = Item("1", {"code": CODE, "input": "2", "output": "{'a': [3], 'b': True}"})
    for name, type in (("cruxeval_o", "deduction"), ("cruxeval_i", "abduction")):
        task = tasks.Task(type, CODE, ((2,),), ({"a": [3], "b": True},))
        for example in (False, True):
            for style, wrap in (("azr", None), ("chat", chat_template(policy))):
                wanted = tasks.solve_prompt(tasks.Style("chat" if wrap else "r1", wrap=wrap, example=example), task)
                prompt = BENCHMARKS[name].kind.ask(item, style, example)
                assert stages.prompt_text(policy, prompt, {}) == wanted
                assert example == ("c is 7" in wanted) and stages.stops_of(prompt, Sampling(style)) == ()
                assert stages.stops_of(prompt, Sampling(style, stop_at_answer=True)) == ("</answer>",)
            again = taskfiles.selfplay_kind(tasks.Style("r1", example=example)).ask(Item("1", {"task": task}), "chat")
            assert stages.prompt_text(policy, again, {}) == wanted
    for style in ("chat", "qwen", "base"):  # nobody asked for an answer part
        prompt = BENCHMARKS["humanevalplus"].kind.ask(function_item(), style, True)
        assert "</answer>" not in stages.stops_of(prompt, Sampling(style, stop_at_answer=True))


CHAT = "Here is the function:\n\n```{}\n{}\n```\n\nIt doubles its argument. For example:\n\n```{}\ndouble(2)\n```\n"


@pytest.mark.quick
def test_responses_of_chat_interfaces_are_read_under_every_prompt():
    good = "def double(x):\n    return 2 * x"
    for name, item in (("humanevalplus", function_item()), ("mbppplus", function_item(id="Mbpp/900"))):
        for style in suite.STYLES:
            prompt = BENCHMARKS[name].kind.ask(item, style)
            for text in (CHAT.format("python", good, "python"), CHAT.format("", good, ""), f"```python\n{good}\n```",
                         f"```python\n{good}", f"```py\n{good}\n```\nIt is done."):
                found = BENCHMARKS[name].kind.find(item, prompt, text)
                assert found.strip() == good, (style, text)
            body = BENCHMARKS[name].kind.find(item, prompt, "```python\n    return 2 * x\n```")
            assert not prompt.continues or body == prompt.text + "    return 2 * x\n"
    contest = ITEMS["lcb"]
    for style in suite.STYLES:
        prompt = BENCHMARKS["lcb"].kind.ask(contest, style)
        found = BENCHMARKS["lcb"].kind.find(contest, prompt, "Read and add:\n```python\nprint(1)\n```\nDone.")
        assert found.strip() == "print(1)", style


def test_literals_and_formulas_are_found():
    outputs, inputs, maths = (BENCHMARKS[name].kind for name in ("cruxeval_o", "cruxeval_i", "aime24"))
    item = ITEMS["cruxeval_o"]
    azr, base = outputs.prompts["azr"](item), outputs.prompts["base"](item)
    assert outputs.find(item, azr, "t</think><answer>```output\n[1]\n```</answer>") == "[1]"
    assert outputs.find(item, azr, "t</think><answer>\n[1]\n</answer>") == "[1]", "as in training"
    assert outputs.find(item, azr, "t</think><answer>```text\n[1]\n```</answer>") is None
    assert outputs.find(item, base, "so it is 1\n[/THOUGHT]\n[ANSWER]\n[1]\n[/ANSWER]\n[ANSWER]2[/ANSWER]") == "[1]"
    assert outputs.find(item, base, "[ANSWER]assert f(1) == [1]") == "[1]"
    assert inputs.find(item, inputs.prompts["base"](item), "[ANSWER] f(1) == [1]\n[/ANSWER]") == "f(1)"
    assert inputs.find(item, inputs.prompts["base"](item), "[ANSWER]f('a == b')[/ANSWER]") == "f('a == b')"
    for text in ("'a == b'", "f('x == y') == 'a == b'", "f(1)=='a == b'"):
        assert outputs.find(item, base, f"[ANSWER]{text}[/ANSWER]") == "'a == b'"
    assert outputs.find(item, base, "so it is 1") is None
    several = "[ANSWER]assert f(1) == [1]\nassert f(2) == [2]\n[/ANSWER]"
    assert outputs.find(item, base, several) == "[1]"
    assert inputs.find(item, inputs.prompts["base"](item), several) == "f(1)"
    azr, boxed = maths.prompts["azr"](item | {} if isinstance(item, dict) else ITEMS["aime24"]), Prompt(user="?")
    assert maths.find(item, azr, "\\boxed{1}</think><answer>\\boxed{\\frac{1}{2}}</answer>") == "\\frac{1}{2}"
    assert maths.find(item, azr, "</think><answer> 7 </answer>") == "7"
    assert maths.find(item, boxed, "first \\boxed{1}, then \\boxed{2{3}} and \\boxed{4") == "2{3}"
    assert maths.find(item, boxed, "no answer") is None
    for text, inside in (("so \\boxed 5", "5"), ("is $\\boxed 27$ miles", "27"), ("\\(\\boxed 5\\).", "5"),
                         ("\\boxed {7}", "7"), ("\\boxed{1}, no: \\boxed (1, 2).", "(1, 2)"),
                         ("\\boxed 1, no: \\boxed{2}", "2"), ("\\boxed", None),
                         ("\\boxed\\frac{1}{2}", "\\frac{1}{2}"), ("\\boxed{\\boxed{3}}", "3")):
        assert maths.find(item, boxed, text) == inside, text


# ---- files ----------------------------------------------------------------------------------------


def test_files_missing_damaged_and_foreign(tmp_path):
    crux_file = BENCHMARKS["cruxeval_o"]
    with pytest.raises(DataError, match=r"cruxeval.jsonl: no such file; .*--fetch"):
        suite.paths_of(crux_file, tmp_path, tmp_path)
    [file] = suite.files_of(crux_file)
    path = tmp_path / "cruxeval" / "cruxeval.jsonl"
    path.parent.mkdir()
    for text, told in (("{", "cannot be read"), ('{"a": 1}', "not a file of CRUXEval-O"), ("[]", "not a file of")):
        path.write_text(text)
        with pytest.raises(DataError, match=told):
            suite.load(crux_file, {path: file})
    path.write_text(json.dumps({"code": CODE, "input": "2", "output": "3", "id": "s"}) + "\n")
    loaded, files, warnings = suite.load(crux_file, {path: file})
    assert len(loaded) == 1 and files == [{"file": "cruxeval/cruxeval.jsonl", "sha256": runfolder.sha256_of(path)}]
    assert len(warnings) == 2 and "sha256" in warnings[0] and "800" in warnings[1]
    packed = tmp_path / "x.jsonl.gz"
    packed.write_bytes(b"no gzip")
    with pytest.raises(DataError, match="cannot be read"):
        suite.load(BENCHMARKS["humanevalplus"], {packed: file})


def test_every_address_is_in_one_list_and_pinned():
    named = {name for benchmark in BENCHMARKS.values() for name in benchmark.files}
    assert named == set(files.FILES)
    for name, file in files.FILES.items():
        assert file.name == name and re.fullmatch(r"[\w.-]+/[\w.-]+", file.repository)
        assert re.fullmatch(r"v\d+(\.\d+)+" if file.host == "release" else r"[0-9a-f]{7}|[0-9a-f]{40}", file.ref) \
            or name == "lcb/execution-v2.parquet"
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256) or name == "lcb/execution-v2.parquet"
        assert re.fullmatch(r"https://(raw\.githubusercontent\.com|github\.com|huggingface\.co/datasets)/[\w./-]+",
                            file.url) and file.url.endswith(file.path)
        assert Path(name).suffix in (".jsonl", ".gz", ".parquet") and name.endswith(Path(file.path).suffix)
    assert len({file.url for file in files.FILES.values()}) == len(files.FILES)


@pytest.fixture
def server(tmp_path):
    """(folder that is served on loopback, its address, the ranges that were asked for, what it does wrong)."""
    folder, asked, faults = tmp_path / "served", [], {}
    folder.mkdir()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = folder / self.path.lstrip("/")
            if not path.is_file():
                return self.send_error(404)
            data, given = path.read_bytes(), self.headers["Range"]
            asked.append(given)
            start = int(given[6:-1]) if given and "no ranges" not in faults else 0
            if start and start >= len(data):
                return self.send_error(416)
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start:faults.pop("cut", None)])

        def log_message(self, *args):
            pass
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_address[1]}", asked, faults
        running.shutdown()
        thread.join()


def test_a_download_goes_on_where_it_stopped(server, tmp_path):
    folder, address, asked, faults = server
    data = bytes(range(256)) * 40
    right = hashlib.sha256(data).hexdigest()
    (folder / "file").write_bytes(data)
    path = tmp_path / "a" / "file"
    part = path.with_name("file.part")
    faults["cut"] = 1000
    with pytest.raises(DataError, match="cannot be downloaded .*goes on where it stopped"):
        files.download(f"{address}/file", right, path)
    assert part.stat().st_size == 1000 and not path.exists()
    files.download(f"{address}/file", right, path)
    assert path.read_bytes() == data and asked == [None, "bytes=1000-"] and not part.exists()
    path.unlink()
    part.write_bytes(data)  # all there but its name
    files.download(f"{address}/file", right, path)
    assert path.read_bytes() == data
    path.unlink()
    part.write_bytes(b"of another file")  # so the whole is fetched again
    files.download(f"{address}/file", right, path)
    assert path.read_bytes() == data
    path.unlink()
    part.write_bytes(data[:99])
    faults["no ranges"] = True
    files.download(f"{address}/file", right, path)
    assert path.read_bytes() == data


def test_wrong_bytes_are_not_kept(server, tmp_path, capsys):
    folder, address, asked, faults = server
    (folder / "file").write_bytes(b"data")
    with pytest.raises(DataError, match="its sha256 is"):
        files.download(f"{address}/file", "0" * 64, tmp_path / "b")
    assert not (tmp_path / "b").exists() and not (tmp_path / "b.part").exists()
    with pytest.raises(DataError, match="--fetch DIR"):
        files.download(f"{address}/none", "0" * 64, tmp_path / "c")
    files.download(f"{address}/file", "", tmp_path / "d")
    assert hashlib.sha256(b"data").hexdigest() in capsys.readouterr().out
    with pytest.raises(DataError, match="cannot be downloaded"):
        files.download("http://127.0.0.1:9/file", "", tmp_path / "e")


def test_without_math_verify_its_tasks_are_skipped_not_scored(tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "has_math_verify", lambda: False)
    (tmp_path / "math").mkdir()
    rows = [{"id": i, "problem": "?", "answer": "1"} for i in range(30)]
    (tmp_path / "math" / "aime24.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = []
    works, [left_out] = stages.prepare(["math500", "aime24"], tmp_path, None, None, note=told.append)
    assert [work.name for work in works] == ["aime24"] and "MATH500 is skipped" in left_out
    assert "pip install" in left_out and "only plain integers" in told[0] and "sha256" in told[1]


# ---- self-play ------------------------------------------------------------------------------------


def test_selfplay_files_of_three_kinds(executor, tmp_path):
    row = {"type": "deduction", "program": "def f(x):\n    return x + 1", "inputs": ["1"], "outputs": ["2"]}
    plain = tmp_path / "tasks.jsonl"
    plain.write_text(json.dumps(row) + "\n")
    seeds = [{"snippet": "def f(a):\n    return [a]", "input": "dict(a=1)", "output": "x", "imports": []},
             {"snippet": "def f(a):\n    return [a]", "input": "'b'", "output": "['b']", "imports": []},
             {"snippet": "def f(a):\n    return math.floor(a)", "inputs": ["1.5", "2.5", "3.5", "4.5"],
              "outputs": ["1", "2", "3", "4"], "imports": ["import math"], "message": "down"}]
    official = tmp_path / "seeds.jsonl"
    official.write_text("".join(json.dumps(seed) + "\n" for seed in seeds))
    found = taskfiles.selfplay_items(official, executor)
    assert [item.id.split("/")[0] for item in found] == ["deduction", "abduction", "induction"]
    assert found[2].row["task"].outputs == (1, 2, 3, 4) and found[0].cluster == found[1].cluster
    buffers = tasks.Buffers(10)
    kept = replace(found[0].row["task"], heldout=True)
    buffers.add(kept)
    buffers.add(found[1].row["task"])
    run = tmp_path / "run" / "checkpoint"
    run.mkdir(parents=True)
    (run / "state.json").write_text(json.dumps({"buffers": buffers.to_json()}))
    assert [item.row["task"] for item in taskfiles.selfplay_items(run.parent, executor)] == [kept]
    assert taskfiles.selfplay_items(run.parent, executor)[0].id == found[0].id  # wherever a task lies, it has one name
    for text in ("{", "[]", "{}"):
        (run / "state.json").write_text(text)
        with pytest.raises(ValueError, match="neither a file of tasks nor a run's folder"):
            taskfiles.selfplay_items(run.parent, executor)
    for text in (b'{"snippet": 1}', b"\x89PNG", b'{"snippet": "", "imports": "math", "input": "1"}',
                 b'{"snippet": "", "imports": [], "inputs": "12", "message": ""}'):
        (tmp_path / "odd").write_bytes(text)
        with pytest.raises(ValueError, match="odd: neither a file of tasks"):
            taskfiles.selfplay_items(tmp_path / "odd", executor)
    with open(plain, "a") as file:
        file.write(json.dumps(row | {"outputs": ["3"]}) + "\n" + json.dumps(row) + "\n")
        file.write(json.dumps(row | {"outputs": ["4"]}) + "\n")
    with pytest.raises(ValueError, match=r"jsonl, line 2: not a valid task \(f\(1\) is 2, not 3\).* either: lines 4$"):
        taskfiles.selfplay_items(plain, executor)
    [item] = taskfiles.selfplay_items(plain, executor, 1)
    form = "t</think><answer>```output\n{}\n```</answer>"
    answers = {form.format(2): "pass", form.format(3): "wrong", "```output\n2\n```": "no_answer", "": "no_answer",
               form.format("1 + 1"): "error"}
    found = taskfiles.judge_selfplay([(item, text) for text in answers], executor, False)
    assert dict(zip(answers, [judgement.reason for judgement in found])) == answers


# ---- real files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.slow] * (BENCHMARKS[name].kind is suite.FUNCTIONS))
    for name in BENCHMARKS])
def test_the_datas_own_answers_pass(name, capsys):
    folder = os.environ.get("AZR_DATA")
    if not folder:
        pytest.skip("AZR_DATA is not set: the folder with the benchmarks' files")
    if not all((Path(folder) / file.name).is_file() for file in BENCHMARKS[name].files):
        pytest.skip(f"AZR_DATA has no files of {name}")
    told = []
    with stages.scorer(2, "weak") as ex:
        works, left_out = stages.prepare([name], Path(folder), ex, None, note=told.append)
        if not works:
            pytest.skip(left_out[0])
        assert not [line for line in told if "math-verify" not in line]
        assert selfcheck(works, ex), capsys.readouterr().out
