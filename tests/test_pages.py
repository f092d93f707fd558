"""Pages and their charts, opened in a real browser."""

import json
import re
import shutil
import time

import pytest
import torch
from typer.testing import CliRunner

from evaluation_support import ARMS, SmallEditor, Stranger, evaluate, plain_edits
from sadr_plugin.commands.cli import build
from sadr_plugin.drift import AttentionMap, Head
from sadr_plugin.errors import ConfigError, EvaluationError, PositionError
from sadr_plugin.evaluation import UNEDITED, summarise
from sadr_plugin.events import Report, Step
from sadr_plugin.pages import Page, heads, metrics, save, steps
from sadr_plugin.testing import registered
from test_transplant import causal

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="Chromium and its driver are not installed"
)


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1100,1400",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def maps():
    """One prompt of three tokens, two layers of two heads; the second layer's second moves."""
    torch.manual_seed(0)
    before = torch.tensor([0.5, 0.25, 0.25]).expand(2, 2, 3).clone()
    after = before.clone()
    after[1, 1] = torch.tensor([0.125, 0.75, 0.125])
    after[0, 0] = torch.tensor([0.45, 0.3, 0.25])
    rows = {UNEDITED: before, "plain": after}
    return [
        AttentionMap("efficacy", 0, "the tower <is>", ("the", "tower", "<is>"), 1, (5, 6), rows)
    ]


def page():
    made = Page("A <title>", "What & why @body@")
    made.heading("Numbers")
    made.table([["arm", "RS"], ["plain <b>", "51.2"]], "a caption", {(0, 1): "bad"})
    made.attention(maps(), ["plain"])
    losses = [Step(n, 3.0 - n, {"drift": 0.1 * n}, 0.5, 0.3 * n) for n in range(3)]
    made.chart("steps", steps({"sadr": Report("ROME", 5, {"drift": 1.0}, tuple(losses), 1.0)}))
    return made


def opened(browser, file, scheme="light"):
    browser.get_log("performance"), browser.get_log("browser")
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    browser.get(file.as_uri())
    return browser


@needs_browser
def test_a_screen_reader_finds_a_name_for_everything(browser, tmp_path):
    made = page()
    made.table([["setting", "value"], ["layer", "5"]])
    made.write(tmp_path / "page.html")
    opened(browser, tmp_path / "page.html")
    found = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in found
        if not node["ignored"]
    ]
    tables = [name for role, name in named if role == "table"]
    assert "a caption" in tables
    assert "Numbers" in tables
    groups = [name for role, name in named if role == "group"]
    assert "How far each head has moved: plain" in groups
    assert "Numbers: steps" in groups
    marks = [name for role, name in named if role == "graphics-symbol"]
    assert any(name.startswith("layer 5, head 0: moved by") for name in marks)
    assert all(tables + marks)


def opens_alone(browser, file):
    """Open a page, and check its size, its errors and its requests."""
    assert file.stat().st_size < 2_000_000
    opened(browser, file)
    time.sleep(0.3)
    assert browser.get_log("browser") == []
    sent = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    urls = [
        m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in urls if not url.startswith("data:")] == [file.as_uri()]


@needs_browser
def test_a_page_opens_without_an_error_or_a_request(browser, tmp_path):
    made = page()
    made.chart("again", heads([Head(2, 0, 0.5, 0.1, 0.2), Head(2, 1, 1.0, 0.1, 0.2)], "again"))
    made.write(tmp_path / "page.html")
    opens_alone(browser, tmp_path / "page.html")
    assert browser.title == "A <title>"
    (cell,) = browser.find_elements("css selector", "td.bad")
    assert cell.text == "51.2"
    cells = [found.text for found in browser.find_elements("css selector", "td")]
    assert "plain <b>" in cells
    text = (tmp_path / "page.html").read_text()
    outside = set(re.findall(r"https?://[^\"' )]+", text))
    assert outside <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    names = re.findall(r'\bid="([^"]+)"', text)
    assert len(names) == len(set(names))


def rows_shown(browser):
    caption = browser.find_element("css selector", ".row caption").text
    body = browser.find_elements("css selector", ".row tbody tr")
    return caption, [
        [cell.text for cell in line.find_elements("css selector", "td.number")] for line in body
    ]


