"""The documentation: its commands exist and run, its files and links are there, its numbers agree.

A fenced block of commands runs in smoke size, in an empty folder in which the tutorial has been followed. Two comments
before a block change that: `<!-- not run: REASON -->`, and `<!-- smoke: FLAGS -->`, which are added to its commands
that take a config. `study` and `run` among the flags are those of SMOKE.
"""

import ast
import configparser
import csv
import fcntl
import importlib
import io
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tokenize
import urllib.parse
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import mae_jax
from mae_jax.commands import VERBS
from mae_jax.report.page import write_report

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "tools" / "slurm" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"((?:^<!--(?:(?!-->).)*-->\n)*)^```([^\n]*)\n(.*?)^```", re.M | re.S)
SHELL, PYTHON = ("", "bash"), ("python",)
TINY = {"size": "custom", "image_size": 32, "patch_size": 8, "width": 16, "depth": 1, "heads": 2}
TINY = {f"model.{key}": value for key, value in TINY.items()}
DECODER = {"model.decoder_width": 16, "model.decoder_depth": 1, "model.decoder_heads": 2}
# TensorBoard's writers import TensorFlow, which takes seconds in each process.
TINY |= {"train.epochs": 1.0, "log.tensorboard": False}
SMOKE = {
    "run": [f"--config.{key}={value}" for key, value in TINY.items()],
    "study": [f"--config.{part}.{key}={value}" for part in ("pretrain", "finetune") for key, value in TINY.items()]
    + [f"--config.pretrain.{key}={value}" for key, value in DECODER.items()],
}
WITHOUT_STEPS = "configs/probe.py"  # its runs have no field train.epochs


@dataclass(frozen=True)
class Block:
    """A fenced block of commands."""

    page: Path
    language: str
    text: str
    not_run: str  # the reason; empty: it runs
    smoke: list[str]  # flags that make its commands small

    @property
    def commands(self) -> list[str]:
        """The lines of the shell, with continued lines joined."""
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        return [line for line in lines if line.strip() and not line.startswith("#")]


def blocks(page: Path) -> list[Block]:
    collected = []
    for comments, language, text in FENCE.findall(page.read_text()):
        if language.strip() not in SHELL + PYTHON:
            continue
        result = {kind: rest.strip() for kind, rest in re.findall(r"<!-- (not run|smoke): (.*?) -->", comments, re.S)}
        smoke = [flag for word in shlex.split(result.get("smoke", "")) for flag in SMOKE.get(word, [word])]
        collected.append(Block(page, language.strip() or "bash", text, result.get("not run", ""), smoke))
    return collected


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


COMMANDS = [
    (block, line) for page in PAGES for block in blocks(page) if block.language == "bash" for line in block.commands
]


def test_there_is_something_to_check():
    assert len(PAGES) > 20 and len(COMMANDS) > 20
    run = [block for page in PAGES for block in blocks(page) if not block.not_run]
    assert len(run) > 10


@pytest.mark.parametrize("block, line", COMMANDS, ids=lambda v: v[:60] if isinstance(v, str) else name(v.page))
def test_a_command_and_its_options_exist(block, line):
    """Of every command, also of those that are not run: the config loads, its fields and options are known."""
    if block.not_run and not re.search(r"mae.jax|^python|--config=", line):
        return  # another program's
    words = [w for w in shlex.split(line) if not re.fullmatch(r"\w+=.*", w) or w.startswith("-")]
    line = shlex.join(words)
    if (
        line.startswith(("mae-jax run ", "mae-jax plan ", "python -m mae_jax.main", "python -m mae_jax run"))
        or "sbatch" in line
        or "study.sh" in line
    ):
        flags = [w for w in shlex.split(line) + smoke_of(line, block) if w.startswith("--config")]
        check_config(flags)
    elif line.startswith(("mae-jax ", "python -m mae_jax ")):
        words = line.removeprefix("mae-jax").removeprefix("python -m mae_jax").split()
        check_options(help_of(*words[: 2 if words[0] == "convert" else 1]), line)
    elif re.match(r"python (tools|docs|tests)/|python -m mae_jax\.", line):
        script = ROOT / line.split()[1]
        if line.startswith("python -m"):
            script = ROOT / line.split()[2].replace(".", "/") / "__main__.py"
        sources = [script, *(script.parent / "benchmarks").glob("*.py")]
        check_options("\n".join(path.read_text() for path in sources), line)
    else:
        known = (
            "python3 -m venv",
            "python -m pip install",
            "python -m pytest",
            "python -m sphinx",
            "hf download",
            "ruff ",
            "sed -i ",
            "pre-commit ",
            "docker ",
            "apptainer ",
        )
        assert line.startswith(known), f"{line}: nothing checks that this command exists"


