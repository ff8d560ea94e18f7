"""
Responses from other engines: what they are asked, and what they said, as lines of samples.jsonl. A request goes over
HTTP to any server with OpenAI's interface (vLLM, SGLang, llama.cpp, ollama, a service), or into prompts.jsonl for
whatever else can answer it. No model is loaded here.

A line of prompts.jsonl is one sample of one item, in the form of OpenAI's batches, which `vllm run-batch` reads too:

    {"custom_id": "[task, id, temperature, k]", "method": "POST", "url": "/v1/chat/completions" or "/v1/completions",
     "body": {"messages": [{"role", "content"}, ...] or "prompt": text, "max_tokens", "temperature", "top_p", "seed",
              "stop": [texts], ...}}

A last message of the assistant is the beginning of its answer, to be gone on with. `--stage score --samples FILE` takes
a line per sample, in any order, with any other fields beside these:

    {"custom_id": as above, "response": {"status_code": 200, "body": {"choices": [...]}}}     what batches write, or
    {"custom_id": as above, "text": the response, "finish": "stop" or "length"}               finish may be missing, or
    {"task": "cruxeval_o", "id": "sample_0", "text": the response}             also k, temperature, finish, tokens

Order of reading: what is asked (`request_of`), what was said (`read_body`), prompts.jsonl and answers to it, then the
server: `connect`, `responses`, `call`.
"""
import hashlib
import json
import os
import random
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from time import time
from urllib.parse import urlsplit

from tqdm import tqdm

from benchmarks.items import Item
from benchmarks.prompts import Prompt
from benchmarks.stages import Sampling, Work, asked, complain, passes, sample_line, stops_of, turns_of, whole_characters

# Servers have defaults of their own, which would bend what is drawn: llama.cpp top_k 40 and min_p 0.05, vLLM and SGLang
# those of the model's generation_config.json (for Qwen2.5 top_k 20 and a repetition penalty, greedy decoding included).
NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "repeat_penalty": 1.0, "presence_penalty": 0.0,
           "frequency_penalty": 0.0}
BARE_STOPS = 4               # as many as OpenAI's own interface takes
TRIES, LONGEST_WAIT = 8, 60.0  # of a request: 1, 2, 4, ... seconds between them, unless the server says how long
AGAIN = (408, 425, 429, 500, 502, 503, 504, 529)
FAILURES = 5                 # requests that fail one after the other before the evaluation ends
CONNECT_SECONDS = 20.0
TOO_LONG = re.compile(r"context[ _](?:length|size|window)|(?:prompt|input)\b.{0,40}too long|inputs. tokens", re.I)


class EndpointError(ValueError):
    """A request that failed for good, in a line; `status` 0: there was no answer."""

    def __init__(self, text: str, status: int = 0):
        super().__init__(text)
        self.status = status


# ---------------------------------------------------------------------------------------------------------------------
# What is asked

def request_of(work: Work, item: Item, k: int, temperature: float, sampling: Sampling, model: str | None,
               bare: bool = False) -> tuple[str, dict]:
    """(path, body). One response a request, each with its own seed: many servers ignore `n`. `bare`: only what is in
    OpenAI's own interface, which refuses the rest, and so without the beginning of an answer."""
    prompt = asked(work, item, sampling)
    chat = not prompt.text
    most = sampling.max_new_tokens or work.max_new_tokens
    digest = hashlib.sha256(f"{sampling.seed} {work.name} {item.id} {k}".encode()).digest()
    body = {"model": model} if model else {}
    body |= {"messages": messages_of(prompt, bare)} if chat else {"prompt": prompt.text}
    body |= {"max_completion_tokens" if chat and bare else "max_tokens": most, "temperature": temperature,
             "top_p": sampling.top_p, "seed": int.from_bytes(digest[:4], "big") >> 1}
    if stops := stops_sent(prompt, sampling, bare):
        body["stop"] = list(stops[:BARE_STOPS] if bare else stops)
    if bare:
        return "/chat/completions" if chat else "/completions", body
    body |= NEUTRAL
    if chat and prompt.prefill:
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    if chat and sampling.template_args:
        body["chat_template_kwargs"] = sampling.template_args
    return "/chat/completions" if chat else "/completions", body


def messages_of(prompt: Prompt, bare: bool) -> list[dict]:
    begun = [("assistant", prompt.prefill)] * bool(prompt.prefill and not bare)
    return [{"role": role, "content": text} for role, text in [*turns_of(prompt), *begun]]