@needs_browser
def test_pointer_and_keyboard_show_a_heads_row(browser, tmp_path):
    from selenium.webdriver import ActionChains, Keys

    page().write(tmp_path / "page.html")
    opened(browser, tmp_path / "page.html")
    marks = browser.find_elements("css selector", ".attention .role-mark [aria-label]")
    marks = [mark for mark in marks if mark.get_attribute("role") == "graphics-symbol"]
    assert len(marks) == 4
    moved = [["0.500", "0.125"], ["0.250", "0.750"], ["0.250", "0.125"]]
    caption, rows = rows_shown(browser)
    assert caption.startswith("Layer 6, head 1")
    assert rows == moved, "the head that moved most comes first"
    assert browser.find_element("css selector", ".row .subject code").text == "tower"
    tip = browser.find_element("id", "tip")
    assert not tip.is_displayed()
    ActionChains(browser).move_to_element(marks[0]).perform()
    assert tip.is_displayed()
    assert tip.text.startswith("layer 5, head 0: moved by 0.007 nats; to the subject 0.250 before")
    caption, rows = rows_shown(browser)
    assert caption.startswith("Layer 5, head 0")
    assert rows == [["0.500", "0.450"], ["0.250", "0.300"], ["0.250", "0.250"]]
    assert [mark.get_attribute("tabindex") for mark in marks] == ["0", "-1", "-1", "-1"]
    marks[0].send_keys(Keys.ARROW_RIGHT)
    assert rows_shown(browser)[0].startswith("Layer 5, head 1")
    browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert rows_shown(browser) == (rows_shown(browser)[0], moved)
    assert browser.switch_to.active_element == marks[3]
    browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert browser.switch_to.active_element == marks[3], "the chart ends there"
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not tip.is_displayed()
    assert browser.get_log("browser") == []


def colour(browser, element, name):
    value = element.value_of_css_property(name)
    return [float(part) for part in re.findall(r"[\d.]+", value)][:3]


