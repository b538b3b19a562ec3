"""Draws docs/pictures/NAME.svg from docs/pictures/NAME.txt: `make pictures`. Standard library only.

A picture is one instruction per line; everything after `|` is text, in which ` / ` begins a new line:

    size WIDTH HEIGHT | what the picture shows, for readers who cannot see it
    box NAME X Y WIDTH HEIGHT COLOUR | text            X and Y are the upper left corner
    row NAME X Y WIDTH HEIGHT GAP COLOUR | text | ...  boxes NAME1, NAME2, ... from left to right
    frame X Y WIDTH HEIGHT | heading                   a dashed border around other things
    text X Y STYLE | text                              STYLE: note, heading, code or label
    arrow FROM.SIDE TO.SIDE | text                     between boxes; SIDE: top, bottom, left or right
    entry DEPTH COLOUR | name | text                   a line of a directory tree, below the entry before it
"""

import sys
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

PICTURES = Path(__file__).parent / "pictures"
COLOURS = {
    "plain": ("#ffffff", "#57606a"),
    "blue": ("#ddf4ff", "#0969da"),
    "green": ("#dafbe1", "#1a7f37"),
    "amber": ("#fff8c5", "#9a6700"),
    "red": ("#ffebe9", "#cf222e"),
    "violet": ("#fbefff", "#8250df"),
    "grey": ("#eaeef2", "#57606a"),
}
LETTERS = {"note": 6.9, "heading": 8.1, "code": 8.0, "label": 6.3}  # mean width, in pixels
STYLES = {
    "note": 'font-size="13" fill="#57606a"',
    "heading": 'font-size="15" font-weight="bold" fill="#1f2328"',
    "code": 'font-size="13" font-family="monospace" fill="#1f2328"',
    "label": 'font-size="12" fill="#1f2328" text-anchor="middle"',
}
LINE_HEIGHT = 17
ENTRY_HEIGHT, ENTRY_INDENT, ENTRY_NOTE = 25, 26, 330
HEAD = """<marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" \
orient="auto-start-reverse"><path d="M0 0 L10 5 L0 10 z" fill="#57606a"/></marker>"""


@dataclass(frozen=True)
class Box:
    """A rectangle; `side` gives the middle of one of its sides."""

    x: float
    y: float
    width: float
    height: float

    def side(self, name: str) -> tuple[float, float]:
        middle_x, middle_y = self.x + self.width / 2, self.y + self.height / 2
        return {
            "top": (middle_x, self.y),
            "bottom": (middle_x, self.y + self.height),
            "left": (self.x, middle_y),
            "right": (self.x + self.width, middle_y),
        }[name]


