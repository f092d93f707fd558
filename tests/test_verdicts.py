"""`sadr doctor` and an edit come to the same verdict, with the same words."""

import contextlib
import dataclasses
import importlib
import sys

import pytest

import sadr_plugin
from sadr_plugin import hookimpl
from sadr_plugin.commands._editors import attachabilities
from sadr_plugin.errors import SadrError
from sadr_plugin.testing import registered
from support import SMALL, read_small

HEAD = """
import functools
from dataclasses import dataclass

import torch

@dataclass
class Hparams:
    v_num_grad_steps: int = 2
    layer: int = 1
    layer_module_tmp: str = "model.layers.{}"
    fact_token: str = "subject_last"
    contexts: tuple = ("{}",)

def same(function):
    return function

def wrapped(function):
    @functools.wraps(function)
    def outer(*args):
        return function(*args)
    return outer

"""

BODY = """
def optimise(model, tok, request, hparams):
    delta = torch.zeros(32, requires_grad=True)
    batch = tok(["the tower is in"], return_tensors="pt")
    hook = model.model.layers[1].mlp.register_forward_hook(lambda m, i, o: o + delta)
    for _ in range(hparams.v_num_grad_steps):
        logits = model(**batch).logits
        loss = -logits[0, -1].log_softmax(-1)[3]
        loss.backward()
    hook.remove()
"""

TOOLKITS = {
    "plain": (HEAD + BODY, {}, None),
    "in an if": (HEAD + "if True:" + BODY.replace("\n", "\n    "), {}, None),
    "defined twice": (HEAD + "def optimise(hparams): pass\n" + BODY, {}, None),
    "decorated, the same": (HEAD + "@same" + BODY, {}, "is decorated"),
    "decorated, wrapped": (HEAD + "@wrapped" + BODY, {}, "is decorated"),
    "no labels": (HEAD + BODY, {"labels": "targets"}, "looked for a variable `targets`"),
    "no such argument": (HEAD + BODY, {"hparams_argument": "config"}, "no argument 'config'"),
    "two losses": (
        HEAD + BODY.replace("loss.backward()", "loss.backward(); loss.backward()"),
        {},
        "found 2",
    ),
}


@pytest.fixture(params=["one file", "package"])
def toolkit(request, tmp_path, monkeypatch):
    """Writes a toolkit of the test's own; gives its declaration."""

    def write(source, changes):
        name = "onefile" if request.param == "one file" else "folder.inner"
        place = tmp_path / "onefile.py"
        if name != "onefile":
            (tmp_path / "folder").mkdir()
            (tmp_path / "folder" / "__init__.py").touch()
            place = tmp_path / "folder" / "inner.py"
        place.write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        for module in ("onefile", "folder", "folder.inner"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        importlib.invalidate_caches()
        return dataclasses.replace(
            SMALL,
            editor="OWN",
            function=f"{name}:optimise",
            hparams=f"{name}:Hparams",
            read=read_small,
            **changes,
        )

    return write


@contextlib.contextmanager
def doctors_verdict(point):
    """What `sadr doctor` finds of an editor, which is declared inside the block."""

    class Adapter:
        @hookimpl
        def sadr_edit_points(self):
            return [point]

    with registered(Adapter()):
        (found,) = [found for found in attachabilities() if found.point is point]
        yield found


@pytest.mark.filterwarnings("ignore:SADR is not attached")
@pytest.mark.parametrize("kind", TOOLKITS)
def test_one_verdict(kind, toolkit, tiny_llama, word_tokenizer, request_):
    source, changes, message = TOOLKITS[kind]
    point = toolkit(source, changes)

    with doctors_verdict(point) as found:
        module = importlib.import_module(point.function.partition(":")[0])
        with sadr_plugin.enabled(), sadr_plugin.reports() as reports:
            try:
                hparams = module.Hparams(sadr={"gamma": 0})
                module.optimise(tiny_llama, word_tokenizer, request_, hparams)
                refused = None
            except SadrError as error:
                refused = str(error)
    if message is None:
        assert found.obstacle is None
        assert refused is None
        assert len(reports) == 1, "and the edit had SADR"
    else:
        assert message in found.obstacle
        assert message in refused


def test_a_toolkit_without_the_function(toolkit):
    point = toolkit(HEAD, {})

    with doctors_verdict(point) as found:
        assert found.obstacle.endswith(f"has no {point.function}")
