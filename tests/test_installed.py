"""The wheel in a clean environment: no line of code, no cost, no version moved."""

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import yaml

from easyedit.conftest import ROME

ROOT = Path(__file__).parent.parent

# What a user's script might look like where there is neither CUDA nor EasyEdit's vision stack:
# it works around both by itself, and knows nothing of SADR.
SCRIPT = """
import sys, types
import easyeditor_text_only
from easyeditor.models.rome import ROMEHyperParams, rome_main
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, hparams_file = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder)
tok = AutoTokenizer.from_pretrained(folder, padding_side="right")
hparams = ROMEHyperParams.from_hparams(hparams_file)
rome_main.CONTEXT_TEMPLATES_CACHE = ["{}", "However {}"]
request = {"prompt": "{} is located in the city of", "subject": "The Eiffel Tower",
           "target_new": "Rome"}
with easyeditor_text_only.cpu():
    rome_main.apply_rome_to_model(model, tok, [request], hparams)
print("attached:", hasattr(rome_main.compute_v, "__wrapped__"))
"""

TEXT_ONLY = """
import importlib.util, sys, types
from torch.overrides import TorchFunctionMode

root = importlib.util.find_spec("easyeditor").submodule_search_locations[0]
for name, path in (("easyeditor", root), ("easyeditor.models", root + "/models")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]

class cpu(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        here = lambda value: "cpu" if str(value).startswith("cuda") else value
        return func(*map(here, args) if func.__name__ == "to" else args,
                    **{key: here(value) if key == "device" else value
                       for key, value in (kwargs or {}).items()})
"""


