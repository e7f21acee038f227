"""What mkdocs does besides: pages from outside docs/, notebooks among them, their links, links from names of pages, equations as MathML.

Pages are written for the repository: a link to `../benchmarks/results.csv` and a page called `docs/data.md` must lead somewhere there and
on the site.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[1]
MEASURED, RESULTS = "benchmarks/results.csv", "benchmarks/RESULTS.md"
OUTSIDE = ["CHANGELOG.md", "CONTRIBUTING.md", RESULTS, *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("examples/*/*.md"))]
"""Pages of the site that do not lie in docs/, under their own paths."""
NOTEBOOKS = {f"{path.relative_to(ROOT).with_suffix('.md')}": path for path in sorted(ROOT.glob("examples/notebooks/*.ipynb"))}
"""Pages of the site -> notebooks that they are made of, with the outputs that are committed."""
DOCS = {str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md")}
DEFINITION = re.compile(r'^(\[[\w-]+\]: )(\S+)( ".*")?$', re.MULTILINE)
LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)\s]+)(?=\))")
NAMED = re.compile(r"(?<!\[)`((?:docs/)?[\w/]+\.md)`(?!\])")
CODE = re.compile(r"^```.*?^```$|^(?: {4}[^\n]*\n)+", re.DOTALL | re.MULTILINE)
BLOCK_MATH = re.compile(r"^\$\$\n(.*?)\n\$\$$", re.DOTALL | re.MULTILINE)
INLINE_MATH = re.compile(r"(?<![\w$`])\$([^$`\n]+)\$(?![\w$`])")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and cited files from outside docs/."""
    for path in OUTSIDE:
        files.append(File.generated(config, path, content=(ROOT / path).read_text()))
    for path, notebook in NOTEBOOKS.items():
        text, resources = MarkdownExporter().from_filename(str(notebook), resources={"unique_key": notebook.stem})
        files.append(File.generated(config, path, content=text))
        for name, content in resources["outputs"].items():
            files.append(File.generated(config, posixpath.join(posixpath.dirname(path), name), content=content))
    pages = [*ROOT.glob("docs/**/*.md"), *(ROOT / path for path in OUTSIDE)]
    for path in sorted({cited for page in pages for cited in cited_files(page)}):
        files.append(File.generated(config, f"{path}.txt", content=(ROOT / path).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """A page as the site shows it."""
    here = page.file.src_uri
    at = here if here in (*OUTSIDE, *NOTEBOOKS) else f"docs/{here}"
    markdown = DEFINITION.sub(lambda m: m[1] + target(m[2], at, here) + (m[3] or ""), markdown)
    markdown = outside_code(markdown, lambda text: with_links(text, at, here))
    return outside_code(markdown, with_math)


def cited_files(page: Path) -> list[str]:
    """Files of the repository that a page's definitions name, but for the measurements."""
    found = [resolved(match[2], str(page.relative_to(ROOT))) for match in DEFINITION.finditer(page.read_text())]
    return [path for path in found if path and path != MEASURED and not path.endswith(".md") and (ROOT / path).is_file()]


def resolved(link: str, at: str) -> str:
    """A link of the page `at` as a path of the repository; "" for what leads elsewhere."""
    if re.match(r"[a-z]+:|#", link):
        return ""
    return posixpath.normpath(posixpath.join(posixpath.dirname(at), link.partition("#")[0]))


def target(link: str, at: str, here: str) -> str:
    """Where a link of the repository's page `at` leads on the site's page `here`."""
    path = resolved(link, at)
    if not path or (at in NOTEBOOKS and not (ROOT / path).exists()):  # leads elsewhere, or to a picture of the notebook's own
        return link
    if path == MEASURED:
        place = RESULTS
    elif path.startswith("docs/"):
        place = path.removeprefix("docs/")
    elif (page := path.removesuffix(".ipynb") + ".md") in NOTEBOOKS:
        place = page
    else:
        place = path if path in OUTSIDE else f"{path}.txt"
    anchor = link.partition("#")[2]
    return posixpath.relpath(place, posixpath.dirname(here) or ".") + (f"#{anchor}" if anchor else "")


def with_links(text: str, at: str, here: str) -> str:
    """Links as the site needs them, and links from pages that are only named."""

    def named(match: re.Match[str]) -> str:
        name = match[1]
        places = [path for path in (name, resolved(name, at), f"docs/{name}") if path in DOCS.union(OUTSIDE)]
        if not places:
            return match[0]
        return f"[{Path(name).stem}]({posixpath.relpath(places[0], posixpath.dirname(at) or '.')})"

    return LINK.sub(lambda m: target(m[1], at, here), NAMED.sub(named, text))


def with_math(text: str) -> str:
    """Equations between dollars as MathML, which browsers draw by themselves."""
    text = BLOCK_MATH.sub(lambda m: convert(m[1], display="block"), text)
    return INLINE_MATH.sub(lambda m: convert(m[1]), text)


def outside_code(text: str, change: Any) -> str:
    """Change all of a page but its blocks of code."""
    parts, end = [], 0
    for block in CODE.finditer(text):
        parts += [change(text[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, change(text[end:])])