def stops_sent(prompt: Prompt, sampling: Sampling, bare: bool) -> tuple[str, ...]:
    """None of those that end what was begun with a fence where nothing is begun: an answer may open one with them."""
    return () if bare and prompt.prefill not in ("", "<think>") else stops_of(prompt, sampling)


# ---------------------------------------------------------------------------------------------------------------------
# What was said

def read_body(body: object, prompt: Prompt, stops: tuple[str, ...]) -> tuple[str, str, int | None]:
    """(text, finish, tokens) of an answer, as our own engine would have written them. EndpointError."""
    try:
        choice = body["choices"][0]
        message = choice.get("message") or choice
        said = message.get("content", message.get("text")) or ""
        if isinstance(said, list):  # in parts, of which some are no text
            said = "".join(part.get("text") or "" for part in said)
        # Thoughts that the server has taken out of the text, by their name in llama.cpp and SGLang, and in newer vLLM.
        thoughts = message.get("reasoning_content") or message.get("reasoning") or ""
        finish = choice.get("finish_reason")
        tokens = (body.get("usage") or {}).get("completion_tokens")
        text = f"{thoughts}</think>{said}" if thoughts and (said or finish != "length") else thoughts + said
        known = next((name for name in ("stop_reason", "matched_stop") if name in choice), None)
        closed = "</answer>" in stops and finish in ("stop", None) and (known is None or choice[known] == "</answer>")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise EndpointError(f"not a completion: {message_of(body)}") from None
    text, ended = cut(without_echo(whole_characters(text), prompt.prefill), stops)
    if closed and not ended and text.count("<answer>") > text.count("</answer>"):
        text += "</answer>"  # Most servers leave the stop out. Only vLLM and SGLang tell it from the end of the text.
    finish = "stop" if ended else finish if isinstance(finish, str) else ""
    return text, finish, tokens if type(tokens) is int else None


def without_echo(text: str, prefill: str) -> str:
    """Some servers give back the beginning of the answer, and some models begin it anew."""
    start = prefill.strip()
    if not start or not text.lstrip().startswith(start):
        return text
    return text.lstrip()[len(start):].removeprefix(prefill[len(prefill.rstrip()):])


def cut(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """(the text up to its first stop, whether there was one): servers may keep stops, or know fewer. As with our own
    engine </answer> stays."""
    found = [(at, stop) for stop in stops if (at := text.find(stop)) >= 0]
    at, stop = min(found, default=(len(text), ""))
    return text[:at] + stop * (stop == "</answer>"), bool(found)


# ---------------------------------------------------------------------------------------------------------------------
# prompts.jsonl, and answers to it

def lines_of(works: list[Work], sampling: Sampling, model: str | None, bare: bool) -> Iterator[dict]:
    for work in works:
        for temperature, n in passes(work, sampling):
            for item, k in ((item, k) for item in work.items for k in range(n)):
                path, body = request_of(work, item, k, temperature, sampling, model, bare)
                yield {"custom_id": json.dumps([work.name, item.id, temperature, k]), "method": "POST",
                       "url": f"/v1{path}", "body": body}


def read_answers(rows: list[dict], works: list[Work], sampling: Sampling, bare: bool) -> tuple[list[dict], list[str]]:
    """(the rows, those with a custom_id as lines of samples.jsonl; a line for each request that failed)."""
    items = {(work.name, item.id): (work, item) for work in works for item in work.items}
    read, failed = [], []
    for number, row in enumerate(rows, 1):
        if "custom_id" not in row:
            read.append(row)
            continue
        try:
            task, id, temperature, k = json.loads(row["custom_id"])
            work, item = items.get((task, id), (None, None))
        except (ValueError, TypeError):
            raise ValueError(f"line {number}: its custom_id is none of prompts.jsonl") from None
        if not work:  # of a task that was not asked for, or beyond --limit
            read.append({"task": task, "id": id, "text": ""})
            continue
        prompt = asked(work, item, sampling)
        try:
            body, status = row.get("response") or row, 200
            if "text" in row:
                body = {"choices": [row | {"finish_reason": row.get("finish", row.get("finish_reason"))}]}
            elif "response" in row:
                body, status = (row["response"] or {}).get("body"), (row["response"] or {}).get("status_code", 200)
            if status != 200 or row.get("error"):
                raise EndpointError(f"{status} {message_of(row.get('error') or body)}", status)
            said = read_body(body, prompt, stops_sent(prompt, sampling, bare))
        except EndpointError as error:
            if not is_too_long(error):
                failed.append(f"{work.title} {id} has no answer: {error}")
                continue
            said = "", "too_long", 0
        read.append(sample_line(work, item, k, temperature, prompt.text or messages_of(prompt, bare), *said))
    return read, failed


# ---------------------------------------------------------------------------------------------------------------------
# A server

@dataclass(eq=False)
class Server:
    """`url` with its /v1. Each thread has a connection of its own, which stays open."""
    url: str
    model: str = ""
    bare: bool = False
    concurrency: int = 16
    timeout: float = 600.0
    key: str = field(default="", repr=False)
    failed: list[str] = field(default_factory=list)  # a line for each sample that could not be had
    connections: dict[int, HTTPConnection] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)
    told: threading.Event = field(default_factory=threading.Event)