@dataclass
class Picture:
    """The SVG elements drawn so far. Each instruction of a description is the method of that name."""

    elements: list[str] = field(default_factory=list)
    boxes: dict[str, Box] = field(default_factory=dict)
    width: float = 0
    height: float = 0
    description: str = ""
    entries: int = 0

    def size(self, width: str, height: str, text: str) -> None:
        self.width, self.height, self.description = float(width), float(height), text

    def box(self, name: str, x: str, y: str, width: str, height: str, colour: str, text: str) -> None:
        box = self.boxes[name] = Box(float(x), float(y), float(width), float(height))
        self._must_fit(box.x + box.width, box.y + box.height, name)
        fill, stroke = COLOURS[colour]
        self.elements.append(
            f'<rect x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" rx="5" fill="{fill}" '
            f'stroke="{stroke}"/>'
        )
        lines = text.split(" / ") if text else []
        assert all(LETTERS["label"] * len(line) <= box.width for line in lines), f"{name} is too narrow for {text!r}"
        assert LINE_HEIGHT * len(lines) <= box.height, f"{name} is too low for {text!r}"
        first = box.y + box.height / 2 - LINE_HEIGHT * (len(lines) - 1) / 2 + 4.5
        for number, line in enumerate(lines):
            self._line(box.x + box.width / 2, first + LINE_HEIGHT * number, "label", line)

    def row(self, name: str, x: str, y: str, width: str, height: str, gap: str, colour: str, text: str) -> None:
        for number, part in enumerate(text.split(" | ")):
            left = float(x) + number * (float(width) + float(gap))
            self.box(f"{name}{number + 1}", str(left), y, width, height, colour, part.strip())

    def frame(self, x: str, y: str, width: str, height: str, text: str) -> None:
        self.elements.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="none" stroke="#8c959f" '
            'stroke-dasharray="5 4"/>'
        )
        self._line(float(x) + 10, float(y) + 19, "heading", text)

    def text(self, x: str, y: str, style: str, text: str) -> None:
        for number, line in enumerate(text.split(" / ")):
            self._line(float(x), float(y) + LINE_HEIGHT * number, style, line)

    def arrow(self, start: str, end: str, text: str) -> None:
        (name, side), (other, other_side) = start.split("."), end.split(".")
        (x, y), (to_x, to_y) = self.boxes[name].side(side), self.boxes[other].side(other_side)
        if side in ("left", "right") and other_side in ("left", "right"):
            bend_x = (x + to_x) / 2
            corners, label = [(bend_x, y), (bend_x, to_y)], (bend_x, min(y, to_y) - 6)
        elif side in ("top", "bottom") and other_side in ("top", "bottom"):
            bend_y = (y + to_y) / 2
            corners, label = [(x, bend_y), (to_x, bend_y)], ((x + to_x) / 2, bend_y - 6)
        else:
            corner = (to_x, y) if side in ("left", "right") else (x, to_y)
            corners, label = [corner], ((x + to_x) / 2, corner[1] - 6)
        points = " ".join(f"{px:g},{py:g}" for px, py in [(x, y), *corners, (to_x, to_y)])
        self.elements.append(
            f'<polyline points="{points}" fill="none" stroke="#57606a" stroke-width="1.4" marker-end="url(#head)"/>'
        )
        if text:
            self.text(f"{label[0]:g}", f"{label[1] - LINE_HEIGHT * text.count(' / '):g}", "label", text)

    def entry(self, depth: str, colour: str, text: str) -> None:
        name, note = text.split(" | ")
        left, middle = 20 + ENTRY_INDENT * int(depth), 40 + ENTRY_HEIGHT * self.entries
        self.entries += 1
        self.elements.append(f'<circle cx="{left}" cy="{middle - 4}" r="5" fill="{COLOURS[colour][1]}"/>')
        self._line(left + 12, middle, "code", name)
        self._line(ENTRY_NOTE, middle, "note", note)

    def _line(self, x: float, y: float, style: str, text: str) -> None:
        self._must_fit(x + LETTERS[style] * len(text) / (2 if style == "label" else 1), y, text)
        self.elements.append(f'<text x="{x:g}" y="{y:g}" {STYLES[style]}>{escape(text, quote=False)}</text>')

    def _must_fit(self, right: float, bottom: float, what: str) -> None:
        assert right <= self.width, f"{what!r} leaves the picture on the right"
        assert bottom <= self.height, f"{what!r} leaves the picture at the bottom"

    def svg(self) -> str:
        """The finished file."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} {self.height:g}" '
            f'width="{self.width:g}" role="img" font-family="Helvetica, Arial, sans-serif">'
        )
        ground = f'<rect width="{self.width:g}" height="{self.height:g}" fill="#ffffff"/>'
        title = f"<title>{escape(self.description, quote=False)}</title>"
        return "\n".join([head, title, f"<defs>{HEAD}</defs>", ground, *self.elements, "</svg>", ""])


def draw(description: str) -> str:
    """The SVG of a description. Raises AssertionError, KeyError or TypeError if that cannot be drawn."""
    picture = Picture()
    for line in description.splitlines():
        if line.strip() and not line.startswith("#"):
            instruction, _, text = line.partition("|")
            name, *arguments = instruction.split()
            getattr(picture, name)(*arguments, text.strip())
    return picture.svg()


def main() -> None:
    for path in sorted(PICTURES.glob("*.txt")):
        try:
            path.with_suffix(".svg").write_text(draw(path.read_text()))
        except Exception as error:
            sys.exit(f"{path}: {error!r}")


if __name__ == "__main__":
    main()