def smoke_of(line: str, block: Block) -> list[str]:
    """The flags that make a command small, if it takes a config."""
    epochs = "--config.train.epochs" if WITHOUT_STEPS in line else "none"
    return [flag for flag in block.smoke if not flag.startswith(epochs)] if "--config=" in line else []


def check_config(flags: list[str]) -> None:
    from mae_jax.config.loading import check_arguments

    assert flags, "a command without a config"
    joined = [str(ROOT / flag) if not flag.startswith("-") else flag for flag in flags]
    joined = [
        flag.replace("--config=", f"--config={ROOT}/", 1) if flag.startswith("--config=") else flag for flag in joined
    ]
    # Weights that a reader downloads are not here; `init=scratch` has the same fields.
    check_arguments([re.sub(r"init=[\w./:-]+", "init=scratch", flag) for flag in joined])


def check_options(text: str, line: str) -> None:
    for option in re.findall(r"(?<=\s)--[\w-]+", line):
        assert option in text or option.replace("-", "_") in text, f"{line}: {option} is not an option"


@cache
def help_of(*words: str) -> str:
    shown = subprocess.run(
        [sys.executable, "-m", "mae_jax", *words, "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert shown.returncode == 0, f"mae-jax {' '.join(words)} --help: {shown.stderr[-500:]}"
    return shown.stdout


def test_the_reference_has_every_command():
    text = (ROOT / "docs" / "reference" / "commands.md").read_text()
    for verb in VERBS:
        row, heading = re.search(rf"^\| (\[{verb}\]|`{verb}` )", text, re.M), re.search(rf"^## {verb}\b", text, re.M)
        assert row and (heading or verb == "version"), f"docs/reference/commands.md lacks mae-jax {verb}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_named_in_the_text_exist(page):
    named = re.findall(r"(?<![\w/.-])((?:tests|tools|mae_jax|configs|docs|notebooks)/[\w./-]*\w)", page.read_text())
    named = [n for n in dict.fromkeys(named) if "NAME" not in n]  # a placeholder in docs/extending.md
    missing = [n for n in named if not (ROOT / n).exists()]
    assert not missing, f"{name(page)} names files that do not exist: {missing}"


@pytest.mark.parametrize("page", [p for p in PAGES if p.parent == ROOT] + [ROOT / "CHANGELOG.md"], ids=name)
def test_links_of_pages_outside_docs_lead_somewhere(page):
    """Sphinx checks those inside docs/."""
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), f"{name(page)}: {target}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CITATION.cff"], ids=name)
def test_external_links_are_complete_and_encrypted(page):
    for link in re.findall(r"\bhttps?:[^\s)>\"'`]*", page.read_text()):
        parts = urllib.parse.urlsplit(link)
        assert parts.scheme == "https" and re.fullmatch(r"([\w-]+\.)+\w{2,}", parts.netloc), f"{name(page)}: {link}"


def test_moved_import_paths_lead_to_modules():
    table = (ROOT / "CHANGELOG.md").read_text().partition("### Moved import paths")[2]
    now = re.findall(r"`(mae_jax[\w.]*)`", "\n".join(row.split("|")[2] for row in re.findall(r"^\| .*", table, re.M)))
    assert len(now) > 40
    for path in (ROOT / module.replace(".", "/") for module in now):
        assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), path


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_config_fields_in_the_text_exist(page):
    known = fields()
    for field in re.findall(r"--config\.([\w.]*\w)", page.read_text()):
        assert field in known or field == "FIELD", f"{name(page)}: --config.{field} is not a field"


@cache
def fields() -> set[str]:
    from mae_jax.config import flatten, load

    collected: set[str] = set()
    for file in (ROOT / "configs").glob("*.py"):
        collected |= set(flatten(load(file)))
    return collected


def test_readme_is_short_and_its_two_headings_have_their_block():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    for heading, command in (
        ("Run it", "python -m mae_jax.main --config=configs/demo.py"),
        ("Test it", "python -m pytest"),
    ):
        section = re.search(rf"^## {heading}\n(.*?)(?=^## )", text, re.M | re.S)
        assert section, heading
        assert len(re.findall(r"^```", section[1], re.M)) == 2, f"{heading}: one fenced block"
        assert command in FENCE.search(section[1])[3]


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if (ROOT / name).is_file()]