def check_url(url: str) -> str:
    """With a scheme, and /v1 where there is no path; ValueError."""
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 \
                and not (parts.query or parts.fragment or parts.username or parts.password):
            path = re.sub(r"/(chat/)?completions$", "", parts.path.rstrip("/"))
            return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"
    raise ValueError("--endpoint must be an address such as http://localhost:8000/v1; a key comes from OPENAI_API_KEY")


def connect(url: str, model: str | None, bare: bool, concurrency: int, timeout: float) -> tuple[Server, dict]:
    """(the server, what it says of the model). `model` None: the only one that it has. EndpointError."""
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):
        raise EndpointError("OPENAI_API_KEY holds characters that no key has")
    server = Server(url, model or "", bare, concurrency, timeout, key)
    try:
        listed = call(server, "/models", None)
        entries = {entry["id"]: entry for entry in listed["data"]}
    except EndpointError as error:
        if model and error.status in (404, 405, 501):
            return server, {}  # not every server has a list
        raise
    except (KeyError, TypeError):
        entries = {}  # a list in no known form
    if model is None and len(entries) != 1:
        raise EndpointError(f"{url} has {len(entries) or 'no list of'} models{': ' * bool(entries)}{named(entries)};"
                            " name one with --endpoint_model")
    if model and entries and model not in entries:
        raise EndpointError(f"{url} has no model {model}, only {named(entries)}")
    server.model = model or next(iter(entries))
    about = entries.get(server.model, {})
    about = about | (about.get("meta") or {})  # llama.cpp's; in others it is not there
    return server, {name: about[name] for name in ("root", "parent", "n_params", "size") if about.get(name)}


def named(entries: dict) -> str:
    return ", ".join(list(map(str, entries))[:8]) + ", ..." * (len(entries) > 8)


def responses(server: Server, work: Work, wanted: list[tuple[Item, int]], temperature: float,
              sampling: Sampling) -> Iterator[dict]:
    """Lines of samples.jsonl for the wanted (item, k), as they come. What could not be had is told in `server.failed`
    and asked again by a rerun; EndpointError where nothing works any more."""
    def sample(item: Item, k: int) -> dict | EndpointError:
        prompt = asked(work, item, sampling)
        path, body = request_of(work, item, k, temperature, sampling, server.model, server.bare)
        try:
            said = read_body(call(server, path, body), prompt, stops_sent(prompt, sampling, server.bare))
        except EndpointError as error:
            if not is_too_long(error):
                return EndpointError(hidden(server, str(error)), error.status)
            said = "", "too_long", 0
        return sample_line(work, item, k, temperature, body.get("messages") or body["prompt"], *said)
    in_a_row, noted = 0, False
    with ThreadPoolExecutor(server.concurrency) as pool, \
            tqdm(total=len(wanted), desc=work.name, unit="answer", leave=False, disable=None) as bar:
        asked_for = {pool.submit(sample, *pair): pair for pair in wanted}
        try:
            for future in as_completed(asked_for):
                item, k = asked_for[future]
                row = future.result()
                bar.update()
                if isinstance(row, dict):
                    in_a_row = 0
                    if row["finish"] == "too_long" and not noted:
                        noted = True
                        complain(f"note: prompts of {work.title} do not fit into the model ({item.id}, perhaps more)")
                    yield row
                    continue
                in_a_row += 1
                if row.status in (401, 403, 404) or in_a_row == min(FAILURES, len(wanted)):
                    raise row
                server.failed.append(f"{work.title} {item.id}, k = {k}, has no answer: {row}")
        except BaseException:  # also of what consumes the rows: nothing is waited for
            pool.shutdown(wait=False, cancel_futures=True)
            break_off(server)
            raise


