"""
Where the benchmarks' files come from: all addresses, each pinned to a commit and known by its sha256, and downloading
that goes on where it stopped and keeps only what has the right bytes.
"""
import os
import re
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from benchmarks.items import DataError
from runfolder import sha256_of

HOSTS = {  # by kind of address; {ref} is a commit, for a release its tag
    "github": "https://raw.githubusercontent.com/{repository}/{ref}/{path}",
    "release": "https://github.com/{repository}/releases/download/{ref}/{path}",
    "hub": "https://huggingface.co/datasets/{repository}/resolve/{ref}/{path}",
}


class File(NamedTuple):
    name: str         # its path under --data
    host: str         # one of HOSTS
    repository: str
    ref: str
    path: str         # in the repository
    sha256: str       # empty: not known, so its first download is believed and reported

    @property
    def url(self) -> str:
        return HOSTS[self.host].format(repository=self.repository, ref=self.ref, path=self.path)


QWEN_MATH = "QwenLM/Qwen2.5-Math", "a45202bd16f1ec06f433442dc1152d0074773465"
LCB = "livecodebench/code_generation_lite", "0fe84c3912ea0c4d4a78037083943e8f0c4dd505"
FILES = {file.name: file for file in (
    File("humanevalplus/HumanEvalPlus-v0.1.10.jsonl.gz", "release", "evalplus/humanevalplus_release", "v0.1.10",
         "HumanEvalPlus.jsonl.gz", "272720b90ac375502c8ed23cd791c2a93dfb22a911641a494da74a426c09f101"),
    File("mbppplus/MbppPlus-v0.2.0.jsonl.gz", "release", "evalplus/mbppplus_release", "v0.2.0",
         "MbppPlus.jsonl.gz", "af43697e8791c4c149bdfd6b489d8b5412507551ac20e28a439f650b8225db63"),
    File("cruxeval/cruxeval.jsonl", "github", "facebookresearch/cruxeval", "190faf16d175b5847b0af05d937872b1fb395942",
         "data/cruxeval.jsonl", "8368b81047dc5014e4caf5a2f97604eff7644e0ecd7415e3ceeb184bbc2e0c96"),
    File("lcb/test.jsonl", "hub", *LCB, "test.jsonl",
         "2bd02b38beb48e8c46b5b9987095d999ff38cd8efc255ea5d58974317c48f63f"),
    File("lcb/test2.jsonl", "hub", *LCB, "test2.jsonl",
         "095df7c5daf15f882c51a9deb84085cff1e073495a5dbcf95015a564d485f3a3"),
    File("lcb/test3.jsonl", "hub", *LCB, "test3.jsonl",
         "28ed26cc83363ce3f1fe2d5fad9f8393077beb1907b167a31bd3b32f80801b79"),
    File("lcb/test4.jsonl", "hub", *LCB, "test4.jsonl",
         "d711138ddaebfcf5f8ec6a4283ee677298c0f5c5d374a235af92aaf0584510da"),
    File("lcb/test5.jsonl", "hub", *LCB, "test5.jsonl",
         "7f77571c2a6df0c2a72a3277650309f67e01e0008e18117e624633df53f81214"),
    File("lcb/test6.jsonl", "hub", *LCB, "test6.jsonl",
         "bb4c364f71921c4495a6ad15abe1a927350b720009f4933e2e71f8af0f6fd1f5"),
    # The one file of which neither commit nor hash was to be found.
    File("lcb/execution-v2.parquet", "hub", "livecodebench/execution-v2", "main", "data/test-00000-of-00001.parquet",
         ""),
    File("math/aime24.jsonl", "github", *QWEN_MATH, "evaluation/data/aime24/test.jsonl",
         "af2b8bd2aa911b6333ad0df32f3ca05c7ae8ed10f1731f4372c8ae26990bf7ac"),
    File("math/aime25.jsonl", "github", "LeapLabTHU/Absolute-Zero-Reasoner", "a82124e",
         "evaluation/math_eval/eval/data/aime25/test.jsonl",
         "20c1ca392758d96bd1e28af15d9f30df5660257927cacc9eac7301c29f677d1a"),
    File("math/amc23.jsonl", "github", *QWEN_MATH, "evaluation/data/amc23/test.jsonl",
         "43707e1ca784602d8479de24ee8ce36609dbebc46dd152b0b12a46611aa898a4"),
    File("math/math500.jsonl", "github", "hkust-nlp/simpleRL-reason", "cf1c7858bfc145a27aa733e75d930d34f0d318a6",
         "examples/simplelr_math_eval/data/math500/test.jsonl",
         "35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132"),
    File("math/minerva_math.jsonl", "github", *QWEN_MATH, "evaluation/data/minerva_math/test.jsonl",
         "0e656b430d3a0a1dab6aa853f453ba3805e28e2cabe4fc72486a897cc09d8ba2"),
    File("math/olympiadbench.jsonl", "github", *QWEN_MATH, "evaluation/data/olympiadbench/test.jsonl",
         "bb8c1e38a16ea9eacb77530315a674d883f267fbff79183effc53681b4fcc416"),
)}


def download(url: str, sha256: str, path: Path) -> None:
    """All of the file or nothing. What an earlier try has left in path.part is gone on with, and thrown away where the
    whole then has the wrong bytes. DataError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    resumed = part.exists() and part.stat().st_size > 0
    try:
        receive(url, part)
    except urllib.error.HTTPError as error:
        if not (resumed and error.code == 416):  # nothing is left to send: it was whole, or of another file
            raise DataError(f"{url}: cannot be downloaded ({error}); on a connected machine run python eval.py --fetch"
                            " DIR, then give --data DIR here") from error
    except (OSError, ValueError, HTTPException) as error:
        raise DataError(f"{url}: cannot be downloaded ({error}); run python eval.py --fetch DIR on a connected machine,"
                        " which goes on where it stopped, then give --data DIR here") from error
    actual = sha256_of(part)
    if sha256 and actual != sha256:
        part.unlink()
        if resumed:
            return download(url, sha256, path)
        raise DataError(f"{url}: its sha256 is {actual}, not {sha256}; it was not kept")
    os.replace(part, path)
    if not sha256:
        print(f"{path}: sha256 {actual}, which is not known beforehand", flush=True)


def receive(url: str, part: Path) -> None:
    """Appends to `part` what it lacks, with a bar of bytes. OSError if the connection ends early."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=60) as response:
        if start and not re.match(rf"bytes {start}-", response.headers.get("Content-Range") or ""):
            start = 0  # this server sends the whole again
        total = start + int(response.headers["Content-Length"] or 0)
        with open(part, "ab" if start else "wb") as out, tqdm(
                total=total or None, initial=start, desc=part.name.removesuffix(".part"), unit="B", unit_scale=True,
                leave=False, disable=None) as bar:
            while block := response.read(1 << 20):
                out.write(block)
                bar.update(len(block))
            if out.tell() < total:
                raise OSError("the connection ended early")
