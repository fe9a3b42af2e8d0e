// Sortable tables, and values under the pointer. The pages work without it.
"use strict";
const all = (what, root = document) => [...root.querySelectorAll(what)];

// A click on a heading sorts its column; a second one reverses the order. Empty cells come first in ascending order.
const key = (cell) => (cell.dataset.v === undefined ? cell.textContent : cell.dataset.v === "" ? -Infinity : +cell.dataset.v);
for (const button of all("th button")) {
  button.onclick = () => {
    const heading = button.parentNode;
    const body = heading.closest("table").tBodies[0];
    const up = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const order = (a, b) => (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a < b ? -1 : +(a > b));
    const rows = [...body.rows].map((row) => [key(row.cells[heading.cellIndex]), row]);
    rows.sort(([a], [b]) => (up ? order(a, b) : order(b, a)));
    body.append(...rows.map(([, row]) => row));
  };
}

for (const button of all(".open")) {
  button.onclick = () => all(".over details").forEach((part) => (part.open = button.dataset.open === "1"));
}
for (const link of all("a[href^='#s']")) {
  link.addEventListener("click", () => (document.querySelector(link.getAttribute("href")).open = true));
}

// The path is the data: "M0 120l1-3 1 12", x the frame, y thousandths below 1.
function values(path) {
  if (path.values) return path.values;
  path.values = new Map();
  let x = 0, y = 0, absolute = false, second = false;
  for (const word of path.getAttribute("d").match(/[Ml]|-?\d+/g) || []) {
    if (word === "M" || word === "l") absolute = word === "M";
    else {
      if (!second) x = +word + (absolute ? 0 : x);
      else path.values.set(x, (y = +word + (absolute ? 0 : y)));
      second = !second;
    }
  }
  return path.values;
}

for (const part of all(".over details")) {
  const charts = all("svg.curve", part);
  const buttons = all(".legend button", part);
  let names = null;
  let pinned = null;
  const show = (object) => {
    for (const chart of charts) {
      chart.classList.toggle("dim", object !== null);
      all("path", chart).forEach((path) => path.classList.toggle("on", path.dataset.o === object));
    }
  };
  for (const button of buttons) {
    button.onmouseenter = () => show(button.dataset.o);
    button.onmouseleave = () => show(pinned);
    button.onclick = () => {
      pinned = pinned === button.dataset.o ? null : button.dataset.o;
      buttons.forEach((other) => other.setAttribute("aria-pressed", other.dataset.o === pinned));
      show(pinned);
    };
  }
  for (const chart of charts) {
    const tip = document.createElement("div");
    tip.className = "tip";
    tip.hidden = true;
    chart.parentNode.append(tip);
    const cursor = document.createElementNS(chart.namespaceURI, "line");
    cursor.setAttribute("class", "cursor");
    cursor.setAttribute("y1", 0);
    cursor.setAttribute("y2", 1000);
    const paths = all("path", chart);
    const leave = () => {
      tip.hidden = true;
      cursor.remove();
      show(pinned);
    };
    chart.onpointerleave = leave;
    chart.onpointermove = (event) => {
      names = names || JSON.parse(part.dataset.names);
      const box = chart.getBoundingClientRect();
      const last = Math.max(1, names.length - 1);
      const x = Math.min(names.length - 1, Math.max(0, Math.round(((event.clientX - box.left) / box.width) * last)));
      const y = ((event.clientY - box.top) / box.height) * 1000;
      // The nearest frame of a curve, then the nearest curve.
      let best = null;
      for (const path of paths) {
        if (pinned !== null && path.dataset.o !== pinned) continue;
        const found = values(path);
        for (let off = 0; off < 20; off++) {
          const at = found.has(x - off) ? x - off : found.has(x + off) ? x + off : null;
          if (at === null) continue;
          const far = Math.abs(found.get(at) - y) + 10000 * off;
          if (!best || far < best.far) best = { far, at, y: found.get(at), object: path.dataset.o };
          break;
        }
      }
      if (!best) return leave();
      show(best.object);
      cursor.setAttribute("x1", best.at);
      cursor.setAttribute("x2", best.at);
      chart.append(cursor);
      tip.textContent = `${names[best.at]} · object ${best.object} · ${chart.dataset.m} ${((1000 - best.y) / 10).toFixed(1)}`;
      tip.hidden = false;
      const left = (best.at / last) * box.width + 12;
      tip.style.left = `${Math.min(left, Math.max(0, box.width - tip.offsetWidth))}px`;
      tip.style.top = `${Math.max(0, (best.y / 1000) * box.height - 32)}px`;
    };
  }
}
