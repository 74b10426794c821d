"""What `mkdocs build` adds to the files of docs.

The interactive page, the tutorial, and files outside docs that a page links to; formulas as MathML,
which browsers show without a script; docstrings' examples as code.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import griffe
import nbconvert
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from torch_fullconv.explanation import Shape, explain

ROOT = Path(__file__).parent.parent
OUTSIDE = re.compile(r"\]\(\.\./((?!docs/)[\w./-]+)(?<!\.ipynb)\)")
LINKS = {"](../examples/tutorial.ipynb": "](tutorial.md", "](../docs/": "](", "](../": "]("}
EXAMPLE = re.compile(r"^>>> .*?(?=\n\n|\Z)", re.DOTALL | re.MULTILINE)
FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    page = explain(Shape((5, 5), (3, 3), stride=2, padding=1)).html()
    files.append(File.generated(config, "interactive.html", content=page))
    tutorial = ROOT / "examples/tutorial.ipynb"
    text, resources = nbconvert.MarkdownExporter().from_filename(str(tutorial))
    files.append(File.generated(config, "tutorial.md", content=text))
    for name, picture in resources["outputs"].items():
        files.append(File.generated(config, name, content=picture))
    texts = [file.content_string for file in files.documentation_pages()]
    for path in {path for text in texts for path in OUTSIDE.findall(text)}:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links out of docs lead to what `on_files` has put there."""
    for start, there in LINKS.items():
        markdown = markdown.replace(start, there)
    return markdown


def on_page_content(content: str, **_: Any) -> str:
    def mathml(formula: re.Match[str]) -> str:
        display = "block" if formula["tag"] == "div" else "inline"
        latex = html.unescape(formula["latex"]).replace("{aligned}", "{split}")  # what it knows
        mathml: str = convert(latex, display=display)
        return mathml

    return FORMULA.sub(mathml, content)


class Examples(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(r"```python\n\g<0>\n```", obj.docstring.value)