def test_the_address_of_the_repository_is_that_of_setup_cfg_everywhere():
    """And the command in CONTRIBUTING.md sets it in every file that has it."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    address = setup["metadata"]["project_urls"].partition("=")[2].strip()
    owner = re.fullmatch(r"https://github\.com/([\w-]+)/mae_jax", address)
    assert owner, address
    files = set()
    for path in tracked():
        if path.suffix in (".md", ".cff", ".cfg", ".toml", ".ipynb", ".yml", ".py") and "tests" not in path.parts:
            owners = set(re.findall(r"github(?:\.com)?/([\w-]+)/mae_jax", path.read_text()))
            assert owners <= {owner[1]}, f"{name(path)}: {owners}"
            files |= {name(path)} if owners else set()
    command = re.search(r"^sed -i \S+ (.*)$", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    assert command and set(command[1].split()) == files


def test_the_citation_is_that_of_this_version():
    text = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {mae_jax.__version__}\n" in text and re.search(r"^date-released: \d{4}-\d\d-\d\d$", text, re.M)
    for title in ("Lean and Confident Learners", "Masked Autoencoders Are Scalable Vision Learners"):
        assert f"title: {title}\n" in text


def test_errors_in_troubleshooting_are_printed_by_the_code():
    strings = literals()
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    headings = re.findall(r"^### (.*`.*)$", text.partition("## Errors as printed")[2], re.M)
    assert len(headings) > 10
    for fragment in itertools.chain.from_iterable(re.findall(r"`([^`]+)`", heading) for heading in headings):
        assert any(fragment in string for string in strings), f"no message has {fragment!r}"


@cache
def literals() -> list[str]:
    """The texts in the code; a placeholder of an f-string is a NUL."""
    collected = []
    for path in (ROOT / "mae_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                collected.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (v.value if isinstance(v, ast.Constant) else "\0" for v in node.values)
                collected.append("".join(map(str, parts)))
    return collected


NOT_OURS = re.compile(  # words that a reader in the field stumbles over, and their spelling
    r"\b(goes on|passed over|anew|mends?|stands? (in|beside)|is said|first weights|commonest|is no (file|image|folder)"
    r"|colour|normalis|optimi(se|sing|sation)|initialis|labelled|unlabelled|grey|neighbour|behaviour|licence|centre"
    r"|analyse[sd]?\b(?! of)|artefact|favour|modelling|modelled|cancelled|judgement|catalogue|fulfil\b|travell"
    r"|differences? to\b|taken for\b|otherwise than\b|haemat)",
    re.I,
)
BRITISH = re.compile(
    r"colour|labelled|grey|centre|favour|behaviour|neighbour|normalis|initialis|optimis|analys(e|ing)\b"
)
PUBLIC = {"randaugment_colour", "synthetic_unlabelled", "neighbours", "Neighbours", "NEIGHBOURS", "fit_neighbours"}


@pytest.mark.parametrize(
    "page", [*PAGES, *(ROOT / name for name in ("CHANGELOG.md", "SECURITY.md", "tests/README.md"))], ids=name
)
def test_pages_use_the_words_of_the_field(page):
    prose = re.sub(r"```.*?```|`[^`\n]*`|https?://\S+", "", page.read_text(), flags=re.S)
    result = [match[0] for match in NOT_OURS.finditer(prose)]
    assert not result, f"{name(page)}: {result}"


def test_the_notebook_uses_the_words_of_the_field():
    cells = json.loads((ROOT / "notebooks" / "quickstart.ipynb").read_text())["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells)
    assert not [match[0] for match in NOT_OURS.finditer(text)]


def test_docstrings_and_comments_use_the_words_of_the_field():
    collected = []
    for path in itertools.chain.from_iterable(
        (ROOT / folder).rglob("*.py") for folder in ("mae_jax", "configs", "tools")
    ):
        source = path.read_text()
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        prose = [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
        prose += [(getattr(node, "lineno", 1), ast.get_docstring(node) or "") for node in nodes]
        for line, text in prose:
            text = re.sub(r"`[^`]*`", "", text)  # names
            collected += [f"{path.relative_to(ROOT)}:{line}: {match[0]}" for match in NOT_OURS.finditer(text)]
    assert not collected, collected


def prose(source: str) -> list[tuple[int, str]]:
    """(line, text) of each string with a space, outside docstrings: messages, help and printed lines."""
    tree = ast.parse(source)
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, kinds) and node.body
            if isinstance(node.body[0], ast.Expr)}  # fmt: skip
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [(n.lineno, n.value) for n in texts if id(n) not in docs and " " in n.value.strip()]


def visible(template: str) -> str:
    """What a reader sees of a Jinja template: without tags, expressions and comments, but with their line breaks."""
    hidden = re.compile(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}|<(style|script)\b.*?</\1>|<[^>]*>", re.S)
    return hidden.sub(lambda match: "\n" * match[0].count("\n"), template)


SAY_NOTHING = {"every", "found", "got", "made", "own", "said", "spread", "told", "whole"}


def test_names_say_what_they_hold():
    wrong = []
    for path in [*(ROOT / "mae_jax").rglob("*.py"), *(ROOT / "tools").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "id", None) or getattr(node, "arg", None) or getattr(node, "name", None)
            if name in SAY_NOTHING or (isinstance(node, ast.Attribute) and node.attr in SAY_NOTHING):
                wrong.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}")
    assert not wrong, f"name what it holds, such as rows, pairs, match, printed or message: {wrong}"


def test_names_are_spelled_as_the_text():
    """Names that users write in configs, and names that follow from them, keep their spelling."""
    wrong = set()
    for path in (ROOT / "mae_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "id", None) or getattr(node, "arg", None) or getattr(node, "name", None)
            if isinstance(name, str) and BRITISH.search(name.lower()) and name not in PUBLIC:
                wrong.add(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}: {name}")
        if BRITISH.search(path.stem):
            wrong.add(str(path.relative_to(ROOT)))
    assert not wrong, wrong


def test_messages_and_templates_use_the_words_of_the_field():
    collected = []
    for path in sorted(itertools.chain.from_iterable((ROOT / f).rglob("*") for f in ("mae_jax", "configs", "tools"))):
        if path.suffix == ".py":
            texts = prose(path.read_text())
        elif path.suffix == ".j2":
            texts = list(enumerate(visible(path.read_text()).splitlines(), 1))
        else:
            continue
        for line, text in texts:
            text = re.sub(r"`[^`]*`|\w+(\.\w+)+", "", text)  # names
            collected += [f"{path.relative_to(ROOT)}:{line}: {match[0]}" for match in NOT_OURS.finditer(text)]
    assert not collected, collected


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ('"""A colour."""\nprint("grey")\nx = "colour"', []),
        ('raise UserError(f"{x} is no file; the run goes on")', ["is no file", "goes on"]),
        ('parser.add_argument("--x", help="the colour of it")', ["colour"]),
    ],
)
def test_a_word_in_a_message_is_found(code, words):
    assert [match[0] for _, text in prose(code) for match in NOT_OURS.finditer(text)] == words


def test_only_the_text_of_a_template_is_read():
    text = '{# grey #}<p class="grey">{{ grey }} gray\n{% if grey %}colour{% endif %}</p><style>.grey {}</style>'
    assert [match[0] for match in NOT_OURS.finditer(visible(text))] == ["colour"]


@pytest.fixture(scope="module")
def real_study():
    """docs/real_study.py as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "docs")
        yield importlib.import_module("real_study")