@needs_browser
def test_text_stands_out_in_both_schemes_and_in_print(browser, tmp_path):
    page().write(tmp_path / "page.html")

    def contrast():
        body = browser.find_element("css selector", "body")
        label = browser.find_element("css selector", "svg text")
        paper = sum(colour(browser, body, "background-color"))
        return paper, sum(colour(browser, label, "fill")), sum(colour(browser, body, "color"))

    opened(browser, tmp_path / "page.html", "light")
    paper, label, ink = contrast()
    assert paper > 700 > 250 > max(label, ink)
    opened(browser, tmp_path / "page.html", "dark")
    paper, label, ink = contrast()
    assert paper < 150 < 600 < min(label, ink)
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"media": "print", "features": [{"name": "prefers-color-scheme", "value": "dark"}]},
    )
    paper, label, ink = contrast()
    assert paper > 700 > 250 > max(label, ink), "print is black on white"
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_charts_as_files(tmp_path):
    made = page()
    made.write_charts(tmp_path / "svg", ".svg")
    made.write_charts(tmp_path / "png", ".png")
    names = {"steps", "heads-0-plain"}
    assert {file.stem for file in (tmp_path / "svg").iterdir()} == names
    for name in names:
        assert (tmp_path / "png" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    svg = (tmp_path / "svg" / "heads-0-plain.svg").read_text()
    assert "layer 6, head 1: moved by" in svg
    save(made.charts["steps"], tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == (tmp_path / "svg" / "steps.svg").read_text()
    save(made.charts["heads-0-plain"], tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == svg, "and so does one with a gradient"


def test_the_darkest_colour_can_be_shared():
    found = [Head(2, 0, 0.5, 0.1, 0.2), Head(2, 1, 1.0, 0.1, 0.2)]
    domains = [
        heads(found, "plain", largest).to_dict()["encoding"]["color"]["scale"]["domain"]
        for largest in (None, 4.0)
    ]
    assert domains == [[0, 1.0], [0, 4.0]]


def test_a_summary_as_a_chart(tmp_path):
    summaries = summarise(evaluate(tmp_path))
    chart = metrics(summaries, "three records").to_dict()
    rows = chart["layer"][0]["data"]["values"] if "data" in chart["layer"][0] else None
    rows = rows or chart["data"]["values"]
    assert {row["arm"] for row in rows} == {UNEDITED, *(arm.name for arm in ARMS)}
    assert {row["metric"] for row in rows} == {"ES", "NS", "RS", "DNS", "DRS"}


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(ConfigError, match="the page: there is no folder"):
        page().write(tmp_path / "none" / "page.html")
    made = page()
    made.text("x" * 2_000_000)
    with pytest.raises(ConfigError, match=r"the page would have 2\.\d+ MB, and the limit is 2 MB"):
        made.write(tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


class StrangerWithAttention(Stranger):
    """Its edits move keys, so that attention drifts."""


def sadr_drift(tmp_path, *options):
    (tmp_path / "hparams.small").touch()
    given = ["drift", tmp_path / "hparams.small", *options]
    with registered(StrangerWithAttention()):
        return CliRunner().invoke(build(), list(map(str, given)), catch_exceptions=False)


EDIT = ("--subject", "tower", "--prompt", "the {} is in", "--target", "rome", "--right", "paris")
FACTS = ("--relation", "the tower is a=city", "--neighbour", "the louvre is in=paris")


def test_the_drift_of_one_edit(tmp_path):
    data, report = tmp_path / "d.json", tmp_path / "d.html"
    shown = sadr_drift(tmp_path, *EDIT, *FACTS, "--json", data, "--report", report, "--top", "3")
    assert shown.exit_code == 0, shown.output
    assert "the heads that drifted most" in shown.output
    assert "plain, 3 heads: probability of the right / of the wrong answer" in shown.output
    assert "rome / paris" in report.read_text(), "of the edited fact, the new object is right"
    found = json.loads(data.read_text())
    metrics = [question["metric"] for question in found["questions"]]
    assert metrics == [
        "efficacy",
        "neighbourhood",
        "distracting neighbourhood",
        "relation",
        "distracting relation",
    ]
    assert {"unedited", "plain", "sadr", "plain + unedited attention"} <= set(
        found["questions"][0]["log_probabilities"]
    )
    unedited, back = (
        [q["log_probabilities"][arm]["right"] for q in found["questions"]]
        for arm in ("unedited", "plain + unedited attention")
    )
    assert back == pytest.approx(unedited, abs=1e-3), "its edits are all attention's"
    assert "the tower is in → rome" in report.read_text()
    assert "plain + unedited attention, 3 heads" in report.read_text()


def test_the_drift_of_many_edits(tmp_path):
    records = [
        {
            "prompt": "the tower is in",
            "subject": "tower",
            "target_new": "rome",
            "ground_truth": "paris",
            "locality": {"other": [{"prompt": "the louvre is in", "ground_truth": "paris"}]},
        }
        for _ in range(3)
    ]
    (tmp_path / "data.json").write_text(json.dumps(records))
    options = ["--data", tmp_path / "data.json", "--out", tmp_path / "out", "--window", "2-3"]
    report = tmp_path / "d.html"
    shown = sadr_drift(tmp_path, *options, "--report", report, "--json", tmp_path / "d.json")
    assert shown.exit_code == 0, shown.output
    found = json.loads((tmp_path / "d.json").read_text())
    assert [arm["arm"] for arm in found["arms"]][:4] == [
        "unedited",
        "plain",
        "plain + unedited attention",
        "plain + unedited attention, layers 2-3",
    ]
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 3 * 11
    exchanged = next(line for line in shown.output.splitlines() if "plain + unedited" in line)
    assert exchanged.split()[-1] == "–", "nothing was edited, so there are no steps"
    with pytest.raises(ConfigError, match="holds a run; continue it with --resume"):
        sadr_drift(tmp_path, *options)
    assert sadr_drift(tmp_path, *options, "--resume").exit_code == 0


def test_the_drift_of_edits_that_all_failed_is_no_success(tmp_path, monkeypatch):
    def fail(*_):
        raise PositionError("no such token")

    monkeypatch.setattr(SmallEditor, "edit", fail)
    item = {"prompt": "the tower is in", "subject": "tower", "target_new": "rome"}
    (tmp_path / "data.json").write_text(json.dumps([{**item, "target_true": "paris"}] * 2))
    options = ["--data", tmp_path / "data.json", "--out", tmp_path / "out", "--arms", "plain"]
    options += ["--json", tmp_path / "d.json", "--report", tmp_path / "d.html"]
    for more in ((), ("--resume",)):
        with pytest.raises(EvaluationError, match=r"in plain \(failed: 2\); the first: no "):
            sadr_drift(tmp_path, *options, *more)
        assert json.loads((tmp_path / "d.json").read_text())["heads"] == {}


def test_an_edited_model_that_is_not_there_is_named_by_its_option(tmp_path):
    with pytest.raises(ConfigError, match=r"--edited: there is no folder \./nowhere"):
        sadr_drift(tmp_path, *EDIT, "--edited", "./nowhere")


def test_an_edit_on_which_sadr_does_not_act_is_warned_of(tmp_path):
    assert plain_edits(lambda: sadr_drift(tmp_path, *EDIT)) == ["edit"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "either --subject, --prompt and --target, or --data"),
        ((*EDIT, "--data", "builtin"), "--subject: works only without --data"),
        (("--data", "builtin", "--right", "x"), "--right: works only without --data"),
        ((*EDIT, "--limit", "3"), "--limit: works only with --data; add"),
        ((*EDIT, "--skip-bad"), "--skip-bad: works only with --data; add"),
        ((*EDIT, "--edited", "none", "--arms", "plain"), "--arms: cannot be used with --edited"),
        ((*EDIT, "--edited", "none"), "--edited: 'none' cannot be loaded"),
        ((*EDIT, "--workers", "3"), "--workers: works only with --data; add"),
        ((*EDIT, "--out", "runs"), "--out: works only with --data; add"),
        ((*EDIT, "--window", "50-60"), "window: no layer of 50-60 is among those"),
        (EDIT[:6], "--right: give the true object"),
        ((*EDIT, "--prompt", "{} in {x}"), "--prompt: '{} in {x}' holds a brace besides the"),
        ((*EDIT, "--relation", "no answer"), '--relation: expected "PROMPT=ANSWER"'),
        ((*EDIT, "--window", "3-2"), "--window: '3-2' ends before it begins"),
        ((*EDIT, "--top", "3", "--top", "3"), "--top, --window: expected each once"),
        ((*EDIT, "--report", "none/page.html"), "--report: there is no folder"),
    ],
)
def test_wrong_options_of_drift(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        sadr_drift(tmp_path, *options)


def test_the_questions_of_an_edit():
    from sadr_plugin.commands._drift import _with_questions
    from sadr_plugin.evaluation import BUILTIN, Record, load

    known = load(BUILTIN).records[0]
    edit = Record("edit", known.subject, known.template, "Narnia", "")
    found = _with_questions(edit, [], [])
    assert found.target_true == known.target_true
    assert {q.wrong for q in (*found.relations, *found.neighbours)} == {"Narnia"}
    relation = known.relations[0]
    other = relation.prompt.replace(known.subject, "{}")
    with pytest.raises(ConfigError, match="--right"):
        _with_questions(Record("edit", known.subject, "{} smells of", "Narnia", ""), [], [])
    found = _with_questions(Record("edit", known.subject, other, "Narnia", relation.right), [], [])
    assert relation.prompt not in [q.prompt for q in found.relations], "it is what is edited"


def test_the_causal_test_leaves_the_model_alone():
    editor = SmallEditor()
    before = {name: value.clone() for name, value in editor.model.state_dict().items()}
    attributes = [dict(module.__dict__) for module in editor.model.modules()]
    causal(editor)
    assert all(
        torch.equal(before[name], value) for name, value in editor.model.state_dict().items()
    )
    for module, kept in zip(editor.model.modules(), attributes, strict=True):
        assert module.__dict__.keys() == kept.keys()


@pytest.mark.parametrize("mode", ["single", "sequence"])
def test_the_page_of_an_evaluation(tmp_path, mode):
    from evaluation_support import sadr_eval

    files = ["--report", tmp_path / "e.html", "--json", tmp_path / "e.json"]
    with registered(Stranger()):
        shown = sadr_eval(tmp_path, "--mode", mode, *files)
    assert shown.exit_code == 0, shown.output
    page = (tmp_path / "e.html").read_text()
    assert "Small, 2 records of data.json" in page
    assert 'aria-label="ES' in page
    assert page.count("<svg") == 1
    (summary,) = tmp_path.rglob("summary.json")
    assert json.loads((tmp_path / "e.json").read_text()) == json.loads(summary.read_text())


def drawn(browser):
    """The names of all marks of charts that have a size on the screen."""
    return browser.execute_script(
        """
        const marks = [...document.querySelectorAll("figure.chart svg [aria-label]")];
        const size = (mark) => mark.getBoundingClientRect();
        return marks.filter((mark) => size(mark).width + size(mark).height > 0)
            .map((mark) => mark.getAttribute("aria-label"));
        """
    )


@needs_browser
@pytest.mark.parametrize(
    ("command", "marks"),
    [
        ("eval", ["ES, plain: "]),
        ("sequence", ["ES, percent, plain, 1: ", "ES, percent, sadr, 2: "]),
        ("tune", ["the plain edit: specificity", "trial 0: specificity", "ES, tuned: "]),
    ],
)
def test_the_pages_of_commands_are_drawn(browser, tmp_path, command, marks):
    from evaluation_support import sadr_eval
    from test_tuning import sadr_tune

    file = tmp_path / "page.html"
    if command == "tune":
        shown = sadr_tune(tmp_path, "--budget", "3s", "--report", file)
    else:
        mode = "single" if command == "eval" else command
        with registered(Stranger()):
            shown = sadr_eval(tmp_path, "--mode", mode, "--report", file)
    assert shown.exit_code == 0, shown.output
    opens_alone(browser, file)
    names = drawn(browser)
    for mark in marks:
        assert any(name.startswith(mark) for name in names), names
