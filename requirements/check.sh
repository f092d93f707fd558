#!/usr/bin/env bash
# Tests the wheel and the source archive in a clean environment:
#
#     requirements/check.sh PYTHON [lowest]
#
# The script builds the wheel and installs it with all extras. It then runs the tests that need no
# toolkit, outside the checkout. With "lowest", every direct requirement has its lowest version that
# is allowed. At the end, the source archive takes the place of the wheel: it has to be imported, and
# to install the same files.
set -euo pipefail
python=$1
lowest=${2:-}
tests_need="pytest hypothesis accelerate numpy selenium"
here=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Outside the checkout, the tests import the installed package.
cp -r "$here/tests" "$here/docs" "$here/pyproject.toml" "$work/"

"$python" -m venv "$work/tools"
"$work/tools/bin/pip" install --quiet build uv
"$work/tools/bin/python" -m build --quiet --outdir "$work/dist" "$here"
wheel=$(ls "$work"/dist/*.whl)
archive=$(ls "$work"/dist/*.tar.gz)

"$python" -m venv "$work/venv"
if [ "$lowest" = lowest ]; then
    "$work/tools/bin/uv" pip compile --quiet --resolution lowest-direct --no-annotate \
        --python "$work/venv/bin/python" --constraint "$here/requirements/lowest.txt" \
        --extra all --output-file "$work/lowest.txt" "$here/pyproject.toml"
    "$work/venv/bin/pip" install --quiet -r "$work/lowest.txt" "$wheel" $tests_need
else
    "$work/venv/bin/pip" install --quiet "$wheel[all]" $tests_need
fi
"$work/venv/bin/python" -c "import sadr_plugin, sys; print(sys.version); print(sadr_plugin.__file__)"

cd "$work"
"$work/venv/bin/sadr" --version
"$work/venv/bin/sadr" doctor
"$work/venv/bin/pytest" -q tests/test_attachment.py tests/test_attention.py \
    tests/test_config.py tests/test_conformance.py tests/test_declarations.py \
    tests/test_drift.py tests/test_events.py tests/test_flag.py \
    tests/test_faults.py tests/test_records.py tests/test_silence.py tests/test_target.py \
    tests/test_verdicts.py \
    tests/test_keep.py tests/test_loop.py tests/test_loss.py tests/test_nnsight.py \
    tests/test_pages.py tests/test_plugins.py tests/test_replay.py \
    tests/test_reuse.py tests/test_reuse_in_full.py tests/test_terms.py tests/test_tracing.py \
    tests/test_tuning.py tests/test_tuning_search.py tests/test_tuning_verdict.py \
    tests/test_weights.py

# The installed files, without those that pip compiled.
installed() { "$work/venv/bin/pip" show --files sadr-plugin | sed '1,/^Files:/d' | grep -v __pycache__ | sort; }
installed > "$work/of-wheel"
"$work/venv/bin/pip" uninstall --quiet --yes sadr-plugin
"$work/venv/bin/pip" install --quiet --no-deps "$archive"
installed > "$work/of-source"
diff "$work/of-wheel" "$work/of-source"
"$work/venv/bin/python" -c "import sadr_plugin, sadr_easyedit, sadr_fastedit, sadr_memit; print(sadr_plugin.__file__)"
"$work/venv/bin/sadr" --version
