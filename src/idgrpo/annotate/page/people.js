// The optional question: what became of each person in each clip. Answers stay with the pair, so that undo brings them back.

import { keyLabel } from "./keys.js";
import { $ } from "./view.js";

export const FATES = { kept: "Kept", changed: "Changed", mixed: "Mixed", missing: "Missing" };
const SIDES = { left: "Left", right: "Right" };

export class PeopleQuestion {
  constructor(keys) {
    this.keys = keys;
    this.pair = null;
    this.cells = []; // { side, place, name, row }, in the order in which keys answer them
    this.now = 0;
  }

  show(pair) {
    this.pair = pair;
    pair.people ??= { left: pair.references.map(() => null), right: pair.references.map(() => null) };
    this.cells = [];
    for (const [side, title] of Object.entries(SIDES)) {
      const rows = pair.references.map((reference, place) => this.row(side, place, `${title} clip, ${reference.person || `person ${place + 1}`}`, reference.person || `Person ${place + 1}`));
      $(`people-${side}`).replaceChildren(...rows);
    }
    $("people").hidden = false;
    this.now = 0;
    this.paint();
    document.documentElement.style.setProperty("--asked", `${$("people").offsetHeight + 28}px`); // the clips make room
  }

  row(side, place, name, text) {
    const row = document.createElement("div");
    row.className = "person";
    row.setAttribute("role", "group");
    row.setAttribute("aria-label", name);
    const label = document.createElement("span");
    label.className = "name";
    label.textContent = label.title = text;
    const cell = { side, place, name, row, index: this.cells.length };
    row.append(label, ...Object.entries(FATES).map(([fate, word]) => {
      const button = document.createElement("button");
      Object.assign(button, { type: "button", textContent: word });
      button.dataset.fate = fate;
      button.setAttribute("aria-label", `${name}: ${word.toLowerCase()}`);
      button.onclick = () => this.answer(cell, fate);
      return button;
    }));
    this.cells.push(cell);
    return row;
  }

  // One key answers the marked person and marks the next one; the same answer again takes it back.
  press(fate) {
    if (fate === "next") this.mark((this.now + 1) % this.cells.length);
    else this.answer(this.cells[this.now], fate);
  }

  answer(cell, fate) {
    const fates = this.pair.people[cell.side];
    const taken = fates[cell.place] === fate;
    fates[cell.place] = taken ? null : fate;
    this.mark(taken ? cell.index : Math.min(cell.index + 1, this.cells.length - 1));
    $("people-said").textContent = `${cell.name}: ${taken ? "no answer" : FATES[fate].toLowerCase()}`;
  }

  mark(index) {
    this.now = index;
    $("people-said").textContent = this.cells[index].name;
    this.cells[index].row.scrollIntoView({ block: "nearest" });
    this.paint();
  }

  paint() {
    for (const { side, place, row, index } of this.cells) {
      row.classList.toggle("now", index === this.now);
      row.setAttribute("aria-current", String(index === this.now));
      for (const button of row.querySelectorAll("button")) button.setAttribute("aria-pressed", String(this.pair.people[side][place] === button.dataset.fate));
    }
    for (const element of document.querySelectorAll("#people kbd[data-key]")) element.textContent = keyLabel(this.keys.codes[element.dataset.key]);
  }
}

// What a vote says of people; null where nobody was answered for.
export const answersOf = (pair) => (pair.people && Object.values(pair.people).flat().some(Boolean) ? pair.people : null);