def test_the_results_page_has_the_tables_of_the_real_study(real_study):
    text = (ROOT / "docs" / "results.md").read_text()
    lines = real_study.tables().splitlines()
    assert len(lines) > 15 and all(line in text for line in lines)


def test_the_kept_study_holds_no_image_weight_or_place_of_a_machine(real_study):
    with tarfile.open(real_study.ARCHIVE) as archive:
        for entry in archive:
            assert Path(entry.name).suffix in (".csv", ".json", ".jsonl") and not (entry.uid or entry.gid)
            file = archive.extractfile(entry)
            assert file is not None
            content = file.read().decode()
            assert not re.search(r"[\s\"\[,:=](/|~/)[a-z]+/", content), entry.name


@pytest.mark.slow
def test_the_kept_runs_give_the_tables_of_the_real_study(real_study, tmp_path):
    """Anyone can compute the published numbers again from every prediction."""
    study = real_study.unpack(tmp_path)
    cells = sorted((study / "cells").iterdir())
    write_report(cells, tmp_path / "report", pictures=False)
    for name in real_study.TABLES:
        with open(tmp_path / "report" / f"{name}.csv", newline="") as file:
            result = list(csv.DictReader(file))
        kept = real_study.rows(name)
        assert len(result) == len(kept) > 4
        for one, two in zip(result, kept, strict=True):
            for column, value in two.items():
                try:
                    assert float(one[column]) == pytest.approx(float(value), abs=1e-6), (name, column)
                except ValueError:
                    assert one[column] == value, (name, column)


