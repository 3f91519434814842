"""The documents: generated pages are up to date, links lead somewhere, Python blocks are true."""

import ast
import importlib.util
import inspect
import re
from pathlib import Path

import pytest

import vq4dit

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
_PYTHON = re.compile(r"(?m)^```python\n(.*?)^```", re.DOTALL)


def _generate():
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATE = _generate()


@pytest.mark.parametrize("name", sorted(GENERATE.PAGES))
def test_generated_pages_are_up_to_date(name):
    written = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert written == GENERATE.PAGES[name](), "run: python docs/generate.py"


def test_every_public_name_is_in_the_reference():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for name in vq4dit.__all__:
        value = getattr(vq4dit, name)  # the lazy names exist
        assert name == "__version__" or f"### {value.__module__}.{name}\n" in page


def test_every_argument_of_the_reference_is_explained():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    call = page.split("#### Pipeline.__call__")[1].split("####")[0]
    for name in list(inspect.signature(vq4dit.Pipeline.__call__).parameters)[1:]:
        assert f"- `{name}`: " in call


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target, _ in _LINK.findall(path.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_index_names_every_document():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for path in DOCUMENTS[1:]:
        assert path.name == "README.md" or f"({path.name})" in index


def _calls():
    """Calls of the public API in the documents' Python blocks that are no generated signatures."""
    for path in DOCUMENTS:
        if path.name in GENERATE.PAGES:
            continue
        for block in _PYTHON.findall(path.read_text(encoding="utf-8")):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.Call):
                    yield path.name, node


def _signature(node):
    function = node.func
    if isinstance(function, ast.Name):
        if function.id == "pipeline":
            return inspect.signature(vq4dit.Pipeline.__call__), 1
        if function.id == "Pipeline":
            return inspect.signature(vq4dit.Pipeline.__init__), 1
        if function.id in vq4dit.__all__:
            return inspect.signature(getattr(vq4dit, function.id)), 0
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        if function.value.id == "pipeline":
            return inspect.signature(getattr(vq4dit.Pipeline, function.attr)), 1
    return None, 0


def test_python_blocks_call_what_exists():
    checked = 0
    for name, node in _calls():
        signature, bound = _signature(node)
        if signature is None:
            continue
        checked += 1
        keywords = {k.arg: None for k in node.keywords if k.arg is not None}
        starred = any(k.arg is None for k in node.keywords)
        values = [None] * (bound + len(node.args))
        bind = signature.bind_partial if starred else signature.bind
        try:
            bind(*values, **keywords)
        except TypeError as error:
            pytest.fail(f"{name}: {ast.unparse(node)}: {error}")
    assert checked >= 5