needs_easyedit = pytest.mark.skipif(
    importlib.util.find_spec("easyeditor") is None,
    reason="EasyEdit is not installed here: its PyPI release needs transformers 4",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A new virtual environment with the wheel alone, its needs lent from this one.

    The lent folder is on the path, but its ``.pth`` files are not read: the development
    install of the plugin is not seen.
    """
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    (site,) = folder.glob("lib/python*/site-packages")
    assert (site / "sadr_autoload.pth").exists()
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (site / "easyeditor_text_only.py").write_text(TEXT_ONLY)
    return python


def run(python, *arguments, **environ):
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [str(python), *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**env, **environ},
        cwd="/",
    )


def test_the_plugin_that_runs_is_the_wheels(environment):
    printed = run(environment, "-c", "import sadr_plugin; print(sadr_plugin.__file__)").stdout
    assert str(environment.parent.parent) in printed


@needs_easyedit
@pytest.mark.parametrize(
    ("sadr", "environ", "attached"),
    [(True, {}, True), (None, {}, True), (None, {"SADR_AUTOLOAD": "0"}, False)],
    ids=["flag", "no flag", "turned off"],
)
def test_a_script_that_knows_nothing_of_the_plugin(
    environment, smol, tmp_path, sadr, environ, attached
):
    from sadr_easyedit import smollm2

    changes = {"v_num_grad_steps": 4, "device": 0}
    if sadr:
        changes["sadr"] = {"gamma": 10}
    (tmp_path / "rome.yaml").write_text(yaml.safe_dump({**ROME, **changes}))
    (tmp_path / "script.py").write_text(SCRIPT)
    arguments = [str(smollm2.model_folder()), str(tmp_path / "rome.yaml")]
    output = run(environment, str(tmp_path / "script.py"), *arguments, **environ).stdout
    assert f"attached: {attached}" in output
    # EasyEdit prints "loss sum = its three terms": with SADR the sum has a fourth.
    number = r"(-?[\d.]+)"
    steps = re.findall(rf"loss {number} = {number} \+ {number} \+ {number}", output)
    assert len(steps) == 4
    extra = [float(loss) - sum(map(float, terms)) for loss, *terms in steps]
    assert (max(extra) > 0.01) == bool(sadr)


@needs_easyedit
def test_the_flag_without_the_plugin_is_the_toolkits_error(environment, smol, tmp_path):
    from sadr_easyedit import smollm2

    (tmp_path / "rome.yaml").write_text(yaml.safe_dump({**ROME, "sadr": True}))
    (tmp_path / "script.py").write_text(SCRIPT)
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run(
            environment,
            str(tmp_path / "script.py"),
            str(smollm2.model_folder()),
            str(tmp_path / "rome.yaml"),
            SADR_AUTOLOAD="0",
        )
    assert "unexpected keyword argument 'sadr'" in failed.value.stderr


def test_a_process_without_torch_does_not_notice(environment):
    script = "import sys; print([m for m in sys.modules if 'torch' in m or 'pluggy' in m])"
    assert run(environment, "-c", script).stdout.strip() == "[]"
    report = run(environment, "-X", "importtime", "-c", "pass").stderr
    imported = [line.rpartition("|")[2].strip() for line in report.splitlines()]
    ours = [name for name in imported if name.startswith("sadr")]
    assert ours == ["sadr_plugin", "sadr_plugin.autoload"], "nothing else is imported"


WAITING = "import sys; print([type(finder).__name__ for finder in sys.meta_path])"


def test_by_a_start_file(environment):
    """As Python 3.15 reads it (PEP 829): each line names a function, which is called; the lines of
    a `.pth` file of the same name that import something are not run."""
    (site,) = environment.parent.parent.glob("lib/python*/site-packages")
    lines = (site / "sadr_autoload.start").read_text().split()
    assert lines == ["sadr_plugin.autoload:start"]
    run_it = f"import pkgutil; pkgutil.resolve_name({lines[0]!r})(); "
    without_pth = ["-S", "-c", f"import sys; sys.path.append({str(site)!r}); "]
    assert "_TorchWatch" not in _with(without_pth, WAITING, environment)
    assert "_TorchWatch" not in _with(
        without_pth, f"import sadr_plugin.autoload; {WAITING}", environment
    )
    assert _with(without_pth, run_it + WAITING, environment).count("_TorchWatch") == 1
    # Where both files are read, and where it is called again.
    assert run(environment, "-c", run_it + run_it + WAITING).stdout.count("_TorchWatch") == 1
    assert "_TorchWatch" not in run(environment, "-c", run_it + WAITING, SADR_AUTOLOAD="0").stdout


def _with(start, script, environment):
    return run(environment, *start[:-1], start[-1] + script).stdout


def test_turned_off_nothing_waits(environment):
    assert "_TorchWatch" in run(environment, "-c", WAITING).stdout
    assert "_TorchWatch" not in run(environment, "-c", WAITING, SADR_AUTOLOAD="0").stdout


@pytest.mark.parametrize(
    "first",
    [
        "import sadr_plugin; sadr_plugin.enable()",
        "from sadr_plugin import Edit, EditPoint, Prompt",
        "import sadr_plugin.attention._positions",
        "import sadr_plugin.method._session",
        "import sadr_plugin.evaluation",
        "import sadr_plugin.patching._functions",
        "import sadr_plugin.testing",
        "import sadr_easyedit",
        "from sadr_plugin.commands.cli import build; build()",
        "import torch",
    ],
)
def test_whatever_imports_torch_first_sadr_is_enabled_without_a_word(environment, first):
    script = (
        f"{first}; import torch, sadr_plugin.patching._attaching as a; print('enabled', a._enabled)"
    )
    done = run(environment, "-W", "error::UserWarning", "-c", script)
    assert "enabled True" in done.stdout
    assert "SADR" not in done.stderr


def test_a_broken_adapter_does_not_stop_torch(environment, tmp_path):
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sadr_plugin]\nbroken = not_there\n")
    finished = run(
        environment, "-c", "import torch; print(torch.ones(1))", PYTHONPATH=str(tmp_path)
    )
    assert "tensor" in finished.stdout
    assert "the adapter 'broken' is left out: ModuleNotFoundError" in finished.stderr


def test_the_requirements_move_no_version_a_toolkit_pins(wheel):
    """Every requirement is met by any version a toolkit may pin: none names an upper bound, and
    those EasyEdit pins itself have no bound at all."""
    import zipfile
    from email.parser import Parser

    from packaging.requirements import Requirement

    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        metadata = Parser().parsestr(archive.read(name).decode())
    needs = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    assert {need.name for need in needs if not need.specifier} >= {"torch", "transformers"}
    assert all(clause.operator == ">=" for need in needs for clause in need.specifier)


def test_the_tutorials_package_beside_the_wheel(environment):
    """Installed, it is found by `sadr doctor`, and it passes the conformance kit."""
    example = ROOT / "examples" / "twovector"
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    run(environment, *install, str(example))
    sadr = ["-c", "from sadr_plugin.commands.cli import main; main()"]
    shown = run(environment, *sadr, "doctor").stdout
    assert "twovector (from twovector 0.1.0)" in shown
    assert "TwoVector (twovector.editor:find_vectors): can be attached" in shown
    loaded = "import sys, torch, sadr_plugin; sadr_plugin.plugin_manager()"
    modules = "print([name for name in sys.modules if name.startswith('twovector')])"
    assert run(environment, "-c", f"{loaded}; {modules}").stdout == "['twovector_sadr']\n"
    # The editor is the first to import torch, so SADR is enabled in the middle of its import.
    first = "import twovector; h = twovector.Hparams(sadr=True); print(h.sadr, end=' ')"
    wrapped = "print(hasattr(twovector.editor.find_vectors, '__wrapped__'))"
    assert run(environment, "-c", f"{first}; {wrapped}").stdout == "True True\n"
    kit = run(environment, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(example / "tests"))
    assert "15 passed" in kit.stdout
    run(environment, "-m", "pip", "uninstall", "--quiet", "--yes", "twovector")
    assert "TwoVector" not in run(environment, *sadr, "doctor").stdout