def test_the_figure_draws_the_table(tmp_path):
    out = tmp_path / "figure.svg"
    subprocess.run([sys.executable, ROOT / "docs" / "figures.py", out], check=True)
    committed = (ROOT / "docs" / "images" / "label_efficiency.svg").read_text()
    words = ("from scratch, 1,260 updates", "MAE pre-training, 20 epochs", "Gain with 95 % interval", "2,012")
    for text in (out.read_text(), committed):
        assert all(word in text for word in words)


@pytest.mark.slow
def test_the_pages_build_without_warnings(tmp_path):
    pytest.importorskip("myst_parser", reason="the extra [docs] is not installed")
    pytest.importorskip("furo", reason="the extra [docs] is not installed")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", ROOT / "docs", tmp_path]
    built = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert built.returncode == 0, built.stderr
    fields_page = (tmp_path / "reference" / "config.html").read_text()
    assert "optim.base_lr" in fields_page and "mae.mask_ratio" in fields_page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("link", "sound"),
    [
        ("[x](other.md#a-heading)", True), ("[x](other.md#no-heading)", False), ("[x](missing.md)", False),
        ("{doc}`missing`", False), ("{ref}`missing`", False), ("[x](#here)", True), ("[x](#nowhere)", False),
    ],
)  # fmt: skip
def test_a_broken_link_between_pages_is_a_warning(link, sound, tmp_path):
    """And warnings are errors: -W."""
    pytest.importorskip("myst_parser", reason="the extra [docs] is not installed")
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "_static").mkdir()
    (pages / "index.md").write_text(f"# Here\n\n{link}\n\n```{{toctree}}\nother\n```\n")
    (pages / "other.md").write_text("# Other\n\n## A heading\n")
    options = ["-W", "-q", "-b", "dummy", "-c", ROOT / "docs"]
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, pages, tmp_path / "out"], capture_output=True, text=True, cwd=ROOT
    )
    assert (built.returncode == 0) == sound, built.stderr


def reader(top: Path, environment: dict[str, str]) -> Path:
    """Makes `top` the folder of a reader who has a checkout, has followed the tutorial, and has some more data."""
    top.mkdir()
    for folder in ("configs", "tools", "docs"):
        (top / folder).symlink_to(ROOT / folder)
    (top / "bin").mkdir()
    for command, arguments in (("mae-jax", "-m mae_jax"), ("python", "")):
        script = top / "bin" / command
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
        script.chmod(0o755)
    follow(ROOT / "docs" / "tutorial.md", top, environment)
    assert (top / "runs/cells/report/index.html").is_file()
    shutil.copytree(top / "cells/TestA", top / "clinic_b")
    files = sorted((top / "cells").rglob("*.png"))
    rows = [f"{file.relative_to(top / 'cells')},{file.parent.name},{number % 40}" for number, file in enumerate(files)]
    (top / "labels.csv").write_text("\n".join(["file,kind,donor", *rows]) + "\n")
    return top


@pytest.fixture(scope="session")
def tutorial(tmp_path_factory, quick_xla) -> Path:
    """The folder of `reader`, made once, also for several workers of pytest-xdist."""
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    top, done = place / "tutorial", place / "tutorial.done"
    with open(place / "tutorial.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(top, ignore_errors=True)
            reader(top, os.environ | {"XLA_FLAGS": quick_xla})
            done.touch()
    return top


@pytest.fixture
def workspace(tutorial, tmp_path) -> Path:
    """A copy of it, so that no page sees what another page's commands write or remove."""
    return Path(shutil.copytree(tutorial, tmp_path / "reader", symlinks=True))


def follow(page: Path, top: Path, environment: dict[str, str]) -> int:
    """Runs the blocks of a page in `top`; returns how many."""
    environment = environment | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment["PATH"] = f"{top / 'bin'}{os.pathsep}{environment['PATH']}"
    done = 0
    for block in blocks(page):
        if block.not_run:
            continue
        done += 1
        if block.language == "python":
            command = [sys.executable, "-c", block.text]
        else:
            lines = [f"{line} {shlex.join(smoke_of(line, block))}" for line in block.commands]
            command = ["bash", "-euo", "pipefail", "-c", "\n".join(lines)]
        ended = subprocess.run(command, cwd=top, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, f"{name(page)}:\n{block.text}\n{ended.stdout[-1500:]}\n{ended.stderr[-1500:]}"
    return done


RUN = [p for p in PAGES if p.name != "tutorial.md" and any(not block.not_run for block in blocks(p))]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=name)
def test_the_commands_of_a_page_run(page, workspace, environment):
    assert follow(page, workspace, environment) > 0
