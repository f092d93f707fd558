"use strict";
// Every mark of a chart has a sentence as its label. The label is shown for the mark under the
// pointer or with the keyboard focus. Tab enters a chart. The arrow keys move between its marks.
const tip = document.getElementById("tip");

function show(mark) {
  tip.textContent = mark.getAttribute("aria-label");
  tip.hidden = false;
  const at = mark.getBoundingClientRect();
  const width = tip.offsetWidth, height = tip.offsetHeight;
  const left = at.left + at.width / 2 - width / 2;
  tip.style.left = Math.max(4, Math.min(left, innerWidth - width - 4)) + "px";
  tip.style.top = (at.top > height + 8 ? at.top - height - 6 : at.bottom + 6) + "px";
}

function hide() {
  tip.hidden = true;
}

// Returns the next mark in a direction, measured between the centres of the marks.
function beside(marks, mark, dx, dy) {
  const middle = (element) => {
    const box = element.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  };
  const [x, y] = middle(mark);
  let best = null, least = Infinity;
  for (const other of marks) {
    const [ox, oy] = middle(other);
    const along = (ox - x) * dx + (oy - y) * dy;
    const across = Math.abs((ox - x) * dy) + Math.abs((oy - y) * dx);
    if (along > 0.5 && along + 3 * across < least) {
      best = other;
      least = along + 3 * across;
    }
  }
  return best;
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

for (const svg of document.querySelectorAll("svg")) {
  const marks = [...svg.querySelectorAll('.role-mark [role="graphics-symbol"][aria-label]')];
  if (!marks.length) continue;
  marks.forEach((mark, index) => mark.setAttribute("tabindex", index ? "-1" : "0"));
  svg.addEventListener("pointerover", (event) => marks.includes(event.target) && show(event.target));
  svg.addEventListener("pointerout", hide);
  svg.addEventListener("focusin", (event) => {
    if (!marks.includes(event.target)) return;
    for (const mark of marks) mark.setAttribute("tabindex", mark === event.target ? "0" : "-1");
    show(event.target);
  });
  svg.addEventListener("focusout", hide);
  svg.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
    const step = ARROWS[event.key];
    if (!step || !marks.includes(event.target)) return;
    event.preventDefault();
    const next = beside(marks, event.target, ...step);
    if (next) next.focus();
  });
}

// Attention maps: the marks are ordered by layer, then by head. The mark under the pointer or with
// the keyboard focus shows its head's row over the tokens, in every arm.
function fill(box, data, layer, head) {
  const table = document.createElement("table");
  table.className = "bars";
  const arms = Object.keys(data.rows);
  const caption = table.createCaption();
  caption.textContent = "Layer " + data.layers[layer] + ", head " + head +
    ": attention from the last token to each token, before and after the edit. " +
    "The subject is in bold.";
  const top = table.createTHead().insertRow();
  for (const name of ["token", ...arms.flatMap((arm) => [arm, ""])]) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = name;
    top.append(cell);
  }
  const body = table.createTBody();
  data.tokens.forEach((token, place) => {
    const line = body.insertRow();
    const name = document.createElement("code");
    name.textContent = token;
    line.insertCell().append(name);
    if (place === data.subject) line.className = "subject";
    for (const arm of arms) {
      const value = data.rows[arm][layer][head][place] / 1000;
      const number = line.insertCell();
      number.className = "number";
      number.textContent = value.toFixed(3);
      const bar = line.insertCell();
      bar.className = "bar";
      const length = document.createElement("span");
      length.style.width = 100 * value + "%";
      bar.append(length);
    }
  });
  box.replaceChildren(table);
}

for (const part of document.querySelectorAll(".attention")) {
  const data = JSON.parse(part.querySelector('script[type="application/json"]').textContent);
  const box = part.querySelector(".row");
  const maps = [...part.querySelectorAll("svg")].map((svg) =>
    [...svg.querySelectorAll('.role-mark [role="graphics-symbol"][aria-label]')]);
  const heads = data.rows[Object.keys(data.rows)[0]][0].length;
  const choose = (index) => {
    for (const marks of maps)
      marks.forEach((mark, place) => mark.classList.toggle("chosen", place === index));
    fill(box, data, Math.floor(index / heads), index % heads);
  };
  choose(data.first[0] * heads + data.first[1]);
  for (const marks of maps)
    marks.forEach((mark, index) => {
      mark.addEventListener("pointerover", () => choose(index));
      mark.addEventListener("focus", () => choose(index));
    });
}
