// Tables are sorted by a click, or by Enter, on the heading of a column; a third one restores the order of the page.
// A cell is ordered by its data-key, or by what it says: by its first number, if all cells of the column begin with one.
(() => {
  "use strict";
  const order = new Intl.Collator(undefined, {numeric: true});
  const number = text => {
    const found = /^[+-]?(\d[\d,]*)(\.\d+)?(e[+-]?\d+)?/i.exec(text.replace(/\u2212/g, "-").trim());
    return found ? parseFloat(found[0].replace(/,/g, "")) : NaN;
  };
  const key = (row, column) => row.cells[column].dataset.key ?? row.cells[column].textContent.trim();
  const empty = text => text === "" || text === "–";

  function sort(table, head, way) {
    const body = table.tBodies[0], column = head.cellIndex;
    const rows = [...body.rows].sort((a, b) => a.dataset.place - b.dataset.place);
    if (way) {
      const texts = rows.map(row => key(row, column)).filter(text => !empty(text));
      const numeric = texts.every(text => !Number.isNaN(number(text)));
      const compare = numeric ? (a, b) => number(a) - number(b) : order.compare;
      rows.sort((a, b) => {
        const [x, y] = [key(a, column), key(b, column)];
        if (empty(x) || empty(y)) return empty(x) - empty(y); // at the end, whichever way
        return way === "ascending" ? compare(x, y) : compare(y, x);
      });
    }
    body.append(...rows);
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tBodies[0].rows].forEach((row, place) => { row.dataset.place = place; });
    const heads = [...table.tHead.rows[0].cells];
    for (const head of heads) {
      const button = document.createElement("button");
      button.type = "button";
      button.title = "sort by this column";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        // What is largest is what people look for first in a column of numbers.
        const ways = head.classList.contains("number") ? ["descending", "ascending", ""] : ["ascending", "descending", ""];
        const way = ways[(ways.indexOf(head.getAttribute("aria-sort") ?? "") + 1) % 3];
        for (const other of heads) other.removeAttribute("aria-sort");
        if (way) head.setAttribute("aria-sort", way);
        sort(table, head, way);
      });
    }
  }

  // What is wider than its place says so, and can be scrolled from the keyboard.
  function mark() {
    for (const box of document.querySelectorAll(".scroll")) {
      const wide = box.scrollWidth > box.clientWidth + 1, long = box.scrollHeight > box.clientHeight + 1;
      const hint = box.previousElementSibling?.classList.contains("hint") ? box.previousElementSibling : null;
      if (wide && !hint) {
        const said = document.createElement("p");
        said.className = "hint";
        said.textContent = "scroll sideways for more";
        box.before(said);
      } else if (!wide && hint) hint.remove();
      if (wide || long) {
        box.tabIndex = 0;
        box.setAttribute("role", "group");
        box.setAttribute("aria-label", "scrolls");
      } else for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
    }
  }
  mark();
  addEventListener("load", mark);
  addEventListener("resize", mark);
})();
