"""A page in a real browser (chromium, headless): where everything lies at given widths, and what is wrong with that."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LIMIT = 120
"""Seconds for one call of the browser."""

MEASURE = """
const slack = 1.5;
function rect(element) { const r = element.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; }
function inside(a, b) { return a[0] >= b[0] - slack && a[1] >= b[1] - slack && a[2] <= b[2] + slack && a[3] <= b[3] + slack; }
function meet(a, b) { return Math.min(a[2], b[2]) - Math.max(a[0], b[0]) > slack && Math.min(a[3], b[3]) - Math.max(a[1], b[1]) > slack; }
function measure(frame) {
  const page = frame.contentDocument, faults = [], root = page.documentElement, width = frame.clientWidth;
  const counts = {texts: 0, pictures: 0, boxes: 0};
  page.querySelectorAll("details").forEach(each => each.open = true);
  if (root.scrollWidth > width) faults.push("the page is " + root.scrollWidth + " wide");
  for (const picture of page.querySelectorAll("svg")) {
    counts.pictures++;
    const name = (picture.getAttribute("aria-label") || "").slice(0, 60), whole = rect(picture), seen = [];
    if (picture.getAttribute("role") != "img" || !name) faults.push("a picture without a name");
    if (whole[2] - whole[0] < 100 || whole[3] - whole[1] < 60) faults.push(name + ": too small to see");
    for (const text of picture.querySelectorAll("text")) {
      if (!text.textContent.trim()) continue;
      counts.texts++;
      const here = rect(text), what = name + ": " + text.textContent;
      if (!inside(here, whole)) faults.push(what + ": clipped");
      const size = parseFloat(frame.contentWindow.getComputedStyle(text).fontSize) * picture.getScreenCTM().a;
      if (size < 8.5) faults.push(what + ": " + size.toFixed(1) + " px");
      for (const [other, told] of seen) if (meet(here, other)) faults.push(what + " lies on " + told);
      seen.push([here, text.textContent]);
    }
  }
  const blocks = "h1, h2, h3, p, li, td, th, figure, figcaption, summary, section, div.scroll";
  for (const box of page.querySelectorAll(blocks)) {
    counts.boxes++;
    const here = rect(box), what = box.tagName + " " + box.textContent.trim().slice(0, 40);
    if (here[2] - here[0] == 0) continue;
    const scrolled = box.closest(".scroll");
    if (scrolled !== null && scrolled !== box) {
      const style = frame.contentWindow.getComputedStyle(box);
      if (box.matches("td, th") && box.scrollWidth > box.clientWidth + slack) faults.push(what + ": wider than its cell");
      if (parseFloat(style.fontSize) < 11) faults.push(what + ": " + style.fontSize);
    } else {
      if (here[0] < -slack || here[2] > width + slack) faults.push(what + ": outside of the page");
      if (box !== scrolled && box.scrollWidth > box.clientWidth + slack && box.clientWidth) faults.push(what + ": its content is wider");
    }
  }
  for (const group of page.querySelectorAll(".charts, .gallery, .legend, .row, main")) {
    const children = [...group.children].map(child => [rect(child), child.textContent.trim().slice(0, 30)]);
    children.forEach(([a, first], i) => children.slice(i + 1).forEach(([b, second]) => {
      if (meet(a, b)) faults.push(first + " lies on " + second);
    }));
  }
  return {width: width, faults: faults, counts: counts, dark: frame.contentWindow.getComputedStyle(page.body).backgroundColor};
}
window.onload = () => {
  const found = [...document.querySelectorAll("iframe")].map(measure);
  const result = document.createElement("pre");
  result.id = "measured";
  result.textContent = JSON.stringify(found);
  document.body.replaceChildren(result);
};
"""


def measured(page: str, folder: Path, widths: tuple[int, ...] = (340, 390, 1280)) -> list[dict]:
    """For each width: "faults", sentences, and "counts" of what was looked at.

    The browser's own window has a least width, so that the page stands in frames; each is as a window to it.
    """
    frames = "".join(f'<iframe style="border:0;width:{w}px;height:900px" srcdoc="{html.escape(page)}"></iframe>' for w in widths)
    outer = folder / "measure.html"
    outer.write_text(f"<!DOCTYPE html><meta charset=utf-8><body>{frames}<script>{MEASURE}</script></body>", errors="replace")
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000"]
    done = subprocess.run([*command, "--dump-dom", outer.resolve().as_uri()], capture_output=True, text=True, timeout=LIMIT, check=True)
    found = re.search(r'<pre id="measured">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert found, f"the browser measured nothing: {done.stderr[-500:]}"
    return json.loads(html.unescape(found[1]))