def break_off(server: Server) -> None:
    """Ends what is being waited for."""
    server.ended.set()
    for connection in list(server.connections.values()):
        if sock := connection.sock:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def call(server: Server, path: str, body: dict | None) -> object:
    """What the server answers to this body, or to a GET without one. Busy servers and broken connections are tried
    again, a first contact only if the server is there. EndpointError."""
    where = server.url + path
    for attempt in range(TRIES):
        status, wait, raw = 0, None, b""
        try:
            status, wait, raw = exchange(server, path, body)
            problem = f"{status} {message_of(raw)}"
        except TimeoutError:
            problem = f"no answer in {server.timeout:g} s (--timeout)"
        except (OSError, HTTPException, UnicodeError) as error:
            problem = str(error) or type(error).__name__
        if status == 200:
            try:
                return json.loads(raw)
            except (ValueError, RecursionError):
                problem = f"what it answers is not JSON: {shortened(raw)}"
        if server.ended.is_set() or not (status in AGAIN or status == 0 and body is not None):
            raise EndpointError(hidden(server, f"{where}: {problem}{advice(status, path)}"), status)
        if not server.told.is_set():
            server.told.set()
            complain(hidden(server, f"note: {where}: {problem}; trying again"))
        if attempt < TRIES - 1:
            server.ended.wait(min(2 ** attempt, LONGEST_WAIT) * random.uniform(0.5, 1.5) if wait is None else wait)
    raise EndpointError(hidden(server, f"{where}: {problem}, {TRIES} times"), status)


def exchange(server: Server, path: str, body: dict | None) -> tuple[int, float | None, bytes]:
    """(status, how many seconds it says to wait, the answer's bytes). Redirections are not followed: the key would go
    with them."""
    parts, me = urlsplit(server.url), threading.get_ident()
    connection = server.connections.get(me)
    if connection is None:
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        connection = server.connections[me] = kind(parts.hostname, parts.port, timeout=CONNECT_SECONDS)
    was_open = connection.sock is not None
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {server.key}"} if server.key else {})
    try:
        if not was_open:
            try:
                connection.connect()
            except TimeoutError:
                raise ConnectionError(f"no connection in {CONNECT_SECONDS:g} s") from None
            connection.sock.settimeout(server.timeout)
        if server.ended.is_set():
            raise ConnectionError("stopped")
        connection.request("GET" if body is None else "POST", parts.path + path,
                           None if body is None else json.dumps(body).encode(), headers)
        answer = connection.getresponse()
        return answer.status, seconds(answer.headers.get("Retry-After")), answer.read()
    except ConnectionError:
        connection.close()
        if was_open and not server.ended.is_set():  # while it was idle, the server may have closed it
            return exchange(server, path, body)
        raise
    except BaseException:
        connection.close()
        raise


def seconds(text: str | None) -> float | None:
    """Of a Retry-After, which is a number or a date; five minutes at most."""
    if text is None:
        return None
    try:
        wait = float(text) if text.strip().isdigit() else parsedate_to_datetime(text).timestamp() - time()
    except (ValueError, TypeError):
        return None
    return min(max(wait, 0.0), 300.0)


def advice(status: int, path: str) -> str:
    if status in (401, 403):
        return "; the key is taken from OPENAI_API_KEY"
    if status == 404:
        return "; is the address right, with its /v1?" + \
            " Servers without completions of text need --prompt chat" * (path == "/completions")
    if status in (400, 422):
        return "; services that refuse what is not in OpenAI's own interface need --bare"
    return ""


def is_too_long(error: EndpointError) -> bool:
    return error.status in (400, 413, 422) and bool(TOO_LONG.search(str(error)))


def message_of(answer: object) -> str:
    """What an answer that is none says, whoever's form it has."""
    if isinstance(answer, bytes):
        try:
            answer = json.loads(answer)
        except (ValueError, RecursionError):
            return shortened(answer)
    for name in ("error", "message", "detail"):
        if isinstance(answer, dict) and answer.get(name):
            answer = answer[name]
    return shortened(answer if isinstance(answer, str) else json.dumps(answer))


def shortened(text: str | bytes) -> str:
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return " ".join(text[:2000].split())[:300]


def hidden(server: Server, text: str) -> str:
    return text.replace(server.key, "***") if server.key else text
