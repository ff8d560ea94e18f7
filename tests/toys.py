"""Hand-made rows of the benchmarks, shared by their tests."""
import base64
import json
import pickle
import zlib

from benchmarks import items


def function_row(name="double", body="    return 2 * x", base=((1,), (5,)), plus=((0,), (-3,)), id="HumanEval/900",
                 **more):
    return {"task_id": id, "prompt": f'def {name}(x):\n    """Twice x."""\n', "canonical_solution": body + "\n",
            "entry_point": name, "base_input": list(map(list, base)), "plus_input": list(map(list, plus)),
            "atol": 0} | more


def function_item(*args, **more):
    return items.read_functions([function_row(*args, **more)])[0]


def contest_row(tests, method=None, private=None, date="2024-11-05T00:00:00", id="q1", starter=""):
    encoded = [{"input": given, "output": out, "testtype": "functional" if method else "stdin"} for given, out in tests]
    hidden = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(encoded[1:])))).decode()
    return {"question_content": "Add the numbers.", "starter_code": starter, "contest_date": date, "question_id": id,
            "public_test_cases": json.dumps(encoded[:1]), "private_test_cases": hidden if private is None else private,
            "metadata": json.dumps({"func_name": method} if method else {})}


CODE = "def f(x, y=1):\n    while x == 99: pass\n    return {'a': [x + y], 'b': True}"


def crux(output="{'a': [3], 'b': True}"):
    return items.read_cruxeval([{"code": CODE, "input": "2", "output": output, "id": "sample_0"}])[0]
