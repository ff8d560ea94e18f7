"""Other engines, played by a small server on loopback: what they are asked, what is made of what they say, and what
happens where they fail."""
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from benchmarks import endpoint, stages
from benchmarks.endpoint import EndpointError, read_body
from benchmarks.items import Item
from benchmarks.prompts import Prompt
from benchmarks.stages import Sampling
from benchmarks.suite import BENCHMARKS
from test_eval import command, data  # noqa: F401 (a fixture)
from toys import CODE, function_item

RIGHT = "so.</think>\n<answer>\n```output\n{'a': [3], 'b': True}\n```\n</answer>"
STOPPED = RIGHT.removesuffix("</answer>")
KEY = "sk-very-secret"


def completion(text, finish="stop", chat=True, tokens=7, message=None, **more):
    said = {"message": {"role": "assistant", "content": text} | (message or {})} if chat else {"text": text}
    return {"choices": [{"index": 0, "finish_reason": finish, **said, **more}], "usage": {"completion_tokens": tokens}}


@pytest.fixture
def server(monkeypatch):
    """A server with `url`, `asked` (path, body, headers of each request) and `models`; `answer(path, body, number)` may
    be replaced and returns a JSON object, bytes, (status, object), (status, object, headers) or None: hang up."""
    state = SimpleNamespace(asked=[], models=["m"], answer=lambda path, body, number: completion(
        STOPPED, chat="messages" in body))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            self.reply(state.models if isinstance(state.models, tuple) else
                       {"data": [{"id": name, "root": f"/{name}"} for name in state.models]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(state.asked)
                state.asked.append((self.path, body, dict(self.headers)))
            self.reply(state.answer(self.path, body, number))

        def reply(self, answer):
            if answer is None:
                self.close_connection = True
                return
            status, answer, headers = (answer if isinstance(answer, tuple) else (200, answer)) + ({},) \
                if not (isinstance(answer, tuple) and len(answer) == 3) else answer
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in ({"Content-Length": len(content)} | headers).items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(content)
    lock, http = threading.Lock(), ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads, http.handle_error = True, lambda *_: None  # clients hang up here
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    state.url = f"http://127.0.0.1:{http.server_port}"
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(endpoint, "LONGEST_WAIT", 0.001)
    yield state
    http.shutdown()
    http.server_close()


@pytest.fixture
def evaluate(server, data, tmp_path, monkeypatch, capsys):  # noqa: F811
    """evaluate(*flags) -> (status, shown, told) of CRUXEval-O, three items, through the server."""
    monkeypatch.setattr("eval.load_policy", None)  # no model is loaded
    return lambda *flags: command(monkeypatch, capsys, "--endpoint", server.url, "--data", data, "--tasks",
                                  "cruxeval_o", "--out", tmp_path / "out", "--workers", 1, *flags)


def complaints(told):
    """What is said besides notes, such as those of toy files."""
    return [line for line in told.splitlines() if "eval.py: note: " not in line]


ITEM = Item("s0", {"code": CODE, "input": "2", "output": "{'a': [3], 'b': True}"})
WORK = stages.Work("cruxeval_o", "CRUXEval-O", BENCHMARKS["cruxeval_o"].kind, [ITEM], {}, 2048)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def sent(style, **more):
    """(path, body) that CRUXEval-O's toy item becomes."""
    bare = more.pop("bare", False)
    return endpoint.request_of(WORK, ITEM, 0, 0.0, Sampling(style, stop_at_answer=True, **more), "m", bare)


# ---- asked ----------------------------------------------------------------------------------------


@pytest.mark.quick
@pytest.mark.parametrize("style, path", [("chat", "/v1/chat/completions"), ("azr", "/v1/completions")])
def test_an_evaluation_through_a_server(style, path, server, evaluate, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    flags = ("--prompt", style, "--n", 2, "--temperature", 0.7, "--top_p", 0.9)
    status, shown, told = evaluate(*flags, "--concurrency", 3)
    assert status == 0 and f"Model m at {server.url}/v1" in shown and "| 3 x 2 | 100.0 [" in shown, told
    assert {asked[0] for asked in server.asked} == {path} and len(server.asked) == 6
    assert {asked[2]["Authorization"] for asked in server.asked} == {f"Bearer {KEY}"}
    for _, body, _ in server.asked:
        assert body["model"] == "m" and body["top_p"] == 0.9 and body["temperature"] == 0.7 and "n" not in body
        assert body["stop"] == ["</answer>"] and body["max_tokens"] == 2048 and body["min_p"] == 0
        assert body["top_k"] == -1 and body["repetition_penalty"] == body["repeat_penalty"] == 1
    assert len({body["seed"] for _, body, _ in server.asked}) == 6
    samples, verdicts = lines(tmp_path / "out" / "samples.jsonl"), lines(tmp_path / "out" / "verdicts.jsonl")
    assert {(row["id"], row["k"]) for row in samples} == {(f"s{i}", k) for i in range(3) for k in range(2)}
    for row in samples:
        assert row["text"] == RIGHT and row["finish"] == "stop" and row["tokens"] == 7
        assert CODE in (row["prompt"] if style == "azr" else row["prompt"][0]["content"])
    assert {(row["answer"], row["gold"], row["ok"]) for row in verdicts} == {("{'a': [3], 'b': True}",) * 2 + (True,)}
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["model"] == "m" and settings["served"] == {"root": "/m"} and settings["top_p"] == 0.9
    assert all(KEY not in file.read_text() for file in (tmp_path / "out").iterdir()) and KEY not in shown + told
    first = sorted(body["seed"] for _, body, _ in server.asked)
    server.asked.clear()
    evaluate(*flags, "--stage", "generate", "--out", tmp_path / "again")
    assert sorted(body["seed"] for _, body, _ in server.asked) == first


def test_chats_carry_the_beginning_of_the_answer_the_system_and_the_template_arguments():
    path, body = sent("chat", system="Be brief.", template_args={"enable_thinking": False})
    assert path == "/chat/completions"
    assert [turn["role"] for turn in body["messages"]] == ["system", "user", "assistant"]
    assert body["messages"][0]["content"] == "Be brief." and body["messages"][2]["content"] == "<think>"
    assert body["continue_final_message"] is True and body["add_generation_prompt"] is False
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    _, body = sent("chat", example=True)
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user", "assistant"]
    path, body = sent("base", max_new_tokens=9)
    assert path == "/completions" and body["stop"] == ["[/ANSWER]"] and body["max_tokens"] == 9
    assert "messages" not in body and "continue_final_message" not in body


def test_a_bare_request_has_only_what_openai_has():
    _, body = sent("chat", bare=True)
    assert set(body) == {"model", "messages", "max_completion_tokens", "temperature", "top_p", "seed", "stop"}
    assert [turn["role"] for turn in body["messages"]] == ["user"]
    functions = SimpleNamespace(name="humaneval", kind=BENCHMARKS["humaneval"].kind, max_new_tokens=8)
    for style, count in (("base", 4), ("chat", 0), ("qwen", 0)):  # nothing is begun, so nothing closes it
        _, body = endpoint.request_of(functions, function_item(), 0, 0.0, Sampling(style), None, True)
        assert len(body.get("stop", ())) == count and "model" not in body
    kind = BENCHMARKS["humaneval"].kind
    prompt = kind.ask(function_item(), "qwen")
    text, _, _ = read_body(completion("Sure:\n```\ndef double(x):\n    return 2 * x\n```\nprint it"), prompt, ())
    assert kind.find(function_item(), prompt, text) == "def double(x):\n    return 2 * x\n"


def test_our_engine_takes_the_system_and_the_template_arguments_too(monkeypatch):
    def template(messages, thinking=None, **_):
        return "".join(f"<{turn['role']}>{turn['content']}" for turn in messages) + f"<assistant {thinking}>"
    policy = SimpleNamespace(tokenizer=SimpleNamespace(
        apply_chat_template=template, chat_template="one", get_chat_template=lambda: "one", all_special_tokens=[],
        added_tokens_decoder={}))
    monkeypatch.setattr("model.special_texts", lambda policy: ())
    prompt = stages.asked(SimpleNamespace(kind=BENCHMARKS["aime24"].kind), Item("1", {"question": "1 + 1?"}),
                          Sampling("boxed", system="Be brief."))
    assert stages.prompt_text(policy, prompt, {"thinking": "off"}) == "<system>Be brief.<user>1 + 1?<assistant off>"


# ---- said -----------------------------------------------------------------------------------------


THINK = Prompt(user="?", prefill="<think>")


@pytest.mark.parametrize("body, text, finish", [
    (completion(STOPPED), RIGHT, "stop"),                                       # the stop was left out
    (completion(RIGHT), RIGHT, "stop"),                                         # ... or kept
    (completion(RIGHT + "\nMore <answer>", "length"), RIGHT, "stop"),           # ... or not known
    (completion(STOPPED, "length"), STOPPED, "length"),                         # cut off
    (completion(STOPPED, stop_reason="</answer>"), RIGHT, "stop"),              # vLLM says what ended it
    (completion(STOPPED, stop_reason=None), STOPPED, "stop"),                   # ... the end of the text
    (completion(STOPPED, matched_stop=151645), STOPPED, "stop"),                # SGLang
    (completion("<think>" + STOPPED), RIGHT, "stop"),                           # what was begun is given back
    (completion("\n<think>" + RIGHT), RIGHT, "stop"),                           # ... or begun anew
    (completion("\n<answer>1", message={"reasoning_content": "so."}), "so.</think>\n<answer>1</answer>", "stop"),
    (completion("\n<answer>1", message={"reasoning": "so."}), "so.</think>\n<answer>1</answer>", "stop"),
    (completion(None, "length", message={"reasoning_content": "so"}), "so", "length"),
    (completion(None), "", "stop"), (completion("", None), "", ""),
    (completion([{"type": "text", "text": "a"}, {"type": "image"}, {"text": "b"}]), "ab", "stop"),
    (completion("half \ud800"), "half ?", "stop"),
])
def test_what_servers_say_becomes_what_our_engine_would_have_written(body, text, finish):
    assert read_body(json.loads(json.dumps(body)), THINK, ("</answer>",)) == (text, finish, 7)


def test_stops_of_text_end_it_before_them():
    prompt = Prompt(text="def f():\n", stops=("\ndef ", "\nprint("), continues=True)
    said = completion("    return 1\nprint(f())\ndef g()", "length", False, None)
    assert read_body(said, prompt, prompt.stops) == ("    return 1", "stop", None)
    begun = Prompt(user="?", prefill="Here:\n```python\n", stops=("\n```",))
    assert read_body(completion("Here:\n```python\nx = 1\n```\nThat is it."), begun, begun.stops)[0] == "x = 1"


@pytest.mark.parametrize("body", [[], {}, {"choices": []}, {"choices": [3]}, {"error": {"message": "no"}}, None,
                                  {"choices": [{"message": {"content": 3}}]}, {"choices": [{"text": {"a": 1}}]}])
def test_what_is_no_completion_is_told(body):
    with pytest.raises(EndpointError, match="not a completion"):
        read_body(body, THINK, ())


# ---- failures -------------------------------------------------------------------------------------


def test_busy_servers_and_broken_connections_are_asked_again(server, evaluate, tmp_path):
    trouble = [(429, {"error": "busy"}, {"Retry-After": "0"}), (503, {"error": {"message": "loading"}}), None,
               (500, b"oops"), (429, {}, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
               (502, b"<html>", {"Retry-After": "soon"})]
    server.answer = lambda path, body, number: trouble[number] if number < len(trouble) else completion(STOPPED)
    status, shown, told = evaluate("--prompt", "chat", "--concurrency", 1)
    assert status == 0 and "| 3 x 1 | 100.0 [" in shown and told.count("trying again") == 1 and "429 busy" in told
    assert len(server.asked) == 9


def test_what_keeps_failing_ends_it_in_one_line_and_keeps_what_there_is(server, evaluate, tmp_path):
    server.answer = lambda path, body, number: completion(STOPPED) if number == 0 else (503, {"error": "down"})
    status, _, told = evaluate("--prompt", "chat", "--concurrency", 1)
    assert status == 2 and "503 down, 8 times" in told and len(lines(tmp_path / "out" / "samples.jsonl")) == 1
    server.asked.clear()
    server.answer = lambda path, body, number: completion(STOPPED)
    status, shown, _ = evaluate("--prompt", "chat")
    assert status == 0 and len(server.asked) == 2 and "| 3 x 1 | 100.0 [" in shown
    server.models = ["other"]
    assert "other settings" in evaluate("--prompt", "chat")[2]


def test_one_refused_request_costs_its_sample_alone(server, evaluate, tmp_path):
    refused = (400, {"error": {"message": "unsafe"}})
    server.answer = lambda path, body, number: refused if number == 1 else completion(STOPPED)
    status, shown, told = evaluate("--prompt", "chat", "--concurrency", 1)
    assert status == 2 and "CRUXEval-O s1, k = 0, has no answer: " in told and "400 unsafe" in told
    assert "Only 2 of the 3 problems" in shown
    server.asked.clear()
    server.answer = lambda path, body, number: completion(STOPPED)
    assert evaluate("--prompt", "chat", "--stage", "generate")[0] == 0 and len(server.asked) == 1


def test_prompts_that_do_not_fit_are_samples(server, evaluate, tmp_path):
    refused = (400, {"object": "error", "message": "This model's maximum context length is 8 tokens."})
    server.answer = lambda path, body, number: refused if number else completion(STOPPED)
    status, shown, told = evaluate("--prompt", "chat", "--concurrency", 1)
    assert status == 0 and told.count("do not fit into the model (s1") == 1 and "| 3 x 1 | 33.3 [" in shown
    rows = lines(tmp_path / "out" / "samples.jsonl")
    assert [row["finish"] for row in rows] == ["stop", "too_long", "too_long"]
    stops = (400, {"error": {"message": "Invalid 'stop': array too long. Expected at most 4."}})
    server.answer = lambda path, body, number: stops
    status, _, told = evaluate("--prompt", "chat", "--out", tmp_path / "stops")
    assert status == 2 and "array too long" in told and "--bare" in told.splitlines()[-1]


@pytest.mark.parametrize("models, answer, told", [
    (["a", "b"], None, "has 2 models: a, b; name one with --endpoint_model"),
    ((401, {"error": {"message": f"Incorrect key {KEY}"}}), None, "401 Incorrect key ***; the key is taken from"),
    ((200, b"<html>hello"), None, "is not JSON: <html>hello"), ((200, {"data": [3]}), None, "has no list of models"),
    ((404, {"detail": "Not Found"}), None, "404 Not Found; is the address right"),
    ((302, {}, {"Location": "http://127.0.0.1:1/"}), None, "302"),
    (["m"], (404, {"message": "no such model"}), "/chat/completions: 404 no such model"),
    (["m"], (401, {"error": "no"}), "401 no"), (["m"], {"choices": []}, "not a completion"),
    (["m"], (200, b"{"), "is not JSON: {"), (["m"], (400, {"detail": [{"msg": "extra"}]}), 'extra"}]; services that'),
])
def test_failures_are_one_line(models, answer, told, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.models, server.answer = models, lambda *_: answer
    with pytest.raises(EndpointError) as failure:
        asked, _ = endpoint.connect(f"{server.url}/v1", None, False, 2, 9.0)
        list(endpoint.responses(asked, WORK, [(ITEM, 0)], 0.0, Sampling("chat")))
    assert told in str(failure.value) and "\n" not in str(failure.value) and KEY not in str(failure.value)


def test_the_wrong_model_and_the_wrong_address(server, evaluate, monkeypatch):
    def connect(model=None, url=f"{server.url}/v1"):
        return endpoint.connect(url, model, False, 2, 9.0)[0].model
    with pytest.raises(EndpointError, match="has no model n, only m"):
        connect("n")
    server.models = (404, {})
    assert connect("n") == "n"  # not every server has a list
    monkeypatch.setenv("OPENAI_API_KEY", "sk\nx")
    with pytest.raises(EndpointError, match="OPENAI_API_KEY holds characters"):
        connect("n")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    status, _, told = evaluate("--endpoint", "http://127.0.0.1:9")
    assert status == 2 and len(complaints(told)) == 1 and "127.0.0.1:9/v1/models: " in told and "refused" in told


@pytest.mark.parametrize("flags, told", [
    (["--endpoint", "localhost:8000"], "--endpoint must be an address"),
    (["--endpoint", "http://a:b@c"], "a key comes from OPENAI_API_KEY"),
    (["--endpoint", "http://c?key=3"], "--endpoint must be"), (["--endpoint", "http://c:99999"], "--endpoint must be"),
    (["--endpoint", "http://c", "--adapter", "x"], "--endpoint_model"), (["--top_p", 0.5], "go with --endpoint"),
    (["--bare"], "go with --endpoint"), (["--endpoint", "http://c", "--top_p", 0], "--top_p must be at least"),
    (["--endpoint", "http://c", "--top_p", "nan"], "--top_p must be"), (["--concurrency", 0], "--concurrency must be"),
    (["--endpoint", "http://c", "--timeout", 0], "--timeout must be"),
    (["--template_args", "3"], "--template_args is not"), (["--template_args", "{"], "--template_args is damaged"),
    (["--system", "x", "--prompt", "azr"], "are for chats"),
    (["--template_args", '{"a": 1}', "--stage", "prompts"], "are for chats"),
    (["--endpoint", "http://c", "--bare", "--template_args", '{"a": 1}'], "do not go with --bare"),
])
def test_flags_that_do_not_go_together(flags, told, data, tmp_path, monkeypatch, capsys):  # noqa: F811
    try:
        status, _, complaint = command(monkeypatch, capsys, "--data", data, "--tasks", "cruxeval_o", "--out",
                                       tmp_path / "out", "--workers", 1, *flags)
    except SystemExit as stop:  # argparse
        status, complaint = stop.code, capsys.readouterr().err
    assert status == 2 and len(complaints(complaint)) == 1 and told in complaints(complaint)[0]


def test_addresses():
    for path in ("", "/", "/v1/", "/v1/chat/completions", "/v1/completions"):
        assert endpoint.check_url(f"http://h:1{path}") == "http://h:1/v1"
    assert endpoint.check_url("https://[::1]/api/v2") == "https://[::1]/api/v2"


def test_an_interrupt_does_not_wait_for_what_is_being_answered(server, evaluate, tmp_path, monkeypatch):
    waiting, over = threading.Semaphore(0), threading.Event()

    def answer(path, body, number):
        if number:
            waiting.release()
            over.wait(60)
        return completion(STOPPED)
    server.answer = answer
    real = endpoint.responses

    def interrupted(*args):
        for row in real(*args):
            yield row
            waiting.acquire()
            raise KeyboardInterrupt
    monkeypatch.setattr(endpoint, "responses", interrupted)
    status, _, told = evaluate("--prompt", "chat", "--concurrency", 2)
    assert status == 130 and not over.is_set() and len(lines(tmp_path / "out" / "samples.jsonl")) == 1
    over.set()


# ---- prompts.jsonl --------------------------------------------------------------------------------


def batch_line(request, text, status=200, **more):
    chat = "messages" in request["body"]
    return {"id": "batch-1", "custom_id": request["custom_id"], "error": None,
            "response": {"status_code": status, "body": completion(text, chat=chat) if status == 200 else more["body"]}}


def test_prompts_are_written_and_any_answers_to_them_are_judged(data, tmp_path, monkeypatch, capsys):  # noqa: F811
    out = tmp_path / "out"
    flags = ("--data", data, "--tasks", "cruxeval_o", "--out", out, "--workers", 1)
    status, shown, _ = command(monkeypatch, capsys, *flags, "--stage", "prompts", "--prompt", "chat",
                               "--endpoint_model", "m", "--n", 2, "--temperature", 1)
    requests = lines(out / "prompts.jsonl")
    assert status == 0 and "6 requests written" in shown and len({line["custom_id"] for line in requests}) == 6
    assert json.loads(requests[1]["custom_id"]) == ["cruxeval_o", "s0", 1.0, 1]
    for line in requests:
        assert line["method"] == "POST" and line["body"]["model"] == "m" and line["body"]["stop"] == ["</answer>"]
        assert line["url"] == "/v1/chat/completions" and line["body"]["messages"][0]["role"] == "user"
    too_long = {"error": {"message": "the request exceeds the available context size"}}
    answers = [batch_line(requests[5], STOPPED), batch_line(requests[4], "", 400, body=too_long),
               {"custom_id": requests[0]["custom_id"], "text": STOPPED, "finish_reason": "stop", "mine": [1]},
               {"custom_id": requests[1]["custom_id"], "text": "hm", "finish": "length"},
               {"custom_id": requests[2]["custom_id"], "text": STOPPED},
               {"custom_id": json.dumps(["cruxeval_o", "s9", 1.0, 0]), "text": ""}]
    file = out / "answers.jsonl"
    file.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    status, shown, told = command(monkeypatch, capsys, *flags, "--stage", "score", "--samples", file)
    assert status == 0 and "Model m, prompt" in shown, told
    verdicts = {(row["id"], row["k"]): (row["ok"], row["reason"]) for row in lines(out / "verdicts.jsonl")}
    assert verdicts == {("s2", 1): (True, "pass"), ("s2", 0): (False, "no_answer"), ("s0", 0): (True, "pass"),
                        ("s0", 1): (False, "truncated"), ("s1", 0): (True, "pass")}
    assert "1 of 6 samples are of other problems, or beyond --limit (s9)" in told
    assert "1 of 3 problems of CRUXEval-O have fewer than 2 samples at T = 1.0: s1" in told
    failed = batch_line(requests[3], "", 500, body={"message": "lost"})
    file.write_text(file.read_text() + json.dumps(failed) + "\n")
    status, _, told = command(monkeypatch, capsys, *flags, "--stage", "score", "--samples", file)
    assert status == 2 and "CRUXEval-O s1 has no answer: 500 lost" in told
    file.write_text(json.dumps(answers[0]) + "\n" + json.dumps(answers[0]) + "\n")
    status, _, told = command(monkeypatch, capsys, *flags, "--stage", "score", "--samples", file)
    assert status == 2 and "cruxeval_o s2, k = 1: there more than once" in told
    file.write_text(json.dumps(answers[0]) + "\n")
    _, _, told = command(monkeypatch, capsys, *flags, "--stage", "score", "--samples", file)
    assert "2 of 3 problems of CRUXEval-O have no sample at T = 1.0: s0, s1" in told


def test_texts_are_asked_for_in_their_own_place_and_foreign_ids_are_refused():
    [line] = endpoint.lines_of([WORK], Sampling("azr"), None, False)
    assert line["url"] == "/v1/completions" and "model" not in line["body"]
    assert line["body"]["prompt"].endswith("<think>")
    for wrong in (3, "request-1", "[1]", "[[], [], 1, 1]"):
        with pytest.raises(ValueError, match="line 2: its custom_id is none of prompts.jsonl"):
            rows = [{"id": "s0", "text": ""}, {"custom_id": wrong, "text": ""}]
            endpoint.read_answers(rows, [WORK], Sampling("azr"), False)


def test_prompts_do_not_take_the_folder_of_other_responses(data, tmp_path, monkeypatch, capsys):  # noqa: F811
    (tmp_path / "samples.jsonl").write_text('{"a": 1}\n')
    status, _, told = command(monkeypatch, capsys, "--data", data, "--tasks", "cruxeval_o", "--out", tmp_path,
                              "--stage", "prompts")
    assert status == 2 and "other settings" in told
